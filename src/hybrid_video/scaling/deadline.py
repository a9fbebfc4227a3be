"""How many pods a deadline or a budget needs, and which of the open ones are needed no more. Pure.

For each number of pods that could be opened now, the cheapest split that keeps the deadline is costed, starts included;
the cheapest number wins, with equal costs the smallest. Where none keeps it, the number that comes nearest. A budget
without a deadline asks for the shortest time it can pay.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from hybrid_video import planner
from hybrid_video.planner import Resource
from hybrid_video.scaling.backlog import bill_usd, lane_resources, opening_usd, pod_resources
from hybrid_video.scaling.state import LaneView, PodOffer, PodView

SPARE = 0.5
"""Share of the longest clip that must be left over before a pod is given up."""

NEGLIGIBLE_USD = 1e-9

SURE = 0.1
"""Share of what opening costs by which it must be cheaper: expected times are not certain, and pods are not to flap."""

CLIP_SPREAD = 0.2
"""Coefficient of variation of a clip's time, failed attempts included."""

START_SPREAD = 0.2
"""The same of the time until a lane or a pod is free."""


@dataclass(frozen=True)
class Target:
    """Jobs that are to be done by a time.

    Args:
        jobs: how many.
        podable: how many of them may run on pods.
        deadline_s: seconds from now.
    """

    jobs: int
    podable: int
    deadline_s: float
    budget_usd: float | None = None
    """What may still be spent on them; None for no limit."""


@dataclass(frozen=True)
class DeadlineNeed:
    """How many pods to open for a target, and what it then costs."""

    pods: int
    cost_usd: float
    without_usd: float
    feasible: bool
    latest_s: float
    """Seconds from now at which opening a pod could still help."""


def pods_needed(
    target: Target,
    lanes: Sequence[LaneView],
    pods: Sequence[PodView],
    offer: PodOffer,
    room: int,
    *,
    spread: bool = True,
) -> DeadlineNeed:
    """How many pods to open now.

    Args:
        spread: times scatter, so what the dearest lane will have to make at the end is counted in; False where they are
            certain.
    """
    own = lane_resources(lanes)
    latest_s = target.deadline_s - offer.cold_start_s - offer.service_s
    most = _payable(target.budget_usd, offer, room)
    costs = []
    for opened in range(most + 1):
        rented = pod_resources(pods, offer, opened)
        cost = _cost_usd(own, rented, target) + opening_usd(offer, opened, max(0.0, target.deadline_s))
        costs.append(cost + (_rescue_usd(own, rented, target) if spread else 0.0))
    best = 0
    for opened, cost in enumerate(costs):
        sure_usd = SURE * opening_usd(offer, opened - best, 0.0)
        if cost < costs[best] - sure_usd - NEGLIGIBLE_USD:
            best = opened
    if math.isfinite(costs[best]):
        return DeadlineNeed(best, costs[best], costs[0], True, latest_s)
    return DeadlineNeed(_nearest(target, own, pods, offer, most), math.inf, math.inf, False, latest_s)


def pods_affordable(
    jobs: int, budget_usd: float, lanes: Sequence[LaneView], pods: Sequence[PodView], offer: PodOffer, room: int
) -> tuple[int, float]:
    """How many pods to open to be as quick as a budget allows, and the time it then takes (infinite if it cannot)."""
    own, best, best_s = lane_resources(lanes), 0, math.inf
    for opened in range(_payable(budget_usd, offer, room) + 1):
        resources = [*own, *pod_resources(pods, offer, opened)]
        if not any(resource.slots for resource in resources):
            continue
        left = Decimal(str(round(max(0.0, budget_usd - opening_usd(offer, opened, 0.0)), 9)))
        plan = planner.within_budget(resources, jobs, left)
        if plan is not None and plan.duration_s < best_s * (1 - 1e-6):
            best, best_s = opened, plan.duration_s
    return best, best_s


def _payable(budget_usd: float | None, offer: PodOffer, room: int) -> int:
    """How many pods a budget can pay the start and one job of."""
    if budget_usd is None:
        return room
    each = bill_usd(offer, offer.cold_start_s + offer.service_s)
    return room if each <= 0 else max(0, min(room, math.floor(budget_usd / each + 1e-9)))


def pods_to_spare(
    target: Target, lanes: Sequence[LaneView], pods: Sequence[PodView], offer: PodOffer | None
) -> tuple[PodView, ...]:
    """Open pods without which the rest keeps the deadline with half a clip to spare, for no more money."""
    own, kept, spared = lane_resources(lanes), list(pods), []
    longest_s = max([lane.service_s for lane in lanes] + [pod.service_s for pod in pods], default=0.0)
    sooner = Target(target.jobs, target.podable, target.deadline_s - SPARE * longest_s)
    for pod in sorted(pods, key=lambda pod: (pod.busy, -pod.price_usd_per_h, -pod.service_s, pod.name)):
        rest = [other for other in kept if other is not pod]
        without_usd = _expected_usd(own, pod_resources(rest, offer), sooner, target)
        with_usd = _expected_usd(own, pod_resources(kept, offer), target, target)
        if math.isfinite(without_usd) and without_usd <= with_usd + NEGLIGIBLE_USD:
            kept = rest
            spared.append(pod)
    return tuple(spared)


def _cost_usd(own: Sequence[Resource], pods: Sequence[Resource], target: Target) -> float:
    """The cheapest split that keeps the deadline; infinite if none does."""
    if target.deadline_s <= 0 and target.jobs:
        return math.inf
    left, podable, cost = target.jobs, target.podable, 0.0
    rented = {resource.key for resource in pods}
    for resource in sorted((*own, *pods), key=lambda r: (r.price_usd, r.service_s)):
        able = min(left, podable) if resource.key in rented else left
        take = min(able, resource.capacity(target.deadline_s))
        left -= take
        cost += take * float(resource.price_usd)
        if resource.key in rented:
            podable -= take
    return math.inf if left else cost


def _expected_usd(own: Sequence[Resource], pods: Sequence[Resource], planned: Target, target: Target) -> float:
    return _cost_usd(own, pods, planned) + _rescue_usd(own, pods, target)


def _rescue_usd(own: Sequence[Resource], pods: Sequence[Resource], target: Target) -> float:
    """What the dearest lane is expected to be paid for jobs that the rest was to make, and did not in time."""
    dearest = max((r.price_usd for r in own), default=Decimal(0))
    cheap = [r for r in (*own, *pods) if r.price_usd < dearest and r.service_s > 0]
    if not cheap or dearest <= 0 or target.deadline_s <= 0:
        return 0.0
    room = variance = 0.0
    for resource in cheap:
        for free_s in resource.starts():
            clips = max(0.0, (target.deadline_s - free_s) / resource.service_s)
            room += max(0.0, clips - 0.5)
            if clips > 0:
                variance += clips * CLIP_SPREAD**2 + 1 / 12 + (START_SPREAD * free_s / resource.service_s) ** 2
    certain = max(0.0, target.jobs - sum(r.capacity(target.deadline_s) for r in cheap))
    if not variance:
        return 0.0
    deviation = math.sqrt(variance)
    over = (target.jobs - room) / deviation
    expected = deviation * (_density(over) + over * _below(over))
    return max(0.0, expected - certain) * float(dearest)


def _density(value: float) -> float:
    return math.exp(-0.5 * value * value) / math.sqrt(2 * math.pi)


def _below(value: float) -> float:
    return 0.5 * (1 + math.erf(value / math.sqrt(2)))


def _nearest(target: Target, own: Sequence[Resource], pods: Sequence[PodView], offer: PodOffer, room: int) -> int:
    """The fewest pods with which the work is done soonest."""
    best, best_s = 0, math.inf
    for opened in range(room + 1):
        resources = [*own, *pod_resources(pods, offer, opened)]
        if not any(resource.slots for resource in resources):
            continue
        duration_s = planner.shortest(resources, target.jobs).duration_s
        if duration_s < best_s * (1 - 1e-6):
            best, best_s = opened, duration_s
    return best
