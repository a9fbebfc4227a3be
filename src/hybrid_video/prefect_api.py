"""The few calls to Prefect's REST API that starting, stopping and deploying need. Imports no Prefect."""

from __future__ import annotations

import os
from typing import Any

import httpx

from hybrid_video.errors import ConfigurationError
from hybrid_video.redaction import redact

TIMEOUT_S = 10.0


def answers(url: str) -> bool:
    """Whether a Prefect server answers at this API address. Needs no authentication."""
    try:
        return httpx.get(f"{url}/health", timeout=2.0).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def call(url: str, method: str, path: str, body: object = None, *, allow: tuple[int, ...] = ()) -> Any:
    """One call; the decoded answer, or None for an empty one or a status in `allow`.

    A server behind PREFECT_SERVER_API_AUTH_STRING is called with PREFECT_API_AUTH_STRING, as Prefect's clients do.

    Raises:
        ConfigurationError: the server does not answer or refuses.
    """
    name, _, password = os.environ.get("PREFECT_API_AUTH_STRING", "").partition(":")
    try:
        answer = httpx.request(
            method,
            f"{url}{path}",
            json=body if method != "GET" else None,
            auth=(name, password) if name else None,
            timeout=TIMEOUT_S,
        )
    except httpx.HTTPError as error:
        raise ConfigurationError(
            f"the Prefect server at {url!r} does not answer ({type(error).__name__}); start it with `hybrid-video up` "
            "or `prefect server start`, and check PREFECT_API_URL"
        ) from None
    if answer.status_code in allow:
        return None
    if answer.status_code in (401, 403):
        raise ConfigurationError(
            f"the Prefect server at {url!r} refuses us (HTTP {answer.status_code}); set PREFECT_API_AUTH_STRING"
        )
    if answer.is_error:
        raise ConfigurationError(
            f"the Prefect server at {url!r} refused {method} {path} (HTTP {answer.status_code}): "
            f"{redact(answer.text, limit=300)}; its version may not fit this hybrid-video"
        )
    return answer.json() if answer.content else None
