"""How jobs have been arriving: what a new watcher reads from the ledger, and what it sees from then on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta

import sqlalchemy as sa

from hybrid_video.autoscaler import ArrivalRate, Arrivals, window_s
from hybrid_video.demand import BatchDemand
from hybrid_video.ledger import Ledger
from hybrid_video.ledger import schema as t
from hybrid_video.models import Tier, utc_now

LOOK_BACK = 3.0
"""Windows of the past that a new watcher reads: what is older hardly counts."""


class ArrivalWatch:
    """Counts each batch once, when it is first seen with work; time is the vendor's clock.

    A watcher inside `hybrid-video run` lives no longer than the batch, so the past is read from the ledger.
    """

    def __init__(self, time_scale: float) -> None:
        self._scale = time_scale
        self._rate = ArrivalRate()
        self._seen: dict[str, int] = {}

    def recall(self, ledger: Ledger) -> None:
        """Takes in the batches that were started of late."""
        now, now_s = utc_now(), self._now_s()
        since = now - timedelta(seconds=LOOK_BACK * self._rate.window_s / self._scale)
        query = (
            sa.select(t.batches.c.name, t.batches.c.started_at, sa.func.count(t.jobs.c.job).label("jobs"))
            .join(t.jobs, t.jobs.c.batch == t.batches.c.name)
            .where(t.batches.c.started_at >= since)
            .group_by(t.batches.c.name, t.batches.c.started_at)
            .order_by(t.batches.c.started_at)
        )
        with ledger.reading() as connection:
            rows = connection.execute(query).all()
        for row in rows:
            age_s = (now - row.started_at).total_seconds() * self._scale
            self._rate.observe(int(row.jobs), now_s - max(0.0, age_s))
            self._seen[row.name] = int(row.jobs)

    def saw(self, demands: Sequence[BatchDemand]) -> Arrivals:
        """Takes in what live runs want now; the rate as it stands."""
        now_s = self._now_s()
        local = [lane.service_s for d in demands for lane in d.lanes if lane.tier is Tier.LOCAL and lane.service_s > 0]
        if local:
            self._rate.window_s = window_s(sum(local) / len(local))
        for demand in demands:
            new = demand.jobs - self._seen.get(demand.batch, 0)
            if new > 0:
                self._rate.observe(new, now_s)
            self._seen[demand.batch] = max(demand.jobs, self._seen.get(demand.batch, 0))
        return self._rate.at(now_s)

    def _now_s(self) -> float:
        return time.monotonic() * self._scale
