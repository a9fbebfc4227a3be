"""Who drives a job: one process at a time, proven by a file lock it holds and by a lease it renews.

In the same place (one machine, one home folder) the lock alone decides: a dead owner is recognised at once, because the
operating system released it, and a live one keeps its jobs although its lease seems over, because the clock was set or
the machine slept. Owners elsewhere are believed until their lease runs out. Two containers may share a host name and a
database but not a home folder, so a lock file that is missing here says nothing about an owner of another home.
"""

from __future__ import annotations

import contextlib
import socket
import uuid
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from hybrid_video.installation import installation_id
from hybrid_video.models import utc_now


class Owner:
    """This process as an owner of jobs. Keep it open as long as it drives anything."""

    def __init__(self, home: Path) -> None:
        self._folder = home / "owners"
        self._folder.mkdir(parents=True, exist_ok=True)
        self.place = f"{socket.gethostname()}.{installation_id(home)}"
        self.id = f"{self.place}/{uuid.uuid4().hex}"
        self._lock = FileLock(self._path(self.id))
        self._lock.acquire(timeout=0)

    def close(self) -> None:
        """Gives up ownership."""
        self._lock.release()
        self._path(self.id).unlink(missing_ok=True)

    def is_dead(self, owner: str) -> bool:
        """Whether another owner certainly lives no more. False when that cannot be told from here."""
        place, _, _name = owner.partition("/")
        if owner == self.id or place != self.place:
            return False
        path = self._path(owner)
        if not path.exists():
            return True
        try:
            with FileLock(path, timeout=0):
                pass
        except Timeout:
            return False
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        return True

    def is_alive(self, owner: str) -> bool:
        """Whether another owner certainly lives. False when that cannot be told from here."""
        place, _, _name = owner.partition("/")
        return place == self.place and self._path(owner).exists() and not self.is_dead(owner)

    def may_take(self, owner: str | None, lease_until: datetime | None) -> bool:
        """Whether a job of this owner may be taken: it is nobody's or ours, or its owner is gone."""
        if owner is None or owner == self.id:
            return True
        if self.is_alive(owner):
            return False
        return lease_until is None or lease_until < utc_now() or self.is_dead(owner)

    def _path(self, owner: str) -> Path:
        return self._folder / f"{owner.partition('/')[2]}.lock"
