"""What a month will come to, from the days there were. Pure; deterministic, so a page does not flicker."""

from __future__ import annotations

import calendar
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal

import numpy as np

WINDOW_DAYS = 28
LEAST_DAYS = 3
DRAWS = 4000
LEVEL = 0.8


@dataclass(frozen=True)
class Projection:
    """The month's expected spend, and the range it ends in with a probability of four in five."""

    so_far_usd: Decimal
    expected_usd: Decimal
    low_usd: Decimal
    high_usd: Decimal
    days_seen: int
    days_left: int


def project_month(daily_usd: Mapping[date, Decimal], today: date) -> Projection | None:
    """The present month's spend; None with fewer than three complete days to go by.

    The days still to come are drawn from the last 28 complete ones; days without spend count as such from the first
    day that had any.
    """
    complete = sorted(day for day in daily_usd if day < today)
    if not complete:
        return None
    first = max(complete[0], today - timedelta(days=WINDOW_DAYS))
    days = [first + timedelta(days=n) for n in range((today - first).days)]
    if len(days) < LEAST_DAYS:
        return None
    so_far = sum((usd for day, usd in daily_usd.items() if _month(day) == _month(today) and day <= today), Decimal(0))
    left = calendar.monthrange(today.year, today.month)[1] - today.day
    seen = np.array([float(daily_usd.get(day, Decimal(0))) for day in days])
    sums = np.random.default_rng(0).choice(seen, (DRAWS, left)).sum(axis=1) if left else np.zeros(1)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(sums, [tail, 1 - tail])
    return Projection(
        so_far_usd=so_far,
        expected_usd=so_far + _usd(float(seen.mean()) * left),
        low_usd=so_far + _usd(float(low)),
        high_usd=so_far + _usd(float(high)),
        days_seen=len(days),
        days_left=left,
    )


def _usd(amount: float) -> Decimal:
    return Decimal(str(round(amount, 9)))


def _month(day: date) -> tuple[int, int]:
    return day.year, day.month
