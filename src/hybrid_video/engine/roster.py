"""Brings rented pods into a running batch as they become ready, and takes them out again as they close or fail.

The pods themselves are opened and closed by the watcher; this module only follows what the ledger says of them. A pod
that fails twice in a row gets no more jobs of this run until it has rested: the others must not suffer for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from hybrid_video.backends.base import TakesPods
from hybrid_video.engine.fleet import Fleet
from hybrid_video.errors import ConfigurationError, HybridVideoError
from hybrid_video.goals import LaneState
from hybrid_video.ledger import Ledger
from hybrid_video.ledger.lanes import POD_PREFIX
from hybrid_video.models import AttemptState, Refusal, utc_now
from hybrid_video.pods.records import PodRecord
from hybrid_video.pods.store import PodStore
from hybrid_video.settings import Settings
from hybrid_video.watcher.lease import watching

log = logging.getLogger(__name__)

KEY = "runpod-pod"
LOOK_S = 1.0
SHORTEST_LOOK_S = 0.2
FAILURES = 2
"""A pod that failed so many jobs in a row is set aside."""

REST_S = 60.0
"""How long it gets no job of this run; the watcher may have replaced it by then."""

STARTING = frozenset({"intended", "creating", "starting"})


@dataclass
class _Pod:
    """A pod as this run uses it."""

    record: PodRecord
    attached: bool = False
    failures: int = 0
    rests_until_s: float = 0.0
    trouble: str = ""


@dataclass
class Roster:
    """The pods of one run."""

    fleet: Fleet
    ledger: Ledger
    settings: Settings
    busy_lanes: Callable[[], set[str]]
    """Lanes that hold jobs of this run: such a pod stays attached until they are over."""
    tell: Callable[[str], None]
    _pods: dict[str, _Pod] = field(default_factory=dict, init=False)
    _starting: tuple[PodRecord, ...] = field(default=(), init=False)

    @property
    def active(self) -> bool:
        """Whether this run can use pods at all."""
        return isinstance(self.fleet.backends.get(KEY), TakesPods)

    async def keep_fresh(self) -> None:
        """Follows the ledger until cancelled."""
        if not self.active:
            return
        pause_s = max(SHORTEST_LOOK_S, LOOK_S / self.settings.routing.time_scale)
        while True:
            try:
                await self.look()
            except HybridVideoError as error:
                log.warning("the list of pods cannot be read now: %s", error)
            await asyncio.sleep(pause_s)

    async def look(self) -> None:
        """One look: attaches what has become ready, takes out what has gone."""
        alive, stopped = await asyncio.to_thread(self._read)
        ready = {record.pod_id: record for record in alive if record.state == "ready" and record.pod_id}
        self._starting = tuple(record for record in alive if record.state in STARTING)
        for pod_id, record in ready.items():
            pod = self._pods.setdefault(pod_id, _Pod(record))
            pod.record = record
            if not pod.attached:
                await self._attach(pod_id, pod)
        for pod_id in [pod_id for pod_id in self._pods if pod_id not in ready]:
            await self._take_out(pod_id)
        self._judge(stopped)

    def failed(self, lane: str) -> None:
        """A job failed on a lane by the lane's fault."""
        pod = self._pods.get(lane.removeprefix(POD_PREFIX))
        if pod is None:
            return
        pod.failures += 1
        if pod.failures >= FAILURES:
            pod.rests_until_s = time.monotonic() + REST_S / self.settings.routing.time_scale
            self.fleet.set_aside(lane, f"failed {pod.failures} jobs in a row")
            self.tell(f"pod {pod.record.name} failed {pod.failures} jobs in a row and gets none for a while")

    def succeeded(self, lane: str) -> None:
        """A job was made on a lane."""
        pod = self._pods.get(lane.removeprefix(POD_PREFIX))
        if pod is not None:
            pod.failures = 0

    def expected(self, now: datetime | None = None) -> list[LaneState]:
        """Pods that are starting, as lanes that will be free later: nothing dear is bought that they will make."""
        if not self.active:
            return []
        now = now or utc_now()
        cold_start_s = self.settings.pods.cold_start_s / self.settings.routing.time_scale
        return [
            LaneState(
                f"{POD_PREFIX}{record.name}", KEY, ready_in_s(record, cold_start_s, now), outstanding=1, paid=True
            )
            for record in self._starting
        ]

    def room(self) -> int:
        """How many more pods may open for this run; 0 where it can use none, or a watcher says that none can be had.

        A run without another watcher has one of its own.
        """
        if not self.active or not self.settings.pods.may_open:
            return 0
        holder = watching(self.ledger)
        if holder is not None and holder.believed and holder.document.get("pods_stopped"):
            return 0
        return max(0, self.settings.pods.max_pods - len(PodStore(self.ledger).alive()))

    def has_lost(self, batch: str, job: str) -> bool:
        """Whether the pod that holds a job's open attempt is gone, so that looking again gives a certain answer."""
        lanes = {a.lane for a in self.ledger.attempts(batch, job=job, states=[AttemptState.UNCERTAIN])}
        pods = [PodStore(self.ledger).get(lane.removeprefix(POD_PREFIX)) for lane in lanes]
        return any(pod is not None and pod.state in ("closed", "failed") for pod in pods)

    def _read(self) -> tuple[Sequence[PodRecord], Refusal | None]:
        alive = PodStore(self.ledger).alive()
        return alive, None if alive else self._why_none()

    def _why_none(self) -> Refusal | None:
        """Why no pod will come, if none will; None while one may."""
        if self.settings.runpod.pod_ids:
            return None
        holder = watching(self.ledger)
        if holder is None or not holder.believed:
            text = "no pods are open and no watcher runs that could open one; start one with `hybrid-video watch`"
            return Refusal(code="health", reason=text)
        stopped = str(holder.document.get("pods_stopped") or "")
        code = "limit" if holder.document.get("pods_stopped_by_limit") else "health"
        return Refusal(code=code, reason=f"no pod can be opened: {stopped}") if stopped else None

    async def _attach(self, pod_id: str, pod: _Pod) -> None:
        backend: object = self.fleet.backends[KEY]
        assert isinstance(backend, TakesPods)  # noqa: S101 - `active` says so
        try:
            lane = await backend.attach(pod_id)
        except (HybridVideoError, ConfigurationError) as error:
            if str(error) != pod.trouble:
                pod.trouble = str(error)
                log.warning("pod %s is ready but cannot be used: %s", pod.record.name, error)
            return
        pod.attached, pod.trouble = True, ""
        self.fleet.came_back(KEY)
        self.tell(
            f"pod {pod.record.name} ({pod.record.gpu}, ${pod.record.usd_per_h:f}/h) joins the batch as lane {lane.id}"
        )

    async def _take_out(self, pod_id: str) -> None:
        """No new jobs from now on; forgotten once its last job of this run is over."""
        lane = f"{POD_PREFIX}{pod_id}"
        pod = self._pods[pod_id]
        if pod.attached:
            self.fleet.set_aside(lane, "the pod is being closed")
        if lane in self.busy_lanes():
            return
        del self._pods[pod_id]
        if pod.attached:
            backend: object = self.fleet.backends[KEY]
            assert isinstance(backend, TakesPods)  # noqa: S101 - `active` says so
            with contextlib.suppress(HybridVideoError):
                await backend.detach(pod_id)
            self.tell(f"pod {pod.record.name} left the batch")
        self.fleet.use_again(lane)

    def _judge(self, stopped: Refusal | None) -> None:
        """Ends the rests that are over, and says whether the backend as a whole can be waited for."""
        now = time.monotonic()
        for pod_id, pod in self._pods.items():
            if pod.rests_until_s and now >= pod.rests_until_s:
                pod.rests_until_s, pod.failures = 0.0, FAILURES - 1
                self.fleet.use_again(f"{POD_PREFIX}{pod_id}")
        if self._pods or self._starting or self.fleet.backends[KEY].lanes():
            return
        if stopped is not None:
            self.fleet.withhold(KEY, stopped)
        elif KEY in self.fleet.down:
            # no pod is open yet: that is no fault, and whoever must have one waits for it
            self.fleet.came_back(KEY)


def ready_in_s(record: PodRecord, cold_start_s: float, now: datetime) -> float:
    """Expected seconds until a starting pod takes jobs; a fifth of the cold start once it is overdue."""
    passed_s = max(0.0, (now - record.billed_from).total_seconds())
    return max(cold_start_s - passed_s, cold_start_s / 5)
