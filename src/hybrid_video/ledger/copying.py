"""Copies of a whole ledger: a backup while it is in use, a restore, and the move from SQLite to PostgreSQL.

A copy is one consistent moment: the source is read in one transaction, the target is written in one, and both are
compared before the target counts. Nothing here ever changes the source.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from hybrid_video.errors import ConfigurationError, LedgerError
from hybrid_video.ledger import gaps
from hybrid_video.ledger import schema as t
from hybrid_video.ledger.store import Ledger
from hybrid_video.ledger.verify import verify
from hybrid_video.models import utc_now

CHUNK = 1000
PATTERN = "ledger-*.sqlite3"


@dataclass(frozen=True)
class Copied:
    """What a copy holds."""

    rows: int
    batches: int
    attempts: int
    settled_usd: Decimal
    reserved_usd: Decimal


def backup(ledger: Ledger, path: Path) -> Copied:
    """Writes a copy into a new SQLite file, while anybody may go on using the ledger.

    The copy says of itself that it is one (`hybrid_video.ledger.gaps`), so that nothing is bought twice by it.

    Raises:
        ConfigurationError: the file exists, or cannot be written.
        LedgerError: the ledger cannot be read, or the copy differs from it.
    """
    if path.exists():
        raise ConfigurationError(f"there is a file at {str(path)!r} already; name another one for the backup")
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    taken_at = utc_now()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if ledger.raw().dialect.name == "sqlite":
            _copy_file(ledger, draft)
        with contextlib.closing(Ledger.open(draft)) as target:
            if ledger.raw().dialect.name != "sqlite":
                copy(ledger, target)
            with target.writing() as connection:
                gaps.mark_copy(connection, taken_at)
        _fold(draft)
        copied = inspect(draft)
        with draft.open("rb+") as file:
            os.fsync(file.fileno())
        draft.replace(path)
    except (OSError, sqlite3.Error) as error:
        raise ConfigurationError(
            f"the backup cannot be written to {str(path)!r}: {error}; check the folder's permissions and free space"
        ) from None
    finally:
        _remove(draft)
    return copied


def inspect(path: Path) -> Copied:
    """What a backup holds, after every page and every balance of it was checked. The file is only read.

    Raises:
        ConfigurationError: it is no ledger, or is damaged.
    """
    if not path.is_file():
        raise ConfigurationError(f"there is no file {str(path)!r}; `hybrid-video ledger backup` writes one")
    try:
        with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            (said,) = connection.execute("PRAGMA integrity_check").fetchone()
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.Error as error:
        raise ConfigurationError(f"{str(path)!r} is not a usable backup: {error}; take another one") from None
    if said != "ok" or not {"migrations", "balances", "attempts"} <= tables:
        raise ConfigurationError(f"{str(path)!r} is damaged or is no ledger; take another backup")
    engine = sa.create_engine(f"sqlite:///file:{path.resolve()}?mode=ro&uri=true")
    try:
        with engine.connect() as connection:
            _same_version(connection, str(path))
            return _holds(connection)
    finally:
        engine.dispose()


def restore(source: Path, target: Ledger) -> Copied:
    """Fills an empty ledger from a backup. What was bought since is to be found out before anything is bought.

    Raises:
        ConfigurationError: the backup is unusable, or the ledger is not empty.
        LedgerError: the copy differs, so nothing was kept.
    """
    inspect(source)
    with tempfile.TemporaryDirectory(prefix="hybrid-video-") as folder:
        scratch = Path(folder) / "ledger.sqlite3"
        address = f"{source.resolve().as_uri()}?mode=ro"
        with (
            contextlib.closing(sqlite3.connect(address, uri=True)) as kept,
            contextlib.closing(sqlite3.connect(scratch)) as draft,
        ):
            kept.backup(draft)
        with contextlib.closing(Ledger.open(scratch)) as opened:  # brings an older backup to today's tables
            with opened.writing() as connection:
                gaps.mark_restored(connection)
            return copy(opened, target)


def copy(source: Ledger, target: Ledger, *, running: bool = True) -> Copied:
    """Copies every row of one ledger into another, empty one.

    Args:
        running: whether jobs of the source may be driven by somebody meanwhile; a move may not allow that.

    Raises:
        ConfigurationError: the target is not empty, or a run is under way.
        LedgerError: the copy differs, so nothing was kept.
    """
    tables = [table for table in t.metadata.sorted_tables if table is not t.migrations]
    with _snapshot(source) as old, target.writing() as new:
        if not running:
            refuse_running(old)
        filled = [table.name for table in tables if new.execute(sa.select(sa.exists(sa.select(table)))).scalar()]
        if filled:
            raise ConfigurationError(
                f"the ledger to copy into holds data already (in {', '.join(filled)}); name an empty one"
            )
        rows = sum(_copy_table(old, new, table) for table in tables)
        _same(old, new, tables)
        copied = _holds(new)
    report = verify(target)
    if (report.settled_usd, report.reserved_usd) != (copied.settled_usd, copied.reserved_usd):
        raise LedgerError("the copied ledger does not add up; do not use it, and run `hybrid-video ledger verify`")
    return Copied(rows, copied.batches, copied.attempts, copied.settled_usd, copied.reserved_usd)


def prune_backups(folder: Path, keep: int) -> list[Path]:
    """Deletes all but the newest so many backups of a folder; returns what went."""
    found = sorted(folder.glob(PATTERN))
    gone = found[: max(0, len(found) - keep)]
    for path in gone:
        path.unlink(missing_ok=True)
    return gone


def prune_journal(ledger: Ledger, folder: Path) -> list[Path]:
    """Deletes the days of the journal that even the oldest dated backup of a folder does not need."""
    times = [found for path in folder.glob(PATTERN) if (found := _named_time(path)) is not None]
    if ledger.journal is None or not times:
        return []
    return ledger.journal.prune(min(times) - gaps.MARGIN)


def refuse_running(connection: Connection) -> None:
    """Makes sure that nobody drives a job.

    Raises:
        ConfigurationError: a batch is being made now.
    """
    driven = t.jobs.c.owner.is_not(None) & (t.jobs.c.lease_until > utc_now())
    found = connection.execute(sa.select(t.jobs.c.batch).where(driven).distinct()).scalars().all()
    if found:
        raise ConfigurationError(
            f"batch {found[0]!r} is being made; wait for its end, or stop it and run `hybrid-video reconcile`, then "
            "try again"
        )


def backup_name(now: datetime) -> str:
    """`ledger-20261122T170000123456Z.sqlite3`: sorts by time."""
    return f"ledger-{now:%Y%m%dT%H%M%S%f}Z.sqlite3"


def _named_time(path: Path) -> datetime | None:
    try:
        return datetime.strptime(path.stem, "ledger-%Y%m%dT%H%M%S%fZ").replace(tzinfo=UTC)
    except ValueError:
        return None


def _copy_file(ledger: Ledger, path: Path) -> None:
    """SQLite's own online copy: consistent, page by page, without holding writers up for long."""
    database = ledger.raw().url.database or ""
    with (
        contextlib.closing(sqlite3.connect(f"{Path(database).resolve().as_uri()}?mode=ro", uri=True)) as old,
        contextlib.closing(sqlite3.connect(path)) as new,
    ):
        old.backup(new, pages=2000, sleep=0.005)
        new.execute("PRAGMA journal_mode=DELETE")


def _fold(path: Path) -> None:
    """Makes one file of a database and its write-ahead log."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")


@contextlib.contextmanager
def _snapshot(ledger: Ledger) -> Iterator[Connection]:
    """A connection that sees one moment, whatever others write."""
    with ledger.raw().connect() as connection:
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN")
        else:
            connection = connection.execution_options(isolation_level="REPEATABLE READ")  # noqa: PLW2901
        yield connection
        connection.rollback()


def _copy_table(old: Connection, new: Connection, table: sa.Table) -> int:
    copied = 0
    for chunk in old.execution_options(yield_per=CHUNK).execute(sa.select(table)).mappings().partitions(CHUNK):
        new.execute(sa.insert(table), [dict(row) for row in chunk])
        copied += len(chunk)
    key = table.autoincrement_column
    if key is not None and new.dialect.name == "postgresql":  # ids were given, so its own counter still stands at 1
        newest = sa.select(sa.func.coalesce(sa.func.max(key), 0) + 1).scalar_subquery()
        new.execute(sa.select(sa.func.setval(sa.func.pg_get_serial_sequence(table.name, key.name), newest, False)))
    return copied


def _same(old: Connection, new: Connection, tables: list[sa.Table]) -> None:
    for table in tables:
        count = sa.select(sa.func.count()).select_from(table)
        before, after = old.execute(count).scalar_one(), new.execute(count).scalar_one()
        if before != after:
            raise LedgerError(
                f"the copy of table {table.name!r} has {after} rows instead of {before}; nothing was kept"
            )
    kept, copied = (sorted(map(tuple, link.execute(sa.select(t.balances)).all())) for link in (old, new))
    if kept != copied:
        raise LedgerError("the copied balances differ from the original ones; nothing was kept")


def _holds(connection: Connection) -> Copied:
    def count(table: sa.Table) -> int:
        return int(connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())

    total = connection.execute(sa.select(t.balances).where(t.balances.c.scope == "all")).one_or_none()
    return Copied(
        rows=0,
        batches=count(t.batches),
        attempts=count(t.attempts),
        settled_usd=total.settled_usd if total else Decimal(0),
        reserved_usd=total.reserved_usd if total else Decimal(0),
    )


def _same_version(connection: Connection, where: str) -> None:
    newest = connection.execute(sa.select(sa.func.max(t.migrations.c.number))).scalar() or 0
    if newest > len(t.MIGRATIONS):
        raise ConfigurationError(
            f"{where!r} comes from a newer version of hybrid-video (migration {newest}, this one knows "
            f"{len(t.MIGRATIONS)}); install that version first"
        )


def _remove(path: Path) -> None:
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm", f"{path.name}-journal"):
        with contextlib.suppress(OSError):
            path.with_name(name).unlink(missing_ok=True)
