"""Holds the clips on disk against the ledger: every one there and unchanged, and nothing that no attempt knows.

Reads only, except for temporary files of our own that an interrupted run left behind.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hybrid_video.engine.attempts import STAGING
from hybrid_video.ledger import Ledger
from hybrid_video.ledger.lookups import BatchRow
from hybrid_video.models import Attempt, AttemptState, Clip, JobState, Model

LEFTOVER_AGE_S = 3600.0
"""Temporary files older than this belong to nothing that still runs."""

_PART = re.compile(r"\.storing-.*\.part")
_KEPT = re.compile(r"(?P<job>.+)\.\d+")


class ClipFinding(Model):
    """One clip that is not as the ledger knows it, or a file that the ledger does not know."""

    kind: Literal["missing", "changed", "unknown"]
    batch: str
    job: str = ""
    path: str
    message: str


@dataclass(frozen=True)
class DiskAudit:
    """Outcome for some batches."""

    checked: int
    findings: tuple[ClipFinding, ...]


def audit(ledger: Ledger, batches: Mapping[str, BatchRow]) -> DiskAudit:
    """Checks every finished clip of these batches by its SHA-256, and every file in their folders."""
    checked, findings = 0, []
    for name, row in batches.items():
        settled = [a for a in ledger.attempts(name, states=[AttemptState.SETTLED]) if a.clip is not None]
        states = {job.job: job.state for job in ledger.job_rows(name)}
        done = {job for job, state in states.items() if state is JobState.DONE}
        active = {job for job, state in states.items() if state is JobState.ACTIVE}
        newest = {a.job: a.clip for a in settled if a.clip is not None and a.job in done}
        for job, clip in newest.items():
            checked += 1
            findings += _compared(name, job, clip)
        folders = {row.out_dir / name, *(Path(a.clip.path).parent for a in settled if a.clip is not None)}
        known = _Known.of(settled)
        findings += [
            _unknown(name, file) for file in _files(folders) if file.stem not in active and not known.holds(file)
        ]
        _clear_staging(row.out_dir, ledger.open_attempts(name))
    return DiskAudit(checked, tuple(findings))


@dataclass(frozen=True)
class _Known:
    """What settled attempts left on disk: their clips, the records beside them, and earlier clips kept by number."""

    paths: frozenset[Path]
    stems: frozenset[str]
    hashes: frozenset[str]

    @classmethod
    def of(cls, settled: Iterable[Attempt]) -> _Known:
        clips = [a.clip for a in settled if a.clip is not None]
        paths = frozenset(Path(clip.path) for clip in clips)
        return cls(paths, frozenset(path.stem for path in paths), frozenset(clip.sha256 for clip in clips))

    def holds(self, file: Path) -> bool:
        """Whether an attempt accounts for the file."""
        if file in self.paths:
            return True
        kept = _KEPT.fullmatch(file.stem)
        if file.suffix == ".json":
            return file.stem in self.stems or (kept is not None and kept["job"] in self.stems)
        return kept is not None and kept["job"] in self.stems and _digest(file) in self.hashes


def _compared(batch: str, job: str, clip: Clip) -> list[ClipFinding]:
    path = Path(clip.path)
    remedy = "put it back from a copy, or make it again under another job id"
    try:
        same = path.stat().st_size == clip.size_bytes and _digest(path) == clip.sha256
    except OSError as error:
        gone = isinstance(error, FileNotFoundError)
        what = "is gone from disk" if gone else f"cannot be read ({error.strerror})"
        message = f"the clip of {batch}/{job} {what}: {clip.path!r}; {remedy}"
        return [ClipFinding(kind="missing", batch=batch, job=job, path=clip.path, message=message)]
    if same:
        return []
    message = f"the clip of {batch}/{job} was changed after it was made: {clip.path!r}; {remedy}"
    return [ClipFinding(kind="changed", batch=batch, job=job, path=clip.path, message=message)]


def _unknown(batch: str, file: Path) -> ClipFinding:
    message = f"no attempt of {batch!r} made {str(file)!r}; move it away if it is not yours"
    return ClipFinding(kind="unknown", batch=batch, path=str(file), message=message)


def _files(folders: Iterable[Path]) -> Iterator[Path]:
    """Files in the folders, without our temporary ones, of which the old ones are deleted."""
    for folder in sorted(folders):
        with contextlib.suppress(OSError):
            for file in sorted(folder.iterdir()):
                if _PART.fullmatch(file.name):
                    if _age_s(file) > LEFTOVER_AGE_S:
                        file.unlink(missing_ok=True)
                elif file.is_file():
                    yield file


def _clear_staging(out_dir: Path, still_open: Iterable[Attempt]) -> None:
    """Deletes downloads that an interrupted run left half-way, except those of attempts that are still open."""
    in_use = tuple(attempt.attempt_id[:8] for attempt in still_open)
    with contextlib.suppress(OSError):
        for folder in (out_dir / STAGING).iterdir():
            if not folder.name.startswith(in_use) and _age_s(folder) > LEFTOVER_AGE_S:
                shutil.rmtree(folder, ignore_errors=True)


def _age_s(path: Path) -> float:
    return time.time() - path.stat().st_mtime


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
