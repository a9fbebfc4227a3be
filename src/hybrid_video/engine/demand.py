"""Publishes what a run still has to do, so that the watcher can weigh the price of a pod against the waiting it saves.

Written when it changes, and again every few seconds as a sign of life; removed when the run ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from decimal import Decimal

from hybrid_video.demand import BatchDemand, LaneDemand
from hybrid_video.engine.forecast import pool_of
from hybrid_video.engine.selection import Shot
from hybrid_video.errors import HybridVideoError
from hybrid_video.goals import LaneState, guard_s
from hybrid_video.models import Lane, Tier
from hybrid_video.watcher.demand_store import HEARTBEAT_S, DemandStore

log = logging.getLogger(__name__)

POD_KEY = "runpod-pod"
LOOK_S = 1.0
SHORTEST_LOOK_S = 0.1
SAMPLE = 400
"""So many waiting jobs are looked at for the means; a batch may have ten thousand."""


def demand_of(
    *,
    batch: str,
    owner: str,
    jobs: int,
    waiting: Sequence[Shot],
    under_way_jobs: float,
    lanes: Sequence[LaneState],
    deadline_s: float | None,
    budget_left_usd: Decimal | None,
    value_of_time_usd_per_h: float,
    whole_s: float | None = None,
) -> BatchDemand:
    """What a run still has to do, from its waiting jobs and its lanes as they stand.

    Args:
        whole_s: the deadline as it was at the start.
        lanes: every lane, pods' among them; only the others are published, because the watcher knows the pods.
    """
    sample = waiting[:: max(1, len(waiting) // SAMPLE)]
    on_pods = sum(POD_KEY in shot.open_offers for shot in sample)
    kinds = {lane.backend: Lane(id=lane.id, backend=lane.backend, tier=Tier.CLOUD) for lane in lanes}
    kinds[POD_KEY] = Lane(id=POD_KEY, backend=POD_KEY, tier=Tier.CLOUD)
    means = {line.backend: line for line in pool_of(sample, list(kinds.values()))}
    pod = means.get(POD_KEY)
    return BatchDemand(
        batch=batch,
        owner=owner,
        jobs=jobs,
        waiting_jobs=len(waiting),
        under_way_jobs=max(0.0, under_way_jobs),
        deadline_s=deadline_s,
        guard_s=0.0 if deadline_s is None else guard_s([line.service_s for line in means.values()], whole_s),
        budget_is_goal=budget_left_usd is not None and deadline_s is None,
        budget_left_usd=None if budget_left_usd is None else max(Decimal(0), budget_left_usd),
        lanes=tuple(
            LaneDemand(
                id=lane.id,
                backend=lane.backend,
                tier=means[lane.backend].tier,
                service_s=max(0.0, means[lane.backend].service_s),
                price_usd=means[lane.backend].price_usd,
                free_in_s=max(0.0, lane.free_s) + (0.0 if lane.outstanding else means[lane.backend].start_s),
            )
            for lane in lanes
            if lane.backend != POD_KEY and lane.backend in means
        ),
        pod_service_s=pod.service_s if pod is not None and pod.service_s > 0 else None,
        pods_possible=on_pods > 0 or not waiting,
        pod_jobs=round(on_pods / len(sample) * len(waiting)) if sample else None,
        value_of_time_usd_per_h=value_of_time_usd_per_h,
    )


class DemandPublisher:
    """Keeps one batch's row up to date while its run lives."""

    def __init__(self, store: DemandStore, snapshot: Callable[[], BatchDemand], *, time_scale: float = 1.0) -> None:
        self._store = store
        self._snapshot = snapshot
        self._pause_s = max(SHORTEST_LOOK_S, LOOK_S / time_scale)
        self._told: BatchDemand | None = None
        self._told_s = float("-inf")

    async def keep_fresh(self) -> None:
        """Publishes until cancelled."""
        while True:
            try:
                await self.publish()
            except HybridVideoError as error:
                log.warning("what the batch still needs cannot be published now: %s", error)
            await asyncio.sleep(self._pause_s)

    async def publish(self) -> None:
        """Writes the row if something a decision could rest on has changed, or nothing was said for a while."""
        now = self._snapshot()
        due = time.monotonic() - self._told_s >= HEARTBEAT_S
        if not due and self._told is not None and not _differs(now, self._told):
            return
        await asyncio.to_thread(self._store.publish, now)
        self._told, self._told_s = now, time.monotonic()

    async def end(self) -> None:
        """The run is over: its row goes."""
        if self._told is not None:
            told, self._told = self._told, None
            with contextlib.suppress(HybridVideoError):
                await asyncio.to_thread(self._store.remove, told.batch, told.owner)


def _differs(new: BatchDemand, old: BatchDemand) -> bool:
    """Whether more has changed than the time, which the reader reckons with itself."""
    return (
        new.waiting_jobs != old.waiting_jobs
        or abs(new.under_way_jobs - old.under_way_jobs) > 0.5
        or len(new.lanes) != len(old.lanes)
        or new.pod_jobs != old.pod_jobs
        or (new.pod_service_s or 0.0) != (old.pod_service_s or 0.0)
    )
