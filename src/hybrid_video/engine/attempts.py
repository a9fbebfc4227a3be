"""One attempt from intent to clip: submit, receipt, wait, download, check, store. And its end in the ledger.

The receipt is stored before anything waits on it, and storing it cannot be interrupted between the vendor's answer and
the commit.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from hybrid_video import __version__
from hybrid_video.backends.base import Backend
from hybrid_video.clips import ClipRejected, check_clip, store_clip
from hybrid_video.engine.fleet import Fleet
from hybrid_video.errors import BackendError, FailureKind, SubmitUncertain, TerminalError, TransientError
from hybrid_video.ledger import Ledger
from hybrid_video.models import (
    AttemptState,
    Clip,
    CostEntry,
    JobHandle,
    JobState,
    JobStatus,
    WorkOrder,
)

log = logging.getLogger("hybrid_video.engine")

CANCEL_TIMEOUT_S = 15.0


@dataclass(frozen=True)
class Ticket:
    """An attempt to drive: new (no handle yet) or found again after a crash."""

    order: WorkOrder
    handle: JobHandle | None = None
    lenient: bool = False


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended: with a clip, or with a failure."""

    ticket: Ticket
    clip: Clip | None = None
    status: JobStatus | None = None
    failure: BackendError | None = None
    finished_already: bool = False


ProgressReport = Callable[[WorkOrder, JobStatus], None]


class AttemptDriver:
    """Drives attempts on the backends of a fleet and books their ends."""

    def __init__(
        self, fleet: Fleet, ledger: Ledger, *, out_dir: Path, simulated: bool, on_progress: ProgressReport
    ) -> None:
        self._fleet = fleet
        self._ledger = ledger
        self._out_dir = out_dir
        self._simulated = simulated
        self._on_progress = on_progress
        self._staging = out_dir / ".staging"

    async def generate(self, ticket: Ticket) -> Outcome:
        """Gets the clip of one attempt.

        Raises:
            BackendError: the attempt failed; SubmitUncertain when nobody can say whether it was accepted.
            asyncio.CancelledError: after the remote work was told to stop.
        """
        backend = self._fleet.backends[ticket.order.quote.backend]
        handle = ticket.handle or await self._submit(backend, ticket.order)
        try:
            status = await backend.watch(handle, self._reporter(ticket.order))
            clip = await self._collect(backend, ticket, handle, status)
        except asyncio.CancelledError:
            with contextlib.suppress(Exception):
                await asyncio.shield(self._stop(backend, ticket.order, handle))
            raise
        return Outcome(ticket=Ticket(ticket.order, handle, ticket.lenient), clip=clip, status=status)

    async def record(self, outcome: Outcome, *, job_state: JobState) -> CostEntry | None:
        """Books an outcome: the true cost, the released reservation, the new states. None while it stays uncertain."""
        order, failure = outcome.ticket.order, outcome.failure
        if isinstance(failure, SubmitUncertain):
            await asyncio.to_thread(self._ledger.mark_uncertain, order.attempt_id, str(failure))
            return None
        backend = self._fleet.backends[order.quote.backend]
        sent = outcome.ticket.handle is not None
        if failure is not None and not sent:
            cost = CostEntry(amount_usd=Decimal(0), basis="nothing was accepted", source="metered")
        else:
            cost = backend.charge(order.quote, outcome.status, failure)
        cancelled = failure is not None and failure.kind is FailureKind.CANCELLED
        state = (
            AttemptState.SETTLED if failure is None else AttemptState.CANCELLED if cancelled else AttemptState.FAILED
        )
        await asyncio.to_thread(
            lambda: self._ledger.settle(
                order.attempt_id,
                cost,
                state=state,
                job_state=job_state,
                error_kind=failure.kind.value if failure else "",
                error_message=str(failure) if failure else "",
                execution_s=failure.execution_s if failure else None,
            )
        )
        return cost

    async def _submit(self, backend: Backend, order: WorkOrder) -> JobHandle:
        """Sends and stores the receipt as one piece: a cancellation waits until both are done, then stops the work."""

        async def send_and_store() -> JobHandle:
            handle = await backend.submit(order)
            await asyncio.to_thread(self._ledger.mark_submitted, handle)
            return handle

        sending = asyncio.ensure_future(send_and_store())
        try:
            return await asyncio.shield(sending)
        except asyncio.CancelledError:
            with contextlib.suppress(BackendError):
                handle = await sending
                await self._stop(backend, order, handle)
            raise

    async def _stop(self, backend: Backend, order: WorkOrder, handle: JobHandle) -> None:
        """Tells the backend to stop; books the end where that is certain, else leaves the attempt to be found again."""
        try:
            async with asyncio.timeout(CANCEL_TIMEOUT_S):
                outcome = await backend.cancel(handle)
        except (BackendError, TimeoutError) as error:
            log.warning("cancel of %s on %s got no clear answer: %s", order.label, backend.key, error)
            return
        if outcome == "stopped":
            stopped = TerminalError("cancelled by the user", kind=FailureKind.CANCELLED, backend=backend.key)
            ticket = Ticket(order, handle)
            await self.record(Outcome(ticket=ticket, failure=stopped), job_state=JobState.CANCELLED)

    def _reporter(self, order: WorkOrder) -> Callable[[JobStatus], None]:
        seen_running = False

        def report(status: JobStatus) -> None:
            nonlocal seen_running
            if status.phase == "running" and not seen_running:
                seen_running = True
                self._ledger.mark_running(order.attempt_id, gpu=status.gpu)
            self._on_progress(order, status)

        return report

    async def _collect(self, backend: Backend, ticket: Ticket, handle: JobHandle, status: JobStatus) -> Clip:
        order = ticket.order
        folder = await asyncio.to_thread(self._staging_folder, order.attempt_id)
        try:
            source = await backend.collect(handle, status, folder)
            clip = await asyncio.to_thread(self._check_and_store, backend, ticket, source, status)
        finally:
            await asyncio.to_thread(_remove_folder, folder)
        await asyncio.to_thread(
            lambda: self._ledger.mark_collected(
                order.attempt_id,
                clip,
                execution_s=status.execution_s,
                queue_s=status.queue_s,
                gpu=status.gpu,
            )
        )
        return clip

    def _staging_folder(self, attempt_id: str) -> Path:
        self._staging.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f"{attempt_id[:8]}-", dir=self._staging))

    def _check_and_store(self, backend: Backend, ticket: Ticket, source: Path, status: JobStatus) -> Clip:
        order = ticket.order
        try:
            facts = check_clip(source, order.quote.output, lenient=ticket.lenient)
        except ClipRejected as error:
            raise TransientError(
                f"{backend.key} returned a file that is not the clip asked for: {error}",
                kind=FailureKind.BAD_CLIP,
                backend=backend.key,
                execution_s=status.execution_s,
            ) from None
        provenance = {
            "attempt_id": order.attempt_id,
            "attempt": order.number,
            "prompt": order.job.prompt,
            "negative_prompt": order.job.negative_prompt,
            "image": order.job.image,
            "workflow": order.job.workflow,
            "seed": order.seed,
            "backend": backend.key,
            "tier": backend.tier.value,
            "model": order.quote.model,
            "gpu": status.gpu,
            "quoted_usd": str(order.quote.amount_usd),
            "cost_usd": str(backend.charge(order.quote, status).amount_usd),
            "execution_s": status.execution_s,
            "simulated": self._simulated,
            "hybrid_video": __version__,
        }
        return store_clip(
            source, out_dir=self._out_dir, batch=order.batch, job=order.job.id, facts=facts, provenance=provenance
        )


def _remove_folder(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        folder.parent.rmdir()  # the staging folder itself, once it is empty
