"""The vendors of the chaos suite: emulators in a thread of the harness, with wires that can be listened to."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import aiohttp

from hybrid_video.emulators.farm import Farm, FarmOptions
from hybrid_video.emulators.faults import FaultPlan, FaultRule, ServerName
from hybrid_video.emulators.google import clips
from hybrid_video.emulators.render import render_clip_async
from hybrid_video.models import Tier

T = TypeVar("T")

TIME_SCALE = 100.0
SERVICE_S = {Tier.LOCAL: 10.0, Tier.CLOUD: 20.0, Tier.GEMINI: 15.0}
"""Simulated seconds per clip: 0.1 to 0.2 s of real time."""

SMALL: dict[str, Any] = {"width": 112, "height": 64, "fps": 16, "duration_s": 0.25}
"""The smallest clip that every tier offers; Google's becomes 360p and 3 s."""

WARMING = "warming"
"""Name of the batch that only warms a process up; its charges do not count."""

QUICK = {
    "HYBRID_VIDEO_TIME_SCALE": f"{TIME_SCALE:g}",
    "HYBRID_VIDEO_COMFYUI_POLL_INTERVAL_S": "0.05",
    "HYBRID_VIDEO_COMFYUI_OUTAGE_PATIENCE_S": "2",
    "HYBRID_VIDEO_RUNPOD_POLL_INTERVAL_S": "0.05",
    "HYBRID_VIDEO_GEMINI_POLL_INTERVAL_S": "0.1",
    "HYBRID_VIDEO_GEMINI_RESOLUTION": "360p",
    "HYBRID_VIDEO_RETRY_BASE_S": "0.05",
    "HYBRID_VIDEO_BACKEND_PATIENCE_S": "10",
    "HYBRID_VIDEO_MIN_FREE_DISK_MB": "50",
}

Listener = Callable[[ServerName, str, str], None]


_masters: dict[tuple[object, ...], bytes] = {}


async def _rendered_once(path: Path, **options: Any) -> None:
    """Google's clips are 72 frames of 360p: drawn once for each form, then copied, or the machine does little else."""
    form = tuple(options[name] for name in ("width", "height", "fps", "frames", "audio", "black"))
    if form not in _masters:
        await render_clip_async(path, **options)
        _masters[form] = path.read_bytes()
    path.write_bytes(_masters[form])


def _replace_renderer(renderer: object) -> None:
    setattr(clips, "render_clip_async", renderer)  # noqa: B010 - the module does not export it


class TappedFaults(FaultPlan):
    """A fault plan that also tells a listener of every call, before the server does anything about it."""

    def __init__(self) -> None:
        super().__init__()
        self.listener: Listener | None = None

    def take(self, server: ServerName, operation: str, job: str = "") -> FaultRule | None:
        """The rule that hits this call, after the listener has heard of it."""
        listener = self.listener
        if listener is not None:
            listener(server, operation, job)
        return super().take(server, operation, job)


class Vendors:
    """ComfyUI, RunPod and Google on loopback. Use as a context manager."""

    def __init__(self, *, seed: int = 0, service_s: dict[Tier, float] | None = None) -> None:
        _replace_renderer(_rendered_once)
        self.faults = TappedFaults()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="vendors", daemon=True)
        self._thread.start()
        options = FarmOptions(
            time_scale=TIME_SCALE,
            service_s=service_s or SERVICE_S,
            cold_start_s=5.0,
            faults=self.faults,
            seed=seed,
        )
        self._farm = self._do(Farm.start(options))
        self.environment = {**QUICK, **self._farm.environment()}

    def __enter__(self) -> Vendors:
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._farm.close())
        _replace_renderer(render_clip_async)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def charges(self) -> list[dict[str, str]]:
        """Every submission any of them ever accepted, each with its `tier`: every vendor sends a bill of its own."""

        async def read() -> list[dict[str, str]]:
            farm = self._farm
            rows = [(Tier.LOCAL, row) for emulator, _ in farm.comfyui for row in emulator.charges.as_json()]
            for tier, pair in ((Tier.CLOUD, farm.runpod), (Tier.GEMINI, farm.gemini)):
                rows += [(tier, row) for row in pair[0].charges.as_json()] if pair else []
            return [row | {"tier": tier.value} for tier, row in rows]

        return [row for row in self._do(read()) if not row["job"].startswith(f"{WARMING}/")]

    def final_charges(self, timeout_s: float = 30.0) -> list[dict[str, str]]:
        """The charges once none is open any more: work that nobody waits for ends too."""
        until = time.monotonic() + timeout_s
        while open_rows := [row for row in self.charges() if row["state"] == "open"]:
            if time.monotonic() > until:
                raise TimeoutError(f"still open: {open_rows}")
            time.sleep(0.02)
        return self.charges()

    def billed_usd(self) -> Decimal:
        """The sum of all charges."""
        return sum((Decimal(row["usd"]) for row in self.final_charges()), Decimal(0))

    def reset(self) -> None:
        """Forgets jobs, charges and faults."""

        async def ask() -> None:
            async with aiohttp.ClientSession() as session:
                for url in self._urls():
                    async with session.post(f"{url}/_emulator/reset") as answer:
                        answer.raise_for_status()

        self._do(ask())

    def restart_comfyui(self, down_s: float = 0.0) -> None:
        """ComfyUI loses queue and history, and cuts every connection for so many simulated seconds."""
        self._loop.call_soon_threadsafe(lambda: self._farm.comfyui[0][0].restart(down_s))

    def call_later(self, delay_s: float, action: Callable[[], None]) -> None:
        """Does something from the vendors' thread after real seconds."""
        self._loop.call_soon_threadsafe(self._loop.call_later, delay_s, action)

    def _urls(self) -> list[str]:
        farm = self._farm
        running = [server for _, server in farm.comfyui]
        running += [pair[1] for pair in (farm.runpod, farm.gemini) if pair]
        return [server.url for server in running]

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)
