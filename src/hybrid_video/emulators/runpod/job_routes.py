"""The serverless job API: `/v2/{endpoint}/…` (docs.runpod.io/serverless/endpoints/operation-reference)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web

from hybrid_video.emulators.faults import FaultPlan, FaultRule
from hybrid_video.emulators.runpod.access import JOB_RATES, ErrorBodies, RateLimit, accepts, job_error, key_of
from hybrid_video.emulators.runpod.endpoint import Endpoint
from hybrid_video.emulators.runpod.jobs import (
    SYNC_RESULT_KEPT_S,
    Job,
    JobState,
    Policy,
    PolicyError,
    label_of,
    new_job_id,
)
from hybrid_video.emulators.server import ChargeList, ScaledClock, cut, inject, inject_after
from hybrid_video.settings import LOOPBACK

MAX_RUN_BYTES = 10 * 1024 * 1024
MAX_RUNSYNC_BYTES = 20 * 1024 * 1024
_SYNC_WAIT_MS = (1_000, 90_000, 300_000)
_WEBHOOK_TRIES = 3
_WEBHOOK_PAUSE_S = 10.0

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class JobRoutes:
    """HTTP in front of an `Endpoint`."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        clock: ScaledClock,
        faults: FaultPlan,
        charges: ChargeList,
        api_key: str | None,
        error_bodies: ErrorBodies,
        rates: dict[str, int] | None,
        result_kept_s: float,
    ) -> None:
        self._result_kept_s = result_kept_s
        self._endpoint, self._clock, self._faults, self._charges = endpoint, clock, faults, charges
        self._api_key, self._error_bodies = api_key, error_bodies
        quotas = JOB_RATES if rates is None else {**JOB_RATES, **rates}
        self._rates = {name: RateLimit(quota, 10.0) for name, quota in quotas.items()}
        self._webhooks: set[asyncio.Task[None]] = set()
        endpoint.on_final = self._finished

    def add_to(self, app: web.Application) -> None:
        """Adds the routes."""
        base = "/v2/{endpoint}"
        router = app.router
        router.add_post(f"{base}/run", self._guarded("run", self._run))
        router.add_post(f"{base}/runsync", self._guarded("runsync", self._runsync))
        router.add_get(f"{base}/status/{{id}}", self._guarded("status", self._status))
        router.add_get(f"{base}/stream/{{id}}", self._guarded("stream", self._stream))
        router.add_post(f"{base}/cancel/{{id}}", self._guarded("cancel", self._cancel))
        router.add_post(f"{base}/retry/{{id}}", self._guarded("retry", self._retry))
        router.add_post(f"{base}/purge-queue", self._guarded("purge-queue", self._purge))
        router.add_get(f"{base}/health", self._guarded("health", self._health))

    async def close(self) -> None:
        """Gives up pending webhooks."""
        for task in list(self._webhooks):
            task.cancel()
        await asyncio.gather(*self._webhooks, return_exceptions=True)

    def _finished(self, job: Job) -> None:
        """Posts the result to the job's webhook, if it has one on this machine."""
        if job.webhook:
            task = asyncio.create_task(self._post_webhook(job))
            self._webhooks.add(task)
            task.add_done_callback(self._webhooks.discard)

    def _guarded(self, operation: str, handler: _Handler) -> _Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            if not accepts(key_of(request), self._api_key):
                return self._error(401, "Unauthorized")
            if request.match_info["endpoint"] != self._endpoint.id:
                return self._error(404, "endpoint not found")
            rate = self._rates.get(operation)
            if rate is not None and not rate.take():
                return self._error(429, "Too Many Requests")
            return await handler(request)

        return guarded

    async def _run(self, request: web.Request) -> web.StreamResponse:
        return await self._accept(request, limit=MAX_RUN_BYTES, sync=False)

    async def _runsync(self, request: web.Request) -> web.StreamResponse:
        return await self._accept(request, limit=MAX_RUNSYNC_BYTES, sync=True)

    async def _accept(self, request: web.Request, *, limit: int, sync: bool) -> web.StreamResponse:
        raw = await _read(request, limit)
        if raw is None:
            return self._error(413, f"payload exceeds the limit of {limit} bytes")
        try:
            body = json.loads(raw)
            policy = Policy.read(body.get("policy") if isinstance(body, dict) else None)
        except (ValueError, PolicyError) as error:
            return self._error(400, f"bad request: {error}")
        if not isinstance(body, dict) or body.get("input") is None:
            return self._error(400, "bad request: body: exactly one of input or batch is required")
        label = label_of(body["input"])
        rule = self._faults.take("runpod", "submit", label)
        if (early := await inject(request, rule)) is not None:
            return early
        job = self._new_job(request, body, policy, label, sync=sync)
        self._endpoint.submit(job)
        if sync:
            await self._wait(job, request)
            return await self._answer(request, rule, job.as_json(self._clock.now()))
        return await self._answer(request, rule, {"id": job.id, "status": JobState.IN_QUEUE.value})

    def _new_job(self, request: web.Request, body: dict[str, Any], policy: Policy, label: str, *, sync: bool) -> Job:
        job_id = new_job_id(sync=sync)
        webhook = body.get("webhook")
        return Job(
            id=job_id,
            input=body["input"],
            label=label,
            policy=policy,
            submitted_at=self._clock.now(),
            charge=self._charges.open(job_id, label),
            kept_s=SYNC_RESULT_KEPT_S if sync else self._result_kept_s,
            webhook=webhook if isinstance(webhook, str) and urlsplit(webhook).hostname in LOOPBACK else "",
            base_url=f"{request.scheme}://{request.host}",
        )

    async def _wait(self, job: Job, request: web.Request) -> None:
        least, usual, most = _SYNC_WAIT_MS
        wait = request.query.get("wait", "")
        wait_ms = min(most, max(least, int(wait))) if wait.isdecimal() else usual
        try:
            await asyncio.wait_for(job.done.wait(), wait_ms / 1000 / self._clock.scale)
        except TimeoutError:
            return

    async def _status(self, request: web.Request) -> web.StreamResponse:
        job = self._endpoint.look(request.match_info["id"])
        rule = self._faults.take("runpod", "status", job.label if job else "")
        if (early := await inject(request, rule)) is not None:
            return early
        if job is None or (rule is not None and rule.action == "lose"):
            return self._error(404, "job not found")
        ttl = request.query.get("ttl", "")
        if ttl.isdecimal():
            job.kept_s = min(job.kept_s, int(ttl) / 1000)
        return await self._answer(request, rule, job.as_json(self._clock.now()))

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        """Partial results. worker-comfyui is no generator, so the list stays empty.

        The documentation shows the bare list; the vendor's own client (runpod-python 1.12, `Job.stream`) reads
        `status` and `stream` from an object, so an object it is.
        """
        job = self._endpoint.look(request.match_info["id"])
        if job is None:
            return self._error(404, "job not found")
        return web.json_response({"status": job.state.value, "stream": []})

    async def _cancel(self, request: web.Request) -> web.StreamResponse:
        job = self._endpoint.look(request.match_info["id"])
        rule = self._faults.take("runpod", "cancel", job.label if job else "")
        if (early := await inject(request, rule)) is not None:
            return early
        if job is None:
            return self._error(404, "job not found")
        self._endpoint.cancel(job)
        return await self._answer(request, rule, {"id": job.id, "status": job.state.value})

    async def _retry(self, request: web.Request) -> web.StreamResponse:
        job = self._endpoint.look(request.match_info["id"])
        if job is None:
            return self._error(404, "job not found")
        if not self._endpoint.retry(job):
            return self._error(400, f"job cannot be retried in state {job.state.value}")
        return web.json_response({"id": job.id, "status": job.state.value})

    async def _purge(self, _request: web.Request) -> web.StreamResponse:
        return web.json_response({"removed": self._endpoint.purge(), "status": "completed"})

    async def _health(self, request: web.Request) -> web.StreamResponse:
        rule = self._faults.take("runpod", "health")
        if (early := await inject(request, rule)) is not None:
            return early
        return await self._answer(request, rule, self._endpoint.health())

    async def _answer(self, request: web.Request, rule: FaultRule | None, body: dict[str, Any]) -> web.StreamResponse:
        await inject_after(request, rule)
        if rule is None or rule.action != "truncate":
            return web.json_response(body)
        data = json.dumps(body).encode()
        response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": str(len(data))})
        await response.prepare(request)
        await response.write(data[: len(data) // 2])
        cut(request)
        return response

    def _error(self, status: int, message: str) -> web.Response:
        return job_error(status, message, self._error_bodies)

    async def _post_webhook(self, job: Job) -> None:
        """Up to three posts, ten seconds apart, until one is answered with 200; a fault can make a duplicate."""
        rule = self._faults.take("runpod", "webhook", job.label)
        wanted = 2 if rule is not None and rule.action == "drop_after" else 1
        async with aiohttp.ClientSession() as session:
            for attempt in range(_WEBHOOK_TRIES):
                if attempt:
                    await self._clock.sleep(_WEBHOOK_PAUSE_S)
                try:
                    async with session.post(job.webhook, json=job.as_json(self._clock.now())) as answer:
                        wanted -= answer.status == 200
                except aiohttp.ClientError:
                    continue
                if wanted <= 0:
                    return


async def _read(request: web.Request, limit: int) -> bytes | None:
    """The body, or None when it is longer than the limit; then it is read to its end, so that the answer arrives."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.content.iter_chunked(65_536):
        size += len(chunk)
        if size <= limit:
            chunks.append(chunk)
    return b"".join(chunks) if size <= limit else None
