"""Sums over the rows of a day. Pure but for Google's price, which is read from the price list."""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

from hybrid_video.daily_report.figures import BreakerLine, DayLine, ErrorLine, FailoverLine, GoogleLine, Hour, SpendLine
from hybrid_video.daily_report.reading import Booked
from hybrid_video.engine.breaker import Breaker
from hybrid_video.errors import FailureKind, HybridVideoError
from hybrid_video.failures import policy
from hybrid_video.history.savings import google_reference
from hybrid_video.local_time import local_day
from hybrid_video.models import NANO_USD, AttemptState, Tier
from hybrid_video.planner import Resource, all_on
from hybrid_video.settings import Settings

DAYS_BEFORE = 13
REMEMBERED = timedelta(hours=1)
"""A breaker's past that counts when the day begins."""

NOTHING = Decimal(0)


def total(rows: Iterable[Booked]) -> Decimal:
    """What rows come to."""
    return sum((row.cost_usd for row in rows), NOTHING)


def by(rows: Iterable[Booked], name: Callable[[Booked], str]) -> tuple[SpendLine, ...]:
    """Sums by a name, the dearest first."""
    groups: dict[str, list[Booked]] = defaultdict(list)
    for row in rows:
        groups[name(row)].append(row)
    lines = [
        SpendLine(
            name=key,
            attempts=sum(row.state != "share" for row in mine),
            clips=sum(row.state == AttemptState.SETTLED.value for row in mine),
            failed=sum(row.state == AttemptState.FAILED.value for row in mine),
            cost_usd=total(mine),
            quoted_usd=sum((row.quoted_usd for row in mine if row.state == AttemptState.SETTLED.value), NOTHING),
        )
        for key, mine in groups.items()
    ]
    return tuple(sorted(lines, key=lambda line: (-line.cost_usd, -line.clips, line.name)))


def google_alone(settings: Settings, clips: Sequence[Booked], cost: Decimal, elapsed_s: float) -> GoogleLine | None:
    """Google alone at today's price, with as many at once as its quota allows; None without a price or a clip."""
    with contextlib.suppress(HybridVideoError):
        reference = google_reference(settings)
        if clips:
            seconds = sum(row.google_s for row in clips)
            usd = (reference.usd_per_s * seconds + reference.usd_per_clip * len(clips)).quantize(NANO_USD)
            slots = settings.gemini.max_concurrent
            plan = all_on(Resource(Tier.GEMINI.value, slots, reference.service_s, NOTHING), len(clips))
            return GoogleLine(
                model=reference.model,
                clips=len(clips),
                cost_usd=usd,
                duration_s=plan.duration_s,
                saved_usd=usd - cost,
                longer_s=elapsed_s - plan.duration_s,
            )
    return None


def union_s(clips: Iterable[Booked]) -> float:
    """Seconds in which at least one of them was being made."""
    total, end = 0.0, None
    for start, finish in sorted((row.began_at or row.at, row.at) for row in clips):
        begins = start if end is None else max(start, end)
        if finish > begins:
            total += (finish - begins).total_seconds()
        end = finish if end is None else max(end, finish)
    return total


def errors(rows: Iterable[Booked]) -> tuple[ErrorLine, ...]:
    """Attempts without a clip, by reason and backend."""
    groups: dict[tuple[str, str], list[Booked]] = defaultdict(list)
    for row in rows:
        if row.state == AttemptState.FAILED.value:
            groups[row.error_kind, row.backend].append(row)
    lines = [
        ErrorLine(kind=kind, backend=backend, attempts=len(mine), cost_usd=total(mine))
        for (kind, backend), mine in groups.items()
    ]
    return tuple(sorted(lines, key=lambda line: (-line.attempts, line.kind, line.backend)))


def failovers(rows: Iterable[Booked]) -> tuple[FailoverLine, ...]:
    """Which way jobs went after a failure."""
    counts: dict[tuple[str, str], int] = defaultdict(int)
    for row in rows:
        if row.away_from:
            counts[row.away_from, row.backend] += 1
    lines = [FailoverLine(away_from=a, went_to=b, jobs=count) for (a, b), count in counts.items()]
    return tuple(sorted(lines, key=lambda line: (-line.jobs, line.away_from, line.went_to)))


def breakers(recent: Iterable[Booked], since: datetime, until: datetime, now: datetime) -> tuple[BreakerLine, ...]:
    """How often a breaker that had seen every attempt would have opened on the day."""
    seen: dict[tuple[str, str], Breaker] = defaultdict(Breaker)
    openings: dict[tuple[str, str], int] = defaultdict(int)
    errors: dict[tuple[str, str], str] = {}
    for row in sorted(recent, key=lambda row: row.at):
        if row.state == "share" or row.at < since - REMEMBERED:
            continue
        key, at_s = (row.backend, row.model), row.at.timestamp()
        breaker = seen[key]
        breaker.started(at_s)
        if row.state == AttemptState.SETTLED.value:
            breaker.succeeded()
        elif row.error_kind in set(FailureKind):
            rule = policy(FailureKind(row.error_kind))
            if rule.fault == "backend" or rule.fatal_for_backend:
                was_open = breaker.state(at_s) == "open"
                breaker.failed(at_s, fatal=rule.fatal_for_backend)
                if not was_open and breaker.state(at_s) == "open" and since <= row.at < until:
                    openings[key] += 1
                    errors[key] = row.error_kind
            else:
                breaker.abandoned()
    return tuple(
        BreakerLine(
            backend=key[0],
            model=key[1],
            openings=count,
            open_now=seen[key].state(now.timestamp()) == "open",
            last_error=errors[key],
        )
        for key, count in sorted(openings.items())
    )


def hours(rows: Iterable[Booked], zone: ZoneInfo) -> tuple[Hour, ...]:
    """Clips and money by the hours of the studio's clock."""
    clips, usd = [0] * 24, [NOTHING] * 24
    for row in rows:
        hour = row.at.astimezone(zone).hour
        clips[hour] += row.state == AttemptState.SETTLED.value
        usd[hour] += row.cost_usd
    return tuple(Hour(hour=hour, clips=clips[hour], cost_usd=usd[hour]) for hour in range(24))


def days_before(recent: Iterable[Booked], day: date, zone: ZoneInfo) -> tuple[DayLine, ...]:
    """The day and the ones before it, oldest first."""
    clips: Counter[date] = Counter()
    usd: dict[date, Decimal] = defaultdict(Decimal)
    for row in recent:
        on = local_day(row.at, zone)
        clips[on] += row.state == AttemptState.SETTLED.value
        usd[on] += row.cost_usd
    span = [day - timedelta(days=back) for back in range(DAYS_BEFORE, -1, -1)]
    return tuple(DayLine(day=known, clips=clips[known], cost_usd=usd[known]) for known in span)
