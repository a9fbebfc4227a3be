"""The `comfyui` backend: the user's own GPUs, one ComfyUI server per lane."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from hybrid_video.backends.base import BackendContext, CancelOutcome, ProgressCallback
from hybrid_video.backends.comfyui.patience import Patience
from hybrid_video.backends.comfyui.preflight import summary
from hybrid_video.backends.comfyui.server import Checkup, ComfyUIServer
from hybrid_video.backends.comfyui.transport import without_credentials
from hybrid_video.errors import BackendError, ConfigurationError, FailureKind, InputError, TerminalError, TransientError
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
    utc_now,
)
from hybrid_video.workflows import WorkflowPlan
from hybrid_video.workflows import plan as plan_workflow


def lane_id(url: str) -> str:
    """`comfyui/<host:port>`, with the path where a proxy needs one."""
    parts = urlsplit(without_credentials(url))
    return f"comfyui/{parts.netloc}{parts.path}"


class ComfyUIBackend:
    """The user's ComfyUI servers. One that does not answer loses its lane until a later `health` finds it again."""

    key = "comfyui"
    tier = Tier.LOCAL

    def __init__(self, context: BackendContext, *, patience: Patience | None = None) -> None:
        self._settings = context.settings.comfyui
        self._quoter = context.quoter
        self._patience = patience or Patience.from_settings(self._settings)
        self._servers: dict[str, ComfyUIServer] = {}
        self._up: set[str] = set()

    async def start(self) -> None:
        """Connects to every configured server; one that is dead is left out.

        Raises:
            ConfigurationError: no address is configured.
            TransientError: none of them answers.
        """
        if not self._settings.urls:
            raise ConfigurationError(
                "HYBRID_VIDEO_COMFYUI_URLS is empty, so there is no local GPU to use; set it to the address of your "
                "ComfyUI, for example http://127.0.0.1:8188"
            )
        checks = await self._check_all()
        if not self._up:
            raise TransientError(
                "no ComfyUI answers: " + "; ".join(check.trouble for check in checks.values()),
                kind=FailureKind.UNREACHABLE,
                backend=self.key,
            )

    async def close(self) -> None:
        """Closes the connections; prompts run on."""
        servers, self._servers, self._up = list(self._servers.values()), {}, set()
        await asyncio.gather(*(server.close() for server in servers))

    def lanes(self) -> tuple[Lane, ...]:
        """One per server that answered when it was last asked; each takes one prompt ahead of the running one."""
        return tuple(
            Lane(id=lane, backend=self.key, tier=self.tier, gpu=server.gpu, ahead=1)
            for lane, server in self._servers.items()
            if lane in self._up
        )

    def capabilities(self) -> Capabilities:
        """What ComfyUI can make; the workflow decides the rest."""
        return Capabilities(workflows=True)

    def quote(self, job: VideoJob, *, workflow_path: Path | None = None) -> Quote | Refusal:
        """Price and time of the workflow's own output, or why it cannot be made."""
        try:
            plan = plan_workflow(job, workflow_path=workflow_path)
        except InputError as error:
            return Refusal(code="capability", reason=error.message)
        return self._quoter.gpu_time(
            backend=self.key,
            tier=self.tier,
            model=plan.name,
            gpu=self._gpu(),
            output=plan.output,
            signature=plan.signature,
        )

    async def preflight(
        self, job: VideoJob, *, workflow_path: Path | None = None, image_path: Path | None = None
    ) -> Refusal | None:
        """Holds the workflow against every server that answers. All must have what it needs, because the job may be
        given to any of them."""
        try:
            plan = plan_workflow(job, workflow_path=workflow_path)
        except InputError as error:
            return Refusal(code="capability", reason=error.message)
        unreachable: list[str] = []
        for server in self._live():
            try:
                found = await server.preflight(plan)
            except BackendError as error:
                unreachable.append(error.message)
                continue
            if found:
                return Refusal(code="preflight", reason=f"ComfyUI at {server.url!r}: {summary(found)}")
        if len(unreachable) == len(self._live()):
            return Refusal(code="health", reason="; ".join(unreachable) or "no ComfyUI answers; start one")
        return None

    async def health(self) -> Health:
        """Asks every server what it is and how much waits there; lanes follow the answers."""
        checks = await self._check_all()
        good = [check for check in checks.values() if check.stats is not None and not check.trouble]
        bad = [check for check in checks.values() if check.trouble]
        words = [
            f"{lane} is ComfyUI {check.stats.version or '?'} on {check.stats.gpu or '?'} with {check.queued} queued"
            for lane, check in checks.items()
            if check.stats is not None and not check.trouble
        ]
        words += [check.trouble for check in bad]
        return Health(
            backend=self.key,
            tier=self.tier,
            healthy=bool(good),
            detail=f"{len(good)} of {len(checks)} answered well: " + "; ".join(words) if checks else "none configured",
            remedy="" if good else (bad[0].remedy if bad else "Set HYBRID_VIDEO_COMFYUI_URLS."),
            checked_at=utc_now(),
            latency_s=max((check.latency_s or 0.0 for check in good), default=None),
            queued=sum(check.queued for check in good),
        )

    async def submit(self, order: WorkOrder) -> JobHandle:
        """Sends the job once to the server of its lane; see `Backend.submit`."""
        try:
            return await self._of(order.lane).submit(order, self._planned(order))
        except InputError as error:
            raise TerminalError(error.message, kind=FailureKind.INVALID_WORKFLOW, backend=self.key) from None
        except TransientError as error:
            self._close_lane(order.lane, error)
            raise

    async def find(self, order: WorkOrder) -> JobHandle | Literal["unknown"] | None:
        """Looks for the attempt on the server of its lane; "unknown" when that is no longer configured."""
        self._connect()
        if order.lane not in self._servers:
            return "unknown"
        try:
            output_node = self._planned(order).output_node
        except InputError:
            output_node = ""  # the workflow file is gone or changed; the attempt is found all the same
        return await self._servers[order.lane].find(order, output_node=output_node)

    async def status(self, handle: JobHandle) -> JobStatus:
        """One look at the prompt."""
        return await self._at(handle).status(handle)

    async def watch(self, handle: JobHandle, on_progress: ProgressCallback | None = None) -> JobStatus:
        """Waits until it has succeeded."""
        try:
            return await self._at(handle).watch(handle, on_progress)
        except TransientError as error:
            self._close_lane(handle.lane, error)
            raise

    async def collect(self, handle: JobHandle, status: JobStatus, folder: Path) -> Path:
        """Downloads the clip to `<folder>/<attempt id>.<suffix>`."""
        return await self._at(handle).collect(handle, status, folder)

    async def cancel(self, handle: JobHandle) -> CancelOutcome:
        """Stops this prompt and no other."""
        return await self._at(handle).cancel(handle)

    def charge(self, quote: Quote, status: JobStatus | None, failure: BackendError | None = None) -> CostEntry:
        """The seconds ComfyUI says it ran, at the local price (0: no vendor bills it)."""
        seconds = status.execution_s if status is not None else (failure.execution_s if failure else None)
        gpu = (status.gpu if status is not None else "") or self._gpu()
        return self._quoter.settle_gpu_time(quote, gpu=gpu, billed_s=seconds, success=status is not None)

    def _planned(self, order: WorkOrder) -> WorkflowPlan:
        return plan_workflow(order.job, workflow_path=Path(order.workflow_path) if order.workflow_path else None)

    def _server(self, url: str, lane: str) -> ComfyUIServer:
        return ComfyUIServer(url, backend=self.key, lane=lane, gpu=self._settings.gpu, patience=self._patience)

    def _gpu(self) -> str:
        """The GPU quotes are made for: the configured one, or the first server's."""
        return self._settings.gpu or next((server.gpu for server in self._live() if server.gpu), "")

    def _live(self) -> list[ComfyUIServer]:
        return [server for lane, server in self._servers.items() if lane in self._up]

    def _close_lane(self, lane: str, error: TransientError) -> None:
        """Takes a dead server's lane away at once, so that the others get its jobs; the last lane stays."""
        if error.kind in (FailureKind.UNREACHABLE, FailureKind.WEDGED) and self._up - {lane}:
            self._up.discard(lane)

    def _connect(self) -> None:
        """Makes sure every configured server has its client; opens no connection."""
        for url in self._settings.urls:
            lane = lane_id(url)
            if lane not in self._servers:
                self._servers[lane] = self._server(url, lane)

    def _of(self, lane: str) -> ComfyUIServer:
        self._connect()
        server = self._servers.get(lane)
        if server is None:
            raise ConfigurationError(
                f"lane {lane!r} is not among the configured ComfyUI servers ({', '.join(self._servers) or 'none'}); "
                "put its address back into HYBRID_VIDEO_COMFYUI_URLS"
            )
        return server

    def _at(self, handle: JobHandle) -> ComfyUIServer:
        """The server that holds a job, also when it is no longer configured: the receipt knows its address."""
        if handle.lane not in self._servers and handle.details.get("url"):
            self._servers[handle.lane] = self._server(handle.details["url"], handle.lane)
        return self._of(handle.lane)

    async def _check_all(self) -> dict[str, Checkup]:
        self._connect()
        configured = {lane_id(url) for url in self._settings.urls}
        servers = {lane: server for lane, server in self._servers.items() if lane in configured}
        checks = dict(zip(servers, await asyncio.gather(*(s.check() for s in servers.values())), strict=True))
        self._up = {lane for lane, check in checks.items() if not check.trouble}
        return checks
