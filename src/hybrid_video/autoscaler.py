"""When rented GPUs open and close: a pure policy. The watcher carries out what it decides; nothing here does I/O.

Two policies by name. `threshold` is the rule that people know: open while more than so many jobs wait, close after so
many idle seconds. `break-even`, the default, opens a pod when it earns its price.
"""

from __future__ import annotations

import math

from hybrid_video.scaling.arrivals import ArrivalRate, Arrivals, window_s
from hybrid_video.scaling.break_even import break_even
from hybrid_video.scaling.lane_memory import LaneMemory
from hybrid_video.scaling.state import (
    Billing,
    Figure,
    LaneView,
    PodOffer,
    PodView,
    PolicyName,
    ScaleDecision,
    ScaleState,
    lanes_of,
)

__all__ = [
    "ArrivalRate",
    "Arrivals",
    "Billing",
    "Figure",
    "LaneMemory",
    "LaneView",
    "PodOffer",
    "PodView",
    "PolicyName",
    "ScaleDecision",
    "ScaleState",
    "decide",
    "lanes_of",
    "window_s",
]

JOBS_PER_POD = 3
"""Threshold: waiting jobs for which one pod is opened, as in the system this one replaces."""


def decide(state: ScaleState, policy: PolicyName = "break-even") -> ScaleDecision:
    """What to do now. The same state gives the same decision.

    Never opens beyond `max_pods` (starting and draining pods count), never closes a pod that holds a job or starts.
    """
    return break_even(state) if policy == "break-even" else threshold(state)


def threshold(state: ScaleState) -> ScaleDecision:
    """Open while more than `threshold_queue` jobs wait, one pod for every three; close after `threshold_idle_s`."""
    waiting = state.waiting_jobs
    figures: dict[str, Figure] = {
        "policy": "threshold",
        "waiting": waiting,
        "pods": len(state.pods),
        "max_pods": state.max_pods,
    }
    if waiting > state.threshold_queue:
        opened = min(state.room, max(0, math.ceil(waiting / JOBS_PER_POD) - len(state.pods)))
        reason = f"{waiting} jobs wait, more than {state.threshold_queue}"
        if opened:
            return ScaleDecision(opened, reason=f"{reason}: opening {opened} beside {len(state.pods)}", figures=figures)
        return ScaleDecision(reason=f"{reason}; {len(state.pods)} of at most {state.max_pods} open", figures=figures)
    close = tuple(p.name for p in state.pods if p.idle and p.idle_s >= state.threshold_idle_s) if not waiting else ()
    if close:
        reason = f"idle for {state.threshold_idle_s:.0f} s: {', '.join(close)}"
        return ScaleDecision(close=close, reason=reason, figures=figures)
    return ScaleDecision(reason=f"{waiting} jobs wait, not more than {state.threshold_queue}", figures=figures)
