"""Puts a checked clip where it stays: one file and one record of its origin, each complete or not there at all.

A clip of an earlier run is never overwritten: unless it is the same file, it is kept as `<job>.1.mp4` and so on.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import BaseModel

from hybrid_video import __version__
from hybrid_video.clips.facts import ClipFacts
from hybrid_video.errors import ConfigurationError, InputError
from hybrid_video.models import IDENTIFIER, Clip, utc_now
from hybrid_video.redaction import redact

LOCK_NAME = ".storing.lock"
"""In the folder of all clips; held while a clip takes the place of an earlier one."""
_LOCK_S = 60
_CHUNK = 1 << 20
_MAX_KEPT = 10_000
_TEXT_LIMIT = 20_000


def store_clip(
    source: Path, *, out_dir: Path, batch: str, job: str, facts: ClipFacts, provenance: Mapping[str, Any]
) -> Clip:
    """Copies a clip to `<out_dir>/<batch>/<job id><suffix>` and writes `<job id>.json` beside it. `source` stays.

    Args:
        facts: what `check_clip` found in `source`.
        provenance: where the clip comes from: prompt, seed, backend, model, workflow, cost_usd, attempt_id, simulated
            and so on. Texts in it are redacted. Names, hash, facts, time and version are added here.

    Raises:
        ConfigurationError: the folder cannot be written, or the disk is full.
        InputError: the batch's or the job's name cannot be a file name.
    """
    for name in (batch, job):
        if not re.fullmatch(IDENTIFIER, name):
            raise InputError(f"{name!r} cannot be a file name; use letters, digits, '.', '_' and '-', at most 64")
    folder = Path(out_dir).absolute() / batch
    final, record = folder / f"{job}{facts.suffix}", folder / f"{job}.json"
    with _explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with _temporary(folder) as part:
            digest, size = _copy(source, part)
            with FileLock(Path(out_dir).absolute() / LOCK_NAME, timeout=_LOCK_S):
                _keep_previous(final, record, digest)
                part.replace(final)
        clip = _clip(final, job, facts, digest, size, simulated=bool(provenance.get("simulated")))
        _write_record(record, clip, batch, provenance)
        _sync_folder(folder)
    return clip


def free_disk_mb(path: Path) -> int:
    """Free megabytes (10^6 bytes) where `path` is or would be created."""
    place = Path(path).absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free // 1_000_000


def _clip(path: Path, job: str, facts: ClipFacts, digest: str, size: int, *, simulated: bool) -> Clip:
    return Clip(
        job=job,
        path=str(path),
        sha256=digest,
        size_bytes=size,
        width=facts.width,
        height=facts.height,
        fps=facts.fps,
        frames=facts.frames,
        duration_s=facts.duration_s,
        container=facts.container,
        codec=facts.codec,
        simulated=simulated,
    )


def _write_record(record: Path, clip: Clip, batch: str, provenance: Mapping[str, Any]) -> None:
    identity = {
        "batch": batch,
        "job": clip.job,
        "file": Path(clip.path).name,
        **clip.model_dump(mode="json", exclude={"job", "path"}),
    }
    content = {
        **identity,
        "created_at": utc_now(),
        "hybrid_video": __version__,
        **provenance,
        **identity,
    }
    with _temporary(record.parent) as part:
        with part.open("w", encoding="utf-8") as file:
            json.dump(_plain(content), file, indent=2, ensure_ascii=False)
            file.write("\n")
            _sync(file.fileno())
        part.replace(record)


def _plain(value: Any) -> Any:
    """JSON values, with every text redacted; money and times become text."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, BaseModel):
        return _plain(value.model_dump(mode="json"))
    if isinstance(value, Mapping):
        return {str(name): _plain(member) for name, member in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(member) for member in value]
    return _plain_text(value)


def _plain_text(value: Any) -> str:
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, datetime):
        return value.isoformat()
    return format(value, "f") if isinstance(value, Decimal) else redact(value, _TEXT_LIMIT)


def _copy(source: Path, target: Path) -> tuple[str, int]:
    """Copies through to the disk; returns the SHA-256 in hex and the size in bytes."""
    digest, size = hashlib.sha256(), 0
    with source.open("rb") as reader, target.open("wb") as writer:
        while chunk := reader.read(_CHUNK):
            digest.update(chunk)
            writer.write(chunk)
            size += len(chunk)
        writer.flush()
        _sync(writer.fileno())
    return digest.hexdigest(), size


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _keep_previous(final: Path, record: Path, digest: str) -> None:
    """Gives an earlier clip of this job, and its record, a numbered name, unless it is the same clip."""
    earlier = final if final.exists() else _recorded_file(record)
    if earlier is None or (earlier == final and _digest(final) == digest):
        return
    stem = record.name.removesuffix(".json")
    for number in range(1, _MAX_KEPT):
        kept_record = record.with_name(f"{stem}.{number}.json")
        kept = earlier.with_name(f"{stem}.{number}{earlier.suffix}")
        if kept_record.exists() or not _link(earlier, kept):
            continue
        if record.exists():
            _link(record, kept_record)
        if earlier != final:
            earlier.unlink()
        return
    raise ConfigurationError(f"{str(final.parent)!r} holds {_MAX_KEPT} earlier clips of {stem!r}; move them away")


def _recorded_file(record: Path) -> Path | None:
    """The earlier clip with another suffix that the record names, if it is there."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        name = json.loads(record.read_text(encoding="utf-8"))["file"]
        file = record.with_name(Path(name).name)
        return file if file.is_file() else None
    return None


def _link(source: Path, target: Path) -> bool:
    """Gives a file a second name; False if the name is taken. Where there are no hard links the file is renamed."""
    try:
        target.hardlink_to(source)
    except FileExistsError:
        return False
    except OSError:
        if target.exists():
            return False
        source.rename(target)
    return True


@contextlib.contextmanager
def _temporary(folder: Path) -> Iterator[Path]:
    """A new file in the folder that is gone afterwards unless it was renamed."""
    handle, name = tempfile.mkstemp(prefix=".storing-", suffix=".part", dir=folder)
    os.close(handle)
    path = Path(name)
    try:
        path.chmod(0o644)
        yield path
    finally:
        path.unlink(missing_ok=True)


def _sync(descriptor: int) -> None:
    os.fsync(descriptor)


def _sync_folder(folder: Path) -> None:
    """Makes the renames durable, where folders can be opened (not on Windows)."""
    with contextlib.suppress(PermissionError, IsADirectoryError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except Timeout:
        raise ConfigurationError(
            f"another process has held the lock of {str(folder.parent)!r} for {_LOCK_S} s; end it and run again"
        ) from None
    except OSError as error:
        raise ConfigurationError(_explain(error, folder)) from error


def _explain(error: OSError, folder: Path) -> str:
    place = repr(str(folder))
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return (
            f"the disk is full: no space left for clips in {place}; free some space or choose another folder with --out"
        )
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return f"{place} may not be written; give yourself permission or choose another folder with --out"
    if error.errno in {errno.ENOTDIR, errno.EEXIST}:
        return f"{place} cannot be created because a file has that name; choose another folder with --out"
    return (
        f"the clip cannot be stored in {place} ({error.strerror or error}); check the disk or choose another with --out"
    )
