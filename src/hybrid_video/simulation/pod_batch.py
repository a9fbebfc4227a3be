"""One batch with a deadline on lanes that are there and pods that are not yet: dispatcher and autoscaler together.

The real dispatcher assigns (through `Ours`) and the real policy opens, drains and closes, asked as the watcher asks it.
A pod that starts counts as a lane that will be free, but is given nothing.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from hybrid_video import goals
from hybrid_video.autoscaler import LaneView, ScaleState
from hybrid_video.demand import BatchDemand
from hybrid_video.dispatcher import LaneState
from hybrid_video.simulation.autoscale import EPOCH, TICK_S, ScaleRule
from hybrid_video.simulation.pods import OVERDUE, Fleet, SimulatedPod
from hybrid_video.simulation.policies import Ours, View
from hybrid_video.simulation.world import BURNED, TIERS, Job, PodKind, Site

POD_SITE = "cloud"


@dataclass
class PodBatch:
    """What a simulated batch came to."""

    duration_s: float = 0.0
    clips_usd: float = 0.0
    """Paid by the clip."""
    pods_usd: float = 0.0
    idle_usd: float = 0.0
    opened: int = 0
    most_pods: int = 0
    split: dict[str, int] = field(default_factory=dict)
    unmade: int = 0

    @property
    def cost_usd(self) -> float:
        """All of it."""
        return self.clips_usd + self.pods_usd


@dataclass
class _Slot:
    site: Site
    id: str
    job: Job | None = None
    began_s: float = 0.0
    succeeds: bool = True


class _Run:
    def __init__(
        self,
        sites: Sequence[Site],
        kind: PodKind,
        jobs: int,
        policy: Ours,
        rule: ScaleRule,
        seed: int,
        most: int,
        *,
        excluding: bool,
    ) -> None:
        self.rng = random.Random(seed)  # noqa: S311 - a simulation
        self.fleet = Fleet(kind, random.Random(seed + 7_000_003))  # noqa: S311
        self.policy, self.rule, self.most, self.now_s = policy, rule, most, 0.0
        self.excluding = excluding
        self.slots = [_Slot(site, f"{site.key}-{number}") for site in sites for number in range(site.slots)]
        price = Decimal(str(round(kind.usd_per_s * kind.service_s, 9)))
        self.pod_site = Site(POD_SITE, most, kind.service_s, price, kind.cv, kind.failure)
        policy.begin((*sites, self.pod_site))
        self.left = {f"s{number}" for number in range(jobs)}
        self.waiting = 0
        self.outcome = PodBatch(split={site.key: 0 for site in (*sites, self.pod_site)})
        self.events: list[tuple[float, int, object]] = []
        self.serial = 0
        self.pods: dict[str, SimulatedPod] = {}
        self.succeeds: dict[str, bool] = {}
        for name in sorted(self.left, key=lambda name: int(name[1:])):
            self.add(Job(name))

    def add(self, job: Job, failed_on: str = "") -> None:
        self.waiting += 1
        self.policy.add(job, failed_on=failed_on)

    def at(self, time_s: float, about: object) -> None:
        self.serial += 1
        heapq.heappush(self.events, (time_s, self.serial, about))

    def scale(self) -> None:
        """One look of the watcher."""
        for pod in self.fleet.carry_out(self.rule(self.state()), self.now_s):
            self.pods[pod.name] = pod
            self.at(pod.ready_s, pod)
        self.at(self.now_s + TICK_S, "tick")

    def state(self) -> ScaleState:
        lanes = tuple(
            LaneView(
                slot.site.key,
                TIERS[slot.site.key],
                self.policy.expected_s(slot.site.key, Job("")),
                self.free_s(slot),
                slot.site.price_usd,
            )
            for slot in self.slots
        )
        under_way = sum(min(1.0, lane.free_in_s / lane.service_s) for lane in lanes if lane.service_s)
        deadline = None if self.policy.deadline_s is None else self.policy.deadline_s - self.now_s
        demand = BatchDemand(
            batch="batch",
            waiting_jobs=self.waiting,
            under_way_jobs=under_way,
            deadline_s=deadline,
            guard_s=self.guard_s(lanes),
            pod_service_s=self.policy.expected_s(POD_SITE, Job("")),
            published_at=EPOCH,
        )
        pods = self.fleet.views(self.now_s)
        return ScaleState((demand,), lanes, pods, self.fleet.offer(), max_pods=self.most, tick_s=TICK_S)

    def guard_s(self, lanes: Sequence[LaneView]) -> float:
        """What the dispatcher keeps in hand, told to the autoscaler as a run tells it."""
        if self.policy.guard_s is not None:
            return self.policy.guard_s
        services = [lane.service_s for lane in lanes] + [self.pod_site.service_s]
        return goals.guard_s(services, self.policy.deadline_s)

    def free_s(self, slot: _Slot) -> float:
        if slot.job is None:
            return 0.0
        expected = self.policy.expected_s(slot.site.key, slot.job)
        left = slot.began_s + expected - self.now_s
        return left if left > 0 else expected * OVERDUE

    def dispatch(self) -> None:
        lanes = [LaneState(slot.id, slot.site.key, self.free_s(slot), int(slot.job is not None)) for slot in self.slots]
        for view in self.fleet.views(self.now_s):
            if view.state != "draining":
                free = view.ready_in_s + view.free_in_s
                held = int(view.busy or view.state == "starting")
                lanes.append(LaneState(view.name, POD_SITE, free, held, paid=True))
        for name, lane in self.policy.choose(View(self.now_s, lanes, 0)):
            self.waiting -= 1
            self.start(lane, Job(name))

    def start(self, lane: str, job: Job) -> None:
        pod = self.fleet.alive.get(lane)
        if pod is not None:
            until_s, self.succeeds[lane] = self.fleet.start(pod, job, self.now_s)
            self.at(until_s, pod)
            return
        slot = next(slot for slot in self.slots if slot.id == lane)
        seconds, slot.succeeds = slot.site.attempt(job, self.rng)
        slot.job, slot.began_s = job, self.now_s
        self.at(self.now_s + seconds, slot)

    def happen(self, about: object) -> None:
        if about == "tick":
            self.scale()
        elif isinstance(about, SimulatedPod) and not about.ready:
            about.ready, about.idle_since_s = about.name in self.fleet.alive, self.now_s
        elif isinstance(about, SimulatedPod):
            assert isinstance(about.job, Job)  # noqa: S101 - as started
            self.end(self.pod_site, about.job, about.began_s, self.succeeds[about.name])
            self.fleet.finish(about, self.now_s)
        elif isinstance(about, _Slot):
            assert about.job is not None  # noqa: S101 - as started
            self.end(about.site, about.job, about.began_s, about.succeeds)
            about.job = None

    def end(self, site: Site, job: Job, began_s: float, succeeds: bool) -> None:
        self.policy.observed(site.key, job, self.now_s - began_s, succeeds)
        if not succeeds:
            if site is not self.pod_site and not site.per_clip:
                self.outcome.clips_usd += BURNED * float(site.price_usd)
            self.add(job, failed_on=site.key if self.excluding else "")
            return
        if site is not self.pod_site:
            self.outcome.clips_usd += float(site.price_usd)
        self.outcome.split[site.key] += 1
        self.left.remove(job.id)
        self.outcome.duration_s = self.now_s


def simulate_pod_batch(
    sites: Sequence[Site],
    kind: PodKind,
    jobs: int,
    deadline_s: float | None,
    rule: ScaleRule,
    *,
    seed: int,
    max_pods: int = 5,
    policy: Ours | None = None,
    excluding: bool = False,
) -> PodBatch:
    """Runs a batch to its end and closes what is still open at the next look.

    Args:
        excluding: a job that failed goes to another site if there is one, whatever it costs, as in the engine; the
            optimum it is compared with would take the cheapest again.
    """
    run = _Run(sites, kind, jobs, policy or Ours(deadline_s), rule, seed, max_pods, excluding=excluding)
    run.scale()
    run.dispatch()
    while run.left and run.events:
        run.now_s, _, about = heapq.heappop(run.events)
        run.happen(about)
        run.dispatch()
    closing_s = max(run.now_s, TICK_S * math.ceil(run.now_s / TICK_S))
    run.fleet.close_all(closing_s)
    outcome = run.outcome
    outcome.unmade = len(run.left)
    outcome.pods_usd, outcome.idle_usd = run.fleet.cost_usd, run.fleet.idle_usd
    outcome.opened, outcome.most_pods = run.fleet.opened, run.fleet.most
    return outcome


def optimum_usd(sites: Sequence[Site], kind: PodKind, jobs: int, time_s: float, max_pods: int = 5) -> float:
    """Least cost of identical jobs done by a time: every number of pods tried, whole clips, mean times and starts."""
    burned = 1 + BURNED * kind.failure / (1 - kind.failure)
    pod_s = kind.service_s * burned
    best = math.inf
    for opened in range(max_pods + 1):
        room = opened * max(0, math.floor((time_s - kind.mean_start_s) / pod_s + 1e-9))
        tiers = [(site.effective_usd, site.slots * math.floor(time_s / site.effective_s + 1e-9)) for site in sites]
        hourly = kind.billing == "hour"
        tiers.append((0.0 if hourly else kind.usd_per_s * pod_s, room))
        left = jobs
        cost = opened * (kind.bill_usd(time_s) if hourly else kind.usd_per_s * kind.mean_start_s)
        for price, able in sorted(tiers):
            take = min(left, able)
            left -= take
            cost += take * price
        if not left:
            best = min(best, cost)
    return best
