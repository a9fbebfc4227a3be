"""Only one watcher at a time: a file lock within one home folder, and a lease in the ledger between machines.

The lock is given back by the operating system when its holder dies, so the next one takes over at once. The lease is
for installations that share a PostgreSQL ledger from several machines: a holder elsewhere is believed until it runs
out. Losing the lease (a machine that slept, a ledger out of reach for too long) means to stop acting at once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from filelock import FileLock, Timeout

from hybrid_video.ledger import Ledger, Owner
from hybrid_video.ledger import schema as t
from hybrid_video.models import utc_now
from hybrid_video.settings import Settings

NAME = "watcher"
LEASE_S = 60.0
LOCK_FILE = "watcher.lock"


@dataclass(frozen=True)
class Holder:
    """Which process watches: its owner id (host, installation, process), until when, and what it says of itself."""

    holder: str
    lease_until: datetime
    document: Mapping[str, Any]

    @property
    def label(self) -> str:
        """For people: where it runs and as which process."""
        pid = self.document.get("pid")
        place = str(self.document.get("host") or self.holder.partition("/")[0])
        return f"process {pid} on {place!r}" if pid else f"a process on {place!r}"

    @property
    def believed(self) -> bool:
        """Whether its lease still runs."""
        return self.lease_until >= utc_now()


class WatcherLease:
    """This process's claim to be the watcher. `take` it, `renew` it, `give_up` in the end."""

    def __init__(self, settings: Settings, ledger: Ledger, owner: Owner) -> None:
        home = settings.storage.home
        home.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(home / LOCK_FILE, thread_local=False)  # taken in one thread, given back in another
        self._ledger = ledger
        self._owner = owner

    @property
    def held(self) -> bool:
        """Whether this process has the lock; the lease may have been lost since."""
        return self._lock.is_locked

    def take(self, document: Mapping[str, Any]) -> Holder | None:
        """Becomes the watcher: None. Otherwise who is it.

        Raises:
            LedgerError: the ledger cannot be used now.
        """
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            return watching(self._ledger) or Holder("another process/", utc_now(), {})
        try:
            other = self._take_lease(document)
        except BaseException:
            self._lock.release()
            raise
        if other is not None:
            self._lock.release()
        return other

    def renew(self, document: Mapping[str, Any]) -> bool:
        """Renews the lease and stores what the watcher says of itself; False if another process has it now.

        Raises:
            LedgerError: the ledger cannot be used now.
        """
        with self._ledger.writing() as connection:
            done = connection.execute(
                sa.update(t.watchers)
                .where(t.watchers.c.name == NAME, t.watchers.c.holder == self._owner.id)
                .values(lease_until=_until(), document=json.dumps(document, default=str))
            )
            return bool(done.rowcount)

    def give_up(self) -> None:
        """Lets the next one take over at once. Safe to call again."""
        try:
            if self._lock.is_locked:
                with self._ledger.writing() as connection:
                    mine = sa.and_(t.watchers.c.name == NAME, t.watchers.c.holder == self._owner.id)
                    connection.execute(sa.delete(t.watchers).where(mine))
        finally:
            self._lock.release()

    def _take_lease(self, document: Mapping[str, Any]) -> Holder | None:
        values = {"holder": self._owner.id, "lease_until": _until(), "document": json.dumps(document, default=str)}
        with self._ledger.writing() as connection:
            row = connection.execute(sa.select(t.watchers).where(t.watchers.c.name == NAME)).one_or_none()
            if row is None:
                connection.execute(sa.insert(t.watchers).values(name=NAME, **values))
                return None
            other = _holder(row)
            if other.believed and other.holder != self._owner.id and not self._owner.is_dead(other.holder):
                return other
            connection.execute(sa.update(t.watchers).where(t.watchers.c.name == NAME).values(values))
            return None


def watching(ledger: Ledger) -> Holder | None:
    """Who watches, as the ledger knows it; None when nobody said so. See `Holder.believed`."""
    with ledger.reading() as connection:
        row = connection.execute(sa.select(t.watchers).where(t.watchers.c.name == NAME)).one_or_none()
    return None if row is None else _holder(row)


def _holder(row: Any) -> Holder:
    return Holder(row.holder, row.lease_until, json.loads(row.document))


def _until() -> datetime:
    return utc_now() + timedelta(seconds=LEASE_S)
