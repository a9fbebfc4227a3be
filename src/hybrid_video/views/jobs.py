"""Jobs: the list of a batch, and the decision card of one: why this backend, and why not each of the others."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from pydantic import Field
from sqlalchemy.engine import Connection

from hybrid_video.errors import NotFoundError
from hybrid_video.ledger import Ledger, rows
from hybrid_video.ledger import schema as t
from hybrid_video.ledger.resolving import advice
from hybrid_video.models import Attempt, AttemptState, Candidate, Clip, Decision, JobState, Model, Tier, VideoJob
from hybrid_video.pricing.learning import served_s
from hybrid_video.views.batches import batch_row
from hybrid_video.views.figures import NOTHING, Money, Page, checked_limit, decode_cursor, encode_cursor
from hybrid_video.views.reading import reading


class JobLine(Model):
    """One job in a list. Backend, tier and model are the newest attempt's."""

    job: str
    ordinal: int
    prompt: str
    state: JobState
    attempts: int
    backend: str | None
    tier: Tier | None
    model: str | None
    attempt_state: AttemptState | None
    quoted_usd: Money | None = Field(description="What its newest attempt was quoted at.")
    cost_usd: Money = Field(description="Every attempt and its share of pods.")
    reserved_usd: Money
    error_kind: str
    error_message: str
    has_clip: bool
    cancel_requested: bool
    updated_at: datetime


class TermLine(Model):
    """One term of a score: points are weight times value."""

    name: str
    value: float
    weight: float
    points: float


class CandidateLine(Model):
    """A backend as it stood when a decision was made."""

    backend: str
    tier: Tier
    chosen: bool
    score: float | None
    terms: tuple[TermLine, ...]
    model: str | None
    price_usd: Money | None
    reserve_usd: Money | None
    service_s: float | None
    service_p90_s: float | None
    wait_s: float
    queued: int
    basis: str = Field(description="The figures behind price and time.")
    refusal: str | None = Field(description="Stable word: capability, limit, permission, health, breaker, …")
    lost_because: str = Field(description="A sentence; empty for the chosen one.")


class DecisionLine(Model):
    """One decision with all its candidates."""

    attempt: int
    decided_at: datetime
    chosen: str | None
    tier: Tier | None
    reason: str
    elapsed_us: float
    candidates: tuple[CandidateLine, ...]


class AttemptLine(Model):
    """One attempt, as far as it is anybody's business: handles and addresses of vendors stay inside."""

    attempt_id: str
    number: int
    backend: str
    tier: Tier
    model: str
    lane: str
    gpu: str
    state: AttemptState
    quoted_usd: Money
    reserved_usd: Money
    cost_usd: Money | None
    cost_basis: str
    quoted_s: float
    took_s: float | None = Field(description="Seconds comparable with `quoted_s`.")
    queue_s: float | None
    execution_s: float | None
    created_at: datetime
    submitted_at: datetime | None
    finished_at: datetime | None
    error_kind: str
    error_message: str
    advice: str = Field(description="What to do about an attempt whose outcome is unknown.")


class JobView(Model):
    """One job in full."""

    batch: str
    job: JobLine
    spec: VideoJob
    decisions: tuple[DecisionLine, ...]
    attempts: tuple[AttemptLine, ...]
    clip: Clip | None
    pod_overhead_usd: Money


def jobs(
    ledger: Ledger, batch: str, *, state: JobState | None = None, cursor: str | None = None, limit: int = 50
) -> Page[JobLine]:
    """The jobs of a batch in its order.

    Raises:
        NotFoundError: no such batch.
    """
    query = sa.select(t.jobs).where(t.jobs.c.batch == batch).order_by(t.jobs.c.ordinal, t.jobs.c.job)
    if state is not None:
        query = query.where(t.jobs.c.state == state.value)
    if cursor is not None:
        ordinal, after = decode_cursor(cursor, int, str)
        query = query.where((t.jobs.c.ordinal > ordinal) | ((t.jobs.c.ordinal == ordinal) & (t.jobs.c.job > after)))
    with reading(ledger) as connection:
        batch_row(connection, batch)
        found = connection.execute(query.limit(checked_limit(limit) + 1)).all()
        shown = found[:limit]
        lines = _lines(connection, batch, shown)
    more = len(found) > limit
    return Page(items=tuple(lines), next_cursor=encode_cursor(shown[-1].ordinal, shown[-1].job) if more else None)


def job(ledger: Ledger, batch: str, name: str) -> JobView:
    """One job with every decision about it.

    Raises:
        NotFoundError: no such batch or job.
    """
    with reading(ledger) as connection:
        row = job_row(connection, batch, name)
        line = _lines(connection, batch, [row])[0]
        wanted = (t.attempts.c.batch == batch) & (t.attempts.c.job == name)
        attempts = [
            rows.attempt(found)
            for found in connection.execute(sa.select(t.attempts).where(wanted).order_by(t.attempts.c.number))
        ]
        decided = (t.decisions.c.batch == batch) & (t.decisions.c.job == name)
        decisions = [
            rows.decision(found)
            for found in connection.execute(sa.select(t.decisions).where(decided).order_by(t.decisions.c.id))
        ]
        overhead = connection.execute(
            sa.select(sa.func.sum(t.pod_shares.c.amount_usd)).where(
                t.pod_shares.c.batch == batch, t.pod_shares.c.job == name
            )
        ).scalar()
    settled = [attempt for attempt in attempts if attempt.state is AttemptState.SETTLED]
    return JobView(
        batch=batch,
        job=line,
        spec=VideoJob.model_validate_json(row.spec),
        decisions=tuple(decision_line(decision) for decision in decisions),
        attempts=tuple(_attempt_line(attempt) for attempt in attempts),
        clip=settled[-1].clip if settled and line.has_clip else None,
        pod_overhead_usd=overhead or NOTHING,
    )


def job_row(connection: Connection, batch: str, name: str) -> sa.Row[Any]:
    """The row of a job.

    Raises:
        NotFoundError: no such batch or job; says which is near.
    """
    batch_row(connection, batch)
    row = connection.execute(sa.select(t.jobs).where(t.jobs.c.batch == batch, t.jobs.c.job == name)).one_or_none()
    if row is None:
        ids = connection.execute(sa.select(t.jobs.c.job).where(t.jobs.c.batch == batch).limit(10_000)).scalars()
        near = difflib.get_close_matches(name, list(ids), n=1)
        hint = f"did you mean {near[0]!r}?" if near else "list the batch's jobs to see their ids"
        raise NotFoundError(f"batch {batch!r} has no job {name!r}; {hint}")
    return row


def decision_line(decision: Decision) -> DecisionLine:
    """A decision as it is shown."""
    return DecisionLine(
        attempt=decision.attempt,
        decided_at=decision.decided_at,
        chosen=decision.chosen,
        tier=decision.tier,
        reason=decision.reason,
        elapsed_us=decision.elapsed_us,
        candidates=tuple(candidate_line(candidate, decision.chosen) for candidate in decision.candidates),
    )


def candidate_line(candidate: Candidate, chosen: str | None) -> CandidateLine:
    """A candidate as it is shown."""
    quote = candidate.quote
    return CandidateLine(
        backend=candidate.backend,
        tier=candidate.tier,
        chosen=candidate.backend == chosen,
        score=candidate.score,
        terms=tuple(TermLine(**term.model_dump()) for term in candidate.terms),
        model=quote.model if quote else None,
        price_usd=quote.amount_usd if quote else None,
        reserve_usd=quote.reserve_usd if quote else None,
        service_s=quote.service_s if quote else None,
        service_p90_s=quote.service_p90_s or None if quote else None,
        wait_s=candidate.wait_s,
        queued=candidate.queued,
        basis=quote.basis if quote else "",
        refusal=candidate.refusal.code if candidate.refusal else None,
        lost_because=candidate.lost_because or (candidate.refusal.reason if candidate.refusal else ""),
    )


def _lines(connection: Connection, batch: str, found: Sequence[sa.Row[Any]]) -> list[JobLine]:
    ids = [row.job for row in found]
    newest = _newest(connection, batch, ids)
    money = _money(connection, batch, ids)
    lines = []
    for row in found:
        last = newest.get(row.job)
        cost, reserved = money.get(row.job, (NOTHING, NOTHING))
        lines.append(
            JobLine(
                job=row.job,
                ordinal=row.ordinal,
                prompt=VideoJob.model_validate_json(row.spec).prompt,
                state=JobState(row.state),
                attempts=row.attempts,
                backend=last.backend if last else None,
                tier=last.tier if last else None,
                model=last.model if last else None,
                attempt_state=last.state if last else None,
                quoted_usd=last.quoted_usd if last else None,
                cost_usd=cost,
                reserved_usd=reserved,
                error_kind=row.error_kind,
                error_message=row.error_message,
                has_clip=row.state == JobState.DONE.value,
                cancel_requested=row.cancel_requested_at is not None,
                updated_at=row.updated_at,
            )
        )
    return lines


def _newest(connection: Connection, batch: str, ids: Sequence[str]) -> dict[str, sa.Row[Any]]:
    columns = ("job", "number", "backend", "tier", "model", "state", "quoted_usd")
    query = (
        sa.select(*(t.attempts.c[name] for name in columns))
        .where(t.attempts.c.batch == batch, t.attempts.c.job.in_(ids))
        .order_by(t.attempts.c.number)
    )
    return {row.job: row for row in connection.execute(query)}


def _money(connection: Connection, batch: str, ids: Sequence[str]) -> Mapping[str, tuple[Decimal, Decimal]]:
    prefix = f"job:{batch}/"
    query = sa.select(t.balances).where(t.balances.c.scope.in_([f"{prefix}{name}" for name in ids]))
    return {row.scope.removeprefix(prefix): (row.settled_usd, row.reserved_usd) for row in connection.execute(query)}


def _attempt_line(attempt: Attempt) -> AttemptLine:
    shown = {
        name: getattr(attempt, name)
        for name in AttemptLine.model_fields
        if name not in ("quoted_s", "took_s", "advice")
    }
    unknown = attempt.state is AttemptState.UNCERTAIN
    return AttemptLine(
        **shown,
        quoted_s=attempt.quote.service_s,
        took_s=served_s(attempt),
        advice=advice(attempt) if unknown else "",
    )
