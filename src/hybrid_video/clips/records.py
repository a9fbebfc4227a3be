"""Reads the records beside finished clips back: which attempt made a file, and what that came to.

The ledger is the truth about money; these records are what is left to ask when it is lost or was interrupted.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hybrid_video.models import Clip, Quote, Tier, VideoJob


class _Read(BaseModel):
    """What a later version writes besides is not looked at."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Receipt(_Read):
    """What a record says of the send. `job` may be redacted; `spec_sha` is of the job as it was sent."""

    lane: str
    remote_id: str = ""
    submitted_at: datetime | None = None
    queue_s: float | None = None
    spec_sha: str
    job: VideoJob
    quote: Quote


class ClipRecord(_Read):
    """The record beside one clip, whose file was found unchanged."""

    batch: str
    job: str
    attempt_id: str
    number: int = Field(validation_alias="attempt")
    backend: str
    tier: Tier
    cost_usd: Decimal
    created_at: datetime
    execution_s: float | None = None
    gpu: str = ""
    simulated: bool = False
    receipt: Receipt | None = None
    """None in records of earlier versions: the attempt cannot be written into a ledger again from those."""
    clip: Clip


def read_record(path: Path, since: datetime | None = None) -> ClipRecord | None:
    """The record in a file, if it is one of ours, not older than asked for, and its clip is beside it, unchanged."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, ValidationError):
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if since is not None and datetime.fromisoformat(found["created_at"]) < since:
            return None
        name = found["file"]
        if path.stem != found["job"]:  # an earlier clip of the job was given a number, and so was its record
            name = f"{path.stem}{Path(name).suffix}"
        file = path.with_name(Path(name).name)
        if file.stat().st_size != found["size_bytes"] or _digest(file) != found["sha256"]:
            return None
        fields = {name: found[name] for name in Clip.model_fields if name in found}
        return ClipRecord.model_validate({**found, "clip": Clip.model_validate({**fields, "path": str(file)})})
    return None


def records_in(folder: Path, since: datetime) -> Iterator[ClipRecord]:
    """The records of a batch's folder from a time on, whose clips are there."""
    with contextlib.suppress(OSError):
        for path in sorted(folder.glob("*.json")):
            if (record := read_record(path, since)) is not None:
                yield record


def recorded_clip(folder: Path, job: str, attempt_id: str) -> ClipRecord | None:
    """The record of one attempt's clip, if it was stored before its process died."""
    with contextlib.suppress(OSError):
        for path in (folder / f"{job}.json", *sorted(folder.glob(f"{job}.*.json"))):
            record = read_record(path) if attempt_id in _text(path) else None
            if record is not None and record.attempt_id == attempt_id:
                return record
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
