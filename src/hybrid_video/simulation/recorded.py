"""A backend as a past batch met it: what happened there happens again, and what did not is drawn from what was seen.

Luck belongs to the job, the backend and the number of the try, not to the moment: two replays under different goals
differ by the goal alone.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from hybrid_video.simulation.world import BURNED, Job, Site


@dataclass(frozen=True)
class Told:
    """What the router was told of a job on one backend: warm seconds, and billionths of a dollar."""

    seconds: float
    nano: int


@dataclass(frozen=True)
class Seen:
    """One attempt that was really made: its seconds, whether a clip came of it, and its bill; None where unknown."""

    seconds: float
    done: bool
    nano: int | None


@dataclass(frozen=True)
class RecordedSite(Site):
    """A backend with the quotes and attempts of single jobs.

    Args:
        told: by job; a job that is not in it cannot be made here.
        seen: by job, in the order they were made.
        pace: how many times its quoted seconds a clip took on average.
        burned: how many times its quoted seconds a failed attempt took on average.
        by_time: seconds are billed, also those of a failure.
        luck: number of the draw for what was not seen.
    """

    told: Mapping[str, Told] = field(default_factory=dict)
    seen: Mapping[str, tuple[Seen, ...]] = field(default_factory=dict)
    pace: float = 1.0
    burned: float = BURNED
    by_time: bool = False
    luck: int = 0
    _tries: dict[str, int] = field(default_factory=dict, compare=False)

    def again(self, luck: int) -> RecordedSite:
        """The same backend for another run of the batch."""
        return replace(self, luck=luck, _tries={})

    def takes(self, job: Job) -> bool:
        """Whether it could make the job."""
        return job.id in self.told

    def told_s(self, job: Job) -> float:
        """The quoted time."""
        return self.told[job.id].seconds

    def told_nano(self, job: Job) -> int:
        """The quoted price."""
        return self.told[job.id].nano

    def reserved_nano(self, job: Job) -> int:
        """The quoted price; what a budget leaves beyond it is the spend gate's, which is not part of a replay."""
        return self.told[job.id].nano

    def attempt(self, job: Job, rng: random.Random) -> tuple[float, bool]:
        """What happened, if it did; else a draw of its own."""
        number = self._tries.get(job.id, 0)
        self._tries[job.id] = number + 1
        seen = self.seen.get(job.id, ())
        if number < len(seen):
            return seen[number].seconds, seen[number].done
        rng = random.Random(f"{self.luck} {self.key} {job.id} {number}")  # noqa: S311 - a simulation
        told_s = self.told[job.id].seconds
        if self.failure and rng.random() < self.failure:
            return self.burned * told_s, False
        seconds = told_s * self.pace
        if self.cv:
            sigma2 = math.log(1 + self.cv**2)
            seconds *= rng.lognormvariate(-sigma2 / 2, math.sqrt(sigma2))
        return seconds, True

    def billed_nano(self, job: Job, seconds: float, *, succeeds: bool) -> int:
        """The bill there was, or what such an attempt costs at the quoted price."""
        seen, number = self.seen.get(job.id, ()), self._tries[job.id] - 1
        if number < len(seen) and (nano := seen[number].nano) is not None:
            return nano
        told = self.told[job.id]
        if self.by_time:
            return round(told.nano * seconds / told.seconds)
        return told.nano if succeeds else 0
