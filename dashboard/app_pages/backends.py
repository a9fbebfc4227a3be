"""Backends: which are preferred, what they may cost, how they are, what they charge, and the rented pods."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from decimal import Decimal
from html import escape
from typing import Any

import pandas as pd
import streamlit as st
from dashboard_parts.address import segmented
from dashboard_parts.fields import beside, complaint, money
from dashboard_parts.frame import header, shown
from dashboard_parts.look import STATE_COLOURS, TIER_ICONS, Stat, colour, facts, markup, pill, stats
from dashboard_parts.pieces import told
from dashboard_parts.session import flash, ledger, settings, words
from dashboard_parts.states import guarded, live

from hybrid_video import preferences
from hybrid_video.doctor import examine
from hybrid_video.errors import HybridVideoError, InputError
from hybrid_video.models import Tier
from hybrid_video.pods.pool import PodPool
from hybrid_video.redaction import redact
from hybrid_video.settings import Settings
from hybrid_video.views import BackendView, PodLine, PodSummary, backends, overview, pods

STATES = {
    "healthy": STATE_COLOURS["ok"],
    "unhealthy": STATE_COLOURS["error"],
    "unknown": STATE_COLOURS["warning"],
    "off": STATE_COLOURS["off"],
}
LEVELS = {"ok": "ok", "warning": "warning", "error": "error", "off": "off"}
WEIGHTS = ("weight_priority", "weight_cost", "weight_speed", "weight_queue")
SWITCHES = ("prioritize_speed", "allow_cloud_fallback", "prefer_serverless")
LIMITS = (
    "max_cost_per_job_usd",
    "daily_budget_usd",
    "monthly_budget_usd",
    "monthly_cloud_budget_usd",
    "monthly_gemini_budget_usd",
)
OLD_PRICE_DAYS = 60
PER_UNIT_SECONDS = {"gpu_second": 3600}


def page() -> None:
    """Four tabs: how they are, preferences, pods, prices."""
    w = words()
    header(w("backends.title"), w("backends.subtitle"))
    tab = segmented(
        w("backends.title"),
        "tab",
        list(TABS),
        "status",
        lambda name: w(f"backends.tab_{name}"),
        label_visibility="collapsed",
    )
    guarded(TABS[tab])()


def _status() -> None:
    w = words()
    _cards()
    if st.button(w("backends.check"), icon=":material/troubleshoot:", help=w("backends.check_help"), key="hv_check"):
        with st.spinner(w("backends.checking")):
            found = asyncio.run(examine(settings()))
        for finding in found:
            left, right = st.columns([1, 4])
            with left:
                markup(pill(finding.subject, STATE_COLOURS[LEVELS[finding.level]]))
            right.markdown(
                told(finding.detail) + (f"  \n:material/build: {told(finding.remedy)}" if finding.remedy else "")
            )


@live(3)
def _cards() -> None:
    found = settings()
    with ledger(found) as opened:
        lines = backends(opened, preferences.applied(found, opened))
    ordered = sorted(lines, key=lambda line: not line.configured)
    for start in range(0, len(ordered), 3):
        for place, line in zip(st.columns(3), ordered[start : start + 3], strict=False):
            with place, st.container(border=True, height="stretch"):
                _card(line)


def _card(line: BackendView) -> None:
    w = words()
    say = w.amounts
    markup(
        '<div style="display:flex;justify-content:space-between;gap:.5rem">'
        + pill(line.backend, colour(line.backend))
        + pill(w.known("backend_state", line.state), STATES[line.state])
        + "</div>"
    )
    st.caption(f"{TIER_ICONS[line.tier.value]} {w.known('tier', line.tier.value)}")
    if not line.configured:
        st.markdown(told(line.setup[:1].upper() + line.setup[1:]) + ".")
        return
    if line.health is None:
        st.markdown(w("backends.not_looked"))
    else:
        st.markdown(told(line.health.detail))
        if line.health.remedy:
            st.warning(told(line.health.remedy), icon=":material/build:")
    markup(
        facts(
            {
                w("backends.looked"): say.ago(line.health.checked_at) if line.health else say.ago(None),
                w("backends.load"): w("overview.load", active=line.active, lanes=line.lanes),
                w("backends.today"): w(
                    "backends.today_text", clips=say.count(line.completed_today), failed=say.count(line.failed_today)
                ),
                w("backends.spent_today"): say.usd(line.spent_today_usd),
                w("backends.uncertain"): say.count(line.uncertain) if line.uncertain else "",
            }
        )
    )
    for breaker in line.breakers:
        key = "backends.breaker_open" if breaker.state == "open" else "backends.breaker_watch"
        text = w(key, model=breaker.model, failures=breaker.failures, rest=say.duration(breaker.rests_s))
        st.warning(told(f"{text} {breaker.last_error}"), icon=":material/electrical_services:")


def _preferences() -> None:
    w = words()
    found = settings()
    with ledger(found) as opened:
        stored = preferences.load(opened)
        in_force = preferences.applied(found, opened)
    values = preferences.environment_values(in_force)
    st.caption(w("backends.preferences_help"))
    generation = st.session_state.get("hv_pref_generation", 0)
    problems: tuple[str, ...] = st.session_state.pop("hv_pref_problems", ())
    changes = _preference_fields(values, problems, generation)
    with st.container(horizontal=True, vertical_alignment="center"):
        if st.button(
            w("backends.save"), type="primary", icon=":material/save:", disabled=changes is None, key="hv_save"
        ):
            _save(found, {name: value for name, value in (changes or {}).items() if value != values[name]})
        if st.button(w("backends.reset"), icon=":material/restart_alt:", disabled=not stored.changed, key="hv_reset"):
            with ledger(found) as opened:
                preferences.reset(opened)
            st.session_state["hv_pref_generation"] = generation + 1
            flash(w("backends.was_reset"), ":material/restart_alt:")
            st.rerun()
        if stored.changed:
            names = ", ".join(w.known("preference", name) for name in stored.changed)
            st.caption(w("backends.changed", names=names, when=w.amounts.ago(max(stored.changed.values()))))


def _preference_fields(values: Mapping[str, Any], problems: tuple[str, ...], generation: int) -> dict[str, Any] | None:
    """The fields with the values in force; what they say now, or None while one of them cannot be used."""
    w = words()

    def label(name: str) -> str:
        return w.known("preference", name)

    changes: dict[str, Any] = {}
    fits = True
    with st.container(border=True):
        changes["backend"] = st.segmented_control(
            label("backend"),
            ["auto", *(tier.value for tier in Tier)],
            default=values["backend"],
            required=True,
            key=f"pref_backend_{generation}",
            format_func=lambda name: w("new.backend_auto") if name == "auto" else w.known("tier", name),
            help=w("preference_help.backend"),
        )
        for name in SWITCHES:
            changes[name] = st.toggle(
                label(name), bool(values[name]), key=f"pref_{name}_{generation}", help=w(f"preference_help.{name}")
            )
    left, right = st.columns(2, gap="medium")
    with left.container(border=True, height="stretch"):
        st.markdown(f"**{w('backends.limits')}**", help=w("backends.limits_help"))
        for name in LIMITS:
            amount, usable = money(label(name), f"pref_{name}_{generation}", value=values[name])
            changes[name], fits = amount, fits and usable
            beside(problems, name)
    with right.container(border=True, height="stretch"):
        st.markdown(f"**{w('backends.weights')}**", help=w("backends.weights_help"))
        for name in WEIGHTS:
            changes[name] = float(
                st.slider(
                    label(name),
                    0.0,
                    100.0,
                    min(100.0, float(values[name])),
                    1.0,
                    format="%.0f",
                    key=f"pref_{name}_{generation}",
                )
            )
        if not any(changes[name] for name in WEIGHTS):
            complaint(w("backends.no_weight"))
            fits = False
        changes["value_of_time_usd_per_h"] = float(
            st.number_input(
                label("value_of_time_usd_per_h"),
                0.0,
                10_000.0,
                float(values["value_of_time_usd_per_h"]),
                1.0,
                key=f"pref_time_{generation}",
                help=w("preference_help.value_of_time_usd_per_h"),
            )
        )
        changes["max_pods"] = int(
            st.number_input(label("max_pods"), 0, 100, int(values["max_pods"]), key=f"pref_max_pods_{generation}")
        )
    for problem in problems:
        if not any(name in problem for name in LIMITS):
            complaint(redact(problem))
    return changes if fits else None


def _save(found: Settings, changes: dict[str, Any]) -> None:
    w = words()
    if not changes:
        flash(w("backends.nothing_changed"), ":material/info:")
        st.rerun()
    try:
        with ledger(found) as opened:
            preferences.change(opened, found, changes)
    except InputError as error:
        st.session_state["hv_pref_problems"] = error.problems
        st.rerun()
    flash(w("backends.saved"))
    st.rerun()


def _pods() -> None:
    w = words()
    found = settings()
    with ledger(found) as opened:
        in_force = preferences.applied(found, opened)
        summary = overview(opened, in_force).pods
    possible = bool(found.runpod.api_key and (found.pods.image or found.pods.template_id))
    if not possible:
        st.info(w("backends.pods_off"), icon=":material/cloud_off:")
    _pod_list()
    with st.container(horizontal=True):
        if st.button(w("backends.pod_start"), icon=":material/add:", disabled=not possible, key="hv_pod_start"):
            _confirm_start(in_force, summary)
        if st.button(
            w("backends.pods_stop"), icon=":material/stop_circle:", disabled=not summary.open, key="hv_pods_stop"
        ):
            with ledger(found) as opened:
                names = [line.name for line in pods(opened, limit=100).items]
            _work(lambda pool: _close_all(pool, names), w("backends.pods_stopping"))


@live(3)
def _pod_list() -> None:
    w = words()
    say = w.amounts
    found = settings()
    with ledger(found) as opened:
        in_force = preferences.applied(found, opened)
        summary = overview(opened, in_force).pods
        lines = pods(opened, include_closed=True, limit=20).items
    stats(
        [
            Stat(w("backends.pods_open"), f"{summary.open} / {summary.max_pods}"),
            Stat(w("backends.pods_starting"), say.count(summary.starting)),
            Stat(w("backends.pods_ready"), say.count(summary.ready)),
            Stat(w("backends.pods_rate"), w("backends.per_hour", cost=say.usd(summary.usd_per_h))),
        ]
    )
    if not lines:
        st.caption(w("backends.pods_none"))
        return
    for line in lines:
        _pod(line)


def _pod(line: PodLine) -> None:
    w = words()
    say = w.amounts
    over = line.state in ("closed", "failed")
    hue = STATE_COLOURS["off"] if over else STATE_COLOURS["ok"] if line.state == "ready" else STATE_COLOURS["active"]
    with st.container(border=True):
        left, middle, right = st.columns([2.2, 3, 1], vertical_alignment="center")
        with left:
            markup(f"{pill(w.known('pod_state', line.state), hue)} <b>{escape(line.name)}</b>")
            st.caption(" · ".join(told(part) for part in (line.gpu, line.cloud, line.data_center) if part))
        middle.markdown(
            told(
                w(
                    "backends.pod_line",
                    rate=say.usd(line.price_usd_per_h),
                    cost=say.usd(line.billed_usd if line.billed_usd is not None else line.booked_usd),
                    when=say.ago(line.created_at or line.intended_at),
                )
            )
        )
        why = line.error or line.closed_because or line.opened_because
        if why:
            middle.caption(told(why))
        if not over and right.button(w("backends.pod_stop"), key=f"hv_stop_{line.name}", icon=":material/stop:"):
            _work(lambda pool: pool.close(line.name, w("backends.by_hand")), w("backends.pods_stopping"))


def _confirm_start(in_force: Settings, summary: PodSummary) -> None:
    w = words()

    @st.dialog(w("backends.pod_start"), icon=":material/cloud:")
    def dialog() -> None:
        st.write(
            w(
                "backends.pod_start_text",
                gpus=", ".join(in_force.pods.gpus),
                rate=w.amounts.usd(in_force.pods.max_price_usd_per_h),
                open=summary.open,
                most=summary.max_pods,
            ).replace("$", "\\$")
        )
        if st.button(w("backends.pod_start_yes"), type="primary", key="hv_pod_start_yes"):
            _work(lambda pool: pool.open(w("backends.by_hand")), w("backends.pod_starting"))

    dialog()


async def _close_all(pool: PodPool, names: list[str]) -> None:
    for name in names:
        await pool.close(name, words()("backends.by_hand"))


def _work(do: Callable[[PodPool], Awaitable[object]], saying: str) -> None:
    """Does something with the pods and says how it went."""

    async def act() -> None:
        found = settings()
        with ledger(found) as opened:
            pool = PodPool(preferences.applied(found, opened), opened)
            try:
                await do(pool)
            finally:
                await pool.aclose()

    try:
        with st.spinner(saying):
            asyncio.run(act())
    except HybridVideoError as error:
        st.error(told(str(error)), icon=":material/error:")
        return
    flash(words()("backends.pod_done"))
    st.rerun()


def _prices() -> None:
    w = words()
    found = settings()
    with ledger(found) as opened:
        lines = backends(opened, preferences.applied(found, opened))
    rows = [
        {
            "tier": w.known("tier", line.tier.value),
            "backend": line.backend,
            "what": " ".join(part for part in (price.gpu, price.model, price.resolution) if part),
            "usd": float(price.usd * Decimal(PER_UNIT_SECONDS.get(price.unit, 1))),
            "unit": w.known("unit", price.unit),
            "age": price.age_days,
            "checked": price.checked,
            "source": price.source,
            "confidence": w.known("confidence", price.confidence),
        }
        for line in lines
        for price in line.prices
    ]
    old = [row for row in rows if int(str(row["age"])) > OLD_PRICE_DAYS]
    if old:
        st.warning(w("backends.old_prices", count=len(old), days=OLD_PRICE_DAYS), icon=":material/update:")
    st.dataframe(
        pd.DataFrame(rows),
        hide_index=True,
        height=560,
        column_config={
            "tier": st.column_config.TextColumn(w("chart.tier"), width="small"),
            "backend": st.column_config.TextColumn(w("chart.backend"), width="small"),
            "what": st.column_config.TextColumn(w("backends.price_for"), width="medium"),
            "usd": st.column_config.NumberColumn(w("backends.price"), format="$%.4f"),
            "unit": st.column_config.TextColumn(w("backends.price_unit"), width="small"),
            "age": st.column_config.NumberColumn(w("backends.price_age"), format="%d d"),
            "checked": st.column_config.DateColumn(w("backends.price_checked")),
            "source": st.column_config.TextColumn(w("backends.price_source"), width="medium"),
            "confidence": st.column_config.TextColumn(w("backends.price_confidence"), width="small"),
        },
    )
    st.caption(w("backends.prices_note"))


TABS = {"status": _status, "preferences": _preferences, "pods": _pods, "prices": _prices}

shown(page)
