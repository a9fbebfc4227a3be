"""What happened in a batch, in order, told from the ledger: nothing is lost when nobody was watching."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Literal

import sqlalchemy as sa
from pydantic import Field

from hybrid_video.engine.report import money
from hybrid_video.ledger import Ledger
from hybrid_video.ledger import schema as t
from hybrid_video.models import Model
from hybrid_video.views.batches import batch_row
from hybrid_video.views.figures import checked_limit, decode_moment, encode_moment
from hybrid_video.views.reading import reading

BatchEventKind = Literal[
    "started", "planned", "decided", "submitted", "done", "failed", "cancelled", "uncertain", "refused", "ended"
]


class BatchEvent(Model):
    """One thing that happened. `id` stays the same however often it is asked for."""

    id: str
    at: datetime
    kind: BatchEventKind
    job: str = ""
    backend: str = ""
    attempt: int = 0
    message: str = Field(description="A sentence for people.")


class EventPage(Model):
    """Some events. `cursor` goes on after the last of them, also when nothing more has happened yet."""

    items: tuple[BatchEvent, ...]
    cursor: str
    more: bool = Field(description="Whether there is something after `cursor` already.")


def events(ledger: Ledger, batch: str, *, cursor: str | None = None, limit: int = 50) -> EventPage:
    """What happened in a batch after a cursor, oldest first.

    Raises:
        NotFoundError: no such batch.
    """
    checked_limit(limit)
    after = decode_moment(cursor) if cursor is not None else None
    with reading(ledger) as connection:
        row = batch_row(connection, batch)
        told = sorted(_all(connection, row, after[0] if after else None), key=lambda event: (event.at, event.id))
    left = [event for event in told if after is None or (event.at, event.id) > after]
    shown = left[:limit]
    end = encode_moment(shown[-1].at, shown[-1].id) if shown else cursor or encode_moment(row.created_at, "")
    return EventPage(items=tuple(shown), cursor=end, more=len(left) > limit)


def _all(connection: sa.Connection, batch: sa.Row[Any], since: datetime | None) -> Iterator[BatchEvent]:
    yield from _of_batch(connection, batch)
    ours = ("attempt_id", "job", "number", "backend", "state", "cost_usd", "quoted_usd")
    columns = (*ours, "created_at", "submitted_at", "finished_at", "error_kind", "error_message")
    query = sa.select(*(t.attempts.c[name] for name in columns)).where(t.attempts.c.batch == batch.name)
    if since is not None:  # an attempt that ended before then has nothing new to tell
        query = query.where(t.attempts.c.finished_at.is_(None) | (t.attempts.c.finished_at >= since))
    for row in connection.execute(query):
        yield from _of_attempt(row)
    led = (
        (t.attempts.c.batch == t.decisions.c.batch)
        & (t.attempts.c.job == t.decisions.c.job)
        & (t.attempts.c.number == t.decisions.c.attempt)
    )
    refused = (
        sa.select(
            t.decisions.c.id, t.decisions.c.job, t.decisions.c.attempt, t.decisions.c.reason, t.decisions.c.decided_at
        )
        .select_from(t.decisions.outerjoin(t.attempts, led))
        .where(t.decisions.c.batch == batch.name, t.attempts.c.attempt_id.is_(None))
    )
    for row in connection.execute(refused):
        yield BatchEvent(
            id=f"decision-{row.id}",
            at=row.decided_at,
            kind="refused",
            job=row.job,
            attempt=row.attempt,
            message=row.reason,
        )


def _of_batch(connection: sa.Connection, batch: sa.Row[Any]) -> Iterator[BatchEvent]:
    if batch.started_at is not None:
        yield BatchEvent(id="started", at=batch.started_at, kind="started", message=f"{batch.name} was started")
    if batch.finished_at is not None:
        yield BatchEvent(id="ended", at=batch.finished_at, kind="ended", message=f"{batch.name} has ended")
    for plan in connection.execute(sa.select(t.plans).where(t.plans.c.batch == batch.name)):
        text = f"{plan.jobs} jobs are expected to cost ${money(plan.planned_usd)} and to take {plan.planned_s:.0f} s"
        yield BatchEvent(id=f"plan-{plan.id}", at=plan.planned_at, kind="planned", message=text)


def _of_attempt(row: sa.Row[Any]) -> Iterator[BatchEvent]:
    who = {"job": row.job, "backend": row.backend, "attempt": row.number}
    text = f"{row.job} goes to {row.backend}, quoted at ${money(row.quoted_usd)}"
    yield BatchEvent(id=f"{row.attempt_id}-decided", at=row.created_at, kind="decided", message=text, **who)
    if row.submitted_at is not None:
        text = f"{row.backend} has accepted {row.job}"
        yield BatchEvent(id=f"{row.attempt_id}-submitted", at=row.submitted_at, kind="submitted", message=text, **who)
    if row.finished_at is not None:
        cost = f"${money(row.cost_usd)}" if row.cost_usd is not None else "an unknown amount"
        kinds: dict[str, BatchEventKind] = {"settled": "done", "failed": "failed", "cancelled": "cancelled"}
        kind = kinds.get(row.state, "failed")
        text = f"{row.job} is done for {cost}" if kind == "done" else f"{row.job}: {row.error_message} (cost {cost})"
        yield BatchEvent(id=f"{row.attempt_id}-{kind}", at=row.finished_at, kind=kind, message=text, **who)
    elif row.state == "uncertain":
        at = row.submitted_at or row.created_at
        yield BatchEvent(
            id=f"{row.attempt_id}-uncertain", at=at, kind="uncertain", message=f"{row.job}: {row.error_message}", **who
        )
