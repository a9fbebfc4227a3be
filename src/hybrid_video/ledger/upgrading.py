"""Bringing an older ledger up to this version: a copy of the file first, then every migration, all or nothing.

Each command that opens a ledger does it, so nobody can forget it; `hybrid-video ledger upgrade` does it and says what
was done. A database server's ledger is not copied here: its administrator's tools do that better.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import sqlalchemy as sa
from filelock import FileLock, Timeout
from sqlalchemy.engine import Connection, Engine

from hybrid_video.errors import LedgerError
from hybrid_video.ledger import schema as t

log = logging.getLogger(__name__)

FOLDER = "backups"
PATTERN = "before-upgrade-*.sqlite3"
"""Another name than of ordinary backups, so that neither kind counts as the other when old ones are deleted."""

KEPT = 3
LOCK_TIMEOUT_S = 600.0
"""A large ledger is copied for minutes on a slow disk; whoever opens it meanwhile waits."""


@dataclass(frozen=True)
class Upgraded:
    """What opening a ledger changed about it."""

    before: int
    after: int
    copy: Path | None
    """The file as it was; None for a ledger on a database server."""


def version(connection: Connection) -> int:
    """The newest migration of a ledger; 0 where there is none yet."""
    if not sa.inspect(connection).has_table(t.migrations.name):
        return 0
    return connection.execute(sa.select(sa.func.max(t.migrations.c.number))).scalar() or 0


def is_behind(number: int) -> bool:
    """Whether a ledger of that version exists and lacks a migration."""
    return 0 < number < len(t.MIGRATIONS)


@contextlib.contextmanager
def one_at_a_time(engine: Engine) -> Iterator[None]:
    """Of several processes that open an old file at once, the first copies and migrates it and the others wait.

    On a server the writers' own lock does that.

    Raises:
        LedgerError: another process has been at it for too long.
    """
    path = _file(engine)
    if path is None:
        yield
        return
    lock = FileLock(path.with_name(f"{path.name}.upgrade.lock"))
    try:
        lock.acquire(timeout=LOCK_TIMEOUT_S)
    except Timeout:
        raise LedgerError(
            f"another process has been upgrading the ledger at {str(path)!r} for {LOCK_TIMEOUT_S / 60:.0f} minutes; "
            "look whether it hangs, end it, and try again: nothing is half done"
        ) from None
    try:
        yield
    finally:
        lock.release()


def keep_copy(engine: Engine, before: int, now: datetime) -> Path | None:
    """Copies the ledger's file as it is, next to the ordinary backups; None on a server.

    Raises:
        LedgerError: it cannot be written, so nothing is upgraded.
    """
    path = _file(engine)
    if path is None:
        log.warning(
            "the ledger is brought from migration %d to %d; no copy is made of one on a server", before, _newest()
        )
        return None
    folder = path.parent / FOLDER
    target = folder / f"before-upgrade-{before}-to-{_newest()}-{now:%Y%m%dT%H%M%S%f}Z.sqlite3"
    draft = folder / f".{target.name}.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _copy(path, draft)
        draft.replace(target)
    except (OSError, sqlite3.Error) as error:
        raise LedgerError(
            f"the ledger at {str(path)!r} must be upgraded from migration {before} to {_newest()}, and the copy that "
            f"is made of it first cannot be written to {str(folder)!r}: {error}; nothing was changed. Free some space "
            "there, or check the folder's permissions"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
    log.warning("the ledger is brought from migration %d to %d; as it was: %s", before, _newest(), target)
    return target


def forget_old_copies(copy: Path) -> None:
    """Deletes all but the newest few of these copies."""
    found = sorted(copy.parent.glob(PATTERN), key=lambda path: path.stem.rpartition("-")[2])
    for path in found[:-KEPT]:
        path.unlink(missing_ok=True)


def _newest() -> int:
    return len(t.MIGRATIONS)


def _file(engine: Engine) -> Path | None:
    database = engine.url.database
    return Path(database) if engine.dialect.name == "sqlite" and database and database != ":memory:" else None


def _copy(path: Path, target: Path) -> None:
    """SQLite's online copy, which includes what is still in the write-ahead log."""
    with (
        contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as old,
        contextlib.closing(sqlite3.connect(target)) as new,
    ):
        old.backup(new, pages=2000, sleep=0.005)
        new.execute("PRAGMA journal_mode=DELETE")
        (said,) = new.execute("PRAGMA quick_check").fetchone()
    if said != "ok":
        raise sqlite3.DatabaseError(f"the copy is damaged ({said}), so the ledger is too")
    with target.open("rb+") as file:
        os.fsync(file.fileno())
