"""GPU types and data centres on offer, with stock and list prices from the price book.

Shapes follow api-reference-v2/openapi.json (2026-08-20). Only GPUs the price book has a pod price for are offered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

from hybrid_video.emulators.runpod.metering import per_second
from hybrid_video.errors import ConfigurationError
from hybrid_video.models import Tier
from hybrid_video.pricing.catalog import PriceBook

Level = Literal["NONE", "LOW", "MEDIUM", "HIGH"]
_LEVELS: tuple[Level, ...] = ("NONE", "LOW", "MEDIUM", "HIGH")
CUDA_VERSION = "12.8"
COMMUNITY_SHARE = Decimal("0.8")
"""Price of the community cloud as a share of the secure cloud's."""


@dataclass(frozen=True)
class GpuType:
    """One kind of GPU."""

    id: str
    name: str
    pool: str | None
    memory_gb: int
    community: bool = True
    max_count: int = 8


GPU_TYPES = (
    GpuType("NVIDIA RTX A5000", "RTX A5000", "AMPERE_24", 24),
    GpuType("NVIDIA GeForce RTX 3090", "RTX 3090", "AMPERE_24", 24),
    GpuType("NVIDIA GeForce RTX 4090", "RTX 4090", "ADA_24", 24),
    GpuType("NVIDIA GeForce RTX 5090", "RTX 5090", None, 32),
    GpuType("NVIDIA L40S", "L40S", "ADA_48_PRO", 48),
    GpuType("NVIDIA A100 80GB PCIe", "A100 PCIe", "AMPERE_80", 80),
    GpuType("NVIDIA A100-SXM4-80GB", "A100 SXM", "AMPERE_80", 80, community=False),
    GpuType("NVIDIA H100 PCIe", "H100 PCIe", "ADA_80_PRO", 80),
    GpuType("NVIDIA H100 80GB HBM3", "H100 SXM", "ADA_80_PRO", 80, community=False),
)
DATA_CENTERS = {
    "EU-CZ-1": ("Europe Czechia 1", "EUROPE"),
    "EU-RO-1": ("Europe Romania 1", "EUROPE"),
    "US-KS-2": ("US Kansas 2", "NORTH_AMERICA"),
    "US-TX-3": ("US Texas 3", "NORTH_AMERICA"),
    "CA-MTL-3": ("Canada Montreal 3", "NORTH_AMERICA"),
}


@dataclass
class Catalog:
    """What can be rented.

    `stock` says how much there is, by `"<gpu id>"` or `"<gpu id>@<data centre>"`; the nearer entry counts, HIGH where
    there is none. It may be changed while the server runs.
    """

    prices: PriceBook
    stock: dict[str, Level] = field(default_factory=dict)

    def gpu(self, gpu_id: str) -> GpuType | None:
        """The GPU type with this id, if it is offered."""
        return next((g for g in GPU_TYPES if g.id == gpu_id and self.usd_per_s(g.id) is not None), None)

    def usd_per_s(self, gpu_id: str) -> Decimal | None:
        """Pod price per GPU-second, None where none is known."""
        return self._price("runpod-pod", gpu_id)

    def level(self, gpu_id: str, data_center: str) -> Level:
        """Stock of a GPU in one data centre."""
        return self.stock.get(f"{gpu_id}@{data_center}", self.stock.get(gpu_id, "HIGH"))

    def place(self, gpu_id: str, data_centers: list[str]) -> str | None:
        """The data centre with the most stock among the given ones (all when empty), None without capacity."""
        levels = {dc: self.level(gpu_id, dc) for dc in data_centers or DATA_CENTERS if dc in DATA_CENTERS}
        best = max(levels, key=lambda dc: _LEVELS.index(levels[dc]), default=None)
        return None if best is None or levels[best] == "NONE" else best

    def gpus_json(self, *, availability: bool) -> list[dict[str, Any]]:
        """`gpus` of `GET /v2/catalog/gpus`."""
        offered = (gpu for gpu in GPU_TYPES if self.gpu(gpu.id) is not None)
        return [self.gpu_json(gpu, availability=availability) for gpu in offered]

    def gpu_json(self, gpu: GpuType, *, availability: bool) -> dict[str, Any]:
        """One GPU type, with stock by data centre where asked for."""
        secure = _hourly(self.usd_per_s(gpu.id))
        price = {"secure": secure, "community": round(secure * float(COMMUNITY_SHARE), 4) if gpu.community else 0.0}
        serverless = self._price("runpod-serverless", gpu.id)
        if gpu.pool is not None and serverless is not None:
            price["serverless"] = _hourly(serverless)
        body: dict[str, Any] = {
            "id": gpu.id,
            "name": gpu.name,
            "pool": gpu.pool,
            "manufacturer": "NVIDIA",
            "memory": gpu.memory_gb,
            "secure": True,
            "community": gpu.community,
            "price": price,
            "maxCount": {"secure": gpu.max_count, "community": gpu.max_count if gpu.community else 0},
        }
        return {**body, **self._availability(gpu)} if availability else body

    def data_centers_json(self, *, availability: bool) -> list[dict[str, Any]]:
        """`dataCenters` of `GET /v2/catalog/datacenters`."""
        rows: list[dict[str, Any]] = []
        for dc, (name, region) in DATA_CENTERS.items():
            row: dict[str, Any] = {
                "id": dc,
                "name": name,
                "region": region,
                "globalNetwork": True,
                "networkVolumeTypes": ["STANDARD"],
                "compliance": ["GDPR"] if region == "EUROPE" else ["SOC_2_TYPE_2"],
            }
            if availability:
                offered = [g for g in GPU_TYPES if self.gpu(g.id) is not None]
                row["gpuAvailability"] = [
                    {"id": g.id, "name": g.name, "availability": self.level(g.id, dc)} for g in offered
                ]
            rows.append(row)
        return rows

    def _availability(self, gpu: GpuType) -> dict[str, Any]:
        levels: Mapping[str, Level] = {dc: self.level(gpu.id, dc) for dc in DATA_CENTERS}
        best = max(levels.values(), key=_LEVELS.index)
        body: dict[str, Any] = {
            "availability": best,
            "cudaVersions": [{"version": CUDA_VERSION, "available": best != "NONE"}],
        }
        if best != "NONE":
            body["dataCenters"] = [
                {"id": dc, "name": DATA_CENTERS[dc][0], "availability": level} for dc, level in levels.items()
            ]
        return body

    def _price(self, backend: str, gpu_id: str) -> Decimal | None:
        try:
            return per_second(self.prices.find(backend=backend, tier=Tier.CLOUD, gpu=gpu_id))
        except ConfigurationError:
            return None


def _hourly(usd_per_s: Decimal | None) -> float:
    return float(round((usd_per_s or Decimal(0)) * 3600, 4))
