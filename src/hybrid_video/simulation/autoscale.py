"""A day of jobs on the own GPUs with rented ones beside them: what a scaling rule costs and how long jobs take.

The rule under test is asked as the watcher asks it: at every tick, with the same `ScaleState`. Jobs wait in one list;
the own GPUs take first, then any pod that is free. Nothing here decides when pods open or close.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from hybrid_video.autoscaler import ArrivalRate, LaneView, ScaleDecision, ScaleState, window_s
from hybrid_video.demand import BatchDemand
from hybrid_video.models import Tier
from hybrid_video.simulation.pods import OVERDUE, Fleet, SimulatedPod, lognormal_s
from hybrid_video.simulation.world import PodKind

ScaleRule = Callable[[ScaleState], ScaleDecision]

DAY_S = 86_400.0
TICK_S = 5.0
"""Seconds between two questions, as the watcher asks while there is work or a pod."""

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class DayCase:
    """One load.

    Args:
        local: own GPUs.
        service_s: mean seconds of a clip on them.
        burst: mean clips that come at once, geometrically distributed; 1 for clips that come alone.
        gap_s: mean seconds between two arrivals, exponentially distributed.
    """

    name: str
    local: int
    service_s: float
    pod: PodKind
    burst: float
    gap_s: float
    cv: float = 0.10
    max_pods: int = 5
    value_of_waiting_usd_per_job_h: float = 5.0

    def arrivals(self, seed: int, length_s: float = DAY_S) -> list[tuple[float, int]]:
        """When how many clips come; the same for every rule."""
        rng = random.Random(seed)  # noqa: S311 - a simulation
        found, now_s = [], rng.expovariate(1 / self.gap_s)
        while now_s < length_s:
            count = 1 if self.burst <= 1 else 1 + int(math.log(1 - rng.random()) / math.log(1 - 1 / self.burst))
            found.append((now_s, count))
            now_s += rng.expovariate(1 / self.gap_s)
        return found


@dataclass
class Day:
    """What a simulated day came to."""

    jobs: int = 0
    flow_total_s: float = 0.0
    pods_usd: float = 0.0
    idle_usd: float = 0.0
    opened: int = 0
    openings: int = 0
    """Decisions that opened pods."""
    most_pods: int = 0
    undone: int = 0

    @property
    def flow_s(self) -> float:
        """Mean seconds from arrival to the finished clip."""
        return self.flow_total_s / self.jobs if self.jobs else 0.0

    def objective_usd(self, value_usd_per_job_h: float) -> float:
        """Pods and waiting, in dollars."""
        return self.pods_usd + value_usd_per_job_h * self.flow_total_s / 3600


@dataclass
class _Lane:
    began_s: float = 0.0
    arrived_s: float | None = None


@dataclass
class _World:
    case: DayCase
    rule: ScaleRule
    rng: random.Random
    fleet: Fleet
    rate: ArrivalRate
    waiting: deque[float] = field(default_factory=deque)
    events: list[tuple[float, int, str, object]] = field(default_factory=list)
    now_s: float = 0.0
    next_tick_s: float | None = None
    serial: int = 0
    came: int = 0
    day: Day = field(default_factory=Day)
    lanes: list[_Lane] = field(default_factory=list)

    def at(self, time_s: float, what: str, about: object = None) -> None:
        self.serial += 1
        heapq.heappush(self.events, (time_s, self.serial, what, about))

    def arrive(self, count: int) -> None:
        self.waiting.extend([self.now_s] * count)
        self.came += count
        self.wake()

    def wake(self) -> None:
        """The watcher looks at its next tick: nothing changes for it in between."""
        if self.next_tick_s is None:
            self.next_tick_s = (math.floor(self.now_s / TICK_S) + 1) * TICK_S
            self.at(self.next_tick_s, "tick")

    def tick(self) -> None:
        self.next_tick_s = None
        self.rate.observe(self.came, self.now_s)
        self.came = 0
        for pod in self.fleet.carry_out(self.rule(self.state()), self.now_s):
            self.at(pod.ready_s, "ready", pod)
        if self.waiting or self.fleet.alive:
            self.wake()

    def state(self) -> ScaleState:
        case = self.case
        lanes, under_way = [], 0.0
        for lane in self.lanes:
            free_s = 0.0
            if lane.arrived_s is not None:
                left_s = lane.began_s + case.service_s - self.now_s
                free_s = left_s if left_s > 0 else OVERDUE * case.service_s
                under_way += min(1.0, free_s / case.service_s)
            lanes.append(LaneView("comfyui", Tier.LOCAL, case.service_s, free_s))
        pods = self.fleet.views(self.now_s)
        under_way += sum(min(1.0, pod.free_in_s / pod.service_s) for pod in pods if pod.jobs)
        demand = _demand(len(self.waiting), under_way, case.pod.service_s)
        return ScaleState(
            demands=(demand,) if self.waiting or under_way else (),
            lanes=tuple(lanes),
            pods=pods,
            offer=self.fleet.offer(),
            arrivals=self.rate.at(self.now_s),
            max_pods=case.max_pods,
            value_of_waiting_usd_per_job_h=case.value_of_waiting_usd_per_job_h,
            tick_s=TICK_S,
        )

    def dispatch(self) -> None:
        for lane in self.lanes:
            if self.waiting and lane.arrived_s is None:
                lane.arrived_s, lane.began_s = self.waiting.popleft(), self.now_s
                self.at(self.now_s + lognormal_s(self.rng, self.case.service_s, self.case.cv), "own", lane)
        if not self.waiting or not self.fleet.alive:
            return
        for pod in list(self.fleet.free()):
            if not self.waiting:
                return
            until_s, _ = self.fleet.start(pod, self.waiting.popleft(), self.now_s)
            self.at(until_s, "pod", pod)

    def happen(self, what: str, about: object) -> None:
        if what == "arrive":
            assert isinstance(about, int)  # noqa: S101 - as pushed
            self.arrive(about)
        elif what == "tick":
            self.tick()
        elif isinstance(about, _Lane):
            assert about.arrived_s is not None  # noqa: S101 - as pushed
            self.done(about.arrived_s)
            about.arrived_s = None
        elif isinstance(about, SimulatedPod) and what == "ready":
            about.ready, about.idle_since_s = about.name in self.fleet.alive, self.now_s
        elif isinstance(about, SimulatedPod):
            assert isinstance(about.job, float)  # noqa: S101 - as pushed
            self.done(about.job)
            self.fleet.finish(about, self.now_s)

    def done(self, arrived_s: float) -> None:
        self.day.jobs += 1
        self.day.flow_total_s += self.now_s - arrived_s


def simulate_day(
    case: DayCase, rule: ScaleRule, seed: int, *, length_s: float = DAY_S, arrivals: Sequence[tuple[float, int]] = ()
) -> Day:
    """One day under a rule; runs on until every job of the day is done and every pod is closed.

    Args:
        arrivals: (seconds, clips), instead of the case's own.
    """
    rng = random.Random(seed + 1_000_003)  # noqa: S311 - a simulation
    fleet = Fleet(case.pod, random.Random(seed + 2_000_003))  # noqa: S311
    world = _World(case, rule, rng, fleet, ArrivalRate(window_s(case.service_s)))
    world.lanes = [_Lane() for _ in range(case.local)]
    for at_s, count in arrivals or case.arrivals(seed, length_s):
        world.at(at_s, "arrive", count)
    while world.events:
        if world.now_s > length_s and not _pending(world):
            break
        world.now_s, _, what, about = heapq.heappop(world.events)
        world.happen(what, about)
        world.dispatch()
    fleet.close_all(world.now_s)
    day = world.day
    day.undone = len(world.waiting)
    day.pods_usd, day.idle_usd, day.opened = fleet.cost_usd, fleet.idle_usd, fleet.opened
    day.openings, day.most_pods = fleet.decisions, fleet.most
    return day


def _pending(world: _World) -> bool:
    """Whether a job is still to be done."""
    return bool(world.waiting) or any(what in {"arrive", "own", "pod"} for _, _, what, _ in world.events)


def _demand(waiting: int, under_way: float, pod_service_s: float) -> BatchDemand:
    return BatchDemand.model_construct(
        batch="day",
        owner="",
        jobs=0,
        waiting_jobs=waiting,
        under_way_jobs=under_way,
        deadline_s=None,
        guard_s=0.0,
        budget_is_goal=False,
        budget_left_usd=None,
        lanes=(),
        pod_service_s=pod_service_s,
        pods_possible=True,
        pod_jobs=None,
        value_of_time_usd_per_h=0.0,
        published_at=EPOCH,
    )
