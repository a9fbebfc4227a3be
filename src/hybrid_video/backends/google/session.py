"""Connections to Google: two SDK clients, one only for submits and cancels and one for everything else.

Why two. google-genai 3.4.0 repeats calls on its own. Measured with its default options: an Interactions create that
was answered 503 was sent five times, and a Veo submit whose connection was cut after it had been accepted was sent
again and paid for twice. So the submitting client has `attempts=1`, which ends the first, and runs over a plain httpx
client, which ends the second; that client keeps no connections alive, because a stale one would fail and leave it
unknown whether the request arrived. Downloads use httpx directly: the SDK follows redirects with the key in a header
of its own, and so hands it to any host it is sent to.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import httpx
import stamina
from google.genai import Client, types
from google.genai.client import AsyncClient

from hybrid_video.backends.google.failures import SDK_ERRORS, passes, read_error
from hybrid_video.trust import certificates

T = TypeVar("T")
JOB_HEADER = "x-hybrid-video-job"
"""Names our job; Google ignores headers it does not know, logs and the emulator show it."""
READ_ATTEMPTS = 3


class Session:
    """Open connections of one backend, bound to one event loop. Opening does no I/O.

    Args:
        base_url: origin of the API.
        build: makes an SDK client from HTTP options (key or OAuth).
        submit_timeout_s: how long a submit waits for its answer before it is uncertain.
    """

    def __init__(
        self,
        base_url: str,
        api_version: str,
        build: Callable[[types.HttpOptions], Client],
        *,
        submit_timeout_s: float,
        read_timeout_s: float = 60.0,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self.http = httpx.AsyncClient(timeout=httpx.Timeout(read_timeout_s, connect=10.0), verify=certificates())
        self._once = httpx.AsyncClient(
            limits=httpx.Limits(max_connections=100, max_keepalive_connections=0),
            timeout=httpx.Timeout(submit_timeout_s, connect=10.0),
            verify=certificates(),
        )

        def client(http: httpx.AsyncClient, timeout_s: float) -> AsyncClient:
            options = types.HttpOptions(
                base_url=self.base_url,
                api_version=api_version,
                timeout=round(timeout_s * 1000),
                retry_options=types.HttpRetryOptions(attempts=1),
                httpx_async_client=http,
                # for the clients that it makes and we do not use: otherwise it reads all certificates for each of them
                client_args={"verify": certificates()},
                async_client_args={"verify": certificates(), "ssl": certificates()},
            )
            return build(options).aio

        self.submitting = client(self._once, submit_timeout_s)
        self.reading = client(self.http, read_timeout_s)

    async def read(self, call: Callable[[], Awaitable[T]], *, backend: str, what: str) -> T:
        """Makes a read, repeating it a few times while the trouble looks passing.

        Raises:
            BackendError: what it finally ended in.
        """
        try:
            async for attempt in stamina.retry_context(
                on=passes, attempts=READ_ATTEMPTS, timeout=60.0, wait_initial=0.2, wait_max=2.0, wait_jitter=0.2
            ):
                with attempt:
                    return await call()
        except SDK_ERRORS as error:
            raise read_error(error, backend=backend, what=what) from error
        raise AssertionError("unreachable: the loop returns or raises")

    async def close(self) -> None:
        """Closes the connections."""
        await self.http.aclose()
        await self._once.aclose()
