"""Analytics: where money and time went. Every figure follows the filters, and the filters stand in the address."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Literal

import altair as alt
import pandas as pd
import streamlit as st
from dashboard_parts import charts
from dashboard_parts.address import segmented, select, several
from dashboard_parts.frame import header, shown
from dashboard_parts.look import Stat, stats
from dashboard_parts.session import history, ledger, settings, words
from dashboard_parts.states import live, no_rows, nothing_yet

from hybrid_video.errors import ConfigurationError
from hybrid_video.history import History
from hybrid_video.history.analytics import Analysis, Dimension, Selection, Totals, analysis, choices
from hybrid_video.history.projection import Projection
from hybrid_video.history.savings import Reference, google_reference
from hybrid_video.models import Tier
from hybrid_video.settings import Settings

PERIODS = {"today": 0, "week": 6, "month": 29, "quarter": 89, "year": 364, "all": None}


@dataclass(frozen=True)
class Found:
    """Everything the page shows, read in one opening of the history."""

    totals: Totals
    by_day: pd.DataFrame
    by_name: pd.DataFrame
    latency: pd.DataFrame
    quoted: pd.DataFrame
    errors: pd.DataFrame
    failovers: pd.DataFrame
    busy: pd.DataFrame
    projection: Projection | None


def page() -> None:
    """Filters on top, figures below."""
    w = words()
    found = settings()
    header(w("analytics.title"), w("analytics.subtitle"))
    store = history(found)
    _catch_up(found, store)
    with store.reading() as ask:
        offered = choices(ask)
    if not offered["batch"]:
        nothing_yet()
        return
    selection, dimension = _filters(offered)
    _figures(found, store, selection, dimension)


def _catch_up(found: Settings, store: History) -> None:
    """Copies what has finished since the last look, so that the page shows it."""
    with ledger(found) as opened:
        store.update(opened)


def _filters(offered: dict[str, list[str]]) -> tuple[Selection, str]:
    w = words()
    with st.container(border=True):
        top = st.columns([2.2, 1.4, 1.4])
        every = w("analytics.every")
        with top[0]:
            period = segmented(
                w("analytics.period"), "period", list(PERIODS), "month", lambda name: w(f"analytics.period_{name}")
            )
        with top[1]:
            names = [tier.value for tier in Tier]
            tiers = several(w("analytics.tiers"), "tiers", names, lambda name: w.known("tier", name), placeholder=every)
        with top[2]:
            chosen = several(w("analytics.backends"), "backends", offered["backend"], placeholder=every)
        low = st.columns([1.6, 1.6, 1.8])
        with low[0]:
            batch = select(w("analytics.batch"), "batch", offered["batch"], placeholder=every)
        with low[1]:
            workflow = select(w("analytics.workflow"), "workflow", offered["workflow"], placeholder=every)
        with low[2]:
            dimension = segmented(
                w("analytics.split_by"), "by", list(Dimension), "tier", lambda name: w(f"analytics.by_{name}")
            )
    days = PERIODS[period]
    since = None if days is None else _today() - timedelta(days=days)
    return Selection(since, None, tiers, chosen, batch or "", workflow or ""), dimension


@live(15)
def _figures(found: Settings, store: History, selection: Selection, dimension: str) -> None:
    _catch_up(found, store)
    with analysis(store, selection) as asked:
        if not (totals := asked.totals()).attempts:
            no_rows()
            return
        seen = _read(asked, totals, dimension)
    _numbers(found, seen)
    _spend(seen, dimension, selection.since)
    left, right = st.columns(2)
    with left, st.container(border=True, height="stretch"):
        _titled("quoted", charts.quoted_against_actual(seen.quoted, words()) if len(seen.quoted) else None)
    with right, st.container(border=True, height="stretch"):
        _titled("latency", charts.latency(seen.latency, words()) if len(seen.latency) else None)
        _latency_table(seen.latency)
    left, right = st.columns(2)
    with left, st.container(border=True, height="stretch"):
        _titled("errors", _errors(seen.errors))
    with right, st.container(border=True, height="stretch"):
        _titled("busy", charts.busy(seen.busy, words()) if len(seen.busy) else None)
    _failovers(seen.failovers)
    _exports(store, selection)


def _read(asked: Analysis, totals: Totals, dimension: str) -> Found:
    return Found(
        totals=totals,
        by_day=asked.spend_by_day(dimension),
        by_name=asked.spend_by(dimension),
        latency=asked.latency(),
        quoted=asked.quoted_against_actual(),
        errors=asked.errors(),
        failovers=asked.failovers(),
        busy=asked.busy(),
        projection=asked.projection(_today()),
    )


def _numbers(found: Settings, seen: Found) -> None:
    w = words()
    say = w.amounts
    totals = seen.totals
    each = totals.cost_usd / totals.clips if totals.clips else None
    off = float(totals.clips_usd / totals.quoted_usd - 1) if totals.quoted_usd else None
    reference = _reference(found)
    saved, said = _saved(totals, reference, found.routing.time_scale)
    month = seen.projection
    span = (
        w("analytics.projection_later")
        if month is None
        else w("analytics.between", low=say.usd(month.low_usd), high=say.usd(month.high_usd))
    )
    stats(
        [
            Stat(
                w("analytics.spend"),
                say.usd(totals.cost_usd),
                w("analytics.attempts", count=say.count(totals.attempts)),
            ),
            Stat(w("analytics.clips"), say.count(totals.clips), w("analytics.each", cost=say.usd(each))),
            Stat(
                w("analytics.honesty"),
                _signed(off),
                w("analytics.quoted_at", cost=say.usd(totals.quoted_usd)),
                w("analytics.honesty_help"),
            ),
            Stat(w("analytics.saved"), saved, said, w("analytics.saved_help")),
            Stat(
                w("analytics.projection"),
                say.usd(month.expected_usd if month else None),
                span,
                w("analytics.projection_help"),
            ),
        ]
    )


def _saved(totals: Totals, reference: Reference | None, time_scale: float) -> tuple[str, str]:
    """Money against Google alone, and never without the time: what a clip takes there and what it took here."""
    w = words()
    if reference is None or not totals.sized_clips:
        return w.amounts.usd(None), w("analytics.saved_unknown")
    saved = reference.cost_usd(totals) - totals.cost_usd
    return w.amounts.usd(saved), w(
        "analytics.saved_times",
        ours=w.amounts.duration(totals.mean_total_s),
        google=w.amounts.duration(reference.service_s / time_scale),
    )


def _spend(seen: Found, dimension: str, since: date | None) -> None:
    w = words()
    with st.container(border=True):
        st.markdown(f"**{w('analytics.spend_by_day')}**", help=w("analytics.spend_by_day_help"))
        drawn = seen.by_day.assign(name=[_named(dimension, name) for name in seen.by_day["name"]])
        known = dict(zip(drawn["name"], seen.by_day["name"], strict=True))
        st.altair_chart(charts.spend_by_day(drawn, w, known=known, since=since), alt=w("analytics.spend_by_day"))
        table = seen.by_name.assign(name=[_named(dimension, name) for name in seen.by_name["name"]])
        dollars = "$%.4f"
        st.dataframe(
            table,
            hide_index=True,
            height=min(320, 38 + 36 * len(table)),
            column_config={
                "name": st.column_config.TextColumn(w(f"analytics.by_{dimension}"), width="medium"),
                "attempts": st.column_config.NumberColumn(w("chart.attempts"), format="localized"),
                "clips": st.column_config.NumberColumn(w("chart.clips"), format="localized"),
                "failed": st.column_config.NumberColumn(w("chart.failed"), format="localized"),
                "cost_usd": st.column_config.NumberColumn(w("chart.spend"), format=dollars),
                "quoted_usd": st.column_config.NumberColumn(w("chart.quoted"), format=dollars),
                "usd_per_clip": st.column_config.NumberColumn(w("chart.per_clip"), format=dollars),
            },
        )


def _latency_table(frame: pd.DataFrame) -> None:
    w = words()
    if not len(frame):
        return
    say = w.amounts
    rows = [
        {
            w("chart.backend"): row["backend"],
            w("chart.clips"): say.count(row["clips"]),
            "P50": say.duration(row["p50_s"]),
            "P95": say.duration(row["p95_s"]),
            "P99": say.duration(row["p99_s"]),
            w("chart.quoted"): say.duration(row["quoted_mean_s"]),
        }
        for row in frame.to_dict("records")
    ]
    st.table(rows, border="horizontal")


def _errors(frame: pd.DataFrame) -> alt.Chart | None:
    w = words()
    if not len(frame):
        return None
    said = frame.assign(error_kind=[w.known("error", str(kind)) for kind in frame["error_kind"]])
    return charts.bars(said, name="error_kind", value="attempts", colour_by="backend", value_title=w("chart.attempts"))


def _failovers(frame: pd.DataFrame) -> None:
    w = words()
    with st.container(border=True):
        st.markdown(f"**{w('analytics.failovers')}**", help=w("analytics.failovers_help"))
        if not len(frame):
            st.caption(w("analytics.failovers_none"))
            return
        st.dataframe(
            frame,
            hide_index=True,
            column_config={
                "away_from": st.column_config.TextColumn(w("chart.away_from")),
                "went_to": st.column_config.TextColumn(w("chart.went_to")),
                "jobs": st.column_config.ProgressColumn(
                    w("chart.jobs"), format="localized", min_value=0, max_value=int(frame["jobs"].max())
                ),
            },
        )


def _exports(store: History, selection: Selection) -> None:
    w = words()
    stamp = f"hybrid-video-{_today().isoformat()}"
    with st.container(horizontal=True, vertical_alignment="center"):
        st.download_button(
            w("analytics.csv"),
            _file(store, selection, "csv"),
            f"{stamp}.csv.gz",
            "application/gzip",
            icon=":material/table:",
            on_click="ignore",
        )
        st.download_button(
            w("analytics.parquet"),
            _file(store, selection, "parquet"),
            f"{stamp}.parquet",
            "application/vnd.apache.parquet",
            icon=":material/dataset:",
            on_click="ignore",
        )
        st.caption(w("analytics.export_note"))


def _file(store: History, selection: Selection, form: Literal["csv", "parquet"]) -> Callable[[], bytes]:
    """Reads the rows only when somebody asks for them, and never all of them into memory at once."""

    def read() -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "rows.csv.gz" if form == "csv" else "rows.parquet")
            with analysis(store, selection) as asked:
                asked.export(path, form)
            return path.read_bytes()

    return read


def _titled(key: str, chart: alt.Chart | alt.LayerChart | None) -> None:
    w = words()
    st.markdown(f"**{w(f'analytics.{key}')}**", help=w(f"analytics.{key}_help"))
    if chart is None:
        st.caption(w("analytics.none"))
    else:
        st.altair_chart(chart, alt=w(f"analytics.{key}"))


def _named(dimension: str, name: str) -> str:
    w = words()
    if not name:
        return w("analytics.rest")
    return w.known("tier", name) if dimension == "tier" else name


def _signed(share: float | None) -> str:
    said = words().amounts.percent(share)
    return f"+{said}" if share is not None and share > 0 else said


def _reference(found: Settings) -> Reference | None:
    """Google's present price and time for clips; None where its price is not known."""
    try:
        return google_reference(found)
    except ConfigurationError:
        return None


def _today() -> date:
    return datetime.now(UTC).date()


shown(page)
