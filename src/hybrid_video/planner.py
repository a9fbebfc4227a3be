"""Cheapest split for a deadline, shortest time for a budget, and everything between: pure arithmetic.

A `Resource` is a kind of slot: so many of them, so long a clip, so dear a clip. For one class of jobs, filling the
resources in order of price up to what each can finish by a deadline is the exact optimum, so every answer here is exact
for identical jobs and known times. The calculator, `plan`, the API and the dispatcher all call this module.

The cost can fall only at the end of a clip, so times are searched among those ends, by bisection: nothing here grows
with the number of jobs except `frontier`, which grows with the number of its points.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

EPSILON = 1e-9
"""Share of a clip that counts as nothing: the end of the n-th clip is never missed through rounding."""

UNLIMITED = 10**9
"""Clips a slot makes that needs no time at all."""


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
            return UNLIMITED if any(ready <= horizon_s + EPSILON for ready in self.starts()) else 0
        if not self.ready_s:
            return self.slots * max(0, math.floor(horizon_s / self.service_s + EPSILON))
        each = self.service_s
        return sum([int((horizon_s - ready) / each + EPSILON) for ready in self.ready_s if ready < horizon_s])

    def starts(self) -> tuple[float, ...]:
        """When each slot can take its first job."""
        return self.ready_s or (0.0,) * self.slots

    def finish_s(self, jobs: int) -> float:
        """Seconds until it has made so many clips, its slots shared greedily; infinite without a slot."""
        if jobs <= 0:
            return 0.0
        if not self.slots:
            return math.inf
        if self.service_s <= 0:
            return min(self.starts())
        if not self.ready_s:
            return float(math.ceil(jobs / self.slots) * self.service_s)
        return _first_end([self], lambda time_s: self.capacity(time_s) >= jobs, self.alone_s(jobs))

    def alone_s(self, jobs: int) -> float:
        """A time by which it has certainly made so many clips; infinite without a slot."""
        if not self.slots:
            return math.inf
        return max(self.starts()) + math.ceil(jobs / self.slots) * self.service_s

    def end_by(self, time_s: float) -> float | None:
        """The last end of a clip not after a time; None if there is none."""
        return self._last_end(
            lambda clips: math.floor(clips + EPSILON), lambda ready: ready <= time_s + EPSILON, time_s
        )

    def end_before(self, time_s: float) -> float | None:
        """The last end of a clip before a time; None if there is none."""
        return self._last_end(
            lambda clips: math.ceil(clips - EPSILON) - 1, lambda ready: ready < time_s - EPSILON, time_s
        )

    def end_after(self, time_s: float) -> float | None:
        """The first end of a clip after a time; None if there is none."""
        if self.service_s <= 0:
            return min((ready for ready in self._phases() if ready > time_s + EPSILON), default=None)
        ends = (
            ready + max(1, math.floor((time_s - ready) / self.service_s + EPSILON) + 1) * self.service_s
            for ready in self._phases()
        )
        return min(ends, default=None)

    def _last_end(self, whole: Callable[[float], int], started: Callable[[float], bool], time_s: float) -> float | None:
        if self.service_s <= 0:
            return max((ready for ready in self._phases() if started(ready)), default=None)
        counted = ((ready, whole((time_s - ready) / self.service_s)) for ready in self._phases())
        return max((ready + clips * self.service_s for ready, clips in counted if clips >= 1), default=None)

    def _phases(self) -> tuple[float, ...]:
        """The distinct starts."""
        return tuple(set(self.ready_s)) if self.ready_s else (0.0,) if self.slots else ()


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
    split: dict[str, int] = {resource.key: 0 for resource in resources}
    left, cost, duration = jobs, Decimal(0), 0.0
    for resource in _by_price(resources):
        take = min(left, resource.capacity(deadline_s))
        split[resource.key] += take
        left -= take
        cost += take * resource.price_usd
        duration = max(duration, resource.finish_s(take))
    return None if left else Plan(split, cost, duration)


def shortest(resources: Sequence[Resource], jobs: int) -> Plan:
    """The least possible duration, and the cheapest split that reaches it.

    Raises:
        ValueError: no resource has a slot.
    """
    return _plan_at(resources, jobs, _shortest_s(resources, jobs))


def frontier(resources: Sequence[Resource], jobs: int) -> Frontier:
    """Every duration worth paying for, from the fastest plan to the cheapest.

    Raises:
        ValueError: no resource has a slot.
    """
    points = [shortest(resources, jobs)]
    least = _least_usd(resources, jobs)
    ordered = _by_price(resources)
    for time_s in _ends_from(resources, points[0].duration_s):
        if points[-1].cost_usd <= least:
            break
        cost = _cost_by(ordered, jobs, time_s)
        if cost is not None and cost < points[-1].cost_usd:
            points.append(_plan_at(resources, jobs, time_s))
    return Frontier(tuple(points), _kink(points, resources))


def within_budget(resources: Sequence[Resource], jobs: int, budget_usd: Decimal) -> Plan | None:
    """The shortest plan that costs no more than a budget; None if even the cheapest does."""
    time_s = _affordable_s(resources, jobs, budget_usd)
    return None if time_s is None else _plan_at(resources, jobs, time_s)


def balanced(resources: Sequence[Resource], jobs: int, value_of_time_usd_per_h: float) -> Plan:
    """The plan with the least cost plus value of the time it takes.

    Between two times it costs at least what the later one costs and lasts at least as long as the earlier one, so whole
    stretches are ruled out at once.
    """
    rate = value_of_time_usd_per_h / 3600
    ordered = _by_price(resources)

    def cost_at(time_s: float) -> float:
        cost = _cost_by(ordered, jobs, time_s)
        return math.inf if cost is None else float(cost)

    fastest_s = _shortest_s(resources, jobs)
    cheapest_s = _affordable_s(resources, jobs, _least_usd(resources, jobs))
    assert cheapest_s is not None  # noqa: S101 - the least cost is always affordable with itself
    ends = [(fastest_s, cost_at(fastest_s)), (cheapest_s, cost_at(cheapest_s))]
    best = min((cost + rate * time_s, time_s) for time_s, cost in ends)
    stretches = [(*ends[0], *ends[1])]
    while stretches:
        early_s, early, late_s, late = stretches.pop()
        if late + rate * early_s >= best[0]:
            continue
        middle_s = _end_between(resources, early_s, late_s)
        if middle_s is None:
            continue
        middle = cost_at(middle_s)
        best = min(best, (middle + rate * middle_s, middle_s))
        stretches += [(early_s, early, middle_s, middle), (middle_s, middle, late_s, late)]
    return _plan_at(resources, jobs, best[1])


def all_on(resource: Resource, jobs: int) -> Plan:
    """Everything on one resource, for comparison."""
    return Plan({resource.key: jobs}, jobs * resource.price_usd, resource.finish_s(jobs))


def _by_price(resources: Sequence[Resource]) -> list[Resource]:
    return sorted((r for r in resources if r.slots), key=lambda r: (r.price_usd, r.service_s))


def _least_usd(resources: Sequence[Resource], jobs: int) -> Decimal:
    return min(resource.price_usd for resource in resources if resource.slots) * jobs


def _cost_by(ordered: Sequence[Resource], jobs: int, deadline_s: float) -> Decimal | None:
    """The cost of the cheapest split that finishes by a deadline, resources being in order of price."""
    left, cost = jobs, Decimal(0)
    for resource in ordered:
        take = min(left, resource.capacity(deadline_s))
        left -= take
        cost += take * resource.price_usd
        if not left:
            return cost
    return None


def _plan_at(resources: Sequence[Resource], jobs: int, time_s: float) -> Plan:
    plan = cheapest_by(resources, jobs, time_s)
    assert plan is not None  # noqa: S101 - only asked for times that were found feasible
    return plan


def _shortest_s(resources: Sequence[Resource], jobs: int) -> float:
    high = min((resource.alone_s(jobs) for resource in resources), default=math.inf)
    if high == math.inf:
        raise ValueError("no backend has a slot; configure at least one")
    return _first_end(resources, lambda time_s: sum(r.capacity(time_s) for r in resources) >= jobs, high)


def _affordable_s(resources: Sequence[Resource], jobs: int, budget_usd: Decimal) -> float | None:
    """The least duration whose cost a budget can pay; None if it cannot pay any."""
    least = _least_usd(resources, jobs)
    if least > budget_usd:
        return None
    ordered = _by_price(resources)

    def affordable(time_s: float) -> bool:
        cost = _cost_by(ordered, jobs, time_s)
        return cost is not None and cost <= budget_usd

    return _first_end(resources, affordable, ordered[0].alone_s(jobs))


def _first_end(resources: Sequence[Resource], holds: Callable[[float], bool], high_s: float) -> float:
    """The first end of a clip at which a condition holds that stays true once it is; `high_s` is one where it holds."""
    low_s, finest_s = 0.0, min((r.service_s for r in resources if r.slots and r.service_s > 0), default=high_s)
    end_s = high_s
    while high_s - low_s > finest_s / 4:
        middle_s = (low_s + high_s) / 2
        if holds(middle_s):
            high_s = end_s = middle_s
        else:
            low_s = middle_s
    last_s = _end_by(resources, end_s)
    end_s = end_s if last_s is None or not holds(last_s) else last_s
    while True:
        before_s = max((end for r in resources if (end := r.end_before(end_s)) is not None), default=None)
        if before_s is None or not holds(before_s):
            return end_s
        end_s = before_s


def _end_by(resources: Sequence[Resource], time_s: float) -> float | None:
    return max((end for r in resources if (end := r.end_by(time_s)) is not None), default=None)


def _end_between(resources: Sequence[Resource], early_s: float, late_s: float) -> float | None:
    """An end of a clip between two others, near their middle; None if there is none."""
    middle_s = (early_s + late_s) / 2
    end_s = _end_by(resources, middle_s)
    if end_s is None or end_s <= early_s + EPSILON:
        end_s = next(_ends_from(resources, middle_s), None)
    return end_s if end_s is not None and early_s + EPSILON < end_s < late_s - EPSILON else None


def _ends_from(resources: Sequence[Resource], time_s: float) -> Iterator[float]:
    """Ends of clips after a time, in order."""
    while True:
        ends = [end for r in resources if (end := r.end_after(time_s)) is not None]
        if not ends:
            return
        time_s = min(ends)
        yield time_s


def _kink(points: Sequence[Plan], resources: Sequence[Resource]) -> Plan:
    """The first point that does without the dearest resource: before it a second saved is dear, after it cheap."""
    dearest = max(resources, key=lambda r: (r.price_usd, -r.service_s)).key
    return next((plan for plan in points if plan.split[dearest] == 0), points[-1])
