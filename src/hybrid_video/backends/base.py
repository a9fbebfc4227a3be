"""What every backend offers: the seam between routing and the vendors.

A backend is one vendor road with one configuration (`comfyui`, `runpod-serverless`, `runpod-pod`, `gemini`, `veo`).
It translates vendor behaviour into our nouns and errors at this one boundary, and holds no money and no queue of its
own: jobs wait in the batch, amounts live in the ledger.

Retry doctrine: a backend retries reads (status, health, download) by itself. It never retries a submit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from hybrid_video.errors import BackendError
from hybrid_video.models import (
    Capabilities,
    CostEntry,
    Health,
    JobHandle,
    JobStatus,
    Lane,
    Quote,
    Refusal,
    Tier,
    VideoJob,
    WorkOrder,
)
from hybrid_video.pricing.quoting import Quoter
from hybrid_video.settings import Settings

ProgressCallback = Callable[[JobStatus], None]

CancelOutcome = Literal["stopped", "finished", "unknown"]
"""stopped: it will not run on; finished: it was over already; unknown: nobody can say."""


@dataclass(frozen=True)
class BackendContext:
    """What a backend is built from."""

    settings: Settings
    quoter: Quoter


class Backend(Protocol):
    """One vendor road. Construction does no I/O; `start` does."""

    key: str
    tier: Tier

    async def start(self) -> None:
        """Opens connections and asks what exists (models, GPU). Safe to call again after a failure.

        Raises:
            ConfigurationError: the key is wrong, or what is configured cannot work.
            BackendError: it does not answer now.
        """
        ...

    async def close(self) -> None:
        """Closes connections. Remote work goes on."""
        ...

    def lanes(self) -> tuple[Lane, ...]:
        """The places that can each make one clip at a time, as known after `start`."""
        ...

    def capabilities(self) -> Capabilities:
        """What it can make with its present model."""
        ...

    def quote(self, job: VideoJob, *, workflow_path: Path | None = None) -> Quote | Refusal:
        """Price and time for a job, or the reason why it cannot be made here. Fast: no I/O but a cached file."""
        ...

    async def preflight(
        self, job: VideoJob, *, workflow_path: Path | None = None, image_path: Path | None = None
    ) -> Refusal | None:
        """A free look before paying: do the nodes and models the job needs exist there?"""
        ...

    async def health(self) -> Health:
        """A real check, cheap enough for every 30 s. Never raises for an unhealthy backend."""
        ...

    async def submit(self, order: WorkOrder) -> JobHandle:
        """Sends the job once and returns as soon as it is accepted.

        Raises:
            TransientError, TerminalError: it is certain that nothing was accepted.
            SubmitUncertain: it may have been accepted.
        """
        ...

    async def find(self, order: WorkOrder) -> JobHandle | Literal["unknown"] | None:
        """Looks for a submit whose answer was lost: its handle, None if it certainly is not there, or "unknown"."""
        ...

    async def status(self, handle: JobHandle) -> JobStatus:
        """One look. Raises BackendError when the operation has failed or is gone."""
        ...

    async def watch(self, handle: JobHandle, on_progress: ProgressCallback | None = None) -> JobStatus:
        """Waits until it has succeeded. Outages shorter than the configured patience are waited out.

        Raises:
            BackendError: it failed, was lost, or stayed out of reach; `kind` says which.
        """
        ...

    async def collect(self, handle: JobHandle, status: JobStatus, folder: Path) -> Path:
        """Downloads the clip of a succeeded job into `folder` and returns its path (streamed, resumed when cut).

        Raises:
            TransientError: DOWNLOAD_FAILED or EXPIRED.
            TerminalError: BAD_CLIP when there is no video among the results.
        """
        ...

    async def cancel(self, handle: JobHandle) -> CancelOutcome:
        """Stops the remote work of one job and nothing else."""
        ...

    def charge(self, quote: Quote, status: JobStatus | None, failure: BackendError | None = None) -> CostEntry:
        """What the attempt cost, by the vendor's rule: `status` of a success, or the failure it ended in."""
        ...


@runtime_checkable
class TakesPods(Protocol):
    """What a backend offers beside `Backend` when its lanes come and go while it is in use."""

    async def attach(self, pod_id: str) -> Lane:
        """Takes a machine into use.

        Raises:
            ConfigurationError: it may not be used.
            BackendError: it cannot be used now.
        """
        ...

    async def detach(self, pod_id: str) -> None:
        """Forgets a machine; its lane is gone."""
        ...
