"""The gate and the lease keeper inside a pod: who is let in, and how long the pod lives (docs/pods.md, "The lease")."""

from __future__ import annotations

import hmac
import math

from aiohttp import web

from hybrid_video.emulators.faults import FaultPlan
from hybrid_video.emulators.runpod.access import key_of
from hybrid_video.emulators.runpod.fleet import Fleet, token_of
from hybrid_video.emulators.runpod.pods import Pod, PodStatus
from hybrid_video.emulators.server import ScaledClock, inject, inject_after

LONGEST_LEASE_S = 86_400.0


class LeaseKeeper:
    """Answers `/lease` from the moment the container runs: `GET` tells, `POST {"lease_s": N}` begins a new lease."""

    def __init__(self, fleet: Fleet, *, clock: ScaledClock, faults: FaultPlan) -> None:
        self._fleet, self._clock, self._faults = fleet, clock, faults

    async def answer(self, request: web.Request, pod: Pod) -> web.StreamResponse:
        """One request to one pod."""
        now = self._clock.now()
        if pod.status(now) is not PodStatus.RUNNING:
            return web.Response(status=502, text="Bad Gateway")
        if not lets_in(request, pod):
            return unauthorized()
        if pod.lease_until is None:
            return web.json_response({"error": "this pod has no lease"}, status=404)
        if request.method == "POST":
            return await self._renew(request, pod, now)
        return _told(pod, pod.lease_until - now, now)

    async def _renew(self, request: web.Request, pod: Pod, now: float) -> web.StreamResponse:
        lease_s = await _asked(request)
        if not 1 <= lease_s <= LONGEST_LEASE_S:
            error = f"lease_s must be a number from 1 to {LONGEST_LEASE_S:g}"
            return web.json_response({"error": error}, status=400)
        rule = self._faults.take("runpod", "lease", pod.request.name)
        if (early := await inject(request, rule)) is not None:
            return early
        pod.lease_until = now + lease_s
        self._fleet.watch_lease(pod)
        await inject_after(request, rule)
        return _told(pod, lease_s, now)


def lets_in(request: web.Request, pod: Pod) -> bool:
    """Whether the pod's gate accepts the request's token."""
    expected = token_of(pod)
    return not expected or hmac.compare_digest(key_of(request).encode(), expected.encode())


def unauthorized() -> web.Response:
    """What everybody else gets."""
    return web.json_response({"error": "unauthorized"}, status=401, headers={"WWW-Authenticate": "Bearer"})


def _told(pod: Pod, lease_s: float, now: float) -> web.Response:
    ends_in_s = max(0.0, (pod.lease_until or now) - now)
    return web.json_response({"name": pod.request.name, "lease_s": lease_s, "ends_in_s": ends_in_s})


async def _asked(request: web.Request) -> float:
    """The lease a renewal asks for; 0 when it makes no sense."""
    try:
        body = await request.json()
    except ValueError:
        return 0.0
    value = body.get("lease_s") if isinstance(body, dict) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return 0.0
    return float(value)
