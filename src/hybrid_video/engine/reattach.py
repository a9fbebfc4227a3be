"""Takes up open attempts outside of a batch run: claims their jobs, finds them again, and settles them.

Shared by `reconcile`, which follows them to their end, and `cancel`, which stops them. Nothing here can submit.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from hybrid_video import workflows
from hybrid_video.backends.registry import configured_backends
from hybrid_video.engine.attempts import AttemptDriver, Outcome, ProgressReport, Ticket
from hybrid_video.engine.fleet import Fleet
from hybrid_video.engine.prepare import build_context
from hybrid_video.engine.refilling import refill
from hybrid_video.engine.resume import OUT_OF_SIGHT, find_again
from hybrid_video.engine.selection import Shot
from hybrid_video.errors import BackendError, FailureKind, HybridVideoError, InputError, SubmitUncertain
from hybrid_video.failures import policy
from hybrid_video.ledger import Caps, JobRow, Ledger, Owner
from hybrid_video.ledger.lookups import BatchRow, batch_rows
from hybrid_video.models import AUTO_WORKFLOW, Attempt, CostEntry, EffectivePreferences, JobState, JobStatus, WorkOrder
from hybrid_video.settings import Settings

RENEW_S = 10.0
PROGRESS_S = 5.0

Tell = Callable[[Attempt, str], None]
"""Told what is happening to an attempt, a few words at a time."""


class Reattach:
    """Backends, ledger and ownership for driving attempts that no run drives."""

    def __init__(self, settings: Settings, ledger: Ledger, fleet: Fleet, owner: Owner, tell: Tell) -> None:
        self.ledger = ledger
        self.fleet = fleet
        self.owner = owner
        self.tell = tell
        self.trouble: dict[str, str] = {}
        self.in_the_dark = False
        """Whether the ledger was restored and may not know what became of its attempts: then no failure is booked."""
        self._settings = settings
        self._batches: dict[str, BatchRow] = {}
        self._attempts: dict[str, Attempt] = {}
        self._shown_s: dict[str, float] = {}

    async def start(self, backends: Collection[str]) -> None:
        """Starts the backends that are needed. What does not start is noted, and looked up all the same."""
        wanted = [key for key in self.fleet.backends if key in backends and key not in self.trouble]
        outcomes = await asyncio.gather(*(self.fleet.backends[key].start() for key in wanted), return_exceptions=True)
        for key, outcome in zip(wanted, outcomes, strict=True):
            if isinstance(outcome, HybridVideoError):
                self.trouble[key] = str(outcome)
            elif outcome is not None:
                raise outcome

    async def claim(self, attempt: Attempt) -> bool:
        """Makes this process the one that drives the attempt's job; False while another live process does."""
        return await asyncio.to_thread(self.ledger.claim, attempt.batch, attempt.job, self.owner)

    async def release(self, attempt: Attempt) -> None:
        """Gives the attempt's job up again."""
        await asyncio.to_thread(
            lambda: self.ledger.release(self.owner, batch=attempt.batch, job=attempt.job),
        )

    async def find(self, attempt: Attempt) -> Outcome:
        """What an open attempt is: final already, to be driven on by its receipt, or still unknown."""
        row, batch = await asyncio.to_thread(self._rows, attempt)
        shot = _shot(row, attempt)
        self._attempts[attempt.attempt_id] = attempt
        try:
            found = await find_again(attempt, shot, self.fleet, self.ledger)
        except HybridVideoError as error:
            found = Outcome(_bare(attempt, shot), failure=self._unclear(attempt, str(error)))
        return replace(found, ticket=replace(found.ticket, caps=self._caps(batch, attempt)))

    async def follow(self, found: Outcome, attempt: Attempt) -> Outcome:
        """Waits for the end of an attempt that was found; the remote work goes on if this is cancelled."""
        ended = await self._follow(found, attempt)
        if not self.in_the_dark or ended.failure is None or isinstance(ended.failure, SubmitUncertain):
            return ended
        why = f"{ended.failure}; a journal that is not read may know better, and the gap since the backup is open"
        return replace(ended, failure=self._unclear(attempt, why))

    async def _follow(self, found: Outcome, attempt: Attempt) -> Outcome:
        if found.finished_already or found.failure is not None:
            return found
        try:
            return await self.driver(attempt.batch).follow(found.ticket)
        except SubmitUncertain as error:
            return replace(found, failure=error)
        except BackendError as error:
            seen = self._unclear(attempt, str(error)) if error.kind in OUT_OF_SIGHT else error
            return replace(found, failure=seen)
        except HybridVideoError as error:
            return replace(found, failure=self._unclear(attempt, str(error)))

    async def settle(self, outcome: Outcome, attempt: Attempt) -> tuple[CostEntry | None, JobState]:
        """Books an outcome; None instead of a cost while it stays uncertain."""
        row, _batch = await asyncio.to_thread(self._rows, attempt)
        state = _job_state(row, outcome)
        cost = await self.driver(attempt.batch).record(outcome, job_state=state)
        return cost, JobState.UNCERTAIN if cost is None else state

    def driver(self, batch: str) -> AttemptDriver:
        """What drives the attempts of a batch, with the batch's own folder."""
        row = self._batch(batch)
        return AttemptDriver(
            self.fleet, self.ledger, out_dir=row.out_dir, simulated=row.simulated, on_progress=self._on_progress()
        )

    def _on_progress(self) -> ProgressReport:
        def report(order: WorkOrder, status: JobStatus) -> None:
            now = time.monotonic()
            attempt = self._attempts.get(order.attempt_id)
            if attempt is not None and now - self._shown_s.get(order.attempt_id, float("-inf")) >= PROGRESS_S:
                self._shown_s[order.attempt_id] = now
                self.tell(attempt, status.message or status.phase)

        return report

    def _batch(self, name: str) -> BatchRow:
        if name not in self._batches:
            self._batches = batch_rows(self.ledger)
        return self._batches[name]

    def _rows(self, attempt: Attempt) -> tuple[JobRow, BatchRow]:
        return self.ledger.job_rows(attempt.batch, only=[attempt.job])[0], self._batch(attempt.batch)

    def _caps(self, batch: BatchRow, attempt: Attempt) -> Caps:
        routing = self._settings.routing
        return Caps(
            batch_usd=batch.budget_usd,
            day_usd=routing.daily_budget_usd,
            month_usd=routing.monthly_budget_usd,
            tier_usd=routing.monthly_tier_budgets_usd.get(attempt.tier),
        )

    def _unclear(self, attempt: Attempt, why: str) -> SubmitUncertain:
        trouble = self.trouble.get(attempt.backend, "")
        also = f" ({trouble})" if trouble and trouble not in why else ""
        return SubmitUncertain(
            f"{attempt.backend} cannot say now what became of it: {why}{also}; ${attempt.reserved_usd:f} stays "
            "reserved and it is not sent again",
            backend=attempt.backend,
        )


@asynccontextmanager
async def reattaching(settings: Settings, ledger: Ledger, tell: Tell) -> AsyncIterator[Reattach]:
    """A `Reattach` whose leases are renewed; closed with every job released.

    A restored ledger is told of its gap first: a vendor that has forgotten a job would have it booked as lost.
    """
    gap = await asyncio.to_thread(refill, ledger, [settings.storage.clips_dir])
    fleet = Fleet(configured_backends(build_context(settings, None)))
    owner = Owner(settings.storage.home)
    ledger.act_as(owner)
    keeper = asyncio.create_task(_keep_lease(ledger, owner))
    try:
        hands = Reattach(settings, ledger, fleet, owner, tell)
        hands.in_the_dark = gap is not None and not gap.closed
        yield hands
    finally:
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
        await asyncio.to_thread(ledger.release, owner)
        await fleet.close()
        owner.close()


async def _keep_lease(ledger: Ledger, owner: Owner) -> None:
    while True:
        await asyncio.sleep(RENEW_S)
        with contextlib.suppress(HybridVideoError):
            await asyncio.to_thread(ledger.renew, owner)


def _shot(row: JobRow, attempt: Attempt) -> Shot:
    """The job with what is still known of its files. Without its workflow's file the clip's size is not insisted on."""
    path = Path(attempt.workflow_path) if attempt.workflow_path else None
    lenient = False
    if path is not None or row.spec.workflow != AUTO_WORKFLOW:
        try:
            lenient = not workflows.plan(row.spec, workflow_path=path).exact
        except InputError:
            path, lenient = None, True
    return Shot(row.spec, row.spec.seed_in(row.batch), EffectivePreferences(), workflow_path=path, lenient=lenient)


def _bare(attempt: Attempt, shot: Shot) -> Ticket:
    order = WorkOrder(
        attempt_id=attempt.attempt_id,
        batch=attempt.batch,
        job=shot.job,
        number=attempt.number,
        seed=shot.seed,
        lane=attempt.lane,
        quote=attempt.quote,
    )
    return Ticket(order, attempt.handle, shot.lenient)


def _job_state(row: JobRow, outcome: Outcome) -> JobState:
    """What becomes of the job: pending where another attempt may help, which only `run` makes."""
    failure = outcome.failure
    if failure is None or row.state is JobState.DONE:
        return JobState.DONE
    if row.cancel_requested or failure.kind is FailureKind.CANCELLED:
        return JobState.CANCELLED
    if outcome.ticket.handle is None or policy(failure.kind).next == "anywhere":
        return JobState.PENDING
    return JobState.FAILED
