"""A Google emulator on loopback and backends that talk to it, for the tests of Google's tier."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any

from hybrid_video.backends.base import BackendContext
from hybrid_video.backends.google import GeminiBackend, VeoBackend
from hybrid_video.emulators.faults import FaultPlan, FaultRule
from hybrid_video.emulators.google import GoogleEmulator
from hybrid_video.emulators.server import ScaledClock, start_server
from hybrid_video.models import JobHandle, Quote, VideoJob, WorkOrder
from hybrid_video.pricing.catalog import PriceBook, Profile
from hybrid_video.pricing.quoting import Quoter
from hybrid_video.pricing.timings import ServiceTimes
from hybrid_video.settings import GeminiSettings, Settings

KEY = "test-key-0123456789"
SMALL: dict[str, Any] = {"duration_s": 3, "width": 640, "height": 360}
"""The smallest clip Omni sells, so that rendering stays quick."""


def context(url: str = "http://127.0.0.1:9", *, profile: Profile = "current", **settings: Any) -> BackendContext:
    """A context for backends that talk to `url`."""
    chosen = {"api_key": KEY, "project": "test-project", "resolution": "360p", "poll_interval_s": 0.03, **settings}
    gemini = GeminiSettings(url=url, **chosen)
    quoter = Quoter(prices=PriceBook.load(profile), timings=ServiceTimes())
    return BackendContext(settings=Settings(gemini=gemini), quoter=quoter)


@dataclass
class Rig:
    """A running emulator; backends are made through it and closed with it."""

    emulator: GoogleEmulator
    faults: FaultPlan
    url: str
    opened: list[GeminiBackend | VeoBackend]

    def gemini(self, *, submit_timeout_s: float = 5.0, **settings: Any) -> GeminiBackend:
        """A fresh Omni backend."""
        backend = GeminiBackend(context(self.url, **settings), submit_timeout_s=submit_timeout_s)
        self.opened.append(backend)
        return backend

    def veo(self, *, submit_timeout_s: float = 5.0, **settings: Any) -> VeoBackend:
        """A fresh Veo backend."""
        backend = VeoBackend(context(self.url, **settings), submit_timeout_s=submit_timeout_s)
        self.opened.append(backend)
        return backend

    def fault(self, operation: str, action: str, **rule: Any) -> None:
        """Adds one fault rule."""
        self.faults.add(FaultRule(server="gemini", operation=operation, action=action, **rule))  # type: ignore[arg-type]

    @property
    def charges(self) -> list[tuple[str, Decimal, str]]:
        """(job, dollars, state) of every paid submission."""
        return [(row.job, row.usd, row.state) for row in self.emulator.charges.rows]


@asynccontextmanager
async def rig(*, scale: float = 400.0, **options: Any) -> AsyncIterator[Rig]:
    """Runs an emulator, by default 400 times faster than reality: a clip takes about a tenth of a second."""
    faults = FaultPlan()
    settings = {"jitter": 0.0, "prices": PriceBook.load("current"), **options}
    emulator = GoogleEmulator(clock=ScaledClock(scale), faults=faults, **settings)
    server = await start_server(emulator.app())
    running = Rig(emulator, faults, server.url, [])
    try:
        yield running
    finally:
        for backend in running.opened:
            await backend.close()
        await server.close()


def job(**fields: Any) -> VideoJob:
    """A small job."""
    return VideoJob(**{"id": "shot-01", "prompt": "a red kite over dunes", **SMALL, **fields})


def order(backend: GeminiBackend | VeoBackend, wanted: VideoJob | None = None, **fields: Any) -> WorkOrder:
    """An attempt at a job, quoted by the backend."""
    wanted = wanted or job()
    quote = backend.quote(wanted)
    assert isinstance(quote, Quote), quote
    base = {"attempt_id": "11111111-2222-3333-4444-555555555555", "batch": "reel", "number": 1, "seed": 7}
    return WorkOrder(**{**base, "job": wanted, "lane": f"{backend.key}/1", "quote": quote, **fields})


def aged(handle: JobHandle, age: timedelta) -> JobHandle:
    """The same handle as if it had been submitted earlier."""
    return handle.model_copy(update={"submitted_at": handle.submitted_at - age})
