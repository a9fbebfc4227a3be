"""What the overhead benchmark runs in child processes: `python -m benchmarks.workloads KIND JOBS`."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import httpx

from hybrid_video import workflows
from hybrid_video.models import Batch, Preferences, VideoJob

PER_CENT = (60, 38, 2)
"""Shares of the local, cloud and Gemini tier in a mixed batch: an emulated Gemini clip takes half a second to draw."""

GOOGLES = {"duration_s": 4.0, "width": 640, "height": 360, "fps": 24}
"""Google makes no shorter and no smaller ones."""


class Clock:
    """Wall and CPU seconds of this process from its making on."""

    def __init__(self) -> None:
        self._wall_s, self._cpu_s = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        """What has passed."""
        return {"loop_s": time.perf_counter() - self._wall_s, "loop_cpu_s": time.process_time() - self._cpu_s}


def shots(count: int, name: str) -> Batch:
    """Clips as small as they get: the figures are about us, not about the renderer."""
    jobs = (
        VideoJob(id=f"s{n}", prompt=f"shot {n}", duration_s=0.5, width=64, height=64, fps=8, seed=n)
        for n in range(count)
    )
    return Batch(name=name, jobs=tuple(jobs), preferences=None)


def mixed_shots(count: int, name: str) -> Batch:
    """The same for all three tiers, `PER_CENT` of them wished on each: how fast an emulator is does not decide."""
    jobs = []
    for number, job in enumerate(shots(count, name).jobs):
        place = number * 37 % 100  # well mixed: 37 and 100 have no common factor
        wish = "local" if place < PER_CENT[0] else "cloud" if place < sum(PER_CENT[:2]) else "gemini"
        changes: dict[str, Any] = {"preferences": Preferences(backend=wish)}
        if wish == "gemini":
            changes |= GOOGLES
        jobs.append(job.model_copy(update=changes))
    return Batch(name=name, jobs=tuple(jobs), preferences=None)


async def bare(count: int) -> dict[str, Any]:
    """Submit, wait and download with nothing around it: two prompts outstanding on each GPU, as our client keeps them.

    No ledger, no choice, no look into the clip, no file.
    """
    urls = os.environ["HYBRID_VIDEO_COMFYUI_URLS"].split(",")
    batch, done = shots(count, "bare"), 0
    slots = {url: asyncio.Semaphore(2) for url in urls}

    async def one(client: httpx.AsyncClient, job: VideoJob, url: str) -> None:
        nonlocal done
        graph = workflows.plan(job).bind(seed=job.seed or 0, filename_prefix=f"bare/{job.id}", image_name=None)
        async with slots[url]:
            prompt_id = str(uuid.uuid4())
            body = {"prompt": graph, "prompt_id": prompt_id, "client_id": "bare"}
            (await client.post(f"{url}/prompt", json=body)).raise_for_status()
            while not (entry := (await client.get(f"{url}/history/{prompt_id}")).json().get(prompt_id)):
                await asyncio.sleep(0.05)
        files = [file for output in entry["outputs"].values() for file in output["images"]]
        answer = await client.get(f"{url}/view", params=files[0])
        done += bool(answer.content)

    clock = Clock()
    async with httpx.AsyncClient(timeout=60) as client:
        await asyncio.gather(*(one(client, job, urls[n % len(urls)]) for n, job in enumerate(batch.jobs)))
    return {"jobs": done, **clock.read()}


async def engine(count: int) -> dict[str, Any]:
    """A whole batch without Prefect."""
    from hybrid_video.engine.session import run_batch  # noqa: PLC0415
    from hybrid_video.settings import Settings  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as folder:
        clock = Clock()
        report = await run_batch(shots(count, "engine"), settings=Settings.load(), base_dir=Path(folder))
        return {"jobs": report.completed, **clock.read()}


async def flow(count: int) -> dict[str, Any]:
    """A whole batch as a Prefect flow run."""
    return await _flow(shots(count, "flow"))


async def mixed(count: int) -> dict[str, Any]:
    """A whole batch for all three tiers as a Prefect flow run."""
    return await _flow(mixed_shots(count, "flow"))


async def warm(count: int) -> dict[str, Any]:
    """A small batch that nothing is measured of."""
    return await _flow(shots(count, "warm"))


async def _flow(batch: Batch) -> dict[str, Any]:
    from flows.generate_batch import generate_batch  # noqa: PLC0415

    clock = Clock()
    state: Any = await generate_batch(batch=batch, return_state=True)  # type: ignore[call-overload]
    data = getattr(state.data, "result", state.data)
    return {"jobs": data["completed"], **clock.read()}


async def floor(count: int) -> dict[str, Any]:
    """Prefect alone: as many task runs as a batch has (three per job), which do nothing."""
    from prefect import flow as prefect_flow  # noqa: PLC0415
    from prefect import task  # noqa: PLC0415
    from prefect.cache_policies import NO_CACHE  # noqa: PLC0415

    @task(cache_policy=NO_CACHE, persist_result=False)
    async def nothing(number: int) -> int:
        return number

    async def job(number: int) -> None:
        for _ in range(3):
            await nothing(number)

    @prefect_flow(name="floor", persist_result=False)
    async def all_jobs() -> None:
        await asyncio.gather(*(job(number) for number in range(count)))

    clock = Clock()
    await all_jobs()
    return {"jobs": count, **clock.read()}


if __name__ == "__main__":
    figures = asyncio.run(globals()[sys.argv[1]](int(sys.argv[2])))
    print(json.dumps(figures))
