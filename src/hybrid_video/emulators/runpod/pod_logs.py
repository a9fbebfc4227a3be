"""A pod's log as server-sent events whose ids are times (api-reference-v2, `getPodLogs`)."""

from __future__ import annotations

import asyncio
import json

from aiohttp import web

from hybrid_video.emulators.runpod.pods import LogLine, Pod, PodStatus
from hybrid_video.emulators.server import ScaledClock

_POLL_S = 0.05
_DEFAULT_TAIL = 100


async def stream_log(request: web.Request, pod: Pod, clock: ScaledClock) -> web.StreamResponse:
    """Sends history from `Last-Event-ID`, `since` or `tail` on, then follows until the pod is terminated."""
    headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    response = web.StreamResponse(headers=headers)
    await response.prepare(request)
    log = _of_source(pod.log(clock.now()), request)
    lines = _backfill(log, request)
    known = set(log)
    while True:
        for line in lines:
            event = f"id: {line.stamp}\ndata: {json.dumps(line.as_json())}\n\n"
            await response.write(event.encode())
        if pod.status(clock.now()) is PodStatus.TERMINATED:
            return response
        await asyncio.sleep(_POLL_S)
        lines = [line for line in _of_source(pod.log(clock.now()), request) if line not in known]
        known.update(lines)


def _of_source(log: list[LogLine], request: web.Request) -> list[LogLine]:
    source = request.query.get("source", "")
    return [line for line in log if source in ("", line.source)]


def _backfill(lines: list[LogLine], request: web.Request) -> list[LogLine]:
    """History to send first: what follows the cursor, else the last `tail` lines."""
    resume = request.headers.get("Last-Event-ID")
    if resume is not None:
        return [line for line in lines if line.stamp > resume]
    if "since" in request.query:
        return [line for line in lines if line.stamp >= request.query["since"]]
    tail = request.query.get("tail", "")
    count = int(tail) if tail.isdecimal() else _DEFAULT_TAIL
    return lines[-count:] if count else []
