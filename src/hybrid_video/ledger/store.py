"""Every read and write of the ledger.

One durable commit each for: reserve (decision, intent and reservation together), handle, and settlement. SQLite in WAL
mode with full synchronisation by default, PostgreSQL by URL. Methods are synchronous and safe to call from any thread.
"""

from __future__ import annotations

import random
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from hybrid_video.errors import InputError, LedgerError
from hybrid_video.ledger import dialect, forecasts, gaps, lanes, money, registration, rows, statements, upgrading
from hybrid_video.ledger import schema as t
from hybrid_video.ledger.forecasts import Forecast
from hybrid_video.ledger.journal import Journal, JournalError
from hybrid_video.ledger.money import Balance, Caps
from hybrid_video.ledger.noting import note, noted, write_later
from hybrid_video.ledger.owner import Owner
from hybrid_video.ledger.rows import JobRow
from hybrid_video.ledger.states import OPEN, check_move
from hybrid_video.ledger.upgrading import Upgraded
from hybrid_video.models import (
    Attempt,
    AttemptState,
    Batch,
    Clip,
    CostEntry,
    Decision,
    JobHandle,
    JobState,
    WorkOrder,
    utc_now,
)
from hybrid_video.redaction import redact

__all__ = ["Balance", "Caps", "JobCancelledError", "JobRow", "JobTakenError", "Ledger"]

LEASE = timedelta(seconds=30)
BUSY_TIMEOUT_S = 20.0
LOG_LIMIT_BYTES = 32_000_000
"""A write-ahead log that grew behind a long reader is cut down to this as soon as it is empty again."""
OPENING_PAUSE_S = (0.02, 0.2)
SERVER_PATIENCE_S = 20.0
"""Less than a lease: whoever waits longer may have lost his jobs."""
RECEIPTS = frozenset({AttemptState.SUBMITTED, AttemptState.RUNNING})
"""States that only add what is known of an attempt; every process may store them."""
OVER = frozenset({JobState.DONE, JobState.FAILED, JobState.CANCELLED})
"""Job states in which nothing more happens until the batch is run again."""

_ONE_WRITER = sa.text("SELECT pg_advisory_xact_lock(4857349203)")
"""Lets one transaction write at a time, as SQLite does: every rule was proven under that order, and each reservation
locks the row of the grand total anyway. Held until commit or rollback, and released by the server if we die."""

CANCELLED_MESSAGE = "cancelled on request; run the batch again to make it"


class JobTakenError(LedgerError):
    """Another live process drives the job, or one has moved it on since it was read."""


class JobCancelledError(LedgerError):
    """Somebody asked for the job to be cancelled."""


class Ledger:
    """The ledger of one installation. `close` it when done; any number of processes may have it open."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._acting: Owner | None = None
        self.upgraded: Upgraded | None = None
        """What opening it changed about an older ledger."""
        self._journal: Journal | None = None

    @classmethod
    def open(cls, url: str | Path) -> Ledger:
        """Opens (and creates or migrates) the ledger at a SQLite path or an SQLAlchemy URL.

        Raises:
            LedgerError: it cannot be opened; says why and what to do.
        """
        try:
            engine = _sqlite(url) if isinstance(url, Path) else _server(url)
            ledger = cls(engine)
            ledger._migrate()
        except (SQLAlchemyError, OSError, ImportError) as error:
            where, remedy = repr(str(url)), "check the folder's permissions and free space, or set HYBRID_VIDEO_HOME"
            if not isinstance(url, Path):
                where = "HYBRID_VIDEO_LEDGER_URL"
                remedy = "check the address, and install the driver with `pip install 'hybrid-video[studio]'`"
            raise LedgerError(f"the ledger at {where} cannot be opened: {_cause(error)}; {remedy}") from None
        return ledger

    def _migrate(self) -> None:
        """Brings the tables up to date. SQLite does not wait for the lock of another process that recovers the log
        after a kill, or folds it in at its end, so that is waited for here."""
        deadline = time.monotonic() + BUSY_TIMEOUT_S
        while True:
            try:
                with self._engine.connect() as connection:
                    before = upgrading.version(connection)
                if upgrading.is_behind(before):
                    self._upgrade()
                else:
                    with self._transaction() as connection:
                        t.migrate(connection)
                return
            except OperationalError as error:
                if time.monotonic() > deadline or "locked" not in str(error.orig):
                    raise
                time.sleep(random.uniform(*OPENING_PAUSE_S))  # noqa: S311 - two that wait should not stay in step

    def keep_journal(self, journal: Journal) -> None:
        """From now on every send, and what becomes of it, is written into the journal as well."""
        self._journal = journal

    @property
    def journal(self) -> Journal | None:
        """The journal that is kept beside this ledger, if one is."""
        return self._journal

    def _upgrade(self) -> None:
        """Copies an older file before it is changed, whoever of several processes comes first."""
        with upgrading.one_at_a_time(self._engine):
            with self._engine.connect() as connection:
                before = upgrading.version(connection)
            copy = upgrading.keep_copy(self._engine, before, utc_now()) if upgrading.is_behind(before) else None
            with self._transaction() as connection:
                t.migrate(connection)
            if upgrading.is_behind(before):
                self.upgraded = Upgraded(before, len(t.MIGRATIONS), copy)
            if copy is not None:
                upgrading.forget_old_copies(copy)

    def act_as(self, owner: Owner | None) -> None:
        """Fences every later end of an attempt: it is refused once another owner has taken the job over.

        A process that was suspended, or cut off, for longer than its lease may wake up in the middle of an attempt. It
        may then still store a receipt, which only adds what somebody must know, but it may not say how the attempt
        ended: that is the new owner's word.
        """
        self._acting = owner

    def check_owned(self, batch: str, job: str) -> None:
        """A last look before something is sent.

        Raises:
            JobTakenError: another owner drives the job now.
        """
        with self._read() as connection:
            self._check_fence(connection, batch, job)

    def close(self) -> None:
        """Closes every connection."""
        self._engine.dispose()

    # -- batches and jobs ------------------------------------------------------------------------------------------

    def register(self, batch: Batch, *, out_dir: Path, simulated: bool = False) -> list[str]:
        """Writes the batch, or joins it to what is known under its name.

        New jobs are added, unfinished ones stay, failed, cancelled and changed ones become pending again. A job whose
        text was changed back to the one its newest clip was made from is done again.

        Returns:
            Ids of jobs that were finished earlier with another text and will be made again.

        Raises:
            InputError: a changed job is still being made with its earlier text.
            ConfigurationError: the ledger was restored, and what was sent since the backup is not known yet.
        """
        with self._write() as connection:
            gaps.refuse_gap(connection)
            if self._journal is not None:
                gaps.remember_journal(connection, self._journal.identity)
            note(connection, "batch", batch.name)
            return registration.register(connection, batch, out_dir=out_dir, simulated=simulated, now=utc_now())

    def finish_batch(self, name: str) -> None:
        """Notes the end of a run."""
        with self._write() as connection:
            connection.execute(sa.update(t.batches).where(t.batches.c.name == name).values(finished_at=utc_now()))
            note(connection, "batch", name)

    def record_plan(self, forecast: Forecast) -> int:
        """Stores what a run is expected to come to; returns its number, for `record_outcome`."""
        with self._write() as connection:
            spent = connection.execute(statements.BALANCE, {"of_scope": f"batch:{forecast.batch}"}).one_or_none()
            values = forecasts.values(forecast, spent.settled_usd if spent else Decimal(0))
            number: int = connection.execute(sa.insert(t.plans).values(values).returning(t.plans.c.id)).scalar_one()
            return number

    def record_outcome(self, plan: int, *, duration_s: float, made: int) -> None:
        """Stores what a run came to beside its plan."""
        with self._write() as connection:
            row = connection.execute(sa.select(t.plans).where(t.plans.c.id == plan)).one()
            spent = connection.execute(statements.BALANCE, {"of_scope": f"batch:{row.batch}"}).one_or_none()
            actual = (spent.settled_usd if spent else Decimal(0)) - row.spent_before_usd
            values = {"actual_usd": actual, "actual_s": duration_s, "made": made}
            connection.execute(sa.update(t.plans).where(t.plans.c.id == plan).values(values))

    def forecasts(self, batch: str) -> list[Forecast]:
        """What the runs of a batch were expected to come to, oldest first."""
        query = sa.select(t.plans).where(t.plans.c.batch == batch).order_by(t.plans.c.id)
        with self._read() as connection:
            return [forecasts.forecast(row) for row in connection.execute(query)]

    def job_rows(self, batch: str, *, only: Sequence[str] | None = None) -> list[JobRow]:
        """The jobs of a batch in their order."""
        query = sa.select(t.jobs).where(t.jobs.c.batch == batch).order_by(t.jobs.c.ordinal)
        with self._read() as connection:
            found = [rows.job_row(row) for row in connection.execute(query)]
        return found if only is None else [row for row in found if row.job in set(only)]

    def batch_names(self) -> list[str]:
        """All batches, the newest first."""
        with self._read() as connection:
            return list(
                connection.execute(sa.select(t.batches.c.name).order_by(t.batches.c.started_at.desc())).scalars()
            )

    def batch_out_dir(self, name: str) -> Path:
        """Where a batch's clips go.

        Raises:
            InputError: no such batch.
        """
        with self._read() as connection:
            value = connection.execute(sa.select(t.batches.c.out_dir).where(t.batches.c.name == name)).scalar()
        if value is None:
            raise InputError(f"no batch is named {name!r}; `hybrid-video ledger verify` lists what the ledger knows")
        return Path(value)

    # -- ownership -------------------------------------------------------------------------------------------------

    def claim(self, batch: str, job: str, owner: Owner) -> bool:
        """Makes this process the one that drives a job; False while another live process does."""
        with self._write() as connection:
            claimed = self._claim(self._job(connection, batch, job), owner)
            if claimed is not None:
                self._update_job(connection, batch, job, **claimed)
            return claimed is not None

    def renew(self, owner: Owner) -> None:
        """Renews the lease of every job this process drives."""
        with self._write() as connection:
            connection.execute(
                sa.update(t.jobs).where(t.jobs.c.owner == owner.id).values(lease_until=utc_now() + LEASE)
            )

    def release(self, owner: Owner, *, batch: str | None = None, job: str | None = None) -> None:
        """Gives up every job this process drives, or one of them."""
        query = sa.update(t.jobs).where(t.jobs.c.owner == owner.id)
        if batch is not None and job is not None:
            query = query.where(t.jobs.c.batch == batch, t.jobs.c.job == job)
        with self._write() as connection:
            connection.execute(query.values(owner=None, lease_until=None))

    # -- cancelling ------------------------------------------------------------------------------------------------

    def request_cancel(self, batch: str, jobs: Collection[str] | None = None) -> list[str]:
        """Marks jobs (None: all) to be cancelled, in one commit; those with nothing under way are cancelled at once.

        The mark keeps every process from starting another attempt until the batch is run again. Finished jobs are left
        as they are.

        Returns:
            Ids of the jobs that still have an attempt under way, in the batch's order.
        """
        query = sa.select(t.jobs).where(t.jobs.c.batch == batch, t.jobs.c.state.not_in([s.value for s in OVER]))
        under_way = sa.select(t.attempts.c.job).where(
            t.attempts.c.batch == batch, t.attempts.c.state.in_([state.value for state in OPEN])
        )
        waiting: list[str] = []
        with self._write() as connection:
            found = connection.execute(query.order_by(t.jobs.c.ordinal)).all()
            busy = set(connection.execute(under_way).scalars())
            for row in found:
                if jobs is not None and row.job not in jobs:
                    continue
                values: dict[str, Any] = {"cancel_requested_at": row.cancel_requested_at or utc_now()}
                if row.job in busy:
                    waiting.append(row.job)
                else:
                    values |= {"state": JobState.CANCELLED.value, "error_kind": "cancelled"}
                    values |= {"error_message": CANCELLED_MESSAGE, "owner": None, "lease_until": None}
                self._update_job(connection, batch, row.job, **values)
        return waiting

    def cancel_requests(self, batch: str) -> set[str]:
        """Jobs of a batch that are marked to be cancelled."""
        query = sa.select(t.jobs.c.job).where(t.jobs.c.batch == batch, t.jobs.c.cancel_requested_at.is_not(None))
        with self._read() as connection:
            return set(connection.execute(query).scalars())

    # -- the way of an attempt -------------------------------------------------------------------------------------

    def reserve(
        self, order: WorkOrder, decision: Decision, caps: Caps, owner: Owner, beside: int | None = None
    ) -> None:
        """The spend gate: decision, intent and reservation in one commit, or nothing at all.

        Args:
            beside: how many prompts of other runs the lane may hold beside this one; not checked when None.

        Raises:
            LaneBusyError: the lane is full, or its pod is being closed.
            LimitError: a cap would be crossed; names the cap and the amounts.
            JobTakenError: another process drives the job, or has made an attempt or finished it since it was read.
            JobCancelledError: it is marked to be cancelled.
            LedgerError: an attempt of it is still open.
            ConfigurationError: it costs money, and the ledger was restored and does not know yet what was sent since.
            JournalError: it cannot be written into the journal, so it is given back and must not be sent.
        """
        try:
            self._reserve(order, decision, caps, owner, beside)
        except JournalError as error:
            never = CostEntry(amount_usd=Decimal(0), basis="never sent: it could not be journalled", source="metered")
            self.settle(
                order.attempt_id,
                never,
                state=AttemptState.FAILED,
                job_state=JobState.PENDING,
                error_kind="journal",
                error_message=str(error),
            )
            raise

    def _reserve(self, order: WorkOrder, decision: Decision, caps: Caps, owner: Owner, beside: int | None) -> None:
        now = utc_now()
        quote = order.quote
        day = now.date().isoformat()
        with self._write() as connection:
            if quote.reserve_usd:
                gaps.refuse_gap(connection)
            claimed = self._check_owner(connection, order, owner)
            if beside is not None:
                lanes.check_room(connection, order.lane, beside, owner.id)
            limits = money.scopes(order.batch, order.job.id, day, quote.tier.value, caps)
            money.check_caps(connection, limits, quote.reserve_usd, f"{quote.backend} for job {order.job.id!r}")
            connection.execute(
                statements.INSERT_ATTEMPT,
                {
                    "attempt_id": order.attempt_id,
                    "batch": order.batch,
                    "job": order.job.id,
                    "number": order.number,
                    "backend": quote.backend,
                    "tier": quote.tier.value,
                    "model": quote.model,
                    "lane": order.lane,
                    "state": AttemptState.INTENT.value,
                    "spec_sha": rows.spec_sha(order.job),
                    "quote": quote.model_dump_json(),
                    "workflow_path": order.workflow_path or "",
                    "quoted_usd": quote.amount_usd,
                    "reserved_usd": quote.reserve_usd,
                    "day": day,
                    "created_at": now,
                },
            )
            connection.execute(statements.INSERT_DECISION, rows.decision_values(order.batch, decision))
            money.move(connection, limits, reserved=quote.reserve_usd)
            if quote.reserve_usd or quote.amount_usd:  # a free GPU does not wait for it: its receipt tells everything
                note(connection, "attempt", order.attempt_id)
            self._update_job(
                connection,
                order.batch,
                order.job.id,
                state=JobState.ACTIVE.value,
                attempts=order.number,
                error_kind="",
                error_message="",
                **claimed,
            )

    def extend(self, attempt_id: str, reserved_usd: Decimal, caps: Caps) -> None:
        """Raises the reservation of a running attempt that takes longer than expected; never lowers it.

        Raises:
            LimitError: a cap would be crossed; the reservation stays as it was.
        """
        with self._write() as connection:
            row = self._attempt_row(connection, attempt_id)
            more = reserved_usd - row.reserved_usd
            if AttemptState(row.state) not in OPEN or more <= 0:
                return
            limits = money.scopes(row.batch, row.job, row.day, row.tier, caps)
            money.check_caps(connection, limits, more, f"{row.backend} for job {row.job!r}, which is still running")
            connection.execute(statements.UPDATE_ATTEMPT, {"of_attempt": attempt_id, "reserved_usd": reserved_usd})
            money.move(connection, limits, reserved=more)
            note(connection, "attempt", attempt_id)

    def record_decision(self, batch: str, decision: Decision) -> None:
        """Stores a decision that led to no attempt (every backend refused)."""
        with self._write() as connection:
            connection.execute(statements.INSERT_DECISION, rows.decision_values(batch, decision))

    def mark_submitted(self, handle: JobHandle) -> None:
        """Stores the receipt of an accepted submit, at once after it."""
        self._advance(
            handle.attempt_id,
            AttemptState.SUBMITTED,
            handle=handle.model_dump_json(),
            submitted_at=handle.submitted_at,
        )

    def mark_running(self, attempt_id: str, *, gpu: str = "") -> None:
        """The backend has been seen working on it."""
        self._advance(attempt_id, AttemptState.RUNNING, gpu=gpu)

    def mark_collected(
        self, attempt_id: str, clip: Clip, *, execution_s: float | None, queue_s: float | None, gpu: str
    ) -> None:
        """The clip is on disk, checked and named."""
        self._advance(
            attempt_id,
            AttemptState.COLLECTED,
            clip=clip.model_dump_json(),
            execution_s=execution_s,
            queue_s=queue_s,
            gpu=gpu,
        )

    def mark_uncertain(self, attempt_id: str, message: str) -> None:
        """It was or may have been accepted and is out of reach; the reservation stays and nobody owns the job."""
        with self._write() as connection:
            row = self._attempt_row(connection, attempt_id)
            self._set_state(
                connection, row, AttemptState.UNCERTAIN, error_kind="uncertain", error_message=redact(message)
            )
            self._update_job(
                connection,
                row.batch,
                row.job,
                state=JobState.UNCERTAIN.value,
                error_kind="uncertain",
                error_message=redact(message),
                owner=None,
                lease_until=None,
            )

    def settle(
        self,
        attempt_id: str,
        cost: CostEntry,
        *,
        state: AttemptState,
        job_state: JobState,
        error_kind: str = "",
        error_message: str = "",
        execution_s: float | None = None,
    ) -> None:
        """Books the true cost, releases the reservation and moves attempt and job, in one commit.

        Calling it again for an attempt that is already finished changes nothing.

        Raises:
            LedgerError: the attempt cannot go to `state`, or `state` is not an end.
        """
        if state in OPEN:
            raise LedgerError(f"attempt {attempt_id!r} cannot be settled as {state.value!r}, which is not an end")
        with self._write() as connection:
            row = self._attempt_row(connection, attempt_id)
            if AttemptState(row.state) not in OPEN:
                return
            extra: dict[str, Any] = {} if execution_s is None else {"execution_s": execution_s}
            self._set_state(
                connection,
                row,
                state,
                cost_usd=cost.amount_usd,
                cost_basis=f"{cost.source}: {cost.basis}",
                reserved_usd=Decimal(0),
                finished_at=utc_now(),
                error_kind=error_kind,
                error_message=redact(error_message),
                **extra,
            )
            in_scopes = money.scopes(row.batch, row.job, row.day, row.tier)
            money.move(connection, in_scopes, settled=cost.amount_usd, reserved=-row.reserved_usd)
            self._update_job(
                connection,
                row.batch,
                row.job,
                state=job_state.value,
                error_kind=error_kind,
                error_message=redact(error_message),
            )

    def set_job_state(
        self, batch: str, job: str, state: JobState, *, error_kind: str = "", error_message: str = ""
    ) -> None:
        """Moves a job that has no open attempt."""
        with self._write() as connection:
            self._update_job(
                connection, batch, job, state=state.value, error_kind=error_kind, error_message=redact(error_message)
            )

    # -- reading ---------------------------------------------------------------------------------------------------

    def attempts(
        self, batch: str | None = None, *, job: str | None = None, states: Sequence[AttemptState] | None = None
    ) -> list[Attempt]:
        """Attempts in the order they were made."""
        query = sa.select(t.attempts).order_by(t.attempts.c.created_at, t.attempts.c.number)
        if batch is not None:
            query = query.where(t.attempts.c.batch == batch)
        if job is not None:
            query = query.where(t.attempts.c.job == job)
        if states is not None:
            query = query.where(t.attempts.c.state.in_([state.value for state in states]))
        with self._read() as connection:
            return [rows.attempt(row) for row in connection.execute(query)]

    def attempt(self, attempt_id: str) -> Attempt:
        """One attempt.

        Raises:
            LedgerError: no such attempt.
        """
        with self._read() as connection:
            return rows.attempt(self._attempt_row(connection, attempt_id))

    def open_attempts(self, batch: str | None = None) -> list[Attempt]:
        """Attempts that still hold a reservation."""
        return self.attempts(batch, states=sorted(OPEN))

    def decisions(self, batch: str, job: str | None = None) -> list[Decision]:
        """Stored decisions of a batch or one of its jobs, oldest first."""
        query = sa.select(t.decisions).where(t.decisions.c.batch == batch).order_by(t.decisions.c.id)
        if job is not None:
            query = query.where(t.decisions.c.job == job)
        with self._read() as connection:
            return [rows.decision(row) for row in connection.execute(query)]

    def balance(self, scope: str) -> Balance:
        """Booked and held money of `batch:<name>`, `job:<batch>/<id>`, `day:<date>`, `month:<yyyy-mm>` or `all`."""
        with self._read() as connection:
            row = connection.execute(statements.BALANCE, {"of_scope": scope}).one_or_none()
        return Balance(Decimal(0), Decimal(0)) if row is None else Balance(row.settled_usd, row.reserved_usd)

    def unrecorded(self, limit: int = 5000) -> list[Attempt]:
        """Finished attempts that the history does not have yet."""
        finished = [state.value for state in AttemptState if state not in OPEN]
        query = (
            sa.select(t.attempts)
            .where(t.attempts.c.in_history.is_(False), t.attempts.c.state.in_(finished))
            .order_by(t.attempts.c.created_at)
            .limit(limit)
        )
        with self._read() as connection:
            return [rows.attempt(row) for row in connection.execute(query)]

    def mark_recorded(self, attempt_ids: Sequence[str], *, recorded: bool = True) -> None:
        """Notes that the history has these attempts (an empty list with `recorded=False` means: has none)."""
        with self._write() as connection:
            query = sa.update(t.attempts).values(in_history=recorded)
            if attempt_ids:
                query = query.where(t.attempts.c.attempt_id.in_(attempt_ids))
            elif recorded:
                return
            connection.execute(query)

    def raw(self) -> Engine:
        """The engine itself, for `verify` and for tests that look behind the interface."""
        return self._engine

    def reading(self) -> AbstractContextManager[Connection]:
        """A connection for the reads of a store that keeps tables of its own in this database."""
        return self._read()

    def writing(self) -> AbstractContextManager[Connection]:
        """One transaction of such a store: committed at the end, rolled back on an error; one writer at a time."""
        return self._write()

    # -- pieces ----------------------------------------------------------------------------------------------------

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        with _translated(), self._connected() as connection:
            yield connection

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        with _translated(), self._transaction() as connection, noted(connection, self._journal) as later:
            yield connection
        write_later(self._journal, later)

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        """A connection. A server that is being started again is waited for: nothing has been begun yet."""
        deadline = time.monotonic() + SERVER_PATIENCE_S
        while True:
            try:
                connection = self._engine.connect()
                break
            except OperationalError:
                if self._engine.dialect.name == "sqlite" or time.monotonic() > deadline:
                    raise
                time.sleep(random.uniform(*OPENING_PAUSE_S))  # noqa: S311 - not all at once
        with connection:
            yield connection

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        with self._connected() as connection:
            if connection.dialect.name == "sqlite":
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                if connection.dialect.name == "postgresql":
                    connection.execute(_ONE_WRITER)
                yield connection
            except BaseException:
                connection.rollback()
                raise
            connection.commit()

    def _job(self, connection: Connection, batch: str, job: str) -> sa.Row[Any]:
        row = connection.execute(statements.JOB, {"of_batch": batch, "of_job": job}).one_or_none()
        if row is None:
            raise LedgerError(f"no job {f'{batch}/{job}'!r} is known; register its batch first")
        return row

    def _claim(self, row: sa.Row[Any], owner: Owner) -> dict[str, Any] | None:
        """The columns that make a job this process's; None while another live process drives it."""
        if not owner.may_take(row.owner, row.lease_until):
            return None
        return {"owner": owner.id, "lease_until": utc_now() + LEASE, "fence": row.fence + (row.owner != owner.id)}

    def _check_owner(self, connection: Connection, order: WorkOrder, owner: Owner) -> dict[str, Any]:
        row = self._job(connection, order.batch, order.job.id)
        claimed = self._claim(row, owner)
        if claimed is None:
            raise JobTakenError(f"job {order.label!r} is driven by another process")
        if row.cancel_requested_at is not None:
            raise JobCancelledError(f"job {order.label!r} is marked to be cancelled; run the batch again to make it")
        moved = JobTakenError(
            f"job {order.label!r} was moved on by another process: it is {row.state!r} after attempt {row.attempts}"
        )
        if row.attempts != order.number - 1:  # whoever read it earlier may hold a finished job for a waiting one
            raise moved
        still_open = {"of_batch": order.batch, "of_job": order.job.id}
        if connection.execute(statements.OPEN_ATTEMPTS, still_open).scalar_one():
            raise LedgerError(f"job {order.label!r} has an attempt whose outcome is still open; it is not sent twice")
        if row.state != JobState.PENDING.value:  # the attempt that was open when it was read has been settled since
            raise moved
        return claimed

    def _advance(self, attempt_id: str, state: AttemptState, **values: Any) -> None:
        with self._write() as connection:
            self._set_state(connection, self._attempt_row(connection, attempt_id), state, **values)

    def _attempt_row(self, connection: Connection, attempt_id: str) -> sa.Row[Any]:
        row = connection.execute(statements.ATTEMPT, {"of_attempt": attempt_id}).one_or_none()
        if row is None:
            raise LedgerError(f"no attempt {attempt_id!r} is known")
        return row

    def _check_fence(self, connection: Connection, batch: str, job: str) -> None:
        if self._acting is None:
            return
        owner = connection.execute(
            sa.select(t.jobs.c.owner).where(t.jobs.c.batch == batch, t.jobs.c.job == job)
        ).scalar_one_or_none()
        if owner not in (None, self._acting.id):
            raise JobTakenError(f"job {f'{batch}/{job}'!r} was taken over by another process, which ends it now")

    def _set_state(self, connection: Connection, row: sa.Row[Any], state: AttemptState, **values: Any) -> None:
        if state not in RECEIPTS:
            self._check_fence(connection, row.batch, row.job)
        check_move(row.attempt_id, AttemptState(row.state), state)
        connection.execute(
            statements.UPDATE_ATTEMPT,
            {"of_attempt": row.attempt_id, "state": state.value, "in_history": False, **values},
        )
        if state not in (AttemptState.RUNNING, AttemptState.COLLECTED):  # receipt and clip say enough to find it again
            note(connection, "attempt", row.attempt_id)

    def _update_job(self, connection: Connection, batch: str, job: str, **values: Any) -> None:
        connection.execute(statements.UPDATE_JOB, {"of_batch": batch, "of_job": job, "updated_at": utc_now(), **values})


def _sqlite(path: Path) -> Engine:
    path.parent.mkdir(parents=True, exist_ok=True)
    waits = {"timeout": BUSY_TIMEOUT_S, "check_same_thread": False}
    engine = sa.create_engine(f"{dialect.DRIVER}:///{path}", connect_args=waits, **dialect.sharing())

    @sa.event.listens_for(engine, "connect")
    def _pragmas(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves: the driver's implicit one is deferred
        cursor = connection.cursor()
        if cursor.execute("PRAGMA page_count").fetchone() == (0,):  # later it would wait for whoever writes
            cursor.execute("PRAGMA auto_vacuum=INCREMENTAL")  # space can be given back bit by bit
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute(f"PRAGMA journal_size_limit={LOG_LIMIT_BYTES}")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    return engine


def _server(url: str) -> Engine:
    """An engine for a database server: connections are tested before use, because a server may have been restarted.

    `sqlite:///…` is taken as well, with the same settings as a path.
    """
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return _sqlite(Path(parsed.database or "ledger.sqlite3"))
    if parsed.drivername in {"postgres", "postgresql"}:
        parsed = parsed.set(drivername="postgresql+psycopg")
    waits = {"connect_timeout": int(BUSY_TIMEOUT_S), "options": f"-c lock_timeout={int(BUSY_TIMEOUT_S * 1000)}"}
    return sa.create_engine(parsed, pool_pre_ping=True, connect_args=waits)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        raise LedgerError(
            f"the ledger cannot be used: {_cause(error)}; another process may hold it, or the disk may be full"
        ) from None


def _cause(error: Exception) -> str:
    return redact(getattr(error, "orig", None) or error, limit=300)
