"""The HTTP application of a simulated ComfyUI."""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler

from hybrid_video.emulators.comfyui.channel import FEATURES
from hybrid_video.emulators.comfyui.file_routes import FileRoutes
from hybrid_video.emulators.comfyui.gate import Gate
from hybrid_video.emulators.comfyui.info_routes import InfoRoutes
from hybrid_video.emulators.comfyui.machine import Machine, Tariff
from hybrid_video.emulators.comfyui.prompt_routes import PromptRoutes
from hybrid_video.emulators.faults import FaultPlan
from hybrid_video.emulators.server import ChargeList, ScaledClock, add_control_routes, cut

_SERVER_ERROR = "500 Internal Server Error\n\nServer got itself in trouble"
_CONTROL = "/_emulator/"


class ComfyUIEmulator:
    """A ComfyUI 0.8.0 as a client sees it, rendering simulated clips.

    Args:
        clock: simulated time; service times are simulated seconds.
        faults: which calls go wrong. Operations: submit, status, download, upload, health, list, cancel, execute.
        service_s: time of one prompt; without it the product's timing priors for a local GPU, scaled by the work.
        jitter: standard deviation of the logarithm of the service time.
        seed: of the jitter.
        missing_models: model files that seem not to be installed.
        missing_nodes: node classes that seem not to be installed.
        output_dir: where clips go; without it a temporary folder that goes away with the emulator.
        gpu: the device `/system_stats` shows.
        charges: where accepted prompts are recorded; without it a list of its own.
        tariff: what a prompt costs, where the machine it runs on is rented; without it nothing.
    """

    def __init__(
        self,
        *,
        clock: ScaledClock,
        faults: FaultPlan,
        service_s: float | None = None,
        jitter: float = 0.1,
        seed: int = 0,
        missing_models: frozenset[str] = frozenset(),
        missing_nodes: frozenset[str] = frozenset(),
        output_dir: Path | None = None,
        gpu: str = "NVIDIA GeForce RTX 4090",
        charges: ChargeList | None = None,
        tariff: Tariff | None = None,
    ) -> None:
        self._machine = Machine(
            clock=clock,
            faults=faults,
            service_s=service_s,
            jitter=jitter,
            seed=seed,
            missing_models=missing_models,
            missing_nodes=missing_nodes,
            output_dir=output_dir,
            gpu=gpu,
            charges=charges,
            tariff=tariff,
        )

    @property
    def charges(self) -> ChargeList:
        """Every prompt it ever accepted; ComfyUI itself costs nothing."""
        return self._machine.charges

    @property
    def output_dir(self) -> Path:
        """Where the clips are."""
        return self._machine.folders.output

    def restart(self, down_s: float = 0.0) -> None:
        """Restarts the simulated process: queue, history, counter and cache are gone, output stays.

        Args:
            down_s: simulated seconds during which every connection is cut.
        """
        self._machine.restart(down_s)

    def app(self) -> web.Application:
        """The application; make one per emulator and serve it with `start_server` or mount it as a sub-application."""
        app = web.Application(
            client_max_size=FEATURES["max_upload_size"], middlewares=[self._survive, self._check_origin]
        )
        gate = Gate(self._machine)
        info = InfoRoutes(self._machine, gate)
        routes = [
            *info.routes(),
            *PromptRoutes(self._machine, gate).routes(),
            *FileRoutes(self._machine, gate).routes(),
        ]
        for route in routes:
            web.RouteDef(route.method, f"/api{route.path}", route.handler, route.kwargs).register(app.router)
        for route in [*routes, *info.internal_routes()]:
            route.register(app.router)
        add_control_routes(app, self.charges, self._machine.faults, self._machine.restart)
        app.router.add_get("/{path:.*}", _nothing_here)
        app.cleanup_ctx.append(self._life)
        return app

    async def _life(self, _app: web.Application) -> AsyncIterator[None]:
        await self._machine.start()
        yield
        await self._machine.stop()

    @web.middleware
    async def _survive(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Cuts connections while the process is down; answers what raises as the original does."""
        if self._machine.is_down and _CONTROL not in request.path:
            cut(request)
            return web.Response()
        try:
            return await handler(request)
        except web.HTTPException:
            raise
        except Exception:  # any mistake in a request ends in a handler that raises: always this text, never JSON
            response = web.Response(status=500, text=_SERVER_ERROR)
            response.force_close()
            return response

    @web.middleware
    async def _check_origin(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """403 when a loopback host is asked by a page from elsewhere; OPTIONS is answered at once."""
        host, origin = request.headers.get("Host"), request.headers.get("Origin")
        if host is not None and origin is not None and _is_foreign(host.lower(), origin):
            return web.Response(status=403)
        return web.Response() if request.method == "OPTIONS" else await handler(request)


async def _nothing_here(request: web.Request) -> web.StreamResponse:
    """An unknown path: empty and chunked, because the original looks for a static file."""
    response = web.StreamResponse(status=404)
    response.content_type = "application/octet-stream"
    response.enable_chunked_encoding()
    await response.prepare(request)
    await response.write_eof()
    return response


def _is_foreign(host: str, origin: str) -> bool:
    target, source = urlsplit(f"//{host}"), urlsplit(origin)
    host_name: str | None = target.hostname if source.port is None else host
    origin_name = source.hostname if target.port is None else source.netloc.lower()
    if not host_name or not origin_name or not _is_loopback(target.hostname):
        return False
    return host_name != origin_name


def _is_loopback(host: str | None) -> bool:
    if host is None:
        return False
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
