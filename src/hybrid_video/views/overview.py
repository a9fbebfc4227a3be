"""The state of everything at one moment, from the ledger alone: what runs, what waits, what today has brought and cost.

Cheap enough to be asked every second: it reads balances and indexed rows, never the history.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from pydantic import Field
from sqlalchemy.engine import Connection

from hybrid_video.ledger import Ledger
from hybrid_video.ledger import schema as t
from hybrid_video.models import AttemptState, JobState, Model, Tier, utc_now
from hybrid_video.settings import Settings
from hybrid_video.views.figures import NOTHING, Money, day_start
from hybrid_video.views.pods import PodSummary, pod_summary
from hybrid_video.views.reading import reading, unindexed

RECENT_CLIPS = 200


class TierSpend(Model):
    """Money of one tier; pods' time that no job can be charged for counts as cloud."""

    tier: Tier
    today_usd: Money
    month_usd: Money
    reserved_usd: Money = Field(description="Held this month for attempts under way.")
    month_cap_usd: Money | None = Field(None, description="Hard limit per UTC month, where one is set.")


class SpendSummary(Model):
    """Booked and held money. The tiers' sums are exactly the totals."""

    today_usd: Money
    month_usd: Money
    total_usd: Money
    reserved_usd: Money
    day_cap_usd: Money | None = None
    month_cap_usd: Money | None = None
    by_tier: tuple[TierSpend, ...]


class Overview(Model):
    """Everything at a glance. Days and months are UTC."""

    at: datetime
    simulated: bool = Field(description="This installation only plays: nothing it shows was paid for.")
    active_jobs: int
    queued_jobs: int = Field(description="Waiting jobs of batches that have not ended.")
    uncertain_jobs: int = Field(description="Nobody can say yet whether they were made; `reconcile` looks.")
    completed_today: int
    failed_today: int
    cancelled_today: int
    average_s: float | None = Field(description="Mean seconds from decision to finished clip, of today's newest clips.")
    average_execution_s: float | None = Field(description="Mean seconds the backends themselves say they worked.")
    active_by_backend: dict[str, int]
    running_batches: tuple[str, ...]
    spend: SpendSummary
    pods: PodSummary


def overview(ledger: Ledger, settings: Settings, *, now: datetime | None = None) -> Overview:
    """One consistent read.

    Args:
        settings: with stored preferences applied, so that the limits shown are the ones in force.
    """
    moment = now or utc_now()
    midnight = day_start(moment)
    with reading(ledger) as connection:
        states = _jobs_by_state(connection)
        newest = _newest_clips(connection, midnight)
        totals = [(end - start).total_seconds() for start, end, _ in newest]
        worked = [seconds for _, _, seconds in newest if seconds is not None]
        return Overview(
            at=moment,
            simulated=settings.routing.simulated,
            active_jobs=states.get(JobState.ACTIVE, 0),
            queued_jobs=states.get(JobState.PENDING, 0),
            uncertain_jobs=states.get(JobState.UNCERTAIN, 0),
            completed_today=_clips_since(connection, midnight),
            failed_today=_ended_since(connection, JobState.FAILED, midnight),
            cancelled_today=_ended_since(connection, JobState.CANCELLED, midnight),
            average_s=_mean(totals),
            average_execution_s=_mean(worked),
            active_by_backend=_active_by_backend(connection),
            running_batches=_running(connection),
            spend=spend_summary(connection, settings, moment),
            pods=pod_summary(connection, settings),
        )


def spend_summary(connection: Connection, settings: Settings, now: datetime) -> SpendSummary:
    """Totals from the balances that the spend gate itself keeps; today's tiers from the rows behind them."""
    day, month = day_start(now).date().isoformat(), day_start(now).date().isoformat()[:7]
    scopes = ["all", f"day:{day}", f"month:{month}", *(f"tier:{tier.value}:{month}" for tier in Tier)]
    query = sa.select(t.balances).where(t.balances.c.scope.in_(scopes))
    held: dict[str, Any] = {row.scope: row for row in connection.execute(query)}

    def settled(scope: str) -> Decimal:
        return held[scope].settled_usd if scope in held else NOTHING

    def reserved(scope: str) -> Decimal:
        return held[scope].reserved_usd if scope in held else NOTHING

    today = today_by_tier(connection, day)
    routing = settings.routing
    return SpendSummary(
        today_usd=settled(f"day:{day}"),
        month_usd=settled(f"month:{month}"),
        total_usd=settled("all"),
        reserved_usd=reserved("all"),
        day_cap_usd=routing.daily_budget_usd,
        month_cap_usd=routing.monthly_budget_usd,
        by_tier=tuple(
            TierSpend(
                tier=tier,
                today_usd=today.get(tier, NOTHING),
                month_usd=settled(f"tier:{tier.value}:{month}"),
                reserved_usd=reserved(f"tier:{tier.value}:{month}"),
                month_cap_usd=routing.monthly_tier_budgets_usd.get(tier),
            )
            for tier in Tier
        ),
    )


def today_by_tier(connection: Connection, day: str) -> dict[Tier, Decimal]:
    """What a day's rows come to for each tier: attempts, and what pods cost beside them."""
    query = (
        sa.select(t.attempts.c.tier, sa.func.sum(t.attempts.c.cost_usd))
        .where(t.attempts.c.day == day)
        .group_by(t.attempts.c.tier)
    )
    amounts = {Tier(tier): amount or NOTHING for tier, amount in connection.execute(query)}
    shares = sa.select(sa.func.sum(t.pod_shares.c.amount_usd)).where(t.pod_shares.c.day == day)
    overhead = connection.execute(shares).scalar() or NOTHING
    if overhead:
        amounts[Tier.CLOUD] = amounts.get(Tier.CLOUD, NOTHING) + overhead
    return amounts


def _jobs_by_state(connection: Connection) -> dict[JobState, int]:
    open_states = [JobState.ACTIVE.value, JobState.UNCERTAIN.value]
    counted = sa.select(t.jobs.c.state, sa.func.count()).where(t.jobs.c.state.in_(open_states)).group_by(t.jobs.c.state)
    queued = (
        sa.select(sa.func.count())
        .select_from(t.jobs.join(t.batches, t.batches.c.name == t.jobs.c.batch))
        .where(t.jobs.c.state == JobState.PENDING.value, t.batches.c.finished_at.is_(None))
    )
    found = {JobState(state): count for state, count in connection.execute(counted)}
    return found | {JobState.PENDING: connection.execute(queued).scalar_one()}


def _clips_since(connection: Connection, since: datetime) -> int:
    query = (
        sa.select(sa.func.count())
        .select_from(t.attempts)
        .where(t.attempts.c.finished_at >= since, unindexed(t.attempts.c.state) == AttemptState.SETTLED.value)
    )
    count: int = connection.execute(query).scalar_one()
    return count


def _newest_clips(connection: Connection, since: datetime) -> list[tuple[datetime, datetime, float | None]]:
    """Begin, end and execution seconds of the newest clips finished since then."""
    query = (
        sa.select(t.attempts.c.created_at, t.attempts.c.finished_at, t.attempts.c.execution_s)
        .where(t.attempts.c.finished_at >= since, unindexed(t.attempts.c.state) == AttemptState.SETTLED.value)
        .order_by(t.attempts.c.finished_at.desc())
        .limit(RECENT_CLIPS)
    )
    return [(row.created_at, row.finished_at, row.execution_s) for row in connection.execute(query)]


def _ended_since(connection: Connection, state: JobState, since: datetime) -> int:
    query = (
        sa.select(sa.func.count())
        .select_from(t.jobs)
        .where(t.jobs.c.state == state.value, t.jobs.c.updated_at >= since)
    )
    count: int = connection.execute(query).scalar_one()
    return count


def _active_by_backend(connection: Connection) -> dict[str, int]:
    under_way = [AttemptState.INTENT, AttemptState.SUBMITTED, AttemptState.RUNNING, AttemptState.COLLECTED]
    query = (
        sa.select(t.attempts.c.backend, sa.func.count())
        .where(t.attempts.c.state.in_([state.value for state in under_way]))
        .group_by(t.attempts.c.backend)
        .order_by(t.attempts.c.backend)
    )
    return {backend: count for backend, count in connection.execute(query)}  # noqa: C416 - rows are no pairs to mypy


def _running(connection: Connection) -> tuple[str, ...]:
    query = sa.select(t.batches.c.name).where(t.batches.c.finished_at.is_(None)).order_by(t.batches.c.started_at.desc())
    return tuple(connection.execute(query).scalars())


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return sum(found) / len(found) if found else None
