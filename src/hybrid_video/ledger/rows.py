"""Rows of the ledger as our nouns, and back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from hybrid_video.models import Attempt, Clip, Decision, JobHandle, JobState, Quote, VideoJob

NOT_IN_ATTEMPT = ("day", "in_history", "spec_sha")


@dataclass(frozen=True)
class JobRow:
    """A job as the ledger knows it."""

    batch: str
    job: str
    ordinal: int
    spec: VideoJob
    state: JobState
    attempts: int
    owner: str | None
    error_kind: str
    error_message: str
    lease_until: datetime | None = None
    cancel_requested: bool = False
    registered_at: datetime | None = None
    """Since when it waits to be made: when it came, or came again after it had failed or was changed."""


def spec_sha(job: VideoJob) -> str:
    """Digest of a job's whole text: equal for two attempts exactly when the same clip was asked for."""
    return hashlib.sha256(job.model_dump_json().encode()).hexdigest()


def job_row(row: sa.Row[Any]) -> JobRow:
    """A row of `jobs`."""
    return JobRow(
        batch=row.batch,
        job=row.job,
        ordinal=row.ordinal,
        spec=VideoJob.model_validate_json(row.spec),
        state=JobState(row.state),
        attempts=row.attempts,
        owner=row.owner,
        error_kind=row.error_kind,
        error_message=row.error_message,
        lease_until=row.lease_until,
        cancel_requested=row.cancel_requested_at is not None,
        registered_at=row.registered_at or row.updated_at,
    )


def attempt(row: sa.Row[Any]) -> Attempt:
    """A row of `attempts`."""
    return attempt_of(row._asdict())


def attempt_of(columns: Mapping[str, Any]) -> Attempt:
    """The columns of a row of `attempts`."""
    values = {name: value for name, value in columns.items() if name not in NOT_IN_ATTEMPT}
    handle, clip = columns["handle"], columns["clip"]
    values["quote"] = Quote.model_validate_json(columns["quote"])
    values["handle"] = JobHandle.model_validate_json(handle) if handle else None
    values["clip"] = Clip.model_validate_json(clip) if clip else None
    return Attempt.model_validate(values)


def decision_values(batch: str, decision: Decision) -> dict[str, Any]:
    """A decision as a row of `decisions`."""
    return {
        "batch": batch,
        "job": decision.job,
        "attempt": decision.attempt,
        "chosen": decision.chosen,
        "tier": decision.tier.value if decision.tier else None,
        "reason": decision.reason,
        "candidates": json.dumps([c.model_dump(mode="json") for c in decision.candidates]),
        "decided_at": decision.decided_at,
        "elapsed_us": decision.elapsed_us,
    }


def decision(row: sa.Row[Any]) -> Decision:
    """A row of `decisions`."""
    return Decision(
        job=row.job,
        attempt=row.attempt,
        chosen=row.chosen,
        tier=row.tier,
        reason=row.reason,
        candidates=tuple(json.loads(row.candidates)),
        decided_at=row.decided_at,
        elapsed_us=row.elapsed_us,
    )
