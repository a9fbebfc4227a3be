"""What lies in the watched folder: which entries are batches, whether they have arrived whole, what they name.

Only looks; `claiming` moves things. Hidden and temporary names, links, and ComfyUI workflows beside a batch are not
batches. A copying program gives no sign of its end, so an entry counts as whole once size and times of all its files
have stood still between two looks.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any

from filelock import FileLock, Timeout

from hybrid_video.batchfile import load_batch
from hybrid_video.batchfile.loading import SUFFIXES
from hybrid_video.errors import ConfigurationError, InputError
from hybrid_video.models import Batch, utc_now
from hybrid_video.settings import Settings

RUNNING, DONE, FAILED = "running", "done", "failed"
RESERVED = frozenset({RUNNING, DONE, FAILED})
LARGEST_WORKFLOW = 20_000_000
LOCK_S = 60.0
INPUTS_PATIENCE = timedelta(minutes=15)
"""A picture that a batch file names and that is not there yet is waited for so long after the file came."""

_TEMPORARY = re.compile(r"^[.~]|~$|\.(part|partial|filepart|crdownload|tmp|temp|download|swp)$", re.IGNORECASE)
_URL = re.compile(r"https?:", re.IGNORECASE)


@dataclass(frozen=True)
class Note:
    """What is remembered of an entry that was put back to wait."""

    reason: str = ""
    arrived_at: datetime | None = None
    nights: int = 0
    clips: int = 0


@dataclass(frozen=True)
class Unit:
    """One entry of the folder: a batch file, or a folder with one."""

    name: str
    entry: Path
    files: tuple[Path, ...]
    arrived_at: datetime
    note: Note = field(default_factory=Note)

    @property
    def is_folder(self) -> bool:
        """Whether the entry is a folder with everything in it."""
        return self.files != (self.entry,)

    def load(self) -> Batch:
        """The batch.

        Raises:
            InputError: it is not understood; or a folder holds more than one batch file.
        """
        if len(self.files) != 1:
            names = ", ".join(repr(file.name) for file in self.files)
            raise InputError(
                f"{self.entry.name!r} holds {len(self.files)} batch files ({names}); one folder, one batch"
            )
        return load_batch(self.files[0])


class Inbox:
    """The watched folder of one studio. Several workers, also on several machines, may use it at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def of(cls, settings: Settings, folder: Path | None = None) -> Inbox:
        """The folder that was named, or the configured one; made if it is not there.

        Raises:
            ConfigurationError: it cannot be used.
        """
        inbox = cls((folder or settings.schedule.inbox or settings.storage.home / "inbox").expanduser().absolute())
        try:
            for path in (inbox.folder, *(inbox.folder / name for name in sorted(RESERVED))):
                path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"the inbox {str(inbox.folder)!r} cannot be used: {error.strerror}; check its permissions, or set "
                "HYBRID_VIDEO_INBOX to another folder"
            ) from None
        return inbox

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Held while entries are moved or the night's money is allotted, never while a batch is made.

        Raises:
            ConfigurationError: another worker holds it for too long.
        """
        lock = FileLock(self.folder / ".lock", timeout=LOCK_S)
        try:
            lock.acquire()
        except Timeout:
            raise ConfigurationError(
                f"the inbox {str(self.folder)!r} is locked by another worker for over {LOCK_S:.0f} s; end the one that "
                "hangs, and run this again"
            ) from None
        try:
            yield
        finally:
            lock.release()

    def units(self) -> list[Unit]:
        """Every batch that waits, by the order of arrival.

        Raises:
            ConfigurationError: the folder has gone.
        """
        try:
            entries = sorted(self.folder.iterdir())
        except OSError as error:
            raise ConfigurationError(
                f"the inbox {str(self.folder)!r} cannot be read: {error.strerror}; is the share it lies on there?"
            ) from None
        found = [unit for entry in entries if (unit := self._unit(entry)) is not None]
        return sorted(found, key=lambda unit: (unit.arrived_at, unit.name))

    def note_path(self, entry_name: str) -> Path:
        """Where the note of an entry that waits is kept, beside it."""
        return self.folder / f".{entry_name}.waits.json"

    def _unit(self, entry: Path) -> Unit | None:
        if entry.name in RESERVED or _TEMPORARY.search(entry.name) or entry.is_symlink():
            return None
        try:
            if entry.is_dir():
                files, name = tuple(batch_files(entry)), entry.name
            else:
                files, name = (entry,) if _is_batch_file(entry) else (), entry.stem
            if not files:
                return None
            status = files[0].stat()
        except OSError:  # somebody took it at this moment
            return None
        note = read_note(self.note_path(entry.name))
        arrived = note.arrived_at or datetime.fromtimestamp(status.st_ctime, tz=UTC)
        return Unit(name, entry, files, arrived, note)


def batch_files(folder: Path) -> Iterator[Path]:
    """The batch files directly in a folder."""
    for path in sorted(folder.iterdir()):
        if not _TEMPORARY.search(path.name) and not path.is_symlink() and _is_batch_file(path):
            yield path


def named_files(batch: Batch) -> list[PurePosixPath]:
    """The local files a batch names, relative to its own; paths that lead elsewhere are left to be refused later."""
    names = []
    for job in batch.jobs:
        workflow = job.workflow if job.workflow.lower().endswith(".json") else None
        for value in (job.image, workflow):
            if value is None or _URL.match(value):
                continue
            path = PurePosixPath(value.replace("\\", "/"))
            if not path.is_absolute() and ".." not in path.parts and ":" not in value and not value.startswith("~"):
                names.append(path)
    return list(dict.fromkeys(names))


def named_by(units: Iterable[Unit]) -> set[PurePosixPath]:
    """The files beside them that these batch files name; those of folders and unreadable ones name none."""
    names: set[PurePosixPath] = set()
    for unit in units:
        if not unit.is_folder:
            try:
                names.update(named_files(unit.load()))
            except InputError:
                continue
    return names


class Looks:
    """Remembers how entries looked, so that those that stand still can be told from those that still grow."""

    def __init__(self, settle_s: float) -> None:
        self._settle_s = settle_s
        self._seen: dict[Path, tuple[object, float]] = {}
        self._named: dict[Path, tuple[object, list[Path]]] = {}

    def settled(self, unit: Unit) -> bool:
        """Whether it, and every file it names, has not changed for long enough. Look again later if not."""
        now_s = time.monotonic()
        look = self._look(unit)
        before, since_s = self._seen.get(unit.entry, (None, now_s))
        if look != before:
            since_s = now_s
            self._seen[unit.entry] = (look, now_s)
        return look is not None and now_s - since_s >= self._settle_s

    def _look(self, unit: Unit) -> object:
        """Size and times of every file that belongs to it; None while one is still missing."""
        root = unit.entry if unit.is_folder else unit.entry.parent
        try:
            if unit.is_folder:
                paths = sorted(path for path in unit.entry.rglob("*") if path.is_file())
            else:
                paths = [unit.entry, *self._companions(unit)]
            return tuple((str(path.relative_to(root)), *_stamp(path)) for path in paths)
        except FileNotFoundError:
            recent = utc_now() - unit.arrived_at < INPUTS_PATIENCE
            return None if recent or not unit.entry.exists() else ("incomplete", *_stamp(unit.entry))
        except OSError:
            return None

    def _companions(self, unit: Unit) -> list[Path]:
        stamp = _stamp(unit.entry)
        known = self._named.get(unit.entry)
        if known is None or known[0] != stamp:
            try:
                names = [unit.entry.parent / name for name in named_files(unit.load())]
            except InputError:
                names = []
            known = self._named[unit.entry] = (stamp, names)
        return known[1]


def _stamp(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _is_batch_file(path: Path) -> bool:
    if path.suffix.lower() not in SUFFIXES or not path.is_file():
        return False
    return path.suffix.lower() != ".json" or not _is_workflow(path)


def _is_workflow(path: Path) -> bool:
    """Whether a JSON file is a ComfyUI workflow: in API format nodes with a `class_type`, else `nodes` and `links`."""
    try:
        if path.stat().st_size > LARGEST_WORKFLOW:
            return False
        data: Any = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    if not isinstance(data, dict) or "jobs" in data or not data:
        return False
    nodes = [value for value in data.values() if isinstance(value, dict)]
    return ("nodes" in data and "links" in data) or (bool(nodes) and all("class_type" in node for node in nodes))


def read_note(path: Path) -> Note:
    """A stored note; an empty one where there is none or it is not understood."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        at = datetime.fromisoformat(data["arrived_at"]) if data.get("arrived_at") else None
        return Note(str(data.get("reason", "")), at, int(data.get("nights", 0)), int(data.get("clips", 0)))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return Note()


def write_note(path: Path, note: Note) -> None:
    """Stores a note, whole or not at all."""
    arrived = note.arrived_at.isoformat() if note.arrived_at else None
    data = {"reason": note.reason, "arrived_at": arrived, "nights": note.nights, "clips": note.clips}
    write_text(path, json.dumps(data))


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
