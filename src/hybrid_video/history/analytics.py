"""The questions of the analytics page, answered over one opening of the history.

Every frame has fixed columns, also when it is empty. Dollars are floats in frames that are drawn and exact `Decimal`s
in `Totals`. Nothing here knows prices or how anything is shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hybrid_video.history.projection import Projection, project_month
from hybrid_video.history.store import History, Question
from hybrid_video.models import NANO_USD

if TYPE_CHECKING:
    import pandas as pd

MOST_BATCHES = 50

Dimension = {"tier": "tier", "backend": "backend", "batch": "batch", "workflow": "model"}
"""What spend can be split by: its name outside and its column."""


@dataclass(frozen=True)
class Selection:
    """Which attempts count. Days are UTC and inclusive; an empty field leaves everything in."""

    since: date | None = None
    until: date | None = None
    tiers: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    batch: str = ""
    workflow: str = ""

    def sql(self, moment: str = "day") -> tuple[str, list[object]]:
        """The condition and its parameters; `moment` is the column of the day or the time."""
        parts, values = ["true"], list[object]()
        if self.since is not None:
            parts.append(f"{moment} >= ?")
            values.append(self.since)
        if self.until is not None:
            parts.append(f"{moment} < ?")
            values.append(self.until + timedelta(days=1))
        for column, wanted in (("tier", self.tiers), ("backend", self.backends)):
            if wanted:
                parts.append(f"{column} in ({', '.join('?' for _ in wanted)})")
                values += wanted
        for column, text in (("batch", self.batch), ("model", self.workflow)):
            if text:
                parts.append(f"{column} = ?")
                values.append(text)
        return " and ".join(parts), values


@dataclass(frozen=True)
class Totals:
    """Sums over a selection. `quoted_usd` is what the finished clips were quoted at, `clips_usd` what those cost."""

    attempts: int
    clips: int
    failed: int
    cost_usd: Decimal
    quoted_usd: Decimal
    clips_usd: Decimal
    google_billed_s: float
    sized_clips: int
    mean_total_s: float | None


class Analysis:
    """The answers for one selection, while the history is open."""

    def __init__(self, ask: Question, selection: Selection) -> None:
        self._ask = ask
        self._selection = selection

    def _sums(self, sql: str) -> pd.DataFrame:
        """Asks the sums by day."""
        where, values = self._selection.sql()
        return self._ask(sql.format(where=where), values)

    def _rows(self, sql: str) -> pd.DataFrame:
        """Asks the attempts themselves."""
        where, values = self._selection.sql("finished_at")
        return self._ask(sql.format(where=where), values)

    def totals(self) -> Totals:
        """Everything together. Money is summed in whole nano-dollars, so it equals the ledger's."""
        found = self._sums(
            """
            select coalesce(sum(attempts), 0)::bigint as attempts,
                   coalesce(sum(attempts) filter (where state = 'settled'), 0)::bigint as clips,
                   coalesce(sum(attempts) filter (where state = 'failed'), 0)::bigint as failed,
                   cast(coalesce(sum(cost_usd), 0) * 1000000000 as bigint) as cost,
                   cast(coalesce(sum(quoted_usd) filter (where state = 'settled'), 0) * 1000000000 as bigint) as quoted,
                   cast(coalesce(sum(cost_usd) filter (where state = 'settled'), 0) * 1000000000 as bigint) as made,
                   coalesce(sum(google_s) filter (where state = 'settled'), 0) as google_s,
                   coalesce(sum(sized) filter (where state = 'settled'), 0)::bigint as sized,
                   coalesce(sum(total_s) filter (where state = 'settled'), 0) as total_s
            from daily where {where}
            """
        )
        row = {name: found[name].iloc[0] for name in found}  # a row of the frame would turn whole numbers into floats
        clips = int(row["clips"])
        return Totals(
            attempts=int(row["attempts"]),
            clips=clips,
            failed=int(row["failed"]),
            cost_usd=_dollars(row["cost"]),
            quoted_usd=_dollars(row["quoted"]),
            clips_usd=_dollars(row["made"]),
            google_billed_s=float(row["google_s"]),
            sized_clips=int(row["sized"]),
            mean_total_s=float(row["total_s"]) / clips if clips else None,
        )

    def spend_by_day(self, dimension: str = "tier") -> pd.DataFrame:
        """Columns: day, name, clips, cost_usd. Beyond the eight dearest names the rest is one, named empty."""
        column = Dimension[dimension]
        return self._sums(
            f"""
            with sums as materialized (
                select day, {column} as name, sum(attempts) filter (where state = 'settled') as clips,
                       sum(cost_usd) as cost_usd
                from daily where {{where}} group by all
            ), dearest as materialized (
                select name from sums group by name order by sum(cost_usd) desc, name limit 8
            )
            select day, case when name in (select name from dearest) then name else '' end as name,
                   cast(coalesce(sum(clips), 0) as bigint) as clips, cast(sum(cost_usd) as double) as cost_usd
            from sums group by all order by day, name
            """  # noqa: S608  # nosec B608 - the column is one of ours
        )

    def spend_by(self, dimension: str) -> pd.DataFrame:
        """Columns: name, attempts, clips, failed, cost_usd, quoted_usd (of the clips), usd_per_clip; dearest first."""
        column = Dimension[dimension]
        return self._sums(
            f"""
            select {column} as name, sum(attempts)::bigint as attempts,
                   coalesce(sum(attempts) filter (where state = 'settled'), 0)::bigint as clips,
                   coalesce(sum(attempts) filter (where state = 'failed'), 0)::bigint as failed,
                   cast(sum(cost_usd) as double) as cost_usd,
                   cast(sum(quoted_usd) filter (where state = 'settled') as double) as quoted_usd,
                   cast(sum(cost_usd) as double) / nullif(sum(attempts) filter (where state = 'settled'), 0)
                       as usd_per_clip
            from daily where {{where}} group by name order by cost_usd desc, clips desc, name limit {MOST_BATCHES}
            """  # noqa: S608  # nosec B608 - the column is one of ours
        )

    def latency(self) -> pd.DataFrame:
        """Columns: backend, clips, p50_s, p95_s, p99_s, quoted_mean_s: seconds from decision to finished clip."""
        return self._rows(
            """
            select backend, count(*) as clips,
                   quantile_cont(total_s, [0.5, 0.95, 0.99]) as q, avg(quoted_service_s) as quoted_mean_s
            from attempts where state = 'settled' and {where} group by backend order by backend
            """
        ).pipe(_spread)

    def quoted_against_actual(self) -> pd.DataFrame:
        """Columns: day, quoted_usd, cost_usd: of finished clips."""
        return self._sums(
            """
            select day, cast(sum(quoted_usd) as double) as quoted_usd, cast(sum(cost_usd) as double) as cost_usd
            from daily where state = 'settled' and {where} group by day order by day
            """
        )

    def errors(self) -> pd.DataFrame:
        """Columns: error_kind, backend, attempts, cost_usd: what ended without a clip."""
        return self._sums(
            """
            select error_kind, backend, sum(attempts)::bigint as attempts, cast(sum(cost_usd) as double) as cost_usd
            from daily where state = 'failed' and {where}
            group by all order by attempts desc, error_kind, backend
            """
        )

    def failovers(self) -> pd.DataFrame:
        """Columns: away_from, went_to, jobs: attempts that followed one on another backend."""
        return self._sums(
            """
            select away_from, backend as went_to, sum(attempts)::bigint as jobs
            from daily where away_from <> '' and {where} group by all order by jobs desc, away_from, went_to
            """
        )

    def busy(self) -> pd.DataFrame:
        """Columns: day, backend, lanes, busy_h, share (of 24 hours on every lane): GPUs only."""
        return self._rows(
            """
            with lanes as (
                select cast(finished_at as date) as day, backend, lane, sum(execution_s) as busy_s
                from attempts where tier in ('local', 'cloud') and execution_s > 0 and {where} group by all
            )
            select day, backend, count(*) as lanes, sum(busy_s) / 3600 as busy_h,
                   sum(busy_s) / 86400 / count(*) as share
            from lanes group by all order by day, backend
            """
        )

    def projection(self, today: date) -> Projection | None:
        """The present month's spend, from the last weeks of this selection whatever its period is."""
        where, values = replace(self._selection, since=today - timedelta(days=62), until=None).sql()
        frame = self._ask(
            f"select day, cast(sum(cost_usd) * 1000000000 as bigint) as nano from daily where {where} group by day",  # noqa: S608  # nosec B608
            values,
        )
        daily = {day.date(): _dollars(nano) for day, nano in zip(frame["day"], frame["nano"], strict=True)}
        return project_month(daily, today)

    def attempts(self) -> pd.DataFrame:
        """The rows themselves, newest first; for few rows, `export` is for many."""
        return self._rows("select * from attempts where {where} order by finished_at desc")

    def export(self, path: Path, form: Literal["csv", "parquet"]) -> None:
        """Writes the rows to a file, newest first, without holding them in memory."""
        options = {"csv": "format csv, header, compression gzip", "parquet": "format parquet, compression zstd"}[form]
        target = str(path).replace("'", "''")
        where, values = self._selection.sql("finished_at")
        rows = f"select * from attempts where {where} order by finished_at desc"  # noqa: S608  # nosec B608 - our own condition
        self._ask(f"copy ({rows}) to '{target}' ({options})", values)


def choices(ask: Question) -> dict[str, list[str]]:
    """What the filters offer: every backend and workflow, and the newest batches."""
    names = ask("select distinct backend, model from daily")
    batches = ask(
        f"select batch from daily group by batch order by max(day) desc, batch desc limit {MOST_BATCHES * 4}"  # noqa: S608  # nosec B608
    )
    return {
        "backend": sorted(set(names["backend"])),
        "workflow": sorted(set(names["model"])),
        "batch": list(batches["batch"]),
    }


@contextmanager
def analysis(history: History, selection: Selection) -> Iterator[Analysis]:
    """Opens the history for a selection.

    Raises:
        LedgerError: another process holds the history for too long.
    """
    with history.reading() as ask:
        yield Analysis(ask, selection)


def _dollars(nano: object) -> Decimal:
    return Decimal(int(str(nano))) * NANO_USD


def _spread(frame: pd.DataFrame) -> pd.DataFrame:
    for index, name in enumerate(("p50_s", "p95_s", "p99_s")):
        frame[name] = [float(row[index]) for row in frame["q"]]
    return frame[["backend", "clips", "p50_s", "p95_s", "p99_s", "quoted_mean_s"]]
