"""Plans with rented GPUs that are not open yet: how many to open for a deadline, and every duration worth paying for.

`planner` fills slots that are there; here each number of pods is tried, with what their start costs and, by the hour,
every hour begun. Exact for identical jobs, known times and one kind of pod. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from hybrid_video import planner
from hybrid_video.planner import Plan, Resource
from hybrid_video.scaling.state import HOUR_S, PodOffer

PODS = "pods"
"""The key under which a plan's split counts clips made on pods."""


@dataclass(frozen=True)
class PodPlan:
    """A split, the pods opened for it, and what both come to together."""

    pods: int
    split: dict[str, int]
    cost_usd: Decimal
    duration_s: float
    opening_usd: Decimal
    """Part of the cost that is not clips: starts, or hours begun."""


def cheapest_with_pods(
    resources: Sequence[Resource], offer: PodOffer, jobs: int, deadline_s: float, *, most: int = 5
) -> PodPlan | None:
    """The cheapest split and number of pods that finish by a deadline, with equal costs the fewest; None if none do."""
    found = [
        _priced(offer, opened, plan)
        for opened in range(most + 1)
        if (plan := planner.cheapest_by(_pool(resources, offer, opened), jobs, deadline_s)) is not None
    ]
    return min(found, key=lambda plan: (plan.cost_usd, plan.pods), default=None)


def within_budget_with_pods(
    resources: Sequence[Resource], offer: PodOffer, jobs: int, budget_usd: Decimal, *, most: int = 5
) -> PodPlan | None:
    """The shortest split and number of pods within a budget, starts included; None if even the cheapest is dearer."""
    found: list[PodPlan] = []
    for opened in range(most + 1):
        pool = _pool(resources, offer, opened)
        hours = 1
        while (left_usd := budget_usd - opened * _opening_usd(offer, hours * HOUR_S)) >= 0:
            plan = planner.within_budget(pool, jobs, left_usd) if any(resource.slots for resource in pool) else None
            if plan is None:
                break
            if offer.billing != "hour" or not opened or plan.duration_s <= hours * HOUR_S:
                found.append(_priced(offer, opened, plan))
                break
            hours += 1
    return min(found, key=lambda plan: (plan.duration_s, plan.cost_usd, plan.pods), default=None)


def balanced_with_pods(
    resources: Sequence[Resource], offer: PodOffer, jobs: int, value_of_time_usd_per_h: float, *, most: int = 5
) -> PodPlan | None:
    """The split and number of pods with the least cost plus value of the time; None if nothing has a slot."""
    found: list[PodPlan] = []
    for opened in range(most + 1):
        pool = _pool(resources, offer, opened)
        if not any(resource.slots for resource in pool):
            continue
        plan = planner.balanced(pool, jobs, value_of_time_usd_per_h)
        found.append(_priced(offer, opened, plan))
        whole_hours_s = plan.duration_s // HOUR_S * HOUR_S  # an hour begun is paid, so its end is worth a look
        if offer.billing == "hour" and (sooner := planner.cheapest_by(pool, jobs, whole_hours_s)) is not None:
            found.append(_priced(offer, opened, sooner))
    rate = value_of_time_usd_per_h / 3600
    return min(found, key=lambda plan: (float(plan.cost_usd) + rate * plan.duration_s, plan.pods), default=None)


def frontier_with_pods(
    resources: Sequence[Resource],
    offer: PodOffer,
    jobs: int,
    *,
    most: int = 5,
    frontier: Callable[[Sequence[Resource], int], Iterable[Plan]] = lambda pool, jobs: (
        planner.frontier(pool, jobs).points
    ),
) -> tuple[PodPlan, ...]:
    """Every duration worth paying for, from the fastest plan to the cheapest.

    Args:
        frontier: the plans of a fixed number of pods; all of them, or fewer for a chart.

    Raises:
        ValueError: nothing has a slot, and no pod may be opened.
    """
    found: list[PodPlan] = []
    for opened in range(most + 1):
        pool = _pool(resources, offer, opened)
        if any(resource.slots for resource in pool):
            found += [_priced(offer, opened, plan) for plan in frontier(pool, jobs)]
    if not found:
        raise ValueError("no backend has a slot; configure at least one")
    found.sort(key=lambda plan: (plan.duration_s, plan.cost_usd, plan.pods))
    points: list[PodPlan] = []
    for plan in found:
        if not points or plan.cost_usd < points[-1].cost_usd:
            points.append(plan)
    return tuple(points)


def _pool(resources: Sequence[Resource], offer: PodOffer, opened: int) -> list[Resource]:
    if not opened:
        return list(resources)
    hourly = offer.billing == "hour"
    price = Decimal(0) if hourly else offer.price_usd_per_h * Decimal(str(offer.service_s)) / 3600
    return [*resources, Resource(PODS, opened, offer.service_s, price, (offer.cold_start_s,) * opened)]


def _priced(offer: PodOffer, opened: int, plan: Plan) -> PodPlan:
    """The plan with what opening costs; pods that would make no clip are not opened."""
    used = min(opened, plan.split.get(PODS, 0))
    opening = used * _opening_usd(offer, plan.duration_s)
    return PodPlan(used, plan.split, plan.cost_usd + opening, plan.duration_s, opening)


def _opening_usd(offer: PodOffer, until_s: float) -> Decimal:
    if offer.billing == "hour":
        return offer.price_usd_per_h * max(1, math.ceil(until_s / HOUR_S - planner.EPSILON))
    return offer.price_usd_per_h * Decimal(str(offer.cold_start_s)) / 3600
