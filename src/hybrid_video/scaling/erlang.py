"""Queues in steady state: how many jobs are present when they come at a rate. Pure arithmetic."""

from __future__ import annotations

import math

UNSTABLE = 1e6
"""Jobs present where more come than are done: so many that anything else is better."""


def waiting_share(offered: float, servers: int) -> float:
    """Erlang's C: the share of jobs that have to wait, for an offered load in servers; 1 where it is too much."""
    if servers <= 0 or offered >= servers:
        return 1.0
    blocked = 1.0
    for busy in range(1, servers + 1):
        blocked = offered * blocked / (busy + offered * blocked)
    return blocked / (1 - offered / servers * (1 - blocked))


def jobs_present(per_s: float, rate_per_s: float, servers: int, *, variability: float = 1.0) -> float:
    """Mean jobs waiting and under way.

    Args:
        per_s: jobs that come in a second.
        rate_per_s: jobs that all servers together do in a second.
        variability: half the sum of the squared coefficients of variation of gaps and services (Allen and Cunneen);
            1 where both are exponential.
    """
    if per_s <= 0:
        return 0.0
    if servers <= 0 or rate_per_s <= 0:
        return UNSTABLE
    load = per_s / rate_per_s
    if load >= 1:
        return UNSTABLE * load
    offered = load * servers
    queued = waiting_share(offered, servers) * load / (1 - load)
    return min(UNSTABLE, queued * variability + offered) if math.isfinite(queued) else UNSTABLE
