"""From what a batch aims at to the horizon the dispatcher plans for. Pure; the planner does the arithmetic."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from hybrid_video import planner
from hybrid_video.planner import Resource
from hybrid_video.waiting import Waiting

SLACK = 0.5
"""Share of the shortest service time that a batch with a budget alone may take longer than the budget can buy."""

GUARD = 0.6
"""Share of the longest service time kept in hand, so that about 95 of 100 batches are on time."""


@dataclass
class LaneState:
    """A lane as it stands: `free_s` is when it could start another job; `outstanding` what it holds already.

    `ahead` is how many it may hold behind the running one, `model` what it made last and so has loaded. `paid` is one
    that costs the same whether it works or not, such as a rented GPU while it is open.
    """

    id: str
    backend: str
    free_s: float = 0.0
    outstanding: int = 0
    ahead: int = 0
    model: str = ""
    paid: bool = False


OUTAGE_S = 30.0
"""How long a backend is thought to stay away when it goes (a restart, one rest of a breaker)."""


AFFORDABLE = 3.0
"""A deadline must be so many outages away before anybody counts on a return: then there is time to be wrong."""


def returning(lanes: Iterable[LaneState], gone_s: float, deadline_s: float | None = None) -> list[LaneState]:
    """Lanes of a backend that is away: they take nothing now, and count from the expected return on.

    Once it has been away for longer than outages last, nobody counts on it any more, or a backend that is gone for good
    would make the batch late.

    Args:
        deadline_s: what is left until the deadline.
    """
    if gone_s > OUTAGE_S or (deadline_s is not None and deadline_s < AFFORDABLE * OUTAGE_S):
        return []
    return [replace(lane, free_s=OUTAGE_S - gone_s, outstanding=1, ahead=0) for lane in lanes]


@dataclass(frozen=True)
class Goal:
    """What the batch aims at: a deadline, a budget, or both; neither means balanced.

    Args:
        whole_s: the deadline as it was at the start, where `deadline_s` is what is left of it.
        guard_s: seconds before the deadline to aim at; None keeps `GUARD` of the longest service time, but never more
            than a tenth of the whole. 0 where times are certain.
    """

    deadline_s: float | None = None
    budget_usd: Decimal | None = None
    value_of_time_usd_per_h: float = 10.0
    whole_s: float | None = None
    guard_s: float | None = None


def horizon(goal: Goal, waiting: Waiting, lanes: Sequence[LaneState], pace: Mapping[str, float] | None = None) -> float:
    """Seconds from now to plan for: the goal's, or the nearest feasible one.

    A deadline is planned with 0.6 of the longest service time in hand; a budget gives the shortest time it can pay for.
    With both, the budget holds and the deadline is met as nearly as it allows. A budget alone adds half of the shortest
    service time. With neither it is the end of the plan whose time and money are worth least: more would leave backends
    idle at the end that are worth their price.

    Args:
        pace: how many times longer than quoted clips take, per backend, where that was observed.
    """
    resources = _resources(waiting, lanes, pace or {})
    jobs = len(waiting)
    if not resources or not jobs:
        return math.inf
    if goal.deadline_s is not None:
        wanted = goal.deadline_s - _guard_s(goal, resources)
        if goal.budget_usd is not None:
            plan = planner.within_budget(resources, jobs, goal.budget_usd)
            wanted = max(wanted, plan.duration_s) if plan else math.inf
        feasible = wanted > 0 and sum(resource.capacity(min(wanted, 1e9)) for resource in resources) >= jobs
        return wanted if feasible else max(wanted, planner.shortest(resources, jobs).duration_s)
    if goal.budget_usd is None:
        return planner.balanced(resources, jobs, goal.value_of_time_usd_per_h).duration_s
    plan = planner.within_budget(resources, jobs, goal.budget_usd)
    # Nobody asked for this very second: without some slack, a lane that runs a little late would send the last
    # jobs to the dearest backend to save it.
    return plan.duration_s + SLACK * min(resource.service_s for resource in resources) if plan else math.inf


def guard_s(services_s: Sequence[float], whole_s: float | None) -> float:
    """Seconds to keep in hand before a deadline: `GUARD` of the longest clip, at most a tenth of the whole."""
    return min(GUARD * max(services_s, default=0.0), 0.1 * (whole_s or 0.0))


def _guard_s(goal: Goal, resources: Sequence[Resource]) -> float:
    if goal.guard_s is not None:
        return goal.guard_s
    return guard_s([resource.service_s for resource in resources], goal.whole_s or goal.deadline_s)


def _resources(waiting: Waiting, lanes: Sequence[LaneState], pace: Mapping[str, float]) -> list[Resource]:
    ready: dict[str, list[float]] = {}
    for lane in lanes:
        ready.setdefault(lane.backend, []).append(lane.free_s)
    return [
        Resource(key, len(free), total.service_s * pace.get(key, 1.0), total.price_usd, tuple(free))
        for key, total in waiting.totals.items()
        if total.jobs and (free := ready.get(key))
    ]
