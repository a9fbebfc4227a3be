"""The backend `runpod-pod`: ComfyUI on running RunPod pods, each behind a proxy that checks our token.

What a ComfyUI does with a job is left to `ComfyUIServer`; this module knows where the pods are, that they are closed to
strangers, what they are made of and what their seconds cost. Pods are started and stopped elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from hybrid_video import workflows
from hybrid_video.backends.base import BackendContext, CancelOutcome, ProgressCallback
from hybrid_video.backends.comfyui.patience import Patience
from hybrid_video.backends.comfyui.preflight import summary
from hybrid_video.backends.comfyui.server import ComfyUIServer
from hybrid_video.backends.runpod.pod_gate import prove_closed
from hybrid_video.backends.runpod.pod_token import VARIABLE, pod_token
from hybrid_video.backends.runpod.pods import KEY, PodsClient
from hybrid_video.backends.runpod.transport import key_of
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

log = logging.getLogger(__name__)

OUTAGE_PATIENCE_S = 180.0
OUTAGE_LOOK_S = 6.0
"""After so long without an answer RunPod is asked whether the pod still is: nobody waits for one that is gone."""

_PREFIX = f"{KEY}/"


def lane_id(pod_id: str) -> str:
    """`runpod-pod/<pod id>`."""
    return f"{_PREFIX}{pod_id}"


@dataclass
class _Place:
    """One pod: its server, what is wrong with it ("" when it can be used), and the GPU its record names."""

    pod_id: str
    server: ComfyUIServer
    trouble: str = "not looked at yet"
    proven: bool = False
    queued: int = 0
    gpu: str = ""


class PodBackend:
    """Configured and attached pods; `hybrid_video.backends.base.Backend` says what each method promises."""

    key = KEY
    tier = Tier.CLOUD

    def __init__(self, context: BackendContext, *, patience: Patience | None = None) -> None:
        self._everything = context.settings
        self._settings = context.settings.runpod
        self._quoter = context.quoter
        self._patience = patience or Patience(
            poll_interval_s=self._settings.poll_interval_s,
            outage_s=OUTAGE_PATIENCE_S,
            job_timeout_s=self._settings.execution_timeout_s,
        )
        self._look_s = min(OUTAGE_LOOK_S, self._patience.outage_s)
        self._client: PodsClient | None = None
        self._places: dict[str, _Place] = {}

    async def start(self) -> None:
        """Looks at every configured and attached pod and proves that it is closed to strangers.

        Without any it has nothing to do where pods are opened when they pay: their lanes come with `attach`.

        Raises:
            ConfigurationError: no token, a wrong key, or a pod whose ComfyUI is open.
            TransientError: none of the pods can be used now.
        """
        self._token()
        if not self._settings.pod_ids and not self._places:
            if self._everything.pods.may_open:
                return
            raise ConfigurationError(
                "no pods are configured; set HYBRID_VIDEO_PODS_IMAGE so that pods are opened when they pay, or "
                "HYBRID_VIDEO_RUNPOD_POD_IDS to the ids of running ones"
            )
        await self._look_at_all()
        if not self.lanes():
            raise TransientError(
                "no pod can be used: " + "; ".join(place.trouble for place in self._places.values()),
                kind=FailureKind.UNREACHABLE,
                backend=KEY,
                execution_s=0.0,
            )

    async def close(self) -> None:
        """Closes connections. The pods go on, and go on costing money."""
        client, self._client = self._client, None
        places, self._places = self._places, {}
        await asyncio.gather(*(place.server.close() for place in places.values()))
        if client is not None:
            await client.close()

    async def attach(self, pod_id: str) -> Lane:
        """Takes a pod into use that is not in the settings, for example one that was started for a full queue.

        Raises:
            ConfigurationError: its ComfyUI is open.
            BackendError: it cannot be used now; it stays known, and `health` takes it in when it is up.
        """
        place = self._place(pod_id)
        await self._prepare(place)
        return self._lane(place)

    async def detach(self, pod_id: str) -> None:
        """Forgets a pod; its lane is gone and its jobs are no longer reachable from here."""
        place = self._places.pop(pod_id, None)
        if place is not None:
            await place.server.close()

    def lanes(self) -> tuple[Lane, ...]:
        """One lane per usable pod; each may hold one prompt behind the running one."""
        return tuple(self._lane(place) for place in self._places.values() if not place.trouble)

    def capabilities(self) -> Capabilities:
        """Whatever ComfyUI can do; `preflight` asks the pods for nodes and models."""
        return Capabilities(workflows=True)

    def quote(self, job: VideoJob, *, workflow_path: Path | None = None) -> Quote | Refusal:
        """GPU-seconds on the dearest of the usable pods, because the lane is chosen later."""
        plan = _plan(job, workflow_path)
        if isinstance(plan, Refusal):
            return plan
        try:
            quotes = [
                self._quoter.gpu_time(
                    backend=KEY,
                    tier=self.tier,
                    model=plan.name,
                    gpu=gpu,
                    output=plan.output,
                    signature=plan.signature,
                )
                for gpu in self._gpus()
            ]
        except ConfigurationError as error:
            return Refusal(code="preflight", reason=error.message)
        return max(quotes, key=lambda quote: quote.amount_usd)

    async def preflight(
        self, job: VideoJob, *, workflow_path: Path | None = None, image_path: Path | None = None
    ) -> Refusal | None:
        """Asks every usable pod for the nodes and models of the workflow."""
        plan = _plan(job, workflow_path)
        if isinstance(plan, Refusal):
            return plan
        for place in [place for place in self._places.values() if not place.trouble]:
            try:
                found = await place.server.preflight(plan, with_image=image_path is not None or bool(job.image))
            except InputError as error:
                return Refusal(code="capability", reason=error.message)
            except BackendError as error:
                return Refusal(code="health", reason=error.message)
            if found:
                return Refusal(code="preflight", reason=f"pod {place.pod_id!r}: {summary(found)}")
        return None

    async def health(self) -> Health:
        """Asks RunPod for each pod's state and each ComfyUI for its own, and proves the gate anew."""
        began = time.monotonic()
        problem = ""
        try:
            self._token()
            await self._look_at_all()
        except (ConfigurationError, BackendError) as error:
            problem = error.message
        places = list(self._places.values())
        usable = [place for place in places if not place.trouble]
        words = [place.trouble or f"pod {place.pod_id!r} answers on {self._gpu_of(place)}" for place in places]
        none_needed = not places and self._everything.pods.may_open
        nothing = "no pod is open; one is opened when it pays" if none_needed else "no pods are configured"
        detail = problem or "; ".join(words) or nothing
        healthy = (bool(usable) or none_needed) and not problem
        return Health(
            backend=KEY,
            tier=self.tier,
            healthy=healthy,
            detail=detail,
            remedy="" if healthy else "Start a pod, wait until its ComfyUI answers, or correct what is named.",
            checked_at=utc_now(),
            latency_s=time.monotonic() - began,
            queued=sum(place.queued for place in usable),
        )

    async def submit(self, order: WorkOrder) -> JobHandle:
        """Sends the job once to the pod of its lane, after the proof that the pod is closed."""
        plan = _plan(order.job, Path(order.workflow_path) if order.workflow_path else None)
        if isinstance(plan, Refusal):
            raise TerminalError(plan.reason, kind=FailureKind.INVALID_WORKFLOW, backend=KEY, execution_s=0.0)
        place = self._place_of(order.lane)
        if place.trouble or not place.proven:
            await self._prepare(place)
        return await place.server.submit(order, plan)

    async def find(self, order: WorkOrder) -> JobHandle | Literal["unknown"] | None:
        """Looks for the attempt on its pod; a pod that is gone for good holds nothing any more."""
        place = self._place_of(order.lane)
        found = await place.server.find(order)
        if found == "unknown" and await self._is_gone(place.pod_id):
            return None
        return found

    async def status(self, handle: JobHandle) -> JobStatus:
        """One look at the prompt."""
        place = self._place_of(handle.lane)
        return self._priced(place, await place.server.status(handle))

    async def watch(self, handle: JobHandle, on_progress: ProgressCallback | None = None) -> JobStatus:
        """Waits for the prompt by polling: the proxy cuts websockets. A pod that is gone has lost its queue."""
        place = self._place_of(handle.lane)
        lost_s = 0.0
        while True:
            began_s = time.monotonic()
            try:
                return self._priced(place, await place.server.watch(handle, on_progress))
            except TransientError as error:
                place.proven = False
                if error.kind is not FailureKind.UNREACHABLE:
                    raise
                if await self._is_gone(place.pod_id):
                    raise TransientError(
                        f"pod {place.pod_id!r} was stopped or terminated while it held job {handle.remote_id!r}; the "
                        "job is made again elsewhere",
                        kind=FailureKind.RESTARTED,
                        backend=KEY,
                        detail=error.message,
                    ) from error
                took_s = time.monotonic() - began_s
                lost_s = took_s if took_s > 2 * self._look_s else lost_s + took_s  # it was heard of in between
                if lost_s >= self._patience.outage_s:
                    raise

    async def collect(self, handle: JobHandle, status: JobStatus, folder: Path) -> Path:
        """Downloads the clip through the proxy."""
        return await self._place_of(handle.lane).server.collect(handle, status, folder)

    async def cancel(self, handle: JobHandle) -> CancelOutcome:
        """Stops the one prompt; the pod goes on."""
        place = self._place_of(handle.lane)
        outcome = await place.server.cancel(handle)
        return "stopped" if outcome == "unknown" and await self._is_gone(place.pod_id) else outcome

    def charge(self, quote: Quote, status: JobStatus | None, failure: BackendError | None = None) -> CostEntry:
        """The job's share of the pod: its own seconds at the price of the pod's GPU.

        A pod is billed from start to stop; what no job used shows in the pod's own bill, not in a job's.
        """
        success = status is not None and failure is None
        gpu = (status.gpu if status else "") or self._gpus()[0]
        billed_s = failure.execution_s if failure else status.execution_s if status else None
        try:
            return self._quoter.settle_gpu_time(quote, gpu=gpu, billed_s=billed_s, success=success)
        except ConfigurationError as error:
            amount = quote.amount_usd if success else quote.reserve_usd
            return CostEntry(amount_usd=amount, basis=f"the quote stands: {error.message}", source="quoted")

    def _token(self) -> str:
        if self._settings.pod_ids:  # their gates check what their owner gave them; no token of ours is made for them
            return key_of(self._settings.pod_token, VARIABLE)
        return pod_token(self._everything)

    def _pods(self) -> PodsClient:
        if self._client is None:
            self._client = PodsClient.from_settings(self._settings)
        return self._client

    def _place(self, pod_id: str) -> _Place:
        if pod_id not in self._places:
            server = ComfyUIServer(
                self._settings.pod_url(pod_id),
                backend=KEY,
                lane=lane_id(pod_id),
                headers={"Authorization": f"Bearer {self._token()}"},
                websocket=False,  # the proxy ends every connection after 100 s
                patience=replace(self._patience, outage_s=self._look_s),
            )
            self._places[pod_id] = _Place(pod_id, server)
        return self._places[pod_id]

    def _place_of(self, lane: str) -> _Place:
        if not lane.startswith(_PREFIX):
            raise ConfigurationError(f"lane {lane!r} is no pod's; it should look like {lane_id('<pod id>')!r}")
        return self._place(lane.removeprefix(_PREFIX))

    def _lane(self, place: _Place) -> Lane:
        return Lane(id=lane_id(place.pod_id), backend=KEY, tier=self.tier, gpu=self._gpu_of(place), ahead=1)

    def _gpus(self) -> list[str]:
        """GPU types of the usable pods, or the one that would be opened or is configured before any was seen."""
        seen = [self._gpu_of(place) for place in self._places.values() if not place.trouble]
        first = self._everything.pods.gpus[:1] if self._everything.pods.may_open else ()
        return list(dict.fromkeys(seen)) or [*first] or [self._settings.gpu]

    def _gpu_of(self, place: _Place) -> str:
        """RunPod's name of the GPU, under which prices are kept; else ComfyUI's or the configured one."""
        return place.gpu or place.server.gpu or self._settings.gpu

    def _priced(self, place: _Place, status: JobStatus) -> JobStatus:
        return status.model_copy(update={"gpu": self._gpu_of(place)})

    async def _look_at_all(self) -> None:
        """Looks at every configured and attached pod. An open one is reported after all were looked at."""
        for pod_id in self._settings.pod_ids:
            self._place(pod_id)
        results = await asyncio.gather(
            *(self._prepare(place) for place in list(self._places.values())), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BackendError) and result.kind is FailureKind.AUTHENTICATION:
                raise ConfigurationError(result.message) from result
            if isinstance(result, BaseException) and not isinstance(result, BackendError):
                raise result

    async def _prepare(self, place: _Place) -> None:
        """Makes sure that a pod runs, is closed to strangers and answers us.

        Raises:
            ConfigurationError: it is open to strangers.
            BackendError: it cannot be used now.
        """
        place.proven = False
        try:
            await self._require_running(place)
            await prove_closed(place.pod_id, self._settings.pod_url(place.pod_id), backend=KEY)
            place.proven = True
            await place.server.start(tries=1)
            check = await place.server.check()
            if check.trouble:
                raise _unusable(f"pod {place.pod_id!r}: {check.trouble}")
        except (BackendError, ConfigurationError) as error:
            place.trouble, place.queued = error.message, 0
            raise
        place.trouble, place.queued = "", check.queued

    async def _require_running(self, place: _Place) -> None:
        pod = await self._pods().get(place.pod_id)
        if pod is None or pod.status != "RUNNING":
            state = pod.status if pod else "gone"
            raise _unusable(f"pod {place.pod_id!r} is {state}; start it, or take its id out of the settings")
        if pod.gpu_name:
            place.gpu = pod.gpu_name

    async def _is_gone(self, pod_id: str) -> bool:
        """Whether RunPod says that the pod's container does not run any more, so that its queue and files are lost."""
        try:
            pod = await self._pods().get(pod_id)
        except (BackendError, ConfigurationError) as error:
            log.warning("whether pod %s still exists is not known: %s", pod_id, error)
            return False
        return pod is None or pod.status in ("EXITED", "TERMINATED")


def _plan(job: VideoJob, workflow_path: Path | None) -> WorkflowPlan | Refusal:
    try:
        return workflows.plan(job, workflow_path=workflow_path)
    except InputError as error:
        return Refusal(code="capability", reason=error.message)


def _unusable(message: str) -> TransientError:
    return TransientError(message, kind=FailureKind.UNREACHABLE, backend=KEY, execution_s=0.0)
