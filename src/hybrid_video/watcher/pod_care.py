"""Finds pods that are up but do not work, so that they are replaced: RunPod says RUNNING of those as well.

Two signs: the ComfyUI on a pod does not answer, or holds prompts and runs none, several looks in a row; or the last
jobs on it all failed by its fault. Such a pod is ended; whether another is opened is the policy's question.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa

from hybrid_video.backends.comfyui.patience import Patience
from hybrid_video.backends.comfyui.server import ComfyUIServer
from hybrid_video.errors import FailureKind, HybridVideoError
from hybrid_video.ledger import Ledger
from hybrid_video.ledger import schema as t
from hybrid_video.pods.pool import PodPool
from hybrid_video.pods.records import PodRecord
from hybrid_video.settings import Settings

log = logging.getLogger(__name__)

LOOK_S = 15.0
SHORTEST_LOOK_S = 0.5
BAD_LOOKS = 3
FAILED_JOBS = 3
CHECK_TIMEOUT_S = 20.0
SICK = frozenset({FailureKind.UNREACHABLE.value, FailureKind.RESTARTED.value, FailureKind.WEDGED.value})
"""Failures that speak against the machine. A clip that is none may as well be the workflow's fault, on every pod."""


@dataclass
class _Patient:
    server: ComfyUIServer
    bad_looks: int = 0
    trouble: str = ""


class PodCare:
    """Looks at the pods that take jobs."""

    def __init__(self, settings: Settings, ledger: Ledger, pool: PodPool, token: Callable[[], str]) -> None:
        """Args: token: what the pods' proxy asks for."""
        self._settings = settings
        self._ledger = ledger
        self._pool = pool
        self._token = token
        self._patients: dict[str, _Patient] = {}

    @property
    def pause_s(self) -> float:
        """Real seconds between two looks."""
        return max(SHORTEST_LOOK_S, LOOK_S / self._settings.routing.time_scale)

    async def look(self) -> list[str]:
        """One look at every ready pod; ends the sick ones and returns their names."""
        pods = [pod for pod in await asyncio.to_thread(self._pool.store.ready) if pod.pod_id]
        await self._forget({pod.name for pod in pods})
        troubles = await asyncio.gather(*(self._trouble(pod) for pod in pods))
        ended = []
        for pod, trouble in zip(pods, troubles, strict=True):
            if trouble and await self._replace(pod, trouble):
                ended.append(pod.name)
        return ended

    async def close(self) -> None:
        """Closes the connections."""
        await self._forget(set())

    async def _trouble(self, pod: PodRecord) -> str:
        """Why a pod is to be replaced; "" when it is not."""
        failed = await asyncio.to_thread(failed_in_a_row, self._ledger, pod.lane)
        if failed >= FAILED_JOBS:
            return f"its last {failed} jobs failed by its fault"
        patient = self._patients.get(pod.name)
        if patient is None:
            patient = self._patients[pod.name] = _Patient(self._server(pod))
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                patient.trouble = (await patient.server.check()).trouble
        except TimeoutError:
            patient.trouble = f"no answer within {CHECK_TIMEOUT_S:.0f} s"
        patient.bad_looks = patient.bad_looks + 1 if patient.trouble else 0
        if patient.bad_looks:
            log.warning("pod %s: look %d of %d failed: %s", pod.name, patient.bad_looks, BAD_LOOKS, patient.trouble)
        return patient.trouble if patient.bad_looks >= BAD_LOOKS else ""

    async def _replace(self, pod: PodRecord, trouble: str) -> bool:
        reason = f"sick: {trouble}"
        try:
            await self._pool.close(pod.name, reason)
        except HybridVideoError as error:
            log.warning("sick pod %s could not be closed yet: %s", pod.name, error)
            return False
        log.warning("pod %s is ended because it is %s", pod.name, reason)
        return True

    def _server(self, pod: PodRecord) -> ComfyUIServer:
        return ComfyUIServer(
            self._settings.runpod.pod_url(pod.pod_id or ""),
            backend="runpod-pod",
            lane=pod.lane,
            headers={"Authorization": f"Bearer {self._token()}"},
            websocket=False,
            patience=Patience(),
            timeout_s=10.0,
        )

    async def _forget(self, keep: set[str]) -> None:
        for name in [name for name in self._patients if name not in keep]:
            await self._patients.pop(name).server.close()


def failed_in_a_row(ledger: Ledger, lane: str) -> int:
    """How many of the last jobs on a lane failed by the lane's fault, counted back to the last that did not."""
    query = (
        sa.select(t.attempts.c.state, t.attempts.c.error_kind)
        .where(t.attempts.c.lane == lane, t.attempts.c.finished_at.is_not(None))
        .order_by(t.attempts.c.finished_at.desc())
        .limit(FAILED_JOBS)
    )
    with ledger.reading() as connection:
        rows = connection.execute(query).all()
    count = 0
    for row in rows:
        if row.state != "failed" or row.error_kind not in SICK:
            break
        count += 1
    return count
