"""HTTP towards RunPod's two hosts: reads are repeated, submits are sent exactly once, foreign errors are translated.

`read` is for calls that change nothing, or that may safely be sent twice (cancel, stop, terminate). `submit` is for
calls that cost money when they are accepted (`POST /run`, `POST /v2/pods`): it uses a connection of its own, so that a
lost answer is never just the end of an idle keep-alive connection, and it tells "certainly not accepted" from "perhaps
accepted". What a status code below 500 means is left to the caller, because it differs between the two hosts.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import stamina
from pydantic import SecretStr

from hybrid_video.errors import ConfigurationError, FailureKind, SubmitUncertain, TerminalError, TransientError
from hybrid_video.redaction import redact
from hybrid_video.settings import is_loopback
from hybrid_video.trust import certificates

READ_TIMEOUT = httpx.Timeout(20.0, connect=10.0)
SUBMIT_TIMEOUT = httpx.Timeout(60.0, connect=10.0)
READ_ATTEMPTS = 4
LONGEST_ADVICE_S = 15.0
"""A read follows `Retry-After` up to here; a longer pause is left to the caller."""

NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError, httpx.UnsupportedProtocol)
"""Errors that end a request before a single byte of it has left."""

DETAIL_LENGTH = 600


def key_of(secret: SecretStr | None, variable: str) -> str:
    """The plain key or token.

    Raises:
        ConfigurationError: it is missing, or holds characters that no HTTP header may carry.
    """
    key = secret.get_secret_value().strip() if secret else ""
    if not key:
        raise ConfigurationError(f"{variable} is not set; set it to use RunPod")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigurationError(f"{variable} holds spaces, line breaks or non-ASCII characters; copy it again")
    return key


def retry_after_s(response: httpx.Response) -> float | None:
    """Seconds the server asks us to wait: `Retry-After` as a number or as a date."""
    value = response.headers.get("Retry-After", "").strip()
    with contextlib.suppress(ValueError):
        seconds = float(value)
        return max(0.0, seconds) if math.isfinite(seconds) else None
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, TypeError):
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def words_of(response: httpx.Response) -> str:
    """The vendor's own words: `detail` and `errors` of a problem document, else the body, shortened and redacted.

    Error bodies of the job API are not documented, so any body is accepted: empty, JSON or HTML.
    """
    try:
        data = response.json()
    except ValueError:
        return redact(response.text.strip(), DETAIL_LENGTH)
    if isinstance(data, dict):
        parts = [data.get(key) for key in ("title", "detail", "error", "message")]
        extra = data.get("errors")
        parts += extra if isinstance(extra, list) else []
        words = "; ".join(str(part) for part in parts if part)
        return redact(words or json.dumps(data), DETAIL_LENGTH)
    return redact(data, DETAIL_LENGTH)


def json_object(response: httpx.Response) -> dict[str, Any] | None:
    """The body as a JSON object, or None when it is anything else."""
    try:
        data = response.json()
    except ValueError:
        return None
    return data if isinstance(data, dict) else None


class RunPodHttp:
    """One host with one key. The connection pool is opened by the first call and may be reopened after `close`."""

    def __init__(self, base_url: str, key: str, *, backend: str, user_agent: str = "hybrid-video") -> None:
        self.base_url = base_url.rstrip("/")
        self.backend = backend
        self._headers = {"Authorization": f"Bearer {key}", "User-Agent": user_agent, "Accept": "application/json"}
        self._client: httpx.AsyncClient | None = None
        # A proxy of the environment must not come between us and a server on this machine.
        self._trust_env = not is_loopback(base_url)

    async def close(self) -> None:
        """Closes the connection pool."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def read(
        self, method: str, url: str, *, params: Mapping[str, str] | None = None, body: object = None
    ) -> httpx.Response:
        """Sends a repeatable request and returns any answer below 500 but 401, 408 and 429.

        Raises:
            TransientError: UNREACHABLE or RATE_LIMITED after several tries.
            TerminalError: AUTHENTICATION.
        """
        attempts = stamina.retry_context(
            on=_worth_repeating, attempts=READ_ATTEMPTS, timeout=60.0, wait_initial=0.2, wait_max=3.0, wait_jitter=0.2
        )
        async for attempt in attempts:
            with attempt:
                return await self._read_once(method, url, params, body)
        raise AssertionError("unreachable: stamina raises the last error")  # pragma: no cover

    async def _read_once(self, method: str, url: str, params: Mapping[str, str] | None, body: object) -> httpx.Response:
        try:
            response = await self._pool().request(
                method, self._absolute(url), params=params, json=body, timeout=READ_TIMEOUT
            )
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        code = response.status_code
        if code == 401:
            raise self.refused_key(response)
        if code == 429:
            raise self.rate_limited(response)
        if code == 408 or code >= 500:
            raise TransientError(
                f"RunPod answered {code} at {self.base_url!r}; it usually passes, else see its status page",
                kind=FailureKind.UNREACHABLE,
                backend=self.backend,
                detail=words_of(response),
                retry_after_s=retry_after_s(response),
            )
        return response

    async def submit(self, url: str, content: bytes) -> httpx.Response:
        """Sends a paid request once and returns any answer below 500 but 401, 408 and 429.

        A 5xx or 408 counts as perhaps accepted: it may come from a gateway in front of a server that took the job,
        and neither `POST /run` nor `POST /v2/pods` has an idempotency key that would make a second try safe.

        Raises:
            TransientError: certainly not accepted: no connection (UNREACHABLE), or 429 (RATE_LIMITED).
            TerminalError: AUTHENTICATION.
            SubmitUncertain: the answer was lost, timed out, or was a 5xx.
        """
        headers = {**self._headers, "Content-Type": "application/json"}
        async with self._single_connection(headers) as client:
            try:
                response = await client.post(self._absolute(url), content=content)
            except NOT_SENT as error:
                raise self._unreachable(error) from error
            except httpx.HTTPError as error:
                raise self._uncertain(f"the answer was lost ({type(error).__name__})", redact(error)) from error
        if response.status_code == 401:
            raise self.refused_key(response)
        if response.status_code == 429:
            raise self.rate_limited(response)
        if response.status_code == 408 or response.status_code >= 500:
            raise self._uncertain(f"the answer was {response.status_code}", words_of(response))
        return response

    def rate_limited(self, response: httpx.Response) -> TransientError:
        """The error of a 429."""
        wait_s = retry_after_s(response)
        advice = f"it asks to wait {wait_s:g} s" if wait_s is not None else "it names no time to wait"
        return TransientError(
            f"RunPod limits the rate of requests (429); {advice}",
            kind=FailureKind.RATE_LIMITED,
            backend=self.backend,
            detail=words_of(response),
            execution_s=0.0,
            retry_after_s=wait_s,
        )

    def refused_key(self, response: httpx.Response) -> TerminalError:
        """The error of a 401 or 403."""
        return TerminalError(
            f"RunPod refuses the API key ({response.status_code}); check RUNPOD_API_KEY, and that the key may use "
            "this API and endpoint",
            kind=FailureKind.AUTHENTICATION,
            backend=self.backend,
            detail=words_of(response),
            execution_s=0.0,
        )

    def _unreachable(self, error: httpx.HTTPError) -> TransientError:
        return TransientError(
            f"RunPod cannot be reached at {self.base_url!r} ({type(error).__name__}); check the network and "
            "the address",
            kind=FailureKind.UNREACHABLE,
            backend=self.backend,
            detail=redact(error, DETAIL_LENGTH),
            execution_s=0.0,
        )

    def _uncertain(self, what: str, detail: str) -> SubmitUncertain:
        return SubmitUncertain(
            f"RunPod may have accepted the request, but {what}; it is not sent again, because it may already cost "
            "money: look at the endpoint's or the pods' list in the RunPod console",
            backend=self.backend,
            detail=detail,
        )

    def _absolute(self, url: str) -> str:
        return url if url.startswith(("http://", "https://")) else f"{self.base_url}{url}"

    def _pool(self) -> httpx.AsyncClient:
        if self._client is None or self._client.is_closed:
            self._client = httpx.AsyncClient(
                headers=self._headers, timeout=READ_TIMEOUT, trust_env=self._trust_env, verify=certificates()
            )
        return self._client

    @contextlib.asynccontextmanager
    async def _single_connection(self, headers: dict[str, str]) -> AsyncIterator[httpx.AsyncClient]:
        limits = httpx.Limits(max_connections=1, max_keepalive_connections=0)
        async with httpx.AsyncClient(
            headers=headers, timeout=SUBMIT_TIMEOUT, limits=limits, trust_env=self._trust_env, verify=certificates()
        ) as client:
            yield client


def _worth_repeating(error: Exception) -> bool | float:
    if not isinstance(error, TransientError):
        return False
    if error.retry_after_s is None:
        return True
    return error.retry_after_s if error.retry_after_s <= LONGEST_ADVICE_S else False
