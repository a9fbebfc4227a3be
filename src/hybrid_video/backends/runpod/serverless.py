"""The backend `runpod-serverless`: worker-comfyui on a RunPod serverless endpoint.

A job is sent once and then only looked at. Contact that is lost after a job was accepted never becomes a failure of
the job: it may go on and cost money, so `watch` ends in `SubmitUncertain`, which nothing sends again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import timedelta
from pathlib import Path
from typing import Literal

from hybrid_video.backends.base import BackendContext, CancelOutcome, ProgressCallback
from hybrid_video.backends.runpod import delivery
from hybrid_video.backends.runpod.jobs import FINAL, RESULT_KEPT_S, JobsClient, RemoteJob
from hybrid_video.backends.runpod.readiness import COLD_START_S, EndpointWatch
from hybrid_video.backends.runpod.requests import body_for, plan_for, refusal_of
from hybrid_video.backends.runpod.transport import RunPodHttp, key_of
from hybrid_video.backends.runpod.verdicts import clip_of, failure_of, lost_contact, overdue, progress_of
from hybrid_video.errors import (
    BackendError,
    ConfigurationError,
    FailureKind,
    TerminalError,
    TransientError,
)
from hybrid_video.models import (
    Capabilities,
    CostEntry,
    Health,
    JobHandle,
    JobStatus,
    Lane,
    Quote,
    Refusal,
    RemoteFile,
    Tier,
    VideoJob,
    WorkOrder,
    utc_now,
)
from hybrid_video.pricing.learning import NO_WORKER, WORKER, WORKER_UP
from hybrid_video.pricing.quoting import KNOWN_FROM

log = logging.getLogger(__name__)

KEY = "runpod-serverless"
OUTAGE_PATIENCE_S = 900.0
"""How long RunPod may be out of reach while it holds a job: half of the time for which it keeps a result."""

SHORTEST_LIMIT_S = 300.0
LIMIT_MARGIN = 4.0
"""A job is ended after four times what nine of ten took, and never before five minutes: workers may load weights."""

SECOND_LOOK_S = 1.0
"""Pause before a 404 is believed: a job that was paid for is not given up for one odd answer."""


class ServerlessBackend:
    """One serverless endpoint; `hybrid_video.backends.base.Backend` says what each method promises."""

    key = KEY
    tier = Tier.CLOUD

    def __init__(self, context: BackendContext, *, outage_patience_s: float = OUTAGE_PATIENCE_S) -> None:
        self._settings = context.settings.runpod
        self._quoter = context.quoter
        self._patience_s = outage_patience_s
        self._client: JobsClient | None = None
        self._endpoint = EndpointWatch()
        self._lanes: tuple[frozenset[str], tuple[Lane, ...]] | None = None

    async def start(self) -> None:
        """Asks the endpoint how it is, which also proves key and endpoint id."""
        self._require_price()
        try:
            self._endpoint.saw(await self._jobs().health())
        except TerminalError as error:
            raise ConfigurationError(error.message) from error

    async def close(self) -> None:
        """Closes connections. Remote work goes on."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    def lanes(self) -> tuple[Lane, ...]:
        """One lane for each worker the endpoint may start, with what that takes where none is up for it."""
        ids = [f"{KEY}/{number}" for number in range(1, self._settings.max_workers + 1)]
        up = frozenset(self._endpoint.up(ids))
        if self._lanes is None or self._lanes[0] != up:
            gpu, published_s = self._settings.gpu, COLD_START_S
            start_s = self._quoter.timings.cold_start_s(backend=KEY, gpu=gpu, published_s=published_s)
            start_s /= self._quoter.time_scale
            turn_s = self._settings.poll_interval_s / 2
            made = (
                Lane(id=i, backend=KEY, tier=self.tier, gpu=gpu, start_s=0.0 if i in up else start_s, turn_s=turn_s)
                for i in ids
            )
            self._lanes = (up, tuple(made))
        return self._lanes[1]

    def capabilities(self) -> Capabilities:
        """Whatever ComfyUI can do; the models on the endpoint cannot be asked for."""
        return Capabilities(workflows=True)

    def quote(self, job: VideoJob, *, workflow_path: Path | None = None) -> Quote | Refusal:
        """GPU-seconds, with a cold start unless a worker was up at the last look."""
        plan = plan_for(job, workflow_path)
        if isinstance(plan, Refusal):
            return plan
        try:
            return self._quoter.gpu_time(
                backend=KEY,
                tier=self.tier,
                model=plan.name,
                gpu=self._settings.gpu,
                output=plan.output,
                cold_start_s=self._endpoint.cold_start_s,
                longest_s=self._settings.execution_timeout_s,
                signature=plan.signature,
            )
        except ConfigurationError as error:
            return Refusal(code="preflight", reason=error.message)

    async def preflight(
        self, job: VideoJob, *, workflow_path: Path | None = None, image_path: Path | None = None
    ) -> Refusal | None:
        """Checks what can be known for free: the workflow's shape and the size of the request."""
        return await refusal_of(job, workflow_path, image_path)

    async def health(self) -> Health:
        """Asks `/health`: the endpoint answers, the key is valid, and workers come when jobs wait."""
        began = time.monotonic()
        try:
            self._endpoint.saw(await self._jobs().health())
        except (BackendError, ConfigurationError) as error:
            return self._health(
                False, error.message, "Correct the setting." if _ours(error) else "Wait; it is looked at again."
            )
        verdict = self._endpoint.verdict()
        return self._health(
            not verdict.remedy, verdict.detail, verdict.remedy, time.monotonic() - began, self._endpoint.in_queue
        )

    async def submit(self, order: WorkOrder) -> JobHandle:
        """Sends the job once."""
        limit_s = self._limit_s(order.quote)
        body = await body_for(order, self._settings.model_copy(update={"execution_timeout_s": limit_s}))
        now = utc_now()
        worker = WORKER_UP if self._endpoint.sends(order.lane) else NO_WORKER
        job_id = await self._jobs().run(body)
        log.info("job %s accepted by %s as %s", order.label, KEY, job_id)
        return JobHandle(
            backend=KEY,
            attempt_id=order.attempt_id,
            remote_id=job_id,
            lane=order.lane,
            submitted_at=now,
            expires_at=now + timedelta(seconds=self._settings.job_ttl_s),
            details={
                "endpoint": self._settings.endpoint_url.rsplit("/", 1)[-1],
                "prefix": order.filename_prefix,
                "gpu": self._settings.gpu,
                "execution_timeout_s": f"{limit_s:g}",
                "result_kept_s": str(RESULT_KEPT_S),
                WORKER: worker,
            },
        )

    async def find(self, order: WorkOrder) -> JobHandle | Literal["unknown"] | None:
        """Always "unknown": the job API has no list of jobs and no look-up by an id of ours."""
        return "unknown"

    async def status(self, handle: JobHandle) -> JobStatus:
        """One look; a job that failed or is gone is raised."""
        return self._interpreted(handle, await self._look(handle))

    async def watch(self, handle: JobHandle, on_progress: ProgressCallback | None = None) -> JobStatus:
        """Looks until the job has ended.

        Raises:
            SubmitUncertain: RunPod stayed out of reach, or refused the key, while the job may go on and cost money.
            BackendError: the job failed, was lost or was ended.
        """
        contact = time.monotonic()
        while True:
            pause_s = self._settings.poll_interval_s
            try:
                job = await self._look(handle)
            except (TransientError, TerminalError) as error:
                if error.kind is FailureKind.AUTHENTICATION or time.monotonic() - contact > self._patience_s:
                    raise lost_contact(handle, error) from error
                pause_s = max(pause_s, getattr(error, "retry_after_s", None) or 0.0)
            else:
                contact = time.monotonic()
                status = self._interpreted(handle, job)
                if status.phase != "queued":
                    self._endpoint.ran(handle.lane, over=status.phase == "succeeded")
                if on_progress is not None:
                    on_progress(status)
                if status.phase == "succeeded":
                    return status
                if overdue(handle):
                    raise lost_contact(handle, None)
            await asyncio.sleep(pause_s)

    async def collect(self, handle: JobHandle, status: JobStatus, folder: Path) -> Path:
        """Brings the clip into `folder` as `<attempt id>.<extension>`; asks again when its address expired."""
        file = await self._clip(handle, status)
        path = delivery.target_path(folder, handle.attempt_id, file)
        if file.inline_base64 is not None:
            return await delivery.write_inline(file, path, backend=KEY)
        try:
            return await delivery.download(file, path, backend=KEY)
        except TransientError as error:
            if error.kind is not FailureKind.EXPIRED:
                raise
            fresh = (await self.status(handle)).files
            if not fresh or fresh[0].url == file.url:
                raise
            return await delivery.download(fresh[0], path, backend=KEY)

    async def cancel(self, handle: JobHandle) -> CancelOutcome:
        """Cancels the one job; works on queued and running ones."""
        endpoint = handle.details.get("endpoint", "")
        try:
            state = await self._jobs().cancel(handle.remote_id, endpoint=endpoint)
            if state == "":
                job = await self._jobs().status(handle.remote_id, endpoint=endpoint)
                state = job.state if job else None
        except (BackendError, ConfigurationError) as error:
            log.warning("cancelling %s job %s is without answer: %s", KEY, handle.remote_id, error)
            return "unknown"
        if state is None or (state in FINAL and state != "CANCELLED"):
            return "finished"
        return "stopped" if state == "CANCELLED" else "unknown"

    def charge(self, quote: Quote, status: JobStatus | None, failure: BackendError | None = None) -> CostEntry:
        """GPU-seconds of `executionTime`, of a success and of a failure.

        RunPod bills a worker from its start to its stop, so start-up and idle seconds come on top for the endpoint as a
        whole; they belong to no job and show in the endpoint's bill (docs.runpod.io/serverless/pricing).
        """
        if status is not None and failure is None:
            return self._quoter.settle_gpu_time(
                quote, gpu=status.gpu or self._settings.gpu, billed_s=status.execution_s, success=True
            )
        billed_s = failure.execution_s if failure else status.execution_s if status else None
        return self._quoter.settle_gpu_time(quote, gpu=self._settings.gpu, billed_s=billed_s, success=False)

    def _limit_s(self, quote: Quote) -> float:
        """Seconds after which RunPod ends the job: the setting, or less once it is known what clips take.

        A hung worker is paid for until then, and a clip cut off is paid for in vain, so the margin is wide.
        """
        longest_s = self._settings.execution_timeout_s
        if quote.observed < KNOWN_FROM or not quote.service_p90_s:
            return longest_s
        return min(longest_s, max(SHORTEST_LIMIT_S, LIMIT_MARGIN * quote.service_p90_s * quote.time_scale))

    def _jobs(self) -> JobsClient:
        if self._client is None:
            url = self._settings.endpoint_url
            if not url:
                raise ConfigurationError(
                    "no serverless endpoint is configured; set HYBRID_VIDEO_RUNPOD_ENDPOINT_ID to the id of an "
                    "endpoint that runs worker-comfyui"
                )
            key = key_of(self._settings.api_key, "RUNPOD_API_KEY")
            self._client = JobsClient(RunPodHttp(url, key, backend=KEY))
        return self._client

    def _require_price(self) -> None:
        self._quoter.prices.find(backend=KEY, tier=self.tier, gpu=self._settings.gpu)

    async def _look(self, handle: JobHandle) -> RemoteJob | None:
        endpoint = handle.details.get("endpoint", "")
        job = await self._jobs().status(handle.remote_id, endpoint=endpoint)
        if job is None:
            await asyncio.sleep(min(SECOND_LOOK_S, self._settings.poll_interval_s))
            job = await self._jobs().status(handle.remote_id, endpoint=endpoint)
        return job

    def _interpreted(self, handle: JobHandle, job: RemoteJob | None) -> JobStatus:
        gpu = handle.details.get("gpu", self._settings.gpu)
        if job is None or (job.state in FINAL and job.state != "COMPLETED"):
            raise failure_of(handle, job, backend=KEY)
        if job.state != "COMPLETED":
            return progress_of(job, gpu)
        clip = clip_of(handle, job, backend=KEY)
        return JobStatus(
            phase="succeeded", progress=1.0, files=(clip,), queue_s=job.queue_s, execution_s=job.execution_s, gpu=gpu
        )

    async def _clip(self, handle: JobHandle, status: JobStatus) -> RemoteFile:
        files = status.files or (await self.status(handle)).files
        if not files:
            raise TransientError(
                f"job {handle.remote_id!r} has no result yet; wait for it to end, then collect it",
                kind=FailureKind.DOWNLOAD_FAILED,
                backend=KEY,
            )
        return files[0]

    def _health(
        self, healthy: bool, detail: str, remedy: str, latency_s: float | None = None, queued: int = 0
    ) -> Health:
        return Health(
            backend=KEY,
            tier=self.tier,
            healthy=healthy,
            detail=detail,
            remedy=remedy,
            checked_at=utc_now(),
            latency_s=latency_s,
            queued=queued,
        )


def _ours(error: Exception) -> bool:
    return isinstance(error, (ConfigurationError, TerminalError))
