"""HTTP to one ComfyUI server: sends, repeats what may be repeated, and turns every foreign error into a `BackendError`.

Observed on ComfyUI 0.8.0: it never answers malformed requests with JSON (a plain-text 500 instead), unknown paths are
a 404 with an empty body, and a loopback request with a foreign `Origin` header is a 403, so none is ever sent.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import httpx

from hybrid_video.backends.comfyui.records import MalformedError
from hybrid_video.errors import BackendError, FailureKind, SubmitUncertain, TerminalError, TransientError
from hybrid_video.redaction import redact
from hybrid_video.settings import is_loopback
from hybrid_video.trust import certificates

T = TypeVar("T")

READ_TRIES = 3
_FIRST_PAUSE_S = 0.2
_LONGEST_ADVICE_S = 5.0
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)
"""Errors that come before the request leaves this machine: nothing can have been accepted."""


def without_credentials(url: str) -> str:
    """The address without user, password, query and trailing slash: safe to show and to store."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    netloc = f"{host}:{parts.port}" if parts.port else host
    return urlunsplit((parts.scheme, netloc, parts.path.rstrip("/"), "", ""))


class Transport:
    """Connections to one server.

    Args:
        base_url: its address; may carry a path (a proxy) and user:password.
        backend: registry key that errors name.
        headers: sent with every request, for example a proxy's bearer token. Never shown.
        timeout_s: longest silence on a connection before a request counts as lost.
    """

    def __init__(self, base_url: str, *, backend: str, headers: Mapping[str, str], timeout_s: float) -> None:
        self.base = base_url.rstrip("/")
        self.url = without_credentials(base_url)
        self._backend = backend
        self._http = httpx.AsyncClient(
            # Compressed answers would have no Content-Length to check a download against.
            headers={"Accept-Encoding": "identity", **headers},
            timeout=httpx.Timeout(timeout_s, connect=min(5.0, timeout_s)),
            trust_env=not is_loopback(base_url),
            verify=certificates(),
        )

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def read(self, path: str, parse: Callable[[Any], T], *, tries: int = READ_TRIES) -> T:
        """A GET of JSON, parsed; repeated after transient failures.

        Raises:
            TransientError: it does not answer, is overloaded, or answers what no ComfyUI answers.
            TerminalError: it refuses us.
        """
        return self.parsed(await self._repeated("GET", path, tries), path, parse)

    async def send(self, path: str, **content: Any) -> httpx.Response:
        """A POST that may be repeated: uploading, deleting and interrupting twice changes nothing more."""
        return await self._repeated("POST", path, READ_TRIES, **content)

    async def send_once(self, path: str, **content: Any) -> httpx.Response:
        """A POST that is never repeated; answers below 500 are returned as they are.

        Raises:
            TransientError: it was never sent.
            SubmitUncertain: the answer was lost, or a 5xx that may hide an accepted request.
        """
        try:
            response = await self._http.post(self.base + path, **content)
        except _NEVER_SENT as error:
            raise self._unreachable(error) from None
        except httpx.HTTPError as error:
            raise self.uncertain(f"{self.url!r} did not answer POST {path} to the end ({_named(error)})") from None
        if response.status_code >= 500:
            words = redact(response.text.strip(), 200)
            raise self.uncertain(f"{self.url!r} answered POST {path} with {response.status_code} {words!r}", words)
        return response

    def stream(
        self, path: str, parameters: Mapping[str, str], headers: Mapping[str, str]
    ) -> AbstractAsyncContextManager[httpx.Response]:
        """Opens a GET for streaming; the caller judges the status and meets plain `httpx` errors."""
        return self._http.stream("GET", self.base + path, params=dict(parameters), headers=dict(headers))

    def parsed(self, response: httpx.Response, path: str, parse: Callable[[Any], T]) -> T:
        """The answer through `parse`; a TransientError when it is not what a ComfyUI sends."""
        try:
            return parse(response.json())
        except (MalformedError, ValueError) as error:
            detail = redact(error, 200)
            raise TransientError(
                f"{self.url!r} answered {path} with something no ComfyUI sends ({detail}); check the address",
                kind=FailureKind.UNREACHABLE,
                backend=self._backend,
                detail=detail,
            ) from None

    def uncertain(self, what: str, detail: str = "") -> SubmitUncertain:
        """The error for a submit that may have been accepted."""
        return SubmitUncertain(
            f"{what}; the job may have been accepted, so it is looked up and never sent again",
            backend=self._backend,
            detail=detail,
        )

    def refused(self, response: httpx.Response, what: str) -> BackendError:
        """The error for an answer that is not a 200."""
        code, words = response.status_code, redact(response.text.strip(), 200)
        said = f"{self.url!r} answered {what} with {code}" + (f" {words!r}" if words else "")
        if code in (401, 403, 407):
            return TerminalError(
                f"{said}; set a valid token, or let its proxy accept this machine",
                kind=FailureKind.AUTHENTICATION,
                backend=self._backend,
                detail=words,
            )
        if code in (400, 405, 411, 413, 414, 415, 422, 431):
            return TerminalError(
                f"{said}; this server does not take the request",
                kind=FailureKind.INVALID_REQUEST,
                backend=self._backend,
                detail=words,
            )
        kind = FailureKind.RATE_LIMITED if code == 429 else FailureKind.UNREACHABLE
        advice = "look at its log" if code >= 500 or code == 429 else "is there a ComfyUI at this address?"
        return TransientError(
            f"{said}; {advice}", kind=kind, backend=self._backend, detail=words, retry_after_s=_retry_after(response)
        )

    async def _repeated(self, method: str, path: str, tries: int, **content: Any) -> httpx.Response:
        pause = _FIRST_PAUSE_S
        for _ in range(tries - 1):
            try:
                return await self._once(method, path, **content)
            except TransientError as error:
                advised = min(error.retry_after_s or 0.0, _LONGEST_ADVICE_S)
                await asyncio.sleep(max(pause * random.uniform(0.75, 1.25), advised))  # noqa: S311 - jitter
                pause *= 2
        return await self._once(method, path, **content)

    async def _once(self, method: str, path: str, **content: Any) -> httpx.Response:
        try:
            response = await self._http.request(method, self.base + path, **content)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None
        if response.status_code != 200:
            raise self.refused(response, f"{method} {path}")
        return response

    def _unreachable(self, error: httpx.HTTPError) -> TransientError:
        return TransientError(
            f"ComfyUI at {self.url!r} cannot be reached ({_named(error)}); check that it runs and that the address "
            "is right",
            kind=FailureKind.UNREACHABLE,
            backend=self._backend,
            detail=_named(error),
        )


def _named(error: httpx.HTTPError) -> str:
    words = redact(error, 200)
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def _retry_after(response: httpx.Response) -> float | None:
    try:
        seconds = float(response.headers.get("Retry-After", ""))
    except ValueError:
        return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
