"""The endpoint's record in the management API, with its ready-made job URLs (openapi.json 2026-08-20)."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from hybrid_video.emulators.runpod.access import RefusedError
from hybrid_video.emulators.runpod.catalog import GPU_TYPES
from hybrid_video.emulators.runpod.endpoint import Endpoint
from hybrid_video.emulators.runpod.jobs import DEFAULT_EXECUTION_TIMEOUT_S
from hybrid_video.emulators.runpod.pod_routes import ManagementGate
from hybrid_video.emulators.runpod.pods import rfc3339

_OPERATIONS = {
    "run": "run",
    "runSync": "runsync",
    "status": "status/{job_id}",
    "stream": "stream/{job_id}",
    "cancel": "cancel/{job_id}",
    "retry": "retry/{job_id}",
    "purgeQueue": "purge-queue",
    "health": "health",
}


class EndpointRoutes:
    """Reads the one endpoint there is; nothing can be created or changed here."""

    def __init__(self, endpoint: Endpoint, *, gpu: str, idle_timeout_s: float, created_at: float) -> None:
        self._endpoint, self._gpu, self._idle_timeout_s = endpoint, gpu, idle_timeout_s
        self._created_at = created_at

    def add_to(self, app: web.Application, gate: ManagementGate) -> None:
        """Adds the routes."""
        app.router.add_get("/v2/serverless", gate(self._list))
        app.router.add_get("/v2/serverless/{id}", gate(self._get))

    async def _list(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"endpoints": [self._record(request)]})

    async def _get(self, request: web.Request) -> web.StreamResponse:
        if request.match_info["id"] != self._endpoint.id:
            raise RefusedError.not_found()
        return web.json_response(self._record(request))

    def _record(self, request: web.Request) -> dict[str, Any]:
        base = f"{request.scheme}://{request.host}/v2/{self._endpoint.id}"
        return {
            "id": self._endpoint.id,
            "name": self._endpoint.id,
            "type": "QUEUE",
            "requestUrls": {name: f"{base}/{path}" for name, path in _OPERATIONS.items()},
            "gpu": {
                "pools": [pool] if (pool := self._pool()) else [],
                "allowedCudaVersions": [],
                "minCudaVersion": None,
            },
            "workers": {"min": 0, "max": self._endpoint.max_workers, "idleTimeout": round(self._idle_timeout_s)},
            "scaling": {"type": "QUEUE_DELAY", "queueDelay": 4},
            "dataCenterIds": [],
            "networkVolumes": [],
            "timeout": round(DEFAULT_EXECUTION_TIMEOUT_S * 1000),
            "flashboot": "OFF",
            "createdAt": rfc3339(self._created_at),
        }

    def _pool(self) -> str | None:
        return next((gpu.pool for gpu in GPU_TYPES if gpu.id == self._gpu), None)
