"""One ComfyUI server as a place where jobs are made: submit, find, look, watch, cancel, collect.

Used by the `comfyui` backend for the user's own machines, and by others that reach a ComfyUI through a proxy (with
headers and without the websocket). Knows one server; which server a job goes to is decided elsewhere.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from hybrid_video.backends.base import CancelOutcome, ProgressCallback
from hybrid_video.backends.comfyui.cancelling import cancel
from hybrid_video.backends.comfyui.client import ComfyUIClient
from hybrid_video.backends.comfyui.download import download
from hybrid_video.backends.comfyui.listener import Listener
from hybrid_video.backends.comfyui.looking import Sight, look
from hybrid_video.backends.comfyui.patience import Patience
from hybrid_video.backends.comfyui.preflight import Choices, Problem, Sources, problems
from hybrid_video.backends.comfyui.records import SystemStats
from hybrid_video.backends.comfyui.submission import Submission
from hybrid_video.backends.comfyui.verdicts import judge
from hybrid_video.backends.comfyui.watching import Watch
from hybrid_video.errors import BackendError, FailureKind, TerminalError, TransientError
from hybrid_video.models import JobHandle, JobStatus, WorkOrder
from hybrid_video.workflows import WorkflowPlan

_PLACEHOLDER_IMAGE = "hv-preflight.png"


@dataclass(frozen=True)
class Checkup:
    """Outcome of one look at a server's health."""

    stats: SystemStats | None
    queued: int
    trouble: str = ""
    remedy: str = ""
    latency_s: float | None = None


@dataclass
class _Cached:
    """The server's node classes, and until when they count as known."""

    info: Mapping[str, Any] = field(default_factory=dict)
    choices: dict[str, Choices] = field(default_factory=dict)
    until: float = 0.0


class ComfyUIServer:
    """One server.

    Args:
        base_url: its address, perhaps a proxy's.
        backend: registry key of the backend it serves, named in errors and handles.
        lane: id of the lane it is.
        headers: sent with every request, for example a bearer token.
        websocket: whether to listen for progress; off where a proxy does not carry it.
        gpu: GPU model to report; asked from the server when empty.
        patience: waiting times.
        timeout_s: longest silence on a connection.
    """

    def __init__(
        self,
        base_url: str,
        *,
        backend: str,
        lane: str,
        headers: Mapping[str, str] | None = None,
        websocket: bool = True,
        gpu: str = "",
        patience: Patience | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        self.backend = backend
        self.lane = lane
        self.gpu = gpu
        self._gpu_is_given = bool(gpu)
        self.patience = patience or Patience()
        self.client = ComfyUIClient(base_url, backend=backend, headers=headers, timeout_s=timeout_s)
        self.listener = Listener(self.client.websocket_url, self.client.headers) if websocket else None
        self._submission = Submission(self.client, lane, self.patience)
        self._nodes = _Cached()
        self._nodes_lock = asyncio.Lock()
        self._sentinel = ""
        self._stuck_since: float | None = None
        self._immovable = ""

    @property
    def url(self) -> str:
        """The address without credentials."""
        return self.client.url

    async def close(self) -> None:
        """Closes the connections; prompts run on."""
        if self.listener:
            await self.listener.close()
        await self.client.close()

    async def start(self, *, tries: int = 3) -> SystemStats:
        """Asks what it is.

        Raises:
            BackendError: it does not answer as a ComfyUI.
        """
        stats = await self.client.system_stats(tries=tries)
        if not self._gpu_is_given:
            self.gpu = stats.gpu
        return stats

    async def check(self) -> Checkup:
        """One cheap look: does it answer, how much waits, and does its worker live? Never raises."""
        began = time.monotonic()
        try:
            stats = await self.start(tries=1)
            queued = await self.client.queue_remaining(tries=1)
            latency_s = time.monotonic() - began
            stuck = queued > 0 and await self._worker_is_dead()
        except BackendError as error:
            return Checkup(None, 0, error.message, "Check that ComfyUI runs there and that the address is right.")
        if not stuck:
            self._stuck_since = self._stuck_since if queued else None
            return Checkup(stats, queued, latency_s=latency_s)
        trouble = f"ComfyUI at {self.url!r} holds {queued} prompts and runs none: its worker is dead"
        return Checkup(stats, queued, trouble, "Restart that ComfyUI.", latency_s)

    async def preflight(self, plan: WorkflowPlan, *, with_image: bool = True) -> tuple[Problem, ...]:
        """What the workflow needs and this server lacks.

        Args:
            plan: the workflow.
            with_image: whether an input image will be uploaded before it is sent.

        Raises:
            BackendError: it cannot be asked.
            InputError: the workflow needs an image and there will be none.
        """
        image_name = _PLACEHOLDER_IMAGE if with_image else None
        graph = plan.bind(seed=0, filename_prefix="hv/preflight", image_name=image_name)
        sources = Sources(plan.models, plan.custom_nodes)
        nodes = await self._object_info()
        uploaded = frozenset({_PLACEHOLDER_IMAGE})
        return problems(graph, nodes.info, uploaded=uploaded, sources=sources, known=nodes.choices)

    async def submit(self, order: WorkOrder, plan: WorkflowPlan) -> JobHandle:
        """Uploads the input image and sends the graph once, under the attempt's own id.

        Raises:
            TransientError, TerminalError: it is certain that nothing runs there.
            SubmitUncertain: it may have been accepted and cannot be looked up now.
        """
        image = Path(order.image_path) if order.image_path and plan.needs_image else None
        image_name = await self.client.upload_image(image) if image else None
        graph = plan.bind(seed=order.seed, filename_prefix=order.filename_prefix, image_name=image_name)
        client_id = await self.listener.client_id() if self.listener else uuid4().hex
        if self.listener:
            self.listener.expect(order.attempt_id, graph)
        try:
            return await self._submission.send(order, graph, client_id=client_id, output_node=plan.output_node)
        except BackendError:
            if self.listener:
                self.listener.forget(order.attempt_id)
            raise

    async def find(self, order: WorkOrder, *, output_node: str = "") -> JobHandle | Literal["unknown"] | None:
        """Looks for an attempt by its id; see `Backend.find`."""
        return await self._submission.find(order, output_node=output_node)

    async def status(self, handle: JobHandle) -> JobStatus:
        """One look. Raises BackendError when the prompt has failed or is gone."""
        return await self.judged(handle, await look(self.client, handle.remote_id))

    async def judged(self, handle: JobHandle, sight: Sight) -> JobStatus:
        """What a look means for the job.

        Raises:
            BackendError: it failed, or is gone.
        """
        if sight.place == "absent":
            raise await self._gone(handle)
        if sight.entry is not None:
            self._sentinel = handle.remote_id
            return judge(sight.entry, backend=self.backend, url=self.url, view_url=self.client.view_url, gpu=self.gpu)
        heard = self.listener.progress(handle.remote_id) if self.listener else None
        if sight.place == "running":
            return JobStatus(phase="running", progress=heard, gpu=self.gpu)
        ahead = sight.queue.pending.index(handle.remote_id) + len(sight.queue.running)
        return JobStatus(phase="queued", message=f"{ahead} ahead in ComfyUI's queue", gpu=self.gpu)

    async def watch(self, handle: JobHandle, on_progress: ProgressCallback | None = None) -> JobStatus:
        """Waits until it has succeeded; see `Backend.watch`."""
        try:
            return await Watch(self, handle, on_progress).run()
        finally:
            if self.listener:
                self.listener.forget(handle.remote_id)

    async def collect(self, handle: JobHandle, status: JobStatus, folder: Path) -> Path:
        """Downloads the best video of a succeeded prompt; see `Backend.collect`."""
        files = status.files or (await self.status(handle)).files
        if not files:
            raise TerminalError(
                f"the workflow ran on ComfyUI at {self.url!r} but saved no video; end it with a node that saves one, "
                "such as Save Video",
                kind=FailureKind.BAD_CLIP,
                backend=self.backend,
                execution_s=status.execution_s,
            )
        target = folder / f"{handle.attempt_id}{Path(files[0].name).suffix.lower()}"
        return await download(self.client, files[0].details, target)

    async def cancel(self, handle: JobHandle) -> CancelOutcome:
        """Stops this prompt and no other; see `Backend.cancel`."""
        return await cancel(self.client, handle.remote_id, self.patience)

    def note_immovable(self, prompt_id: str) -> None:
        """Remembers a prompt that runs for ever: as long as it does, `check` finds the worker dead."""
        self._immovable = prompt_id

    async def _gone(self, handle: JobHandle) -> BackendError:
        """Why an accepted prompt is nowhere: the server restarted, or somebody deleted it.

        Nothing outlives a restart, so a prompt that finished earlier tells the two apart (observed on ComfyUI 0.8.0:
        there is no boot id).
        """
        if self._sentinel and await self._still_knows(self._sentinel):
            return TerminalError(
                f"the job was deleted from the queue or the history of ComfyUI at {self.url!r}; run the batch again to "
                "make it",
                kind=FailureKind.CANCELLED,
                backend=self.backend,
            )
        self._sentinel = ""
        return TransientError(
            f"ComfyUI at {self.url!r} was restarted and has lost the job with its queue; it has to be made again",
            kind=FailureKind.RESTARTED,
            backend=self.backend,
        )

    async def _still_knows(self, prompt_id: str) -> bool:
        try:
            return await self.client.history(prompt_id) is not None
        except BackendError:
            return False  # the job is lost either way

    async def _object_info(self) -> _Cached:
        async with self._nodes_lock:
            if time.monotonic() >= self._nodes.until:
                info = await self.client.object_info()
                self._nodes = _Cached(info, until=time.monotonic() + self.patience.object_info_ttl_s)
            return self._nodes

    async def _worker_is_dead(self) -> bool:
        """Whether prompts have waited with none running since an earlier check, longer than a start takes, or one runs
        on that could not be interrupted."""
        queue = await self.client.queue(tries=1)
        if self._immovable and self._immovable in queue.running:
            return True
        self._immovable = ""
        if queue.running or not queue.pending:
            self._stuck_since = None
            return False
        now = time.monotonic()
        self._stuck_since = now if self._stuck_since is None else self._stuck_since
        return now - self._stuck_since > self.patience.wedge_after_s
