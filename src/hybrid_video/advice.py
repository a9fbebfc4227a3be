"""What another deadline or one more slot would change, as sentences computed from the frontier; pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import ROUND_HALF_UP, Decimal
from functools import partial

from hybrid_video import planner
from hybrid_video.planner import Plan, Resource

LEAST_USD = Decimal("0.01")
LEAST_SHARE = Decimal("0.1")
"""Savings below a cent or a tenth are not worth a sentence."""

LONGEST_FACTOR = 3.0
"""Advice does not ask anybody to wait more than three times as long."""


def advise(
    resources: Sequence[Resource],
    jobs: int,
    chosen: Plan,
    *,
    past: bool = False,
    points: Sequence[Plan] | None = None,
    with_one_more: Callable[[Resource], Plan | None] | None = None,
) -> list[str]:
    """What waiting longer would save, what finishing sooner would cost, and what one more slot would be worth.

    Args:
        past: the batch is over, so the sentences speak of what would have been.
        points: the frontier, where it is known already.
        with_one_more: the plan in the chosen time with one more slot of a kind; by default the planner's.
    """
    if not jobs or not any(resource.slots for resource in resources):
        return []
    points = planner.frontier(resources, jobs).points if points is None else points
    found = (
        _later(points, chosen, past=past),
        _sooner(points, chosen, past=past),
        _slot(resources, chosen, with_one_more or partial(_planned_with, resources, jobs, chosen), past),
    )
    return [sentence for sentence in found if sentence]


def spoken(seconds: float) -> str:
    """A duration as people say it."""
    whole = round(seconds)
    if seconds < 10 and whole != seconds:
        return f"{seconds:.1f} s"
    if whole < 120:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min" + (f" {whole % 60} s" if whole % 60 else "")
    minutes = round(whole / 60)
    return f"{minutes // 60} h" + (f" {minutes % 60} min" if minutes % 60 else "")


def dollars(amount: Decimal) -> str:
    """An amount as people read it: cents, or three digits below a dime."""
    places = Decimal("0.01") if amount >= Decimal("0.1") else Decimal("0.001")
    return f"${amount.quantize(places, rounding=ROUND_HALF_UP)}"


def _worth(amount: Decimal, of: Decimal) -> bool:
    return amount >= LEAST_USD and amount >= of * LEAST_SHARE


def _later(points: Sequence[Plan], chosen: Plan, *, past: bool) -> str:
    """The later plan that saves most for each second waited."""
    later = [
        point
        for point in points
        if chosen.duration_s < point.duration_s <= LONGEST_FACTOR * chosen.duration_s
        and _worth(chosen.cost_usd - point.cost_usd, chosen.cost_usd)
    ]
    if not later:
        return ""
    best = max(later, key=lambda p: float(chosen.cost_usd - p.cost_usd) / (p.duration_s - chosen.duration_s))
    saved = chosen.cost_usd - best.cost_usd
    return (
        f"{spoken(best.duration_s)} instead of {spoken(chosen.duration_s)} {'would have saved' if past else 'saves'} "
        f"{dollars(saved)} of {dollars(chosen.cost_usd)} ({saved / chosen.cost_usd:.0%})"
    )


def _sooner(points: Sequence[Plan], chosen: Plan, *, past: bool) -> str:
    """The sooner plan that costs least for each second won, and wins at least a tenth."""
    sooner = [point for point in points if point.duration_s <= 0.9 * chosen.duration_s]
    if not sooner:
        return ""
    best = min(sooner, key=lambda p: float(p.cost_usd - chosen.cost_usd) / (chosen.duration_s - p.duration_s))
    extra = best.cost_usd - chosen.cost_usd
    verb = "would have been" if past else "is"
    if extra <= 0:
        return f"the same {verb} possible in {spoken(best.duration_s)} instead of {spoken(chosen.duration_s)}"
    return (
        f"for {dollars(extra)} more it {verb} done in {spoken(best.duration_s)} instead of {spoken(chosen.duration_s)}"
    )


def _planned_with(resources: Sequence[Resource], jobs: int, chosen: Plan, more: Resource) -> Plan | None:
    wider = [replace(one, slots=one.slots + 1) if one is more else one for one in resources]
    return planner.cheapest_by(wider, jobs, chosen.duration_s)


def _slot(
    resources: Sequence[Resource], chosen: Plan, with_one_more: Callable[[Resource], Plan | None], past: bool
) -> str:
    """The one further slot that saves most at the same duration."""
    best: tuple[Decimal, str] | None = None
    for resource in resources:
        if not resource.slots or resource.ready_s:
            continue
        plan = with_one_more(resource)
        saved = chosen.cost_usd - plan.cost_usd if plan is not None else Decimal(0)
        if _worth(saved, chosen.cost_usd) and (best is None or saved > best[0]):
            best = (saved, resource.key)
    if best is None:
        return ""
    return (
        f"one more {best[1]} slot {'would have saved' if past else 'saves'} {dollars(best[0])} within the same "
        f"{spoken(chosen.duration_s)}"
    )
