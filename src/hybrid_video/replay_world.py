"""A past batch as a world to simulate: its jobs, its backends with their quotes, and what every attempt came to.

Quotes are those of the batch's first decisions, so the replayed dispatcher learns as the real one did. A job that a
backend was refused for good (by its abilities, a permission or a limit) is refused there again.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from statistics import fmean

from hybrid_video.dispatcher import precedence
from hybrid_video.ledger import JobRow
from hybrid_video.ledger.forecasts import PoolLine
from hybrid_video.models import Attempt, AttemptState, Decision, Quote
from hybrid_video.pricing.learning import started_s, vendor_seconds
from hybrid_video.simulation.recorded import RecordedSite, Seen, Told
from hybrid_video.simulation.world import BURNED, NANO, Job
from hybrid_video.spread import PRIOR_CV

PASSING = frozenset({"health", "breaker", "excluded"})
"""Refusals that said nothing about the job."""

MOST_FAILING = 0.9
"""Share of attempts that fail at most: a backend that made nothing is not replayed for ever."""

SENSIBLE = 20.0
"""A time so many times off its quote says that the quote was about something else."""


@dataclass(frozen=True)
class Terms:
    """What a quote comes to under the price list of the replay."""

    seconds: float
    usd: Decimal
    by_time: bool
    flat: bool = False
    """Nothing that is seen corrects the time."""
    own: bool = False
    """Times and prices are the list's own: what was seen was something else."""


@dataclass(frozen=True)
class World:
    """What is simulated."""

    sites: tuple[RecordedSite, ...]
    jobs: tuple[Job, ...]

    @property
    def certain(self) -> bool:
        """Whether every run of it goes the same way."""
        return not any(site.cv or site.failure for site in self.sites)

    def run_sites(self, luck: int, more: str = "") -> list[RecordedSite]:
        """Its backends for one run, one of them with one more slot."""
        fresh = [site.again(luck) for site in self.sites]
        return [replace(site, slots=site.slots + 1) if site.key == more else site for site in fresh]


def as_quoted(quote: Quote) -> Terms:
    """The terms as they were: flat ones where the quote did not say how its time scatters."""
    warm_s = quote.service_s - quote.cold_start_s
    return Terms(warm_s, quote.amount_usd, bool(quote.rate_usd_per_s), flat=not quote.service_p90_s)


def world_of(
    pool: Sequence[PoolLine],
    attempts: Sequence[Attempt],
    decisions: Sequence[Decision],
    rows: Sequence[JobRow],
    terms: Callable[[Quote], Terms] = as_quoted,
    *,
    billed: Callable[[Attempt], Decimal | None] = lambda attempt: attempt.cost_usd,
) -> World:
    """The world of a batch.

    Args:
        pool: its backends as they were seen; those that are left out do not exist.
        rows: the jobs to make again.
        terms: what a quote comes to.
        billed: what an attempt costs; None leaves it to the terms.
    """
    offers, refused = _offers(decisions, attempts)
    first: dict[tuple[object, ...], Quote] = {}
    for mine in offers.values():
        for quote in mine.values():
            first.setdefault(_sort(quote), quote)
    known = {sort: terms(quote) for sort, quote in first.items()}
    made: dict[str, dict[str, list[Attempt]]] = defaultdict(lambda: defaultdict(list))
    for attempt in attempts:
        made[attempt.backend][attempt.job].append(attempt)
    by_line = {line.backend: _terms_by_job(line, offers, refused, known, rows) for line in pool}
    sites = tuple(_site(line, by_line[line.backend], made[line.backend], billed) for line in pool if line.slots)
    return World(sites, tuple(_job(row, sites, offers.get(row.job, {})) for row in rows))


def _offers(
    decisions: Sequence[Decision], attempts: Sequence[Attempt]
) -> tuple[dict[str, dict[str, Quote]], set[tuple[str, str]]]:
    """Each job's first quote on each backend, and where it was refused for good."""
    offers: dict[str, dict[str, Quote]] = defaultdict(dict)
    refused: set[tuple[str, str]] = set()
    for decision in decisions:
        for candidate in decision.candidates:
            place = (decision.job, candidate.backend)
            if candidate.refusal is not None and candidate.refusal.code not in PASSING:
                refused.add(place)
            elif candidate.quote is not None:
                offers[decision.job].setdefault(candidate.backend, candidate.quote)
                refused.discard(place)
    for attempt in attempts:
        offers[attempt.job].setdefault(attempt.backend, attempt.quote)
        refused.discard((attempt.job, attempt.backend))
    return offers, refused


def _terms_by_job(
    line: PoolLine,
    offers: Mapping[str, Mapping[str, Quote]],
    refused: set[tuple[str, str]],
    known: Mapping[tuple[object, ...], Terms],
    rows: Sequence[JobRow],
) -> dict[str, Terms]:
    """What each job is told of a backend; of one that it was never offered, what the others were told on average."""
    mine = [terms for sort, terms in known.items() if sort[0] == line.backend]
    usual = _mean(mine) if mine else Terms(line.service_s, line.price_usd, by_time=False, flat=not line.cv)
    found: dict[str, Terms] = {}
    for row in rows:
        quote = offers.get(row.job, {}).get(line.backend)
        if quote is not None:
            found[row.job] = known[_sort(quote)]
        elif (row.job, line.backend) not in refused:
            found[row.job] = usual
    return found


def _mean(terms: Sequence[Terms]) -> Terms:
    seconds, usd = fmean(one.seconds for one in terms), sum((one.usd for one in terms), Decimal(0)) / len(terms)
    first = terms[0]
    return Terms(seconds, usd, first.by_time, first.flat, first.own)


def _site(
    line: PoolLine,
    terms: Mapping[str, Terms],
    made: Mapping[str, Sequence[Attempt]],
    billed: Callable[[Attempt], Decimal | None],
) -> RecordedSite:
    own = any(one.own for one in terms.values())
    seen = {} if own else {job: found for job in terms if (found := _seen(made.get(job, ()), billed))}
    ratios = [(one.seconds / terms[job].seconds, one.done) for job, tries in seen.items() for one in tries]
    ratios = [(ratio, done) for ratio, done in ratios if 1 / SENSIBLE < ratio < SENSIBLE or not done]
    clips = [ratio for ratio, done in ratios if done]
    failed = [ratio for ratio, done in ratios if not done]
    starts = [seconds for tries in made.values() for attempt in tries if (seconds := _start_s(attempt))]
    prices = [one.usd for one in terms.values()]
    return RecordedSite(
        line.backend,
        line.slots,
        line.service_s,
        sum(prices, Decimal(0)) / len(prices) if prices else line.price_usd,
        cv=0.0 if own else _scatter(clips) if clips else line.cv,
        failure=min(MOST_FAILING, len(failed) / len(ratios)) if ratios else 0.0,
        per_clip=True,
        start_s=0.0 if own else fmean(starts) if starts else 0.0 if clips else line.start_s,
        flat=own or (bool(terms) and all(one.flat for one in terms.values())),
        told={job: Told(one.seconds, round(one.usd * NANO)) for job, one in terms.items() if one.seconds > 0},
        seen=seen,
        pace=fmean(clips) if clips else 1.0,
        burned=fmean(failed) if failed else BURNED,
        by_time=any(one.by_time for one in terms.values()),
    )


def _seen(tries: Sequence[Attempt], billed: Callable[[Attempt], Decimal | None]) -> tuple[Seen, ...]:
    found = []
    for attempt in tries:
        seconds = vendor_seconds(attempt)
        if seconds is None or seconds <= 0:
            continue
        usd = billed(attempt)
        done = attempt.state is AttemptState.SETTLED
        found.append(Seen(seconds / attempt.quote.time_scale, done, None if usd is None else round(usd * NANO)))
    return tuple(found)


def _scatter(ratios: Sequence[float]) -> float:
    """Coefficient of variation of what was seen; of one clip, what is usual. Nothing where all took the same."""
    if len(ratios) < 2:
        return PRIOR_CV
    mean = fmean(ratios)
    cv = math.sqrt(fmean((ratio - mean) ** 2 for ratio in ratios) * len(ratios) / (len(ratios) - 1)) / mean
    return cv if cv > 1e-6 else 0.0


def _start_s(attempt: Attempt) -> float:
    return (started_s(attempt) or 0.0) / attempt.quote.time_scale


def _job(row: JobRow, sites: Sequence[RecordedSite], offers: Mapping[str, Quote]) -> Job:
    able = [site for site in sites if row.job in site.told]
    told = [site.told[row.job] for site in able]
    wished = row.spec.preferences
    model = "/".join(sorted({quote.model for quote in offers.values()}))
    return Job(
        row.job,
        told_size=min(((one.nano, one.seconds) for one in told), default=(0, 1.0))[1],
        rank=precedence(row.spec.priority),
        model=model,
        kind=" ".join(f"{site.key}={one.seconds:g},{one.nano}" for site, one in zip(able, told, strict=True)),
        urgent=bool(wished and wished.prioritize_speed),
    )


def _sort(quote: Quote) -> tuple[object, ...]:
    """Quotes of one sort differ only by what was learned in between."""
    made = quote.output
    return (quote.backend, quote.model, quote.signature, made.width, made.height, made.frames, made.fps)
