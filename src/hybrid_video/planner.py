"""Cheapest split for a deadline, shortest time for a budget, and everything between: pure arithmetic.

A `Resource` is a kind of slot: so many of them, so long a clip, so dear a clip. For one class of jobs, filling the
resources in order of price up to what each can finish by a deadline is the exact optimum, so every answer here is exact
for identical jobs and known times. The calculator, `plan`, the API and the dispatcher all call this module.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal

EPSILON = 1e-9


@dataclass(frozen=True)
class Resource:
    """One kind of slot.

    Args:
        key: name, for example a tier or a backend.
        slots: how many clips it makes at once.
        service_s: seconds for one clip.
        price_usd: dollars for one clip.
        ready_s: for each slot, seconds until it can take a job (all 0 when empty).
    """

    key: str
    slots: int
    service_s: float
    price_usd: Decimal
    ready_s: tuple[float, ...] = ()

    def capacity(self, horizon_s: float) -> int:
        """Clips it can finish within a horizon."""
        if self.service_s <= 0:
            return 10**9 if self.slots else 0
        return sum(max(0, math.floor((horizon_s - ready) / self.service_s + EPSILON)) for ready in self.starts())

    def starts(self) -> tuple[float, ...]:
        """When each slot can take its first job."""
        return self.ready_s or (0.0,) * self.slots

    def finish_s(self, jobs: int) -> float:
        """Seconds until it has made so many clips, its slots shared greedily."""
        if jobs <= 0:
            return 0.0
        ends = sorted(self.starts())
        for _ in range(jobs if len(set(ends)) > 1 else 0):
            ends[0] += self.service_s
            ends.sort()
        return max(ends) if len(set(self.starts())) > 1 else ends[0] + math.ceil(jobs / len(ends)) * self.service_s


@dataclass(frozen=True)
class Plan:
    """A split and what it comes to."""

    split: dict[str, int]
    cost_usd: Decimal
    duration_s: float


@dataclass(frozen=True)
class Frontier:
    """The Pareto points from fastest to cheapest, and the kink: where a further second saved becomes dear."""

    points: tuple[Plan, ...]
    kink: Plan = field(repr=False)


def cheapest_by(resources: Sequence[Resource], jobs: int, deadline_s: float) -> Plan | None:
    """The cheapest split that finishes by a deadline; None if none does."""
    split: dict[str, int] = {}
    left, cost, duration = jobs, Decimal(0), 0.0
    for resource in sorted(resources, key=lambda r: (r.price_usd, r.service_s)):
        take = min(left, resource.capacity(deadline_s))
        split[resource.key] = split.get(resource.key, 0) + take
        left -= take
        cost += take * resource.price_usd
        duration = max(duration, resource.finish_s(take))
    ordered = {resource.key: split[resource.key] for resource in resources}
    return None if left else Plan(ordered, cost, duration)


def shortest(resources: Sequence[Resource], jobs: int) -> Plan:
    """The least possible duration, and the cheapest split that reaches it.

    Raises:
        ValueError: no resource has a slot.
    """
    times = _breakpoints(resources, jobs)
    if not times:
        raise ValueError("no backend has a slot; configure at least one")
    low, high = 0, len(times) - 1
    while low < high:
        middle = (low + high) // 2
        if sum(r.capacity(times[middle]) for r in resources) >= jobs:
            high = middle
        else:
            low = middle + 1
    plan = cheapest_by(resources, jobs, times[low])
    assert plan is not None  # noqa: S101 - the last break point holds every job
    return plan


def frontier(resources: Sequence[Resource], jobs: int) -> Frontier:
    """Every duration worth paying for, from the fastest plan to the cheapest."""
    fastest = shortest(resources, jobs)
    points = [fastest]
    for time_s in _breakpoints(resources, jobs):
        if time_s <= fastest.duration_s + EPSILON:
            continue
        plan = cheapest_by(resources, jobs, time_s)
        if plan is not None and plan.cost_usd < points[-1].cost_usd:
            points.append(plan)
    return Frontier(tuple(points), _kink(points, resources))


def within_budget(resources: Sequence[Resource], jobs: int, budget_usd: Decimal) -> Plan | None:
    """The shortest plan that costs no more than a budget; None if even the cheapest does."""
    return next((plan for plan in frontier(resources, jobs).points if plan.cost_usd <= budget_usd), None)


def balanced(resources: Sequence[Resource], jobs: int, value_of_time_usd_per_h: float) -> Plan:
    """The plan with the least cost plus value of the time it takes."""
    rate = value_of_time_usd_per_h / 3600
    return min(frontier(resources, jobs).points, key=lambda p: float(p.cost_usd) + rate * p.duration_s)


def all_on(resource: Resource, jobs: int) -> Plan:
    """Everything on one resource, for comparison."""
    return Plan({resource.key: jobs}, jobs * resource.price_usd, resource.finish_s(jobs))


def _breakpoints(resources: Sequence[Resource], jobs: int) -> list[float]:
    """Horizons at which some capacity grows, up to where each resource could do everything."""
    times: set[float] = set()
    for resource in resources:
        if not resource.slots:
            continue
        for ready in set(resource.starts()):
            rounds = math.ceil(jobs / max(1, resource.starts().count(ready)))
            times.update(round(ready + n * resource.service_s, 6) for n in range(1, rounds + 1))
    return sorted(times)


def _kink(points: Sequence[Plan], resources: Sequence[Resource]) -> Plan:
    """The first point that does without the dearest resource: before it a second saved is dear, after it cheap."""
    dearest = max(resources, key=lambda r: (r.price_usd, -r.service_s)).key
    return next((plan for plan in points if plan.split[dearest] == 0), points[-1])
