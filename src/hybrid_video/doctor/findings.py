"""What the doctor says: one thing looked at, how it is, and what to do."""

from __future__ import annotations

from typing import Literal

from hybrid_video.models import Model

Level = Literal["ok", "warning", "error", "off"]


class Finding(Model):
    """One thing looked at. `level` off means: not configured, and that is fine."""

    subject: str
    level: Level
    detail: str
    remedy: str = ""
