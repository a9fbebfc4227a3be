"""The whole engine over backends whose every answer is written down in the test: no server, real files and ledger."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

from hybrid_video.backends.base import CancelOutcome, ProgressCallback
from hybrid_video.emulators.render import render_clip_async
from hybrid_video.engine.fleet import Fleet
from hybrid_video.engine.prepare import prepare
from hybrid_video.engine.report import BatchReport
from hybrid_video.engine.run import BatchRun
from hybrid_video.errors import BackendError
from hybrid_video.history import History
from hybrid_video.ledger import Ledger, Owner
from hybrid_video.models import (
    Batch,
    Capabilities,
    CostEntry,
    Health,
    JobHandle,
    JobStatus,
    Lane,
    OutputSpec,
    Quote,
    Refusal,
    Tier,
    VideoJob,
    WorkOrder,
    utc_now,
)
from hybrid_video.settings import RoutingSettings, Settings, StorageSettings
from tests.unit.deciding_rig import TIERS, job, quote


@dataclass
class ScriptedBackend:
    """A backend with a price, a time and a list of failures; what is sent to it is remembered in order."""

    key: str
    usd: str = "0"
    service_s: float = 0.05
    slots: int = 1
    refuse_submit: list[BackendError] = field(default_factory=list)
    fail_watch: list[BackendError] = field(default_factory=list)
    fails_always: BackendError | None = None
    sent: list[WorkOrder] = field(default_factory=list)
    tier: Tier = field(init=False)

    def __post_init__(self) -> None:
        self.tier = TIERS[self.key]

    async def start(self) -> None:
        """Always up."""

    async def close(self) -> None:
        """Nothing is open."""

    def lanes(self) -> tuple[Lane, ...]:
        """So many slots."""
        return tuple(Lane(id=f"{self.key}-{n}", backend=self.key, tier=self.tier) for n in range(self.slots))

    def capabilities(self) -> Capabilities:
        """Everything."""
        return Capabilities(workflows=True)

    def quote(self, job: VideoJob, *, workflow_path: Path | None = None) -> Quote | Refusal:
        """The written price for exactly the clip asked for."""
        output = OutputSpec(width=job.width, height=job.height, fps=job.fps, frames=job.frames)
        return quote(self.key, self.usd, self.service_s).model_copy(update={"output": output})

    async def preflight(
        self, job: VideoJob, *, workflow_path: Path | None = None, image_path: Path | None = None
    ) -> Refusal | None:
        """Never refuses."""
        return None

    async def health(self) -> Health:
        """Always well."""
        return Health(backend=self.key, tier=self.tier, healthy=True, detail="scripted", checked_at=utc_now())

    async def submit(self, order: WorkOrder) -> JobHandle:
        """Remembers the order and accepts or refuses it."""
        self.sent.append(order)
        if self.refuse_submit:
            raise self.refuse_submit.pop(0)
        return JobHandle(
            backend=self.key,
            attempt_id=order.attempt_id,
            remote_id=order.attempt_id,
            lane=order.lane,
            submitted_at=utc_now(),
        )

    async def find(self, order: WorkOrder) -> JobHandle | Literal["unknown"] | None:
        """Cannot say."""
        return "unknown"

    async def status(self, handle: JobHandle) -> JobStatus:
        """Over."""
        return JobStatus(phase="succeeded", execution_s=self.service_s)

    async def watch(self, handle: JobHandle, on_progress: ProgressCallback | None = None) -> JobStatus:
        """Fails as written, else is done at once."""
        if on_progress is not None:
            on_progress(JobStatus(phase="running"))
        if self.fails_always is not None:
            raise self.fails_always
        if self.fail_watch:
            raise self.fail_watch.pop(0)
        return JobStatus(phase="succeeded", execution_s=self.service_s)

    async def collect(self, handle: JobHandle, status: JobStatus, folder: Path) -> Path:
        """Renders the clip that was ordered."""
        order = next(order for order in self.sent if order.attempt_id == handle.attempt_id)
        made, path = order.quote.output, folder / "clip.mp4"
        await render_clip_async(
            path,
            prompt=order.job.prompt,
            seed=order.seed,
            width=made.width,
            height=made.height,
            fps=made.fps,
            frames=made.frames,
        )
        return path

    async def cancel(self, handle: JobHandle) -> CancelOutcome:
        """Stops at once."""
        return "stopped"

    def charge(self, quote: Quote, status: JobStatus | None, failure: BackendError | None = None) -> CostEntry:
        """The quote for a clip, nothing for a failure."""
        amount = quote.amount_usd if failure is None else Decimal(0)
        return CostEntry(amount_usd=amount, basis="scripted", source="metered")


@dataclass
class Ran:
    """A batch that has been run."""

    report: BatchReport
    ledger: Ledger


def small(name: str = "shot-0", **values: Any) -> VideoJob:
    """A clip that renders in a few milliseconds."""
    return job(name, **{"width": 64, "height": 64, "duration_s": 0.5, "fps": 16, **values})


@asynccontextmanager
async def ran(
    backends: Iterable[ScriptedBackend],
    home: Path,
    jobs: tuple[VideoJob, ...] = (small(),),
    routing: RoutingSettings | None = None,
    opening: Callable[[Path], Ledger] = Ledger.open,
    **batch: Any,
) -> AsyncIterator[Ran]:
    """Runs a batch to its end on these backends."""
    routing = routing or RoutingSettings(retry_base_s=0.01, backend_patience_s=0.2)
    settings = Settings(routing=routing, storage=StorageSettings(home=home))
    fleet = Fleet({backend.key: backend for backend in backends})
    ledger, owner = opening(settings.storage.ledger_path), Owner(home)
    film = Batch.model_validate({"name": "film", "jobs": jobs, **batch})
    try:
        prepared = await prepare(film, base_dir=home, out_dir=home / "out", settings=settings, fleet=fleet)
        run = BatchRun(
            prepared,
            settings=settings,
            ledger=ledger,
            history=History(settings.storage.history_path),
            owner=owner,
        )
        yield Ran(await run.run(), ledger)
    finally:
        await fleet.close()
        owner.close()
        ledger.close()
