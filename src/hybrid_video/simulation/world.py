"""What is simulated: sites that make clips, the jobs, and what goes wrong. Frozen values and nothing else."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from hybrid_video.models import OutputSpec, Quote, Tier

NANO = 1_000_000_000
BURNED = 0.6
"""Share of a clip's time that a failed attempt takes (assumed)."""

OUTPUT = OutputSpec(width=832, height=480, fps=16, frames=80)
TIERS = {tier.value: tier for tier in Tier}


@dataclass(frozen=True)
class Site:
    """One backend as it really is, and what is believed of it.

    Args:
        key: its name; a tier's name, or anything else for a cloud site.
        slots: how many clips it makes at once.
        service_s: true mean seconds for a clip of size 1.
        price_usd: dollars for a clip of size 1.
        cv: coefficient of variation of the lognormal times; 0 makes them certain.
        failure: share of attempts that fail.
        per_clip: the price does not grow with the size, and a failed attempt is free.
        believed: how many times the true service time the quotes say.
        load_s: seconds to load another model than the one loaded.
        start_s: seconds that a slot starts before its first clip, in no quote and in no bill of a clip.
        flat: its quotes come from a list of flat times, so nothing seen corrects them.
    """

    key: str
    slots: int
    service_s: float
    price_usd: Decimal
    cv: float = 0.0
    failure: float = 0.0
    per_clip: bool = False
    believed: float = 1.0
    load_s: float = 0.0
    start_s: float = 0.0
    flat: bool = False

    @property
    def effective_s(self) -> float:
        """Expected seconds of a slot per finished clip, failed attempts included."""
        return self.service_s * (1 + BURNED * self.failure / (1 - self.failure))

    @property
    def effective_usd(self) -> float:
        """Expected dollars per finished clip, failed attempts included where they are billed."""
        billed = 0.0 if self.per_clip else BURNED * self.failure / (1 - self.failure)
        return float(self.price_usd) * (1 + billed)

    def price_nano(self, size: float) -> int:
        """Price of a clip in billionths of a dollar."""
        return round(self.price_usd * NANO) if self.per_clip else round(float(self.price_usd) * size * NANO)

    def takes(self, job: Job) -> bool:
        """Whether it can make a job at all."""
        return True

    def told_s(self, job: Job) -> float:
        """Seconds the router is told that a job takes."""
        return self.service_s * self.believed * job.told_size

    def told_nano(self, job: Job) -> int:
        """Price the router is told, billionths of a dollar."""
        return self.price_nano(job.told_size)

    def reserved_nano(self, job: Job) -> int:
        """What is held for a job while it runs."""
        return self.price_nano(job.size)

    def billed_nano(self, job: Job, seconds: float, *, succeeds: bool) -> int:
        """What an attempt of so many seconds costs: a failed one its share of the time, or nothing if paid per clip."""
        if succeeds:
            return self.price_nano(job.size)
        if self.per_clip:
            return 0
        return round(self.price_nano(job.size) * min(1.0, seconds / (self.service_s * job.size)))

    def quote(self, job: Job) -> Quote:
        """What the router is told, sizes included."""
        amount = Decimal(self.told_nano(job)) / NANO
        return Quote(
            backend=self.key,
            tier=TIERS.get(self.key, Tier.CLOUD),
            model=job.model,
            amount_usd=amount,
            reserve_usd=amount,
            service_s=self.told_s(job),
            output=OUTPUT,
            basis="simulated",
        )

    def attempt(self, job: Job, rng: random.Random) -> tuple[float, bool]:
        """Seconds of one attempt, and whether it succeeds."""
        seconds = self.service_s * job.size
        if self.cv:
            sigma2 = math.log(1 + self.cv**2)
            seconds *= rng.lognormvariate(-sigma2 / 2, math.sqrt(sigma2))
        failed = self.failure > 0 and rng.random() < self.failure
        return (BURNED * seconds, False) if failed else (seconds, True)


@dataclass(frozen=True)
class Job:
    """One clip to make.

    Args:
        told_size: what the router knows of its size.
        kind: jobs of one kind, size and model have the same quotes everywhere.
        urgent: the earliest finish wins.
    """

    id: str
    size: float = 1.0
    told_size: float = 1.0
    rank: float = 0.0
    model: str = "m"
    arrives_s: float = 0.0
    kind: str = ""
    urgent: bool = False


@dataclass(frozen=True)
class Incident:
    """A site is away for a while. With `kills`, what runs there fails at once; without, it only takes nothing new."""

    key: str
    from_s: float
    until_s: float = math.inf
    kills: bool = True


@dataclass(frozen=True)
class PodKind:
    """A rented GPU as it really is.

    Args:
        service_s: true mean seconds of a clip on it.
        cold_start_s: from asking for it to its first job, least and most, all equally likely; billed.
        cv: coefficient of variation of the lognormal times.
        failure: share of attempts that fail, after `BURNED` of a clip's time.
        billing: by the second, or by the hour begun.
    """

    service_s: float
    price_usd_per_h: Decimal
    cold_start_s: tuple[float, float] = (60.0, 120.0)
    cv: float = 0.25
    failure: float = 0.0
    billing: Literal["second", "hour"] = "second"

    @property
    def mean_start_s(self) -> float:
        """Expected cold start."""
        return sum(self.cold_start_s) / 2

    @property
    def usd_per_s(self) -> float:
        """Price of a second."""
        return float(self.price_usd_per_h) / 3600

    def bill_usd(self, alive_s: float) -> float:
        """What a pod that lived so long costs."""
        if self.billing == "hour":
            return float(self.price_usd_per_h) * max(1, math.ceil(alive_s / 3600 - 1e-9))
        return self.usd_per_s * alive_s
