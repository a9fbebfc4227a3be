"""A started RunPod emulator with a client, for the tests of the emulator itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import httpx

from hybrid_video.emulators.faults import FaultPlan, FaultRule
from hybrid_video.emulators.runpod import RunPodEmulator
from hybrid_video.emulators.server import ScaledClock, start_server
from hybrid_video.pricing.catalog import PriceBook

FINAL = {"COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"}
RTX_4090 = "NVIDIA GeForce RTX 4090"
Graph = dict[str, dict[str, Any]]
_Found = TypeVar("_Found")


def graph(prefix: str = "hv/demo/shot-1-0123abcd", *, frames: int = 8) -> Graph:
    """A small weightless workflow that saves one MP4."""
    return {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": frames, "color": 255}},
        "2": {"class_type": "CreateVideo", "inputs": {"images": ["1", 0], "fps": 8}},
        "3": {
            "class_type": "SaveVideo",
            "inputs": {"video": ["2", 0], "filename_prefix": prefix, "format": "mp4", "codec": "h264"},
        },
    }


class Rig:
    """Calls against one emulator."""

    def __init__(self, emulator: RunPodEmulator, url: str, clock: ScaledClock, http: httpx.AsyncClient) -> None:
        self.emulator, self.url, self.clock, self.http = emulator, url, clock, http

    async def submit(self, workflow: object = None, **body: Any) -> str:
        """Sends `/run` and returns the id."""
        answer = await self.http.post("/v2/emulated/run", json={"input": {"workflow": workflow or graph()}, **body})
        answer.raise_for_status()
        return str(answer.json()["id"])

    async def status(self, job_id: str) -> dict[str, Any]:
        """`/status` as JSON; `{}` for a 404."""
        answer = await self.http.get(f"/v2/emulated/status/{job_id}")
        return dict(answer.json()) if answer.status_code == 200 else {}

    async def until(self, job_id: str, *states: str) -> dict[str, Any]:
        """Polls until the job is in one of the states (any final one by default)."""
        wanted = set(states) or FINAL

        async def reached() -> dict[str, Any] | None:
            body = await self.status(job_id)
            return body if body.get("status") in wanted else None

        return await eventually(reached)

    async def run(self, workflow: object = None, **body: Any) -> dict[str, Any]:
        """Submits and waits for the end."""
        return await self.until(await self.submit(workflow, **body))

    async def charges(self) -> list[dict[str, str]]:
        """`/_emulator/charges`."""
        return list((await self.http.get("/_emulator/charges")).json())

    async def create_pod(self, **fields: Any) -> httpx.Response:
        """`POST /v2/pods` with good defaults."""
        body = {"name": "worker-1", "image": "comfy", "gpu": {"id": RTX_4090}, "ports": ["8188/http"], **fields}
        return await self.http.post("/v2/pods", json=body)

    async def pod(self, pod_id: str) -> dict[str, Any]:
        """`GET /v2/pods/{id}`; `{}` for a 404."""
        answer = await self.http.get(f"/v2/pods/{pod_id}")
        return dict(answer.json()) if answer.status_code == 200 else {}

    async def pod_in(self, pod_id: str, status: str) -> dict[str, Any]:
        """Polls until the pod is in a status."""

        async def reached() -> dict[str, Any] | None:
            body = await self.pod(pod_id)
            return body if body.get("status") == status else None

        return await eventually(reached)


async def eventually(look: Callable[[], Awaitable[_Found | None]], patience_s: float = 10.0) -> _Found:
    """The first answer that is not None.

    Raises:
        TimeoutError: none came in time.
    """
    async with asyncio.timeout(patience_s):
        while (found := await look()) is None:
            await asyncio.sleep(0.01)
        return found


@asynccontextmanager
async def rig(*rules: FaultRule, scale: float = 200.0, prices: str = "current", **settings: Any) -> AsyncIterator[Rig]:
    """Starts an emulator on a free port; jobs take 10 simulated seconds and workers start at once by default."""
    clock = ScaledClock(scale)
    defaults = {"service_s": 10.0, "jitter": 0.0, "cold_start_s": 0.0}
    book = PriceBook.load("seed" if prices == "seed" else "current")
    emulator = RunPodEmulator(clock=clock, faults=FaultPlan(rules), prices=book, **{**defaults, **settings})
    server = await start_server(emulator.app())
    headers = {"Authorization": "Bearer test-key"}
    try:
        async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=10) as http:
            yield Rig(emulator, server.url, clock, http)
    finally:
        await server.close()
