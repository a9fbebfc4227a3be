"""What each running batch still has to do, as its run published it: the watcher reads it, the runs write it.

A row is worth something only while its run lives: on this machine the run's lock says so at once, elsewhere the row is
believed for a minute. Rows of dead runs are removed when they are met.
"""

from __future__ import annotations

from datetime import timedelta

import sqlalchemy as sa

from hybrid_video.demand import BatchDemand
from hybrid_video.ledger import Ledger, Owner
from hybrid_video.ledger import schema as t
from hybrid_video.models import utc_now

HEARTBEAT_S = 10.0
"""A run says again what it wants at least so often."""

BELIEVED = timedelta(seconds=60)
"""So long a run on another machine is believed to live after it last said something."""


class DemandStore:
    """The table `demand` of one ledger, seen by one process."""

    def __init__(self, ledger: Ledger, owner: Owner) -> None:
        self._ledger = ledger
        self._owner = owner

    def publish(self, demand: BatchDemand) -> None:
        """Says what a batch still needs; replaces what was said of it before."""
        values = {"owner": demand.owner, "document": demand.model_dump_json(), "updated_at": utc_now()}
        with self._ledger.writing() as connection:
            done = connection.execute(sa.update(t.demand).where(t.demand.c.batch == demand.batch).values(values))
            if not done.rowcount:
                connection.execute(sa.insert(t.demand).values(batch=demand.batch, **values))

    def remove(self, batch: str, owner: str) -> None:
        """The batch is over for this run; what another run has said of it since stays."""
        with self._ledger.writing() as connection:
            connection.execute(sa.delete(t.demand).where(t.demand.c.batch == batch, t.demand.c.owner == owner))

    def live(self) -> tuple[BatchDemand, ...]:
        """Demands of runs that live, by batch name."""
        with self._ledger.reading() as connection:
            rows = connection.execute(sa.select(t.demand).order_by(t.demand.c.batch)).all()
        found = [row for row in rows if self._lives(row.owner) or not self._is_over(row)]
        return tuple(BatchDemand.model_validate_json(row.document) for row in found)

    def sweep(self) -> list[str]:
        """Removes what dead runs left behind; returns the names of their batches."""
        with self._ledger.writing() as connection:
            rows = connection.execute(sa.select(t.demand)).all()
            over = [row for row in rows if not self._lives(row.owner) and self._is_over(row)]
            for row in over:
                connection.execute(
                    sa.delete(t.demand).where(t.demand.c.batch == row.batch, t.demand.c.owner == row.owner)
                )
        return [row.batch for row in over]

    def _lives(self, owner: str) -> bool:
        return owner == self._owner.id or self._owner.is_alive(owner)

    def _is_over(self, row: sa.Row[tuple[object, ...]]) -> bool:
        return self._owner.is_dead(row.owner) or row.updated_at + BELIEVED < utc_now()
