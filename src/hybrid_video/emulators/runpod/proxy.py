"""The HTTP proxy in front of pods: `/_proxy/{pod id}-{port}/…` stands for `https://{pod id}-{port}.proxy.runpod.net`.

It answers 502 until the pod's program is up and 524 when that takes longer than 100 s to begin an answer
(docs.runpod.io/pods/configuration/expose-ports). The gate of the pod comes after it: a small reverse proxy inside the
pod that asks for the bearer token of the pod's environment before ComfyUI sees anything. Beside it runs the keeper of
the pod's lease, which answers on `/lease` from the moment the container runs (docs/pods.md).
"""

from __future__ import annotations

import asyncio

import aiohttp
from aiohttp import web
from yarl import URL

from hybrid_video.emulators.faults import FaultPlan
from hybrid_video.emulators.runpod.fleet import Fleet
from hybrid_video.emulators.runpod.pod_lease import LeaseKeeper, lets_in, unauthorized
from hybrid_video.emulators.server import ScaledClock, cut

ROUTE = "/_proxy/{pod}-{port:[0-9]+}/{tail:.*}"
LONGEST_ANSWER_S = 100.0
LEAST_REAL_S = 3.0
"""However quickly simulated time runs: a computer that is busy for a moment is not an answer that does not come."""

_HOP_BY_HOP = {
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "host",
    "authorization",
}


class PodProxy:
    """Forwards requests to the programs in pods."""

    def __init__(self, fleet: Fleet, *, clock: ScaledClock, faults: FaultPlan) -> None:
        self._fleet, self._clock = fleet, clock
        self._keeper = LeaseKeeper(fleet, clock=clock, faults=faults)
        self._session: aiohttp.ClientSession | None = None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """One request, from the outside to the program and back."""
        pod = self._fleet.get(request.match_info["pod"])
        if pod is None or not pod.exposes(int(request.match_info["port"])):
            return _page(404, "Not Found")
        if request.match_info["tail"].startswith("_emulator/"):  # controls are for whoever runs the emulator
            return _page(404, "Not Found")
        if request.match_info["tail"] == "lease":
            return await self._keeper.answer(request, pod)
        url = await self._fleet.service_url(pod)
        if url is None:
            return _page(502, "Bad Gateway")
        return unauthorized() if not lets_in(request, pod) else await self._pass_on(request, url)

    async def _pass_on(self, request: web.Request, url: str) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._bridge(request, url)
        return await self._forward(request, url)

    async def close(self) -> None:
        """Closes the outgoing connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                auto_decompress=False, timeout=aiohttp.ClientTimeout(total=None), cookie_jar=aiohttp.DummyCookieJar()
            )
        return self._session

    async def _forward(self, request: web.Request, url: str) -> web.StreamResponse:
        target = _target(request, url)
        headers = {k: v for k, v in request.headers.items() if k.lower() not in _HOP_BY_HOP}
        body = request.content.iter_any() if request.body_exists else None
        try:
            async with asyncio.timeout(max(LONGEST_ANSWER_S / self._clock.scale, LEAST_REAL_S)):
                answer = await self._client().request(
                    request.method, target, headers=headers, data=body, allow_redirects=False
                )
        except TimeoutError:
            return _page(524, "A timeout occurred")
        except aiohttp.ClientError:
            return _page(502, "Bad Gateway")
        kept = {k: v for k, v in answer.headers.items() if k.lower() not in _HOP_BY_HOP}
        response = web.StreamResponse(status=answer.status, headers=kept)
        async with answer:
            try:
                await response.prepare(request)
                async for chunk in answer.content.iter_any():
                    await response.write(chunk)
            except aiohttp.ClientError:  # the program broke off in the middle, or the caller has gone
                cut(request)
        return response

    async def _bridge(self, request: web.Request, url: str) -> web.StreamResponse:
        """Carries a websocket for at most 100 s, then closes it."""
        inner = _target(request, url).with_scheme("ws")
        outside = web.WebSocketResponse()
        await outside.prepare(request)
        try:
            async with (
                asyncio.timeout(max(LONGEST_ANSWER_S / self._clock.scale, LEAST_REAL_S)),
                self._client().ws_connect(inner) as inside,
            ):
                pumps = [asyncio.create_task(_pump(inside, outside)), asyncio.create_task(_pump(outside, inside))]
                try:
                    await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for pump in pumps:
                        pump.cancel()
        except (TimeoutError, aiohttp.ClientError):
            pass
        await outside.close()
        return outside


async def _pump(
    source: aiohttp.ClientWebSocketResponse | web.WebSocketResponse,
    target: aiohttp.ClientWebSocketResponse | web.WebSocketResponse,
) -> None:
    async for message in source:
        if message.type is aiohttp.WSMsgType.TEXT:
            await target.send_str(message.data)
        elif message.type is aiohttp.WSMsgType.BINARY:
            await target.send_bytes(message.data)


def _target(request: web.Request, url: str) -> URL:
    """The address inside: what stands after the proxy's own part, still encoded as it came."""
    _, _, rest = request.raw_path.removeprefix("/_proxy/").partition("/")
    return URL(f"{url}/{rest}", encoded=True)


def _page(status: int, text: str) -> web.Response:
    html = f"<html><head><title>{status}: {text}</title></head><body>{text}</body></html>"
    return web.Response(status=status, text=html, content_type="text/html")
