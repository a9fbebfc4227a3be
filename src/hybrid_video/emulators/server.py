"""What the emulators share: a scaled clock, the list of charges, fault responses, control routes, start and stop.

aiohttp serves them, as it serves the real ComfyUI: error bodies, ranges and ETags come out alike without imitation, and
a connection can be cut in the middle.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from aiohttp import web
from pydantic import ValidationError

from hybrid_video.emulators.faults import FaultPlan, FaultRule


class ScaledClock:
    """Simulated time that runs `scale` times faster than real time."""

    def __init__(self, scale: float = 1.0) -> None:
        if scale <= 0:
            raise ValueError(f"time scale {scale!r} must be above 0; 20 means twenty times faster than real time")
        self.scale = scale
        self._start_real = time.monotonic()
        self._start_wall = time.time()

    def now(self) -> float:
        """Simulated UNIX time in seconds."""
        return self._start_wall + (time.monotonic() - self._start_real) * self.scale

    async def sleep(self, simulated_s: float) -> None:
        """Sleeps for simulated seconds."""
        await asyncio.sleep(simulated_s / self.scale)


@dataclass
class Charge:
    """One paid submission: `state` is open, done, failed or cancelled; `usd` is final once it is not open."""

    id: str
    job: str
    usd: Decimal = Decimal(0)
    state: str = "open"


@dataclass
class ChargeList:
    """Every paid submission an emulator ever accepted, in order."""

    rows: list[Charge] = field(default_factory=list)

    def open(self, id: str, job: str) -> Charge:  # noqa: A002 - the wire name
        """Records an accepted submission."""
        charge = Charge(id=id, job=job)
        self.rows.append(charge)
        return charge

    def as_json(self) -> list[dict[str, str]]:
        """The rows as the contract gives them; money as a string."""
        return [{"id": c.id, "job": c.job, "usd": str(c.usd), "state": c.state} for c in self.rows]


def add_control_routes(app: web.Application, charges: ChargeList, faults: FaultPlan, reset: Callable[[], None]) -> None:
    """Adds `GET /_emulator/charges`, `POST /_emulator/reset` and `POST /_emulator/faults` (adds one rule)."""

    async def get_charges(_request: web.Request) -> web.Response:
        return web.json_response(charges.as_json())

    async def post_reset(_request: web.Request) -> web.Response:
        charges.rows.clear()
        faults.clear()
        reset()
        return web.json_response({"reset": True})

    async def post_faults(request: web.Request) -> web.Response:
        try:
            faults.add(FaultRule.model_validate(await request.json()))
        except (ValidationError, json.JSONDecodeError) as error:
            return web.json_response({"error": str(error)}, status=400)
        return web.json_response({"added": True})

    app.router.add_get("/_emulator/charges", get_charges)
    app.router.add_post("/_emulator/reset", post_reset)
    app.router.add_post("/_emulator/faults", post_faults)


async def inject(request: web.Request, rule: FaultRule | None) -> web.StreamResponse | None:
    """Carries out the part of a fault that comes before the work: None means go on as usual.

    `drop_after`, `hang` and `truncate` are left to `inject_after`.
    """
    if rule is None:
        return None
    if rule.action == "delay":
        await asyncio.sleep(rule.delay_s)
        return None
    if rule.action in ("refuse", "drop"):
        cut(request)
        return web.Response()
    if rule.action == "status":
        return web.Response(status=rule.status, text=rule.body, headers=rule.headers)
    if rule.action == "garbage":
        return web.Response(text=rule.body or "<html>it works!</html>", content_type="text/html")
    return None


async def inject_after(request: web.Request, rule: FaultRule | None) -> None:
    """Carries out the part of a fault that comes after the work and before the answer."""
    if rule is None:
        return
    if rule.action == "drop_after":
        cut(request)
    elif rule.action == "hang":
        await asyncio.sleep(3600)


def cut(request: web.Request) -> None:
    """Closes the connection at once, without an answer."""
    if request.transport is not None:
        request.transport.abort()


@dataclass
class RunningServer:
    """A started server; `url` has no trailing slash."""

    url: str
    port: int
    runner: web.AppRunner

    async def close(self) -> None:
        """Stops it; open connections are cut after a moment."""
        await self.runner.cleanup()


async def start_server(app: web.Application, port: int = 0) -> RunningServer:
    """Serves an application on 127.0.0.1; port 0 picks a free one.

    Raises:
        OSError: the port is taken.
    """
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    try:
        await site.start()
    except OSError:
        await runner.cleanup()
        raise
    bound = port or _port_of(site)
    return RunningServer(url=f"http://127.0.0.1:{bound}", port=bound, runner=runner)


def _port_of(site: web.TCPSite) -> int:
    server: Any = site._server  # noqa: SLF001 - aiohttp offers no public way to the bound port of a site
    return int(server.sockets[0].getsockname()[1])
