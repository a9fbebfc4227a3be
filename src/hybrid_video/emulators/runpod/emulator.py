"""RunPod in one local server: serverless jobs, pods, catalogue, billing, S3 downloads and the pod proxy."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from aiohttp import web

from hybrid_video.emulators.faults import FaultPlan
from hybrid_video.emulators.runpod import bucket as s3
from hybrid_video.emulators.runpod import proxy
from hybrid_video.emulators.runpod.access import ErrorBodies, ManagementQuota
from hybrid_video.emulators.runpod.billing_routes import BillingRoutes
from hybrid_video.emulators.runpod.catalog import Catalog, Level
from hybrid_video.emulators.runpod.endpoint import Endpoint, TimeoutState
from hybrid_video.emulators.runpod.endpoint_routes import EndpointRoutes
from hybrid_video.emulators.runpod.fleet import Fleet
from hybrid_video.emulators.runpod.job_routes import JobRoutes
from hybrid_video.emulators.runpod.jobs import RESULT_KEPT_S
from hybrid_video.emulators.runpod.metering import ServerlessMeter
from hybrid_video.emulators.runpod.pod_comfyui import PodPrograms
from hybrid_video.emulators.runpod.pod_routes import ManagementGate, PodRoutes
from hybrid_video.emulators.runpod.pods import BootTimes, StaticPod
from hybrid_video.emulators.runpod.worker import ComfyWorker, Delivery, OversizedResult, ServiceTime
from hybrid_video.emulators.server import ChargeList, RunningServer, ScaledClock, add_control_routes
from hybrid_video.pricing.catalog import PriceBook
from hybrid_video.settings import EMULATOR_ENDPOINT

_LARGEST_BODY = 128 * 1024 * 1024


class RunPodEmulator:
    """Serves both RunPod hosts on one port.

    `charges` holds a row for every accepted `/run` (seconds of execution, rounded up, at the GPU's price) and for every
    prompt that ran on a pod (its share of the pod's time). Cold starts, idle workers and idle pods are billed as well,
    as the vendor does, but to the endpoint or the pod: they appear in `/v2/billing` only.

    Operations of fault rules for the server `runpod`: submit, status, cancel, health, webhook and execute of jobs
    (`worker` says what each action means there), download of results; create (`fail`: no capacity), list, get (`lose`:
    404), delete and action of pods, lease (a renewal); and every operation of the ComfyUI emulator for the one in pods.

    Args:
        api_key: the only key accepted; None accepts any that is not empty and does not start with `invalid`.
        service_s: simulated seconds of one job; None takes the price entry's or the published timing.
        jitter: spread of the service time (sigma of a log-normal distribution).
        delivery: whether workers upload to S3, return base64, or only seem to upload (`worker.Delivery`).
        result_kept_s: simulated seconds for which `/status` knows a finished job. With a fast clock the documented 30
            minutes are a moment; a client that polls in real time may need more.
        throttled: no worker ever starts, jobs stay IN_QUEUE; may be changed through `endpoint.throttled`.
        progress: whether jobs show progress as `output` while IN_PROGRESS.
        timeout_state: how a job ends that exceeds its execution time-out; the documentation has both wordings.
        oversized: what becomes of a base64 result over 10 MB.
        error_bodies: form of the job API's error bodies, which the vendor does not document.
        rates: calls per 10 s and operation instead of the documented ones (`access.JOB_RATES`).
        stock: availability by `"<gpu>"` or `"<gpu>@<data centre>"`, HIGH where not named.
        balance_usd: credit for pods; None is unlimited.
        billing_lag_s: how far billing records run behind.
        static_pods: pods that run and answer from the start.
    """

    def __init__(
        self,
        *,
        clock: ScaledClock,
        faults: FaultPlan,
        prices: PriceBook,
        api_key: str | None = None,
        endpoint_id: str = EMULATOR_ENDPOINT,
        gpu: str = "NVIDIA GeForce RTX 4090",
        max_workers: int = 3,
        cold_start_s: float = 30.0,
        idle_timeout_s: float = 5.0,
        service_s: float | None = None,
        jitter: float = 0.25,
        seed: int = 0,
        delivery: Delivery = "s3",
        throttled: bool = False,
        progress: bool = True,
        timeout_state: TimeoutState = "TIMED_OUT",
        oversized: OversizedResult = "hang",
        error_bodies: ErrorBodies = "json",
        rates: dict[str, int] | None = None,
        management_per_minute: int = 600,
        result_kept_s: float = RESULT_KEPT_S,
        url_valid_for_s: float = s3.PRESIGNED_FOR_S,
        missing_models: frozenset[str] = frozenset(),
        missing_nodes: frozenset[str] = frozenset(),
        stock: Mapping[str, Level] | None = None,
        balance_usd: Decimal | None = None,
        boot: BootTimes | None = None,
        billing_lag_s: float = 300.0,
        static_pods: Sequence[StaticPod] = (),
    ) -> None:
        self.charges = ChargeList()
        self._clock, self._faults, self._static_pods = clock, faults, tuple(static_pods)
        self._temporary = tempfile.TemporaryDirectory(prefix="hv-runpod-", ignore_cleanup_errors=True)
        self._bucket = s3.Bucket(Path(self._temporary.name), clock=clock, faults=faults, valid_for_s=url_valid_for_s)
        self._meter = ServerlessMeter(prices, gpu)
        worker = ComfyWorker(
            faults=faults,
            service=ServiceTime(self._meter.price, gpu, service_s, jitter, seed),
            bucket=self._bucket,
            delivery=delivery,
            oversized=oversized,
            missing_models=missing_models,
            missing_nodes=missing_nodes,
        )
        self.endpoint = Endpoint(
            endpoint_id,
            clock=clock,
            handler=worker,
            meter=self._meter,
            max_workers=max_workers,
            cold_start_s=cold_start_s,
            idle_timeout_s=idle_timeout_s,
            throttled=throttled,
            progress=progress,
            timeout_state=timeout_state,
        )
        self._jobs = JobRoutes(
            self.endpoint,
            clock=clock,
            faults=faults,
            charges=self.charges,
            api_key=api_key,
            error_bodies=error_bodies,
            rates=rates,
            result_kept_s=result_kept_s,
        )
        self.catalog = Catalog(prices, dict(stock or {}))
        programs = PodPrograms(
            clock=clock,
            faults=faults,
            charges=self.charges,
            prices=prices,
            service_s=service_s,
            jitter=jitter,
            seed=seed,
            missing_models=missing_models,
            missing_nodes=missing_nodes,
        )
        self.fleet = Fleet(clock=clock, boot=boot or BootTimes(), service=programs.app_of, balance_usd=balance_usd)
        self._pods = PodRoutes(self.fleet, self.catalog, clock=clock, faults=faults)
        self._endpoints = EndpointRoutes(self.endpoint, gpu=gpu, idle_timeout_s=idle_timeout_s, created_at=clock.now())
        self._gate = ManagementGate(api_key, ManagementQuota(management_per_minute))
        self._billing = BillingRoutes(
            clock=clock, pods=self.fleet.usages, serverless=lambda: self._meter.usages, lag_s=billing_lag_s
        )
        self._proxy = proxy.PodProxy(self.fleet, clock=clock, faults=faults)
        self.fleet.add_static(self._static_pods, self.catalog.usd_per_s)
        self._ending: set[asyncio.Task[None]] = set()

    def app(self) -> web.Application:
        """The application; it cleans up after itself when its server stops."""
        app = web.Application(client_max_size=_LARGEST_BODY)
        add_control_routes(app, self.charges, self._faults, self._reset)
        self._billing.add_to(app, self._gate)
        self._pods.add_to(app, self._gate)
        self._endpoints.add_to(app, self._gate)
        self._jobs.add_to(app)
        app.router.add_route("*", s3.ROUTE, self._bucket.download)
        app.router.add_route("*", proxy.ROUTE, self._proxy.handle)
        app.on_cleanup.append(self._close)
        return app

    def _reset(self) -> None:
        """Back to the first moment: no jobs, no objects, only the static pods."""
        ending = asyncio.create_task(_end(self.endpoint.reset(), self.fleet.reset()))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)
        self._meter.reset()
        self._bucket.clear()
        self.fleet.add_static(self._static_pods, self.catalog.usd_per_s)

    async def _close(self, _app: web.Application) -> None:
        await self.endpoint.close()
        await self._jobs.close()
        await self._proxy.close()
        await self.fleet.close()
        await asyncio.gather(*self._ending)
        self._temporary.cleanup()


async def _end(tasks: list[asyncio.Task[Any]], servers: list[RunningServer]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)
    for server in servers:
        await server.close()
