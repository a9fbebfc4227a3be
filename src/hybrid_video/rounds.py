"""The state of one round of dispatching: backends in order of price, with their lanes as the round fills them. Pure."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from decimal import Decimal
from heapq import merge

from hybrid_video.goals import LaneState
from hybrid_video.planner import EPSILON
from hybrid_video.waiting import Entry, Kind, PendingJob, Total, Waiting

LONGEST_S = 1e9
UNSURE = 0.05
"""Share by which the room of the cheaper backends may turn out smaller; large jobs are kept back for that case."""

SAFETY = 3.0
"""Standard deviations by which the cheaper backends are taken to fall short of what they can finish."""

WASTE = 0.35
"""Share of a mean clip that a slot loses at the end where sizes differ (simulated; the largest are taken first)."""


class Backend:
    """One backend in one round."""

    __slots__ = (
        "_capacity",
        "alike",
        "cv",
        "free",
        "held",
        "key",
        "lanes",
        "models",
        "pace",
        "position",
        "price_usd",
        "probes",
        "service_s",
    )

    def __init__(self, key: str, total: Total, lanes: list[LaneState], pace: float, probes: int, cv: float) -> None:
        self.key = key
        self.pace = pace
        self.cv = cv
        self.alike = total.alike
        self.service_s = total.service_s * pace
        self.price_usd: Decimal = total.price_usd
        self.position = 0
        self.probes = probes
        self.lanes = lanes
        self.free = [lane.free_s for lane in lanes]
        self.held = [lane.outstanding for lane in lanes]
        self.models = [lane.model for lane in lanes]
        self._capacity: dict[float, float] = {}

    def order(self) -> Sequence[int]:
        """Its lanes, the first to be free first."""
        return sorted(range(len(self.free)), key=self.free.__getitem__)

    def may_hold(self, index: int, plenty: bool) -> bool:
        """Whether a lane may be given a further job: one at a time, and some ahead while there is plenty."""
        return self.held[index] < 1 + (self.lanes[index].ahead if plenty else 0)

    def seconds(self, job: PendingJob) -> float:
        """How long it takes for a job."""
        return job.options[self.key].service_s * self.pace

    def finish_s(self, job: PendingJob) -> float:
        """When it could have finished a job, taken next."""
        return min(self.free) + self.seconds(job)

    def capacity(self, horizon_s: float, soft: bool) -> float:
        """Clips of mean size its lanes finish within a horizon: whole ones where all are alike."""
        found = self._capacity.get(horizon_s)
        if found is None:
            found = self._capacity[horizon_s] = self._counted(horizon_s, soft)
        return found

    def give(self, index: int, job: PendingJob) -> None:
        """Fills a lane with one more job."""
        self.free[index] += self.seconds(job)
        self.held[index] += 1
        self.models[index] = job.options[self.key].model
        self.probes = max(0, self.probes - 1)
        self._capacity.clear()

    def _counted(self, horizon_s: float, soft: bool) -> float:
        each = self.service_s
        if each <= 0:
            return math.inf if min(self.free) <= horizon_s else 0
        if self.alike:
            more = EPSILON + (0.5 if soft else 0.0)
            return sum([int((horizon_s - free) / each + more) for free in self.free if free < horizon_s + more * each])
        less = 0.0 if soft else WASTE
        return sum([max(0.0, (horizon_s - free) / each - less) for free in self.free])


class Round:
    """Everything a decision looks at, kept up to date while assignments are made."""

    def __init__(
        self,
        waiting: Waiting,
        lanes: Sequence[LaneState],
        horizon_s: float,
        *,
        soft: bool,
        pace: Mapping[str, float],
        probes: Mapping[str, int],
        spread: Mapping[str, float] | None = None,
    ) -> None:
        spread = spread or {}
        self._waiting = waiting
        self.horizon_s = min(horizon_s, LONGEST_S)
        self.soft = soft
        self.late_share = 1.0
        """Share of the time left that the dearest backend's work may fill before it starts."""
        found: dict[str, Backend] = {}
        totals = waiting.totals
        grouped: dict[str, list[LaneState]] = {key: [] for key, total in totals.items() if total.jobs}
        for lane in lanes:
            mine = grouped.get(lane.backend)
            if mine is not None:
                mine.append(lane)
        for key, mine in grouped.items():
            if mine:
                found[key] = Backend(
                    key, totals[key], mine, pace.get(key, 1.0), probes.get(key, 0), spread.get(key, 0.0)
                )
        self.lanes = sum(map(len, grouped.values()))
        self.backends = sorted(found.values(), key=lambda b: (b.price_usd, b.service_s, b.key))
        for position, backend in enumerate(self.backends):
            backend.position = position
        self._overflows: dict[tuple[frozenset[str], int], tuple[float, int, float]] = {}
        self.alike = all(backend.alike for backend in self.backends)

    def kinds(self) -> Collection[Kind]:
        """The kinds of jobs that wait."""
        return self._waiting.kinds.values()

    def others(self, kind: Kind, backend: Backend) -> list[Backend]:
        """The other backends that may take a kind, the cheapest first."""
        return [other for other in self.backends if other is not backend and other.key in kind.backends]

    def overflow(self, cheaper: Sequence[Backend], position: int) -> tuple[float, int, float]:
        """How many jobs the backends cheaper than a position cannot finish in time, of how many, and their room.

        Looked at twice: for the jobs that may use nothing cheaper but these, and for all jobs that may use anything
        cheaper; whichever is worse counts (Hall's condition on the two sets that matter).
        """
        mine = frozenset(backend.key for backend in cheaper)
        found = self._overflows.get((mine, position))
        if found is None:
            all_ = frozenset(backend.key for backend in self.backends[:position])
            found = self._over(mine, all_)
            if mine != all_:
                found = max(found, self._over(all_, all_))
            self._overflows[mine, position] = found
        return found

    def _over(self, keys: frozenset[str], cheaper: frozenset[str]) -> tuple[float, int, float]:
        rivals = 0
        for kind in self.kinds():
            usable = kind.backends & cheaper
            if usable and usable <= keys:
                rivals += len(kind.entries)
        room = sum(b.capacity(self.horizon_s, self.soft) for b in self.backends if b.key in keys)
        return rivals - room, rivals, room

    def short_by(self, cheaper: Sequence[Backend]) -> float:
        """How many clips fewer than expected backends may come to finish within the horizon, by their spread.

        The number a slot finishes in a time scatters like the square root of its mean times the spread of one clip.
        Half a clip is no reason to buy a whole one, and where nobody set a deadline no clip is bought against scatter:
        the plan weighed time and money, and being late by chance costs no more than its share of time.
        """
        if self.soft:
            return 0.0
        scatter = sum([b.capacity(self.horizon_s, self.soft) * b.cv * b.cv for b in cheaper if b.cv])
        return max(0.0, SAFETY * math.sqrt(scatter) - 0.5) if scatter else 0.0

    def left_to(self, dearest: Backend, kind: Kind) -> int:
        """How many of the largest jobs of a kind the cheaper backends must leave to the dearest.

        What is too much falls on the kinds that come last in rank.
        """
        cheaper = [b for b in self.backends if b.position < dearest.position and b.key in kind.backends]
        over, _, room = self.overflow(cheaper, dearest.position)
        over = max(0.0, over) + UNSURE * room if over > -UNSURE * room else 0.0
        able = [k for k in self.kinds() if k.entries and dearest.key in k.backends and k.rank >= kind.rank]
        over -= sum(len(k.entries) for k in able if k.rank > kind.rank)
        mean, count = self._waiting.mean_size, 0
        for (minus, _, _), owner in merge(
            *(_owned(k) for k in able if k.rank == kind.rank), key=lambda pair: pair[0][:2]
        ):
            share = -minus / mean
            if over < 0.5 * share:
                break
            over -= share
            count += owner is kind
        return count

    def give(self, backend: Backend, index: int, job: PendingJob) -> str:
        """Records that a lane was given a job; returns the lane's id."""
        backend.give(index, job)
        self._overflows.clear()
        return backend.lanes[index].id


def _owned(kind: Kind) -> Iterator[tuple[Entry, Kind]]:
    return ((entry, kind) for entry in kind.entries)
