"""One attempt from intent to clip: submit, receipt, wait, download, check, store. And its end in the ledger.

The receipt is stored before anything waits on it, and storing it cannot be interrupted between the vendor's answer and
the commit.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import shutil
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from decimal import ROUND_UP, Decimal
from pathlib import Path
from typing import Any, TypeVar

from hybrid_video import __version__
from hybrid_video.backends.base import Backend, CancelOutcome
from hybrid_video.clips import ClipRejected, check_clip, store_clip
from hybrid_video.engine.fleet import Fleet
from hybrid_video.errors import (
    BackendError,
    FailureKind,
    HybridVideoError,
    LedgerError,
    LimitError,
    SubmitUncertain,
    TerminalError,
    TransientError,
)
from hybrid_video.ledger import Caps, Ledger
from hybrid_video.ledger.rows import spec_sha
from hybrid_video.ledger.states import MOVES
from hybrid_video.logs import bound
from hybrid_video.models import (
    AttemptState,
    Clip,
    CostEntry,
    JobHandle,
    JobState,
    JobStatus,
    WorkOrder,
)
from hybrid_video.observing import traced

log = logging.getLogger("hybrid_video.engine")

CANCEL_TIMEOUT_S = 15.0
RECEIPT_PATIENCE_S = 120.0
RECEIPT_PAUSE_S = 0.2
LONGEST_RECEIPT_PAUSE_S = 10.0
COLLECT_TIMEOUT_S = 60.0
"""How long a cancelled run still waits for the download of a finished clip; after it the next run collects it."""
STAGING = ".staging"
"""Folder within the clips' folder where downloads wait for their check."""
STAGING_TRIES = 20
UNLIMITED = Caps()
DAMAGED = frozenset({"not_a_video", "undecodable"})
METER_S = 1.0
FULL = Decimal("0.8")
GROWTH = Decimal("1.5")
CENTI_CENT = Decimal("0.0001")
"""A running GPU second costs money: when 80 % of the reservation is used up, it grows to 1.5 times what was used."""


@dataclass(frozen=True)
class Ticket:
    """An attempt to drive: new (no handle yet) or found again after a crash."""

    order: WorkOrder
    handle: JobHandle | None = None
    lenient: bool = False
    caps: Caps = UNLIMITED


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended: with a clip, or with a failure."""

    ticket: Ticket
    clip: Clip | None = None
    status: JobStatus | None = None
    failure: BackendError | None = None
    finished_already: bool = False


ProgressReport = Callable[[WorkOrder, JobStatus], None]

Result = TypeVar("Result")


def about_its_order(
    method: Callable[[AttemptDriver, Ticket], Awaitable[Result]],
) -> Callable[[AttemptDriver, Ticket], Coroutine[Any, Any, Result]]:
    """Every log line written below the method names the ticket's batch, job and attempt."""

    @functools.wraps(method)
    async def named(self: AttemptDriver, ticket: Ticket) -> Result:
        order = ticket.order
        with bound(batch=order.batch, job=order.job.id, attempt=order.number, backend=order.quote.backend):
            return await method(self, ticket)

    return named


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
        self._staging = out_dir / STAGING
        self._begun: set[str] = set()
        self._detached = False

    def detach(self) -> None:
        """From now on a cancellation leaves remote work running: when a run ends by an error (a full disk, a defect),
        what is paid for is not thrown away, and the next run collects it."""
        self._detached = True

    @about_its_order
    async def generate(self, ticket: Ticket) -> Outcome:
        """Gets the clip of one attempt. A cancellation stops the remote work, but never throws a finished clip away.

        Returns:
            The clip, even after a cancellation where it was finished already: it is paid for.

        Raises:
            BackendError: the attempt failed; SubmitUncertain when nobody can say whether it was accepted.
            asyncio.CancelledError: after the remote work was told to stop.
        """
        self._begun.add(ticket.order.attempt_id)
        backend = self._fleet.backends[ticket.order.quote.backend]
        handle = ticket.handle or await self._submit(backend, ticket)
        ticket = replace(ticket, handle=handle)
        try:
            status = await self._watch_and_pay(backend, ticket, handle)
        except asyncio.CancelledError:
            if self._detached or await self._stopped(ticket):
                raise
            try:
                async with asyncio.timeout(COLLECT_TIMEOUT_S):
                    return await self.follow(ticket)
            except TimeoutError:
                raise asyncio.CancelledError from None
        return await self._collected(backend, ticket, status)

    @about_its_order
    async def follow(self, ticket: Ticket) -> Outcome:
        """Gets the clip of an accepted attempt. A cancellation leaves the remote work running.

        Raises:
            BackendError: the attempt failed, or is out of reach.
        """
        backend = self._fleet.backends[ticket.order.quote.backend]
        if ticket.handle is None:
            raise ValueError(f"attempt {ticket.order.attempt_id!r} has no receipt to follow")
        status = await self._watch_and_pay(backend, ticket, ticket.handle)
        return await self._collected(backend, ticket, status)

    async def _stopped(self, ticket: Ticket) -> bool:
        """Stops the remote work after a cancellation; False if it was finished already, so that its clip is there."""
        with contextlib.suppress(Exception):
            return await asyncio.shield(self.stop(ticket)) != "finished"
        return True

    async def _collected(self, backend: Backend, ticket: Ticket, status: JobStatus) -> Outcome:
        """Brings the clip in; a cancellation waits for it, within bounds."""
        if ticket.handle is None:
            raise ValueError(f"attempt {ticket.order.attempt_id!r} has no receipt to collect by")
        collecting = asyncio.ensure_future(self._collect(backend, ticket, ticket.handle, status))
        try:
            clip = await asyncio.shield(collecting)
        except asyncio.CancelledError:
            try:
                async with asyncio.timeout(COLLECT_TIMEOUT_S):
                    clip = await collecting
            except TimeoutError:
                raise asyncio.CancelledError from None
        return Outcome(ticket=ticket, clip=clip, status=status)

    @traced("settle")
    async def record(self, outcome: Outcome, *, job_state: JobState) -> CostEntry | None:
        """Books an outcome: the true cost, the released reservation, the new states. None while it stays uncertain."""
        order, failure = outcome.ticket.order, outcome.failure
        if isinstance(failure, SubmitUncertain):
            await asyncio.to_thread(self._ledger.mark_uncertain, order.attempt_id, str(failure))
            return None
        cost = self._cost(outcome)
        cancelled = failure is not None and failure.kind is FailureKind.CANCELLED
        state = (
            AttemptState.SETTLED if failure is None else AttemptState.CANCELLED if cancelled else AttemptState.FAILED
        )

        def book() -> None:
            self._ledger.settle(
                order.attempt_id,
                cost,
                state=state,
                job_state=job_state,
                error_kind=failure.kind.value if failure else "",
                error_message=str(failure) if failure else "",
                execution_s=failure.execution_s if failure else None,
            )
            _remove_folder(self._staging / order.attempt_id)  # a process that was killed left its download there

        await asyncio.to_thread(book)
        return cost

    @about_its_order
    async def stop(self, ticket: Ticket) -> CancelOutcome:
        """Tells the backend to stop an accepted attempt, and books its end where that is certain.

        stopped: booked as cancelled, at what the vendor says it ran. finished: it was over already and stays open, so
        that its clip is collected. unknown: it becomes uncertain and keeps its reservation.
        """
        order, handle = ticket.order, ticket.handle
        backend = self._fleet.backends[order.quote.backend]
        if handle is None:
            raise ValueError(f"attempt {order.attempt_id!r} has no receipt to stop it by")
        why = ""
        try:
            async with asyncio.timeout(CANCEL_TIMEOUT_S):
                outcome = await backend.cancel(handle)
        except (HybridVideoError, TimeoutError) as error:
            outcome, why = "unknown", f" ({error})" if str(error) else ""
            log.warning("cancel of %s on %s got no clear answer: %s", order.label, backend.key, error)
        if outcome == "stopped":
            stopped = TerminalError(
                "cancelled by the user",
                kind=FailureKind.CANCELLED,
                backend=backend.key,
                execution_s=await _seconds_run(backend, handle),
            )
            await self.record(Outcome(ticket, failure=stopped), job_state=JobState.CANCELLED)
        elif outcome == "unknown":
            unclear = SubmitUncertain(
                f"{backend.key} could not be told to stop{why}; it may still make the clip, which would then cost "
                f"${order.quote.amount_usd:f}: `hybrid-video reconcile` collects it",
                backend=backend.key,
            )
            await self.record(Outcome(ticket, failure=unclear), job_state=JobState.UNCERTAIN)
        return outcome

    @about_its_order
    async def abandon(self, ticket: Ticket) -> None:
        """For an attempt cancelled before `generate` began with it: gives the reservation back, or stops it."""
        order = ticket.order
        if order.attempt_id in self._begun:
            return
        with contextlib.suppress(Exception):  # nothing was reserved yet
            if ticket.handle is not None:
                await self.stop(ticket)
                return
            backend = order.quote.backend
            never = TerminalError("cancelled before it was sent", kind=FailureKind.CANCELLED, backend=backend)
            await self.record(Outcome(ticket, failure=never), job_state=JobState.CANCELLED)

    def _cost(self, outcome: Outcome) -> CostEntry:
        order = outcome.ticket.order
        backend = self._fleet.backends.get(order.quote.backend)
        if outcome.failure is not None and outcome.ticket.handle is None:
            return CostEntry(amount_usd=Decimal(0), basis="nothing was accepted", source="metered")
        if backend is None:
            basis = f"{order.quote.backend} is not configured any more; the quote stands"
            return CostEntry(amount_usd=order.quote.amount_usd, basis=basis, source="quoted")
        return backend.charge(order.quote, outcome.status, outcome.failure)

    @traced("submit")
    async def _submit(self, backend: Backend, ticket: Ticket) -> JobHandle:
        """Sends and stores the receipt as one piece: a cancellation waits until both are done, then stops the work."""
        order = ticket.order

        async def send_and_store() -> JobHandle:
            # Always, however lately it was reserved: the monotonic clock stands still while a machine is suspended.
            await asyncio.to_thread(self._ledger.check_owned, order.batch, order.job.id)
            handle = await backend.submit(order)
            await self._store_receipt(order, handle)
            return handle

        sending = asyncio.ensure_future(send_and_store())
        try:
            return await asyncio.shield(sending)
        except asyncio.CancelledError:
            with contextlib.suppress(Exception):
                await asyncio.shield(self._stop_sending(sending, ticket))
            raise

    async def _store_receipt(self, order: WorkOrder, handle: JobHandle) -> None:
        """Stores the receipt, again and again while the ledger is locked or its disk full: it is worth a paid clip."""
        until, pause_s = time.monotonic() + RECEIPT_PATIENCE_S, RECEIPT_PAUSE_S
        while True:
            try:
                await asyncio.to_thread(self._ledger.mark_submitted, handle)
                return
            except LedgerError as error:
                if time.monotonic() > until or not await self._awaits_receipt(order.attempt_id):
                    raise LedgerError(
                        f"{handle.backend} accepted {order.label} as {handle.remote_id!r}, but that could not be "
                        f"stored: {error}; keep that id: `hybrid-video ledger resolve {order.attempt_id}` asks what "
                        "became of it"
                    ) from error
                log.warning("the receipt %s of %s is not stored yet: %s", handle.remote_id, order.label, error)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_RECEIPT_PAUSE_S)

    async def _awaits_receipt(self, attempt_id: str) -> bool:
        """Whether storing a receipt may yet succeed; what cannot be read now may be written later."""
        try:
            attempt = await asyncio.to_thread(self._ledger.attempt, attempt_id)
        except LedgerError:
            return True
        return AttemptState.SUBMITTED in MOVES[attempt.state]

    async def _stop_sending(self, sending: asyncio.Future[JobHandle], ticket: Ticket) -> None:
        """After a cancellation in mid-submit: the accepted job is stopped, a refused one gives its reservation back."""
        try:
            handle = await sending
        except BackendError as error:
            await self.record(Outcome(ticket, failure=error), job_state=JobState.CANCELLED)
        else:
            if not self._detached:
                await self.stop(replace(ticket, handle=handle))

    @traced("wait")
    async def _watch_and_pay(self, backend: Backend, ticket: Ticket, handle: JobHandle) -> JobStatus:
        """Waits for the job, and keeps its reservation ahead of what it has cost so far."""
        order = ticket.order
        began_s: float | None = None
        noting: asyncio.Future[None] | None = None

        def seen_running(status: JobStatus) -> None:
            nonlocal began_s, noting
            began_s = time.monotonic()
            noting = asyncio.ensure_future(
                asyncio.to_thread(self._ledger.mark_running, order.attempt_id, gpu=status.gpu)
            )

        watching = asyncio.ensure_future(backend.watch(handle, self._reporter(order, seen_running)))
        reserved = order.quote.reserve_usd
        try:
            while order.quote.rate_usd_per_s and not watching.done():
                await asyncio.wait([watching], timeout=METER_S)
                spent = order.quote.rate_usd_per_s * Decimal(time.monotonic() - (began_s or time.monotonic()))
                if not watching.done() and spent > reserved * FULL:
                    reserved = (spent * GROWTH).quantize(CENTI_CENT, rounding=ROUND_UP)
                    await asyncio.to_thread(self._ledger.extend, order.attempt_id, reserved, ticket.caps)
            status = await watching
            if noting is not None:
                await noting
            return status
        except LimitError as error:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            outcome = await backend.cancel(handle)
            if outcome == "finished":
                return await backend.watch(handle)
            if outcome == "unknown":
                raise SubmitUncertain(
                    f"takes longer than its limits allow ({error}), and {backend.key} could not be told to stop",
                    backend=backend.key,
                ) from None
            raise TerminalError(
                f"stopped because it takes longer than its limits allow: {error}",
                kind=FailureKind.OVER_BUDGET,
                backend=backend.key,
                execution_s=time.monotonic() - (began_s or time.monotonic()),
            ) from None
        except asyncio.CancelledError:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            raise
        finally:
            if noting is not None:  # what follows books how it ended, and must not be overtaken
                await asyncio.gather(noting, return_exceptions=True)

    def _reporter(self, order: WorkOrder, on_running: Callable[[JobStatus], None]) -> Callable[[JobStatus], None]:
        seen_running = False

        def report(status: JobStatus) -> None:
            nonlocal seen_running
            if status.phase == "running" and not seen_running:
                seen_running = True
                on_running(status)
            self._on_progress(order, status)

        return report

    @traced("fetch")
    async def _collect(self, backend: Backend, ticket: Ticket, handle: JobHandle, status: JobStatus) -> Clip:
        order = ticket.order
        folder = await asyncio.to_thread(self._staging_folder, order.attempt_id)
        try:
            source = await backend.collect(handle, status, folder)
        except BaseException:
            await asyncio.to_thread(_remove_folder, folder)
            raise
        return await asyncio.to_thread(self._keep, backend, ticket, source, status)

    def _keep(self, backend: Backend, ticket: Ticket, source: Path, status: JobStatus) -> Clip:
        """Checks and stores a downloaded clip, and notes that it is here."""
        attempt_id = ticket.order.attempt_id
        try:
            clip = self._check_and_store(backend, ticket, source, status)
        finally:
            _remove_folder(self._staging / attempt_id)
        self._ledger.mark_collected(
            attempt_id, clip, execution_s=status.execution_s, queue_s=status.queue_s, gpu=status.gpu
        )
        return clip

    def _staging_folder(self, attempt_id: str) -> Path:
        """An empty folder of the attempt; what an interrupted download left there is thrown away."""
        folder = self._staging / attempt_id
        shutil.rmtree(folder, ignore_errors=True)
        for _ in range(STAGING_TRIES):
            with contextlib.suppress(FileExistsError, FileNotFoundError):  # another attempt removes the empty parent
                folder.mkdir(parents=True, exist_ok=True)
                return folder
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _check_and_store(self, backend: Backend, ticket: Ticket, source: Path, status: JobStatus) -> Clip:
        order = ticket.order
        try:
            facts = check_clip(source, order.quote.output, lenient=ticket.lenient)
        except ClipRejected as error:
            # The same seed there draws the same picture; only a damaged file may be whole the next time.
            again = TransientError if error.reason in DAMAGED else TerminalError
            raise again(
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
            "receipt": {
                "lane": order.lane,
                "remote_id": ticket.handle.remote_id if ticket.handle else "",
                "submitted_at": ticket.handle.submitted_at if ticket.handle else None,
                "queue_s": status.queue_s,
                "spec_sha": spec_sha(order.job),
                "job": order.job,
                "quote": order.quote,
            },
        }
        return store_clip(
            source, out_dir=self._out_dir, batch=order.batch, job=order.job.id, facts=facts, provenance=provenance
        )


async def _seconds_run(backend: Backend, handle: JobHandle) -> float | None:
    """How long the vendor says a stopped job ran, which is what it charges; None where it does not say."""
    try:
        async with asyncio.timeout(CANCEL_TIMEOUT_S):
            return (await backend.status(handle)).execution_s
    except BackendError as error:
        return error.execution_s
    except TimeoutError:
        return None


def _remove_folder(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        folder.parent.rmdir()  # the staging folder itself, once it is empty
