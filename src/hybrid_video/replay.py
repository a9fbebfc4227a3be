"""A past batch under another deadline, budget or price list, or without a tier: run again by the dispatcher.

Every clip takes again what it took where it was made. Elsewhere it takes its quoted time, corrected and scattered as
the clips were that were made there. The same goal is replayed as well, so that two runs of one kind are compared: what
differs between them is the goal. Beside them stands the best plan in hindsight, which no router can have.

Pods count as open all the time, and nothing is offline. Reservations, retries' pauses and prompts ahead are left out.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence
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
from hybrid_video.replay_runs import Goal, Replayed, again
from hybrid_video.replay_world import Terms, World, as_quoted, world_of
from hybrid_video.settings import Settings

LARGE = 1000
"""From so many clips on advice is read off the planner's frontier."""

FACTORS = (0.5, 0.7, 0.85, 1.25, 1.5, 2.0, 3.0)
"""Shares of the replayed duration at which further goals are tried for the advice."""

LOOSE = 1.1
"""A goal a tenth later leaves the dispatcher's own guard within the time that was meant."""


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
    """What happened, the same goal replayed, the changed conditions replayed, and the best plan in hindsight."""

    batch: str
    jobs: int
    actual: Outcome
    again: Outcome
    replayed: Outcome
    hindsight: Outcome
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
    """Runs a past batch again.

    Raises:
        InputError: the ledger does not know the batch, nothing of it was made, or no tier is left.
    """
    ledger.batch_out_dir(batch)
    attempts = [attempt for attempt in ledger.attempts(batch) if attempt.finished]
    rows = [row for row in ledger.job_rows(batch) if row.state is JobState.DONE]
    if not rows:
        raise InputError(f"batch {batch!r} has no finished clip yet, so there are no times to replay it with")
    runs, decisions = ledger.forecasts(batch), ledger.decisions(batch)
    seen = observed_pool(runs, attempts)
    pool = seen
    if prices is not None:
        pool = tuple(_repriced(line, attempts, decisions, prices, settings) for line in seen)
    pool = tuple(line for line in pool if line.tier not in without)
    if not any(line.slots for line in pool):
        raise InputError(f"batch {batch!r} used no tier but {', '.join(sorted(without))}; leave one of them in")
    rate = settings.routing.value_of_time_usd_per_h
    own = Goal(*_goal(runs), rate)
    wanted = own if deadline_s is None and budget_usd is None else Goal(deadline_s, budget_usd, rate)
    as_it_was = world_of(seen, attempts, decisions, rows)
    world = as_it_was
    if prices is not None or len(pool) < len(seen):
        terms, billed = (as_quoted, _charged) if prices is None else _anew(prices, settings)
        world = world_of(pool, attempts, decisions, rows, terms, billed=billed)
    found, hindsight = again(world, wanted), _planned(resources_of(seen), len(rows), own)
    return Replay(
        batch=batch,
        jobs=len(rows),
        actual=_actual(runs, attempts, len(rows)),
        again=Outcome.of(again(as_it_was, own).plan),
        replayed=Outcome.of(found.plan),
        hindsight=Outcome.of(hindsight),
        note=_missed(found, wanted, _planned(resources_of(pool), len(rows), wanted), len(rows)),
        advice=tuple(_advice(pool, world, wanted, found)),
        pool=pool,
    )


def _advice(pool: Sequence[PoolLine], world: World, goal: Goal, found: Replayed) -> list[str]:
    """Sentences from further replays; for a large batch, where chance evens out, from the planner's frontier."""
    resources, chosen = resources_of(pool), found.plan
    if found.unmade or not chosen.duration_s:
        return []
    if len(world.jobs) > LARGE:
        plan = _planned(resources, len(world.jobs), goal)
        return advise(resources, len(world.jobs), plan, past=True)
    rate = goal.value_of_time_usd_per_h
    times = [factor * chosen.duration_s for factor in FACTORS]
    ends = [planner.frontier(resources, len(world.jobs)).kink.duration_s * LOOSE]
    others = [again(world, Goal(time_s, None, rate)) for time_s in sorted({*times, *ends})]

    def with_one_more(resource: Resource) -> Plan | None:
        wider = again(world, Goal(chosen.duration_s * LOOSE, None, rate), more=resource.key).plan
        return wider if wider.duration_s <= chosen.duration_s * LOOSE else None

    points = [other.plan for other in others if not other.unmade]
    return advise(resources, len(world.jobs), chosen, past=True, points=points, with_one_more=with_one_more)


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


def _charged(attempt: Attempt) -> Decimal | None:
    return attempt.cost_usd


def _anew(
    prices: PriceBook, settings: Settings
) -> tuple[Callable[[Quote], Terms], Callable[[Attempt], Decimal | None]]:
    """Quotes and bills at another price list. One with flat times for its videos changes the times as well."""

    def terms(quote: Quote) -> Terms:
        entry, warm_s = _entry(quote, "", prices, settings), quote.service_s - quote.cold_start_s
        usd = _price(quote, "", warm_s * quote.time_scale, prices, settings)
        if entry.unit == "video":
            seconds = entry.seconds / quote.time_scale if entry.seconds else warm_s
            return Terms(seconds, usd, by_time=False, flat=True, own=bool(entry.seconds))
        return Terms(warm_s, usd, by_time=entry.unit == "gpu_second", flat=not quote.service_p90_s)

    def billed(attempt: Attempt) -> Decimal | None:
        if not _is_billed(attempt, prices):
            return Decimal(0)
        return _price(attempt.quote, attempt.gpu, _billed_s(attempt), prices, settings)

    return terms, billed


def _planned(resources: Sequence[Resource], jobs: int, goal: Goal) -> Plan:
    plan = plan_for(
        resources,
        jobs,
        deadline_s=goal.deadline_s,
        budget_usd=goal.budget_usd,
        value_of_time_usd_per_h=goal.value_of_time_usd_per_h,
    )
    return plan or planner.shortest(resources, jobs)


def _missed(found: Replayed, goal: Goal, plan: Plan, jobs: int) -> str:
    """A sentence where the goal cannot be met, or was not."""
    if found.unmade and goal.budget_usd is not None:
        made = jobs - found.unmade
        return f"the budget of ${goal.budget_usd:f} is too small: it pays for {made} of {jobs} clips"
    if found.unmade:
        return f"{found.unmade} of {jobs} clips could not be made by what is left"
    if goal.deadline_s is None or found.late <= 0.5:
        return ""
    if plan.duration_s > goal.deadline_s:
        return f"the deadline of {goal.deadline_s:g} s cannot be met; the nearest is shown"
    return f"the deadline of {goal.deadline_s:g} s was missed by {found.plan.duration_s - goal.deadline_s:.1f} s"


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
