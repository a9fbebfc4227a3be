"""The loads of the autoscaler's benchmark, and the rules it is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from functools import partial

from hybrid_video import autoscaler
from hybrid_video.simulation.autoscale import DayCase, ScaleRule
from hybrid_video.simulation.scaling_rules import backlog_rule, keda_rule, local_only, rate_rule, seed_rule
from hybrid_video.simulation.world import PodKind, Site

SMALL = PodKind(20, Decimal("0.34"), (60, 120))
"""Clips of 10 s on the own GPU take 20 s there: the earlier system's figures."""

REAL = PodKind(100, Decimal("0.69"), (90, 150))
"""Clips of 170 s on the own GPU take 100 s there: a 14B model in four steps, RTX 4090 at home, RTX 5090 rented."""

MINUTE_S, HOUR_S = 60.0, 3600.0


def _hourly(kind: PodKind) -> PodKind:
    return replace(kind, billing="hour")


DAYS: tuple[DayCase, ...] = (
    DayCase("3x10 s, bursts of 10 each 30 min", 3, 10, SMALL, 10, 30 * MINUTE_S),
    DayCase("3x10 s, bursts of 40 each hour", 3, 10, SMALL, 40, HOUR_S),
    DayCase("1x10 s, bursts of 10 each 30 min", 1, 10, SMALL, 10, 30 * MINUTE_S),
    DayCase("3x10 s, one by one, 83 % load", 3, 10, SMALL, 1, 4),
    DayCase("1x170 s, bursts of 3 each hour", 1, 170, REAL, 3, HOUR_S),
    DayCase("1x170 s, bursts of 20 each 4 h", 1, 170, REAL, 20, 4 * HOUR_S),
    DayCase("1x170 s, one by one, 85 % load", 1, 170, REAL, 1, 200),
    DayCase("hourly: 3x10 s, bursts of 10 each 30 min", 3, 10, _hourly(SMALL), 10, 30 * MINUTE_S),
    DayCase("hourly: 1x170 s, bursts of 3 each hour", 1, 170, _hourly(REAL), 3, HOUR_S),
)

OURS = "break-even (ours)"
THRESHOLD = "threshold (ours)"

RIVALS: Mapping[str, ScaleRule] = {
    "local only": local_only,
    "queue >= 5, idle 300 s": seed_rule,
    "KEDA ceil(queue/5)": keda_rule,
    "backlog W*, idle 0": backlog_rule,
    "backlog W* + rate": rate_rule,
}

POLICIES: Mapping[str, ScaleRule] = {
    THRESHOLD: partial(autoscaler.decide, policy="threshold"),
    OURS: partial(autoscaler.decide, policy="break-even"),
}


def sites(failure: float) -> tuple[Site, ...]:
    """The lanes beside the pods: three own GPUs and ten Google operations."""
    return (
        Site("local", 3, 10, Decimal(0), 0.10, failure),
        Site("gemini", 10, 5, Decimal("0.08"), 0.50, failure, per_clip=True),
    )


def pod_kind(failure: float, *, hourly: bool) -> PodKind:
    """The pods of the batches with deadlines."""
    return replace(SMALL, failure=failure, billing="hour" if hourly else "second")


DEADLINES: Mapping[int, tuple[int, ...]] = {100: (200, 250, 300), 1000: (1600, 1900, 2200)}
