"""What `ledger verify` has to say."""

from __future__ import annotations

from typing import Literal

from hybrid_video.models import Model


class Finding(Model):
    """One contradiction, or one thing a person should know."""

    kind: Literal["balance", "orphan", "duplicate", "missing_clip", "uncertain", "cap", "pod", "bill", "gap"]
    subject: str
    message: str
    serious: bool = True
