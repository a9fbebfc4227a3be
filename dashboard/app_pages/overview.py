"""Everything at a glance, refreshed every two seconds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import streamlit as st
from dashboard_parts import charts
from dashboard_parts.frame import header, shown
from dashboard_parts.look import STATE_COLOURS, Stat, dot, markup, stats
from dashboard_parts.pieces import batch_card, batch_pill, gallery, progress_text, tier_bar
from dashboard_parts.session import history, ledger, settings, words
from dashboard_parts.states import live, not_configured, nothing_yet

from hybrid_video.history.analytics import Selection, analysis
from hybrid_video.ledger import Ledger
from hybrid_video.preferences import applied
from hybrid_video.settings import Settings
from hybrid_video.views import BackendView, BatchView, Overview, backends, batch, batches, clips, overview

SHOWN_BATCHES = 5
SHOWN_CLIPS = 6
SPEND_DAYS = 14
STATES = {
    "healthy": STATE_COLOURS["ok"],
    "unhealthy": STATE_COLOURS["error"],
    "unknown": STATE_COLOURS["warning"],
    "off": STATE_COLOURS["off"],
}


def page() -> None:
    """The live part, and below it what changes more slowly."""
    w = words()
    header(w("overview.title"), w("overview.subtitle"))
    with ledger() as opened:
        known = bool(batches(opened, limit=1).items)
        configured = any(line.configured for line in backends(opened, settings()))
    if not known:
        if configured:
            nothing_yet()
        else:
            not_configured()
        return
    _numbers()
    left, right = st.columns([1.3, 1], gap="medium")
    with left:
        _batch_list()
        _newest_clips()
    with right:
        _money()
        _spend_days()


def _batches(opened: Ledger) -> list[BatchView]:
    """The running ones, and the newest of the others."""
    running = [line.name for line in batches(opened, limit=SHOWN_BATCHES, only_open=True).items]
    recent = [line.name for line in batches(opened, limit=SHOWN_BATCHES).items]
    return [batch(opened, name) for name in list(dict.fromkeys([*running, *recent]))[:SHOWN_BATCHES]]


@live(2)
def _numbers() -> None:
    w = words()
    say = w.amounts
    found = settings()
    with ledger(found) as opened:
        seen = overview(opened, applied(found, opened))
    worked = seen.average_execution_s
    real = None if worked is None else worked / found.routing.time_scale
    stats(
        [
            Stat(
                w("overview.active"),
                say.count(seen.active_jobs),
                w("overview.batches", count=len(seen.running_batches)),
            ),
            Stat(w("overview.queued"), say.count(seen.queued_jobs), w("overview.uncertain", count=seen.uncertain_jobs)),
            Stat(w("overview.completed"), say.count(seen.completed_today), w("overview.today")),
            Stat(
                w("overview.failed"), say.count(seen.failed_today), w("overview.cancelled", count=seen.cancelled_today)
            ),
            Stat(w("overview.average"), say.duration(seen.average_s), w("overview.working", time=say.duration(real))),
        ]
    )


@live(2)
def _batch_list() -> None:
    w = words()
    with ledger() as opened:
        views = _batches(opened)
    st.subheader(w("overview.batches_title"), anchor=False)
    for view in views:
        if view.batch.finished_at is None:
            batch_card(view)
    over = [view for view in views if view.batch.finished_at is not None]
    if over:
        with st.container(border=True):
            for view in over:
                left, right = st.columns([3.4, 1], vertical_alignment="center")
                with left:
                    st.page_link(
                        "app_pages/batches.py",
                        label=f"**{view.batch.name}** — {progress_text(view)}",
                        icon=":material/movie:",
                        query_params={"batch": view.batch.name},
                    )
                with right:
                    markup(f'<div style="text-align:right">{batch_pill(view.batch.state)}</div>')


@live(2)
def _money() -> None:
    w = words()
    say = w.amounts
    found = settings()
    with ledger(found) as opened:
        in_force = applied(found, opened)
        seen = overview(opened, in_force)
        lines = backends(opened, in_force)
    spent = seen.spend
    st.subheader(w("overview.money"), anchor=False)
    with st.container(border=True):
        stats(
            [
                Stat(w("overview.spent_today"), say.usd(spent.today_usd)),
                Stat(w("overview.spent_month"), say.usd(spent.month_usd)),
                Stat(w("overview.reserved"), say.usd(spent.reserved_usd), help=w("overview.reserved_help")),
            ],
            plain=True,
        )
        parts = [(line.tier.value, float(line.month_usd), say.usd(line.month_usd)) for line in spent.by_tier]
        markup(tier_bar(parts, w("overview.spent_month")))
        for amount, cap, key in (
            (spent.today_usd, spent.day_cap_usd, "day_cap"),
            (spent.month_usd, spent.month_cap_usd, "month_cap"),
        ):
            if cap:
                said = w(f"overview.{key}", spent=say.usd(amount), cap=say.usd(cap)).replace("$", "\\$")
                st.progress(min(1.0, float(amount / cap)), said)
    _backends(lines, seen)


def _backends(lines: tuple[BackendView, ...], seen: Overview) -> None:
    w = words()
    say = w.amounts
    st.subheader(w("overview.backends"), anchor=False)
    with st.container(border=True):
        rows = []
        for line in lines:
            if not line.configured:
                continue
            state = w.known("backend_state", line.state)
            load = w("overview.load", active=line.active, lanes=line.lanes)
            rows.append(
                f"<span>{dot(STATES[line.state])}{line.backend}</span>"
                f'<b class="hv-num">{state} · {load} · {say.usd(line.spent_today_usd)}</b>'
            )
        markup(f'<div class="hv-facts">{"".join(rows)}</div>' if rows else f"<p>{w('overview.no_backend')}</p>")
        if seen.pods.open:
            st.caption(
                w(
                    "overview.pods", open=seen.pods.open, most=seen.pods.max_pods, rate=say.usd(seen.pods.usd_per_h)
                ).replace("$", "\\$")
            )


@live(10)
def _spend_days() -> None:
    w = words()
    found = settings()
    store = history(found)
    with ledger(found) as opened:
        store.update(opened)
    since = datetime.now(UTC).date() - timedelta(days=SPEND_DAYS - 1)
    with analysis(store, Selection(since=since)) as asked:
        frame = asked.spend_by_day("tier")
    st.subheader(w("overview.spend_days", days=SPEND_DAYS), anchor=False)
    with st.container(border=True):
        if not len(frame):
            st.caption(w("overview.spend_none"))
            return
        drawn = frame.assign(name=[w.known("tier", name) for name in frame["name"]])
        known = dict(zip(drawn["name"], frame["name"], strict=True))
        st.altair_chart(
            charts.spend_by_day(drawn, w, known=known, since=since, height=210), alt=w("overview.spend_days", days=14)
        )


@live(5)
def _newest_clips() -> None:
    w = words()
    found: Settings = settings()
    with ledger(found) as opened:
        newest = clips(opened, limit=SHOWN_CLIPS).items
    st.subheader(w("overview.clips"), anchor=False)
    if newest:
        gallery(newest, found, columns=3, key="newest")
    else:
        st.caption(w("overview.clips_none"))


shown(page)
