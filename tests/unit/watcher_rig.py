"""Demands, pods and a pool written in the test, for what watches and scales; real ledger, no vendor."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from hybrid_video.demand import BatchDemand, LaneDemand
from hybrid_video.ledger import Caps, Ledger, Owner
from hybrid_video.models import Tier
from hybrid_video.pods.records import PodIntent, PodRecord
from hybrid_video.pods.store import PodStore
from hybrid_video.settings import PodPoolSettings, RoutingSettings, RunPodSettings, Settings, StorageSettings

GPU = "NVIDIA GeForce RTX 4090"
_numbers = itertools.count(1)


def settings_in(home: Path, *, time_scale: float = 1.0, **pods: Any) -> Settings:
    """An installation that may open pods."""
    return Settings(
        runpod=RunPodSettings.model_validate({"RUNPOD_API_KEY": "rk-test-key-0001"}),
        pods=PodPoolSettings(**{"image": "test/comfyui-pod", **pods}),
        routing=RoutingSettings(time_scale=time_scale),
        storage=StorageSettings(home=home),
    )


def demand(batch: str = "film", owner: str = "", *, waiting: int = 60, **values: Any) -> BatchDemand:
    """What a batch of 170-s clips on one own GPU still wants."""
    lane = LaneDemand(id="comfyui/0", backend="comfyui", tier=Tier.LOCAL, service_s=170.0)
    return BatchDemand.model_validate(
        {
            "batch": batch,
            "owner": owner,
            "jobs": waiting,
            "waiting_jobs": waiting,
            "lanes": (lane,),
            "pod_service_s": 100.0,
            **values,
        }
    )


@contextmanager
def opened(home: Path) -> Iterator[tuple[Ledger, Owner]]:
    """A ledger and one process on it."""
    ledger, owner = Ledger.open(home / "ledger.sqlite3"), Owner(home)
    try:
        yield ledger, owner
    finally:
        owner.close()
        ledger.close()


def ready_pod(store: PodStore, name: str = "", *, at: datetime | None = None) -> PodRecord:
    """A pod that takes jobs."""
    name = name or f"hybrid-video-00000000-pod{next(_numbers):07d}"
    intent = PodIntent(name=name, gpu=GPU, cloud="SECURE", price_usd_per_h=Decimal("0.69"), reserve_usd=Decimal("0.20"))
    store.intend(intent, caps=Caps(), max_pods=100, now=at)
    store.mark_creating(name)
    store.mark_created(name, pod_id=f"id{next(_numbers)}", now=at)
    return store.mark_ready(name, now=at)


@dataclass
class WrittenPool:
    """A pool whose pods are ready at once, or that refuses as written."""

    store: PodStore
    refusals: list[BaseException] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    ticks: int = 0

    async def open(self, reason: str, *, batch: str = "") -> PodRecord:
        """Opens one, or raises what is next on the list."""
        self.calls.append("open")
        if self.refusals:
            raise self.refusals.pop(0)
        return ready_pod(self.store)

    async def drain(self, name: str, reason: str) -> PodRecord:
        """No new jobs."""
        self.calls.append(f"drain {name}")
        return self.store.mark_draining(name, reason)

    async def close(self, name: str, reason: str) -> PodRecord:
        """Ends it at once."""
        self.calls.append(f"close {name}")
        self.store.mark_closing(name, reason)
        return self.store.mark_closed(name, cost_usd=Decimal("0.01"), reason=reason)

    async def tick(self) -> None:
        """Counts."""
        self.ticks += 1
