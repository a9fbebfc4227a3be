"""Puts the figures of a day together from the ledger; asks RunPod for its bill where that is wanted. Writes nothing."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from hybrid_video.daily_report.figures import BillLine, DailyReport, UncertainLine
from hybrid_video.daily_report.reading import booked, from_history, pruned_names
from hybrid_video.daily_report.standing import budgets, endpoint_bills, jobs_ended, pod_bills, pod_day
from hybrid_video.daily_report.sums import (
    DAYS_BEFORE,
    REMEMBERED,
    breakers,
    by,
    days_before,
    errors,
    failovers,
    google_alone,
    hours,
    total,
    union_s,
)
from hybrid_video.history import History
from hybrid_video.ledger import Ledger
from hybrid_video.ledger import schema as t
from hybrid_video.ledger.resolving import advice
from hybrid_video.local_time import day_bounds
from hybrid_video.models import Attempt, AttemptState, JobState, utc_now
from hybrid_video.preferences import applied
from hybrid_video.redaction import redact
from hybrid_video.settings import Settings
from hybrid_video.views.reading import reading

MOST_UNCERTAIN = 50
NOTHING = Decimal(0)


async def make_report(
    settings: Settings,
    ledger: Ledger,
    day: date,
    zone: ZoneInfo,
    *,
    history: History | None = None,
    ask_vendors: bool = False,
    now: datetime | None = None,
) -> DailyReport:
    """The report of one local day.

    Args:
        history: where details that the ledger has pruned are found.
        ask_vendors: also compare RunPod's bill of the endpoint, which needs its key and the network.

    Raises:
        LedgerError: the ledger or the history cannot be read now.
    """
    moment = now or utc_now()
    settings = applied(settings, ledger)
    bills, notices = (await endpoint_bills(settings, ledger, day, zone)) if ask_vendors else ([], [])
    return _figures(settings, ledger, day, zone, history, moment, bills, notices)


def _figures(
    settings: Settings,
    ledger: Ledger,
    day: date,
    zone: ZoneInfo,
    history: History | None,
    now: datetime,
    bills: list[BillLine],
    notices: list[str],
) -> DailyReport:
    since, until = day_bounds(day, zone)
    first, _ = day_bounds(day - timedelta(days=DAYS_BEFORE), zone)
    with reading(ledger) as connection:
        recent = booked(connection, min(first, since - REMEMBERED), until)
        gone = pruned_names(connection)
        jobs = jobs_ended(connection, since, until)
        limits = budgets(settings, connection, now)
        held = connection.execute(sa.select(t.balances.c.reserved_usd).where(t.balances.c.scope == "all")).scalar()
        pods = pod_day(connection, settings, since, until)
        bills = [*pod_bills(connection, since, until), *bills]
    if history is not None and gone:
        recent += from_history(history, gone, first, until)
    elif gone:
        notices = [*notices, f"the details of {len(gone)} batches were pruned; their attempts are not counted here"]
    rows = [row for row in recent if since <= row.at < until]
    clips = [row for row in rows if row.state == AttemptState.SETTLED.value]
    elapsed_s = union_s(clips) * settings.routing.time_scale
    open_now = ledger.open_attempts()
    cost = total(rows)
    return DailyReport(
        day=day,
        zone=zone.key,
        since=since,
        until=until,
        made_at=now,
        simulated=settings.routing.simulated,
        cost_usd=cost,
        attempts=sum(row.state != "share" for row in rows),
        clips=len(clips),
        failed=sum(row.state == AttemptState.FAILED.value for row in rows),
        jobs_failed=jobs.get(JobState.FAILED.value, 0),
        jobs_cancelled=jobs.get(JobState.CANCELLED.value, 0),
        quoted_usd=sum((row.quoted_usd for row in clips), NOTHING),
        clips_usd=total(clips),
        elapsed_s=elapsed_s,
        by_backend=by(rows, lambda row: row.backend),
        by_batch=by(rows, lambda row: row.batch),
        by_workflow=by(rows, lambda row: row.model),
        google=google_alone(settings, clips, cost, elapsed_s),
        errors=errors(rows),
        failovers=failovers(rows),
        breakers=breakers(recent, since, until, now),
        open_attempts=len(open_now),
        reserved_usd=held or NOTHING,
        uncertain=_uncertain(open_now),
        budgets=limits,
        pods=pods.model_copy(update={"overhead_usd": total([row for row in rows if row.state == "share"])}),
        bills=tuple(bills),
        hours=hours(rows, zone),
        days=days_before(recent, day, zone),
        notices=tuple(redact(notice) for notice in notices),
    )


def _uncertain(open_now: list[Attempt]) -> tuple[UncertainLine, ...]:
    unknown = [attempt for attempt in open_now if attempt.state is AttemptState.UNCERTAIN]
    return tuple(
        UncertainLine(
            batch=attempt.batch,
            job=attempt.job,
            backend=attempt.backend,
            reserved_usd=attempt.reserved_usd,
            since=attempt.submitted_at or attempt.created_at,
            what_to_do=advice(attempt),
        )
        for attempt in unknown[:MOST_UNCERTAIN]
    )
