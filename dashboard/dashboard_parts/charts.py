"""Charts. Each takes a frame with fixed columns and gives an Altair chart in the language of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

import altair as alt
import pandas as pd

from dashboard_parts.look import REST_COLOUR, colours
from hybrid_video.calculating import Calculation
from hybrid_video.planner import Plan
from hybrid_video.pod_plans import PodPlan
from hybrid_video.wording import Words

alt.data_transformers.disable_max_rows()
HEIGHT = 280
MOST_DAYS = 120


def spend_by_day(
    frame: pd.DataFrame,
    w: Words,
    *,
    known: Mapping[str, str] | None = None,
    since: date | None = None,
    height: int = HEIGHT,
) -> alt.Chart:
    """Stacked bars. Columns: day, name, cost_usd, clips.

    Args:
        known: what a shown name stands for, so that a translated tier keeps its colour.
        since: first day of the axis, also where it has no spend.
    """
    names = _by_sum(frame, "name", "cost_usd")
    chart: alt.Chart = (
        alt.Chart(frame)
        .mark_bar(cornerRadiusEnd=2)
        .encode(
            x=alt.X(
                f"{_unit(frame)}(day):T",
                title=None,
                scale=_days(frame, since),
                axis=alt.Axis(format="%d %b", labelOverlap=True, tickCount=8, grid=False),
            ),
            y=alt.Y("sum(cost_usd):Q", title=None, axis=alt.Axis(format="$,.6~g", tickCount=5)),
            color=_scale(names, known=known),
            order=alt.Order("sum(cost_usd):Q", sort="descending"),
            tooltip=[
                alt.Tooltip(f"{_unit(frame)}(day):T", title=w("chart.day"), format="%Y-%m-%d"),
                alt.Tooltip("name:N", title=w("chart.name")),
                alt.Tooltip("sum(cost_usd):Q", title=w("chart.spend"), format="$,.4f"),
                alt.Tooltip("sum(clips):Q", title=w("chart.clips"), format=",d"),
            ],
        )
        .properties(height=height)
    )
    return chart


def quoted_against_actual(frame: pd.DataFrame, w: Words) -> alt.LayerChart:
    """Two lines. Columns: day, quoted_usd, cost_usd."""
    long = frame.melt("day", ["quoted_usd", "cost_usd"], "kind", "usd")
    long["kind"] = long["kind"].map({"quoted_usd": w("chart.quoted"), "cost_usd": w("chart.actual")})
    base = alt.Chart(long).encode(
        x=alt.X(f"{_unit(frame)}(day):T", title=None, axis=alt.Axis(format="%d %b", tickCount=8, grid=False)),
        y=alt.Y("sum(usd):Q", title=None, axis=alt.Axis(format="$,.6~g", tickCount=5)),
        color=alt.Color(
            "kind:N",
            title=None,
            scale=alt.Scale(domain=[w("chart.quoted"), w("chart.actual")], range=[REST_COLOUR, "#4f8ef7"]),
            legend=alt.Legend(orient="top"),
        ),
        strokeDash=alt.StrokeDash(
            "kind:N",
            legend=None,
            scale=alt.Scale(domain=[w("chart.quoted"), w("chart.actual")], range=[[5, 4], [1, 0]]),
        ),
        tooltip=[
            alt.Tooltip(f"{_unit(frame)}(day):T", title=w("chart.day"), format="%Y-%m-%d"),
            alt.Tooltip("kind:N", title=w("chart.name")),
            alt.Tooltip("sum(usd):Q", title=w("chart.spend"), format="$,.4f"),
        ],
    )
    points = base.mark_point(size=34, filled=True, opacity=1)
    chart: alt.LayerChart = (base.mark_line(strokeWidth=2) + points).properties(height=HEIGHT)
    return chart


def latency(frame: pd.DataFrame, w: Words) -> alt.LayerChart:
    """A range from P50 to P99 with its three marks per backend. Columns: backend, p50_s, p95_s, p99_s, clips."""
    shades = _scale(list(frame["backend"]), "backend", legend=False)
    y = alt.Y("backend:N", title=None, axis=alt.Axis(grid=False, labelOverlap=False, labelLimit=140))
    tooltip = [
        alt.Tooltip("backend:N", title=w("chart.backend")),
        alt.Tooltip("p50_s:Q", title="P50 (s)", format=",.1f"),
        alt.Tooltip("p95_s:Q", title="P95 (s)", format=",.1f"),
        alt.Tooltip("p99_s:Q", title="P99 (s)", format=",.1f"),
        alt.Tooltip("clips:Q", title=w("chart.clips"), format=",d"),
    ]
    span = (
        alt.Chart(frame)
        .mark_rule(strokeWidth=6, opacity=0.3)
        .encode(x=alt.X("p50_s:Q", title=w("chart.seconds")), x2="p99_s:Q", y=y, color=shades, tooltip=tooltip)
    )
    long = frame.melt(["backend", "clips"], ["p50_s", "p95_s", "p99_s"], "percentile", "seconds")
    long["percentile"] = long["percentile"].str.removesuffix("_s").str.upper()
    marks = (
        alt.Chart(long)
        .mark_point(filled=True, size=110, opacity=1)
        .encode(
            x=alt.X("seconds:Q"),
            y=y,
            color=shades,
            shape=alt.Shape(
                "percentile:N",
                title=None,
                legend=alt.Legend(orient="top", symbolFillColor=REST_COLOUR, symbolStrokeColor=REST_COLOUR),
            ),
            tooltip=[
                alt.Tooltip("backend:N", title=w("chart.backend")),
                alt.Tooltip("percentile:N", title=w("chart.name")),
                alt.Tooltip("seconds:Q", title=w("chart.seconds"), format=",.1f"),
            ],
        )
    )
    chart: alt.LayerChart = (span + marks).properties(height=max(150, 48 * len(frame) + 60))
    return chart


def bars(
    frame: pd.DataFrame, *, name: str, value: str, colour_by: str, value_title: str, value_format: str = ",d"
) -> alt.Chart:
    """Horizontal stacked bars, the longest first."""
    order = _by_sum(frame, name, value)
    chart: alt.Chart = (
        alt.Chart(frame)
        .mark_bar(cornerRadiusEnd=3, size=20)
        .encode(
            x=alt.X(f"{value}:Q", title=None, axis=alt.Axis(format=value_format, tickCount=5, tickMinStep=1)),
            y=alt.Y(f"{name}:N", title=None, sort=order, axis=alt.Axis(labelLimit=180, grid=False)),
            color=_scale(sorted(set(frame[colour_by])), colour_by),
            tooltip=[
                alt.Tooltip(f"{name}:N", title=" "),
                alt.Tooltip(f"{colour_by}:N", title=" "),
                alt.Tooltip(f"{value}:Q", title=value_title, format=value_format),
            ],
        )
        .properties(height=max(150, 40 * len(order) + 70))
    )
    return chart


def busy(frame: pd.DataFrame, w: Words) -> alt.Chart:
    """Share of the day that each backend's GPUs worked. Columns: day, backend, lanes, busy_h, share."""
    chart: alt.Chart = (
        alt.Chart(frame)
        .mark_line(strokeWidth=2, point=alt.OverlayMarkDef(size=34))
        .encode(
            x=alt.X(f"{_unit(frame)}(day):T", title=None, axis=alt.Axis(format="%d %b", tickCount=8, grid=False)),
            y=alt.Y("mean(share):Q", title=None, axis=alt.Axis(format="~%", tickCount=5)),
            color=_scale(sorted(set(frame["backend"])), "backend"),
            tooltip=[
                alt.Tooltip(f"{_unit(frame)}(day):T", title=w("chart.day"), format="%Y-%m-%d"),
                alt.Tooltip("backend:N", title=w("chart.backend")),
                alt.Tooltip("sum(busy_h):Q", title=w("chart.busy_hours"), format=",.2f"),
                alt.Tooltip("max(lanes):Q", title=w("chart.lanes"), format=",d"),
                alt.Tooltip("mean(share):Q", title=w("chart.share"), format=".1%"),
            ],
        )
        .properties(height=HEIGHT)
    )
    return chart


def frontier(found: Calculation, w: Words) -> alt.LayerChart:
    """Cost against time, with the chosen plan, the kink and Google alone marked and named."""
    unit, divisor = _time_unit(max(found.cheapest.duration_s, found.all_gemini.duration_s))
    line = pd.DataFrame([_point(plan, divisor, w) for plan in found.frontier])
    marked = pd.DataFrame(
        [
            {**_point(plan, divisor, w), "what": what}
            for what, plan in (
                (w("calculator.mark_gemini"), found.all_gemini),
                (w("calculator.mark_kink"), found.kink),
                (w("calculator.mark_chosen"), found.chosen),
            )
        ]
    )
    x = alt.X("time:Q", title=w(f"chart.time_{unit}"), scale=alt.Scale(zero=True, nice=True))
    y = alt.Y("usd:Q", title=None, axis=alt.Axis(format="$,.6~g", tickCount=6))
    tooltip = [
        alt.Tooltip("said_time:N", title=w("chart.time")),
        alt.Tooltip("said_usd:N", title=w("chart.cost")),
        alt.Tooltip("split:N", title=w("chart.split")),
    ]
    area = alt.Chart(line).mark_area(interpolate="step-after", opacity=0.1, color="#6366f1").encode(x=x, y=y)
    curve = (
        alt.Chart(line)
        .mark_line(interpolate="step-after", strokeWidth=2.5, color="#6366f1")
        .encode(x=x, y=y, tooltip=tooltip)
    )
    hover = alt.Chart(line).mark_circle(size=140, opacity=0.001).encode(x=x, y=y, tooltip=tooltip)
    names = [w("calculator.mark_chosen"), w("calculator.mark_kink"), w("calculator.mark_gemini")]
    points = (
        alt.Chart(marked)
        .mark_point(filled=True, size=190, opacity=1, stroke="white", strokeWidth=1.5)
        .encode(
            x=x,
            y=y,
            color=alt.Color(
                "what:N",
                title=None,
                scale=alt.Scale(domain=names, range=["#4f46e5", "#db2777", "#d97706"]),
                legend=alt.Legend(orient="top", symbolOpacity=1),
            ),
            shape=alt.Shape("what:N", title=None, scale=alt.Scale(domain=names, range=["circle", "diamond", "square"])),
            tooltip=[alt.Tooltip("what:N", title=" "), *tooltip],
        )
    )
    chart = area + curve
    if found.pods is not None:
        rented = pd.DataFrame([_point(plan, divisor, w) for plan in found.pods.frontier])
        dashed = alt.Chart(rented).mark_line(
            interpolate="step-after", strokeWidth=2, strokeDash=[5, 4], color="#0891b2"
        )
        over = alt.Chart(rented).mark_circle(size=140, opacity=0.001)
        chart = chart + dashed.encode(x=x, y=y, tooltip=tooltip) + over.encode(x=x, y=y, tooltip=tooltip)
    whole: alt.LayerChart = (chart + hover + points).properties(height=360)
    return whole


def split_text(plan: Plan | PodPlan, w: Words) -> str:
    """A split in words: `Your GPU 54 · Rented GPUs 45`."""
    used = [f"{w.known('tier', tier)} {w.amounts.count(count)}" for tier, count in plan.split.items() if count]
    return " · ".join(used)


def _point(plan: Plan | PodPlan, divisor: float, w: Words) -> dict[str, Any]:
    return {
        "time": plan.duration_s / divisor,
        "usd": float(plan.cost_usd),
        "said_time": w.amounts.duration(plan.duration_s),
        "said_usd": w.amounts.usd(plan.cost_usd),
        "split": split_text(plan, w),
    }


def _time_unit(longest_s: float) -> tuple[str, float]:
    if longest_s < 300:
        return "s", 1.0
    return ("min", 60.0) if longest_s < 3 * 3600 else ("h", 3600.0)


def _unit(frame: pd.DataFrame) -> str:
    """Days, or weeks where days would be too thin to see."""
    days = pd.to_datetime(frame["day"])
    return "yearweek" if len(days) and (days.max() - days.min()).days > MOST_DAYS else "yearmonthdate"


def _days(frame: pd.DataFrame, since: date | None) -> alt.Scale:
    """From the first day to the end of today."""
    first = pd.Timestamp(since) if since is not None else pd.to_datetime(frame["day"]).min()
    last = pd.Timestamp(datetime.now(UTC).date()) + pd.Timedelta(days=1)
    return alt.Scale(domain=[first.isoformat(), last.isoformat()])


def _by_sum(frame: pd.DataFrame, name: str, value: str) -> list[str]:
    return list(frame.groupby(name)[value].sum().sort_values(ascending=False).index)


def _scale(
    names: Sequence[str], field: str = "name", *, legend: bool = True, known: Mapping[str, str] | None = None
) -> alt.Color:
    hues = colours([(known or {}).get(name, name) for name in names])
    return alt.Color(
        f"{field}:N",
        title=None,
        scale=alt.Scale(domain=list(names), range=hues),
        legend=alt.Legend(orient="top", columns=4, labelLimit=170) if legend else None,
    )
