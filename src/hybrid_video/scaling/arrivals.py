"""How jobs have been coming: an exponentially weighted rate, and how far it can be believed. Pure; no clock of its own.

Times are the caller's monotonic seconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

WINDOW_S = 900.0
"""Shortest window of the rate."""

WINDOW_JOBS = 20.0
"""The window is at least so many service times of the own GPU."""


@dataclass(frozen=True)
class Arrivals:
    """The rate as it stands.

    Args:
        per_s: jobs per second.
        events: separate arrivals that speak for it, the older the less: a batch of a thousand is one.
        batch: mean jobs that come at once, as a job sees it (larger batches count by their size).
        window_s: the window it was taken over.
    """

    per_s: float = 0.0
    events: float = 0.0
    batch: float = 1.0
    window_s: float = WINDOW_S


NO_ARRIVALS = Arrivals()


def window_s(local_service_s: float) -> float:
    """The window of the rate for a service time: the longer the jobs, the slower anything can be learned."""
    return max(WINDOW_S, WINDOW_JOBS * local_service_s)


@dataclass
class ArrivalRate:
    """Learns the rate from arrivals as they are seen.

    Args:
        window_s: time constant; what is older than three of it hardly counts.
    """

    window_s: float = WINDOW_S
    _jobs: float = field(default=0.0, init=False)
    _events: float = field(default=0.0, init=False)
    _squares: float = field(default=0.0, init=False)
    _at_s: float | None = field(default=None, init=False)
    _since_s: float | None = field(default=None, init=False)

    def observe(self, jobs: int, at_s: float) -> None:
        """So many jobs came at once; 0 only lets time pass."""
        self._forget(at_s)
        if jobs > 0:
            self._jobs += jobs
            self._events += 1
            self._squares += jobs * jobs

    def at(self, at_s: float) -> Arrivals:
        """The rate at a time, without changing it."""
        kept = self._kept(at_s)
        span_s = self._span_s(at_s)
        if span_s <= 0 or self._jobs <= 0:
            return Arrivals(window_s=self.window_s)
        return Arrivals(
            per_s=self._jobs * kept / span_s,
            events=self._events * kept,
            batch=self._squares / self._jobs,
            window_s=self.window_s,
        )

    def _forget(self, at_s: float) -> None:
        kept = self._kept(at_s)
        self._jobs *= kept
        self._events *= kept
        self._squares *= kept
        self._at_s = at_s if self._at_s is None else max(at_s, self._at_s)
        self._since_s = at_s if self._since_s is None else self._since_s

    def _kept(self, at_s: float) -> float:
        if self._at_s is None:
            return 1.0
        return math.exp(-max(0.0, at_s - self._at_s) / self.window_s)

    def _span_s(self, at_s: float) -> float:
        """Effective seconds watched: the window, less what lies before the first look; never under a fifth of it."""
        if self._since_s is None:
            return 0.0
        watched = 1 - math.exp(-max(0.0, at_s - self._since_s) / self.window_s)
        return self.window_s * max(0.2, watched)
