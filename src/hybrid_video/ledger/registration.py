"""Writing a batch into the ledger, or joining it to what is known under its name. In the caller's transaction."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from hybrid_video.errors import InputError
from hybrid_video.ledger import schema as t
from hybrid_video.ledger.rows import spec_sha
from hybrid_video.ledger.statements import UPDATE_JOB
from hybrid_video.models import AttemptState, Batch, JobState, VideoJob


def register(connection: Connection, batch: Batch, *, out_dir: Path, simulated: bool, now: datetime) -> list[str]:
    """New jobs are added, unfinished ones stay; failed, cancelled and changed ones become pending again.

    A job whose text was changed back to the one its newest clip was made from is done again.

    Returns:
        Ids of jobs that were finished earlier with another text and will be made again.

    Raises:
        InputError: a changed job is still being made with its earlier text, or the batch was pruned.
    """
    _refuse_pruned(connection, batch.name)
    _write_batch(connection, batch, out_dir=out_dir, simulated=simulated, now=now)
    known = {row.job: row for row in connection.execute(sa.select(t.jobs).where(t.jobs.c.batch == batch.name))}
    made = _made(connection, batch.name) if known else {}
    changed: list[str] = []
    fresh: list[dict[str, Any]] = []
    for ordinal, job in enumerate(batch.jobs):
        old = known.get(job.id)
        if old is None:
            fresh.append(
                {
                    "batch": batch.name,
                    "job": job.id,
                    "ordinal": ordinal,
                    "spec": job.model_dump_json(),
                    "state": JobState.PENDING.value,
                    "updated_at": now,
                    "registered_at": now,
                }
            )
            continue
        update = _rejoin(old, job, ordinal, made.get(job.id))
        if update.get("state") == JobState.PENDING.value and old.state == JobState.DONE.value:
            changed.append(job.id)
        if update.get("state") == JobState.PENDING.value:
            update = {**update, "registered_at": now}
        if update:
            connection.execute(UPDATE_JOB, {"of_batch": batch.name, "of_job": job.id, "updated_at": now, **update})
    if fresh:
        connection.execute(sa.insert(t.jobs), fresh)
    return changed


def _refuse_pruned(connection: Connection, name: str) -> None:
    """Nobody knows any more which clips of it were made; making them again would be paying for them twice."""
    gone = connection.execute(sa.select(t.batches.c.pruned_at).where(t.batches.c.name == name)).scalar_one_or_none()
    if gone is not None:
        raise InputError(
            f"name: batch {name!r} was made long ago and its jobs were pruned on {gone:%Y-%m-%d}; give the new batch "
            "another name, so that no clip of the old one is paid for twice by mistake"
        )


def _write_batch(connection: Connection, batch: Batch, *, out_dir: Path, simulated: bool, now: datetime) -> None:
    values = {
        "spec": batch.model_dump_json(exclude={"jobs"}),
        "out_dir": str(out_dir),
        "budget_usd": batch.budget_usd,
        "deadline_s": batch.deadline_s,
        "started_at": now,
        "finished_at": None,
        "simulated": simulated,
    }
    known = connection.execute(sa.update(t.batches).where(t.batches.c.name == batch.name).values(**values)).rowcount
    if not known:
        connection.execute(sa.insert(t.batches).values(name=batch.name, created_at=now, **values))


def _made(connection: Connection, batch: str) -> dict[str, str]:
    """For each job with a clip, the digest of the text its newest clip was made from."""
    query = (
        sa.select(t.attempts.c.job, t.attempts.c.spec_sha)
        .where(t.attempts.c.batch == batch, t.attempts.c.state == AttemptState.SETTLED.value)
        .order_by(t.attempts.c.number)
    )
    return {row.job: row.spec_sha for row in connection.execute(query)}


def _rejoin(old: sa.Row[Any], job: VideoJob, ordinal: int, made: str | None) -> Mapping[str, Any]:
    """The columns to change in a known job."""
    state = JobState(old.state)
    update: dict[str, Any] = {} if old.ordinal == ordinal else {"ordinal": ordinal}
    if _differs(old.spec, job):
        if state in (JobState.ACTIVE, JobState.UNCERTAIN):
            raise InputError(
                f"job {old.job!r} was changed while it is still being made with its earlier text; let it finish "
                "(run the unchanged batch, or `hybrid-video reconcile`), or give the batch another name"
            )
        done = made == spec_sha(job)
        update |= {"spec": job.model_dump_json(), "state": (JobState.DONE if done else JobState.PENDING).value}
        update |= {"error_kind": "", "error_message": ""}
    elif state in (JobState.FAILED, JobState.CANCELLED):
        update |= {"state": JobState.PENDING.value, "error_kind": "", "error_message": ""}
    if old.cancel_requested_at is not None:
        update["cancel_requested_at"] = None
    return update


def _differs(stored: str, job: VideoJob) -> bool:
    """Whether a job asks for something else; a text that another version wrote differently is the same."""
    return stored != job.model_dump_json() and VideoJob.model_validate_json(stored) != job
