"""Who gets which job now: deadline-aware marginal-cost dispatch, pure.

Jobs stay in one central queue; a lane is given a job only when it can start it (or one ahead, where the backend can
hold it). With a goal of D seconds from now:

* the cheapest backend a job may use always takes it, unless it would miss D and a dearer one would not;
* a dearer one takes it only if the cheaper ones together cannot finish what is left by D;
* the dearest waits as long as it safely can, unless the cheaper ones are idle and can finish nothing by D, or its
  times are unproven: then it may take a few at once, to learn;
* when D can no longer be met, a lane takes a job only if no other would finish it earlier;
* where sizes differ, capacity is counted in work, the largest jobs are left to the dearest backend (a clip there costs
  the same and frees the most time elsewhere), and a lane takes the largest it can finish by D;
* among jobs of one rank, a lane prefers the model it has loaded.

Knows nothing of vendors, clocks or storage: times are seconds from now. Asking changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hybrid_video.goals import GUARD, SLACK, Goal, LaneState, horizon
from hybrid_video.rounds import Backend, Round
from hybrid_video.waiting import AGING_S, Entry, Kind, PendingJob, Waiting, grouped, precedence, size_of

__all__ = [
    "AGING_S",
    "GUARD",
    "SLACK",
    "Assignment",
    "Goal",
    "LaneState",
    "PendingJob",
    "Waiting",
    "assign",
    "grouped",
    "horizon",
    "pick",
    "precedence",
    "size_of",
]

TOLERANCE_S = 1e-6

JUST_IN_TIME = 0.8
"""Share of the time left that the dearest backend's work may fill before it starts: its times are the least known."""

TROUBLED = 0.3
"""The same once a backend has been away in this batch: the dearest may be next, so it is not left to the end."""

SURE = 0.2
"""Share of what the cheaper backends can finish by which they must fall short before clips are made early to learn."""


@dataclass(frozen=True)
class Assignment:
    """One job for one lane, and why now and there."""

    job: str
    lane: str
    backend: str
    reason: str


def assign(
    waiting: Waiting,
    lanes: Sequence[LaneState],
    horizon_s: float,
    *,
    soft: bool = False,
    pace: Mapping[str, float] | None = None,
    probes: Mapping[str, int] | None = None,
    spread: Mapping[str, float] | None = None,
    troubled: bool = False,
) -> list[Assignment]:
    """The assignments to make now; neither the queue nor the lanes are modified.

    Args:
        soft: the horizon may be missed by half a clip: nothing dear is bought for the last seconds, nor in case
            times scatter.
        pace: how many times longer than quoted clips take, per backend, where that was observed.
        probes: per backend with unproven times, how many jobs it may take before it has to.
        spread: per backend whose times are not certain, the coefficient of variation of the time a finished clip
            takes, failed attempts included.
        troubled: a backend has been away in this batch.
    """
    made: list[Assignment] = []
    taken: list[Entry] = []
    state = Round(waiting, lanes, horizon_s, soft=soft, pace=pace or {}, probes=dict(probes or {}), spread=spread)
    state.late_share = TROUBLED if troubled else JUST_IN_TIME
    try:
        for backend in state.backends:
            for index in backend.order():
                while len(waiting) and backend.may_hold(index, len(waiting) >= state.lanes):
                    found = pick(state, backend, index)
                    if found is None:
                        break
                    entry, reason = found
                    waiting.take(entry)
                    taken.append(entry)
                    lane = state.give(backend, index, entry[2])
                    made.append(Assignment(entry[2].id, lane, backend.key, reason))
                else:
                    continue
                break  # its other lanes are free later and would refuse as well
    finally:
        for entry in reversed(taken):
            waiting.put_back(entry)
    return made


def pick(state: Round, backend: Backend, index: int) -> tuple[Entry, str] | None:
    """The waiting job this lane should take now, with the reason."""
    kinds = _kinds(state, backend, backend.models[index])
    if state.alike:
        for kind in kinds:
            reason = _reason(state, kind, kind.entries[0][2], backend, index)
            if reason is not None:
                return kind.entries[0], reason
        return None
    for any_size in (False, True):
        for kind in kinds:
            found = _pick_by_size(state, kind, backend, index, any_size=any_size)
            if found is not None:
                return found
    return None


def _kinds(state: Round, backend: Backend, model: str) -> list[Kind]:
    """Kinds this backend may take: by rank, then the loaded model, then size, then arrival.

    Where sizes differ, jobs with fewer backends come before the larger ones: at the end they would have nowhere to go.
    """
    key, alike = backend.key, state.alike
    found = [kind for kind in state.kinds() if kind.entries and key in kind.backends]
    if len(found) > 1:
        found.sort(
            key=lambda kind: (
                kind.rank,
                bool(model) and kind.models[key] != model,
                0 if alike else len(kind.backends),
                kind.entries[0][:2],
            )
        )
    return found


def _reason(state: Round, kind: Kind, job: PendingJob, backend: Backend, index: int) -> str | None:
    """Why this lane should take the job now; None if it should not."""
    others = state.others(kind, backend)
    if not others:
        return "the only backend that can take it"
    service = backend.seconds(job)
    finish = backend.free[index] + service
    if kind.urgent:
        best = min(other.finish_s(job) for other in others)
        return f"finishes it first, in {finish:.0f} s; speed is prioritised" if finish <= best else None
    if finish > state.horizon_s + (0.5 * service if state.soft else 0.0) + TOLERANCE_S:
        rescue = any(other.finish_s(job) < finish for other in others)
        return None if rescue else f"the goal of {state.horizon_s:.0f} s cannot be met; no other finishes it earlier"
    cheaper = [other for other in others if other.position < backend.position]
    if not cheaper:
        return "the cheapest backend that can take it, and free"
    if backend.lanes[index].paid:
        return "rented and open: it costs the same whether it works or not"
    return _needed(state, backend, cheaper, service, dearest=len(cheaper) == len(others))


def _needed(state: Round, backend: Backend, cheaper: list[Backend], service: float, *, dearest: bool) -> str | None:
    """Why a backend is needed though there are cheaper ones; None if it is not, or not yet."""
    over, rivals, room = state.overflow(cheaper, backend.position)
    if not dearest and over > -state.short_by(cheaper):
        over = max(over, 1)
    in_time_s = state.late_share * (state.horizon_s - 2 * service)
    proven = not backend.probes or over < SURE * room
    hope = room >= 1 or any(any(other.held) for other in cheaper)
    can_wait = dearest and hope and proven and over < backend.capacity(in_time_s, state.soft)
    if over <= 0 or can_wait:
        return None
    return _too_few(int(room + TOLERANCE_S), rivals, state.horizon_s)


def _too_few(room: int, rivals: int, horizon_s: float) -> str:
    """That cheaper backends do not suffice, as people say it. Room may be for all, and too uncertain to rely on."""
    jobs, within = "the waiting job" if rivals == 1 else f"the {rivals} waiting jobs", f"within {horizon_s:.0f} s"
    if room >= rivals:
        return f"cheaper backends might not finish {jobs} {within}: their times scatter"
    if room <= 0:
        return f"cheaper backends cannot finish {jobs if rivals == 1 else f'any of {jobs}'} {within}"
    return f"cheaper backends can finish only {room} of {jobs} {within}"


def _pick_by_size(
    state: Round, kind: Kind, backend: Backend, index: int, *, any_size: bool
) -> tuple[Entry, str] | None:
    """The largest job this lane should take: those left to the dearest backend are passed over by the cheaper ones.

    Args:
        any_size: nothing else was found: the smallest of those left to the dearest may be taken too.
    """
    others = state.others(kind, backend)
    if others and not kind.urgent and others[-1].position > backend.position:
        entry = _largest_in_time(state, kind, backend, index, state.left_to(others[-1], kind))
        if entry is None and any_size:
            entry = kind.entries[-1]
        if entry is None:
            return None
    else:
        entry = kind.entries[0]
        fits = backend.free[index] + backend.seconds(entry[2]) <= state.horizon_s + TOLERANCE_S
        if others and fits and all(other.finish_s(entry[2]) > state.horizon_s for other in others):
            return entry, f"no cheaper backend can finish it within {state.horizon_s:.0f} s"
    reason = _reason(state, kind, entry[2], backend, index)
    return None if reason is None else (entry, reason)


def _largest_in_time(state: Round, kind: Kind, backend: Backend, index: int, start: int) -> Entry | None:
    """The first of its jobs, from a place on, that a lane finishes by the goal."""
    limit_s = state.horizon_s - backend.free[index] + TOLERANCE_S
    for place in range(start, len(kind.entries)):
        if backend.seconds(kind.entries[place][2]) <= limit_s:
            return kind.entries[place]
    return None
