"""How far quotes were from what happened."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from decimal import Decimal

from hybrid_video.ledger.forecasts import Forecast
from hybrid_video.models import Attempt, AttemptState, Model, Usd
from hybrid_video.pricing.learning import served_s


class QuoteErrors(Model):
    """Distances between finished clips and their quotes, as shares of the quote (0.1 is 10 %).

    None where nothing can be compared: free clips have no error in money, quotes without a P90 are not within it.
    """

    clips: int
    time_p50: float | None
    time_p90: float | None
    cost_p50: float | None
    cost_p90: float | None
    within_p90: float | None


class PlanLine(Model):
    """What the whole run was expected to come to, beside what it came to."""

    jobs: int
    planned_usd: Usd
    planned_s: float
    planned_start_usd: Usd = Decimal(0)
    """Starts of serverless workers: on the endpoint's bill, beside `planned_usd`, in no job's cost."""
    actual_usd: Usd | None
    actual_s: float | None
    complete: bool

    @classmethod
    def of(cls, forecast: Forecast) -> PlanLine:
        """The comparison of one run."""
        return cls(
            jobs=forecast.jobs,
            planned_usd=forecast.planned_usd,
            planned_s=forecast.planned_s,
            planned_start_usd=forecast.start_usd,
            actual_usd=forecast.actual_usd,
            actual_s=forecast.actual_s,
            complete=forecast.complete,
        )

    @property
    def time_error(self) -> float | None:
        """Share by which the plan missed the duration; None for a run that did not make all it had planned."""
        if not self.complete or self.actual_s is None or self.planned_s <= 0:
            return None
        return abs(self.actual_s - self.planned_s) / self.planned_s

    @property
    def cost_error(self) -> float | None:
        """Share by which the plan missed the cost."""
        if not self.complete or self.actual_usd is None or self.planned_usd <= 0:
            return None
        return float(abs(self.actual_usd - self.planned_usd) / self.planned_usd)


def quote_errors(attempts: Iterable[Attempt]) -> QuoteErrors | None:
    """The errors of finished clips; None without any."""
    done = [attempt for attempt in attempts if attempt.state is AttemptState.SETTLED]
    if not done:
        return None
    timed = [(attempt.quote, seconds) for attempt in done if (seconds := served_s(attempt)) is not None]
    times = [abs(took - quote.service_s) / quote.service_s for quote, took in timed if quote.service_s > 0]
    within = [took <= quote.service_p90_s for quote, took in timed if quote.service_p90_s]
    costs = [
        float(abs((attempt.cost_usd or Decimal(0)) - attempt.quoted_usd) / attempt.quoted_usd)
        for attempt in done
        if attempt.quoted_usd
    ]
    return QuoteErrors(
        clips=len(done),
        time_p50=percentile(times, 0.5),
        time_p90=percentile(times, 0.9),
        cost_p50=percentile(costs, 0.5),
        cost_p90=percentile(costs, 0.9),
        within_p90=sum(within) / len(within) if within else None,
    )


def percentile(values: Sequence[float], share: float) -> float | None:
    """The value that a share of the others do not exceed, interpolated; None without values."""
    if not values:
        return None
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
