"""Deletes the details of old batches, so that the ledger of a busy studio does not grow for ever.

What goes: jobs, attempts, decisions and plans of batches that ended long ago and have nothing open. What stays: the
batch's name (so that it cannot be paid for again by mistake), every balance to the nano-dollar, every pod and its bill,
and the history, which holds each attempt for the charts.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from hybrid_video.errors import ConfigurationError
from hybrid_video.ledger import schema as t
from hybrid_video.ledger.copying import refuse_running
from hybrid_video.ledger.gaps import carry
from hybrid_video.ledger.states import OPEN
from hybrid_video.ledger.store import OVER, Ledger
from hybrid_video.models import utc_now

INCREMENTAL = 2
PAGES_AT_ONCE = 500
PAUSE_S = 0.01


@dataclass(frozen=True)
class Pruned:
    """What went, or would go."""

    batches: tuple[str, ...]
    jobs: int
    attempts: int
    settled_usd: Decimal


def prunable(ledger: Ledger, before: datetime) -> tuple[str, ...]:
    """Batches that ended before a time and that nothing needs any more, the oldest first.

    A batch stays while a job or an attempt of it is open or unknown, while an attempt is not in the history, and while
    a pod that it used is not yet reconciled with the provider's bill.
    """
    with ledger.reading() as connection:
        return _prunable(connection, before)


def prune(ledger: Ledger, before: datetime) -> Pruned:
    """Deletes the details of `prunable` batches, each in one transaction of its own."""
    names, jobs, attempts, settled = [], 0, 0, Decimal(0)
    for name in prunable(ledger, before):
        with ledger.writing() as connection:
            if name not in _prunable(connection, before, name):
                continue  # somebody runs it again
            gone = _delete(connection, name)
        names.append(name)
        jobs, attempts, settled = jobs + gone.jobs, attempts + gone.attempts, settled + gone.settled_usd
    return Pruned(tuple(names), jobs, attempts, settled)


def compact(ledger: Ledger) -> bool:
    """Gives the space of deleted rows back to the disk, a little at a time, so that nobody waits for long.

    Files made by earlier versions cannot do that: they are written anew once, when no batch is being made.

    Returns:
        Whether the space was given back. PostgreSQL does that by itself.
    """
    if ledger.raw().dialect.name != "sqlite":
        return True
    with ledger.raw().connect() as connection:
        if connection.exec_driver_sql("PRAGMA auto_vacuum").scalar() != INCREMENTAL:
            try:
                refuse_running(connection)
            except ConfigurationError:
                return False
            connection.rollback()
            connection.exec_driver_sql("PRAGMA auto_vacuum=INCREMENTAL")
            connection.exec_driver_sql("VACUUM")
        while connection.exec_driver_sql("PRAGMA freelist_count").scalar():
            cursor = connection.connection.cursor()
            cursor.execute(f"PRAGMA incremental_vacuum({PAGES_AT_ONCE})")
            cursor.fetchall()  # a page is given back with every step, although no row comes
            cursor.close()
            time.sleep(PAUSE_S)
        connection.exec_driver_sql("PRAGMA wal_checkpoint(PASSIVE)")
    return True


def _prunable(connection: Connection, before: datetime, name: str | None = None) -> tuple[str, ...]:
    b, j, a = t.batches.c, t.jobs.c, t.attempts.c
    unsettled_pods = sa.select(sa.literal("runpod-pod/") + t.pods.c.pod_id).where(
        t.pods.c.pod_id.is_not(None), t.pods.c.reconciled_at.is_(None)
    )
    busy_jobs = sa.select(j.batch).where(j.state.not_in([state.value for state in OVER]))
    needed = sa.select(a.batch).where(
        a.state.in_([state.value for state in OPEN]) | sa.not_(a.in_history) | a.lane.in_(unsettled_pods)
    )
    if name is not None:  # asked again within the transaction that deletes: it must not read the whole ledger
        busy_jobs, needed = busy_jobs.where(j.batch == name), needed.where(a.batch == name)
    query = (
        sa.select(b.name)
        .where(b.finished_at < before, b.pruned_at.is_(None), b.name.not_in(busy_jobs), b.name.not_in(needed))
        .order_by(b.finished_at)
    )
    if name is not None:
        query = query.where(b.name == name)
    return tuple(connection.execute(query).scalars())


def _delete(connection: Connection, name: str) -> Pruned:
    rows = connection.execute(sa.select(t.attempts).where(t.attempts.c.batch == name)).all()
    _carry(connection, rows)
    for table in (t.decisions, t.attempts, t.plans):
        connection.execute(sa.delete(table).where(table.c.batch == name))
    jobs = connection.execute(sa.delete(t.jobs).where(t.jobs.c.batch == name)).rowcount
    connection.execute(sa.delete(t.balances).where(t.balances.c.scope.startswith(f"job:{name}/", autoescape=True)))
    connection.execute(sa.update(t.batches).where(t.batches.c.name == name).values(pruned_at=utc_now()))
    return Pruned((name,), jobs, len(rows), sum((row.cost_usd or Decimal(0) for row in rows), Decimal(0)))


def _carry(connection: Connection, rows: Sequence[sa.Row[tuple[object, ...]]]) -> None:
    """Adds what the attempts had come to, in every scope that keeps its balance."""
    sums: dict[str, Decimal] = defaultdict(Decimal)
    for row in rows:
        month = row.day[:7]
        scopes = (f"batch:{row.batch}", f"day:{row.day}", f"month:{month}", f"tier:{row.tier}:{month}", "all")
        for scope in (*scopes, f"lane:{row.lane}"):
            sums[scope] += row.cost_usd or Decimal(0)
    for scope, amount in sums.items():
        if amount:
            carry(connection, scope, amount)
