"""ComfyUI as it runs in a pod: one process on its own port, its prompts charged their share of the pod's time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

from aiohttp import web

from hybrid_video.emulators.comfyui import ComfyUIEmulator
from hybrid_video.emulators.comfyui.machine import PROBE_LABEL
from hybrid_video.emulators.faults import FaultPlan, FaultRule, ServerName
from hybrid_video.emulators.runpod.pods import Pod
from hybrid_video.emulators.server import Charge, ChargeList, ScaledClock
from hybrid_video.models import Tier
from hybrid_video.pricing.catalog import PriceBook


class PodFaults(FaultPlan):
    """The plan as ComfyUI in a pod sees it: rules for the server `runpod` hit, those for `comfyui` do not."""

    def __init__(self, plan: FaultPlan) -> None:
        super().__init__()
        self._plan = plan

    def take(self, server: ServerName, operation: str, job: str = "") -> FaultRule | None:
        """The rule of the whole plan that hits this call."""
        return self._plan.take("runpod" if server == "comfyui" else server, operation, job)


class PodCharges(ChargeList):
    """The emulator's list without the probes by which a client finds out whether a pod renders: no job pays for them,
    the pod's own bill holds their seconds."""

    def __init__(self, charges: ChargeList) -> None:
        super().__init__(rows=charges.rows)

    def open(self, id: str, job: str) -> Charge:  # noqa: A002 - the wire name
        """Records a job; a probe gets a charge that nobody sees."""
        return Charge(id=id, job=job) if job.startswith(PROBE_LABEL) else super().open(id, job)


@dataclass(frozen=True)
class PodPrograms:
    """Makes the program of each pod."""

    clock: ScaledClock
    faults: FaultPlan
    charges: ChargeList
    prices: PriceBook
    service_s: float | None
    jitter: float
    seed: int
    missing_models: frozenset[str]
    missing_nodes: frozenset[str]

    def app_of(self, pod: Pod) -> web.Application:
        """A fresh ComfyUI: queue, history and files of an earlier container are gone."""
        gpu = pod.request.gpu.id if pod.request.gpu else ""
        program = ComfyUIEmulator(
            clock=self.clock,
            faults=PodFaults(self.faults),
            service_s=self.service_s,
            jitter=self.jitter,
            seed=self.seed + pod.epoch,
            missing_models=self.missing_models,
            missing_nodes=self.missing_nodes,
            gpu=gpu,
            charges=PodCharges(self.charges),
            tariff=self._tariff(gpu),
        )
        return program.app()

    def _tariff(self, gpu: str) -> Callable[[str, float], Decimal]:
        price = self.prices.find(backend="runpod-pod", tier=Tier.CLOUD, gpu=gpu)

        def usd(state: str, seconds: float) -> Decimal:
            if price.unit == "video":
                return price.usd if state == "done" else Decimal(0)
            return price.usd * math.ceil(seconds)

        return usd
