"""Every read and write of the ledger.

One durable commit each for: reserve (decision, intent and reservation together), handle, and settlement. SQLite in WAL
mode with full synchronisation by default, PostgreSQL by URL. Methods are synchronous and safe to call from any thread.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from hybrid_video.errors import InputError, LedgerError, LimitError
from hybrid_video.ledger import schema as t
from hybrid_video.ledger.owner import Owner
from hybrid_video.ledger.states import OPEN, check_move
from hybrid_video.models import (
    Attempt,
    AttemptState,
    Batch,
    Clip,
    CostEntry,
    Decision,
    JobHandle,
    JobState,
    Quote,
    VideoJob,
    WorkOrder,
    utc_now,
)
from hybrid_video.redaction import redact

LEASE = timedelta(seconds=30)
BUSY_TIMEOUT_S = 20.0
OVER = frozenset({JobState.DONE, JobState.FAILED, JobState.CANCELLED})
"""Job states in which nothing more happens until the batch is run again."""

CANCELLED_MESSAGE = "cancelled on request; run the batch again to make it"


@dataclass(frozen=True)
class JobRow:
    """A job as the ledger knows it."""

    batch: str
    job: str
    ordinal: int
    spec: VideoJob
    state: JobState
    attempts: int
    owner: str | None
    error_kind: str
    error_message: str
    cancel_requested: bool = False


@dataclass(frozen=True)
class Caps:
    """Hard limits in force for one reservation; None means unlimited."""

    job_usd: Decimal | None = None
    batch_usd: Decimal | None = None
    day_usd: Decimal | None = None
    month_usd: Decimal | None = None
    tier_usd: Decimal | None = None
    """For the attempt's tier within the UTC month."""


@dataclass(frozen=True)
class Balance:
    """Money booked and held within one scope."""

    settled_usd: Decimal
    reserved_usd: Decimal


class JobTakenError(LedgerError):
    """Another live process drives the job."""


class JobCancelledError(LedgerError):
    """Somebody asked for the job to be cancelled."""


class Ledger:
    """The ledger of one installation. `close` it when done; any number of processes may have it open."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @classmethod
    def open(cls, url: str | Path) -> Ledger:
        """Opens (and creates or migrates) the ledger at a SQLite path or an SQLAlchemy URL.

        Raises:
            LedgerError: it cannot be opened; says why and what to do.
        """
        try:
            engine = _sqlite(url) if isinstance(url, Path) else sa.create_engine(url, pool_pre_ping=True)
            ledger = cls(engine)
            with ledger._write() as connection:
                t.migrate(connection)
        except (SQLAlchemyError, OSError, ImportError) as error:
            where, remedy = repr(str(url)), "check the folder's permissions and free space, or set HYBRID_VIDEO_HOME"
            if not isinstance(url, Path):
                where, remedy = "HYBRID_VIDEO_LEDGER_URL", "check the address and that its driver is installed"
            raise LedgerError(f"the ledger at {where} cannot be opened: {_cause(error)}; {remedy}") from None
        return ledger

    def close(self) -> None:
        """Closes every connection."""
        self._engine.dispose()

    # -- batches and jobs ------------------------------------------------------------------------------------------

    def register(self, batch: Batch, *, out_dir: Path, simulated: bool = False) -> list[str]:
        """Writes the batch, or joins it to what is known under its name.

        New jobs are added, unfinished ones stay, failed, cancelled and changed ones become pending again.

        Returns:
            Ids of jobs that were finished earlier with another text and will be made again.

        Raises:
            InputError: a changed job is still being made with its earlier text.
        """
        now = utc_now()
        changed: list[str] = []
        with self._write() as connection:
            values = {
                "spec": batch.model_dump_json(exclude={"jobs"}),
                "out_dir": str(out_dir),
                "budget_usd": batch.budget_usd,
                "deadline_s": batch.deadline_s,
                "started_at": now,
                "finished_at": None,
                "simulated": simulated,
            }
            known = connection.execute(
                sa.update(t.batches).where(t.batches.c.name == batch.name).values(**values)
            ).rowcount
            if not known:
                connection.execute(t.batches.insert().values(name=batch.name, created_at=now, **values))
            rows = {row.job: row for row in connection.execute(sa.select(t.jobs).where(t.jobs.c.batch == batch.name))}
            fresh = []
            for ordinal, job in enumerate(batch.jobs):
                spec = job.model_dump_json()
                old = rows.get(job.id)
                if old is None:
                    fresh.append(
                        {
                            "batch": batch.name,
                            "job": job.id,
                            "ordinal": ordinal,
                            "spec": spec,
                            "state": JobState.PENDING.value,
                            "updated_at": now,
                        }
                    )
                    continue
                update = _rejoin(old, spec, ordinal, changed)
                if update:
                    self._update_job(connection, batch.name, job.id, **update)
            if fresh:
                connection.execute(t.jobs.insert(), fresh)
        return changed

    def finish_batch(self, name: str) -> None:
        """Notes the end of a run."""
        with self._write() as connection:
            connection.execute(sa.update(t.batches).where(t.batches.c.name == name).values(finished_at=utc_now()))

    def job_rows(self, batch: str, *, only: Sequence[str] | None = None) -> list[JobRow]:
        """The jobs of a batch in their order."""
        query = sa.select(t.jobs).where(t.jobs.c.batch == batch).order_by(t.jobs.c.ordinal)
        with self._read() as connection:
            rows = [_job_row(row) for row in connection.execute(query)]
        return rows if only is None else [row for row in rows if row.job in set(only)]

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
            return self._claim(connection, batch, job, owner)

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
            rows = connection.execute(query.order_by(t.jobs.c.ordinal)).all()
            busy = set(connection.execute(under_way).scalars())
            for row in rows:
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

    def reserve(self, order: WorkOrder, decision: Decision, caps: Caps, owner: Owner) -> None:
        """The spend gate: decision, intent and reservation in one commit, or nothing at all.

        Raises:
            LimitError: a cap would be crossed; names the cap and the amounts.
            JobTakenError: another process drives the job.
            JobCancelledError: it is marked to be cancelled.
            LedgerError: an attempt of it is still open.
        """
        now = utc_now()
        quote = order.quote
        day = now.date().isoformat()
        with self._write() as connection:
            self._check_owner(connection, order, owner)
            limits = _scopes(order.batch, order.job.id, day, quote.tier.value, caps)
            self._check_caps(connection, limits, quote.reserve_usd, f"{quote.backend} for job {order.job.id!r}")
            connection.execute(
                t.attempts.insert().values(
                    attempt_id=order.attempt_id,
                    batch=order.batch,
                    job=order.job.id,
                    number=order.number,
                    backend=quote.backend,
                    tier=quote.tier.value,
                    model=quote.model,
                    lane=order.lane,
                    state=AttemptState.INTENT.value,
                    spec_sha=hashlib.sha256(order.job.model_dump_json().encode()).hexdigest(),
                    quote=quote.model_dump_json(),
                    workflow_path=order.workflow_path or "",
                    quoted_usd=quote.amount_usd,
                    reserved_usd=quote.reserve_usd,
                    day=day,
                    created_at=now,
                )
            )
            connection.execute(t.decisions.insert().values(**_decision_values(order.batch, decision)))
            for scope in limits:
                self._move_money(connection, scope, reserved=quote.reserve_usd)
            self._update_job(
                connection,
                order.batch,
                order.job.id,
                state=JobState.ACTIVE.value,
                attempts=order.number,
                error_kind="",
                error_message="",
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
            limits = _scopes(row.batch, row.job, row.day, row.tier, caps)
            self._check_caps(connection, limits, more, f"{row.backend} for job {row.job!r}, which is still running")
            connection.execute(
                sa.update(t.attempts).where(t.attempts.c.attempt_id == attempt_id).values(reserved_usd=reserved_usd)
            )
            for scope in limits:
                self._move_money(connection, scope, reserved=more)

    def record_decision(self, batch: str, decision: Decision) -> None:
        """Stores a decision that led to no attempt (every backend refused)."""
        with self._write() as connection:
            connection.execute(t.decisions.insert().values(**_decision_values(batch, decision)))

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
            row = self._set_state(
                connection, attempt_id, AttemptState.UNCERTAIN, error_kind="uncertain", error_message=redact(message)
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
        """
        with self._write() as connection:
            row = self._attempt_row(connection, attempt_id)
            if AttemptState(row.state) not in OPEN:
                return
            extra: dict[str, Any] = {} if execution_s is None else {"execution_s": execution_s}
            self._set_state(
                connection,
                attempt_id,
                state,
                cost_usd=cost.amount_usd,
                cost_basis=f"{cost.source}: {cost.basis}",
                reserved_usd=Decimal(0),
                finished_at=utc_now(),
                error_kind=error_kind,
                error_message=redact(error_message),
                **extra,
            )
            for scope in _scopes(row.batch, row.job, row.day, row.tier, Caps()):
                self._lock_balance(connection, scope)
                self._move_money(connection, scope, settled=cost.amount_usd, reserved=-row.reserved_usd)
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
            return [_attempt(row) for row in connection.execute(query)]

    def attempt(self, attempt_id: str) -> Attempt:
        """One attempt.

        Raises:
            LedgerError: no such attempt.
        """
        with self._read() as connection:
            return _attempt(self._attempt_row(connection, attempt_id))

    def open_attempts(self, batch: str | None = None) -> list[Attempt]:
        """Attempts that still hold a reservation."""
        return self.attempts(batch, states=sorted(OPEN))

    def decisions(self, batch: str, job: str | None = None) -> list[Decision]:
        """Stored decisions of a batch or one of its jobs, oldest first."""
        query = sa.select(t.decisions).where(t.decisions.c.batch == batch).order_by(t.decisions.c.id)
        if job is not None:
            query = query.where(t.decisions.c.job == job)
        with self._read() as connection:
            return [_decision(row) for row in connection.execute(query)]

    def balance(self, scope: str) -> Balance:
        """Booked and held money of `batch:<name>`, `job:<batch>/<id>`, `day:<date>`, `month:<yyyy-mm>` or `all`."""
        with self._read() as connection:
            row = connection.execute(sa.select(t.balances).where(t.balances.c.scope == scope)).one_or_none()
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
            return [_attempt(row) for row in connection.execute(query)]

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

    # -- pieces ----------------------------------------------------------------------------------------------------

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        with _translated(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        with _translated(), self._engine.connect() as connection:
            if connection.dialect.name == "sqlite":
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.rollback()
                raise
            connection.commit()

    def _claim(self, connection: Connection, batch: str, job: str, owner: Owner) -> bool:
        now = utc_now()
        row = connection.execute(
            sa.select(t.jobs).where(t.jobs.c.batch == batch, t.jobs.c.job == job).with_for_update()
        ).one()
        mine = row.owner is None or row.owner == owner.id
        if not (mine or row.lease_until < now or owner.is_dead(row.owner)):
            return False
        fence = row.fence + (row.owner != owner.id)
        self._update_job(connection, batch, job, owner=owner.id, lease_until=now + LEASE, fence=fence)
        return True

    def _check_owner(self, connection: Connection, order: WorkOrder, owner: Owner) -> None:
        if not self._claim(connection, order.batch, order.job.id, owner):
            raise JobTakenError(f"job {order.label!r} is driven by another process")
        still_open = connection.execute(
            sa.select(sa.func.count())
            .select_from(t.attempts)
            .where(
                t.attempts.c.batch == order.batch,
                t.attempts.c.job == order.job.id,
                t.attempts.c.state.in_([state.value for state in OPEN]),
            )
        ).scalar_one()
        marked = sa.select(t.jobs.c.cancel_requested_at).where(
            t.jobs.c.batch == order.batch, t.jobs.c.job == order.job.id
        )
        if connection.execute(marked).scalar_one() is not None:
            raise JobCancelledError(f"job {order.label!r} is marked to be cancelled; run the batch again to make it")
        if still_open:
            raise LedgerError(f"job {order.label!r} has an attempt whose outcome is still open; it is not sent twice")

    def _check_caps(
        self, connection: Connection, limits: Mapping[str, tuple[str, Decimal | None]], amount: Decimal, what_for: str
    ) -> None:
        """Locks every scope and raises LimitError if one cannot hold the amount. What costs nothing always fits."""
        for scope, (what, cap) in limits.items():
            held = self._lock_balance(connection, scope)
            if cap is None or not amount or held.settled_usd + held.reserved_usd + amount <= cap:
                continue
            raise LimitError(
                f"{what} of ${cap:f} does not allow another ${amount:f} on {what_for}: ${held.settled_usd:f} is spent "
                f"and ${held.reserved_usd:f} reserved; raise the limit, or allow a cheaper backend"
            )

    def _lock_balance(self, connection: Connection, scope: str) -> Balance:
        query = sa.select(t.balances).where(t.balances.c.scope == scope).with_for_update()
        row = connection.execute(query).one_or_none()
        if row is None:
            values = {"scope": scope, "settled_usd": Decimal(0), "reserved_usd": Decimal(0)}
            if connection.dialect.name == "postgresql":
                from sqlalchemy.dialects.postgresql import insert  # noqa: PLC0415 - only where it is used

                connection.execute(insert(t.balances).values(**values).on_conflict_do_nothing())
            else:
                connection.execute(t.balances.insert().values(**values))
            row = connection.execute(query).one()
        return Balance(row.settled_usd, row.reserved_usd)

    def _move_money(
        self, connection: Connection, scope: str, *, settled: Decimal = Decimal(0), reserved: Decimal = Decimal(0)
    ) -> None:
        connection.execute(
            sa.update(t.balances)
            .where(t.balances.c.scope == scope)
            .values(
                settled_usd=t.balances.c.settled_usd + sa.bindparam("settled", settled, type_=t.Money),
                reserved_usd=t.balances.c.reserved_usd + sa.bindparam("reserved", reserved, type_=t.Money),
            )
        )

    def _advance(self, attempt_id: str, state: AttemptState, **values: Any) -> None:
        with self._write() as connection:
            self._set_state(connection, attempt_id, state, **values)

    def _attempt_row(self, connection: Connection, attempt_id: str) -> sa.Row[Any]:
        query = sa.select(t.attempts).where(t.attempts.c.attempt_id == attempt_id).with_for_update()
        row = connection.execute(query).one_or_none()
        if row is None:
            raise LedgerError(f"no attempt {attempt_id!r} is known")
        return row

    def _set_state(self, connection: Connection, attempt_id: str, state: AttemptState, **values: Any) -> sa.Row[Any]:
        row = self._attempt_row(connection, attempt_id)
        check_move(attempt_id, AttemptState(row.state), state)
        connection.execute(
            sa.update(t.attempts)
            .where(t.attempts.c.attempt_id == attempt_id)
            .values(state=state.value, in_history=False, **values)
        )
        return row

    def _update_job(self, connection: Connection, batch: str, job: str, **values: Any) -> None:
        connection.execute(
            sa.update(t.jobs).where(t.jobs.c.batch == batch, t.jobs.c.job == job).values(updated_at=utc_now(), **values)
        )


def _sqlite(path: Path) -> Engine:
    path.parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(f"sqlite:///{path}", connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False})

    @sa.event.listens_for(engine, "connect")
    def _pragmas(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves: the driver's implicit one is deferred
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    return engine


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OperationalError as error:
        raise LedgerError(
            f"the ledger did not answer: {_cause(error)}; another process may hold it, or the disk may be full"
        ) from None


def _cause(error: Exception) -> str:
    return redact(getattr(error, "orig", None) or error, limit=300)


def _scopes(batch: str, job: str, day: str, tier: str, caps: Caps) -> dict[str, tuple[str, Decimal | None]]:
    return {
        f"job:{batch}/{job}": ("the limit per job", caps.job_usd),
        f"batch:{batch}": ("the batch budget", caps.batch_usd),
        f"day:{day}": (f"the daily budget ({day})", caps.day_usd),
        f"month:{day[:7]}": (f"the monthly budget ({day[:7]})", caps.month_usd),
        f"tier:{tier}:{day[:7]}": (f"the monthly budget for {tier} ({day[:7]})", caps.tier_usd),
        "all": ("the total", None),
    }


def _rejoin(old: sa.Row[Any], spec: str, ordinal: int, changed: list[str]) -> Mapping[str, Any]:
    state = JobState(old.state)
    update: dict[str, Any] = {} if old.ordinal == ordinal else {"ordinal": ordinal}
    if old.spec != spec:
        if state in (JobState.ACTIVE, JobState.UNCERTAIN):
            raise InputError(
                f"job {old.job!r} was changed while it is still being made with its earlier text; let it finish "
                "(run the unchanged batch, or `hybrid-video reconcile`), or give the batch another name"
            )
        if state is JobState.DONE:
            changed.append(old.job)
        update |= {"spec": spec, "state": JobState.PENDING.value}
    elif state in (JobState.FAILED, JobState.CANCELLED):
        update |= {"state": JobState.PENDING.value, "error_kind": "", "error_message": ""}
    if old.cancel_requested_at is not None:
        update["cancel_requested_at"] = None
    return update


def _job_row(row: sa.Row[Any]) -> JobRow:
    return JobRow(
        batch=row.batch,
        job=row.job,
        ordinal=row.ordinal,
        spec=VideoJob.model_validate_json(row.spec),
        state=JobState(row.state),
        attempts=row.attempts,
        owner=row.owner,
        error_kind=row.error_kind,
        error_message=row.error_message,
        cancel_requested=row.cancel_requested_at is not None,
    )


def _attempt(row: sa.Row[Any]) -> Attempt:
    values = {name: value for name, value in row._mapping.items() if name not in ("day", "in_history", "spec_sha")}  # noqa: SLF001 - SQLAlchemy's public accessor
    values["quote"] = Quote.model_validate_json(row.quote)
    values["handle"] = JobHandle.model_validate_json(row.handle) if row.handle else None
    values["clip"] = Clip.model_validate_json(row.clip) if row.clip else None
    return Attempt.model_validate(values)


def _decision_values(batch: str, decision: Decision) -> dict[str, Any]:
    return {
        "batch": batch,
        "job": decision.job,
        "attempt": decision.attempt,
        "chosen": decision.chosen,
        "tier": decision.tier.value if decision.tier else None,
        "reason": decision.reason,
        "candidates": json.dumps([c.model_dump(mode="json") for c in decision.candidates]),
        "decided_at": decision.decided_at,
        "elapsed_us": decision.elapsed_us,
    }


def _decision(row: sa.Row[Any]) -> Decision:
    return Decision(
        job=row.job,
        attempt=row.attempt,
        chosen=row.chosen,
        tier=row.tier,
        reason=row.reason,
        candidates=tuple(json.loads(row.candidates)),
        decided_at=row.decided_at,
        elapsed_us=row.elapsed_us,
    )
