"""The DuckDB file: opened, used and closed under a file lock, never kept open.

DuckDB lets one process write or several read, never both. Whoever holds the lock copies what the ledger has finished
and the history has not; a reader that finds the lock taken waits a moment and then says so.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from filelock import FileLock, Timeout

from hybrid_video.errors import LedgerError
from hybrid_video.history import rollup
from hybrid_video.ledger import Ledger
from hybrid_video.ledger.lookups import pruned_batches
from hybrid_video.models import Attempt, utc_now
from hybrid_video.pricing.learning import observation, served_s, work_units

if TYPE_CHECKING:  # together they take most of a second to import, and many commands never open the history
    import duckdb
    import pandas as pd

log = logging.getLogger(__name__)

LOCK_TIMEOUT_S = 10.0
VERSION = 1
"""Of what the rows mean. Whoever changes how one is made from an attempt raises it: histories are then made again."""

TABLE = """
create table if not exists attempts (
    attempt_id varchar primary key,
    batch varchar not null,
    job varchar not null,
    number integer not null,
    backend varchar not null,
    tier varchar not null,
    model varchar not null,
    gpu varchar not null,
    state varchar not null,
    quoted_usd decimal(18, 9) not null,
    cost_usd decimal(18, 9) not null,
    quoted_service_s double not null,
    created_at timestamp not null,
    submitted_at timestamp,
    finished_at timestamp not null,
    execution_s double,
    queue_s double,
    total_s double not null,
    work_units double not null,
    error_kind varchar not null,
    error_message varchar not null,
    quoted_service_p90_s double,
    served_s double,
    per_unit_s double,
    signature varchar,
    cold_start_s double,
    time_scale double,
    lane varchar,
    clip_s double
)
"""

ADDED = (
    "quoted_service_p90_s",
    "served_s",
    "per_unit_s",
    "signature",
    "cold_start_s",
    "time_scale",
    "lane",
    "clip_s",
)
"""Columns that earlier files do not have; their rows hold null there until the history is rebuilt.

`served_s` compares with `quoted_service_s`; `per_unit_s` is what is learned from: the vendor's seconds per unit of
work, null for cancelled attempts and for times that no card can reach.
"""

COLUMNS = [line.split()[0] for line in TABLE.strip().splitlines()[1:-1]]


class Question(Protocol):
    """One read of an open history."""

    def __call__(self, sql: str, parameters: Sequence[object] = ...) -> pd.DataFrame:
        """The answer as a DataFrame."""
        ...


class History:
    """The history of one installation."""

    def __init__(self, path: Path, *, lock_timeout_s: float = LOCK_TIMEOUT_S) -> None:
        self._path = path
        self._lock_timeout_s = lock_timeout_s
        self._lock = FileLock(path.with_suffix(".lock"))

    def update(self, ledger: Ledger) -> int:
        """Copies finished attempts that are not here yet; returns how many. Doing it twice changes nothing.

        A history that another version made, or that is gone, is made again.
        """
        return self._copy(ledger) if self._is_current() else self._remake(ledger)

    def _copy(self, ledger: Ledger) -> int:
        import pandas as pd  # noqa: PLC0415

        if not ledger.unrecorded(limit=1):
            return 0
        total = 0
        with self._open() as connection:
            while rows := ledger.unrecorded():
                frame = pd.DataFrame([_row(attempt) for attempt in rows], columns=COLUMNS)
                connection.register("fresh", frame)
                connection.execute("begin")
                old = "select finished_at from attempts where attempt_id in (select attempt_id from fresh)"
                days = f"select distinct cast(finished_at as date) from (select finished_at from fresh union all {old})"  # noqa: S608  # nosec B608
                touched = [row[0] for row in connection.execute(days).fetchall()]
                connection.execute(f"insert or replace into attempts ({', '.join(COLUMNS)}) select * from fresh")  # noqa: S608  # nosec B608 - our own names
                rollup.refresh(connection, touched)
                connection.execute("commit")
                connection.unregister("fresh")
                ledger.mark_recorded([attempt.attempt_id for attempt in rows])
                total += len(rows)
        return total

    def rebuild(self, ledger: Ledger) -> int:
        """Makes the history again from the ledger; returns the rows made. Pruned batches keep theirs.

        A file that DuckDB cannot read is put aside, not deleted.
        """
        self._put_aside_unreadable()
        return self._remake(ledger)

    def _remake(self, ledger: Ledger) -> int:
        kept = pruned_batches(ledger)
        with self._open() as connection:
            connection.execute("begin")
            connection.execute(
                "create temp table kept as select * from attempts where list_contains(?::varchar[], batch)", [kept]
            )
            common = [name for name in COLUMNS if name in _columns(connection, "kept")]
            connection.execute("drop table attempts")
            connection.execute("drop table daily")
            connection.execute(TABLE)
            connection.execute(f"insert into attempts by name select {', '.join(common)} from kept")  # noqa: S608  # nosec B608 - our own names
            connection.execute("drop table kept")
            connection.execute(rollup.TABLE)
            rollup.refresh(connection)
            connection.execute("commit")
        ledger.mark_recorded([], recorded=False)
        made = self._copy(ledger)
        draft = self._version_file.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
        draft.write_text(f"{VERSION}\n", encoding="ascii")
        draft.replace(self._version_file)
        return made

    @property
    def _version_file(self) -> Path:
        """A file of its own: to look into the history takes most of a second, and every command asks."""
        return self._path.with_suffix(".version")

    def _is_current(self) -> bool:
        try:
            return self._path.exists() and self._version_file.read_text(encoding="ascii").strip() == str(VERSION)
        except (OSError, UnicodeDecodeError):
            return False

    def _put_aside_unreadable(self) -> None:
        import duckdb  # noqa: PLC0415

        try:
            with self._open():
                return
        except LedgerError as error:
            if not isinstance(error.__cause__, duckdb.Error):
                raise
        aside = self._path.with_name(f"{self._path.stem}-unreadable-{utc_now():%Y%m%dT%H%M%SZ}{self._path.suffix}")
        with self._lock.acquire(timeout=self._lock_timeout_s):
            self._path.replace(aside)
            self._path.with_name(self._path.name + ".wal").unlink(missing_ok=True)
        log.warning("the history could not be read; it is kept as %s, and made again from the ledger", aside)

    def query(self, sql: str, parameters: Sequence[object] = ()) -> pd.DataFrame:
        """One read; the connection is closed before it returns.

        Raises:
            LedgerError: another process has held the history for too long.
        """
        with self.reading() as ask:
            return ask(sql, parameters)

    @contextmanager
    def reading(self) -> Iterator[Question]:
        """Several reads in one opening of the file; keep it short, nobody else gets in meanwhile.

        Raises:
            LedgerError: as `query`.
        """
        with self._open() as connection:
            yield lambda sql, parameters=(): connection.execute(sql, list(parameters)).df()

    @contextmanager
    def _open(self) -> Iterator[duckdb.DuckDBPyConnection]:
        import duckdb  # noqa: PLC0415

        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._lock.acquire(timeout=self._lock_timeout_s):
                connection = duckdb.connect(str(self._path))
                try:
                    _create(connection)
                    yield connection
                finally:
                    connection.close()
        except Timeout:
            raise LedgerError(
                f"the history at {str(self._path)!r} is locked by another process; try again in a moment"
            ) from None
        except OSError as error:
            raise LedgerError(
                f"the history at {str(self._path)!r} cannot be used: {error}; check the folder's permissions and free "
                "space, or set HYBRID_VIDEO_HOME to another folder"
            ) from None
        except (duckdb.IOException, duckdb.SerializationException) as error:
            raise LedgerError(
                f"the history at {str(self._path)!r} cannot be opened: {error}; run `hybrid-video ledger "
                "rebuild-history`, the ledger has everything"
            ) from error


def _create(connection: duckdb.DuckDBPyConnection) -> None:
    """The table, with the columns that an earlier version did not write."""
    connection.execute(TABLE)
    types = dict(line.split()[:2] for line in TABLE.strip().splitlines()[1:-1])
    for name in ADDED:
        connection.execute(f"alter table attempts add column if not exists {name} {types[name].rstrip(',')}")
    rollup.ensure(connection)


def _columns(connection: duckdb.DuckDBPyConnection, table: str) -> set[str]:
    found = connection.execute("select column_name from duckdb_columns() where table_name = ?", [table])
    return {name for (name,) in found.fetchall()}


def _row(attempt: Attempt) -> tuple[Any, ...]:
    finished = attempt.finished_at or attempt.created_at
    learned = observation(attempt)
    return (
        attempt.attempt_id,
        attempt.batch,
        attempt.job,
        attempt.number,
        attempt.backend,
        attempt.tier.value,
        attempt.model,
        attempt.gpu,
        attempt.state.value,
        attempt.quoted_usd,
        attempt.cost_usd or 0,
        attempt.quote.service_s,
        _naive(attempt.created_at),
        _naive(attempt.submitted_at),
        _naive(finished),
        attempt.execution_s,
        attempt.queue_s,
        (finished - attempt.created_at).total_seconds(),
        work_units(attempt.tier, attempt.quote.output),
        attempt.error_kind,
        attempt.error_message,
        attempt.quote.service_p90_s,
        served_s(attempt),
        learned.per_unit_s if learned else None,
        attempt.quote.signature,
        learned.cold_start_s if learned else None,
        attempt.quote.time_scale,
        attempt.lane,
        attempt.quote.output.duration_s,
    )


def _naive(moment: Any) -> Any:
    """UTC without its zone: the columns are plain timestamps, all of them UTC."""
    return None if moment is None else moment.replace(tzinfo=None)
