"""What was spent, as `/v2/billing` reports it: time buckets with a lag (api-reference-v2/openapi.json, 2026-08-20).

Here, and only here, the whole of a serverless worker's life is billed: start, execution and idle time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from aiohttp import web

from hybrid_video.emulators.runpod.access import RefusedError
from hybrid_video.emulators.runpod.metering import Usage
from hybrid_video.emulators.runpod.pod_routes import ManagementGate
from hybrid_video.emulators.runpod.pods import rfc3339
from hybrid_video.emulators.server import ScaledClock

BUCKETS = {"hour": 3600, "day": 86_400, "week": 7 * 86_400, "month": 30 * 86_400, "year": 365 * 86_400}
_DEFAULT_WINDOW_S = 30 * 86_400
_SERVERLESS_AMOUNTS = ("totalAmount", "gpuAmount", "cpuAmount", "diskAmount", "feeAmount")
_POD_AMOUNTS = _SERVERLESS_AMOUNTS[:-1]


@dataclass(frozen=True)
class Window:
    """The resolved query: whole buckets from `start` to `end`."""

    start: float
    end: float
    bucket: str

    def edges(self) -> Iterable[tuple[float, float]]:
        """Begin and end of each bucket."""
        size = BUCKETS[self.bucket]
        at = self.start
        while at < self.end:
            yield at, at + size
            at += size

    @classmethod
    def read(cls, query: Any, now: float) -> Window:
        """Reads `bucketSize`, and `lastN` or `startTime` and `endTime`.

        Raises:
            ValueError: a value makes no sense.
        """
        bucket = query.get("bucketSize", "day")
        if bucket not in BUCKETS:
            raise ValueError(f"bucketSize must be one of {', '.join(BUCKETS)}")
        size = BUCKETS[bucket]
        if "lastN" in query:
            if "startTime" in query or "endTime" in query:
                raise ValueError("lastN is mutually exclusive with startTime and endTime")
            count = int(query["lastN"])
            if not 1 <= count <= 1000:
                raise ValueError("lastN must be between 1 and 1000")
            end = float((math.floor(now / size) + 1) * size)
            return cls(end - count * size, end, bucket)
        first = _moment(query.get("startTime"), now - _DEFAULT_WINDOW_S)
        last = _moment(query.get("endTime"), now)
        return cls(math.floor(first / size) * size, math.ceil(last / size) * size, bucket)


class BillingRoutes:
    """Reads the meters; `lag_s` simulated seconds of spending are not reported yet."""

    def __init__(
        self,
        *,
        clock: ScaledClock,
        pods: Callable[[], Sequence[Usage]],
        serverless: Callable[[], Sequence[Usage]],
        lag_s: float,
    ) -> None:
        self._clock, self._pods, self._serverless, self._lag_s = clock, pods, serverless, lag_s

    def add_to(self, app: web.Application, gate: ManagementGate) -> None:
        """Adds the routes."""
        app.router.add_get("/v2/billing", gate(self._all))
        app.router.add_get("/v2/billing/pods", gate(self._pod_history))
        app.router.add_get("/v2/billing/serverless", gate(self._serverless_history))

    async def _pod_history(self, request: web.Request) -> web.StreamResponse:
        return self._history(request, self._pods(), "podId", "uniquePodCount", _POD_AMOUNTS)

    async def _serverless_history(self, request: web.Request) -> web.StreamResponse:
        count = "uniqueServerlessCount"
        return self._history(request, self._serverless(), "serverlessId", count, _SERVERLESS_AMOUNTS)

    def _history(
        self, request: web.Request, usages: Sequence[Usage], key: str, count: str, names: tuple[str, ...]
    ) -> web.Response:
        window = self._window(request)
        wanted = request.query.get(key)
        resources = dict.fromkeys(u.resource for u in usages if wanted in (None, u.resource))
        records: list[dict[str, Any]] = []
        for start, end in window.edges():
            for resource in resources:
                gpu, disk = self._spent([u for u in usages if u.resource == resource], start, end)
                if gpu or disk:
                    amounts = _amounts(names, gpu, disk)
                    records.append({"startTime": rfc3339(start), "endTime": rfc3339(end), key: resource, **amounts})
        totals = {name: sum(record[name] for record in records) for name in names}
        unique = len({record[key] for record in records})
        metadata = {"query": _echo(window), "recordCount": len(records), count: unique, "totals": totals}
        return web.json_response({"records": records, "metadata": metadata})

    async def _all(self, request: web.Request) -> web.StreamResponse:
        window = self._window(request)
        records: list[dict[str, Any]] = []
        for start, end in window.edges():
            pod_gpu, pod_disk = self._spent(self._pods(), start, end)
            gpu, disk = self._spent(self._serverless(), start, end)
            if pod_gpu or pod_disk or gpu or disk:
                amounts = _aggregate(pod_gpu, pod_disk, gpu, disk)
                records.append({"startTime": rfc3339(start), "endTime": rfc3339(end), **amounts})
        zero = _aggregate(*[Decimal(0)] * 4)
        totals = {name: sum(record[name] for record in records) for name in zero}
        metadata = {"query": _echo(window), "recordCount": len(records), "totals": totals}
        return web.json_response({"records": records, "metadata": metadata})

    def _window(self, request: web.Request) -> Window:
        try:
            return Window.read(request.query, self._clock.now())
        except ValueError as error:
            raise RefusedError.bad_request(str(error)) from None

    def _spent(self, usages: Sequence[Usage], start: float, end: float) -> tuple[Decimal, Decimal]:
        """GPU and disk dollars between two moments, as far as they are reported."""
        end = min(end, self._clock.now() - self._lag_s)
        gpu = disk = Decimal(0)
        for usage in usages:
            seconds = Decimal(str(round(usage.seconds_within(start, end), 6)))
            gpu += seconds * usage.usd_per_s
            disk += seconds * usage.disk_usd_per_s
        return gpu, disk


def _amounts(names: tuple[str, ...], gpu: Decimal, disk: Decimal) -> dict[str, float]:
    known = {"totalAmount": gpu + disk, "gpuAmount": gpu, "diskAmount": disk}
    return {name: float(known.get(name, Decimal(0))) for name in names}


def _aggregate(pod_gpu: Decimal, pod_disk: Decimal, gpu: Decimal, disk: Decimal) -> dict[str, float]:
    return {
        "totalAmount": float(pod_gpu + pod_disk + gpu + disk),
        "podGpuAmount": float(pod_gpu),
        "podCpuAmount": 0.0,
        "podDiskAmount": float(pod_disk),
        "serverlessGpuAmount": float(gpu),
        "serverlessCpuAmount": 0.0,
        "serverlessDiskAmount": float(disk),
        "serverlessFeeAmount": 0.0,
        "storageStandardAmount": 0.0,
        "storageHighPerformanceAmount": 0.0,
        "endpointAmount": 0.0,
        "clusterGpuAmount": 0.0,
        "clusterDiskAmount": 0.0,
        "clusterNetworkingAmount": 0.0,
    }


def _echo(window: Window) -> dict[str, str]:
    return {"startTime": rfc3339(window.start), "endTime": rfc3339(window.end), "bucketSize": window.bucket}


def _moment(text: str | None, default: float) -> float:
    if text is None:
        return default
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
