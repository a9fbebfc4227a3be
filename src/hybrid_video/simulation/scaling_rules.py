"""The scaling rules that ours is measured against, each as plainly as its own description; none of them is ours."""

from __future__ import annotations

import math

from hybrid_video.autoscaler import ScaleDecision, ScaleState
from hybrid_video.scaling.erlang import jobs_present

PER_POD = 5
IDLE_S = 300.0


def local_only(state: ScaleState) -> ScaleDecision:
    """Never a pod."""
    return ScaleDecision()


def seed_rule(state: ScaleState) -> ScaleDecision:
    """Five or more wait: one pod more for every three of them, up to the maximum; closed after 300 idle seconds."""
    waiting = state.waiting_jobs
    opened = min(state.room, math.ceil(waiting / 3)) if waiting >= PER_POD else 0
    return ScaleDecision(opened, () if waiting else _idle(state, IDLE_S))


def keda_rule(state: ScaleState) -> ScaleDecision:
    """One pod for every five that wait; closed after 300 idle seconds beyond that."""
    wanted = min(state.max_pods, math.ceil(state.waiting_jobs / PER_POD))
    if wanted >= len(state.pods):
        return ScaleDecision(wanted - len(state.pods))
    return ScaleDecision(0, _idle(state, IDLE_S)[: len(state.pods) - wanted])


def backlog_rule(state: ScaleState) -> ScaleDecision:
    """Opens one pod after the other while the backlog is above W*; closes at once when one is idle."""
    waiting = state.waiting_jobs
    return ScaleDecision(_backlog_pods(state), () if waiting else _idle(state, 0.0))


def rate_rule(state: ScaleState) -> ScaleDecision:
    """The backlog rule, and a base level from Erlang's formula at the rate of arrivals."""
    base = _base_pods(state)
    opened = max(_backlog_pods(state), min(state.room, base - len(state.pods)))
    spare = max(0, len(state.pods) - base)
    return ScaleDecision(opened, () if state.waiting_jobs else _idle(state, 0.0)[:spare])


def _idle(state: ScaleState, idle_s: float) -> tuple[str, ...]:
    return tuple(pod.name for pod in state.pods if pod.idle and pod.idle_s >= idle_s)


def _backlog_pods(state: ScaleState) -> int:
    offer = state.offer
    if offer is None:
        return 0
    pod_rate, usd, start_s = 1 / offer.service_s, offer.usd_per_s, offer.cold_start_s
    value = state.value_of_waiting_usd_per_job_h / 3600
    rate = sum(1 / lane.service_s for lane in state.lanes) + len(state.pods) * pod_rate
    work = sum(demand.waiting_jobs + demand.under_way_jobs for demand in state.demands)
    opened = 0
    while opened < state.room and work > 0:
        beyond_s = work / rate - start_s
        if beyond_s <= 0:
            break
        saved = 0.5 * rate * beyond_s**2 * pod_rate / (rate + pod_rate)
        cost = usd * (start_s + rate * beyond_s / (rate + pod_rate))
        if offer.billing == "hour":
            cost = float(offer.price_usd_per_h) * math.ceil((cost / usd) / 3600)
        if value * saved <= cost:
            break
        opened += 1
        rate += pod_rate
    return opened


def _base_pods(state: ScaleState) -> int:
    offer, per_s = state.offer, state.arrivals_per_s
    if offer is None or per_s <= 0:
        return 0
    value = state.value_of_waiting_usd_per_job_h / 3600
    own = sum(1 / lane.service_s for lane in state.lanes)

    def cost(pods: int) -> float:
        servers = len(state.lanes) + pods
        present = jobs_present(per_s, own + pods / offer.service_s, servers)
        return offer.usd_per_s * pods + value * present

    return min(range(state.max_pods + 1), key=cost)
