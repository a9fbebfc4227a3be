"""How much one caller may ask: token buckets, and the size of a request."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

MOST_CALLERS = 10_000


@dataclass
class Bucket:
    """Tokens left, and when they were counted (monotonic seconds)."""

    tokens: float
    at_s: float


@dataclass(frozen=True)
class Allowance:
    """The answer for one request."""

    granted: bool
    limit: int
    remaining: int
    reset_s: int
    """Seconds until the whole allowance is there again."""
    retry_s: int
    """Seconds until one request is allowed."""

    @property
    def headers(self) -> dict[str, str]:
        """RateLimit fields, and Retry-After where it was refused."""
        told = {
            "RateLimit-Limit": str(self.limit),
            "RateLimit-Remaining": str(self.remaining),
            "RateLimit-Reset": str(self.reset_s),
        }
        return told if self.granted else told | {"Retry-After": str(self.retry_s)}


class RateLimit:
    """So many requests a minute for each caller, with bursts up to a minute's worth. For one event loop."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = per_minute
        self._rate = per_minute / 60
        self._clock = clock
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def take(self, caller: str) -> Allowance:
        """Counts one request."""
        now = self._clock()
        bucket = self._buckets.pop(caller, None) or Bucket(float(self._limit), now)
        bucket.tokens = min(float(self._limit), bucket.tokens + (now - bucket.at_s) * self._rate)
        bucket.at_s = now
        granted = bucket.tokens >= 1
        if granted:
            bucket.tokens -= 1
        self._buckets[caller] = bucket  # the newest last: whoever was silent longest is forgotten first
        while len(self._buckets) > MOST_CALLERS:
            self._buckets.popitem(last=False)
        return Allowance(
            granted,
            self._limit,
            int(bucket.tokens),
            math.ceil((self._limit - bucket.tokens) / self._rate),
            max(1, math.ceil((1 - bucket.tokens) / self._rate)),
        )
