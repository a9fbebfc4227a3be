"""Questions to the history. Each returns a DataFrame with fixed columns, empty ones included."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Any

from hybrid_video.history.store import History
from hybrid_video.models import Tier
from hybrid_video.pricing.learning import Kind, Observed
from hybrid_video.pricing.timings import ServiceTimes

if TYPE_CHECKING:
    import pandas as pd


def cost_per_day(history: History, *, since: date | None = None) -> pd.DataFrame:
    """Columns: day (UTC), tier, attempts, clips, cost_usd, quoted_usd. Dollars are floats here; the ledger is exact."""
    return history.query(
        """
        select cast(finished_at as date) as day, tier, count(*) as attempts,
               count(*) filter (where state = 'settled') as clips,
               sum(cost_usd) as cost_usd, sum(quoted_usd) filter (where state = 'settled') as quoted_usd
        from attempts where cast(finished_at as date) >= coalesce(?, date '1970-01-01')
        group by all order by day, tier
        """,
        [since],
    )


def cost_per_backend(history: History, *, batch: str | None = None) -> pd.DataFrame:
    """Columns: backend, tier, attempts, clips, failed, cost_usd, mean_s (execution, seconds)."""
    return history.query(
        """
        select backend, tier, count(*) as attempts, count(*) filter (where state = 'settled') as clips,
               count(*) filter (where state = 'failed') as failed, sum(cost_usd) as cost_usd,
               avg(execution_s) filter (where state = 'settled') as mean_s
        from attempts where batch = coalesce(?, batch) group by all order by backend
        """,
        [batch],
    )


def latency_percentiles(history: History, *, batch: str | None = None) -> pd.DataFrame:
    """Columns: backend, clips, p50_s, p95_s, p99_s: seconds from decision to finished clip."""
    return history.query(
        """
        select backend, count(*) as clips, quantile_cont(total_s, 0.5) as p50_s,
               quantile_cont(total_s, 0.95) as p95_s, quantile_cont(total_s, 0.99) as p99_s
        from attempts where state = 'settled' and batch = coalesce(?, batch) group by backend order by backend
        """,
        [batch],
    )


def failures(history: History, *, batch: str | None = None) -> pd.DataFrame:
    """Columns: error_kind, backend, attempts, cost_usd."""
    return history.query(
        """
        select error_kind, backend, count(*) as attempts, sum(cost_usd) as cost_usd
        from attempts where state in ('failed', 'cancelled') and batch = coalesce(?, batch)
        group by all order by attempts desc, error_kind
        """,
        [batch],
    )


def calibration(history: History, *, batch: str | None = None, since: date | None = None) -> pd.DataFrame:
    """Columns: backend, clips, within_p90 (share of those with a known P90), time_error_p50, time_error_p90,
    cost_error_p50, cost_error_p90: how far finished clips were from their quotes, as shares of the quote.

    A quote is well calibrated when `within_p90` lies between 0.85 and 0.95.
    """
    return history.query(
        """
        with finished as (
            select backend, served_s <= nullif(quoted_service_p90_s, 0) as within,
                   abs(served_s - quoted_service_s) / nullif(quoted_service_s, 0) as time_error,
                   cast(abs(cost_usd - quoted_usd) as double) / nullif(cast(quoted_usd as double), 0) as cost_error
            from attempts
            where state = 'settled' and batch = coalesce(?, batch)
              and cast(finished_at as date) >= coalesce(?, date '1970-01-01')
        )
        select backend, count(*) as clips, avg(cast(within as double)) as within_p90,
               quantile_cont(time_error, 0.5) as time_error_p50, quantile_cont(time_error, 0.9) as time_error_p90,
               quantile_cont(cost_error, 0.5) as cost_error_p50, quantile_cont(cost_error, 0.9) as cost_error_p90
        from finished group by backend order by backend
        """,
        [batch, since],
    )


def learned_times(history: History, *, time_scale: float = 1.0, last: int = 200) -> ServiceTimes:
    """What is known of service times: the last attempts of each kind of work, failed ones included.

    Args:
        last: so many attempts of a kind; older ones say how things were.
        time_scale: only attempts made at this speed count, so that fast emulators teach nothing about real vendors.
    """
    frame = history.query(
        """
        with recent as (
            select tier, backend, gpu, model, coalesce(signature, '') as signature, cold_start_s is not null as cold,
                   state = 'settled' as done, per_unit_s, cold_start_s,
                   row_number() over (
                       partition by tier, backend, gpu, model, signature, cold_start_s is not null
                       order by finished_at desc
                   ) as age
            from attempts where per_unit_s > 0 and time_scale = ?
        )
        select tier, backend, gpu, model, signature, cold, count(*) filter (where done) as clips,
               sum(per_unit_s) as total, coalesce(sum(ln(per_unit_s)) filter (where done), 0) as logs,
               coalesce(sum(ln(per_unit_s) ** 2) filter (where done), 0) as log_squares,
               count(cold_start_s) as starts, coalesce(sum(cold_start_s), 0) as starting
        from recent where age <= ? group by all
        """,
        [time_scale, last],
    )
    observed: dict[Kind, Observed] = {}
    starts: dict[tuple[str, str], tuple[int, float]] = {}
    rows: list[dict[Any, Any]] = frame.to_dict("records")
    for row in rows:
        place = (str(row["backend"]), str(row["gpu"]))
        kind = Kind(Tier(row["tier"]), *place, str(row["model"]), str(row["signature"]), bool(row["cold"]))
        sums = (float(row[name]) for name in ("total", "logs", "log_squares"))
        observed[kind] = Observed(int(row["clips"]), *sums)
        count, seconds = starts.get(place, (0, 0.0))
        starts[place] = (count + int(row["starts"]), seconds + float(row["starting"]))
    return ServiceTimes(observed, starts)
