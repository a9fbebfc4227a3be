"""What a running batch still has to do, as its run publishes it for the autoscaler. Frozen records, no I/O.

The run knows its queue, its lanes and what its quotes say; the watcher, another process, knows the pods. One
`BatchDemand` per run crosses between them as a JSON document in the ledger's `demand` table.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Self

from pydantic import AwareDatetime, Field

from hybrid_video.models import Model, Tier, Usd, utc_now

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class LaneDemand(Model):
    """One lane a batch may use, other than a pod's: what a mean job takes and costs there, and when it is free.

    Lanes of two batches with the same `id` are the same slot.
    """

    id: str
    backend: str
    tier: Tier
    service_s: Seconds = Field(description="Mean seconds of a waiting job there.")
    price_usd: Usd = Field(Decimal(0), ge=0, description="Mean price of a waiting job there.")
    free_in_s: Seconds = Field(0.0, description="Seconds until it could start another job.")


class BatchDemand(Model):
    """What one running batch still has to do.

    A run that ends removes its document; one whose owner is dead is to be ignored.
    """

    batch: str
    owner: str = Field("", description="The process that runs it, as in the ledger's `jobs.owner`.")
    jobs: int = Field(0, ge=0, description="Jobs of the whole batch; counted as arrivals when first seen.")
    waiting_jobs: int = Field(ge=0, description="Jobs that no lane holds.")
    under_way_jobs: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="What is left to do of the jobs that lanes hold, in mean jobs."
    )
    deadline_s: float | None = Field(
        None, allow_inf_nan=False, description="Seconds left when published; None without a deadline."
    )
    guard_s: Seconds = Field(0.0, description="Seconds before the deadline at which the run aims.")
    budget_left_usd: Usd | None = Field(
        None, description="What may still be spent, reservations taken off: the nearest of all limits; None: no limit."
    )
    budget_is_goal: bool = Field(
        False, description="It has a budget of its own: without a deadline it is to be as quick as that pays for."
    )
    lanes: tuple[LaneDemand, ...] = Field((), description="Lanes it may use, pods left out.")
    pod_service_s: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="Mean seconds of a waiting job on a pod, as its quotes say."
    )
    pods_possible: bool = Field(True, description="Whether its jobs may run on pods: tier allowed, workflow able.")
    pod_jobs: int | None = Field(
        None, ge=0, description="How many of the waiting jobs may run on pods; None: all, where pods are possible."
    )
    value_of_time_usd_per_h: float = Field(
        10.0, ge=0, allow_inf_nan=False, description="What finishing the batch an hour earlier is worth to its user."
    )
    published_at: AwareDatetime = Field(default_factory=utc_now)

    @property
    def podable_jobs(self) -> int:
        """Waiting jobs that may run on pods."""
        if not self.pods_possible:
            return 0
        return self.waiting_jobs if self.pod_jobs is None else min(self.pod_jobs, self.waiting_jobs)

    @property
    def work_jobs(self) -> float:
        """All that is left to do, in mean jobs."""
        return self.waiting_jobs + self.under_way_jobs

    def tier_mean(self, tier: Tier) -> tuple[float, Decimal] | None:
        """Mean seconds and price of a waiting job on the lanes of a tier; None without a lane there."""
        found = [lane for lane in self.lanes if lane.tier == tier]
        if not found:
            return None
        return sum(lane.service_s for lane in found) / len(found), sum(
            (lane.price_usd for lane in found), Decimal(0)
        ) / len(found)

    def aged(self, now: datetime) -> Self:
        """The same as it stands now: deadlines and lanes are nearer by the time since it was published."""
        age_s = max(0.0, (now - self.published_at).total_seconds())
        lanes = tuple(lane.model_copy(update={"free_in_s": max(0.0, lane.free_in_s - age_s)}) for lane in self.lanes)
        deadline_s = None if self.deadline_s is None else self.deadline_s - age_s
        return self.model_copy(update={"deadline_s": deadline_s, "lanes": lanes, "published_at": now})


def shared_lanes(demands: Iterable[BatchDemand]) -> tuple[LaneDemand, ...]:
    """The lanes of several batches, each once: free when all have left it, times and prices by waiting jobs."""
    found: dict[str, list[tuple[LaneDemand, int]]] = {}
    for demand in demands:
        for lane in demand.lanes:
            found.setdefault(lane.id, []).append((lane, demand.waiting_jobs))
    return tuple(_merged(sightings) for sightings in found.values())


def _merged(sightings: list[tuple[LaneDemand, int]]) -> LaneDemand:
    lane = sightings[0][0]
    if len(sightings) == 1:
        return lane
    weights = [max(1, waiting) for _, waiting in sightings]
    total = sum(weights)
    pairs = list(zip((seen for seen, _ in sightings), weights, strict=True))
    return lane.model_copy(
        update={
            "service_s": math.fsum(seen.service_s * weight for seen, weight in pairs) / total,
            "price_usd": sum((seen.price_usd * weight for seen, weight in pairs), Decimal(0)) / total,
            "free_in_s": max(seen.free_in_s for seen, _ in pairs),
        }
    )
