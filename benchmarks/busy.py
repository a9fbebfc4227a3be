"""How busy a backlog keeps the GPU, by the record of the server that runs it: `python -m benchmarks.busy [JOBS]`.

A child process runs a batch against a ComfyUI emulator; when each prompt came, began and ended is asked of the emulator
afterwards. Its clock is quickened (10 s of a clip take 2 s), our own work is not, so a gap of one real millisecond
costs five of the emulator's: the busy share is the one of real clips of `REAL_S`, which is harder than that of 10-s
ones, and `share_at_10_s` says what the measured gap comes to there. `HYBRID_VIDEO_COMFYUI_URLS` set: that server (a
real one, 0.8.0 or newer) is measured instead.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import sys
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import httpx
from websockets.asyncio.client import connect

from benchmarks.measure import emulators, percentile, run_child, show
from benchmarks.workloads import shots
from hybrid_video.backends.comfyui.backend import ComfyUIBackend
from hybrid_video.engine.session import run_batch
from hybrid_video.models import Lane
from hybrid_video.settings import Settings
from hybrid_video.workflows import plan

JOBS = 20
SCALE = 5.0
CLIP_S = 10.0
REAL_S = CLIP_S / SCALE
BUSY_PERCENT = 99.5
SUBMIT_P50_MS, SUBMIT_P99_MS = 5.0, 25.0
URLS = "HYBRID_VIDEO_COMFYUI_URLS"


@dataclass(frozen=True)
class Run:
    """One prompt by the server's record, real seconds of the server's clock."""

    came_s: float
    began_s: float
    ended_s: float


def recorded(url: str, scale: float) -> list[Run]:
    """What a server ran, in the order in which it began."""
    answer = httpx.get(f"{url}/api/jobs", params={"status": "completed"}, timeout=60).raise_for_status().json()
    keys = ("create_time", "execution_start_time", "execution_end_time")
    runs = [Run(*(job[key] / 1000 / scale for key in keys)) for job in answer["jobs"]]
    return sorted(runs, key=lambda run: run.began_s)


def gaps_s(runs: Sequence[Run]) -> list[float]:
    """Idle time between one prompt and the next."""
    return [max(0.0, later.began_s - earlier.ended_s) for earlier, later in pairwise(runs)]


def busy_share(runs: Sequence[Run], clip_s: float | None = None) -> float:
    """Share of the time between the first start and the last end in which something ran.

    Args:
        clip_s: what each clip would take; the gaps stay. None takes the measured times.
    """
    ran = sum(run.ended_s - run.began_s for run in runs) if clip_s is None else clip_s * len(runs)
    return ran / (ran + sum(gaps_s(runs)))


def free_to_submit_s(runs: Sequence[Run]) -> list[float]:
    """From the end of a prompt to the arrival of the next one, where none was sent ahead."""
    return [later.came_s - earlier.ended_s for earlier, later in pairwise(runs)]


def backlog(jobs: int, gpus: int) -> bool:
    """One prompt is held ahead: the GPU never waits for us but at the very end."""
    with emulators(*_options(gpus)) as backends:
        _batch(jobs, backends, "ahead")
        servers = [recorded(url, SCALE) for url in backends[URLS].split(",")]
    shares = [100 * busy_share(runs) for runs in servers]
    gaps = [gap for runs in servers for gap in gaps_s(runs)]
    passed = min(shares) >= BUSY_PERCENT
    show(
        "busy",
        what="backlog",
        gpus=gpus,
        jobs=jobs,
        clip_real_s=REAL_S,
        busy_percent=round(min(shares), 3),
        busy_percent_with_10_s_clips=round(min(100 * busy_share(runs, 10.0) for runs in servers), 3),
        busy_percent_with_170_s_clips=round(min(100 * busy_share(runs, 170.0) for runs in servers), 3),
        gap_p50_ms=round(1e3 * percentile(gaps, 0.5), 2),
        gap_max_ms=round(1e3 * max(gaps), 2),
        limit_percent=BUSY_PERCENT,
        passed=passed,
    )
    return passed


def submit_delay(jobs: int) -> bool:
    """Nothing held ahead: how long after the server is free does the next prompt arrive?

    A server is not free at the end it notes: it has to write its history first. How long that takes is measured with
    prompts waiting in its own queue. Beside ours stands a bare client that hears the end, commits one durable row and
    posts the next graph: what this machine, as busy as it is now, takes at least.
    """
    options = ("--comfyui", "0", "--service", f"local={CLIP_S / 20}", "--time-scale", str(SCALE))
    delays: dict[str, list[float]] = {}
    for mode in ("ahead", "bare", "late"):
        with emulators(*options) as backends:
            _batch(jobs // 4 if mode == "ahead" else jobs, backends, mode)
            runs = recorded(backends[URLS], SCALE)
        delays[mode] = [1e3 * each for each in (gaps_s(runs) if mode == "ahead" else free_to_submit_s(runs))]
    own_ms = percentile(delays["ahead"], 0.5)
    p50, p99 = (percentile(delays["late"], share) - own_ms for share in (0.5, 0.99))
    bare_p50, bare_p99 = (percentile(delays["bare"], share) - own_ms for share in (0.5, 0.99))
    passed = p50 <= SUBMIT_P50_MS and p99 <= SUBMIT_P99_MS
    show(
        "busy",
        what="slot free to next submit",
        jobs=jobs,
        p50_ms=round(p50, 2),
        p99_ms=round(p99, 2),
        server_turnaround_ms=round(own_ms, 2),
        bare_client_p50_ms=round(bare_p50, 2),
        bare_client_p99_ms=round(bare_p99, 2),
        limit_p50_ms=SUBMIT_P50_MS,
        limit_p99_ms=SUBMIT_P99_MS,
        passed=passed,
    )
    return passed


def _options(gpus: int) -> list[str]:
    return [*("--comfyui", "0") * gpus, "--service", f"local={CLIP_S}", "--time-scale", str(SCALE)]


def _batch(jobs: int, backends: dict[str, str], mode: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        environment = {**backends, "HYBRID_VIDEO_HOME": folder, "HYBRID_VIDEO_TIME_SCALE": str(SCALE)}
        figures = run_child(["-m", "benchmarks.busy", "batch", str(jobs), mode], environment)
    if figures["jobs"] != jobs:
        raise SystemExit(f"only {figures['jobs']} of {jobs} clips were made; the figures would mean nothing")
    return figures


async def _bare(jobs: int) -> int:
    """One prompt after another with nothing around it but a durable commit before each."""
    url, done = os.environ[URLS].split(",")[0], 0
    graphs = [
        plan(job).bind(seed=job.seed or 0, filename_prefix=job.id, image_name=None) for job in shots(jobs, "b").jobs
    ]
    with tempfile.TemporaryDirectory() as folder:
        database = sqlite3.connect(Path(folder) / "bare.sqlite3", isolation_level=None)
        for statement in ("pragma journal_mode=wal", "pragma synchronous=full", "create table t (a text)"):
            database.execute(statement)
        socket_url = f"{url.replace('http', 'ws')}/ws?clientId=bare"
        async with httpx.AsyncClient(timeout=60) as client, connect(socket_url, proxy=None) as socket:
            for graph in graphs:
                database.execute("insert into t values (?)", ("x" * 500,))
                body = {"prompt": graph, "prompt_id": str(uuid.uuid4()), "client_id": "bare"}
                (await client.post(f"{url}/prompt", json=body)).raise_for_status()
                async for frame in socket:
                    said: dict[str, Any] = json.loads(frame) if isinstance(frame, str) else {"type": ""}
                    if said["type"] == "executing" and said["data"]["node"] is None:
                        done += 1
                        break
    return done


async def _run(jobs: int, mode: str) -> int:
    """A whole batch without Prefect."""
    if mode == "bare":
        return await _bare(jobs)
    if mode == "late":
        as_it_is = ComfyUIBackend.lanes

        def without_ahead(backend: ComfyUIBackend) -> tuple[Lane, ...]:
            return tuple(lane.model_copy(update={"ahead": 0}) for lane in as_it_is(backend))

        ComfyUIBackend.lanes = without_ahead  # type: ignore[assignment, method-assign]
    with tempfile.TemporaryDirectory() as folder:
        report = await run_batch(shots(jobs, "busy"), settings=Settings.load(), base_dir=Path(folder))
    return report.completed


def main(jobs: int = JOBS) -> int:
    """Every figure; returns how many targets are missed."""
    return [backlog(jobs, 1), backlog(2 * jobs, 2), submit_delay(10 * jobs)].count(False)


if __name__ == "__main__":
    if sys.argv[1:2] == ["batch"]:
        print(json.dumps({"jobs": asyncio.run(_run(int(sys.argv[2]), sys.argv[3]))}))
    else:
        main(*map(int, sys.argv[1:2]))
