"""What a running batch tells whoever watches it: a progress bar, a Prefect artifact, a log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from hybrid_video.models import Model, Usd

EventKind = Literal["plan", "notice", "started", "progress", "done", "retry", "failed", "cancelled", "uncertain"]


class Event(Model):
    """One thing that happened. `finished` and `total` count jobs; `spent_usd` is the batch's settled money."""

    kind: EventKind
    message: str
    job: str = ""
    backend: str = ""
    attempt: int = 0
    progress: float | None = None
    finished: int = 0
    failed: int = 0
    total: int = 0
    spent_usd: Usd | None = None


Observer = Callable[[Event], None]
