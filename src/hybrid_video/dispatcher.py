"""Who gets which job now: deadline-aware marginal-cost dispatch, pure.

Jobs stay in one central list; a lane is given a job only when it can start it (or one ahead, where the backend can hold
it). With a goal of D seconds from now:

* the cheapest backend a job may use always takes it, unless it would miss D and a dearer one would not;
* a dearer one takes it only if the cheaper ones together cannot finish what is left by D;
* the dearest waits as long as it safely can;
* when D can no longer be met, a lane takes a job only if no other would finish it earlier.

Jobs that may go to the same backends at the same prices form a group, and a decision looks at groups: it costs the same
for ten thousand waiting jobs as for ten.

Knows nothing of vendors, clocks or storage: times are seconds from now.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from hybrid_video import planner
from hybrid_video.models import Quote
from hybrid_video.planner import Resource


SLACK = 0.5


@dataclass
class LaneState:
    """A lane as it stands: `free_s` is when it could start another job; `outstanding` what it holds already."""

    id: str
    backend: str
    free_s: float = 0.0
    outstanding: int = 0
    ahead: int = 0


@dataclass(frozen=True)
class PendingJob:
    """A waiting job and the quotes of the backends that may take it now."""

    id: str
    options: Mapping[str, Quote]
    urgent: bool = False
    """Speed is prioritised: the earliest finish wins, whatever it costs within the limits."""


@dataclass(frozen=True)
class PendingGroup:
    """Waiting jobs with the same options: `jobs` are their ids, each behind its place in the order of precedence."""

    options: Mapping[str, Quote]
    jobs: Sequence[tuple[Any, str]]
    urgent: bool = False


def grouped(pending: Iterable[PendingJob]) -> list[PendingGroup]:
    """Jobs in order of precedence as groups."""
    found: dict[tuple[object, ...], PendingGroup] = {}
    rows: dict[tuple[object, ...], list[tuple[Any, str]]] = {}
    for place, job in enumerate(pending):
        key = (job.urgent, *((name, quote.service_s, quote.amount_usd) for name, quote in job.options.items()))
        if key not in found:
            rows[key] = []
            found[key] = PendingGroup(job.options, rows[key], job.urgent)
        rows[key].append((place, job.id))
    return list(found.values())


@dataclass(frozen=True)
class Assignment:
    """One job for one lane, and why now and there."""

    job: str
    lane: str
    backend: str
    reason: str


@dataclass(frozen=True)
class Goal:
    """What the batch aims at: a deadline, a budget, or both; neither means balanced."""

    deadline_s: float | None = None
    budget_usd: Decimal | None = None
    value_of_time_usd_per_h: float = 10.0


@dataclass
class _Backend:
    key: str
    service_s: float
    price_usd: Decimal
    lanes: list[LaneState] = field(default_factory=list)

    def resource(self) -> Resource:
        return Resource(
            self.key, len(self.lanes), self.service_s, self.price_usd, tuple(lane.free_s for lane in self.lanes)
        )

    def capacity(self, horizon_s: float) -> int:
        return self.resource().capacity(horizon_s) if self.lanes else 0

    def earliest_s(self) -> float:
        return min((lane.free_s for lane in self.lanes), default=math.inf) + self.service_s


class _Waiting:
    """What is left of the groups while assignments are made; groups with the same backends are judged as one kind."""

    def __init__(self, groups: Sequence[PendingGroup]) -> None:
        self._groups = groups
        self._taken = [0] * len(groups)
        self._kinds: dict[tuple[frozenset[str], bool], list[int]] = {}
        for index, group in enumerate(groups):
            if group.jobs:
                self._kinds.setdefault((frozenset(group.options), group.urgent), []).append(index)
        self._left = {kind: sum(len(groups[i].jobs) for i in indexes) for kind, indexes in self._kinds.items()}

    def __len__(self) -> int:
        return sum(self._left.values())

    def heads(self, backend: str) -> list[_Head]:
        """The first job of each kind that a backend may take, in order of precedence."""
        found = []
        for kind, indexes in self._kinds.items():
            if backend in kind[0] and self._left[kind]:
                index = min((i for i in indexes if self._taken[i] < len(self._groups[i].jobs)), key=self._place)
                found.append(_Head(self._place(index), kind, index, self._groups[index]))
        return sorted(found, key=lambda head: head.place)

    def take(self, head: _Head) -> str:
        """Removes the first job of its kind and returns its id."""
        job: str = self._groups[head.index].jobs[self._taken[head.index]][1]
        self._taken[head.index] += 1
        self._left[head.kind] -= 1
        return job

    def able(self, backends: Sequence[_Backend]) -> int:
        """How many jobs at least one of these backends may take."""
        keys = {backend.key for backend in backends}
        return sum(left for (options, _), left in self._left.items() if not keys.isdisjoint(options))

    def _place(self, index: int) -> Any:
        return self._groups[index].jobs[self._taken[index]][0]


@dataclass(frozen=True)
class _Head:
    place: Any
    kind: tuple[frozenset[str], bool]
    index: int
    group: PendingGroup


def horizon(goal: Goal, pending: Sequence[PendingGroup], lanes: Sequence[LaneState]) -> float:
    """Seconds from now to plan for: the goal's, or the nearest feasible one.

    A deadline is planned with half a service time in hand; a budget gives the shortest time it can pay for. With both,
    the budget holds and the deadline is met as nearly as it allows. Without a deadline half a service time is added.
    """
    backends = [backend for backend in _backends(pending, lanes) if backend.lanes]
    jobs = sum(len(group.jobs) for group in pending)
    if not backends or not jobs:
        return math.inf
    resources = [backend.resource() for backend in backends]
    shortest = planner.shortest(resources, jobs).duration_s
    wanted = math.inf
    if goal.budget_usd is not None:
        plan = planner.within_budget(resources, jobs, goal.budget_usd)
        wanted = plan.duration_s if plan else math.inf
    if goal.deadline_s is not None:
        slowest = max(backend.service_s for backend in backends)
        guarded = goal.deadline_s - min(0.5 * slowest, 0.1 * goal.deadline_s)
        wanted = guarded if wanted is math.inf else max(guarded, wanted)
    if goal.deadline_s is None and goal.budget_usd is None:
        wanted = planner.balanced(resources, jobs, goal.value_of_time_usd_per_h).duration_s
    if goal.deadline_s is None:
        # Nobody asked for this very second: without some slack, a lane that runs a little late would send the last
        # jobs to the dearest backend to save it.
        wanted += SLACK * min(backend.service_s for backend in backends)
    return max(wanted, shortest)


def assign(pending: Sequence[PendingGroup], lanes: Sequence[LaneState], horizon_s: float) -> list[Assignment]:
    """The assignments to make now; neither the groups nor the lanes are modified."""
    backends = _backends(pending, lanes)
    total_lanes = sum(len(b.lanes) for b in backends)
    waiting = _Waiting(pending)
    made: list[Assignment] = []
    for position, backend in enumerate(backends):
        for lane in sorted(backend.lanes, key=lambda state: state.free_s):
            while len(waiting) and lane.outstanding < 1 + (lane.ahead if len(waiting) >= total_lanes else 0):
                pick = _pick(waiting, lane, backend, backends, position, horizon_s)
                if pick is None:
                    break
                head, reason = pick
                lane.outstanding += 1
                lane.free_s += head.group.options[backend.key].service_s
                made.append(Assignment(waiting.take(head), lane.id, backend.key, reason))
    return made


def _backends(pending: Sequence[PendingGroup], lanes: Sequence[LaneState]) -> list[_Backend]:
    """The backends in order of mean price, each with copies of its lanes."""
    totals: dict[str, tuple[float, Decimal, int]] = {}
    for group in pending:
        jobs = len(group.jobs)
        for key, quote in group.options.items():
            service, price, count = totals.get(key, (0.0, Decimal(0), 0))
            totals[key] = (service + quote.service_s * jobs, price + quote.amount_usd * jobs, count + jobs)
    found = {k: _Backend(k, service / n, price / n) for k, (service, price, n) in totals.items() if n}
    for lane in lanes:
        if lane.backend in found:
            found[lane.backend].lanes.append(replace(lane))
    return sorted(found.values(), key=lambda b: (b.price_usd, b.service_s, b.key))


def _pick(
    waiting: _Waiting,
    lane: LaneState,
    backend: _Backend,
    backends: Sequence[_Backend],
    position: int,
    horizon_s: float,
) -> tuple[_Head, str] | None:
    """The first waiting job this lane should take now, with the reason."""
    for head in waiting.heads(backend.key):
        reason = _reason(head.group, waiting, lane, backend, backends, position, horizon_s)
        if reason is not None:
            return head, reason
    return None


def _reason(
    group: PendingGroup,
    waiting: _Waiting,
    lane: LaneState,
    backend: _Backend,
    backends: Sequence[_Backend],
    position: int,
    horizon_s: float,
) -> str | None:
    others = [b for b in backends if b.key in group.options and b.key != backend.key and b.lanes]
    finish = lane.free_s + group.options[backend.key].service_s
    if not others:
        return "the only backend that can take it"
    if group.urgent:
        best = min(b.earliest_s() for b in others)
        return f"finishes it first, in {finish:.0f} s; speed is prioritised" if finish <= best else None
    if finish > horizon_s + 1e-6:
        rescue = [b for b in others if b.earliest_s() < finish]
        return None if rescue else f"the goal of {horizon_s:.0f} s cannot be met; no other finishes it earlier"
    cheaper = [b for b in backends[:position] if b in others]
    if not cheaper:
        return "the cheapest backend that can take it, and free"
    rivals = waiting.able(cheaper)
    room = sum(b.capacity(horizon_s) for b in cheaper)
    dearest = all(b.price_usd <= backend.price_usd for b in others)
    can_wait = dearest and len(cheaper) > 1 and rivals - room < backend.capacity(horizon_s - 2 * backend.service_s)
    if rivals <= room or can_wait:
        return None
    return f"cheaper backends can finish only {room} of the {rivals} waiting jobs within {horizon_s:.0f} s"
