"""The management API: `/v2/pods` and `/v2/catalog` (docs.runpod.io/api-reference-v2, REST v2 of 2026-08-18)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any, TypeVar

from aiohttp import web
from pydantic import ValidationError

from hybrid_video.emulators.faults import FaultPlan, FaultRule
from hybrid_video.emulators.runpod.access import ManagementQuota, RefusedError, accepts, key_of
from hybrid_video.emulators.runpod.catalog import COMMUNITY_SHARE, Catalog
from hybrid_video.emulators.runpod.fleet import Fleet
from hybrid_video.emulators.runpod.pod_body import (
    PodActionBody,
    PodRequest,
    PodUpdate,
    missing_image,
    rule_broken_by,
    violations,
)
from hybrid_video.emulators.runpod.pod_logs import stream_log
from hybrid_video.emulators.runpod.pods import ACTIONS, Pod, PodStatus
from hybrid_video.emulators.server import ScaledClock, inject, inject_after
from hybrid_video.models import Model

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_Work = Callable[[web.Request, FaultRule | None], Awaitable[web.StreamResponse]]
_Body = TypeVar("_Body", bound=Model)


class ManagementGate:
    """Authentication, quota and error form of every management route."""

    def __init__(self, api_key: str | None, quota: ManagementQuota) -> None:
        self._api_key, self._quota = api_key, quota

    def __call__(self, handler: Handler) -> Handler:
        """The handler behind the gate."""

        async def guarded(request: web.Request) -> web.StreamResponse:
            key = key_of(request)
            if not accepts(key, self._api_key):
                detail = "invalid bearer token" if key else "missing bearer token"
                return RefusedError(401, "Unauthorized", detail).response()
            window = self._quota.take()
            if window is not None:
                response = RefusedError(429, "Too Many Requests", f"{window} rate limit exceeded").response()
                response.headers.update(self._quota.headers())
                response.headers["Retry-After"] = str(self._quota.retry_after_s(window))
                return response
            answer = await _refusals_answered(handler, request)
            if not answer.prepared:
                answer.headers.update(self._quota.headers())
            return answer

        return guarded


class PodRoutes:
    """HTTP in front of a `Fleet` and a `Catalog`."""

    def __init__(self, fleet: Fleet, catalog: Catalog, *, clock: ScaledClock, faults: FaultPlan) -> None:
        self._fleet, self._catalog, self._clock, self._faults = fleet, catalog, clock, faults

    def add_to(self, app: web.Application, gate: ManagementGate) -> None:
        """Adds the routes."""
        router = app.router
        router.add_get("/v2/pods", gate(self._faulty("list", self._list)))
        router.add_post("/v2/pods", gate(self._create))
        router.add_get("/v2/pods/{id}", gate(self._faulty("get", self._get)))
        router.add_patch("/v2/pods/{id}", gate(self._patch))
        router.add_delete("/v2/pods/{id}", gate(self._faulty("delete", self._delete)))
        router.add_post("/v2/pods/{id}/action", gate(self._faulty("action", self._action)))
        router.add_get("/v2/pods/{id}/logs", gate(self._logs))
        router.add_get("/v2/catalog/gpus", gate(self._gpus))
        router.add_get("/v2/catalog/gpus/{id:.+}", gate(self._gpu))
        router.add_get("/v2/catalog/datacenters", gate(self._data_centers))

    def _faulty(self, operation: str, work: _Work) -> Handler:
        """Puts fault injection around a handler; rules match the name of the pod the path names."""

        async def handler(request: web.Request) -> web.StreamResponse:
            pod = self._fleet.get(request.match_info.get("id", ""))
            rule = self._faults.take("runpod", operation, pod.request.name if pod else "")
            if (early := await inject(request, rule)) is not None:
                return early
            answer = await work(request, rule)
            await inject_after(request, rule)
            return answer

        return handler

    async def _list(self, _request: web.Request, _rule: FaultRule | None) -> web.StreamResponse:
        now = self._clock.now()
        return web.json_response({"pods": [pod.as_json(now) for pod in self._fleet.listed()]})

    async def _create(self, request: web.Request) -> web.StreamResponse:
        body = await _json_object(request)
        gpu = body.get("gpu")
        label = f"{body.get('name', '')} {gpu.get('id', '') if isinstance(gpu, dict) else ''}"
        rule = self._faults.take("runpod", "create", label)
        if (early := await inject(request, rule)) is not None:
            return early
        pod = self._place(body, no_capacity=rule is not None and rule.action == "fail")
        self._fleet.add(pod)
        await inject_after(request, rule)
        return web.json_response(pod.as_json(self._clock.now()), status=201)

    def _place(self, body: dict[str, Any], *, no_capacity: bool) -> Pod:
        """Checks a create request and finds a machine for it: schema, rules, compute type, capacity, balance."""
        request = _read(PodRequest, body)
        if missing_image(body):
            raise RefusedError.unprocessable(("image: required unless templateId is set",))
        if broken := rule_broken_by(request):
            raise RefusedError.bad_request(broken)
        gpu = self._catalog.gpu(request.gpu.id) if request.gpu else None
        usd_per_s = self._catalog.usd_per_s(gpu.id) if gpu else None
        if request.gpu is None or gpu is None or usd_per_s is None:
            raise RefusedError.bad_request("the requested compute type is not available")
        place = self._catalog.place(gpu.id, list(request.dataCenterIds))
        if no_capacity or place is None or request.gpu.count > gpu.max_count:
            raise RefusedError.bad_request(f"no capacity: there are no instances available with {gpu.id}")
        if request.cloud == "COMMUNITY" and not gpu.community:
            raise RefusedError.bad_request("the requested compute type is not available")
        rate = usd_per_s * request.gpu.count * (COMMUNITY_SHARE if request.cloud == "COMMUNITY" else 1)
        self._require_an_hour(rate)
        now = self._clock.now()
        pod = Pod(request=request, data_center=place, usd_per_s=rate, created_at=now, boot=self._fleet.boot)
        pod.start(now)
        return pod

    async def _get(self, request: web.Request, rule: FaultRule | None) -> web.StreamResponse:
        pod = self._pod(request)
        if rule is not None and rule.action == "lose":
            raise RefusedError.not_found()
        return web.json_response(pod.as_json(self._clock.now()))

    async def _patch(self, request: web.Request) -> web.StreamResponse:
        pod = self._pod(request)
        update = _read(PodUpdate, await _json_object(request))
        pod.locked = pod.locked if update.locked is None else update.locked
        changed = pod.request.updated(update)
        if changed != pod.request:
            pod.request = changed
            if pod.status(self._clock.now()) is PodStatus.RUNNING:
                await self._fleet.restart(pod)
        return web.json_response(pod.as_json(self._clock.now()))

    async def _delete(self, request: web.Request, _rule: FaultRule | None) -> web.StreamResponse:
        pod = self._pod(request)
        if pod.status(self._clock.now()) is PodStatus.TERMINATED:
            raise RefusedError.not_found()
        await self._fleet.terminate(pod)
        return web.Response(status=204)

    async def _action(self, request: web.Request, _rule: FaultRule | None) -> web.StreamResponse:
        pod = self._pod(request)
        action = _read(PodActionBody, await _json_object(request)).action
        status = pod.status(self._clock.now())
        if action not in ACTIONS[status]:
            text = f"action {action} is not valid for a pod in status {status.value}"
            raise RefusedError(409, "Conflict", text)
        if pod.locked and action in ("stop", "restart"):
            raise RefusedError(409, "Conflict", "the pod is locked")
        if action == "terminate":
            await self._fleet.terminate(pod)
            return web.Response(status=204)
        await self._move(pod, action)
        return web.json_response(pod.as_json(self._clock.now()))

    async def _move(self, pod: Pod, action: str) -> None:
        if action == "stop":
            await self._fleet.stop(pod)
        elif action == "restart":
            await self._fleet.restart(pod)
        else:
            self._require_an_hour(pod.usd_per_s)
            if pod.request.gpu and self._catalog.level(pod.request.gpu.id, pod.data_center) == "NONE":
                raise RefusedError.bad_request("no capacity: there are not enough free GPUs on the host machine")
            pod.start(self._clock.now())
            self._fleet.watch_lease(pod)

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        pod = self._pod(request)
        return await stream_log(request, pod, self._clock)

    async def _gpus(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"gpus": self._catalog.gpus_json(availability=_with_stock(request))})

    async def _gpu(self, request: web.Request) -> web.StreamResponse:
        gpu = self._catalog.gpu(request.match_info["id"])
        if gpu is None:
            raise RefusedError.not_found()
        return web.json_response(self._catalog.gpu_json(gpu, availability=_with_stock(request)))

    async def _data_centers(self, request: web.Request) -> web.StreamResponse:
        availability = "GPU_AVAILABILITY" in request.query.get("include", "").split(",")
        return web.json_response({"dataCenters": self._catalog.data_centers_json(availability=availability)})

    def _pod(self, request: web.Request) -> Pod:
        pod = self._fleet.get(request.match_info["id"])
        if pod is None:
            raise RefusedError.not_found()
        return pod

    def _require_an_hour(self, usd_per_s: Decimal) -> None:
        """A start needs an hour's credit (docs: accounts-billing/billing)."""
        left_usd = self._fleet.left_usd()
        if left_usd is not None and left_usd < usd_per_s * 3600:
            raise RefusedError(402, "Payment Required", "insufficient balance: an hour of this pod must be covered")


async def _refusals_answered(handler: Handler, request: web.Request) -> web.StreamResponse:
    try:
        return await handler(request)
    except RefusedError as refusal:
        return refusal.response()


async def _json_object(request: web.Request) -> dict[str, Any]:
    try:
        body = await request.json()
    except ValueError:
        raise RefusedError.bad_request("the body is not valid JSON") from None
    if not isinstance(body, dict):
        raise RefusedError.unprocessable(("body: must be an object",))
    return body


def _read(model: type[_Body], body: dict[str, Any]) -> _Body:
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise RefusedError.unprocessable(violations(error)) from None


def _with_stock(request: web.Request) -> bool:
    """Whether stock is asked for; the API wants `include=AVAILABILITY` and `product` together or not at all."""
    availability = request.query.get("include", "") == "AVAILABILITY"
    if availability != ("product" in request.query):
        raise RefusedError.bad_request("include=AVAILABILITY and product must be used together")
    return availability
