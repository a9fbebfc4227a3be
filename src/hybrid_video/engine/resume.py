"""Finds again what an earlier process left open, without ever sending it a second time.

state left behind      what is done
---------------------  ----------------------------------------------------------------------------
collected              the clip is on disk: it is settled
any other              the record of its clip is on disk, though nobody noted it: as if it were noted
submitted, running     the receipt is there: polled and collected as if nothing had happened
intent, uncertain      looked up by our own id: found - goes on; certainly not there - free to be made;
                       nobody can say - stays uncertain, keeps its reservation, waits for a person
"""

from __future__ import annotations

import asyncio

from hybrid_video.clips.records import ClipRecord, recorded_clip
from hybrid_video.engine.attempts import Outcome, Ticket
from hybrid_video.engine.fleet import Fleet
from hybrid_video.engine.selection import Shot
from hybrid_video.errors import BackendError, FailureKind, SubmitUncertain, TransientError
from hybrid_video.ledger import Ledger
from hybrid_video.models import Attempt, AttemptState, JobHandle, JobStatus, WorkOrder

OUT_OF_SIGHT = frozenset({FailureKind.UNREACHABLE, FailureKind.RATE_LIMITED, FailureKind.DOWNLOAD_FAILED})


async def find_again(attempt: Attempt, shot: Shot, fleet: Fleet, ledger: Ledger) -> Outcome:
    """What to do with an open attempt: an outcome that is final already, or one whose ticket is to be driven on."""
    order = WorkOrder(
        attempt_id=attempt.attempt_id,
        batch=attempt.batch,
        job=shot.job,
        number=attempt.number,
        seed=shot.seed,
        lane=attempt.lane,
        quote=attempt.quote,
        image_path=str(shot.image_path) if shot.image_path else None,
        workflow_path=str(shot.workflow_path) if shot.workflow_path else None,
    )
    ticket = Ticket(order, attempt.handle, lenient=shot.lenient)
    if attempt.state is AttemptState.COLLECTED and attempt.clip is not None:
        status = JobStatus(phase="succeeded", queue_s=attempt.queue_s, execution_s=attempt.execution_s, gpu=attempt.gpu)
        return Outcome(ticket, clip=attempt.clip, status=status, finished_already=True)
    record = await asyncio.to_thread(_note_stored_clip, attempt, ledger)
    if record is not None:
        status = JobStatus(phase="succeeded", execution_s=record.execution_s, gpu=record.gpu)
        return Outcome(ticket, clip=record.clip, status=status, finished_already=True)
    if attempt.backend not in fleet.backends:
        return Outcome(ticket, failure=_uncertain(attempt, f"{attempt.backend} is not configured any more"))
    if attempt.handle is not None:
        return Outcome(ticket)
    return await _look_up(ticket, attempt, fleet, ledger)


def after_acceptance(error: BackendError, attempt: Attempt) -> BackendError:
    """Once a paid backend has accepted a job, losing sight of it is not a failure: the clip may be made and paid for.

    The attempt becomes uncertain and is taken up again later; sending the job elsewhere would pay twice.
    """
    if attempt.handle is None or not attempt.quote.reserve_usd or error.kind not in OUT_OF_SIGHT:
        return error
    return SubmitUncertain(
        f"{attempt.backend} accepted the job, then went out of reach: {error}; it is taken up again by running the "
        "batch again or by `hybrid-video reconcile`, and not sent a second time",
        backend=attempt.backend,
        detail=error.detail,
    )


def _note_stored_clip(attempt: Attempt, ledger: Ledger) -> ClipRecord | None:
    """The clip of an attempt whose process died after storing it, or whose end a restored ledger does not know: no
    vendor need be asked, and one that has forgotten the job would call it lost."""
    record = recorded_clip(ledger.batch_out_dir(attempt.batch) / attempt.batch, attempt.job, attempt.attempt_id)
    if record is None:
        return None
    if attempt.state is AttemptState.INTENT:
        receipt = record.receipt
        ledger.mark_submitted(
            JobHandle(
                backend=attempt.backend,
                attempt_id=attempt.attempt_id,
                remote_id=receipt.remote_id if receipt else "",
                lane=attempt.lane,
                submitted_at=(receipt.submitted_at if receipt else None) or attempt.created_at,
            )
        )
    queue_s = record.receipt.queue_s if record.receipt else None
    ledger.mark_collected(
        attempt.attempt_id, record.clip, execution_s=record.execution_s, queue_s=queue_s, gpu=record.gpu
    )
    return record


async def _look_up(ticket: Ticket, attempt: Attempt, fleet: Fleet, ledger: Ledger) -> Outcome:
    backend = fleet.backends[attempt.backend]
    try:
        found = await backend.find(ticket.order)
    except BackendError as error:
        return Outcome(ticket, failure=_uncertain(attempt, str(error)))
    if found == "unknown":
        return Outcome(ticket, failure=_uncertain(attempt, f"{attempt.backend} cannot say whether it was accepted"))
    if found is None:
        never = TransientError(
            f"{attempt.backend} never received it", kind=FailureKind.RESTARTED, backend=attempt.backend
        )
        return Outcome(ticket, failure=never)
    ledger.mark_submitted(found)
    return Outcome(Ticket(ticket.order, found, ticket.lenient))


def _uncertain(attempt: Attempt, why: str) -> SubmitUncertain:
    return SubmitUncertain(
        f"attempt {attempt.number} of {attempt.batch}/{attempt.job} was interrupted before its outcome was known, and "
        f"{why}; ${attempt.reserved_usd} stays reserved and it is not sent again",
        backend=attempt.backend,
    )
