"""The gate of a pod: a reverse proxy that lets a bearer of the token use ComfyUI, and nobody else reach anything.

ComfyUI has no authentication (observed on 0.8.0), and the address of a pod's port is open to everybody who knows the
pod's id (docs.runpod.io/pods/configuration/expose-ports). So ComfyUI listens on loopback and this is what listens on
the exposed port. What may be asked is in `gate_rules`; who lives how long is in `lease_keeper`.

It never logs a token, a header, a query or a body. Websockets are not offered: RunPod's proxy ends every answer that
has not begun after 100 s and promises nothing about websockets, so clients poll.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import hmac
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web
from gate_rules import Passage, RefusedError, judge
from yarl import URL

ANSWER_WITHIN_S = 90.0
"""Below the 100 s after which RunPod's proxy gives up with a page of its own (524)."""

STALLED_AFTER_S = 30.0
LINGERING_S = 2.0
"""How long the rest of a refused request is thrown away; closing at once would destroy the answer on its way."""

AT_ONCE = 64
SHORTEST_TOKEN = 16
LONGEST_LEASE_S = 86_400.0

TO_COMFYUI = ("Accept", "Content-Type", "If-Modified-Since", "If-None-Match", "If-Range", "Range")
TO_CLIENT = (
    "Accept-Ranges",
    "Allow",
    "Content-Disposition",
    "Content-Length",
    "Content-Range",
    "Content-Type",
    "ETag",
    "Last-Modified",
)
"""Headers that cross the gate; every other one stays where it is, `Authorization`, `Cookie` and `Origin` among them."""

FIXED = {"Cache-Control": "private, no-store", "Server": "pod-gate", "X-Content-Type-Options": "nosniff"}
"""On every answer: RunPod's proxy runs through a content network that must never keep a clip for strangers, and nobody
needs to know which versions run here."""


def log(event: str, **facts: object) -> None:
    """One JSON line on standard output, in one piece: keeper, gate and ComfyUI write to the same place."""
    sys.stdout.write(json.dumps({"who": "gate", "event": event, **facts}) + "\n")
    sys.stdout.flush()


class Gate:
    """The handler of every request.

    Args:
        token_sha256: digest of the token; the token itself is not kept.
        upstream: ComfyUI's address on loopback.
        keeper: the lease keeper's Unix socket; without one there is no lease and `/health` asks ComfyUI.
        answer_within_s: longest wait for the beginning of ComfyUI's answer.
    """

    def __init__(
        self, *, token_sha256: bytes, upstream: str, keeper: Path | None, answer_within_s: float = ANSWER_WITHIN_S
    ) -> None:
        self._digest, self._upstream, self._keeper = token_sha256, upstream.rstrip("/"), keeper
        self._answer_within_s = answer_within_s
        self._session: aiohttp.ClientSession | None = None
        self.ending = False
        self._under_way = 0
        self._strangers = 0
        self._strangers_told_at = 0.0

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Token first, then the rules, then ComfyUI."""
        began, name = time.monotonic(), "-"
        if not self._knows(request):
            self._count_stranger()
            return _closing(_answer(401, "this pod asks for its token", {"WWW-Authenticate": "Bearer"}))
        try:
            passage = judge(request.method, request.raw_path)
            name = passage.route.name
            _check_body(request, passage)
            if self.ending and passage.route.name != "lease":
                certainly_not_sent = 409 if passage.route.name == "prompt" else 503
                raise RefusedError(certainly_not_sent, "the lease of this pod has run out; it is ending")
            response = (
                await self._local(request, passage) if passage.route.local else await self._pass(request, passage)
            )
        except RefusedError as refusal:
            allow = {"Allow": ", ".join(sorted(refusal.allow))} if refusal.allow else {}
            response = _closing(_answer(refusal.status, refusal.message, allow))
        if request.method != "GET" or (response.status >= 400 and name != "health"):
            took_ms = round((time.monotonic() - began) * 1000)
            log("request", method=request.method[:8], route=name, status=response.status, took_ms=took_ms)
        return response

    def end(self) -> None:
        """From now on nothing reaches ComfyUI any more (the keeper's SIGUSR1)."""
        self.ending = True
        log("ending")

    async def close(self) -> None:
        """Closes the connections to ComfyUI."""
        if self._session is not None:
            await self._session.close()

    def _knows(self, request: web.BaseRequest) -> bool:
        """Whether the request bears the token; takes the same time for every wrong one."""
        values = request.headers.getall("Authorization", [])
        scheme, _, token = (values[0] if len(values) == 1 else "").partition(" ")
        digest = hashlib.sha256(token.strip().encode("utf-8", "surrogateescape")).digest()
        return hmac.compare_digest(digest, self._digest) and scheme.lower() == "bearer"

    def _count_stranger(self) -> None:
        """Tells of refused requests at most once a minute, so that strangers cannot fill the log."""
        self._strangers += 1
        now = time.monotonic()
        if self._strangers_told_at and now - self._strangers_told_at < 60:
            return
        log("unauthorized", requests=self._strangers)
        self._strangers, self._strangers_told_at = 0, now

    async def _pass(self, request: web.BaseRequest, passage: Passage) -> web.StreamResponse:
        if self._under_way >= AT_ONCE:
            return _not_sent(passage, f"{AT_ONCE} requests are under way already")
        self._under_way += 1
        try:
            return await self._forward(request, passage)
        finally:
            self._under_way -= 1

    async def _forward(self, request: web.BaseRequest, passage: Passage) -> web.StreamResponse:
        headers = {name: request.headers[name] for name in TO_COMFYUI if name in request.headers}
        if request.content_length is not None and request.body_exists:
            headers["Content-Length"] = str(request.content_length)
        body = Body(request, passage.route.largest_body)
        url = URL(self._upstream + passage.target, encoded=True)
        try:
            async with asyncio.timeout(self._answer_within_s):
                answer = await self._client().request(
                    request.method,
                    url,
                    headers=headers,
                    data=body.chunks() if request.body_exists else None,
                    allow_redirects=False,
                )
        except aiohttp.ClientConnectorError:
            return _closing(_not_sent(passage, "ComfyUI is starting or has just crashed"))
        except TimeoutError:
            text = (
                f"ComfyUI has not begun to answer within {self._answer_within_s:g} s; look again before you repeat it"
            )
            return _closing(_answer(504, text))
        except (aiohttp.ClientError, ConnectionError):
            if body.refusal:
                raise RefusedError(413, body.refusal) from None
            return _closing(_answer(502, "ComfyUI broke off the connection; look again before you repeat the request"))
        async with answer:
            return await self._stream(request, answer)

    async def _stream(self, request: web.BaseRequest, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        kept = {name: answer.headers[name] for name in TO_CLIENT if name in answer.headers}
        response = web.StreamResponse(status=answer.status, headers={**kept, **FIXED})
        await response.prepare(request)
        try:
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
        except (aiohttp.ClientError, TimeoutError):
            log("cut", status=answer.status)
            if request.transport is not None:
                request.transport.abort()  # a clean end would make half a clip look whole
        return response

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                # Idle connections are left long before ComfyUI leaves them, so a POST never meets a closing one.
                connector=aiohttp.TCPConnector(limit=AT_ONCE, keepalive_timeout=10),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=self._answer_within_s),
            )
        return self._session

    async def _local(self, request: web.BaseRequest, passage: Passage) -> web.StreamResponse:
        if passage.route.name == "health":
            status = await self._health()
            return _json(200 if status.get("ready") else 503, status)
        question: dict[str, Any] = {"do": "lease"}
        if request.method == "POST":
            question = {"do": "renew", "lease_s": await _lease_s(request)}
        if self._keeper is None:
            raise RefusedError(404, "this pod has no lease: HYBRID_VIDEO_POD_LEASE_S was not set when it was created")
        answer = await self._ask(question)
        return _json(answer.pop("status", 200), answer)

    async def _health(self) -> dict[str, Any]:
        if self._keeper is not None:
            return await self._ask({"do": "status"})
        try:
            async with self._client().get(f"{self._upstream}/system_stats", timeout=aiohttp.ClientTimeout(5)) as answer:
                return {"ready": answer.status == 200}
        except (aiohttp.ClientError, TimeoutError):
            return {"ready": False}

    async def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """One question to the lease keeper."""
        try:
            async with asyncio.timeout(5):
                reader, writer = await asyncio.open_unix_connection(str(self._keeper))
                try:
                    writer.write(json.dumps(question).encode() + b"\n")
                    await writer.drain()
                    answer: dict[str, Any] = json.loads(await reader.readline())
                    return answer
                finally:
                    writer.close()
        except (OSError, ValueError, TimeoutError):
            raise RefusedError(503, "the lease keeper does not answer; the pod is ending") from None


def _check_body(request: web.BaseRequest, passage: Passage) -> None:
    """What can be said about a body before it is read."""
    largest = passage.route.largest_body
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise RefusedError(415, "send the body without compression")
    if request.content_length is not None and request.content_length > largest:
        raise RefusedError(413, f"the body has {request.content_length} bytes; {passage.route.name!r} takes {largest}")
    if request.headers.get("Upgrade"):
        raise RefusedError(400, "websockets and upgrades are not offered; poll /history/<prompt id>")


class Body:
    """A body as it arrives, up to the limit: a chunked one does not say beforehand how long it is.

    Why it was cut off is kept here, because aiohttp's client hides what its data source raises.
    """

    def __init__(self, request: web.BaseRequest, largest: int) -> None:
        self._content, self._largest = request.content, largest
        self.refusal = ""

    async def chunks(self) -> AsyncIterator[bytes]:
        """Raises RefusedError when it is too large or stops arriving."""
        seen = 0
        while True:
            try:
                async with asyncio.timeout(STALLED_AFTER_S):
                    chunk = await self._content.readany()
            except TimeoutError:
                raise self._refused(f"the body stopped arriving for {STALLED_AFTER_S:g} s") from None
            if not chunk:
                return
            seen += len(chunk)
            if seen > self._largest:
                raise self._refused(f"the body is larger than {self._largest} bytes")
            yield chunk

    def _refused(self, why: str) -> RefusedError:
        self.refusal = why
        return RefusedError(413, why)


async def _lease_s(request: web.BaseRequest) -> float:
    try:
        wanted = json.loads(b"".join([chunk async for chunk in Body(request, 4096).chunks()]))["lease_s"]
    except (ValueError, KeyError, TypeError):
        raise RefusedError(400, 'send JSON like {"lease_s": 600}') from None
    if isinstance(wanted, bool) or not isinstance(wanted, int | float) or not 1 <= wanted <= LONGEST_LEASE_S:
        raise RefusedError(400, f"lease_s must be a number of seconds between 1 and {LONGEST_LEASE_S:g}")
    return float(wanted)


def _not_sent(passage: Passage, why: str) -> web.Response:
    """For a request that has certainly not reached ComfyUI.

    A submit gets 409: a client must treat any 5xx as "perhaps accepted", and this one was not.
    """
    status = 409 if passage.route.name == "prompt" else 503
    return _answer(status, f"{why}; nothing was sent, try again soon", {"Retry-After": "5"})


def _answer(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    return _json(status, {"error": message}, headers)


def _json(status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response(body, status=status, headers={**FIXED, "X-Pod-Gate": "1", **(headers or {})})


def _closing(response: web.Response) -> web.Response:
    """Ends the connection after it: what is left of the request is not read."""
    response.force_close()
    return response


def token_digest(environment: dict[str, str]) -> bytes:
    """The digest the keeper hands over, or that of the token itself when the gate is started by hand.

    Raises:
        ValueError: there is none, or the token is too short to keep anybody out.
    """
    ready = environment.get("HYBRID_VIDEO_POD_TOKEN_SHA256", "")
    if ready:
        return bytes.fromhex(ready)
    token = environment.get("HYBRID_VIDEO_POD_TOKEN", "").strip()
    if len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError(
            f"HYBRID_VIDEO_POD_TOKEN is missing, shorter than {SHORTEST_TOKEN} characters, or holds characters that "
            "no header may carry; set it to a long random text, for example from `openssl rand -hex 32`"
        )
    return hashlib.sha256(token.encode()).digest()


async def serve(gate: Gate, host: str, port: int) -> None:
    """Serves until SIGTERM or SIGINT."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    loop.add_signal_handler(signal.SIGUSR1, gate.end)
    runner = web.ServerRunner(
        web.Server(gate.handle, access_log=None, lingering_time=LINGERING_S, auto_decompress=False), shutdown_timeout=2
    )
    await runner.setup()
    site = web.TCPSite(runner, host, port)
    await site.start()
    log("listening", host=host, port=runner.addresses[0][1])
    try:
        await stopped.wait()
    finally:
        await runner.cleanup()
        await gate.close()


def main(arguments: list[str]) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description="Lets the bearer of HYBRID_VIDEO_POD_TOKEN use a ComfyUI on loopback.")
    parser.add_argument("--host", default="0.0.0.0", help="address to listen on")  # noqa: S104  # nosec B104
    parser.add_argument("--port", type=int, default=8188, help="exposed port; 0 picks a free one")
    parser.add_argument("--upstream", default="http://127.0.0.1:8189", help="ComfyUI's address on loopback")
    parser.add_argument("--keeper", type=Path, default=None, help="Unix socket of the lease keeper")
    parser.add_argument("--answer-within", type=float, default=ANSWER_WITHIN_S, help="seconds to wait for ComfyUI")
    options = parser.parse_args(arguments)
    if urlsplit(options.upstream).hostname not in ("127.0.0.1", "localhost", "::1"):
        log("refused", error="--upstream must be on loopback: an open ComfyUI behind a gate is still open")
        return 78
    try:
        digest = token_digest(dict(os.environ))
    except ValueError as error:
        log("refused", error=str(error))
        return 78
    gate = Gate(
        token_sha256=digest,
        upstream=options.upstream,
        keeper=options.keeper,
        answer_within_s=options.answer_within,
    )
    asyncio.run(serve(gate, options.host, options.port))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
