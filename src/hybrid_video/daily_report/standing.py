"""What the ledger and RunPod say beside the attempts: jobs given up, limits, pods, bills."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from hybrid_video.backends.runpod.audit import bill_lines
from hybrid_video.backends.runpod.pods import PodsClient
from hybrid_video.daily_report.figures import BillLine, BudgetLine, PodDay
from hybrid_video.errors import HybridVideoError
from hybrid_video.ledger import Ledger
from hybrid_video.ledger import schema as t
from hybrid_video.ledger.lookups import settled_by_day
from hybrid_video.local_time import day_bounds
from hybrid_video.models import JobState, Tier, utc_now
from hybrid_video.settings import Settings
from hybrid_video.views.pods import pod_summary

SERVERLESS = "runpod-serverless"
NOTHING = Decimal(0)


def jobs_ended(connection: Connection, since: datetime, until: datetime) -> dict[str, int]:
    """How many jobs were given up or cancelled, by state."""
    wanted = [JobState.FAILED.value, JobState.CANCELLED.value]
    query = (
        sa.select(t.jobs.c.state, sa.func.count())
        .where(t.jobs.c.state.in_(wanted), t.jobs.c.updated_at >= since, t.jobs.c.updated_at < until)
        .group_by(t.jobs.c.state)
    )
    return {row[0]: row[1] for row in connection.execute(query)}


def budgets(settings: Settings, connection: Connection, now: datetime) -> tuple[BudgetLine, ...]:
    """Every limit of the present UTC day and month, as the spend gate counts it."""
    day = now.astimezone(UTC).date().isoformat()
    month, routing = day[:7], settings.routing
    caps = {
        f"day:{day}": (f"{day} (UTC day)", routing.daily_budget_usd),
        f"month:{month}": (f"{month} (UTC month)", routing.monthly_budget_usd),
        **{
            f"tier:{tier.value}:{month}": (f"{tier.value} in {month}", routing.monthly_tier_budgets_usd.get(tier))
            for tier in Tier
        },
    }
    query = sa.select(t.balances).where(t.balances.c.scope.in_(caps))
    held = {row.scope: row for row in connection.execute(query)}
    return tuple(
        BudgetLine(
            name=name,
            cap_usd=cap,
            settled_usd=held[scope].settled_usd if scope in held else NOTHING,
            reserved_usd=held[scope].reserved_usd if scope in held else NOTHING,
        )
        for scope, (name, cap) in caps.items()
        if cap is not None
    )


def pod_day(connection: Connection, settings: Settings, since: datetime, until: datetime) -> PodDay:
    """Pods opened and closed between two moments, and those open now."""

    def counted(column: sa.Column[datetime]) -> int:
        query = sa.select(sa.func.count()).select_from(t.pods).where(column >= since, column < until)
        count: int = connection.execute(query).scalar_one()
        return count

    now = pod_summary(connection, settings)
    return PodDay(
        opened=counted(t.pods.c.created_at),
        closed=counted(t.pods.c.closed_at),
        open_now=now.open,
        usd_per_h_now=now.usd_per_h,
    )


def pod_bills(connection: Connection, since: datetime, until: datetime) -> list[BillLine]:
    """RunPod's bills for pods that were compared on the day, beside what our clock had said."""
    query = (
        sa.select(t.pods.c.name, t.pods.c.billed_usd, t.pods.c.cost_usd)
        .where(t.pods.c.reconciled_at >= since, t.pods.c.reconciled_at < until, t.pods.c.billed_usd.is_not(None))
        .order_by(t.pods.c.reconciled_at)
    )
    return [
        BillLine(what=f"pod {row.name}", billed_usd=row.billed_usd, ledger_usd=row.cost_usd or NOTHING)
        for row in connection.execute(query)
    ]


async def endpoint_bills(
    settings: Settings, ledger: Ledger, day: date, zone: ZoneInfo
) -> tuple[list[BillLine], list[str]]:
    """RunPod's bill of the serverless endpoint for the UTC days that the local day touches."""
    if settings.runpod.api_key is None or not settings.runpod.endpoint_url:
        return [], []
    since, until = day_bounds(day, zone)
    today = utc_now().date()
    first, last = since.date(), min((until - timedelta(microseconds=1)).date(), today)
    span = [(first + timedelta(days=n)).isoformat() for n in range((last - first).days + 1)]
    back = [(today - timedelta(days=n)).isoformat() for n in range((today - first).days + 1)]
    known = {name: usd for name, usd in settled_by_day(ledger, SERVERLESS, back).items() if name in back}
    try:
        client = PodsClient.from_settings(settings.runpod)
        try:
            lines = await bill_lines(client, settings.runpod, known)
        finally:
            await client.close()
    except HybridVideoError as error:
        return [], [f"RunPod's bill could not be looked at: {error}"]
    return [
        BillLine(what=f"{SERVERLESS} on {line.day} (UTC)", billed_usd=line.billed_usd, ledger_usd=line.ledger_usd)
        for line in lines
        if line.day in span
    ], []
