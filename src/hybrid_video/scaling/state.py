"""What the autoscaler looks at and what it answers: frozen values, times in seconds from now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal

from hybrid_video.demand import BatchDemand, LaneDemand, shared_lanes
from hybrid_video.models import Tier
from hybrid_video.scaling.arrivals import NO_ARRIVALS, Arrivals

PolicyName = Literal["break-even", "threshold"]
Billing = Literal["second", "hour"]
PodPhase = Literal["starting", "ready", "draining"]
Figure = float | int | str

HOUR_S = 3600.0


@dataclass(frozen=True)
class PodView:
    """A pod that costs money now.

    Args:
        state: `starting` from the moment its creation is intended; `draining` when it was told to take no further job.
        ready_in_s: expected seconds until it can take its first job; 0 once ready.
        jobs: what it holds, running and ahead.
        idle_s: seconds since it held a job (or since it was ready, if it never did); 0 while it holds one.
        age_s: seconds since its creation was asked for, which is when billing starts.
        price_usd_per_h: what it is billed at.
        service_s: seconds of a mean waiting job on it; 0 takes the offer's.
        free_in_s: expected seconds until all it holds is done; 0 lets the policy guess from `jobs`.
    """

    name: str
    state: PodPhase
    ready_in_s: float = 0.0
    jobs: int = 0
    idle_s: float = 0.0
    age_s: float = 0.0
    price_usd_per_h: Decimal = Decimal(0)
    service_s: float = 0.0
    free_in_s: float = 0.0

    @property
    def busy(self) -> bool:
        """Whether it holds a job: then it is never closed."""
        return self.jobs > 0

    @property
    def idle(self) -> bool:
        """Whether it could be closed with nothing lost: up, and without a job."""
        return self.state != "starting" and not self.busy


@dataclass(frozen=True)
class LaneView:
    """One slot that is not a pod's: the own GPU, a serverless worker, a Google operation."""

    backend: str
    tier: Tier
    service_s: float
    free_in_s: float = 0.0
    price_usd: Decimal = Decimal(0)


@dataclass(frozen=True)
class PodOffer:
    """The pod that would be opened next, as the pool finds it: the best of the places it may ask.

    Args:
        cold_start_s: expected seconds from asking for it to its first job, billed.
        service_s: seconds of a mean job on it, where the batch has no figure of its own.
    """

    price_usd_per_h: Decimal
    service_s: float
    cold_start_s: float = 90.0
    billing: Billing = "second"

    @property
    def usd_per_s(self) -> float:
        """Price of a second."""
        return float(self.price_usd_per_h) / HOUR_S


@dataclass(frozen=True)
class ScaleState:
    """Everything a decision may look at.

    Args:
        demands: what runs that are alive still have to do, aged to now.
        lanes: every lane that is not a pod's, once, however many batches share it; see `lanes_of`.
        pods: every pod that costs money, starting and draining ones included.
        offer: what would be opened; None while none can be had.
        arrivals: how jobs have been coming; see `ArrivalRate`.
        max_pods: most pods alive at once, starting ones included.
        value_of_waiting_usd_per_job_h: what it is worth that one job waits an hour less.
        tick_s: seconds until the next decision; what a pod idles until then is lost.
    """

    demands: tuple[BatchDemand, ...] = ()
    lanes: tuple[LaneView, ...] = ()
    pods: tuple[PodView, ...] = ()
    offer: PodOffer | None = None
    arrivals: Arrivals = NO_ARRIVALS
    max_pods: int = 5
    value_of_waiting_usd_per_job_h: float = 5.0
    threshold_queue: int = 5
    threshold_idle_s: float = 300.0
    tick_s: float = 5.0

    @property
    def arrivals_per_s(self) -> float:
        """Jobs per second, as they have been coming."""
        return self.arrivals.per_s

    @property
    def waiting_jobs(self) -> int:
        """Waiting jobs of all batches that may run on pods."""
        return sum(demand.podable_jobs for demand in self.demands)

    @property
    def room(self) -> int:
        """How many more pods may be opened: starting and draining ones count as open."""
        return max(0, self.max_pods - len(self.pods)) if self.offer is not None else 0


@dataclass(frozen=True)
class ScaleDecision:
    """What to do now, and why.

    Args:
        open: how many pods to open, all at once.
        close: pods to end now; they hold no job and are not starting.
        drain: pods that are to be given no further job and end when they are idle. Decided anew each time: one that
            is no longer named takes jobs again.
        reason: one sentence with the figures that decided.
        figures: the same for programs.
    """

    open: int = 0
    close: tuple[str, ...] = ()
    drain: tuple[str, ...] = ()
    reason: str = "nothing to do"
    figures: Mapping[str, Figure] = field(default_factory=dict)

    @property
    def acts(self) -> bool:
        """Whether it changes anything."""
        return bool(self.open or self.close or self.drain)


def lanes_of(demands: Iterable[BatchDemand]) -> tuple[LaneView, ...]:
    """The lanes that the batches publish, each once."""
    return tuple(lane_view(lane) for lane in shared_lanes(demands))


def lane_view(lane: LaneDemand) -> LaneView:
    """A published lane as the policy sees it."""
    return LaneView(lane.backend, lane.tier, lane.service_s, lane.free_in_s, lane.price_usd)
