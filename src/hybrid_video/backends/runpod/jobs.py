"""Client of RunPod's serverless job API (`https://api.runpod.ai/v2/<endpoint>/…`): run, status, cancel, health.

It knows the wire and nothing of video. Source: docs.runpod.io/serverless/endpoints (operation-reference, send-requests,
job-states), read 2026-08-20; bodies of error answers are not documented there, so none is relied on.
"""

from __future__ import annotations

import json
from typing import Any, Literal
from urllib.parse import quote

import httpx
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, field_validator

from hybrid_video.backends.runpod.transport import RunPodHttp, json_object, words_of
from hybrid_video.errors import BackendError, FailureKind, SubmitUncertain, TerminalError, TransientError

MAX_PAYLOAD_BYTES = 10_000_000
"""`/run` takes 10 MB (operation-reference); read as decimal megabytes, the smaller reading."""

RESULT_KEPT_S = 30 * 60
"""Results of `/run` are deleted 30 minutes after completion (operation-reference)."""

JobState = Literal["IN_QUEUE", "IN_PROGRESS", "COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"]
FINAL: frozenset[str] = frozenset({"COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"})


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)


class RemoteJob(_Answer):
    """One answer of `/status`. `output` is final only when `state` is COMPLETED; before, it is a progress report."""

    id: str = ""
    state: JobState = Field(validation_alias=AliasChoices("status", "state"))
    output: Any = Field(None, repr=False)
    error: Any = None
    delay_ms: float | None = Field(None, ge=0, validation_alias=AliasChoices("delayTime", "delay_ms"))
    execution_ms: float | None = Field(None, ge=0, validation_alias=AliasChoices("executionTime", "execution_ms"))
    worker_id: str | None = Field(None, validation_alias=AliasChoices("workerId", "worker_id"))

    @field_validator("state", mode="before")
    @classmethod
    def _running(cls, value: object) -> object:
        # The documentation lists RUNNING; an open issue there (runpod/docs#511) says that it never appears.
        return "IN_PROGRESS" if value == "RUNNING" else value

    @property
    def queue_s(self) -> float | None:
        """Seconds it waited for a worker."""
        return None if self.delay_ms is None else self.delay_ms / 1000

    @property
    def execution_s(self) -> float | None:
        """Seconds it ran."""
        return None if self.execution_ms is None else self.execution_ms / 1000


class JobCounts(_Answer):
    """Jobs of an endpoint by state."""

    completed: int = 0
    failed: int = 0
    in_progress: int = Field(0, validation_alias=AliasChoices("inProgress", "in_progress"))
    in_queue: int = Field(0, validation_alias=AliasChoices("inQueue", "in_queue"))


class WorkerCounts(_Answer):
    """Workers of an endpoint by state. The documentation shows idle and running; the others are seen in answers."""

    idle: int = 0
    running: int = 0
    ready: int | None = None
    initializing: int | None = None
    throttled: int | None = None

    @property
    def warm(self) -> int:
        """Workers that can take a job without a cold start."""
        return max(self.idle + self.running, self.ready or 0)

    @property
    def tells_starting(self) -> bool:
        """Whether this answer would show a worker that is starting."""
        return self.initializing is not None


class EndpointHealth(_Answer):
    """Answer of `/health`."""

    jobs: JobCounts = JobCounts()
    workers: WorkerCounts = WorkerCounts()


class JobsClient:
    """One serverless endpoint; `http.base_url` is `…/v2/<endpoint>`."""

    def __init__(self, http: RunPodHttp) -> None:
        self._http = http
        self._backend = http.backend

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.close()

    async def run(self, payload: bytes) -> str:
        """Submits a job once and returns its id.

        Raises:
            TransientError, TerminalError: certainly not accepted.
            SubmitUncertain: perhaps accepted.
        """
        response = await self._http.submit("/run", payload)
        if response.status_code >= 300:
            raise self._refused(response)
        answer = json_object(response)
        job_id = answer.get("id") if answer else None
        if not isinstance(job_id, str) or not job_id:
            raise SubmitUncertain(
                f"RunPod answered {response.status_code} to a submit without a job id; the job may run and cost "
                "money, so it is not sent again: look at the endpoint's requests in the RunPod console",
                backend=self._backend,
                detail=words_of(response),
            )
        return job_id

    async def status(self, job_id: str, *, endpoint: str = "") -> RemoteJob | None:
        """One look at a job; None when RunPod does not know it (any more).

        Args:
            endpoint: id of the endpoint the job was sent to, where it is not the present one.
        """
        response = await self._http.read("GET", self._path("status", job_id, endpoint))
        if response.status_code == 404:
            return None
        return self._parse(response)

    async def cancel(self, job_id: str, *, endpoint: str = "") -> str | None:
        """Cancels a job and returns the state RunPod then gives ("" when it gives none); None when it is unknown."""
        response = await self._http.read("POST", self._path("cancel", job_id, endpoint))
        if response.status_code == 404:
            return None
        if response.status_code >= 400:
            raise self._refused(response)
        answer = json_object(response) or {}
        return str(answer.get("status") or "")

    async def health(self) -> EndpointHealth:
        """Workers and jobs of the endpoint.

        Raises:
            BackendError: it cannot be reached, the key is refused, or there is no such endpoint.
        """
        response = await self._http.read("GET", "/health")
        if response.status_code >= 300:
            raise self._refused(response)
        answer = json_object(response)
        try:
            if answer is None:
                raise ValueError("not a JSON object")
            return EndpointHealth.model_validate(answer)
        except ValueError as error:
            raise self._unreadable(response) from error

    def _path(self, operation: str, job_id: str, endpoint: str) -> str:
        tail = f"/{operation}/{quote(job_id, safe='')}"
        if not endpoint or self._http.base_url.endswith(f"/{endpoint}"):
            return tail
        root = self._http.base_url.rsplit("/", 1)[0]
        return f"{root}/{quote(endpoint, safe='')}{tail}"

    def _parse(self, response: httpx.Response) -> RemoteJob:
        if response.status_code >= 300:
            raise self._refused(response)
        try:
            return RemoteJob.model_validate_json(response.content)
        except ValidationError:
            raise self._unreadable(response) from None

    def _unreadable(self, response: httpx.Response) -> TransientError:
        return TransientError(
            f"RunPod gave an answer that makes no sense ({response.status_code}); try again later",
            kind=FailureKind.UNREACHABLE,
            backend=self._backend,
            detail=words_of(response),
        )

    def _refused(self, response: httpx.Response) -> BackendError:
        code = response.status_code
        if code == 403:
            return self._http.refused_key(response)
        kind, message = _REFUSALS.get(
            code,
            (
                FailureKind.INVALID_REQUEST,
                f"RunPod refuses the request ({code}); change the job or use another backend",
            ),
        )
        if code < 400:
            kind, message = _REFUSALS[404]
        return TerminalError(message, kind=kind, backend=self._backend, detail=words_of(response), execution_s=0.0)


_REFUSALS: dict[int, tuple[FailureKind, str]] = {
    402: (FailureKind.INSUFFICIENT_FUNDS, "RunPod reports too little credit (402); top up the account"),
    404: (
        FailureKind.UNREACHABLE,
        (
            "RunPod knows no such endpoint at this address; check HYBRID_VIDEO_RUNPOD_ENDPOINT_ID and "
            "HYBRID_VIDEO_RUNPOD_JOBS_URL"
        ),
    ),
    413: (
        FailureKind.INVALID_REQUEST,
        f"the request is larger than RunPod takes ({MAX_PAYLOAD_BYTES // 1_000_000} MB); use a smaller input image",
    ),
}


def encode(payload: dict[str, Any]) -> bytes:
    """The request body, compact and UTF-8."""
    return json.dumps(payload, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
