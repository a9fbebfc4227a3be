"""Questions to the history. Each returns a DataFrame with fixed columns, empty ones included."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Any

from hybrid_video.history.store import History
from hybrid_video.pricing.timings import Observed

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


def observed_times(history: History) -> dict[tuple[str, str, str], Observed]:
    """What `ServiceTimes` learns from: the last 200 finished attempts of each (backend, gpu, model)."""
    frame = history.query(
        """
        with recent as (
            select backend, gpu, model, coalesce(execution_s, total_s) / nullif(work_units, 0) as per_unit,
                   row_number() over (partition by backend, gpu, model order by finished_at desc) as age
            from attempts where state = 'settled'
        )
        select backend, gpu, model, count(per_unit) as n, sum(per_unit) as total
        from recent where age <= 200 and per_unit > 0 group by all
        """
    )
    rows: list[dict[Any, Any]] = frame.to_dict("records")
    return {
        (str(row["backend"]), str(row["gpu"]), str(row["model"])): Observed(int(row["n"]), float(row["total"]))
        for row in rows
        if row["n"]
    }
