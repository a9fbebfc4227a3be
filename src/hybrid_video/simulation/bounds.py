"""What no router can beat: least cost for a time, least time for a cost, in expectation.

Valid for every policy that cannot see the future: the expected load of a site is its expected time per finished clip
times its expected number of clips (Wald), and cannot exceed its slots times the expected duration. Identical jobs are
filled in order of price; jobs of known sizes need a linear programme, whose Lagrange dual is a bound for whatever
multipliers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from hybrid_video.simulation.world import Site

STEPS = 60
ROUNDS = 28
GOLDEN = 0.6180339887498949


def cost_bound_usd(sites: Sequence[Site], jobs: int, duration_s: float) -> float:
    """Least expected cost of identical jobs in an expected time; what does not fit pays the dearest price."""
    left, cost, price = float(jobs), 0.0, 0.0
    for site in sorted(sites, key=lambda site: site.effective_usd):
        take = min(left, site.slots * duration_s / site.effective_s)
        price = site.effective_usd
        left -= take
        cost += take * price
    return cost + left * price


def time_bound_s(sites: Sequence[Site], jobs: int, cost_usd: float) -> float:
    """Least expected time of identical jobs for an expected cost."""
    low = jobs / sum(site.slots / site.effective_s for site in sites)
    high = max(low, *(jobs * site.effective_s / site.slots for site in sites))
    if cost_bound_usd(sites, jobs, low) <= cost_usd:
        return low
    for _ in range(STEPS):
        middle = (low + high) / 2
        if cost_bound_usd(sites, jobs, middle) <= cost_usd:
            high = middle
        else:
            low = middle
    return high


def sized_cost_bound_usd(sites: Sequence[Site], sizes: Sequence[float], duration_s: float) -> float:
    """Least expected cost of jobs of known sizes in an expected time: the dual of the linear relaxation.

    Any multipliers give a bound; the best are sought one inside the other, which is exact up to rounding because the
    dual is concave. The last site is taken to have room for what is left to it; where it has not, the bound is just
    lower.
    """
    size = np.asarray(sizes, dtype=float)
    ordered = sorted(sites, key=lambda site: site.effective_usd)
    costs = [np.full_like(size, s.effective_usd) if s.per_clip else size * s.effective_usd for s in ordered]
    loads = [size * site.effective_s for site in ordered]
    room = [site.slots * duration_s for site in ordered]
    highest = max(float(np.max(cost / load)) for cost, load in zip(costs[1:], loads[:-1], strict=True)) * 4

    def dual(multipliers: list[float]) -> float:
        priced: list[NDArray[np.float64]] = [
            cost + rate * load for cost, rate, load in zip(costs, multipliers, loads, strict=False)
        ]
        priced.append(costs[-1])
        least = np.minimum.reduce(priced)
        return float(least.sum()) - sum(rate * r for rate, r in zip(multipliers, room, strict=False))

    def best(fixed: list[float]) -> float:
        if len(fixed) == len(ordered) - 1:
            return dual(fixed)
        return _highest(lambda rate: best([*fixed, rate]), highest)

    return best([])


def _highest(value: Callable[[float], float], high: float) -> float:
    """The highest value of a concave function between 0 and `high`, by golden section."""
    low = 0.0
    left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    at_left, at_right = value(left), value(right)
    for _ in range(ROUNDS):
        if at_left < at_right:
            low, left, at_left = left, right, at_right
            right = low + GOLDEN * (high - low)
            at_right = value(right)
        else:
            high, right, at_right = right, left, at_left
            left = high - GOLDEN * (high - low)
            at_left = value(left)
    return float(max(at_left, at_right))
