"""A pod pool on a ledger of its own, over a RunPod emulator on a fast clock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from hybrid_video.backends.runpod import PodsClient, PodSpec
from hybrid_video.emulators.faults import FaultPlan, FaultRule
from hybrid_video.emulators.runpod import BootTimes, RunPodEmulator
from hybrid_video.emulators.runpod.pods import PodStatus
from hybrid_video.emulators.server import RunningServer, ScaledClock, start_server
from hybrid_video.ledger import Ledger
from hybrid_video.pods.pool import PodPool
from hybrid_video.pods.records import PodRecord
from hybrid_video.pods.store import PodStore
from hybrid_video.pricing.catalog import PriceBook
from hybrid_video.settings import PodPoolSettings, RoutingSettings, RunPodSettings, Settings, StorageSettings

GPU = "NVIDIA GeForce RTX 4090"
SECOND_GPU = "NVIDIA L40S"
KEY = "rpa_0123456789abcdef"
IMAGE = "hybrid-video/comfyui-pod:1"
PRICES = PriceBook.load("current")


@dataclass
class PodRig:
    """The emulator, the faults it shows, and everything a pool needs."""

    emulator: RunPodEmulator
    server: RunningServer
    faults: FaultPlan
    clock: ScaledClock
    settings: Settings
    ledger: Ledger
    pool: PodPool
    pools: list[PodPool] = field(default_factory=list)

    @property
    def store(self) -> PodStore:
        """The pool's records."""
        return self.pool.store

    def another_pool(self, **changes: Any) -> PodPool:
        """A second pool on the same ledger, as another process would have."""
        pool = PodPool(with_pods(self.settings, **changes), self.ledger, bill_final_after_s=0.0)
        self.pools.append(pool)
        return pool

    def fault(self, operation: str, action: str, **fields: Any) -> None:
        """One rule for the emulator."""
        self.faults.add(
            FaultRule.model_validate({"server": "runpod", "operation": operation, "action": action, **fields})
        )

    def listed(self) -> list[str]:
        """Names of the pods that live at the provider."""
        return sorted(pod.request.name for pod in self.emulator.fleet.listed())

    def statuses(self) -> dict[str, PodStatus]:
        """Status of each living pod by name."""
        now = self.clock.now()
        return {pod.request.name: pod.status(now) for pod in self.emulator.fleet.listed()}

    async def until(self, reached: Callable[[], bool], patience_s: float = 15.0) -> None:
        """Ticks until something is so."""
        give_up = time.monotonic() + patience_s
        while not reached():
            assert time.monotonic() < give_up, [pod.model_dump(exclude_none=True) for pod in self.store.all()]
            await self.pool.tick()
            await asyncio.sleep(0.02)

    async def ready(self, name: str) -> PodRecord:
        """Ticks until a pod is ready."""
        await self.until(lambda: self.get(name).state == "ready")
        return self.get(name)

    def get(self, name: str) -> PodRecord:
        """A pod's record as it is now."""
        found = self.store.get(name)
        assert found is not None
        return found

    async def foreign_pod(self, name: str) -> str:
        """A pod of somebody else on the same account; returns its id."""
        client = PodsClient.from_settings(self.settings.runpod)
        try:
            pod = await client.create(PodSpec(name=name, image="someone/else", gpu=GPU, ports=("8188/http",)))
        finally:
            await client.close()
        return pod.id

    def billed_usd(self) -> Decimal:
        """Everything the emulator has billed for pods, to the nano-dollar."""
        now = self.clock.now()
        total = Decimal(0)
        for usage in self.emulator.fleet.usages():
            seconds = Decimal(str(round(usage.seconds_within(0.0, now), 6)))
            total += seconds * (usage.usd_per_s + usage.disk_usd_per_s)
        return total


def with_pods(settings: Settings, **changes: Any) -> Settings:
    """The settings with other wishes for pods."""
    return Settings(
        runpod=settings.runpod,
        pods=settings.pods.model_copy(update=changes),
        routing=settings.routing,
        storage=settings.storage,
    )


@asynccontextmanager
async def pod_rig(
    home: Path,
    *,
    scale: float = 100.0,
    routing: dict[str, Any] | None = None,
    runpod: dict[str, Any] | None = None,
    emulator: dict[str, Any] | None = None,
    **pods: Any,
) -> AsyncIterator[PodRig]:
    """Starts everything; pods boot in about a simulated minute and their lease is ten."""
    faults = FaultPlan()
    clock = ScaledClock(scale)
    options = {"service_s": 20.0, "jitter": 0.0, "billing_lag_s": 0.0, "management_per_minute": 100_000}
    boot = BootTimes(provisioning_s=5.0, starting_s=10.0, service_s=15.0)
    running = RunPodEmulator(clock=clock, faults=faults, prices=PRICES, **{**options, "boot": boot, **(emulator or {})})
    server = await start_server(running.app())
    wishes = {"image": IMAGE, "gpus": (GPU, SECOND_GPU), "clouds": ("SECURE",), **pods}
    settings = Settings(
        runpod=RunPodSettings(api_key=SecretStr(KEY), pods_url=server.url, **(runpod or {})),
        pods=PodPoolSettings(**wishes),
        routing=RoutingSettings(time_scale=scale, **(routing or {})),
        storage=StorageSettings(home=home),
    )
    ledger = Ledger.open(settings.storage.ledger_path)
    pool = PodPool(settings, ledger, bill_final_after_s=0.0)
    rig = PodRig(running, server, faults, clock, settings, ledger, pool, [pool])
    try:
        yield rig
    finally:
        for one in rig.pools:
            await one.aclose()
        ledger.close()
        await server.close()
