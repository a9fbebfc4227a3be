"""Circuit breaker of one backend: three failures in a row, or a fatal one, and it is left alone for a while.

It opens for 30 s times the number of openings in a row, at most 300 s, then lets one trial job through. Only a success
closes it; a passing health check does not. Jobs that were under way when it opened and fail too tell nothing new.
Times are monotonic seconds given by the caller.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

FAILURES_TO_OPEN = 3
OPEN_S = 30.0
LONGEST_OPEN_S = 300.0


@dataclass
class Breaker:
    """State of one breaker."""

    failures: int = 0
    openings: int = 0
    open_until_s: float | None = None
    trial: bool = False

    def state(self, now_s: float) -> str:
        """closed, open or half-open."""
        if self.open_until_s is None:
            return "closed"
        return "open" if now_s < self.open_until_s else "half-open"

    def permits(self, now_s: float) -> bool:
        """Whether another job may be sent now; in half-open only one at a time."""
        state = self.state(now_s)
        return state == "closed" or (state == "half-open" and not self.trial)

    def rested_s(self, now_s: float) -> float:
        """For how long it has been left alone; infinite once one rest was not enough."""
        if self.open_until_s is None:
            return 0.0
        return math.inf if self.openings > 1 else max(0.0, now_s - (self.open_until_s - OPEN_S))

    def started(self, now_s: float) -> None:
        """A job was sent."""
        if self.state(now_s) == "half-open":
            self.trial = True

    def succeeded(self) -> None:
        """A job came back."""
        self.failures, self.openings, self.open_until_s, self.trial = 0, 0, None, False

    def failed(self, now_s: float, *, fatal: bool) -> None:
        """A job failed through the backend's fault."""
        if self.state(now_s) == "open":
            return
        self.failures += 1
        if fatal or self.trial or self.failures >= FAILURES_TO_OPEN:
            self.openings += 1
            self.open_until_s = now_s + min(OPEN_S * self.openings, LONGEST_OPEN_S)
            self.failures = 0
        self.trial = False

    def abandoned(self) -> None:
        """The trial ended without telling anything about the backend (the job itself was at fault)."""
        self.trial = False
