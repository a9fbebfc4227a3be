"""Which open pods are needed no more. Pure.

A pod that holds a job is never closed: it is drained, which means given no further job. By the second, a pod that has
nothing to do ends at once, unless the next job is expected so soon that starting another would cost more. By the hour,
it stays until just before the next hour, which is paid only if it earns that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hybrid_video.demand import BatchDemand
from hybrid_video.scaling.backlog import Backlog, Values, without_pod_usd
from hybrid_video.scaling.deadline import Target, pods_to_spare
from hybrid_video.scaling.state import HOUR_S, PodOffer, PodView, ScaleState

PATIENCE_TICKS = 3
"""Looks for which a ready pod may stand idle beside waiting jobs before its cold start's worth of idling is counted."""

MARGIN_S = 20.0
"""By the hour: seconds before the next one at which a pod is told to end, beside two looks."""

LEAST_EVENTS = 2.0
"""Separate arrivals in the window before the time of the next one is guessed."""


@dataclass(frozen=True)
class Grounds:
    """What may still need pods.

    Args:
        base: pods that steady traffic keeps.
        targets: jobs due by deadlines.
        undated: demands without a deadline whose jobs wait for pods.
    """

    base: int
    targets: Sequence[Target]
    undated: Sequence[BatchDemand]


def closing(
    state: ScaleState, offer: PodOffer | None, grounds: Grounds
) -> tuple[tuple[str, ...], tuple[str, ...], str]:
    """Pods to close now, pods to drain, and why (or why none)."""
    if not state.pods:
        return (), (), ""
    spare, why = _spare(state, offer, grounds)
    most = max(0, len(state.pods) - grounds.base)
    if len(spare) > most:
        spare, why = spare[:most], f"{why}; {grounds.base} are kept for what keeps coming"
    if offer is not None and offer.billing == "hour":
        spare, why = _before_the_hour(state, offer, grounds, spare, why)
    close = tuple(pod.name for pod in spare if not pod.busy)
    drain = tuple(pod.name for pod in spare if pod.busy)
    if not close and not drain:
        return (), (), why
    parts = [f"closing {', '.join(close)}"] if close else []
    parts += [f"draining {', '.join(drain)}"] if drain else []
    return close, drain, f"{' and '.join(parts)}: {why}"


def _spare(state: ScaleState, offer: PodOffer | None, grounds: Grounds) -> tuple[list[PodView], str]:
    """Pods that nothing needs, the first to go first."""
    if grounds.undated:
        limit_s = max(PATIENCE_TICKS * state.tick_s, offer.cold_start_s if offer else 0.0)
        idle = [pod for pod in _in_order(state.pods) if pod.idle and pod.idle_s >= limit_s]
        return idle, f"idle for {limit_s:.0f} s, though jobs wait: cheaper lanes suffice for them"
    if grounds.targets:
        found = set(state.pods)
        for target in grounds.targets:
            found &= set(pods_to_spare(target, state.lanes, state.pods, offer))
        last = grounds.targets[-1]
        return _in_order(found), f"the rest finishes {last.jobs} jobs in {last.deadline_s:.0f} s without"
    tau_s = _keep_alive_s(state, offer)
    idle = [pod for pod in _in_order(state.pods) if not pod.busy and pod.idle_s >= tau_s]
    if tau_s and len(idle) < len(state.pods):
        return idle, f"no job waits, and none came for {tau_s:.0f} s, though more were expected"
    return idle, "no job waits that could run there"


def _keep_alive_s(state: ScaleState, offer: PodOffer | None) -> float:
    """Idle seconds after which keeping a pod has cost as much as starting another; 0 where no job is expected by then.

    Where pods are the only capacity, the next job's wait for a start counts as well.
    """
    if offer is None or state.arrivals.events < LEAST_EVENTS:
        return 0.0
    tau_s = offer.cold_start_s
    if not state.lanes and offer.usd_per_s > 0:
        tau_s *= 1 + state.value_of_waiting_usd_per_job_h / float(offer.price_usd_per_h)
    gap_s = state.arrivals.window_s / state.arrivals.events
    return tau_s if gap_s < tau_s else 0.0


def _before_the_hour(
    state: ScaleState, offer: PodOffer, grounds: Grounds, spare: Sequence[PodView], why: str
) -> tuple[list[PodView], str]:
    """Only pods whose paid hour ends: those that are spare, and busy ones that would not earn the next."""
    ending = [pod for pod in _in_order(state.pods) if _hour_ends(pod, offer, state.tick_s)]
    chosen = [pod for pod in ending if pod in spare]
    most = max(0, len(state.pods) - grounds.base) - len(chosen)
    unworthy = [
        pod
        for pod in ending
        if pod not in chosen and not grounds.targets and not _earns_hour(state, offer, grounds, pod)
    ]
    chosen += unworthy[:most] if most > 0 else []
    if chosen:
        return chosen, "their paid hour ends, and they would not earn the next"
    return [], "open pods are paid to the end of their hour" if spare else why


def _hour_ends(pod: PodView, offer: PodOffer, tick_s: float) -> bool:
    left_s = HOUR_S - pod.age_s % HOUR_S
    return left_s <= MARGIN_S + 2 * tick_s + (pod.service_s or offer.service_s if pod.busy else 0.0)


def _earns_hour(state: ScaleState, offer: PodOffer, grounds: Grounds, pod: PodView) -> bool:
    """Whether a pod's next hour is worth more to the waiting jobs than it costs."""
    waiting = sum(demand.podable_jobs for demand in grounds.undated)
    if not waiting:
        return False
    end = max(demand.value_of_time_usd_per_h for demand in grounds.undated) / HOUR_S
    values = Values(state.value_of_waiting_usd_per_job_h / HOUR_S, end)
    with_usd, without_usd = without_pod_usd(Backlog(waiting, state.lanes, state.pods, offer, values), pod)
    return with_usd < without_usd or math.isinf(without_usd)


def _in_order(pods: Sequence[PodView] | set[PodView]) -> list[PodView]:
    """Those without a job first, then the dearest, the slowest, the youngest."""
    return sorted(pods, key=lambda pod: (pod.busy, -pod.price_usd_per_h, -pod.service_s, pod.age_s, pod.name))
