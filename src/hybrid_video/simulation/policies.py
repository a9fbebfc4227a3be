"""Who takes which job: ours, and the rules it is compared with. A policy sees what a router would see, no more."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Protocol

from hybrid_video import dispatcher, planner
from hybrid_video.dispatcher import Goal, LaneState, PendingJob, Waiting
from hybrid_video.goals import returning
from hybrid_video.models import Quote
from hybrid_video.planner import Resource
from hybrid_video.pricing.timings import PRIOR_WEIGHT
from hybrid_video.simulation.world import NANO, Job, Site
from hybrid_video.spread import Spread

PROBES = 3
"""Clips a backend may take before it has to, while fewer than so many were observed there."""


@dataclass(frozen=True)
class View:
    """What a policy sees when it is asked."""

    now_s: float
    lanes: Sequence[LaneState]
    held_nano: int
    """Spent and reserved so far, billionths of a dollar."""
    away: Mapping[str, tuple[Sequence[str], float]] = field(default_factory=dict)
    """Sites that are away: their lanes, and for how long already."""


Choice = tuple[str, str]
"""(job, lane)"""


class Policy(Protocol):
    """A rule under test. One instance, one run."""

    def begin(self, sites: Sequence[Site]) -> None:
        """Learns of the sites."""

    def add(self, job: Job, *, failed_on: str = "") -> None:
        """A job waits: new, or back after a failure."""

    def choose(self, view: View) -> list[Choice]:
        """The assignments to make now; they are made, all of them."""

    def observed(self, key: str, job: Job, seconds: float, done: bool) -> None:
        """An attempt ended."""

    def expected_s(self, key: str, job: Job) -> float:
        """How long it believes a job takes somewhere."""


@dataclass
class _Learned:
    """Ratios of what was observed to what was quoted: the formula of `pricing.timings`, per clip of size 1."""

    sum: float = 0.0
    done: int = 0
    running: int = 0
    spread: Spread = field(default_factory=Spread)

    def took(self, ratio: float, done: bool) -> None:
        """One attempt."""
        self.sum += ratio
        self.done += done
        self.running -= 1
        self.spread.took(ratio, success=done)

    @property
    def pace(self) -> float:
        return (PRIOR_WEIGHT + self.sum) / (PRIOR_WEIGHT + self.done)


@dataclass
class Ours:
    """The dispatcher, asked as the engine asks it.

    Args:
        deadline_s: seconds from the start.
        budget_usd: for the whole batch, kept at every instant.
        guard_s: seconds to keep in hand before the deadline; None for the dispatcher's own.
        soft: the goal may be missed by half a clip; None, as the engine does, where there is no deadline.
        learning: correct the quoted times by what is observed.
        counts_on_returns: a site that is away counts again from its expected return on, where a dearer one is there.
        on_decision: told what every decision looked at.
    """

    deadline_s: float | None = None
    budget_usd: Decimal | None = None
    guard_s: float | None = 0.0
    soft: bool | None = None
    learning: bool = True
    value_of_time_usd_per_h: float = 10.0
    counts_on_returns: bool = True
    on_decision: Callable[[Waiting, Sequence[LaneState], float], None] | None = None
    _sites: dict[str, Site] = field(default_factory=dict)
    _jobs: dict[str, tuple[Job, str]] = field(default_factory=dict)
    _waiting: Waiting = field(default_factory=Waiting)
    _learned: dict[str, _Learned] = field(default_factory=dict)
    _affordable: frozenset[str] = frozenset()
    _quotes: dict[tuple[float, str, str], dict[str, Quote]] = field(default_factory=dict)
    _flat: frozenset[str] = frozenset()
    _troubled: bool = False

    def begin(self, sites: Sequence[Site]) -> None:
        """Learns of the sites."""
        self._sites = {site.key: site for site in sites}
        self._learned = {site.key: _Learned() for site in sites}
        self._affordable = frozenset(self._sites)
        self._flat = frozenset(site.key for site in sites if site.flat)

    def add(self, job: Job, *, failed_on: str = "") -> None:
        """A job waits: new, or back after a failure, then first and without the site that failed."""
        self._jobs[job.id] = (job, failed_on)
        self._waiting.add(self._pending(job, failed_on), first=bool(failed_on))

    def choose(self, view: View) -> list[Choice]:
        """What the dispatcher says, each paid clip passing the spend gate."""
        if not len(self._waiting):
            return []
        lanes = [*view.lanes]
        if self.counts_on_returns:
            there = {self._sites[lane.backend].price_usd for lane in view.lanes}
            for key, (names, gone_s) in view.away.items():
                if there and max(there) > self._sites[key].price_usd:
                    left_s = None if self.deadline_s is None else self.deadline_s - view.now_s
                    lanes += returning([LaneState(name, key) for name in names], gone_s, left_s)
        budget = None
        left_nano = 0
        if self.budget_usd is not None:
            left_nano = int(self.budget_usd * NANO) - view.held_nano
            budget = Decimal(max(0, left_nano)) / NANO
            self._keep_affordable(left_nano)
        deadline = None if self.deadline_s is None else max(0.0, self.deadline_s - view.now_s)
        guard = None if self.guard_s is None else min(self.guard_s, deadline or 0.0)
        known = {key: one for key, one in self._learned.items() if key not in self._flat} if self.learning else {}
        pace = {key: learned.pace for key, learned in known.items()}
        self._troubled = self._troubled or bool(view.away and self.counts_on_returns)
        goal = Goal(deadline, budget, self.value_of_time_usd_per_h, whole_s=self.deadline_s, guard_s=guard)
        horizon_s = dispatcher.horizon(goal, self._waiting, lanes, pace)
        if self.on_decision is not None:
            self.on_decision(self._waiting, lanes, horizon_s)
        soft = self.deadline_s is None if self.soft is None else self.soft
        probes = {key: PROBES - seen for key, one in known.items() if (seen := one.done + one.running) < PROBES}
        spread = {key: learned.spread.cv for key, learned in known.items()}
        made = dispatcher.assign(
            self._waiting,
            lanes,
            horizon_s,
            soft=soft,
            pace=pace,
            probes=probes,
            spread=spread,
            troubled=self._troubled,
        )
        chosen = []
        for item in made:
            if self.budget_usd is not None:
                price = self._sites[item.backend].told_nano(self._jobs[item.job][0])
                if price > left_nano:
                    continue
                left_nano -= price
            self._waiting.remove(item.job)
            self._learned[item.backend].running += 1
            chosen.append((item.job, item.lane))
        return chosen

    def observed(self, key: str, job: Job, seconds: float, done: bool) -> None:
        """Failed time counts as time, only finished clips count as clips."""
        self._learned[key].took(seconds / self._sites[key].told_s(job), done)

    def expected_s(self, key: str, job: Job) -> float:
        """The quoted time, corrected by what was observed."""
        corrected = self.learning and key not in self._flat
        return self._sites[key].told_s(job) * (self._learned[key].pace if corrected else 1.0)

    def _keep_affordable(self, left_nano: int) -> None:
        """Takes away (or gives back) the sites whose clips the budget cannot pay; the price of a mean clip decides."""
        able = frozenset(key for key, site in self._sites.items() if site.price_nano(1.0) <= left_nano)
        if able == self._affordable:
            return
        self._affordable = able
        waiting = [entry for kind in self._waiting.kinds.values() for entry in kind.entries]
        self._waiting = Waiting(
            self._pending(*self._jobs[entry[2].id]) for entry in sorted(waiting, key=lambda entry: entry[1])
        )

    def _pending(self, job: Job, failed_on: str) -> PendingJob:
        alike = (job.told_size, job.model, job.kind)
        if alike not in self._quotes:
            self._quotes[alike] = {key: site.quote(job) for key, site in self._sites.items() if site.takes(job)}
        able = {key: quote for key, quote in self._quotes[alike].items() if key in self._affordable}
        quotes = {key: quote for key, quote in able.items() if key != failed_on} or able
        return PendingJob(job.id, quotes, job.urgent, rank=job.rank, size=job.told_size)


@dataclass
class _Queue:
    """What the compared rules share: one list, first come first served, times believed as quoted."""

    _sites: dict[str, Site] = field(default_factory=dict)
    _waiting: list[Job] = field(default_factory=list)

    def begin(self, sites: Sequence[Site]) -> None:
        """Learns of the sites."""
        self._sites = {site.key: site for site in sites}

    def add(self, job: Job, *, failed_on: str = "") -> None:
        """A job waits: new ones last, failed ones first."""
        self._waiting.insert(0 if failed_on else len(self._waiting), job)

    def observed(self, key: str, job: Job, seconds: float, done: bool) -> None:
        """Learns nothing."""

    def expected_s(self, key: str, job: Job) -> float:
        """As quoted."""
        return self._sites[key].told_s(job)


@dataclass
class InOrder(_Queue):
    """The seed's order with caps respected: any free slot of these sites takes the next job, in order of the sites."""

    keys: tuple[str, ...] = ("local", "cloud", "gemini")

    def choose(self, view: View) -> list[Choice]:
        """Fills every free slot."""
        idle = sorted(
            (lane for lane in view.lanes if not lane.outstanding and lane.backend in self.keys),
            key=lambda lane: self.keys.index(lane.backend),
        )
        return [(self._waiting.pop(0).id, lane.id) for lane in idle[: len(self._waiting)]]


@dataclass
class FixedSplit(_Queue):
    """So many jobs for each site, decided before the start; a failed one stays with its site."""

    split: Mapping[str, int] = field(default_factory=dict)
    _left: dict[str, int] = field(default_factory=dict)

    def begin(self, sites: Sequence[Site]) -> None:
        """Learns of the sites."""
        super().begin(sites)
        self._left = dict(self.split)

    def add(self, job: Job, *, failed_on: str = "") -> None:
        """A job waits."""
        super().add(job, failed_on=failed_on)
        if failed_on:
            self._left[failed_on] += 1

    def choose(self, view: View) -> list[Choice]:
        """Each site works off its own share."""
        chosen = []
        for lane in view.lanes:
            if self._waiting and not lane.outstanding and self._left.get(lane.backend, 0):
                self._left[lane.backend] -= 1
                chosen.append((self._waiting.pop(0).id, lane.id))
        return chosen


@dataclass
class EarliestFinish(_Queue):
    """Least makespan whatever it costs: a slot takes a job unless the batch would end sooner without it."""

    def choose(self, view: View) -> list[Choice]:
        """Fills the slots that finish within the shortest time for all that waits."""
        if not self._waiting:
            return []
        resources = []
        for key, site in self._sites.items():
            ready = tuple(lane.free_s for lane in view.lanes if lane.backend == key)
            resources.append(Resource(key, len(ready), site.service_s * site.believed, site.price_usd, ready))
        end_s = planner.shortest([r for r in resources if r.slots], len(self._waiting)).duration_s
        times = {resource.key: resource.service_s for resource in resources}
        idle = [lane for lane in view.lanes if not lane.outstanding and times[lane.backend] <= end_s + 1e-6]
        idle.sort(key=lambda lane: times[lane.backend])
        return [(self._waiting.pop(0).id, lane.id) for lane in idle[: len(self._waiting)]]
