"""Machines that are away for the moment and may soon be back: the dispatcher counts on them and gives them nothing yet.

A lane is away when its machine answered in this run and does not any more, or when its backend rests after failures.
How long it is counted on is `goals.returning`'s to say. Rented pods are left out: the roster follows those.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from hybrid_video.engine.demand import POD_KEY
from hybrid_video.engine.fleet import Fleet
from hybrid_video.engine.progress import JobProgress
from hybrid_video.engine.selection import options
from hybrid_video.goals import OUTAGE_S, LaneState, returning
from hybrid_video.models import Quote, Refusal

PASSING = frozenset({"health", "breaker"})
"""Refusals that end by themselves."""


@dataclass
class Returns:
    """What one run knows of absences."""

    fleet: Fleet
    _seen: dict[str, LaneState] = field(default_factory=dict, init=False)
    _gone_s: dict[str, float] = field(default_factory=dict, init=False)
    """Since when (monotonic seconds) a lane that was there is missing."""
    troubled: bool = field(default=False, init=False)
    """Whether anything has been away in this run."""

    def away(
        self, lanes: Sequence[LaneState], waiting: Iterable[JobProgress], now_s: float, left_s: float | None
    ) -> dict[str, list[LaneState]]:
        """Lanes that will be back, by backend; of a backend that rests these stand in for those among `lanes`.

        Args:
            lanes: those that are there.
            left_s: what is left until the deadline.
        """
        self._look(lanes, now_s)
        found: dict[str, list[LaneState]] = {}
        for lane, since_s in self._gone_s.items():
            for back in returning([self._seen[lane]], now_s - since_s, left_s):
                found.setdefault(back.backend, []).append(back)
        for key, gone_s in self._resting(waiting, now_s).items():
            mine = [lane for lane in lanes if lane.backend == key]
            busy_s = max((lane.free_s for lane in mine if lane.outstanding), default=0.0)
            back_lanes = returning(mine, gone_s, left_s)
            if back_lanes:
                found[key] = [*found.get(key, []), *(replace(b, free_s=max(b.free_s, busy_s)) for b in back_lanes)]
            else:
                found.pop(key, None)
        self.troubled = self.troubled or bool(found)
        return found

    def _look(self, lanes: Sequence[LaneState], now_s: float) -> None:
        there = {lane.id: lane for lane in lanes if lane.backend != POD_KEY}
        self._seen |= there
        for lane in self._seen:
            if lane in there:
                self._gone_s.pop(lane, None)
            else:
                self._gone_s.setdefault(lane, now_s)

    def _resting(self, waiting: Iterable[JobProgress], now_s: float) -> dict[str, float]:
        """Backends that rest for every model the waiting jobs would use there: for how long already."""
        breakers = {place: breaker for place, breaker in self.fleet.breakers() if not breaker.permits(now_s)}
        if not breakers:
            return {}
        found: dict[str, float] = {}
        working: set[str] = set()
        for key, model in {(k, q.model) for progress in waiting for k, q in progress.shot.open_offers.items()}:
            breaker = breakers.get((key, model))
            if breaker is None:
                working.add(key)
            else:
                gone_s = OUTAGE_S if breaker.trial and breaker.openings == 1 else breaker.rested_s(now_s)
                found[key] = max(gone_s, found.get(key, 0.0))
        return {key: gone_s for key, gone_s in found.items() if key not in working}


def merged(lanes: Sequence[LaneState], away: Mapping[str, Sequence[LaneState]]) -> list[LaneState]:
    """The lanes that are there, with those that will be back instead of the ones of the same name."""
    if not away:
        return list(lanes)
    back = {lane.id: lane for mine in away.values() for lane in mine}
    return [*(lane for lane in lanes if lane.id not in back), *back.values()]


def also(
    progress: JobProgress, found: Mapping[str, Quote], blocked: Mapping[str, Refusal], away: Collection[str]
) -> list[str]:
    """Backends that are away and that a job could wait for, beside those it can use now: cheaper than the dearest."""
    shot = progress.shot
    if not away or shot.preferences.prioritize_speed:
        return []
    dearest = max(quote.amount_usd for quote in found.values())
    coming = {
        key
        for key in away
        if key in blocked
        and blocked[key].code in PASSING
        and key not in progress.excluded
        and key != progress.last_backend
        and shot.open_offers[key].amount_usd < dearest
    }
    wanted = options(shot, {key: refusal for key, refusal in blocked.items() if key not in coming})
    return [key for key in wanted if key in coming]
