"""Who gets which job now: deadline-aware marginal-cost dispatch, pure.

Jobs stay in one central list; a lane is given a job only when it can start it (or one ahead, where the backend can hold
it). With a goal of D seconds from now:

* the cheapest backend a job may use always takes it, unless it would miss D and a dearer one would not;
* a dearer one takes it only if the cheaper ones together cannot finish what is left by D;
* the dearest waits as long as it safely can;
* when D can no longer be met, a lane takes a job only if no other would finish it earlier.

Knows nothing of vendors, clocks or storage: times are seconds from now.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from hybrid_video import planner
from hybrid_video.models import Quote
from hybrid_video.planner import Resource


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
class Assignment:
    """One job for one lane, and why now and there."""

    job: str
    lane: str
    backend: str
    reason: str


@dataclass(frozen=True)
class Goal:
    """What the batch aims at: at most one of deadline and budget bounds it; neither means balanced."""

    deadline_s: float | None = None
    budget_usd: Decimal | None = None
    value_of_time_usd_per_h: float = 10.0


@dataclass
class _Backend:
    key: str
    service_s: float
    price_usd: Decimal
    lanes: list[LaneState] = field(default_factory=list)

    def capacity(self, horizon_s: float) -> int:
        if self.service_s <= 0:
            return 10**9
        return sum(max(0, math.floor((horizon_s - lane.free_s) / self.service_s + 1e-9)) for lane in self.lanes)

    def earliest_s(self) -> float:
        return min((lane.free_s for lane in self.lanes), default=math.inf) + self.service_s


def horizon(goal: Goal, pending: Sequence[PendingJob], lanes: Sequence[LaneState]) -> float:
    """Seconds from now to plan for: the goal's, or the nearest feasible one.

    A deadline is planned with half a service time in hand; a budget gives the shortest time it can pay for.
    """
    backends = _group(pending, lanes)
    resources = [
        Resource(b.key, len(b.lanes), b.service_s, b.price_usd, tuple(lane.free_s for lane in b.lanes))
        for b in backends
        if b.lanes
    ]
    if not resources or not pending:
        return math.inf
    shortest = planner.shortest(resources, len(pending)).duration_s
    wanted = math.inf
    if goal.budget_usd is not None:
        plan = planner.within_budget(resources, len(pending), goal.budget_usd)
        wanted = plan.duration_s if plan else math.inf
    if goal.deadline_s is not None:
        slowest = max(b.service_s for b in backends if b.lanes)
        guarded = goal.deadline_s - min(0.5 * slowest, 0.1 * goal.deadline_s)
        wanted = guarded if wanted is math.inf else max(guarded, wanted)
    if goal.deadline_s is None and goal.budget_usd is None:
        wanted = planner.balanced(resources, len(pending), goal.value_of_time_usd_per_h).duration_s
    return max(wanted, shortest)


def assign(pending: Sequence[PendingJob], lanes: Sequence[LaneState], horizon_s: float) -> list[Assignment]:
    """The assignments to make now. `pending` is in order of precedence; lanes are not modified."""
    backends = _group(pending, lanes)
    total_lanes = sum(len(b.lanes) for b in backends)
    waiting = list(pending)
    made: list[Assignment] = []
    for position, backend in enumerate(backends):
        for lane in sorted(backend.lanes, key=lambda state: state.free_s):
            while waiting and lane.outstanding < 1 + (lane.ahead if len(waiting) >= total_lanes else 0):
                pick = _pick(waiting, lane, backend, backends, position, horizon_s)
                if pick is None:
                    break
                index, reason = pick
                job = waiting.pop(index)
                lane.outstanding += 1
                lane.free_s += job.options[backend.key].service_s
                made.append(Assignment(job.id, lane.id, backend.key, reason))
    return made


def _group(pending: Sequence[PendingJob], lanes: Sequence[LaneState]) -> list[_Backend]:
    totals: dict[str, tuple[float, Decimal, int]] = {}
    for job in pending:
        for key, quote in job.options.items():
            service, price, count = totals.get(key, (0.0, Decimal(0), 0))
            totals[key] = (service + quote.service_s, price + quote.amount_usd, count + 1)
    groups = {k: _Backend(k, service / n, price / n) for k, (service, price, n) in totals.items()}
    for lane in lanes:
        if lane.backend in groups:
            copy = LaneState(lane.id, lane.backend, lane.free_s, lane.outstanding, lane.ahead)
            groups[lane.backend].lanes.append(copy)
    return sorted(groups.values(), key=lambda b: (b.price_usd, b.service_s, b.key))


def _pick(
    waiting: Sequence[PendingJob],
    lane: LaneState,
    backend: _Backend,
    backends: Sequence[_Backend],
    position: int,
    horizon_s: float,
) -> tuple[int, str] | None:
    """The first waiting job this lane should take now, with the reason."""
    judged: dict[tuple[frozenset[str], bool], str | None] = {}
    for index, job in enumerate(waiting):
        if backend.key not in job.options:
            continue
        kind = (frozenset(job.options), job.urgent)
        if kind not in judged:
            judged[kind] = _reason(job, waiting, lane, backend, backends, position, horizon_s)
        reason = judged[kind]
        if reason is not None:
            return index, reason
    return None


def _reason(
    job: PendingJob,
    waiting: Sequence[PendingJob],
    lane: LaneState,
    backend: _Backend,
    backends: Sequence[_Backend],
    position: int,
    horizon_s: float,
) -> str | None:
    others = [b for b in backends if b.key in job.options and b.key != backend.key and b.lanes]
    finish = lane.free_s + job.options[backend.key].service_s
    if not others:
        return "the only backend that can take it"
    if job.urgent:
        best = min(b.earliest_s() for b in others)
        return f"finishes it first, in {finish:.0f} s; speed is prioritised" if finish <= best else None
    if finish > horizon_s + 1e-6:
        rescue = [b for b in others if b.earliest_s() < finish]
        return None if rescue else f"the goal of {horizon_s:.0f} s cannot be met; no other finishes it earlier"
    cheaper = [b for b in backends[:position] if b in others]
    if not cheaper:
        return "the cheapest backend that can take it, and free"
    rivals = sum(1 for other in waiting if any(b.key in other.options for b in cheaper))
    room = sum(b.capacity(horizon_s) for b in cheaper)
    dearest = all(b.price_usd <= backend.price_usd for b in others)
    can_wait = dearest and len(cheaper) > 1 and rivals - room < backend.capacity(horizon_s - 2 * backend.service_s)
    if rivals <= room or can_wait:
        return None
    return f"cheaper backends can finish only {room} of the {rivals} waiting jobs within {horizon_s:.0f} s"
