"""What a run is expected to cost and to take, worked out once before it starts, from its quotes and lanes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from decimal import ROUND_HALF_EVEN, Decimal
from typing import TypedDict

from hybrid_video import planner
from hybrid_video.engine.selection import Shot, options
from hybrid_video.expecting import Uncertain, expected
from hybrid_video.ledger.forecasts import Forecast, PoolLine
from hybrid_video.models import NANO_USD, Lane, Quote, Refusal
from hybrid_video.planner import Plan, Resource
from hybrid_video.pricing.learning import Z90
from hybrid_video.pricing.timings import PROBES


def pool_of(shots: Sequence[Shot], lanes: Sequence[Lane]) -> tuple[PoolLine, ...]:
    """The kinds of slots that the jobs may use, each with the mean of its quotes.

    A quote's time counts the start of a worker; in a batch only the first clip of each slot waits for it, and none
    where a worker is up already.
    """
    places: dict[str, list[Lane]] = {}
    for lane in lanes:
        places.setdefault(lane.backend, []).append(lane)
    quotes: dict[str, list[Quote]] = {}
    for shot in shots:
        for key, quote in shot.open_offers.items():
            if key in places:
                quotes.setdefault(key, []).append(quote)
    return tuple(_line(key, places[key], mine) for key, mine in quotes.items())


def _line(key: str, lanes: Sequence[Lane], mine: Sequence[Quote]) -> PoolLine:
    """One kind of slot. Flat times of a price list hold whatever starts and waits."""
    flat = not any(quote.service_p90_s for quote in mine)
    lane_start_s = 0.0 if flat else max(lane.start_s for lane in lanes)
    start_s = max(lane_start_s, *(quote.cold_start_s for quote in mine))
    return PoolLine(
        backend=key,
        tier=mine[0].tier,
        slots=len(lanes),
        service_s=sum(quote.service_s - quote.cold_start_s for quote in mine) / len(mine),
        price_usd=mean_usd([_expected_usd(quote) for quote in mine]),
        start_s=start_s,
        up=sum(not lane.start_s for lane in lanes) if lane_start_s else 0,
        turn_s=0.0 if flat else max(lane.turn_s for lane in lanes),
        cv=max(_scatter(quote) for quote in mine),
        start_usd=max(quote.start_usd or _start_usd(quote, lane_start_s) for quote in mine),
    )


def resources_of(pool: Sequence[PoolLine]) -> list[Resource]:
    """The pool as the planner takes it."""
    return [
        Resource(
            line.backend,
            line.slots,
            line.service_s + line.turn_s,
            line.price_usd,
            (0.0,) * line.up + (line.start_s,) * (line.slots - line.up) if line.start_s else (),
        )
        for line in pool
        if line.slots
    ]


def plan_for(
    resources: Sequence[Resource],
    jobs: int,
    *,
    deadline_s: float | None,
    budget_usd: Decimal | None,
    value_of_time_usd_per_h: float,
) -> Plan | None:
    """The plan for a goal, or the nearest feasible one: a budget holds, a deadline is met as nearly as it allows.

    None without a slot or a job.
    """
    if not jobs or not any(resource.slots for resource in resources):
        return None
    if deadline_s is None and budget_usd is None:
        return planner.balanced(resources, jobs, value_of_time_usd_per_h)
    found = None if deadline_s is None else planner.cheapest_by(resources, jobs, deadline_s)
    if found is None and deadline_s is not None:
        found = planner.shortest(resources, jobs)
    if budget_usd is None or (found is not None and found.cost_usd <= budget_usd):
        return found
    within = planner.within_budget(resources, jobs, budget_usd)
    return within or planner.frontier(resources, jobs).points[-1]


def forecast(
    batch: str,
    shots: Sequence[Shot],
    lanes: Sequence[Lane],
    *,
    deadline_s: float | None,
    budget_usd: Decimal | None,
    value_of_time_usd_per_h: float,
) -> Forecast | None:
    """Cost and duration of the jobs still to be made; None when there is nothing to make or nowhere.

    Exact where times are certain, as in the seed's price list; where they scatter, what is to be expected. Jobs that
    may use one backend only, by their capabilities or their own preference, are counted there first; the others are
    planned on what that leaves.
    """
    present = {lane.backend for lane in lanes}
    wanted = wanted_of(shots, present)
    pool = pool_of(wanted, lanes)
    scatter = {line.backend: line.cv for line in pool}
    bound = Counter(next(iter(keys)) for shot in wanted if len(keys := shot.open_offers.keys() & present) == 1)
    free = len(shots) - bound.total()
    resources = resources_of(pool)
    alone = [
        _plan([resource], scatter, bound[resource.key], None, None, value_of_time_usd_per_h)
        for resource in resources
        if bound[resource.key]
    ]
    parts = [plan for plan in alone if plan is not None]
    spent = sum((plan.cost_usd for plan in parts), Decimal(0))
    left = None if budget_usd is None else max(Decimal(0), budget_usd - spent)
    open_to_all = {key for shot in wanted if len(shot.open_offers.keys() & present) != 1 for key in shot.open_offers}
    taken = [_after(resource, bound[resource.key]) for resource in resources if resource.key in open_to_all]
    rest = _plan(taken, scatter, free, deadline_s, left, value_of_time_usd_per_h)
    if free and rest is None:
        return None
    parts += [rest] if rest is not None else []
    if not parts:
        return None
    return Forecast(
        batch=batch,
        jobs=len(shots),
        planned_usd=sum((plan.cost_usd for plan in parts), Decimal(0)).quantize(NANO_USD),
        planned_s=max(plan.duration_s for plan in parts),
        split={line.backend: sum(plan.split.get(line.backend, 0) for plan in parts) for line in pool},
        pool=pool,
        deadline_s=deadline_s,
        budget_usd=budget_usd,
    )


def wanted_of(shots: Sequence[Shot], present: Collection[str]) -> list[Shot]:
    """The shots with only the offers that their preferences leave while everything works."""
    return [_as_it_will_go(shot, present) for shot in shots]


def _as_it_will_go(shot: Shot, present: Collection[str]) -> Shot:
    """The shot with only the offers that its preferences leave while everything works."""
    able = {key: quote for key, quote in shot.open_offers.items() if key in present}
    absent = {key: Refusal(code="health", reason="has no lane") for key in shot.open_offers if key not in able}
    wanted = options(shot, absent)
    if len(wanted) == len(shot.open_offers):
        return shot
    kept = tuple(offer for offer in shot.offers if offer.backend in wanted)
    return replace(shot, offers=kept)


def _after(resource: Resource, jobs: int) -> Resource:
    """A resource whose slots first make so many other jobs, dealt out evenly."""
    if not jobs:
        return resource
    each, more = divmod(jobs, resource.slots)
    starts = sorted(resource.starts())
    busy = tuple(ready + (each + (number < more)) * resource.service_s for number, ready in enumerate(starts))
    return replace(resource, ready_s=busy)


def _plan(
    resources: Sequence[Resource],
    scatter: Mapping[str, float],
    jobs: int,
    deadline_s: float | None,
    budget_usd: Decimal | None,
    value_of_time_usd_per_h: float,
) -> Plan | None:
    """The plan for a goal, by whichever arithmetic fits; None without a slot or a job."""
    goal: _Goal = {
        "deadline_s": deadline_s,
        "budget_usd": budget_usd,
        "value_of_time_usd_per_h": value_of_time_usd_per_h,
    }
    if any(scatter[resource.key] for resource in resources):
        return expected([Uncertain(resource, scatter[resource.key]) for resource in resources], jobs, **goal)
    return plan_for(resources, jobs, **goal)


class _Goal(TypedDict):
    deadline_s: float | None
    budget_usd: Decimal | None
    value_of_time_usd_per_h: float


def _expected_usd(quote: Quote) -> Decimal:
    """What a clip is expected to be billed: begun seconds count as whole ones, half of one on average.

    The quote's own amount is for the expected time exactly, which may lie just below or just above a whole second.
    """
    if not quote.rate_usd_per_s or quote.service_p90_s <= quote.service_s:
        return quote.amount_usd
    vendor_s = (quote.service_s - quote.cold_start_s) * quote.time_scale
    return quote.rate_usd_per_s / Decimal(str(quote.time_scale)) * Decimal(str(vendor_s + 0.5))


def _start_usd(quote: Quote, start_s: float) -> Decimal:
    """What starting a worker is billed, where the quote found one up and others are needed; whole vendor's seconds."""
    per_s = quote.rate_usd_per_s / Decimal(str(quote.time_scale))
    return per_s * math.ceil(start_s * quote.time_scale)


def _scatter(quote: Quote) -> float:
    """Coefficient of variation behind a quote's P90 (log-normal); 0 where the quote is certain of its time."""
    if quote.service_p90_s <= quote.service_s or quote.service_s <= 0:
        return 0.0
    return math.log(quote.service_p90_s / quote.service_s) / Z90


def unproven(shots: Sequence[Shot]) -> dict[str, int]:
    """For each backend whose times are hardly known, how many jobs it may take before it has to.

    They are jobs that must go there anyway; going early, they teach their times while something can still be changed.
    Flat times of a price list are known.
    """
    least: dict[str, int] = {}
    for shot in shots:
        for key, quote in shot.open_offers.items():
            if quote.service_p90_s:
                least[key] = min(least.get(key, quote.observed), quote.observed)
    return {key: PROBES - seen for key, seen in least.items() if seen < PROBES}


def uncertain(shots: Sequence[Shot]) -> frozenset[str]:
    """Backends whose times scatter; flat times of a price list do not."""
    return frozenset(key for shot in shots for key, quote in shot.open_offers.items() if quote.service_p90_s)


def mean_usd(amounts: Sequence[Decimal]) -> Decimal:
    """The mean in whole nano-dollars, the ledger's unit."""
    return (sum(amounts, Decimal(0)) / len(amounts)).quantize(NANO_USD, rounding=ROUND_HALF_EVEN)
