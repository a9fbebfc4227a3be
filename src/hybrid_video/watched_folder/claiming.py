"""Taking a batch out of the inbox so that nobody else makes it, and putting it away at its end.

A claim is a folder of its own below `running/` with a file that names its owner, made before the batch is moved into
it. One rename decides who has it. On the same machine a dead owner is known at once by its lock, as in the ledger; on
another one by a claim that is not renewed any more, measured by the clock of the file system they share. Nothing is
ever deleted: files move, and a picture that another waiting batch names too is copied.

That nothing is paid twice does not depend on any of this: two runs of one batch share it through the ledger.
"""

from __future__ import annotations

import contextlib
import filecmp
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

from hybrid_video.errors import InputError
from hybrid_video.ledger import Owner
from hybrid_video.models import Batch, utc_now
from hybrid_video.watched_folder.inbox import (
    RUNNING,
    Inbox,
    Note,
    Unit,
    batch_files,
    named_by,
    named_files,
    write_note,
    write_text,
)

LEASE_S = 180.0
"""A claim of another machine that was not renewed for so long is taken over."""

RENEW_S = 30.0
OUTCOME_FILE = ".outcome.json"
REPORT_FILE = "report.md"


@dataclass(frozen=True)
class Holder:
    """Who makes a batch now."""

    unit: str
    batch: str
    owner: str
    taken_at: datetime

    @property
    def machine(self) -> str:
        """Its host's name."""
        return self.owner.partition("/")[0].rpartition(".")[0] or self.owner


class Claim:
    """A batch that this process has taken. `content` is the folder its paths are relative to."""

    def __init__(self, inbox: Inbox, folder: Path, file: Path, data: dict[str, Any]) -> None:
        self._inbox = inbox
        self._folder = folder
        self._file = file
        self._data = data
        self.name: str = data["unit"]
        self.content = folder / self.name
        self.note = Note(
            arrived_at=datetime.fromisoformat(data["arrived_at"]), nights=data["nights"], clips=data["clips"]
        )

    @property
    def arrived_at(self) -> datetime:
        """When the batch came."""
        return self.note.arrived_at or utc_now()

    @property
    def entry_name(self) -> str:
        """What it was called in the inbox."""
        return str(self._data["file"] or self.name)

    @property
    def unit(self) -> Unit:
        """The batch where it lies now."""
        file = self._data["file"]
        files = (self.content / file,) if file else tuple(batch_files(self.content))
        return Unit(self.name, self.content, files, self.arrived_at, self.note)

    def load(self) -> Batch:
        """The batch; its pictures are brought along if a crash had left them behind.

        Raises:
            InputError: it is not understood.
        """
        batch = self.unit.load()
        if self._data["file"]:
            with self._inbox.lock():
                _bring(self._inbox, batch, self.content)
        self._data["batch"] = batch.name
        write_text(self._file, json.dumps(self._data))
        return batch

    def renew(self) -> None:
        """Says that the owner lives."""
        with contextlib.suppress(OSError):
            os.utime(self._file)

    def finish(self, outcome: str, day: date, report: str, record: dict[str, Any]) -> Path:
        """Puts it away with its report; returns the folder it lies in now."""
        write_text(self.content / REPORT_FILE, report)
        write_text(self.content / OUTCOME_FILE, json.dumps({**record, "unit": self.name, "outcome": outcome}))
        with self._inbox.lock():
            place = _free(self._inbox.folder / outcome / day.isoformat(), self.name)
            self.content.rename(place)
        shutil.rmtree(self._folder, ignore_errors=True)
        return place

    def put_back(self, reason: str, *, clips: int, nights: int) -> None:
        """Lets it wait in the inbox again, in its old place of the order, with the reason beside it.

        Args:
            clips: how many of its clips are made by now.
            nights: in how many nights it has waited in vain, with none of its clips made.
        """
        waits = Note(reason, self.arrived_at, nights, clips)
        with self._inbox.lock():
            entry = _back_as_file(self._inbox, self.content, self._data["file"]) if self._data["file"] else None
            if entry is None:
                entry = _free(self._inbox.folder, self.name)
                self.content.rename(entry)
            write_note(self._inbox.note_path(entry.name), waits)
        shutil.rmtree(self._folder, ignore_errors=True)


class Claims:
    """Takes batches in the name of one owner."""

    def __init__(self, inbox: Inbox, owner: Owner) -> None:
        self._inbox = inbox
        self._owner = owner

    def take(self, unit: Unit) -> Claim | None:
        """Takes a waiting batch; None if somebody else was faster."""
        folder = self._inbox.folder / RUNNING / f"{unit.name}.{secrets.token_hex(4)}"
        note = unit.note
        data = {
            "owner": self._owner.id,
            "unit": unit.name,
            "file": "" if unit.is_folder else unit.entry.name,
            "arrived_at": unit.arrived_at.isoformat(),
            "nights": note.nights,
            "clips": note.clips,
            "batch": "",
            "taken_at": utc_now().isoformat(),
        }
        with self._inbox.lock():
            folder.mkdir()
            file = folder / ".claim-0001.json"
            write_text(file, json.dumps(data))
            content = folder / unit.name
            try:
                if unit.is_folder:
                    unit.entry.rename(content)
                else:
                    content.mkdir()
                    unit.entry.rename(content / unit.entry.name)
            except FileNotFoundError:
                shutil.rmtree(folder, ignore_errors=True)
                return None
            self._inbox.note_path(unit.entry.name).unlink(missing_ok=True)
            if not unit.is_folder:
                with contextlib.suppress(InputError):
                    _bring(
                        self._inbox,
                        Unit(unit.name, content, (content / unit.entry.name,), unit.arrived_at).load(),
                        content,
                    )
        return Claim(self._inbox, folder, file, data)

    def adopt(self) -> Claim | None:
        """Takes over a batch whose owner is gone, to go on where it stopped; None where there is none."""
        with self._inbox.lock():
            now_s = _share_clock(self._inbox)
            for folder, file, data in self._known():
                if self._lives(file, data, now_s):
                    continue
                if not any((folder / data["unit"]).glob("*")):
                    shutil.rmtree(folder, ignore_errors=True)  # ended between taking and moving: nothing is in it
                    continue
                number = int(file.stem.rpartition("-")[2]) + 1
                fresh = folder / f".claim-{number:04d}.json"
                ours = {**data, "owner": self._owner.id, "taken_at": utc_now().isoformat()}
                try:
                    with fresh.open("x", encoding="utf-8") as text:
                        json.dump(ours, text)
                except FileExistsError:
                    continue
                return Claim(self._inbox, folder, fresh, ours)
        return None

    def held(self) -> list[Holder]:
        """What living owners make now, our own included."""
        now_s = _share_clock(self._inbox)
        return [
            Holder(data["unit"], data["batch"], data["owner"], datetime.fromisoformat(data["taken_at"]))
            for _folder, file, data in self._known()
            if self._lives(file, data, now_s)
        ]

    def _lives(self, file: Path, data: dict[str, Any], now_s: float) -> bool:
        owner = data["owner"]
        if owner == self._owner.id or self._owner.is_alive(owner):
            return True
        if self._owner.is_dead(owner):
            return False
        with contextlib.suppress(OSError):
            return now_s - file.stat().st_mtime < LEASE_S
        return False

    def _known(self) -> Iterator[tuple[Path, Path, dict[str, Any]]]:
        """Every claim with its newest file. What was put there by hand is nobody's and left alone."""
        with contextlib.suppress(OSError):
            for folder in sorted((self._inbox.folder / RUNNING).iterdir()):
                for file in sorted(folder.glob(".claim-*.json"), reverse=True):
                    with contextlib.suppress(OSError, ValueError, KeyError):
                        data = json.loads(file.read_text(encoding="utf-8"))
                        if {"owner", "unit", "file", "arrived_at", "nights", "clips", "batch", "taken_at"} <= set(data):
                            yield folder, file, data
                            break


def _bring(inbox: Inbox, batch: Batch, content: Path) -> None:
    """Moves the files that a batch names into its folder; those that another waiting batch names too are copied."""
    missing = [name for name in named_files(batch) if not (content / name).exists()]
    if not missing:
        return
    shared = named_by(inbox.units())
    for name in missing:
        source = inbox.folder / name
        if not source.is_file() or not source.resolve().is_relative_to(inbox.folder.resolve()):
            continue
        target = content / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if name in shared:
            part = target.with_name(f"{target.name}.part")
            shutil.copy2(source, part)
            part.replace(target)
        else:
            source.replace(target)


def _back_as_file(inbox: Inbox, content: Path, file_name: str) -> Path | None:
    """Puts a batch file and its pictures back beside each other; None where something else has one of their names."""
    entry = inbox.folder / file_name
    others = [path for path in sorted(content.rglob("*")) if path.is_file() and path != content / file_name]
    moves = {path: inbox.folder / path.relative_to(content) for path in others}
    replaced = [path for path, target in moves.items() if target.exists() and not filecmp.cmp(path, target, False)]
    if entry.exists() or replaced or not (content / file_name).exists():
        return None
    for path, target in moves.items():
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
    (content / file_name).rename(entry)
    return entry


def _free(folder: Path, name: str) -> Path:
    """A path of this name that nothing has yet: `spring`, `spring-2` …"""
    folder.mkdir(parents=True, exist_ok=True)
    place, number = folder / name, 1
    while place.exists():
        number += 1
        place = folder / f"{name}-{number}"
    return place


def _share_clock(inbox: Inbox) -> float:
    """Now, as the file system of the inbox has it: the clocks of two machines may differ."""
    probe = inbox.folder / RUNNING / f".clock-{secrets.token_hex(4)}"
    probe.touch()
    now_s = probe.stat().st_mtime
    probe.unlink(missing_ok=True)
    return now_s
