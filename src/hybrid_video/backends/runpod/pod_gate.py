"""Proves that a pod's ComfyUI stands behind a gate that checks our token, before anything else is asked of it.

ComfyUI has no authentication at all (observed on 0.8.0), and `https://<pod id>-<port>.proxy.runpod.net` is open to
anyone who knows the pod's id (docs.runpod.io/pods/configuration/expose-ports). With custom nodes an open `/prompt` is
remote code execution, and exposed instances are hunted. So a pod that answers without a token is refused, not used.
"""

from __future__ import annotations

import secrets

import httpx

from hybrid_video.errors import ConfigurationError, FailureKind, TransientError
from hybrid_video.redaction import redact
from hybrid_video.settings import is_loopback
from hybrid_video.trust import certificates

ROUTES = ("/system_stats", "/prompt")
"""Harmless to GET; `/prompt` is the one that must never be open."""

_TIMEOUT = httpx.Timeout(15.0, connect=5.0)


async def prove_closed(pod_id: str, url: str, *, backend: str) -> None:
    """Asks without a token and with a wrong one; both must be refused with 401 or 403.

    Raises:
        ConfigurationError: the ComfyUI is open, or what guards it is no token check.
        TransientError: UNREACHABLE, it is still booting (502) or cannot be reached, so nothing is proven.
    """
    wrong = {"Authorization": f"Bearer {secrets.token_urlsafe(24)}"}
    async with httpx.AsyncClient(timeout=_TIMEOUT, trust_env=not is_loopback(url), verify=certificates()) as client:
        for route in ROUTES:
            for headers in ({}, wrong):
                try:
                    response = await client.get(f"{url}{route}", headers=headers)
                except httpx.HTTPError as error:
                    raise _not_up(pod_id, type(error).__name__, redact(error, 200), backend) from error
                _judge(pod_id, route, response.status_code, sent_wrong_token=bool(headers), backend=backend)


def _judge(pod_id: str, route: str, code: int, *, sent_wrong_token: bool, backend: str) -> None:
    if code in (401, 403):
        return
    if code in (404, 408, 429) or code >= 500:
        raise _not_up(pod_id, f"{route} answers {code}", "", backend)
    how = "with a wrong token" if sent_wrong_token else "without a token"
    raise ConfigurationError(
        f"pod {pod_id!r} answers {route!r} {how} ({code} instead of 401 or 403): its ComfyUI is open to everyone who "
        "knows the pod's id, which lets strangers run code on it. It is not used. Let ComfyUI listen on 127.0.0.1 in "
        "the pod, put a reverse proxy that checks 'Authorization: Bearer <HYBRID_VIDEO_RUNPOD_POD_TOKEN>' on the "
        "exposed port, then try again"
    )


def _not_up(pod_id: str, what: str, detail: str, backend: str) -> TransientError:
    return TransientError(
        f"pod {pod_id!r} is not up yet ({what}); a started pod answers 502 for minutes, so wait, or look at its log",
        kind=FailureKind.UNREACHABLE,
        backend=backend,
        detail=detail,
        execution_s=0.0,
    )
