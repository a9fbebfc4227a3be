"""What a run is expected to cost and to take, worked out once before it starts, from its quotes and lanes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from decimal import ROUND_HALF_EVEN, Decimal

from hybrid_video import planner
from hybrid_video.engine.selection import Shot
from hybrid_video.expecting import Uncertain, expected
from hybrid_video.ledger.forecasts import Forecast, PoolLine
from hybrid_video.models import NANO_USD, Lane, Quote
from hybrid_video.planner import Plan, Resource
from hybrid_video.pricing.learning import Z90
from hybrid_video.pricing.timings import PROBES


def pool_of(shots: Sequence[Shot], lanes: Sequence[Lane]) -> tuple[PoolLine, ...]:
    """The kinds of slots that the jobs may use, each with the mean of its quotes.

    A quote's time counts the start of a worker; in a batch only the first clip of each slot waits for it.
    """
    slots = Counter(lane.backend for lane in lanes)
    quotes: dict[str, list[Quote]] = {}
    for shot in shots:
        for key, quote in shot.open_offers.items():
            if slots[key]:
                quotes.setdefault(key, []).append(quote)
    return tuple(
        PoolLine(
            backend=key,
            tier=mine[0].tier,
            slots=slots[key],
            service_s=sum(quote.service_s - quote.cold_start_s for quote in mine) / len(mine),
            price_usd=mean_usd([quote.amount_usd for quote in mine]),
            start_s=max(quote.cold_start_s for quote in mine),
            cv=max(_scatter(quote) for quote in mine),
            start_usd=max(quote.start_usd for quote in mine),
        )
        for key, mine in quotes.items()
    )


def resources_of(pool: Sequence[PoolLine]) -> list[Resource]:
    """The pool as the planner takes it."""
    return [
        Resource(
            line.backend,
            line.slots,
            line.service_s,
            line.price_usd,
            (line.start_s,) * line.slots if line.start_s else (),
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

    Exact where times are certain, as in the seed's price list; where they scatter, what is to be expected.
    """
    pool = pool_of(shots, lanes)
    resources = resources_of(pool)
    scatter = {line.backend: line.cv for line in pool}
    if any(scatter.values()):
        plan = expected(
            [Uncertain(resource, scatter[resource.key]) for resource in resources],
            len(shots),
            deadline_s=deadline_s,
            budget_usd=budget_usd,
            value_of_time_usd_per_h=value_of_time_usd_per_h,
        )
    else:
        plan = plan_for(
            resources,
            len(shots),
            deadline_s=deadline_s,
            budget_usd=budget_usd,
            value_of_time_usd_per_h=value_of_time_usd_per_h,
        )
    if plan is None:
        return None
    return Forecast(
        batch=batch,
        jobs=len(shots),
        planned_usd=plan.cost_usd.quantize(NANO_USD),
        planned_s=plan.duration_s,
        split=plan.split,
        pool=pool,
        deadline_s=deadline_s,
        budget_usd=budget_usd,
    )


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
