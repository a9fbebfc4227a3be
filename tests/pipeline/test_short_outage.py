"""A GPU that goes away for a moment, as when ComfyUI is restarted: a real run over real emulated servers."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path

import pytest

from hybrid_video import goals
from hybrid_video.emulators.comfyui import ComfyUIEmulator
from hybrid_video.emulators.farm import Farm, FarmOptions
from hybrid_video.emulators.faults import FaultPlan
from hybrid_video.emulators.server import ScaledClock, start_server
from hybrid_video.engine import breaker, fleet, returns
from hybrid_video.engine.events import Event
from hybrid_video.engine.report import BatchReport
from hybrid_video.engine.session import run_batch
from hybrid_video.models import Batch, Tier, VideoJob
from hybrid_video.settings import Settings
from hybrid_video.simulation import policies

AWAY_S = 2.0
CLIPS = 8
SERVICE_S = {Tier.LOCAL: 8.0, Tier.GEMINI: 6.0}
TIME_SCALE = 40.0


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Looks at what is down three times a second, and lets a breaker rest for a second instead of thirty."""
    monkeypatch.setattr(fleet, "REFRESH_S", 0.3)
    monkeypatch.setattr(breaker, "OPEN_S", 1.0)
    for name, value in {
        "HOME": str(tmp_path / "home"),
        "COMFYUI_POLL_INTERVAL_S": "0.05",
        "COMFYUI_OUTAGE_PATIENCE_S": "0.3",
        "GEMINI_POLL_INTERVAL_S": "0.05",
        "GEMINI_RESOLUTION": "360p",
        "RETRY_BASE_S": "0.05",
    }.items():
        monkeypatch.setenv(f"HYBRID_VIDEO_{name}", value)


async def outage(monkeypatch: pytest.MonkeyPatch, folder: Path) -> tuple[BatchReport, Decimal]:
    """Eight clips on one GPU and Google, with time to spare; after two clips the GPU's server is started anew.

    Returns:
        The report, and what Google charged.
    """
    farm = await Farm.start(FarmOptions(runpod_port=None, time_scale=TIME_SCALE, service_s=SERVICE_S))
    for name, value in farm.environment().items():
        monkeypatch.setenv(name, value)
    going = asyncio.Event()
    done = 0

    def count(event: Event) -> None:
        nonlocal done
        done += event.kind == "done"
        if done == 2:
            going.set()

    async def restart() -> None:
        await going.wait()
        _, server = farm.comfyui[0]
        await server.close()
        await asyncio.sleep(AWAY_S)
        clock = ScaledClock(TIME_SCALE)
        fresh = ComfyUIEmulator(clock=clock, faults=FaultPlan(), service_s=SERVICE_S[Tier.LOCAL], seed=1)
        farm.comfyui[0] = (fresh, await start_server(fresh.app(), server.port))

    restarting = asyncio.create_task(restart())
    jobs = tuple(VideoJob(id=f"s{n}", prompt="p", duration_s=1, width=128, height=72, fps=8) for n in range(CLIPS))
    try:
        report = await run_batch(
            Batch(name="film", jobs=jobs, deadline_s=120), settings=Settings.load(), base_dir=folder, observer=count
        )
        await restarting
        assert farm.gemini is not None
        return report, sum((Decimal(row["usd"]) for row in farm.gemini[0].charges.as_json()), Decimal(0))
    finally:
        restarting.cancel()
        await farm.close()


async def test_a_short_outage_of_the_own_gpu_buys_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two minutes are left for six clips of a fifth of a second: the batch waits for the GPU, and makes each clip once.

    Only what failed on the GPU itself goes elsewhere at once: it is not tried again where it has just failed.
    """
    report, charged = await outage(monkeypatch, tmp_path)
    assert report.completed == CLIPS
    assert report.by_backend["local"].jobs >= CLIPS - 3
    assert charged == report.cost_usd


async def test_without_counting_on_the_return_the_rest_is_bought(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What the test above saves: the same outage, and every waiting clip goes to Google."""
    monkeypatch.setattr(returns, "returning", lambda *_: [])
    report, charged = await outage(monkeypatch, tmp_path)
    assert report.completed == CLIPS
    assert charged == report.cost_usd
    assert report.by_backend["gemini"].jobs >= CLIPS - 4


def test_the_engine_and_the_simulator_ask_the_same_function() -> None:
    """One rule for how long an absence is forgiven; what is measured in simulation is what runs."""
    assert returns.returning is goals.returning is policies.returning
