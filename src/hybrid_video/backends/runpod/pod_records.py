"""Records of RunPod's management API v2: pods, GPU types with prices and stock, billing buckets.

Source: docs.runpod.io/api-reference-v2 and its openapi.json, version 2.0.0 of 2026-08. Unknown fields are ignored,
because the service adds some; the fields that are used are checked. Money is `Decimal`, never the JSON float.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator
from pydantic.alias_generators import to_camel

Cloud = Literal["SECURE", "COMMUNITY"]
PodStatus = Literal["PROVISIONING", "STARTING", "RUNNING", "EXITED", "ERROR", "TERMINATED", "UNKNOWN"]
Availability = Literal["NONE", "LOW", "MEDIUM", "HIGH", "UNKNOWN"]

_STATUSES = frozenset({"PROVISIONING", "STARTING", "RUNNING", "EXITED", "ERROR", "TERMINATED"})
_LEVELS = frozenset({"NONE", "LOW", "MEDIUM", "HIGH"})


def _money(value: object) -> object:
    return Decimal(str(value)) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


Money = Annotated[Decimal, BeforeValidator(_money)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True)


class PodGpu(_Record):
    """The GPU of a pod. Its `id` is also the name under which prices are kept."""

    id: str
    count: int = 1


class PodRuntime(_Record):
    """What a running container reports."""

    uptime: int = Field(0, description="Seconds since the container started.")


class Pod(_Record):
    """One pod. RUNNING means that its container is up, not that ComfyUI in it answers."""

    id: str
    name: str = ""
    status: PodStatus
    actions: tuple[str, ...] = ()
    image: str = ""
    ports: tuple[str, ...] = ()
    gpu: PodGpu | None = None
    cloud: str = ""
    data_center_id: str | None = None
    cost: Money = Field(Decimal(0), description="US dollars per hour now; 0 when EXITED or TERMINATED.")
    locked: bool = False
    runtime: PodRuntime | None = None
    created_at: datetime | None = None
    started_at: datetime | None = None

    @field_validator("status", mode="before")
    @classmethod
    def _known(cls, value: object) -> object:
        return value if value in _STATUSES else "UNKNOWN"

    @field_validator("actions", "ports", mode="before")
    @classmethod
    def _list(cls, value: object) -> object:
        return value or ()

    @property
    def gpu_name(self) -> str:
        """The GPU type, or "" for a CPU pod."""
        return self.gpu.id if self.gpu else ""

    @property
    def costs_money(self) -> bool:
        """Whether its GPU is being paid for; an unknown status counts as yes."""
        return self.status not in ("EXITED", "TERMINATED")


class PodSpec(BaseModel):
    """What to create: one GPU type, because the service neither searches nor falls back.

    A field that the service does not know is a 422, so this record refuses unknown fields as well.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, description="Unique: it is how a pod whose create answer was lost is found again.")
    image: str = ""
    template_id: str = ""
    gpu: str = Field(min_length=1)
    gpu_count: int = Field(1, ge=1)
    min_cuda_version: str = ""
    cloud: Cloud = "SECURE"
    data_center_ids: tuple[str, ...] = ()
    disk_gb: int | None = Field(None, ge=1)
    ports: tuple[str, ...] = ()
    env: dict[str, str] = Field(default_factory=dict, repr=False)
    args: str = ""
    network_volume_id: str = ""
    persistent_gb: int | None = Field(None, ge=10, description="Host-local volume; the service asks for 10 GB or more.")
    mount_path: str = "/workspace"
    start_ssh: bool = False

    def body(self) -> dict[str, Any]:
        """The JSON body of `POST /v2/pods`, holding only what is set."""
        gpu: dict[str, Any] = {"id": self.gpu, "count": self.gpu_count}
        if self.min_cuda_version:
            gpu["minCudaVersion"] = self.min_cuda_version
        optional: dict[str, Any] = {
            "image": self.image,
            "templateId": self.template_id,
            "dataCenterIds": list(self.data_center_ids),
            "disk": self.disk_gb,
            "ports": list(self.ports),
            "env": dict(self.env),
            "args": self.args,
            "mounts": self._mounts(),
            "startSsh": self.start_ssh,
        }
        kept = {key: value for key, value in optional.items() if value}
        return {"name": self.name, "cloud": self.cloud, "gpu": gpu, **kept}

    def _mounts(self) -> dict[str, Any]:
        if self.network_volume_id:
            return {"network": [{"volumeId": self.network_volume_id, "path": self.mount_path}]}
        return {"persistent": {"size": self.persistent_gb, "path": self.mount_path}} if self.persistent_gb else {}


class GpuPrice(_Record):
    """List price of one GPU in US dollars per hour."""

    secure: Money = Decimal(0)
    community: Money = Decimal(0)
    serverless: Money | None = None


class GpuPlace(_Record):
    """Stock of a GPU type in one data centre."""

    id: str
    availability: Availability = "UNKNOWN"

    @field_validator("availability", mode="before")
    @classmethod
    def _known(cls, value: object) -> object:
        return value if value in _LEVELS else "UNKNOWN"


class GpuType(_Record):
    """One entry of the catalogue; `data_centers` is empty where the service does not list them."""

    id: str
    name: str = ""
    memory: int = Field(0, description="VRAM in GB.")
    secure: bool = False
    community: bool = False
    price: GpuPrice = GpuPrice()
    availability: Availability = "UNKNOWN"
    data_centers: tuple[GpuPlace, ...] = ()

    @field_validator("availability", mode="before")
    @classmethod
    def _known(cls, value: object) -> object:
        return value if value in _LEVELS else "UNKNOWN"

    @field_validator("data_centers", mode="before")
    @classmethod
    def _list(cls, value: object) -> object:
        return value or ()

    def stock_in(self, data_center: str) -> Availability:
        """Stock in one data centre; overall when none is named, UNKNOWN where nothing is said of it."""
        if not data_center or not self.data_centers:
            return self.availability
        return next((place.availability for place in self.data_centers if place.id == data_center), "NONE")


class PodBill(_Record):
    """What one pod cost in one time bucket; how fresh the figures are is not documented."""

    pod_id: str = ""
    start_time: datetime
    end_time: datetime
    total_amount: Money = Decimal(0)
    gpu_amount: Money = Decimal(0)
    disk_amount: Money = Decimal(0)


class ServerlessBill(_Record):
    """What one serverless endpoint cost in one time bucket."""

    serverless_id: str = ""
    start_time: datetime
    end_time: datetime
    total_amount: Money = Decimal(0)
    gpu_amount: Money = Decimal(0)
    disk_amount: Money = Decimal(0)
    fee_amount: Money = Decimal(0)
