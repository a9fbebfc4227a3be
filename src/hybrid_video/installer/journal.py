"""What an installation has done so far, readable from any process while it goes on.

`state.json` is replaced atomically and holds the whole picture; `events.jsonl` is appended to, one object a line. The
lock tells whether the process that wrote them still lives: a state that says running without it was interrupted.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout
from pydantic import AwareDatetime, Field, ValidationError

from hybrid_video.errors import ConfigurationError
from hybrid_video.installer.options import Action
from hybrid_video.models import Model
from hybrid_video.redaction import redact

EVENTS_KEPT_BYTES = 4_000_000
SAVE_EVERY_S = 0.4
"""Progress of a download is written this often at most; everything else at once."""

Status = Literal["waiting", "running", "done", "skipped", "failed", "cancelled"]


class InstallEvent(Model):
    """One thing that happened."""

    at: AwareDatetime
    kind: Literal["started", "step", "file", "output", "notice", "done", "failed", "cancelled"]
    step: str = ""
    status: Status | None = None
    message: str = ""
    remedy: str = ""
    file: str = ""
    bytes_done: int | None = None
    bytes_total: int | None = None
    bytes_per_s: float | None = None


class StepState(Model):
    """One step as it stands."""

    id: str
    title: str
    status: Status = "waiting"
    detail: str = ""
    seconds: float | None = None


class FileState(Model):
    """One download as it stands."""

    file: str
    folder: str = ""
    status: Status = "waiting"
    bytes_done: int = 0
    bytes_total: int = 0
    bytes_per_s: float = 0.0


class InstallState(Model):
    """The whole picture. `interrupted`: the process that was at work is gone; run it again to go on."""

    status: Literal["none", "running", "done", "failed", "cancelled", "interrupted"] = "none"
    action: Action | None = None
    pid: int | None = None
    started_at: AwareDatetime | None = None
    ended_at: AwareDatetime | None = None
    steps: tuple[StepState, ...] = ()
    files: tuple[FileState, ...] = ()
    message: str = ""
    remedy: str = ""
    options: dict[str, Any] = Field(default_factory=dict)

    @property
    def bytes_done(self) -> int:
        """Of all files together."""
        return sum(file.bytes_done for file in self.files)

    @property
    def bytes_total(self) -> int:
        """Of all files together."""
        return sum(file.bytes_total for file in self.files)

    @property
    def share_done(self) -> float:
        """0 to 1: finished steps, the models step by its bytes."""
        if not self.steps:
            return 0.0
        parts = []
        for step in self.steps:
            if step.status in ("done", "skipped"):
                parts.append(1.0)
            elif step.id == "models" and step.status == "running" and self.bytes_total:
                parts.append(self.bytes_done / self.bytes_total)
            else:
                parts.append(0.0)
        return sum(parts) / len(parts)


OnEvent = Callable[[InstallEvent], None]


class Journal:
    """Writer of state and events; one at a time, guarded by a lock."""

    def __init__(self, folder: Path, on_event: OnEvent | None = None) -> None:
        self.folder = folder
        self._on_event = on_event
        self._state = InstallState()
        self._saved_s = 0.0
        self._started_s: dict[str, float] = {}
        self._lock = FileLock(folder / "lock")

    @contextlib.contextmanager
    def session(self, action: Action, steps: tuple[StepState, ...], options: dict[str, Any]) -> Iterator[None]:
        """One run of the installer.

        Raises:
            ConfigurationError: another process is at work on this folder.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=1)  # a reader may hold it for a moment to see whether anybody is at work
        except Timeout:
            other = read_state(self.folder).pid
            raise ConfigurationError(
                f"another installer (process {other}) is at work in {str(self.folder.parent)!r}; wait for it, or stop "
                "it with `hybrid-video install-comfyui cancel`"
            ) from None
        try:
            self._cancel_file.unlink(missing_ok=True)
            self._rotate()
            self._state = InstallState(
                status="running",
                action=action,
                pid=os.getpid(),
                started_at=datetime.now(UTC),
                steps=steps,
                options=options,
            )
            self._save()
            self._emit(kind="started", message=action)
            yield
        finally:
            self._lock.release()

    @property
    def state(self) -> InstallState:
        """As it stands."""
        return self._state

    def step(self, id_: str, status: Status, detail: str = "") -> None:
        """A step begins or ends."""
        now = time.monotonic()
        if status == "running":
            self._started_s[id_] = now
        seconds = round(now - self._started_s[id_], 2) if id_ in self._started_s and status != "running" else None
        steps = tuple(
            step.model_copy(update={"status": status, "detail": redact(detail), "seconds": seconds})
            if step.id == id_
            else step
            for step in self._state.steps
        )
        self._state = self._state.model_copy(update={"steps": steps})
        self._save()
        self._emit(kind="step", step=id_, status=status, message=redact(detail))

    def files(self, files: tuple[FileState, ...]) -> None:
        """What will be downloaded."""
        self._state = self._state.model_copy(update={"files": files})
        self._save()

    def file(self, file: FileState) -> None:
        """A download moves on."""
        files = tuple(file if (f.file, f.folder) == (file.file, file.folder) else f for f in self._state.files)
        self._state = self._state.model_copy(update={"files": files})
        final = file.status != "running" or file.bytes_done == 0
        if not final and time.monotonic() - self._saved_s < SAVE_EVERY_S:
            return
        self._save()
        self._emit(
            kind="file",
            step="models",
            file=file.file,
            status=file.status,
            bytes_done=file.bytes_done,
            bytes_total=file.bytes_total,
            bytes_per_s=round(file.bytes_per_s, 1),
        )

    def output(self, step: str, line: str) -> None:
        """A line that a program said."""
        self._emit(kind="output", step=step, message=redact(line))

    def notice(self, step: str, message: str) -> None:
        """Something the user should know that stops nothing."""
        self._emit(kind="notice", step=step, message=redact(message))

    def done(self, message: str) -> None:
        """It is finished."""
        self._end("done", message, "")

    def failed(self, message: str, remedy: str = "") -> None:
        """It has stopped; `message` says why and what to do."""
        self._mark_running("failed", message)
        self._end("failed", message, remedy)

    def cancelled(self) -> None:
        """It was stopped on request."""
        self._mark_running("cancelled", "stopped on request")
        self._end("cancelled", "stopped on request; run it again to go on where it stopped", "")

    @property
    def cancel_requested(self) -> bool:
        """Whether any process has asked to stop."""
        return self._cancel_file.exists()

    @property
    def _cancel_file(self) -> Path:
        return self.folder / "cancel"

    def _mark_running(self, status: Status, detail: str) -> None:
        for step in self._state.steps:
            if step.status == "running":
                self.step(step.id, status, detail.splitlines()[0] if detail else "")

    def _end(self, status: Literal["done", "failed", "cancelled"], message: str, remedy: str) -> None:
        update = {"status": status, "message": redact(message), "remedy": remedy, "ended_at": datetime.now(UTC)}
        self._state = self._state.model_copy(update=update)
        self._save()
        self._emit(kind=status, message=redact(message), remedy=remedy)

    def _emit(self, **fields: Any) -> None:
        event = InstallEvent(at=datetime.now(UTC), **fields)
        line = event.model_dump_json(exclude_defaults=True)
        with contextlib.suppress(OSError), self._events_file.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        if self._on_event is not None:
            self._on_event(event)

    def _save(self) -> None:
        self._saved_s = time.monotonic()
        with contextlib.suppress(OSError):  # a full disk must not hide the message about it
            write_atomically(self.folder / "state.json", self._state.model_dump_json(indent=1))

    @property
    def _events_file(self) -> Path:
        return self.folder / "events.jsonl"

    def _rotate(self) -> None:
        file = self._events_file
        if file.exists() and file.stat().st_size > EVENTS_KEPT_BYTES:
            file.replace(file.with_suffix(".jsonl.1"))


def read_state(folder: Path) -> InstallState:
    """The picture another process is drawing; status `none` where nothing was ever started.

    Args:
        folder: the installation's `progress` folder.
    """
    try:
        state = InstallState.model_validate_json((folder / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        return InstallState()
    if state.status == "running" and not is_at_work(folder):
        return state.model_copy(update={"status": "interrupted"})
    return state


def is_at_work(folder: Path) -> bool:
    """Whether a process holds the installer's lock."""
    if not (folder / "lock").exists():
        return False
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


def read_events(folder: Path, after: int = 0) -> tuple[list[InstallEvent], int]:
    """Events from a byte position on, and the position to ask from next time."""
    try:
        with (folder / "events.jsonl").open("rb") as file:
            if after > file.seek(0, os.SEEK_END):
                after = 0  # the log was moved aside
            file.seek(after)
            data = file.read()
    except OSError:
        return [], 0
    whole = data[: data.rfind(b"\n") + 1]
    events = []
    for line in whole.splitlines():
        with contextlib.suppress(ValidationError, json.JSONDecodeError):
            events.append(InstallEvent.model_validate_json(line))
    return events, after + len(whole)


def request_cancel(folder: Path) -> bool:
    """Asks the process at work to stop; False when none is."""
    if not is_at_work(folder):
        return False
    (folder / "cancel").touch()
    return True


def write_atomically(path: Path, text: str) -> None:
    """Replaces a file in one move, so that a reader or a crash never meets half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
