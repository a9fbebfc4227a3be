"""The few calls to Prefect's REST API that starting, stopping and deploying need. Imports no Prefect."""

from __future__ import annotations

import os
import ssl
import time
from pathlib import Path
from typing import Any, Final

import httpx

from hybrid_video.errors import ConfigurationError
from hybrid_video.redaction import redact
from hybrid_video.trust import certificates

TIMEOUT_S = 30.0
"""A server that plans schedules on a machine with two cores was seen to take more than ten seconds."""

QUIET: Final = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1", "PREFECT_CLI_PROMPT": "false"}
OTHER_SERVER = ("PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_HOME")
"""Variables that would send a child to another server than ours."""


def client_environment(url: str, home: Path) -> dict[str, str]:
    """The environment of a process that is to talk to the server at `url`: this one's, with Prefect's part replaced."""
    kept = {name: value for name, value in os.environ.items() if name not in OTHER_SERVER}
    return kept | QUIET | {"PREFECT_API_URL": url, "PREFECT_HOME": str(home)}


def answers(url: str) -> bool:
    """Whether a Prefect server answers at this API address. Needs no authentication."""
    try:
        return httpx.get(f"{url}/health", timeout=2.0, verify=_trusted()).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def gone(url: str) -> bool:
    """Whether nobody listens at this API address any more; one that only takes long is busy, not gone."""
    try:
        httpx.get(f"{url}/health", timeout=2.0, verify=_trusted())
    except httpx.ConnectError:
        return True
    except httpx.HTTPError:
        return False
    return False


def _trusted() -> ssl.SSLContext:
    """Whose certificates are believed: a studio's own authority where it is named, else the usual ones."""
    file = os.environ.get("PREFECT_API_SSL_CERT_FILE")
    try:
        return ssl.create_default_context(cafile=file) if file else certificates()
    except OSError as error:
        raise ConfigurationError(
            f"PREFECT_API_SSL_CERT_FILE: the certificates in {file!r} cannot be read ({error.strerror or error}); give "
            "a PEM file"
        ) from None


BUSY_PAUSES_S = (0.5, 1.0, 2.0, 4.0)
"""A server on SQLite answers 503 when its database was locked and nothing was done; Prefect's clients retry it too."""


def call(url: str, method: str, path: str, body: object = None, *, allow: tuple[int, ...] = ()) -> Any:
    """One call; the decoded answer, or None for an empty one or a status in `allow`.

    PREFECT_API_AUTH_STRING, PREFECT_API_KEY and PREFECT_API_SSL_CERT_FILE are used as Prefect's own clients use them.

    Raises:
        ConfigurationError: the server does not answer or refuses.
    """
    name, _, password = os.environ.get("PREFECT_API_AUTH_STRING", "").partition(":")
    key = os.environ.get("PREFECT_API_KEY")
    try:
        for pause_s in (*BUSY_PAUSES_S, None):
            answer = httpx.request(
                method,
                f"{url}{path}",
                json=body if method != "GET" else None,
                auth=(name, password) if name else None,
                headers={"Authorization": f"Bearer {key}"} if key else None,
                timeout=TIMEOUT_S,
                verify=_trusted(),
            )
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE or pause_s is None:
                break
            time.sleep(pause_s)
    except httpx.HTTPError as error:
        raise ConfigurationError(
            f"the Prefect server at {url!r} does not answer ({type(error).__name__}); start it with "
            "`prefect server start`, and check PREFECT_API_URL"
        ) from None
    if answer.status_code in allow:
        return None
    if answer.status_code in (401, 403):
        raise ConfigurationError(
            f"the Prefect server at {url!r} refuses us (HTTP {answer.status_code}); set PREFECT_API_AUTH_STRING "
            "or PREFECT_API_KEY"
        )
    if answer.is_error:
        raise ConfigurationError(
            f"the Prefect server at {url!r} refused {method} {path} (HTTP {answer.status_code}): "
            f"{redact(answer.text, limit=300)}; its version may not fit this hybrid-video"
        )
    return answer.json() if answer.content else None
