"""How many pods steady traffic is worth, whatever waits at the moment, by Erlang's formula. Pure.

Only traffic that is steady earns a base level: it needs several separate arrivals as evidence, and a pod that would
idle most of its time is not kept. One large batch is not traffic.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from hybrid_video.scaling.arrivals import Arrivals
from hybrid_video.scaling.erlang import jobs_present
from hybrid_video.scaling.state import LaneView, PodOffer

EVIDENCE = 6.0
"""Separate arrivals in the window before a rate is believed."""

VARIABILITY = 0.6
"""Gaps as of independent people (coefficient of variation 1), clips of much the same length (about 0.3)."""

LEAST_LOAD = 0.15
"""Share of everything's capacity that must be in use with the pod, for the pod to be kept."""

STEPS = 40
"""Rates are rounded to so many steps per factor of e: the answer does not tremble, and is remembered."""


def base_level(arrivals: Arrivals, lanes: Sequence[LaneView], offer: PodOffer, most: int, usd_per_job_s: float) -> int:
    """Pods to have open because of the traffic: the number with the least rent and waiting."""
    if arrivals.events < EVIDENCE or arrivals.per_s <= 0 or most <= 0:
        return 0
    own = sum(1 / lane.service_s for lane in lanes if lane.service_s > 0)
    return _least(
        round(arrivals.per_s, 12),
        round(own, 12),
        len(lanes),
        offer.service_s,
        offer.usd_per_s,
        usd_per_job_s,
        most,
        max(1.0, arrivals.batch),
    )


@lru_cache(maxsize=4096)
def _least(
    per_s: float, own: float, lanes: int, service_s: float, usd: float, value: float, most: int, batch: float
) -> int:
    def cost(pods: int) -> float:
        rate = own + pods / service_s
        if pods and per_s < LEAST_LOAD * rate:
            return float("inf")
        present = jobs_present(per_s, rate, lanes + pods, variability=VARIABILITY * (1 + batch) / 2)
        return usd * pods + value * present

    return min(range(most + 1), key=cost)
