"""A person's word on an attempt whose outcome nobody can look up: the way out of `uncertain` beside the vendor."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

from hybrid_video.errors import InputError
from hybrid_video.ledger.owner import Owner
from hybrid_video.ledger.store import JobRow, Ledger
from hybrid_video.models import Attempt, AttemptState, CostEntry, JobState

Word = Literal["never-accepted", "charged", "free"]
"""never-accepted: the vendor has no trace of it; charged: it is on the bill; free: accepted, and costs nothing."""


def advice(attempt: Attempt) -> str:
    """What a person can do about an uncertain attempt, with the command to type."""
    return (
        f"`hybrid-video reconcile` looks again; or look at {attempt.backend}'s own records of "
        f"{attempt.created_at:%Y-%m-%d %H:%M} UTC and say `hybrid-video ledger resolve {attempt.attempt_id} "
        "--as never-accepted` (or charged, or free)"
    )


def resolve(
    ledger: Ledger,
    owner: Owner,
    attempt: Attempt,
    word: Word,
    *,
    usd: Decimal | None = None,
    retry: bool = False,
    said_by: str = "a person",
) -> JobState:
    """Settles an uncertain attempt and returns what its job became.

    never-accepted makes the job pending again; charged and free end it as failed, or pending with `retry`. A job that
    is done or was cancelled on request stays so.

    Args:
        usd: what was charged; the reservation when None.
        said_by: who decided, for the ledger.

    Raises:
        InputError: the attempt is not uncertain, or another process is looking it up at this moment.
    """
    if not ledger.claim(attempt.batch, attempt.job, owner):
        raise InputError(
            f"attempt {attempt.attempt_id!r} is being looked up by another process at this moment; wait for it to end"
        )
    try:
        now = ledger.attempt(attempt.attempt_id)
        if now.state is not AttemptState.UNCERTAIN:
            raise InputError(_not_uncertain(now))
        row = ledger.job_rows(now.batch, only=[now.job])[0]
        cost = _cost(now, word, usd, said_by)
        job_state = _job_state(row, word, retry=retry)
        ledger.settle(
            now.attempt_id,
            cost,
            state=AttemptState.FAILED,
            job_state=job_state,
            error_kind="" if job_state is JobState.DONE else "uncertain",
            error_message=f"its outcome was never known; {cost.basis}",
        )
    finally:
        ledger.release(owner, batch=attempt.batch, job=attempt.job)
    return job_state


def _cost(attempt: Attempt, word: Word, usd: Decimal | None, said_by: str) -> CostEntry:
    if word == "charged":
        amount = attempt.reserved_usd if usd is None else usd
        return CostEntry(amount_usd=amount, basis=f"{said_by} booked it as charged", source="person")
    what = "never accepted" if word == "never-accepted" else "free of charge"
    return CostEntry(amount_usd=Decimal(0), basis=f"{said_by} booked it as {what}", source="person")


def _job_state(row: JobRow, word: Word, *, retry: bool) -> JobState:
    if row.state is JobState.DONE:
        return JobState.DONE
    if row.cancel_requested:
        return JobState.CANCELLED
    return JobState.PENDING if retry or word == "never-accepted" else JobState.FAILED


def _not_uncertain(attempt: Attempt) -> str:
    what = f"attempt {attempt.attempt_id!r} of {attempt.batch}/{attempt.job} is {attempt.state.value}, not uncertain"
    if attempt.finished:
        return f"{what}: it is settled at ${attempt.cost_usd or 0:f} and needs no word"
    return f"{what}: the vendor can still say what became of it; run `hybrid-video reconcile` first"
