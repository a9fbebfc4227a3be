"""One serverless job: its states, times, limits and what the job API answers about it.

Times are simulated UNIX seconds; answers give them in milliseconds. States and limits follow
docs.runpod.io/serverless/endpoints (job-states, operation-reference, send-requests).
"""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from hybrid_video.emulators.comfyui.graph import job_label
from hybrid_video.emulators.server import Charge

RESULT_KEPT_S = 30 * 60
SYNC_RESULT_KEPT_S = 60
DEFAULT_EXECUTION_TIMEOUT_S = 600.0
DEFAULT_TTL_S = 86_400.0
_LONGEST_S = 7 * 86_400.0


class JobState(StrEnum):
    """States as the vendor spells them; the documented RUNNING never appears (runpod/docs#511)."""

    IN_QUEUE = "IN_QUEUE"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMED_OUT = "TIMED_OUT"


FINAL_STATES = frozenset({JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED, JobState.TIMED_OUT})


class PolicyError(ValueError):
    """A policy value lies outside the documented range; answered with 400."""


@dataclass(frozen=True)
class Policy:
    """`policy` of a request, in seconds."""

    execution_timeout_s: float = DEFAULT_EXECUTION_TIMEOUT_S
    ttl_s: float = DEFAULT_TTL_S
    low_priority: bool = False

    @classmethod
    def read(cls, body: object) -> Policy:
        """Reads the wire form (milliseconds).

        Raises:
            PolicyError: a value is no number or outside 5 s (time-out) or 10 s (ttl) to 7 days.
        """
        if body is None:
            return cls()
        if not isinstance(body, dict):
            raise PolicyError("policy must be an object")
        return cls(
            execution_timeout_s=_seconds(body, "executionTimeout", 5.0, DEFAULT_EXECUTION_TIMEOUT_S),
            ttl_s=_seconds(body, "ttl", 10.0, DEFAULT_TTL_S),
            low_priority=body.get("lowPriority") is True,
        )


def _seconds(body: dict[str, Any], name: str, least_s: float, default_s: float) -> float:
    value = body.get(name)
    if value is None:
        return default_s
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise PolicyError(f"policy.{name} must be a number of milliseconds")
    if not least_s <= value / 1000 <= _LONGEST_S:
        raise PolicyError(f"policy.{name} must be between {least_s * 1000:g} and {_LONGEST_S * 1000:g} milliseconds")
    return value / 1000


@dataclass
class Job:
    """One accepted request."""

    id: str
    input: Any
    label: str
    policy: Policy
    submitted_at: float
    charge: Charge
    kept_s: float = RESULT_KEPT_S
    webhook: str = ""
    base_url: str = ""
    state: JobState = JobState.IN_QUEUE
    started_at: float | None = None
    finished_at: float | None = None
    execution_s: float | None = None
    output: Any = None
    error: str = ""
    progress: Any = None
    worker_id: str = ""
    lost: bool = False
    retries: int = 0
    done: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[bool] | None = None

    @property
    def final(self) -> bool:
        """Whether nothing more will happen to it (unless it is retried)."""
        return self.state in FINAL_STATES

    def forgotten(self, now: float) -> bool:
        """Whether `/status` answers 404: result retention or ttl is over, or a fault lost it."""
        if self.final and self.finished_at is not None:
            return self.lost or now >= self.finished_at + self.kept_s
        return now >= self.submitted_at + self.policy.ttl_s

    def finish(
        self, state: JobState, now: float, *, execution_s: float | None, output: Any = None, error: str = ""
    ) -> None:
        """Ends the job; a job that has ended stays as it is, so that a late result is ignored."""
        if self.final:
            return
        self.state, self.finished_at, self.execution_s = state, now, execution_s
        self.output, self.error, self.progress = output, error, None
        self.done.set()

    def requeue(self) -> None:
        """Back to IN_QUEUE with the same id: a lost worker, or `/retry`."""
        self.state = JobState.IN_QUEUE
        self.started_at = self.finished_at = self.execution_s = None
        self.output = self.progress = None
        self.error = self.worker_id = ""
        self.done.clear()

    def as_json(self, now: float) -> dict[str, Any]:
        """The body of `/status`."""
        body: dict[str, Any] = {"id": self.id, "status": self.state.value}
        if self.started_at is not None or not self.final:
            body["delayTime"] = _ms((self.started_at or now) - self.submitted_at)
        if self.execution_s is not None:
            body["executionTime"] = _ms(self.execution_s)
        output = self.output if self.final else self.progress
        if output is not None:
            body["output"] = output
        if self.error:
            body["error"] = self.error
        if self.worker_id:
            body["workerId"] = self.worker_id
        return body


def _ms(seconds: float) -> int:
    return max(0, round(seconds * 1000))


def new_job_id(*, sync: bool = False) -> str:
    """A job id as real ones look: a UUID with a region mark; synchronous ones start with `sync-`."""
    return f"{'sync-' if sync else ''}{uuid.uuid4()}-u1"


def label_of(job_input: object) -> str:
    """`batch/job` of an input: its `hybrid_video.job` (a key the real worker ignores), else from its save node."""
    if not isinstance(job_input, dict):
        return ""
    workflow = job_input.get("workflow")
    return job_label(workflow if isinstance(workflow, dict) else {}, job_input)
