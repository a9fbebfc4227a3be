"""The journal: every send and every end once more, in files of their own, for the day the ledger itself is lost.

A backup knows nothing of what came after it. RunPod serverless and Google cannot be asked for a list of jobs, so this
is the only other place that knows what was bought meanwhile. It is only ever added to, and read only after a restore
(`hybrid_video.engine.refilling`). One journal belongs to one home folder; several processes share it under a lock.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from hybrid_video.errors import LedgerError
from hybrid_video.models import utc_now

FOLDER = "journal"
"""Within the home folder."""
LOCK_TIMEOUT_S = 20.0
_IDENTITY = "journal.json"
_DAY_FILE = "????-??-??.jsonl"


class JournalError(LedgerError):
    """The journal cannot be written or read."""


@dataclass(frozen=True)
class JournalId:
    """Which journal it is, and from when on nothing is missing in it."""

    id: str
    host: str
    complete_since: datetime


class Journal:
    """The journal of one home folder. No file stays open between two calls."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = FileLock(folder / ".lock", timeout=LOCK_TIMEOUT_S)

    @classmethod
    def open(cls, folder: Path) -> Journal:
        """The journal in a folder, begun now if there is none.

        Raises:
            JournalError: the folder cannot be used.
        """
        journal = cls(folder)
        with _explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / _IDENTITY).exists():
                with journal._lock:
                    if not (folder / _IDENTITY).exists():
                        journal._name(JournalId(str(uuid.uuid4()), socket.gethostname(), utc_now()))
        return journal

    @property
    def identity(self) -> JournalId:
        """Its id, its machine, and since when it is complete."""
        with _explained(self._folder):
            return _identity((self._folder / _IDENTITY).read_text(encoding="utf-8"))

    def write(self, records: Sequence[Mapping[str, Any]], *, durable: bool) -> None:
        """Adds records, each with the time.

        Args:
            durable: whether they are on the disk itself when this returns, and not only safe from a crash of ours.

        Raises:
            JournalError: they could not be written, or not all.
        """
        now = utc_now()
        lines = "".join(_line({"at": now, **record}) for record in records)
        with _explained(self._folder), self._lock:
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
            handle = os.open(self._folder / f"{now:%Y-%m-%d}.jsonl", flags, 0o600)
            with open(handle, "rb+", buffering=0) as file:  # noqa: PTH123 - it takes the descriptor over
                data = lines.encode()
                if (end := file.seek(0, os.SEEK_END)) and (file.seek(end - 1), file.read(1))[1] != b"\n":
                    data = b"\n" + data  # somebody died in the middle of a line
                while data:
                    data = data[file.write(data) :]
                if durable:
                    os.fsync(handle)

    def read(self, since: datetime) -> Iterator[dict[str, Any]]:
        """What was written from a time on, in order. A line that was cut off by a crash is left out.

        Raises:
            JournalError: a file cannot be read.
        """
        for path in self._files():
            if date.fromisoformat(path.stem) < since.astimezone(UTC).date():
                continue
            with _explained(self._folder), path.open("rb") as file:
                for line in file:
                    with contextlib.suppress(ValueError, TypeError, KeyError):
                        found = json.loads(line)
                        if datetime.fromisoformat(found["at"]) >= since:
                            yield found

    def covers(self, moment: datetime) -> bool:
        """Whether everything from a time on is in it."""
        return self.identity.complete_since <= moment

    def prune(self, before: datetime) -> list[Path]:
        """Deletes whole days before a time; a backup older than that cannot be brought up to date any more."""
        gone = [path for path in self._files() if date.fromisoformat(path.stem) < before.astimezone(UTC).date()]
        if not gone:
            return []
        with _explained(self._folder), self._lock:
            first = datetime.combine(before.astimezone(UTC).date(), datetime.min.time(), UTC)
            known = self.identity
            self._name(JournalId(known.id, known.host, max(first, known.complete_since)))
            for path in gone:
                path.unlink(missing_ok=True)
        return gone

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob(_DAY_FILE))

    def _name(self, identity: JournalId) -> None:
        content = {"id": identity.id, "host": identity.host, "complete_since": identity.complete_since.isoformat()}
        draft = self._folder / f".{_IDENTITY}.{os.getpid()}"
        draft.write_text(json.dumps(content) + "\n", encoding="utf-8")
        draft.replace(self._folder / _IDENTITY)


def row_record(row: Any, without: Iterable[str] = ()) -> dict[str, Any]:
    """The columns of a row as a journal holds them."""
    left_out = set(without)
    return {name: value for name, value in row._asdict().items() if name not in left_out and value is not None}


def _identity(text: str) -> JournalId:
    found = json.loads(text)
    return JournalId(found["id"], found["host"], datetime.fromisoformat(found["complete_since"]))


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, default=_plain, ensure_ascii=False) + "\n"


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Decimal):
        return format(value, "f")
    raise TypeError(f"{value!r} cannot be written down")


@contextlib.contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError) as error:
        held = "another process has held its lock for too long" if isinstance(error, Timeout) else error
        raise JournalError(
            f"the journal in {str(folder)!r} cannot be used: {held}; check the folder's permissions and free space"
        ) from None
