"""The emulator as one application: model list, Interactions, Veo on both roads, files, control routes.

As in November 2026, Veo 3.1 is switched off on the API-key road (404) and alive on the Google Cloud road.
"""

from __future__ import annotations

from collections import Counter

from aiohttp import web

from hybrid_video.emulators.faults import FaultPlan
from hybrid_video.emulators.google.answers import check_bearer, check_key, gone
from hybrid_video.emulators.google.files import Files
from hybrid_video.emulators.google.interactions import Interactions
from hybrid_video.emulators.google.models import OMNI, RETIRED, VEO_API, VideoModel
from hybrid_video.emulators.google.operations import Operations
from hybrid_video.emulators.google.veo import VeoApi, VeoCloud
from hybrid_video.emulators.google.wire import Wire
from hybrid_video.emulators.server import ChargeList, ScaledClock, add_control_routes
from hybrid_video.pricing.catalog import PriceBook

_MAX_BODY = 32 * 2**20


class GoogleEmulator:
    """A local stand-in for generativelanguage.googleapis.com and aiplatform.googleapis.com.

    Not offered: webhooks, streaming, tuned models, and 4k where the price book has no price for it.

    Args:
        api_key: the only key accepted; None accepts every key that does not begin with "invalid".
        service_s: mean simulated seconds per clip (45 when None); `jitter` is the sigma of its log-normal spread.
        max_concurrent: operations under way at once; one more is refused with 429.
        retired: model ids that answer 404 on the API-key road.
        cloud: whether the Google Cloud paths exist.
        redirect_downloads: whether downloads take the recorded detour over a 302.
    """

    def __init__(
        self,
        *,
        clock: ScaledClock,
        faults: FaultPlan,
        prices: PriceBook,
        api_key: str | None = None,
        service_s: float | None = None,
        jitter: float = 0.5,
        seed: int = 0,
        max_concurrent: int = 10,
        retired: frozenset[str] = RETIRED,
        cloud: bool = True,
        redirect_downloads: bool = True,
    ) -> None:
        self.charges = ChargeList()
        self._faults, self._retired, self._cloud, self._redirect = faults, retired, cloud, redirect_downloads
        self._operations = Operations(
            clock=clock,
            faults=faults,
            prices=prices,
            charges=self.charges,
            service_s=45.0 if service_s is None else service_s,
            jitter=jitter,
            seed=seed,
            max_concurrent=max_concurrent,
        )
        self._key_wire = Wire(self._operations, faults, lambda request: check_key(request, api_key))
        self._cloud_wire = Wire(self._operations, faults, check_bearer)

    @property
    def requests(self) -> Counter[str]:
        """Requests seen so far by operation: submit, status, cancel, delete, list, redirect, download."""
        return self._key_wire.requests + self._cloud_wire.requests

    def app(self) -> web.Application:
        """The application; it owns the emulator's files and ends its work on clean-up."""
        app = web.Application(client_max_size=_MAX_BODY)
        app.router.add_get("/v1beta/models", self._key_wire.handler("list", self._list))
        app.router.add_get("/v1beta/models/{model:[^:/]+}", self._key_wire.handler("list", self._describe))
        Interactions(self._key_wire, self._retired).add_to(app)
        VeoApi(self._key_wire, self._retired).add_to(app)
        Files(self._key_wire, redirect=self._redirect).add_to(app)
        if self._cloud:
            VeoCloud(self._cloud_wire).add_to(app)
        add_control_routes(app, self.charges, self._faults, self._operations.reset)
        app.on_cleanup.append(self._close)
        return app

    def _models(self) -> list[VideoModel]:
        return [model for model in (*OMNI.values(), *VEO_API.values()) if model.name not in self._retired]

    async def _list(self, _request: web.Request) -> web.Response:
        text = {
            "name": "models/gemini-3.8-flash",
            "version": "001",
            "displayName": "gemini-3.8-flash",
            "supportedGenerationMethods": ["generateContent", "countTokens"],
        }
        return web.json_response({"models": [text, *(_described(model) for model in self._models())]})

    async def _describe(self, request: web.Request) -> web.Response:
        name = request.match_info["model"]
        for model in self._models():
            if model.name == name:
                return web.json_response(_described(model))
        raise gone(name)

    async def _close(self, _app: web.Application) -> None:
        await self._operations.close()


def _described(model: VideoModel) -> dict[str, object]:
    return {
        "name": f"models/{model.name}",
        "version": "001",
        "displayName": model.name,
        "supportedGenerationMethods": [model.method],
    }
