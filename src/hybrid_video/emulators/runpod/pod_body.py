"""Bodies the pods API takes; a field it does not know is refused with 422.

Schemas: CreatePodRequest, UpdatePodRequest, PodActionRequest of api-reference-v2/openapi.json (2026-08-20). Rules the
vendor enforces in its handlers (exactly one of gpu and cpu, one kind of mount) are answered with 400 and live in
`rule_broken_by`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, ValidationError

from hybrid_video.models import Model

CudaVersion = Annotated[str, StringConstraints(pattern=r"^\d+\.\d+$")]
NonEmpty = Annotated[str, StringConstraints(min_length=1)]


class GpuRequest(Model):
    """One GPU type; the API takes no list of fallbacks."""

    id: str
    count: int = Field(1, ge=1)
    allowedCudaVersions: tuple[CudaVersion, ...] = ()  # noqa: N815 - wire name
    minCudaVersion: CudaVersion | None = None  # noqa: N815


class CpuRequest(Model):
    """A CPU flavour."""

    id: NonEmpty
    vcpuCount: int = Field(ge=2)  # noqa: N815


class PersistentMount(Model):
    """Disk of the host machine."""

    size: int = Field(ge=10)
    path: str


class NetworkMount(Model):
    """A network volume."""

    volumeId: str  # noqa: N815
    path: str


class Mounts(Model):
    """Storage of a pod."""

    persistent: PersistentMount | None = None
    network: tuple[NetworkMount, ...] = Field((), max_length=1)


class PodUpdate(Model):
    """Body of `PATCH /v2/pods/{id}`."""

    name: NonEmpty | None = None
    image: str | None = None
    args: str | None = None
    disk: int | None = Field(None, ge=1)
    env: dict[str, str] | None = None
    ports: tuple[str, ...] | None = None
    registry: str | None = None
    mounts: Mounts | None = None
    locked: bool | None = None
    globalNetworking: bool | None = None  # noqa: N815
    templateId: str | None = None  # noqa: N815


class PodRequest(Model):
    """Body of `POST /v2/pods`."""

    name: NonEmpty
    image: str = ""
    args: str = ""
    disk: int = Field(20, ge=1)
    env: dict[str, str] = Field(default_factory=dict)
    ports: tuple[str, ...] = ()
    registry: str | None = None
    cloud: Literal["SECURE", "COMMUNITY"] = "SECURE"
    cpu: CpuRequest | None = None
    gpu: GpuRequest | None = None
    dataCenterIds: tuple[str, ...] = ()  # noqa: N815
    globalNetworking: bool = False  # noqa: N815
    mounts: Mounts = Mounts()
    startJupyter: bool = False  # noqa: N815
    startSsh: bool = False  # noqa: N815
    templateId: NonEmpty | None = None  # noqa: N815

    def updated(self, update: PodUpdate) -> PodRequest:
        """The same pod with the fields an update names."""
        named = update.model_dump(exclude_unset=True, exclude={"locked"})
        return PodRequest.model_validate({**self.model_dump(), **{k: v for k, v in named.items() if v is not None}})


class PodActionBody(Model):
    """Body of `POST /v2/pods/{id}/action`."""

    action: Literal["start", "stop", "restart", "terminate"]


def violations(error: ValidationError) -> tuple[str, ...]:
    """One line for each thing that does not match the schema, as `errors` of a 422 lists them."""
    return tuple(
        f"{'.'.join(str(part) for part in problem['loc']) or 'body'}: "
        + ("unknown property" if problem["type"] == "extra_forbidden" else problem["msg"])
        for problem in error.errors(include_url=False)
    )


def missing_image(body: dict[str, Any]) -> bool:
    """Whether neither an image nor a template is named; the schema, and so 422, asks for one."""
    return not body.get("image") and not body.get("templateId")


def rule_broken_by(request: PodRequest) -> str:
    """The rule beyond the schema that a create request breaks, or an empty text."""
    if (request.gpu is None) == (request.cpu is None):
        return "exactly one of gpu or cpu must be set"
    if request.mounts.persistent is not None and request.mounts.network:
        return "mounts.persistent and mounts.network are mutually exclusive"
    if request.cpu is not None and request.mounts.persistent is not None:
        return "mounts.persistent is not supported on CPU pods"
    if request.gpu is not None and request.gpu.allowedCudaVersions and request.gpu.minCudaVersion:
        return "gpu.allowedCudaVersions and gpu.minCudaVersion are mutually exclusive"
    return ""
