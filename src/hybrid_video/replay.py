"""A past batch under another deadline, budget or price list, or without a tier: planned with the times it really took.

What was seen is one mean time and one mean price per backend, failed attempts included. The planner is exact for
identical jobs and known times, so the comparison is made with the plan for the batch's own goal as well: what differs
between the two is the goal, not the planner's foresight.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from decimal import Decimal

from hybrid_video import planner
from hybrid_video.advice import advise
from hybrid_video.engine.forecast import mean_usd, plan_for, resources_of
from hybrid_video.errors import ConfigurationError, InputError
from hybrid_video.ledger import Ledger
from hybrid_video.ledger.forecasts import Forecast, PoolLine
from hybrid_video.models import Attempt, AttemptState, Decision, JobState, Model, Quote, Tier, Usd
from hybrid_video.planner import Plan, Resource
from hybrid_video.pricing.catalog import PriceBook, PriceEntry
from hybrid_video.pricing.learning import served_s
from hybrid_video.settings import Settings


class Outcome(Model):
    """What a batch came to, or would have come to."""

    cost_usd: Usd
    duration_s: float
    split: dict[str, int]

    @classmethod
    def of(cls, plan: Plan) -> Outcome:
        """A plan as an outcome."""
        return cls(cost_usd=plan.cost_usd, duration_s=plan.duration_s, split={k: n for k, n in plan.split.items() if n})


class Replay(Model):
    """What happened, the best plan for the same goal in hindsight, and the plan under the changed conditions."""

    batch: str
    jobs: int
    actual: Outcome
    hindsight: Outcome
    replayed: Outcome
    note: str = ""
    advice: tuple[str, ...] = ()
    pool: tuple[PoolLine, ...] = ()


def replay(
    ledger: Ledger,
    batch: str,
    settings: Settings,
    *,
    deadline_s: float | None = None,
    budget_usd: Decimal | None = None,
    prices: PriceBook | None = None,
    without: Collection[Tier] = (),
) -> Replay:
    """Plans a past batch anew.

    Raises:
        InputError: the ledger does not know the batch, nothing of it was made, or no tier is left.
    """
    ledger.batch_out_dir(batch)
    attempts = [attempt for attempt in ledger.attempts(batch) if attempt.finished]
    jobs = sum(row.state is JobState.DONE for row in ledger.job_rows(batch))
    if not jobs:
        raise InputError(f"batch {batch!r} has no finished clip yet, so there are no times to replay it with")
    runs = ledger.forecasts(batch)
    seen = observed_pool(runs, attempts)
    pool = seen
    if prices is not None:
        decisions = ledger.decisions(batch)
        pool = tuple(_repriced(line, attempts, decisions, prices, settings) for line in seen)
    pool = tuple(line for line in pool if line.tier not in without)
    if not any(line.slots for line in pool):
        raise InputError(f"batch {batch!r} used no tier but {', '.join(sorted(without))}; leave one of them in")
    goal_s, goal_usd = _goal(runs)
    changed = deadline_s is not None or budget_usd is not None
    rate = settings.routing.value_of_time_usd_per_h
    hindsight = _planned(resources_of(seen), jobs, goal_s, goal_usd, rate)
    wanted = (deadline_s, budget_usd) if changed else (goal_s, goal_usd)
    plan = _planned(resources_of(pool), jobs, *wanted, rate)
    return Replay(
        batch=batch,
        jobs=jobs,
        actual=_actual(runs, attempts, jobs),
        hindsight=Outcome.of(hindsight),
        replayed=Outcome.of(plan),
        note=_missed(plan, *wanted),
        advice=tuple(advise(resources_of(pool), jobs, plan, past=True)),
        pool=pool,
    )


def observed_pool(runs: Sequence[Forecast], attempts: Sequence[Attempt]) -> tuple[PoolLine, ...]:
    """The slots of the batch with the times and prices it saw; with its quotes where a backend made nothing."""
    expected = {line.backend: line for run in runs for line in run.pool}
    mine: dict[str, list[Attempt]] = defaultdict(list)
    for attempt in attempts:
        mine[attempt.backend].append(attempt)
    return tuple(_line(key, expected.get(key), mine[key]) for key in {**expected, **mine})


def _line(backend: str, expected: PoolLine | None, attempts: Sequence[Attempt]) -> PoolLine:
    """One backend; failed attempts cost time and money and make nothing."""
    clips = sum(attempt.state is AttemptState.SETTLED for attempt in attempts)
    if expected is not None and not clips:
        return expected
    seconds = [took for attempt in attempts if (took := served_s(attempt)) is not None]
    spent = sum((attempt.cost_usd or Decimal(0) for attempt in attempts), Decimal(0))
    return PoolLine(
        backend=backend,
        tier=attempts[0].tier,
        slots=expected.slots if expected else len({attempt.lane for attempt in attempts}),
        service_s=sum(seconds) / clips if clips else attempts[0].quote.service_s,
        price_usd=mean_usd([spent, *[Decimal(0)] * (clips - 1)]) if clips else attempts[0].quoted_usd,
    )


def _repriced(
    line: PoolLine, attempts: Sequence[Attempt], decisions: Sequence[Decision], prices: PriceBook, settings: Settings
) -> PoolLine:
    """A backend at another price list: the seconds that were billed stay, the price changes.

    A list with flat times for its videos (the seed's) changes the times as well: its prices are for those.
    """
    line = _retimed(line, attempts, decisions, prices, settings)
    mine = [attempt for attempt in attempts if attempt.backend == line.backend]
    clips = sum(attempt.state is AttemptState.SETTLED for attempt in mine)
    if clips:
        amounts = [_price(a.quote, a.gpu, _billed_s(a), prices, settings) for a in mine if _is_billed(a, prices)]
        return line.model_copy(update={"price_usd": sum(amounts, Decimal(0)) / clips})
    quotes = _offered(decisions, line.backend)
    if not quotes:
        return line
    amounts = [_price(quote, "", quote.service_s * quote.time_scale, prices, settings) for quote in quotes]
    return line.model_copy(update={"price_usd": mean_usd(amounts)})


def _retimed(
    line: PoolLine, attempts: Sequence[Attempt], decisions: Sequence[Decision], prices: PriceBook, settings: Settings
) -> PoolLine:
    mine = [(attempt.quote, attempt.gpu) for attempt in attempts if attempt.backend == line.backend]
    known = mine or [(quote, "") for quote in _offered(decisions, line.backend)]
    flat = [
        entry.seconds / quote.time_scale
        for quote, gpu in known
        if (entry := _entry(quote, gpu, prices, settings)).unit == "video" and entry.seconds
    ]
    return line.model_copy(update={"service_s": sum(flat) / len(flat), "start_s": 0.0}) if flat else line


def _is_billed(attempt: Attempt, prices: PriceBook) -> bool:
    """Failures cost their seconds where seconds are billed, and nothing at a flat price per video."""
    return attempt.state is AttemptState.SETTLED or (prices.profile != "seed" and bool(attempt.cost_usd))


def _billed_s(attempt: Attempt) -> float:
    return attempt.execution_s if attempt.execution_s is not None else attempt.quote.service_s


def _entry(quote: Quote, gpu: str, prices: PriceBook, settings: Settings) -> PriceEntry:
    configured = settings.comfyui.gpu if quote.tier is Tier.LOCAL else settings.runpod.gpu
    try:
        return prices.find(
            backend=quote.backend,
            tier=quote.tier,
            gpu="" if quote.tier is Tier.GEMINI else gpu or configured,
            model=quote.model,
            resolution=f"{min(quote.output.width, quote.output.height)}p",
        )
    except ConfigurationError as error:
        raise InputError(f"the batch cannot be priced anew: {error}") from None


def _price(quote: Quote, gpu: str, seconds: float, prices: PriceBook, settings: Settings) -> Decimal:
    entry = _entry(quote, gpu, prices, settings)
    if entry.unit == "video":
        return entry.usd
    if entry.unit == "gpu_second":
        return entry.usd * math.ceil(seconds)
    return entry.usd * math.ceil(quote.output.duration_s)


def _offered(decisions: Sequence[Decision], backend: str) -> list[Quote]:
    """Quotes of a backend that was offered jobs and got none."""
    return [
        candidate.quote
        for decision in decisions
        for candidate in decision.candidates
        if candidate.backend == backend and candidate.quote is not None
    ]


def _goal(runs: Sequence[Forecast]) -> tuple[float | None, Decimal | None]:
    """The goal of the first run; later ones only had what was left."""
    return (runs[0].deadline_s, runs[0].budget_usd) if runs else (None, None)


def _planned(
    resources: Sequence[Resource], jobs: int, deadline_s: float | None, budget_usd: Decimal | None, rate: float
) -> Plan:
    plan = plan_for(resources, jobs, deadline_s=deadline_s, budget_usd=budget_usd, value_of_time_usd_per_h=rate)
    return plan or planner.shortest(resources, jobs)


def _missed(plan: Plan, deadline_s: float | None, budget_usd: Decimal | None) -> str:
    """A sentence where the goal cannot be met and the nearest plan stands in."""
    if budget_usd is not None and plan.cost_usd > budget_usd:
        return f"the budget of ${budget_usd:f} is too small; the cheapest plan is shown"
    if deadline_s is not None and plan.duration_s > deadline_s + planner.EPSILON:
        return f"the deadline of {deadline_s:g} s cannot be met; the nearest plan is shown"
    return ""


def _actual(runs: Sequence[Forecast], attempts: Sequence[Attempt], jobs: int) -> Outcome:
    """What the ledger says. Pauses between runs do not count where every run's own time is known."""
    timed = [run.actual_s for run in runs if run.actual_s is not None]
    whole = sum(run.made or 0 for run in runs) >= jobs and len(timed) == len(runs)
    ends = [attempt.finished_at for attempt in attempts if attempt.finished_at is not None]
    span = (max(ends) - min(attempt.created_at for attempt in attempts)).total_seconds()
    split = Counter(attempt.backend for attempt in attempts if attempt.state is AttemptState.SETTLED)
    return Outcome(
        cost_usd=sum((attempt.cost_usd or Decimal(0) for attempt in attempts), Decimal(0)),
        duration_s=sum(timed) if whole and timed else span,
        split=dict(split),
    )
