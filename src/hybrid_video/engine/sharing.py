"""How several runs share the machines: what the others have on each lane, and how much this run may put there.

Alone, a run keeps one prompt ahead on each machine. As soon as another live run has work, each puts one prompt on a
machine and waits for its turn: what the other holds is in the ledger, and the spend gate refuses a prompt too many.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from hybrid_video.errors import HybridVideoError
from hybrid_video.ledger import Ledger
from hybrid_video.ledger.lanes import Held, held
from hybrid_video.models import Lane
from hybrid_video.watcher.demand_store import DemandStore

LOOK_S = 1.0
PAUSE_S = 0.25
"""After the spend gate found a lane full, nothing is proposed for it for so long."""


@dataclass(frozen=True)
class Others:
    """What other runs have on one lane."""

    prompts: int = 0
    left_s: float = 0.0


NOBODY = Others()


class SharedLanes:
    """One run's view of the lanes that it does not have to itself."""

    def __init__(
        self,
        ledger: Ledger,
        demands: DemandStore,
        *,
        batch: str,
        mine: Callable[[], Collection[str]],
        changed: asyncio.Event,
    ) -> None:
        """One run's view.

        Args:
            mine: ids of the attempts that this run has under way.
            changed: set when others have come or gone.
        """
        self._ledger = ledger
        self._demands = demands
        self._batch = batch
        self._mine = mine
        self._others: dict[str, Others] = {}
        self._rivals = 0
        self._full_until_s: dict[str, float] = {}
        self._changed = changed

    async def keep_fresh(self) -> None:
        """Looks until cancelled."""
        while True:
            with contextlib.suppress(HybridVideoError):
                await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """One look at who else is there."""
        rivals, there = await asyncio.to_thread(self._read)
        found: dict[str, Others] = {}
        mine = set(self._mine())
        for one in there:
            if one.attempt_id not in mine:
                before = found.get(one.lane, NOBODY)
                found[one.lane] = Others(before.prompts + 1, before.left_s + one.left_s())
        if (found.keys(), rivals) != (self._others.keys(), self._rivals):
            self._changed.set()
        self._others, self._rivals = found, rivals

    def on(self, lane: str) -> Others:
        """What others have on a lane."""
        return self._others.get(lane, NOBODY)

    def ahead(self, lane: Lane) -> int:
        """How many prompts this run may put behind its running one: none while another run has work."""
        return 0 if self._rivals or lane.id in self._others else lane.ahead

    def takes(self, lane: Lane, mine: int) -> bool:
        """Whether a lane may be proposed for one more prompt of ours."""
        if time.monotonic() < self._full_until_s.get(lane.id, 0.0):
            return False
        room = room_of(lane)
        return room is None or mine + self.on(lane.id).prompts < room

    def was_full(self, lane: str) -> None:
        """The spend gate refused a prompt there: somebody else was quicker."""
        self._full_until_s[lane] = time.monotonic() + PAUSE_S

    def _read(self) -> tuple[int, list[Held]]:
        rivals = sum(demand.batch != self._batch and demand.waiting_jobs > 0 for demand in self._demands.live())
        if not rivals and not self._others:
            with self._ledger.reading() as connection:
                return 0, [one for one in held(connection) if one.batch != self._batch]
        with self._ledger.reading() as connection:
            return rivals, held(connection)


def room_of(lane: Lane) -> int | None:
    """How many prompts a machine may hold, of all runs together; None for a vendor's queue."""
    return 1 + lane.ahead if lane.ahead else None
