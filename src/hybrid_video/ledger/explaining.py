"""Every decision about a job beside what came of it, in one read."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from hybrid_video.errors import InputError
from hybrid_video.ledger import rows
from hybrid_video.ledger import schema as t
from hybrid_video.ledger.store import Ledger
from hybrid_video.models import AttemptState, Decision, Model, Quote, Usd
from hybrid_video.pricing.learning import served_s

ATTEMPT = "of_attempt_"


class Explained(Model):
    """One decision and the attempt it led to, where it led to one."""

    batch: str
    decision: Decision
    state: AttemptState | None = None
    quote: Quote | None = None
    cost_usd: Usd | None = None
    cost_basis: str = ""
    served_s: float | None = None
    error_kind: str = ""
    error_message: str = ""


def explained(ledger: Ledger, *, batch: str | None = None, job: str | None = None) -> list[Explained]:
    """Decisions of a batch, or of a job in the newest batch that has it, oldest first.

    Raises:
        InputError: neither is given, or the ledger has no decision about it.
    """
    if batch is None and job is None:
        raise InputError("name a job, or a batch with --batch")
    same = (
        (t.attempts.c.batch == t.decisions.c.batch)
        & (t.attempts.c.job == t.decisions.c.job)
        & (t.attempts.c.number == t.decisions.c.attempt)
    )
    columns = [column.label(f"{ATTEMPT}{column.name}") for column in t.attempts.c]
    query = (
        sa.select(t.decisions, *columns).select_from(t.decisions.outerjoin(t.attempts, same)).order_by(t.decisions.c.id)
    )
    if job is not None:
        query = query.where(t.decisions.c.job == job)
    if batch is None:
        newest = sa.select(t.decisions.c.batch).where(t.decisions.c.job == job).order_by(t.decisions.c.id.desc())
        query = query.where(t.decisions.c.batch == newest.limit(1).scalar_subquery())
    else:
        query = query.where(t.decisions.c.batch == batch)
    with ledger.raw().connect() as connection:
        found = [_explained(row) for row in connection.execute(query)]
    if not found:
        what = f"job {job!r}" + (f" of batch {batch!r}" if batch else "") if job is not None else f"batch {batch!r}"
        raise InputError(f"the ledger holds no decision about {what}; `hybrid-video ledger show` lists the batches")
    return found


def _explained(row: sa.Row[Any]) -> Explained:
    decision = rows.decision(row)
    fields = {
        name.removeprefix(ATTEMPT): value
        for name, value in row._mapping.items()  # noqa: SLF001 - SQLAlchemy's public accessor
        if name.startswith(ATTEMPT)
    }
    if fields["attempt_id"] is None:
        return Explained(batch=row.batch, decision=decision)
    attempt = rows.attempt_of(fields)
    return Explained(
        batch=row.batch,
        decision=decision,
        state=attempt.state,
        quote=attempt.quote,
        cost_usd=attempt.cost_usd,
        cost_basis=attempt.cost_basis,
        served_s=served_s(attempt),
        error_kind=attempt.error_kind,
        error_message=attempt.error_message,
    )
