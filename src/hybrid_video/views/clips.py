"""Finished clips: the gallery, and the one file that may be handed out for a job."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from pydantic import Field

from hybrid_video.errors import NotFoundError
from hybrid_video.ledger import Ledger
from hybrid_video.ledger import schema as t
from hybrid_video.models import AttemptState, Clip, JobState, Model, Tier, VideoJob
from hybrid_video.views.batches import batch_row
from hybrid_video.views.figures import NOTHING, Money, Page, checked_limit, decode_moment, encode_moment
from hybrid_video.views.jobs import job_row
from hybrid_video.views.reading import reading, unindexed

MEDIA_TYPES = {
    "mp4": "video/mp4",
    "mov": "video/quicktime",
    "webm": "video/webm",
    "mkv": "video/x-matroska",
    "avi": "video/x-msvideo",
    "webp": "image/webp",
    "gif": "image/gif",
    "apng": "image/apng",
}
_COLUMNS = ("attempt_id", "batch", "job", "backend", "tier", "model", "cost_usd", "clip", "finished_at")


class ClipLine(Model):
    """One clip of the gallery."""

    batch: str
    job: str
    prompt: str
    path: str
    media_type: str
    sha256: str
    size_bytes: int
    width: int
    height: int
    fps: float
    duration_s: float
    simulated: bool
    backend: str
    tier: Tier
    model: str
    cost_usd: Money = Field(description="Of the attempt that made it.")
    finished_at: datetime


class ClipFile(Model):
    """A clip's file, found where the batch's clips belong."""

    path: Path
    media_type: str
    sha256: str
    size_bytes: int
    name: str


def clips(ledger: Ledger, *, batch: str | None = None, cursor: str | None = None, limit: int = 50) -> Page[ClipLine]:
    """The newest clip of every finished job, the latest first.

    Raises:
        NotFoundError: no such batch.
    """
    a, newer = t.attempts, t.attempts.alias("newer")
    replaced = (
        sa.select(newer.c.attempt_id)
        .where(
            newer.c.batch == a.c.batch,
            newer.c.job == a.c.job,
            newer.c.number > a.c.number,
            newer.c.state == AttemptState.SETTLED.value,
        )
        .exists()
    )
    made: sa.Select[Any] = (
        sa.select(*(a.c[name] for name in _COLUMNS), t.jobs.c.spec)
        .join(t.jobs, (t.jobs.c.batch == a.c.batch) & (t.jobs.c.job == a.c.job))
        .where(
            unindexed(a.c.state) == AttemptState.SETTLED.value,
            a.c.finished_at.is_not(None),
            a.c.clip.is_not(None),
            unindexed(t.jobs.c.state) == JobState.DONE.value,
            ~replaced,
        )
        .order_by(a.c.finished_at.desc(), a.c.attempt_id)
    )
    if batch is not None:
        made = made.where(a.c.batch == batch)
    if cursor is not None:
        at, after = decode_moment(cursor)
        made = made.where((a.c.finished_at < at) | ((a.c.finished_at == at) & (a.c.attempt_id > after)))
    with reading(ledger) as connection:
        if batch is not None:
            batch_row(connection, batch)
        found = connection.execute(made.limit(checked_limit(limit) + 1)).all()
    shown = found[:limit]
    more = len(found) > limit
    return Page(
        items=tuple(_line(row) for row in shown),
        next_cursor=encode_moment(shown[-1].finished_at, shown[-1].attempt_id) if more else None,
    )


def clip_file(ledger: Ledger, batch: str, job: str) -> ClipFile:
    """The file of a job's clip. Its path is the ledger's own and must lie in the batch's folder, links resolved.

    Raises:
        NotFoundError: no such batch or job, it has no clip, or the file is gone.
    """
    with reading(ledger) as connection:
        row = job_row(connection, batch, job)
        out_dir = Path(batch_row(connection, batch).out_dir)
        query = (
            sa.select(t.attempts.c.clip)
            .where(
                t.attempts.c.batch == batch,
                t.attempts.c.job == job,
                t.attempts.c.state == AttemptState.SETTLED.value,
            )
            .order_by(t.attempts.c.number.desc())
            .limit(1)
        )
        document = connection.execute(query).scalar()
    if document is None or row.state != JobState.DONE.value:
        raise NotFoundError(f"job {job!r} of batch {batch!r} has no clip yet: it is {row.state}")
    clip = Clip.model_validate_json(document)
    path = Path(clip.path).resolve()
    if not path.is_relative_to(out_dir.resolve()):
        raise NotFoundError(f"the clip of job {job!r} does not lie in the folder of batch {batch!r}; it is not shown")
    if not path.is_file():
        raise NotFoundError(
            f"the clip of job {job!r} is gone from {str(path)!r}; put it back, or give the job another id to make it "
            "again"
        )
    return ClipFile(
        path=path,
        media_type=MEDIA_TYPES.get(clip.container, "application/octet-stream"),
        sha256=clip.sha256,
        size_bytes=clip.size_bytes,
        name=path.name,
    )


def _line(row: sa.Row[Any]) -> ClipLine:
    clip: dict[str, Any] = json.loads(row.clip)
    return ClipLine(
        batch=row.batch,
        job=row.job,
        prompt=VideoJob.model_validate_json(row.spec).prompt,
        path=clip["path"],
        media_type=MEDIA_TYPES.get(clip["container"], "application/octet-stream"),
        sha256=clip["sha256"],
        size_bytes=clip["size_bytes"],
        width=clip["width"],
        height=clip["height"],
        fps=clip["fps"],
        duration_s=clip["duration_s"],
        simulated=clip["simulated"],
        backend=row.backend,
        tier=Tier(row.tier),
        model=row.model,
        cost_usd=row.cost_usd or NOTHING,
        finished_at=row.finished_at,
    )
