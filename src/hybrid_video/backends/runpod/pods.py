"""Client of RunPod's management API v2: create, list, get, start, stop, terminate; catalogue and billing.

Source: docs.runpod.io/api-reference-v2, version 2.0.0 of 2026-08. REST v1 (`rest.runpod.io`) is announced to be
switched off on 2026-12-01 and is not used. A create has no idempotency key, so it is sent once; when its answer is
lost, `find` looks for the pod by its name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Literal, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from hybrid_video.backends.runpod.pod_records import Cloud, GpuType, Pod, PodBill, PodSpec, ServerlessBill
from hybrid_video.backends.runpod.transport import RunPodHttp, json_object, key_of, words_of
from hybrid_video.errors import BackendError, FailureKind, SubmitUncertain, TerminalError, TransientError
from hybrid_video.settings import RunPodSettings

KEY = "runpod-pod"
Bucket = Literal["hour", "day", "week", "month", "year"]
Record = TypeVar("Record", bound=BaseModel)


class PodsClient:
    """The pods of one account."""

    def __init__(self, http: RunPodHttp) -> None:
        self._http = http

    @classmethod
    def from_settings(cls, settings: RunPodSettings) -> PodsClient:
        """A client for the configured address and key.

        Raises:
            ConfigurationError: there is no usable API key.
        """
        return cls(RunPodHttp(settings.management_url, key_of(settings.api_key, "RUNPOD_API_KEY"), backend=KEY))

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.close()

    async def create(self, spec: PodSpec) -> Pod:
        """Creates a pod of one GPU type; it is PROVISIONING, and paid for from now on.

        Raises:
            TransientError: certainly nothing was created: NO_CAPACITY (400: also a broken rule; when every candidate
                gives it, it is the request), RATE_LIMITED, UNREACHABLE.
            TerminalError: certainly nothing was created, and the same request cannot help: INVALID_REQUEST (422),
                INSUFFICIENT_FUNDS (402), AUTHENTICATION (401, or 403: no access to this GPU pool).
            SubmitUncertain: a pod may exist; look with `find`, never create again blindly.
        """
        response = await self._http.submit("/pods", json.dumps(spec.body()).encode())
        if response.status_code >= 300:
            raise _refused(response, f"creating a pod with {spec.gpu!r}")
        try:
            return Pod.model_validate(json_object(response))
        except ValidationError:
            raise SubmitUncertain(
                f"RunPod answered {response.status_code} to the creation of pod {spec.name!r} with something "
                "unreadable; the pod may exist and cost money: look for it by name before creating another",
                backend=KEY,
                detail=words_of(response),
            ) from None

    async def find(self, name: str) -> Pod | None:
        """The living pod of this name, for a create whose answer was lost."""
        return next((pod for pod in await self.list() if pod.name == name and pod.status != "TERMINATED"), None)

    async def list(self) -> tuple[Pod, ...]:
        """Every pod of the account, also those that are not ours."""
        return await self._records("/pods", "pods", Pod)

    async def get(self, pod_id: str) -> Pod | None:
        """One pod, or None when it does not exist (any more)."""
        response = await self._http.read("GET", _path(pod_id))
        if response.status_code == 404:
            return None
        return _parse(response, Pod, f"looking at pod {pod_id!r}")

    async def start(self, pod_id: str) -> Pod:
        """Starts a stopped pod. It may come back without its GPU when others took it.

        Raises:
            BackendError: NO_CAPACITY, INVALID_REQUEST when its status does not allow it (409), EXPIRED when it is gone.
        """
        return await self._act(pod_id, "start")

    async def stop(self, pod_id: str) -> Pod:
        """Stops a pod: the GPU is given back, its volume is kept and billed at the price of stopped storage."""
        return await self._act(pod_id, "stop")

    async def terminate(self, pod_id: str) -> bool:
        """Deletes a pod and its local disk. False when it was gone already; either way it costs nothing from now on."""
        response = await self._http.read("DELETE", _path(pod_id))
        if response.status_code == 404:
            return False
        if response.status_code >= 300:
            raise _refused(response, f"terminating pod {pod_id!r}")
        return True

    async def catalogue(self, *, cloud: Cloud = "SECURE", count: int = 1) -> tuple[GpuType, ...]:
        """GPU types with list prices and their present stock for pods."""
        query = {"include": "AVAILABILITY", "product": "POD", "cloud": cloud, "count": str(count)}
        return await self._records("/catalog/gpus", "gpus", GpuType, query)

    async def pod_bills(self, *, pod_id: str = "", bucket: Bucket = "hour", last: int = 24) -> tuple[PodBill, ...]:
        """What pods cost in the last so many buckets, as RunPod has booked it."""
        query = {"bucketSize": bucket, "lastN": str(last)} | ({"podId": pod_id} if pod_id else {})
        return await self._records("/billing/pods", "records", PodBill, query)

    async def serverless_bills(
        self, *, endpoint_id: str = "", bucket: Bucket = "hour", last: int = 24
    ) -> tuple[ServerlessBill, ...]:
        """What serverless endpoints cost in the last so many buckets: start-up and idle seconds included."""
        query = {"bucketSize": bucket, "lastN": str(last)} | ({"serverlessId": endpoint_id} if endpoint_id else {})
        return await self._records("/billing/serverless", "records", ServerlessBill, query)

    async def _act(self, pod_id: str, action: str) -> Pod:
        response = await self._http.read("POST", f"{_path(pod_id)}/action", body={"action": action})
        if response.status_code == 409:
            pod = await self.get(pod_id)
            if pod is not None and pod.status in _REACHED[action]:
                return pod  # it was so already, or an answer of ours was lost on the way
        return _parse(response, Pod, f"the action {action!r} on pod {pod_id!r}")

    async def _records(
        self, path: str, wrapper: str, record: type[Record], query: Mapping[str, str] | None = None
    ) -> tuple[Record, ...]:
        response = await self._http.read("GET", path, params=query)
        if response.status_code >= 300:
            raise _refused(response, f"reading {path}")
        rows = (json_object(response) or {}).get(wrapper)
        if not isinstance(rows, list):
            raise _unreadable(response, f"reading {path}")
        try:
            return tuple(record.model_validate(row) for row in rows)
        except ValidationError:
            raise _unreadable(response, f"reading {path}") from None


def _path(pod_id: str) -> str:
    return f"/pods/{quote(pod_id, safe='')}"


def _parse(response: httpx.Response, record: type[Record], what: str) -> Record:
    if response.status_code >= 300:
        raise _refused(response, what)
    try:
        return record.model_validate(json_object(response))
    except ValidationError:
        raise _unreadable(response, what) from None


def _unreadable(response: httpx.Response, what: str) -> TransientError:
    return TransientError(
        f"RunPod's answer to {what} makes no sense ({response.status_code}); try again later",
        kind=FailureKind.UNREACHABLE,
        backend=KEY,
        detail=words_of(response),
    )


_REACHED: dict[str, frozenset[str]] = {
    "start": frozenset({"PROVISIONING", "STARTING", "RUNNING"}),
    "stop": frozenset({"EXITED"}),
}

_Row = tuple[type[BackendError], FailureKind, str]

_REFUSALS: dict[int, _Row] = {
    400: (
        TransientError,
        FailureKind.NO_CAPACITY,
        "no capacity, or the request breaks a rule; try another GPU type or region, or correct the request if all fail",
    ),
    402: (TerminalError, FailureKind.INSUFFICIENT_FUNDS, "the balance is too low; top up the account"),
    403: (TerminalError, FailureKind.AUTHENTICATION, "the key or account may not do this; use another key or GPU pool"),
    404: (TransientError, FailureKind.EXPIRED, "there is no such thing any more; list the pods to see what is left"),
    409: (TerminalError, FailureKind.INVALID_REQUEST, "its present status does not allow it; look at its actions"),
}
_CONTRACT: _Row = (
    TerminalError,
    FailureKind.INVALID_REQUEST,
    "the request does not match the contract; this is a fault of the configuration or of this program",
)
_REDIRECT: _Row = (
    TerminalError,
    FailureKind.UNREACHABLE,
    "the address is not the management API; check HYBRID_VIDEO_RUNPOD_PODS_URL",
)


def _refused(response: httpx.Response, what: str) -> BackendError:
    code = response.status_code
    error, kind, advice = _REDIRECT if code < 400 else _REFUSALS.get(code, _CONTRACT)
    words = words_of(response)
    said = f" and says {words!r}" if words else ""
    return error(
        f"RunPod refuses {what} ({code}){said}: {advice}", kind=kind, backend=KEY, detail=words, execution_s=0.0
    )
