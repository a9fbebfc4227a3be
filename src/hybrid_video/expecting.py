"""What a batch is expected to come to where times scatter: the planner's arithmetic with parts of clips. Pure.

The planner is exact for known times. Where they scatter, a slot is in the middle of a clip when the time is up, so it
makes half a clip less than its time allows, less the scatter's share: `(1 - cv^2) / 2`. Where nothing dearer takes the
rest, the batch lasts until its last slot is done, and only the others wait for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from hybrid_video.goals import GUARD
from hybrid_video.planner import Plan, Resource

STEPS = 60

LATE = 0.3
"""Clips of the cheapest kind that a batch without a goal ends late, on average of simulated ones."""


@dataclass(frozen=True)
class Uncertain:
    """A kind of slot with the scatter of its times.

    Args:
        resource: slots, mean seconds and dollars per finished clip, those of failed attempts included.
        cv: coefficient of variation of a clip's time; 0 where it is certain.
    """

    resource: Resource
    cv: float

    def room(self, time_s: float, waste: float) -> float:
        """Clips it is expected to finish within a time, so much of a clip wasted per slot."""
        each = self.resource.service_s
        if each <= 0:
            return math.inf
        lost = waste * (1 - min(1.0, self.cv * self.cv))
        return sum(max(0.0, (time_s - ready) / each - lost) for ready in self.resource.starts())


def expected(
    kinds: Sequence[Uncertain],
    jobs: int,
    *,
    deadline_s: float | None,
    budget_usd: Decimal | None,
    value_of_time_usd_per_h: float,
) -> Plan | None:
    """Expected cost and duration for a goal, as the dispatcher pursues it; None without a slot or a job.

    A deadline is planned with the dispatcher's own guard. What a budget or a deadline cannot have is answered with the
    nearest.
    """
    ordered = sorted(
        (kind for kind in kinds if kind.resource.slots),
        key=lambda kind: (kind.resource.price_usd, kind.resource.service_s),
    )
    if not ordered or not jobs:
        return None
    ends = [_end_s(ordered[: count + 1], jobs) for count in range(len(ordered))]
    fastest_s, cheapest_s = ends[-1], ends[0]
    if deadline_s is not None:
        guard_s = min(GUARD * max(kind.resource.service_s for kind in ordered), 0.1 * deadline_s)
        time_s = min(max(deadline_s - guard_s, fastest_s), cheapest_s)
        if budget_usd is not None and _cost(ordered, jobs, time_s) > float(budget_usd):
            time_s = _affordable_s(ordered, jobs, float(budget_usd), time_s, cheapest_s)
    elif budget_usd is not None:
        time_s = _affordable_s(ordered, jobs, float(budget_usd), fastest_s, cheapest_s)
    else:
        rate = value_of_time_usd_per_h / 3600
        time_s = min(ends, key=lambda end_s: (_cost(ordered, jobs, end_s) + rate * end_s, end_s))
        time_s += _late_s(ordered, jobs, time_s)
    parts = _parts(ordered, jobs, time_s)
    cost = Decimal(0)
    for kind, part in zip(ordered, parts, strict=True):
        cost += Decimal(str(round(part, 6))) * kind.resource.price_usd
    return Plan(_whole(ordered, parts, jobs), cost, time_s)


def _end_s(kinds: Sequence[Uncertain], jobs: int) -> float:
    """When so many clips are done by these alone: all but the last slot wait for half a clip."""
    slots = sum(kind.resource.slots for kind in kinds)
    waste = 0.5 * (slots - 1) / slots
    low, high = 0.0, min(kind.resource.alone_s(jobs) for kind in kinds) * 2 + 1.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        if sum(kind.room(middle, waste) for kind in kinds) >= jobs:
            high = middle
        else:
            low = middle
    return high


def _late_s(ordered: Sequence[Uncertain], jobs: int, time_s: float) -> float:
    """How much later a batch without a goal is expected to end than planned, with so much less bought.

    The dispatcher lets a cheaper slot begin a clip that ends up to half a clip late. Where in a clip its slots are when
    the time is up is chance only after many of them, or where times scatter much; before, it is planned.
    """
    first, parts = ordered[0], _parts(ordered, jobs, time_s)
    if jobs - parts[0] < 1e-9 or not first.resource.service_s:
        return 0.0
    chance = min(1.0, 12 * first.cv * first.cv * parts[0] / first.resource.slots)  # 1/12: variance of an even spread
    return LATE * chance * first.resource.service_s


def _parts(ordered: Sequence[Uncertain], jobs: int, time_s: float) -> list[float]:
    """Clips of each kind, the cheapest filled first; the dearest that can takes the rest."""
    for count in range(1, len(ordered) + 1):
        if time_s >= _end_s(ordered[:count], jobs) * (1 - 1e-9):
            used = ordered[:count]
            break
    else:
        used = ordered
    slots = sum(kind.resource.slots for kind in used)
    alone = time_s <= _end_s(used, jobs) * (1 + 1e-9)
    waste = 0.5 * (slots - 1) / slots if alone else 0.5
    left, parts = float(jobs), []
    for kind in used[:-1]:
        take = min(left, kind.room(time_s, waste))
        parts.append(take)
        left -= take
    return [*parts, left, *[0.0] * (len(ordered) - len(used))]


def _cost(ordered: Sequence[Uncertain], jobs: int, time_s: float) -> float:
    return sum(
        part * float(kind.resource.price_usd) for kind, part in zip(ordered, _parts(ordered, jobs, time_s), strict=True)
    )


def _affordable_s(ordered: Sequence[Uncertain], jobs: int, budget: float, low: float, high: float) -> float:
    """The least time whose expected cost a budget pays for; the cheapest plan's where it pays for none."""
    for _ in range(STEPS):
        middle = (low + high) / 2
        if _cost(ordered, jobs, middle) <= budget:
            high = middle
        else:
            low = middle
    return high


def _whole(ordered: Sequence[Uncertain], parts: Sequence[float], jobs: int) -> dict[str, int]:
    """The parts as whole clips that add up."""
    whole = [math.floor(part) for part in parts]
    by_rest = sorted(range(len(parts)), key=lambda place: whole[place] - parts[place])
    for place in by_rest[: jobs - sum(whole)]:
        whole[place] += 1
    return {kind.resource.key: count for kind, count in zip(ordered, whole, strict=True)}
