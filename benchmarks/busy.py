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
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import httpx

from benchmarks.measure import emulators, percentile, run_child, show

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
        _batch(jobs, backends, ahead=True)
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
    """Nothing held ahead: how long after a prompt ends does the next one arrive?"""
    with emulators("--comfyui", "0", "--service", f"local={CLIP_S / 20}", "--time-scale", str(SCALE)) as backends:
        _batch(jobs, backends, ahead=False)
        delays = [1e3 * delay for delay in free_to_submit_s(recorded(backends[URLS], SCALE))]
    p50, p99 = percentile(delays, 0.5), percentile(delays, 0.99)
    passed = p50 <= SUBMIT_P50_MS and p99 <= SUBMIT_P99_MS
    show(
        "busy",
        what="slot free to next submit",
        jobs=jobs,
        p50_ms=round(p50, 2),
        p99_ms=round(p99, 2),
        limit_p50_ms=SUBMIT_P50_MS,
        limit_p99_ms=SUBMIT_P99_MS,
        passed=passed,
    )
    return passed


def _options(gpus: int) -> list[str]:
    return [*("--comfyui", "0") * gpus, "--service", f"local={CLIP_S}", "--time-scale", str(SCALE)]


def _batch(jobs: int, backends: dict[str, str], *, ahead: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        environment = {**backends, "HYBRID_VIDEO_HOME": folder, "HYBRID_VIDEO_TIME_SCALE": str(SCALE)}
        figures = run_child(["-m", "benchmarks.busy", "batch", str(jobs), str(int(ahead))], environment)
    if figures["jobs"] != jobs:
        raise SystemExit(f"only {figures['jobs']} of {jobs} clips were made; the figures would mean nothing")
    return figures


async def _run(jobs: int, ahead: bool) -> int:
    """The child: a whole batch without Prefect."""
    from benchmarks.workloads import shots  # noqa: PLC0415
    from hybrid_video.backends.comfyui.backend import ComfyUIBackend  # noqa: PLC0415
    from hybrid_video.engine.session import run_batch  # noqa: PLC0415
    from hybrid_video.settings import Settings  # noqa: PLC0415

    if not ahead:
        as_it_is = ComfyUIBackend.lanes
        ComfyUIBackend.lanes = lambda self: tuple(replace_ahead(lane) for lane in as_it_is(self))  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        report = await run_batch(shots(jobs, "busy"), settings=Settings.load(), base_dir=Path(folder))
    return report.completed


def replace_ahead(lane: Any) -> Any:
    """The lane without the right to hold a prompt ahead."""
    return lane.model_copy(update={"ahead": 0})


def main(jobs: int = JOBS) -> int:
    """Every figure; returns how many targets are missed."""
    return [backlog(jobs, 1), backlog(2 * jobs, 2), submit_delay(10 * jobs)].count(False)


if __name__ == "__main__":
    if sys.argv[1:2] == ["batch"]:
        print(json.dumps({"jobs": asyncio.run(_run(int(sys.argv[2]), sys.argv[3] == "1"))}))
    else:
        main(*map(int, sys.argv[1:2]))
