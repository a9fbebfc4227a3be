"""Batches, orders and decisions for tests of the ledger."""

from __future__ import annotations

import uuid
from decimal import Decimal
from pathlib import Path

from hybrid_video.ledger import Caps, Ledger, Owner
from hybrid_video.models import (
    AttemptState,
    Batch,
    Candidate,
    Clip,
    CostEntry,
    Decision,
    JobHandle,
    JobState,
    VideoJob,
    WorkOrder,
    utc_now,
)
from tests.unit.deciding_rig import job, quote


def make_batch(name: str = "night", jobs: int | tuple[VideoJob, ...] = 3, **values: object) -> Batch:
    """A batch of so many shots, `shot-0` and on."""
    shots = tuple(job(f"shot-{n}") for n in range(jobs)) if isinstance(jobs, int) else jobs
    return Batch.model_validate({"name": name, "jobs": shots, **values})


def make_order(
    batch: str = "night",
    shot: VideoJob | None = None,
    *,
    number: int = 1,
    usd: str = "0.02",
    reserve_usd: str | None = None,
    backend: str = "runpod-serverless",
) -> WorkOrder:
    """One attempt, not yet reserved."""
    return WorkOrder(
        attempt_id=str(uuid.uuid4()),
        batch=batch,
        job=shot or job("shot-0"),
        number=number,
        seed=7,
        lane=f"{backend}-0",
        quote=quote(backend, usd, 20, reserve_usd=reserve_usd),
    )


def make_decision(order: WorkOrder) -> Decision:
    """A decision for an order, with its candidate and a loser."""
    chosen = Candidate(backend=order.quote.backend, tier=order.quote.tier, quote=order.quote, score=70.0)
    loser = Candidate(backend="gemini", tier=quote("gemini", "0.08", 5).tier, lost_because="scores 30 points less")
    return Decision(
        job=order.job.id,
        attempt=order.number,
        chosen=chosen.backend,
        tier=chosen.tier,
        reason="best score",
        candidates=(chosen, loser),
        decided_at=utc_now(),
        elapsed_us=12.5,
    )


def make_handle(order: WorkOrder, **details: str) -> JobHandle:
    """The receipt of an order."""
    return JobHandle(
        backend=order.quote.backend,
        attempt_id=order.attempt_id,
        remote_id=f"remote-{order.attempt_id[:8]}",
        lane=order.lane,
        submitted_at=utc_now(),
        details=details,
    )


def make_clip(order: WorkOrder, path: Path | str = "/clips/shot.mp4") -> Clip:
    """A finished clip of an order."""
    return Clip(
        job=order.job.id,
        path=str(path),
        sha256="0" * 64,
        size_bytes=1000,
        width=832,
        height=480,
        fps=16,
        frames=80,
        duration_s=5,
        container="mp4",
        codec="h264",
    )


def cost(usd: str) -> CostEntry:
    """A metered cost."""
    return CostEntry(amount_usd=Decimal(usd), basis="20 GPU-seconds", source="metered")


def reserve(ledger: Ledger, order: WorkOrder, owner: Owner, **caps: Decimal) -> None:
    """Passes the spend gate with these caps."""
    ledger.reserve(order, make_decision(order), Caps(**caps), owner)


def advance(ledger: Ledger, order: WorkOrder, state: AttemptState, path: Path | str = "/clips/shot.mp4") -> None:
    """Brings a reserved attempt to an open state by the ordinary way."""
    ways = {
        AttemptState.INTENT: (),
        AttemptState.SUBMITTED: ("submitted",),
        AttemptState.RUNNING: ("submitted", "running"),
        AttemptState.COLLECTED: ("submitted", "running", "collected"),
        AttemptState.UNCERTAIN: ("uncertain",),
    }
    for step in ways[state]:
        if step == "submitted":
            ledger.mark_submitted(make_handle(order))
        elif step == "running":
            ledger.mark_running(order.attempt_id, gpu="RTX 4090")
        elif step == "collected":
            ledger.mark_collected(
                order.attempt_id, make_clip(order, path), execution_s=19.5, queue_s=2.0, gpu="RTX 4090"
            )
        else:
            ledger.mark_uncertain(order.attempt_id, "the answer was lost")


def finish(ledger: Ledger, order: WorkOrder, usd: str = "0.01") -> None:
    """Settles a collected attempt as done."""
    ledger.settle(order.attempt_id, cost(usd), state=AttemptState.SETTLED, job_state=JobState.DONE)


def fail(ledger: Ledger, order: WorkOrder, usd: str = "0") -> None:
    """Ends an attempt without a clip; the job waits again."""
    ledger.settle(
        order.attempt_id,
        cost(usd),
        state=AttemptState.FAILED,
        job_state=JobState.PENDING,
        error_kind="out_of_memory",
        error_message="CUDA out of memory",
    )


def make_done(ledger: Ledger, order: WorkOrder, owner: Owner, usd: str = "0.01") -> None:
    """The whole way of a successful attempt."""
    reserve(ledger, order, owner)
    advance(ledger, order, AttemptState.COLLECTED)
    finish(ledger, order, usd)
