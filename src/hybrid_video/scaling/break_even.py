"""The break-even policy: a pod opens when it earns its price, and ends when it no longer does. Pure."""

from __future__ import annotations

from dataclasses import replace

from hybrid_video.scaling.backlog import Backlog, Values, Worth, worth_opening
from hybrid_video.scaling.base_level import base_level
from hybrid_video.scaling.state import HOUR_S, Figure, PodOffer, ScaleDecision, ScaleState

KEEP = 0.7
"""A base level falls only where it would at this share of the price: hysteresis, so that pods do not come and go."""


def break_even(state: ScaleState) -> ScaleDecision:
    """What to do now."""
    if not state.demands and not state.pods and state.arrivals.events <= 0:
        return ScaleDecision(reason="no batch runs and no pod is open")
    offer = state.offer
    value = state.value_of_waiting_usd_per_job_h / HOUR_S
    base = base_level(state.arrivals, state.lanes, offer, state.max_pods, value) if offer else 0
    worth = _worth(state, offer, value) if offer else Worth(0, 0.0, 0.0, 0.0)
    opened = min(state.room, max(worth.pods, base - len(state.pods)))
    figures: dict[str, Figure] = {
        "policy": "break-even",
        "waiting": state.waiting_jobs,
        "pods": len(state.pods),
        "base": base,
    }
    if opened:
        return ScaleDecision(opened, reason="open", figures=figures)
    keep = base
    if offer and base < len(state.pods):
        cheap = replace(offer, price_usd_per_h=offer.price_usd_per_h * 7 / 10)
        keep = base_level(state.arrivals, state.lanes, cheap, state.max_pods, value)
    return ScaleDecision(close=_closable(state, keep), reason="close", figures=figures)


def _worth(state: ScaleState, offer: PodOffer, value: float) -> Worth:
    service = [d.pod_service_s for d in state.demands if d.pod_service_s]
    if service:
        offer = replace(offer, service_s=service[0])
    end = max((d.value_of_time_usd_per_h for d in state.demands), default=0.0) / HOUR_S
    backlog = Backlog(state.waiting_jobs, state.lanes, state.pods, offer, Values(value, end))
    return worth_opening(backlog, state.room)


def _closable(state: ScaleState, keep: int) -> tuple[str, ...]:
    if state.waiting_jobs:
        return ()
    idle = [pod for pod in state.pods if pod.idle]
    if state.offer and state.offer.billing == "hour":
        idle = [p for p in idle if p.age_s % HOUR_S > HOUR_S - 30]
    spare = max(0, len(state.pods) - keep)
    return tuple(pod.name for pod in idle[:spare])
