"""Rented machines: their life in simulated time and what each second of it costs.

A pod's states are a timeline written when something happens and read against the clock, so nothing has to run for time
to pass. RUNNING means that the container is up; its service answers `service_s` later
(docs.runpod.io/pods/configuration/expose-ports).
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from hybrid_video.emulators.runpod.catalog import CUDA_VERSION
from hybrid_video.emulators.runpod.metering import Usage
from hybrid_video.emulators.runpod.pod_body import GpuRequest, PodRequest

TOKEN_VARIABLE = "HYBRID_VIDEO_POD_TOKEN"  # noqa: S105 - the name of a variable
LEASE_VARIABLE = "HYBRID_VIDEO_POD_LEASE_S"
TERMINATED_SHOWN_S = 60.0
_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
_MONTH_S = Decimal(730 * 3600)
_DISK_USD = Decimal("0.10") / _MONTH_S
_STOPPED_DISK_USD = Decimal("0.20") / _MONTH_S


class PodStatus(StrEnum):
    """Status words of API v2."""

    PROVISIONING = "PROVISIONING"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    EXITED = "EXITED"
    ERROR = "ERROR"
    TERMINATED = "TERMINATED"


ACTIONS: dict[PodStatus, tuple[str, ...]] = {
    PodStatus.PROVISIONING: ("stop", "terminate"),
    PodStatus.STARTING: ("stop", "terminate"),
    PodStatus.RUNNING: ("stop", "restart", "terminate"),
    PodStatus.EXITED: ("start", "terminate"),
    PodStatus.ERROR: ("start", "terminate"),
    PodStatus.TERMINATED: (),
}
"""Valid actions by status, as `podAction` documents them; anything else is 409."""


@dataclass(frozen=True)
class BootTimes:
    """Simulated seconds from create to a service that answers."""

    provisioning_s: float = 8.0
    starting_s: float = 40.0
    service_s: float = 60.0


@dataclass(frozen=True)
class StaticPod:
    """A pod that is there, running and answering, from the first moment (for tests and the demo)."""

    id: str
    token: str
    gpu: str = "NVIDIA GeForce RTX 4090"
    port: int = 8188
    name: str = "static"

    def request(self) -> PodRequest:
        """The request that would have created it."""
        return PodRequest(
            name=self.name,
            image="emulated/comfyui",
            gpu=GpuRequest(id=self.gpu),
            ports=(f"{self.port}/http",),
            env={TOKEN_VARIABLE: self.token},
        )


@dataclass(frozen=True)
class LogLine:
    """One line of a pod's log."""

    at: float
    source: str
    line: str

    @property
    def stamp(self) -> str:
        """Its RFC 3339 time, which is also the event id."""
        return rfc3339(self.at, "microseconds")

    def as_json(self) -> dict[str, str]:
        """The `data` of its event."""
        return {"source": self.source, "line": self.line, "ts": self.stamp}


@dataclass
class Pod:
    """One rented machine."""

    request: PodRequest
    data_center: str
    usd_per_s: Decimal
    created_at: float
    boot: BootTimes
    id: str = field(default_factory=lambda: "".join(secrets.choice(_ALPHABET) for _ in range(14)))
    locked: bool = False
    epoch: int = 0
    usages: list[Usage] = field(default_factory=list)
    lease_until: float | None = None
    _timeline: list[tuple[float, PodStatus]] = field(default_factory=list)
    _service_at: float = 0.0
    _started_at: float | None = None
    _log: list[LogLine] = field(default_factory=list)

    def start(self, now: float, *, provisioning: bool = True) -> None:
        """Plans the way to RUNNING; billing begins at once, because the machine is taken."""
        provisioned = now + (self.boot.provisioning_s if provisioning else 0.0)
        running = provisioned + self.boot.starting_s
        first = [(now, PodStatus.PROVISIONING)] if provisioning else []
        self._plan(now, [*first, (provisioned, PodStatus.STARTING), (running, PodStatus.RUNNING)])
        self._started_at, self._service_at = running, running + self.boot.service_s
        self.epoch += 1
        self._meter(now, rate=self.usd_per_s, disk=_DISK_USD * self._disk_gb)
        self.lease_until = running + self.first_lease_s if self.first_lease_s else None
        self._log += [
            LogLine(now, "system", f"create pod network and allocate {self._gpu_text}"),
            LogLine(provisioned, "system", f"pulling image {self.request.image}"),
            LogLine(running, "system", "start container"),
            LogLine(self._service_at, "container", "To see the GUI go to: http://0.0.0.0:8188"),
        ]

    def run_at_once(self, now: float) -> None:
        """Skips the boot: for pods that exist before anyone looks."""
        self.start(now)
        self._plan(now, [(now, PodStatus.RUNNING)])
        self._started_at = self._service_at = now
        self.lease_until = now + self.first_lease_s if self.first_lease_s else None

    def restart(self, now: float) -> None:
        """Resets the container: STARTING again on the same machine, the service comes back later."""
        self.start(now, provisioning=False)

    def stop(self, now: float) -> None:
        """Releases the GPU; only a persistent disk is kept, at the higher price of a stopped one."""
        self._plan(now, [(now, PodStatus.EXITED)])
        self.lease_until = None
        kept = self.request.mounts.persistent
        self._meter(now, rate=Decimal(0), disk=_STOPPED_DISK_USD * (kept.size if kept else 0))

    def terminate(self, now: float) -> None:
        """Ends it for good."""
        self._plan(now, [(now, PodStatus.TERMINATED)])
        self._meter(now, rate=None, disk=Decimal(0))

    @property
    def first_lease_s(self) -> float:
        """The lease its keeper begins with when the container starts; 0: it has no keeper and lives on."""
        try:
            return max(0.0, float(self.request.env.get(LEASE_VARIABLE, "0")))
        except ValueError:
            return 0.0

    def expire(self, now: float) -> bool:
        """What its keeper does when nobody has renewed the lease: it ended itself then. True if it did now."""
        until = self.lease_until
        if until is None or now < until or self.status(until) is not PodStatus.RUNNING:
            return False
        self.lease_until = None
        self.terminate(until)
        self._log.append(LogLine(until, "container", "the lease has run out: this pod ends itself"))
        return True

    def status(self, now: float) -> PodStatus:
        """Where it is now."""
        passed = [status for at, status in self._timeline if at <= now]
        return passed[-1] if passed else self._timeline[0][1]

    def gone(self, now: float) -> bool:
        """Whether even its TERMINATED record has disappeared."""
        at, last = self._timeline[-1]
        return last is PodStatus.TERMINATED and now >= at + TERMINATED_SHOWN_S

    def serves(self, now: float) -> bool:
        """Whether the program inside answers yet."""
        return self.status(now) is PodStatus.RUNNING and now >= self._service_at

    def exposes(self, port: int) -> bool:
        """Whether the proxy forwards this port."""
        return f"{port}/http" in self.request.ports

    def log(self, now: float) -> list[LogLine]:
        """What has been logged by now."""
        return sorted((line for line in self._log if line.at <= now), key=lambda line: line.at)

    def as_json(self, now: float) -> dict[str, Any]:
        """The `Pod` record."""
        status, request = self.status(now), self.request
        started = self._started_at if self._started_at is not None and self._started_at <= now else None
        billed = status not in (PodStatus.EXITED, PodStatus.TERMINATED)
        return {
            "id": self.id,
            "name": request.name,
            "status": status.value,
            "actions": list(ACTIONS[status]),
            "image": request.image,
            "args": request.args,
            "disk": request.disk,
            "mounts": request.mounts.model_dump(exclude_defaults=True),
            "ports": list(request.ports),
            "env": dict(request.env),
            "registry": request.registry,
            "gpu": {"id": request.gpu.id, "count": request.gpu.count} if request.gpu else None,
            "cloud": request.cloud,
            "dataCenterId": None if status is PodStatus.PROVISIONING else self.data_center,
            "cudaVersion": None if status is PodStatus.PROVISIONING else CUDA_VERSION,
            "ssh": {"proxy": None, "direct": None},
            "template": request.templateId,
            "cost": float(round(self.usd_per_s * 3600, 4)) if billed else 0.0,
            "locked": self.locked,
            "globalNetworking": {"enabled": request.globalNetworking},
            "runtime": self._runtime(now) if status is PodStatus.RUNNING else None,
            "createdAt": rfc3339(self.created_at),
            "startedAt": rfc3339(started) if started is not None else None,
        }

    def _runtime(self, now: float) -> dict[str, Any]:
        ports = [port.split("/") for port in self.request.ports]
        mapped = [
            {
                "private": int(number),
                "public": None if kind == "http" else 10_000 + int(number),
                "type": kind,
                "ip": None,
            }
            for number, kind in ports
        ]
        gpus = [{"util": 0, "memoryUtil": 0}] * (self.request.gpu.count if self.request.gpu else 0)
        return {"uptime": int(now - (self._started_at or now)), "gpus": gpus, "ports": mapped}

    @property
    def _disk_gb(self) -> int:
        persistent = self.request.mounts.persistent
        return self.request.disk + (persistent.size if persistent else 0)

    @property
    def _gpu_text(self) -> str:
        return f"{self.request.gpu.count}x {self.request.gpu.id}" if self.request.gpu else "no GPU"

    def _plan(self, now: float, steps: list[tuple[float, PodStatus]]) -> None:
        """Replaces the future of the timeline."""
        self._timeline = [*((at, status) for at, status in self._timeline if at < now), *steps]
        self._log = [line for line in self._log if line.at <= now]

    def _meter(self, now: float, *, rate: Decimal | None, disk: Decimal) -> None:
        for usage in self.usages:
            usage.end(now)
        if rate is not None:
            self.usages.append(Usage(resource=self.id, started_at=now, usd_per_s=rate, disk_usd_per_s=disk))


def rfc3339(moment: float, timespec: str = "milliseconds") -> str:
    """A UNIX time as the API writes it."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec=timespec).replace("+00:00", "Z")
