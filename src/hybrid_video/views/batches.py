"""Batches and their jobs as lists: how far, at what cost, and when they will be done."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa
from pydantic import Field
from sqlalchemy.engine import Connection

from hybrid_video.errors import NotFoundError
from hybrid_video.ledger import Ledger
from hybrid_video.ledger import schema as t
from hybrid_video.ledger.states import OPEN
from hybrid_video.models import Batch, JobState, Model, Preferences, Tier, VideoJob, utc_now
from hybrid_video.views.figures import NOTHING, Money, Page, checked_limit, decode_moment, encode_moment
from hybrid_video.views.outlook import Outlook, outlook
from hybrid_video.views.reading import reading

LIVE_FOR = timedelta(seconds=60)
"""A batch without an end is live while its run has been heard of within this."""

BatchState = Literal["running", "interrupted", "done", "failed", "cancelled", "stopped", "uncertain"]
"""interrupted: it has no end and nobody drives it; stopped: ended with jobs that were never made."""


class JobCounts(Model):
    """Jobs by state."""

    total: int = 0
    pending: int = 0
    active: int = 0
    done: int = 0
    failed: int = 0
    cancelled: int = 0
    uncertain: int = 0

    @classmethod
    def of(cls, counted: Counter[str]) -> JobCounts:
        """From counts by the ledger's names of the states."""
        return cls(total=sum(counted.values()), **{state.value: counted[state.value] for state in JobState})

    @property
    def finished(self) -> int:
        """Jobs with which nothing more happens by itself."""
        return self.done + self.failed + self.cancelled


class BatchLine(Model):
    """One batch in a list."""

    name: str
    state: BatchState
    jobs: JobCounts
    settled_usd: Money
    reserved_usd: Money
    budget_usd: Money | None
    deadline_s: float | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    simulated: bool


class BatchTier(Model):
    """What one tier did for a batch; failed attempts and shares of pods included in the money."""

    tier: Tier
    clips: int
    attempts: int
    failed_attempts: int
    cost_usd: Money


class BatchView(Model):
    """One batch: progress, money by tier, and what is to be expected."""

    batch: BatchLine
    out_dir: str
    preferences: Preferences | None
    progress: float = Field(ge=0, le=1, description="Share of the jobs that are over, for better or worse.")
    by_tier: tuple[BatchTier, ...]
    failovers: int = Field(description="Attempts made on another backend than the one before.")
    pod_overhead_usd: Money = Field(description="Part of the cloud's money: pods starting and idling for this batch.")
    outlook: Outlook


def batches(
    ledger: Ledger,
    *,
    cursor: str | None = None,
    limit: int = 50,
    search: str = "",
    only_open: bool = False,
    now: datetime | None = None,
) -> Page[BatchLine]:
    """Batches, the latest start first.

    Args:
        search: part of the name.
        only_open: those that have not ended.
    """
    begun, name = t.batches.c.started_at, t.batches.c.name
    query = sa.select(t.batches).order_by(begun.desc(), name).limit(checked_limit(limit) + 1)
    if search:
        query = query.where(name.icontains(search, autoescape=True))
    if only_open:
        query = query.where(t.batches.c.finished_at.is_(None))
    if cursor is not None:
        at, after = decode_moment(cursor)
        query = query.where((begun < at) | ((begun == at) & (name > after)))
    with reading(ledger) as connection:
        found = connection.execute(query).all()
        shown = found[:limit]
        lines = _lines(connection, shown, now or utc_now())
    more = len(found) > limit
    return Page(items=tuple(lines), next_cursor=encode_moment(shown[-1].started_at, shown[-1].name) if more else None)


def batch(ledger: Ledger, name: str, *, now: datetime | None = None) -> BatchView:
    """One batch.

    Raises:
        NotFoundError: the ledger does not know it.
    """
    moment = now or utc_now()
    with reading(ledger) as connection:
        row = batch_row(connection, name)
        line = _lines(connection, [row], moment)[0]
        overhead = connection.execute(
            sa.select(sa.func.sum(t.pod_shares.c.amount_usd)).where(t.pod_shares.c.batch == name)
        ).scalar()
        tiers = _tiers(connection, name, overhead or NOTHING)
        failovers = _failovers(connection, name)
        opened = (t.attempts.c.batch == name) & t.attempts.c.state.in_([state.value for state in OPEN])
        under_way = connection.execute(sa.select(sa.func.sum(t.attempts.c.quoted_usd)).where(opened)).scalar()
        plan = connection.execute(
            sa.select(t.plans).where(t.plans.c.batch == name).order_by(t.plans.c.id.desc()).limit(1)
        ).one_or_none()
    total = line.jobs.total
    return BatchView(
        batch=line,
        out_dir=str(Path(row.out_dir) / name),
        preferences=spec_of(row).preferences,
        progress=line.jobs.finished / total if total else 0.0,
        by_tier=tiers,
        failovers=failovers,
        pod_overhead_usd=overhead or NOTHING,
        outlook=outlook(
            plan,
            live=line.state == "running",
            jobs=line.jobs.model_dump(),
            settled_usd=line.settled_usd,
            under_way_usd=under_way or NOTHING,
            now=moment,
        ),
    )


def stored_batch(ledger: Ledger, name: str) -> Batch:
    """The batch as it was last asked for, its jobs included: what a re-run starts from.

    Raises:
        NotFoundError: the ledger does not know it.
    """
    with reading(ledger) as connection:
        row = batch_row(connection, name)
        specs = connection.execute(
            sa.select(t.jobs.c.spec).where(t.jobs.c.batch == name).order_by(t.jobs.c.ordinal, t.jobs.c.job)
        ).scalars()
        jobs = tuple(VideoJob.model_validate_json(spec) for spec in specs)
    return spec_of(row).model_copy(update={"jobs": jobs})


def spec_of(row: sa.Row[Any]) -> Batch:
    """What a batch said beside its jobs; the one job in it only fills the place."""
    stand_in = VideoJob(id="placeholder", prompt="placeholder")
    return Batch.model_validate_json(row.spec[:-1].rstrip() + f', "jobs": [{stand_in.model_dump_json()}]}}')


def batch_row(connection: Connection, name: str) -> sa.Row[Any]:
    """The row of a batch.

    Raises:
        NotFoundError: there is none; says which name is near.
    """
    row = connection.execute(sa.select(t.batches).where(t.batches.c.name == name)).one_or_none()
    if row is None:
        newest = sa.select(t.batches.c.name).order_by(t.batches.c.started_at.desc()).limit(1000)
        near = difflib.get_close_matches(name, list(connection.execute(newest).scalars()), n=1)
        hint = f"did you mean {near[0]!r}?" if near else "submit it first, or list the batches"
        raise NotFoundError(f"no batch is named {name!r}; {hint}")
    return row


def _lines(connection: Connection, rows: Sequence[sa.Row[Any]], now: datetime) -> list[BatchLine]:
    names = [row.name for row in rows]
    counted: dict[str, Counter[str]] = {name: Counter() for name in names}
    by_state = (
        sa.select(t.jobs.c.batch, t.jobs.c.state, sa.func.count())
        .where(t.jobs.c.batch.in_(names))
        .group_by(t.jobs.c.batch, t.jobs.c.state)
    )
    for name, state, count in connection.execute(by_state):
        counted[name][state] = count
    scopes = sa.select(t.balances).where(t.balances.c.scope.in_([f"batch:{name}" for name in names]))
    money = {row.scope.removeprefix("batch:"): row for row in connection.execute(scopes)}
    live = _live(connection, [row for row in rows if row.finished_at is None], now)
    lines = []
    for row in rows:
        held = money.get(row.name)
        jobs = JobCounts.of(counted[row.name])
        lines.append(
            BatchLine(
                name=row.name,
                state=_state(row, jobs, live=row.name in live),
                jobs=jobs,
                settled_usd=held.settled_usd if held else NOTHING,
                reserved_usd=held.reserved_usd if held else NOTHING,
                budget_usd=row.budget_usd,
                deadline_s=row.deadline_s,
                created_at=row.created_at,
                started_at=row.started_at,
                finished_at=row.finished_at,
                simulated=row.simulated,
            )
        )
    return lines


def _live(connection: Connection, rows: Iterable[sa.Row[Any]], now: datetime) -> set[str]:
    """Batches whose run has been heard of lately: it began, renewed a lease, or published what it still has to do."""
    began = {row.name: row.started_at for row in rows}
    if not began:
        return set()
    driven = sa.select(t.jobs.c.batch).where(
        t.jobs.c.batch.in_(began), t.jobs.c.state == JobState.ACTIVE.value, t.jobs.c.lease_until > now
    )
    published = sa.select(t.demand.c.batch).where(t.demand.c.batch.in_(began), t.demand.c.updated_at > now - LIVE_FOR)
    heard = set(connection.execute(driven).scalars()) | set(connection.execute(published).scalars())
    return heard | {name for name, at in began.items() if at is not None and now - at < LIVE_FOR}


def _state(row: sa.Row[Any], jobs: JobCounts, *, live: bool) -> BatchState:
    if row.finished_at is None:
        return "running" if live else "interrupted"
    if jobs.uncertain:
        return "uncertain"
    if jobs.failed:
        return "failed"
    if jobs.pending or jobs.active:
        return "stopped"
    return "cancelled" if jobs.cancelled else "done"


def _tiers(connection: Connection, name: str, overhead: Decimal) -> tuple[BatchTier, ...]:
    settled = sa.func.sum(sa.case((t.attempts.c.state == "settled", 1), else_=0))
    failed = sa.func.sum(sa.case((t.attempts.c.state == "failed", 1), else_=0))
    query = (
        sa.select(t.attempts.c.tier, sa.func.count(), settled, failed, sa.func.sum(t.attempts.c.cost_usd))
        .where(t.attempts.c.batch == name)
        .group_by(t.attempts.c.tier)
    )
    lines = {
        Tier(tier): BatchTier(
            tier=Tier(tier), attempts=attempts, clips=clips, failed_attempts=failures, cost_usd=cost or NOTHING
        )
        for tier, attempts, clips, failures, cost in connection.execute(query)
    }
    if overhead:
        cloud = lines.get(Tier.CLOUD) or BatchTier(
            tier=Tier.CLOUD, attempts=0, clips=0, failed_attempts=0, cost_usd=NOTHING
        )
        lines[Tier.CLOUD] = cloud.model_copy(update={"cost_usd": cloud.cost_usd + overhead})
    return tuple(lines[tier] for tier in Tier if tier in lines)


def _failovers(connection: Connection, name: str) -> int:
    before = t.attempts.alias("before")
    query = (
        sa.select(sa.func.count())
        .select_from(t.attempts)
        .join(
            before,
            (before.c.batch == t.attempts.c.batch)
            & (before.c.job == t.attempts.c.job)
            & (before.c.number == t.attempts.c.number - 1),
        )
        .where(t.attempts.c.batch == name, t.attempts.c.backend != before.c.backend)
    )
    count: int = connection.execute(query).scalar_one()
    return count
