"""The door of a pod: renews its lease, and finds out whether the ComfyUI behind it renders.

Ready means that a prompt of ours went through the token check, was rendered and is in the history: a RUNNING container
answers 502 for minutes (docs.runpod.io/pods/configuration/expose-ports), and a ComfyUI that answers may still be unable
to write a clip. The probe needs no model: a few empty frames, encoded as the real workflows encode theirs.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import Any, Literal

import httpx

from hybrid_video.backends.runpod.pod_gate import prove_closed
from hybrid_video.backends.runpod.transport import json_object
from hybrid_video.errors import ConfigurationError, FailureKind, TransientError
from hybrid_video.redaction import redact
from hybrid_video.settings import is_loopback
from hybrid_video.trust import certificates

PROBE_PREFIX = "hv-probe"
_TIMEOUT = httpx.Timeout(20.0, connect=5.0)

LeaseAnswer = Literal["renewed", "out of reach", "ending", "no keeper", "refused"]
"""out of reach: it may be up later; ending: its lease had run out; refused: it wants another token."""


class PodDoor:
    """Calls to one pod's proxy with its token. The caller closes `http`."""

    def __init__(self, pod_id: str, url: str, token: str, http: httpx.AsyncClient, *, backend: str) -> None:
        self.pod_id, self._url, self._http, self._backend = pod_id, url, http, backend
        self._headers = {"Authorization": f"Bearer {token}"}

    async def renew(self, lease_s: int) -> LeaseAnswer:
        """Asks the keeper for a new lease; safe to repeat."""
        try:
            response = await self._http.post(
                f"{self._url}/lease", json={"lease_s": lease_s}, headers=self._headers, timeout=_TIMEOUT
            )
        except httpx.HTTPError:
            return "out of reach"
        code = response.status_code
        if code in (401, 403):
            return "refused"
        if code in (404, 405):
            return "no keeper"
        if code == 410:
            return "ending"
        if code != 200:
            return "out of reach"
        return "renewed" if "lease_s" in (json_object(response) or {}) else "no keeper"

    async def prove_ready(self, *, patience_s: float, pause_s: float = 0.5) -> float:
        """Renders a probe; returns the seconds it took.

        Raises:
            ConfigurationError: it is open to strangers, or its ComfyUI lacks the nodes every clip needs.
            TransientError: it is not up yet, or did not render in time.
        """
        began = time.monotonic()
        await prove_closed(self.pod_id, self._url, backend=self._backend)
        prompt_id = str(uuid.uuid4())
        answer = await self._call(
            "POST", "/prompt", {"prompt": _graph(), "prompt_id": prompt_id, "client_id": prompt_id}
        )
        if answer.get("node_errors") or answer.get("error"):
            words = redact(answer.get("error") or answer["node_errors"], 300)
            raise ConfigurationError(
                f"pod {self.pod_id!r} refuses the probe: {words}; its image lacks core nodes, use docker/comfyui-pod"
            )
        while time.monotonic() - began < patience_s:
            entry = (await self._call("GET", f"/history/{prompt_id}")).get(prompt_id)
            if entry:
                return self._judge(entry, time.monotonic() - began)
            await asyncio.sleep(pause_s)
        raise self._not_ready(f"had not rendered a probe after {patience_s:.0f} s")

    def _judge(self, entry: dict[str, Any], seconds: float) -> float:
        status = entry.get("status") or {}
        files = [file for output in (entry.get("outputs") or {}).values() for file in output.get("images", [])]
        if status.get("status_str") != "success" or not files:
            words = redact((status.get("messages") or [[""]])[-1], 300)
            raise self._not_ready(f"could not render a probe: {words}")
        return seconds

    async def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        try:
            response = await self._http.request(
                method, f"{self._url}{path}", json=body, headers=self._headers, timeout=_TIMEOUT
            )
            data = response.json() if response.status_code in (200, 400) else None
        except (httpx.HTTPError, ValueError) as error:
            raise self._not_ready(f"does not answer {path.split('/')[1]!r} ({type(error).__name__})") from error
        if not isinstance(data, dict):
            raise self._not_ready(f"answers {path.split('/')[1]!r} with {response.status_code}")
        return data

    def _not_ready(self, what: str) -> TransientError:
        return TransientError(
            f"pod {self.pod_id!r} {what}; it is tried again until HYBRID_VIDEO_PODS_READY_TIMEOUT_S is over",
            kind=FailureKind.UNREACHABLE,
            backend=self._backend,
            execution_s=0.0,
        )


def client(url: str) -> httpx.AsyncClient:
    """Connections to the doors of pods; a proxy of the environment must not come between us and this machine."""
    return httpx.AsyncClient(timeout=_TIMEOUT, trust_env=not is_loopback(url), verify=certificates())


def _graph() -> dict[str, Any]:
    """Four empty frames as an MP4, with core nodes of ComfyUI 0.8.0; a prefix of its own keeps it out of the cache."""
    prefix = f"{PROBE_PREFIX}/{uuid.uuid4().hex[:8]}"
    return {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 4, "color": 0}},
        "2": {"class_type": "CreateVideo", "inputs": {"images": ["1", 0], "fps": 8.0}},
        "3": {
            "class_type": "SaveVideo",
            "inputs": {"video": ["2", 0], "filename_prefix": prefix, "format": "mp4", "codec": "h264"},
        },
    }
