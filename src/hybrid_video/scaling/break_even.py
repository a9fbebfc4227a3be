"""The break-even policy: a pod opens when it earns its price, and ends when it no longer does. Pure.

Four reasons can open pods, and the one that wants the most decides: a deadline that is cheaper to keep with them, a
budget that buys a shorter time with them, waiting that is worth more than they cost, and steady traffic. A pod ends
when none of these needs it: by the second at once, by the hour just before the next one begins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from hybrid_video.demand import BatchDemand
from hybrid_video.scaling.backlog import Backlog, Values, threshold_jobs, worth_opening
from hybrid_video.scaling.base_level import base_level
from hybrid_video.scaling.deadline import Target, pods_affordable, pods_needed
from hybrid_video.scaling.keeping import Grounds, closing
from hybrid_video.scaling.state import HOUR_S, Figure, LaneView, PodOffer, PodView, ScaleDecision, ScaleState

KEEP = Decimal("0.7")
"""A base level falls only where it would at this share of the price: hysteresis, so that pods do not come and go."""


@dataclass(frozen=True)
class Want:
    """So many pods more, and why."""

    pods: int
    reason: str


def break_even(state: ScaleState) -> ScaleDecision:
    """What to do now."""
    if not state.demands and not state.pods and state.arrivals.events <= 0:
        return ScaleDecision(reason="no batch runs and no pod is open")
    offer = _offer(state)
    serving = [pod for pod in state.pods if pod.state != "draining" or pod.busy]
    base = _base(state, offer, state.max_pods)
    figures: dict[str, Figure] = {
        "policy": "break-even",
        "waiting": state.waiting_jobs,
        "pods": len(state.pods),
        "starting": sum(pod.state == "starting" for pod in state.pods),
        "max_pods": state.max_pods,
        "arrivals_per_h": round(3600 * state.arrivals_per_s, 3),
        "base": base,
    }
    if offer is not None:
        figures |= {"price_usd_per_h": str(offer.price_usd_per_h), "cold_start_s": round(offer.cold_start_s, 1)}
        best = _largest(_wants(state, offer, serving, base))
        if best is not None and best.pods > 0:
            opened = min(best.pods, state.room)
            return ScaleDecision(opened, reason=f"opening {opened}: {best.reason}", figures=figures)
    return _ending(state, offer, base, figures)


def _ending(state: ScaleState, offer: PodOffer | None, base: int, figures: dict[str, Figure]) -> ScaleDecision:
    """Nothing is to be opened: what is to be closed, or why nothing is."""
    kept = base
    if offer is not None and len(state.pods) > base:
        kept = _base(state, replace(offer, price_usd_per_h=offer.price_usd_per_h * KEEP), len(state.pods))
    grounds = Grounds(kept, _targets(state.demands), _undated(state.demands))
    close, drain, reason = closing(state, offer, grounds)
    if not close and not drain:
        reason = _stillness(state, offer, reason)
    return ScaleDecision(0, close, drain, reason, figures)


def _wants(state: ScaleState, offer: PodOffer, serving: Sequence[PodView], base: int) -> list[Want]:
    wants = []
    if state.room:
        wants += [_for_deadline(state, offer, serving, target) for target in _targets(state.demands)]
        wants += [
            _for_budget(state, offer, serving, demand)
            for demand in _undated(state.demands)
            if demand.budget_is_goal and demand.budget_left_usd is not None
        ]
        wants.append(_for_waiting(state, offer, serving))
    if base > len(state.pods):
        rate = f"{3600 * state.arrivals_per_s:.1f} jobs an hour keep coming"
        wants.append(Want(base - len(state.pods), f"{rate}, for which {base} pods pay, and {len(state.pods)} are open"))
    return wants


def _largest(wants: Sequence[Want]) -> Want | None:
    return max(wants, key=lambda want: want.pods, default=None)


def _for_deadline(state: ScaleState, offer: PodOffer, serving: Sequence[PodView], target: Target) -> Want:
    need = pods_needed(target, state.lanes, serving, offer, state.room)
    jobs = f"{target.jobs} jobs are due in {target.deadline_s:.0f} s"
    if not need.feasible:
        return Want(need.pods, f"{jobs}, which cannot be met; this comes nearest")
    if not math.isfinite(need.without_usd):
        return Want(need.pods, f"{jobs}, which only more pods can meet, at ${need.cost_usd:.3f} in all")
    return Want(need.pods, f"{jobs}, which costs ${need.cost_usd:.3f} so and ${need.without_usd:.3f} without")


def _for_budget(state: ScaleState, offer: PodOffer, serving: Sequence[PodView], demand: BatchDemand) -> Want:
    left = float(demand.budget_left_usd or 0)
    pods, duration_s = pods_affordable(demand.podable_jobs, left, state.lanes, serving, offer, state.room)
    return Want(pods, f"${left:.3f} of budget then makes {demand.podable_jobs} jobs in {duration_s:.0f} s")


def _for_waiting(state: ScaleState, offer: PodOffer, serving: Sequence[PodView]) -> Want:
    patient = [demand for demand in _undated(state.demands) if not demand.budget_is_goal]
    waiting = sum(demand.podable_jobs for demand in patient)
    if not waiting:
        return Want(0, "")
    others = sum(demand.waiting_jobs for demand in state.demands) - waiting
    values = Values(
        state.value_of_waiting_usd_per_job_h / HOUR_S,
        max(demand.value_of_time_usd_per_h for demand in patient) / HOUR_S,
    )
    lanes = _later(state.lanes, others)
    backlog = Backlog(waiting, lanes, serving, offer, values, _headroom(patient))
    worth = worth_opening(backlog, state.room)
    after = f"{worth.with_s:.0f} s instead of {worth.without_s:.0f} s"
    if not math.isfinite(worth.saved_usd):
        after = f"{worth.with_s:.0f} s, and never without a pod"
        return Want(worth.pods, f"{waiting} jobs wait, and are done in {after}")
    return Want(worth.pods, f"{waiting} jobs wait, and are done in {after}; worth ${worth.saved_usd:.3f} net")


def _stillness(state: ScaleState, offer: PodOffer | None, kept: str) -> str:
    """Why nothing is done."""
    waiting = state.waiting_jobs
    if offer is None:
        return f"{waiting} jobs wait; no pod can be had now"
    if not waiting:
        return kept or "no job waits that could run on a pod"
    if not state.room:
        return f"{waiting} jobs wait; {len(state.pods)} of at most {state.max_pods} pods are open"
    rate = sum(1 / lane.service_s for lane in state.lanes if lane.price_usd <= 0 and lane.service_s > 0)
    rate += sum(1 / (pod.service_s or offer.service_s) for pod in state.pods)
    enough = threshold_jobs(rate, offer, state.value_of_waiting_usd_per_job_h / HOUR_S)
    if waiting < enough < math.inf:
        return f"{waiting} jobs wait; one more pod pays from about {enough:.0f} on"
    return f"{waiting} jobs wait; no further pod pays"


def _offer(state: ScaleState) -> PodOffer | None:
    """The offer, with the time that the waiting jobs take on it."""
    if state.offer is None:
        return None
    known = [(d.pod_service_s, max(1, d.podable_jobs)) for d in state.demands if d.pod_service_s and d.pods_possible]
    if not known:
        return state.offer
    mean_s = math.fsum(seconds * jobs for seconds, jobs in known) / sum(jobs for _, jobs in known)
    return replace(state.offer, service_s=mean_s)


def _base(state: ScaleState, offer: PodOffer | None, most: int) -> int:
    if offer is None:
        return 0
    free = [lane for lane in state.lanes if lane.price_usd <= 0]
    return base_level(state.arrivals, free, offer, most, state.value_of_waiting_usd_per_job_h / HOUR_S)


def _targets(demands: Sequence[BatchDemand]) -> list[Target]:
    """Jobs due by each deadline, those due earlier included: they use the same lanes first."""
    targets: list[Target] = []
    jobs = podable = 0
    budget: float | None = 0.0
    for demand in sorted((d for d in demands if d.deadline_s is not None), key=lambda d: d.deadline_s or 0.0):
        jobs += demand.waiting_jobs
        podable += demand.podable_jobs
        left = demand.budget_left_usd
        budget = None if left is None or budget is None else budget + max(0.0, float(left))
        if podable:
            targets.append(Target(jobs, podable, (demand.deadline_s or 0.0) - demand.guard_s, budget))
    return targets


def _undated(demands: Sequence[BatchDemand]) -> list[BatchDemand]:
    return [demand for demand in demands if demand.deadline_s is None and demand.podable_jobs]


def _headroom(demands: Sequence[BatchDemand]) -> float | None:
    if any(demand.budget_left_usd is None for demand in demands):
        return None
    return sum(max(0.0, float(demand.budget_left_usd or 0)) for demand in demands)


def _later(lanes: Sequence[LaneView], others: int) -> Sequence[LaneView]:
    """The lanes with the work of other jobs, which pods cannot take or which go first, spread over them."""
    if not others or not lanes:
        return lanes
    share = others / len(lanes)
    return [replace(lane, free_in_s=lane.free_in_s + share * lane.service_s) for lane in lanes]
