"""Collects what runs that died had paid for, before the vendor throws it away.

RunPod deletes the result of a serverless job 30 minutes after it is done, and Google its files after two days. A run
that is started again collects them, but nobody may do that tonight: so the watcher looks for accepted attempts that no
process drives any more, and brings their clips in. It never sends anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from datetime import timedelta

import sqlalchemy as sa

from hybrid_video.ledger import Ledger, Owner
from hybrid_video.ledger import schema as t
from hybrid_video.models import AttemptState, utc_now
from hybrid_video.settings import Settings

log = logging.getLogger(__name__)

LOOK_S = 60.0
AGAIN_S = 300.0
"""What could not be settled is looked at again after so long: six times within RunPod's 30 minutes."""

WAIT_S = 45.0
OLDEST = timedelta(hours=48)
"""The longest that a vendor keeps a result."""

ACCEPTED = tuple(s.value for s in (AttemptState.SUBMITTED, AttemptState.RUNNING, AttemptState.UNCERTAIN))


def orphaned_batches(ledger: Ledger, owner: Owner) -> dict[str, int]:
    """Batches with accepted attempts that no live process drives, with how many."""
    query = (
        sa.select(t.attempts.c.batch, t.jobs.c.owner, t.jobs.c.lease_until)
        .join(t.jobs, sa.and_(t.jobs.c.batch == t.attempts.c.batch, t.jobs.c.job == t.attempts.c.job))
        .where(
            t.attempts.c.state.in_(ACCEPTED),
            t.attempts.c.handle.is_not(None),
            t.attempts.c.created_at > utc_now() - OLDEST,
        )
    )
    found: dict[str, int] = {}
    with ledger.reading() as connection:
        for row in connection.execute(query):
            driven = row.owner is not None and not owner.is_dead(row.owner)
            if driven and (owner.is_alive(row.owner) or (row.lease_until is not None and row.lease_until > utc_now())):
                continue
            found[row.batch] = found.get(row.batch, 0) + 1
    return found


class Collecting:
    """Looks once a minute, and at one batch no more often than every five."""

    def __init__(self, settings: Settings, ledger: Ledger, owner: Owner) -> None:
        self._settings = settings
        self._ledger = ledger
        self._owner = owner
        self._tried_s: dict[str, float] = {}

    async def look(self) -> list[str]:
        """Settles what can be settled; a sentence for each batch that something came of."""
        now = time.monotonic()
        found = await asyncio.to_thread(orphaned_batches, self._ledger, self._owner)
        self._tried_s = {batch: tried for batch, tried in self._tried_s.items() if batch in found}
        due = {batch: n for batch, n in found.items() if now - self._tried_s.get(batch, float("-inf")) >= AGAIN_S}
        if not due:
            return []
        self._tried_s |= dict.fromkeys(due, now)
        return await self._collect(due)

    async def _collect(self, batches: dict[str, int]) -> list[str]:
        # Imported here: the engine itself embeds a watcher.
        from hybrid_video.engine.reconcile import settle_open  # noqa: PLC0415
        from hybrid_video.engine.session import open_ledger  # noqa: PLC0415

        log.info("%d attempts in %d batches are driven by nobody", sum(batches.values()), len(batches))
        with contextlib.closing(await asyncio.to_thread(open_ledger, self._settings)) as ledger:
            lines = await settle_open(self._settings, ledger, batches, WAIT_S, log.debug)
        told = []
        for batch in batches:
            mine = [line for line in lines if line.batch == batch]
            collected = sum(line.outcome == "collected" for line in mine)
            for line in mine:
                log.info("%s/%s on %s: %s, %s", line.batch, line.job, line.backend, line.outcome, line.message)
            if collected:
                told.append(f"batch {batch}: collected {collected} clips that a run which died had paid for")
        return told
