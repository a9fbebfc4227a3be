"""The calculator: what a batch costs and how long it takes, before a cent is spent."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

import streamlit as st
from dashboard_parts import charts
from dashboard_parts.address import pick, segmented
from dashboard_parts.frame import header, shown
from dashboard_parts.look import TIER_COLOURS, TIER_ICONS, Stat, markup, share_bar, stats
from dashboard_parts.session import history, settings, words

from hybrid_video.calculating import MOST_PODS, Calculation, Inquiry, PodAnswer, calculate
from hybrid_video.errors import InputError, LedgerError
from hybrid_video.estimates import default_slots
from hybrid_video.history.queries import learned_times
from hybrid_video.models import MAX_JOBS, Tier
from hybrid_video.planner import Plan
from hybrid_video.pod_plans import PodPlan
from hybrid_video.pricing.quoting import Quoter
from hybrid_video.pricing.refresh import load_prices
from hybrid_video.pricing.timings import ServiceTimes
from hybrid_video.settings import Settings
from hybrid_video.workflows import template_names

SIZES = {
    "832x480": (832, 480),
    "1280x720": (1280, 720),
    "1920x1080": (1920, 1080),
    "480x832": (480, 832),
    "720x1280": (720, 1280),
    "640x640": (640, 640),
}
GOALS = ("balanced", "deadline", "budget", "both")


def page() -> None:
    """Questions on the left, the answer on the right."""
    w = words()
    found = settings()
    header(w("calculator.title"), w("calculator.subtitle"))
    asked, answered = st.columns([1, 2.3], gap="large")
    with asked:
        inquiry, profile = _questions(found)
    with answered:
        if not any(inquiry.slots.values()):
            st.warning(w("calculator.no_tier"), icon=":material/toggle_off:")
            return
        times = ServiceTimes() if profile == "seed" else _known_times(found)
        try:
            answer = calculate(inquiry, found, Quoter(load_prices(profile, found), times))
        except InputError as error:
            st.warning(error.message, icon=":material/warning:")
            return
        _answer(answer, profile)


def _questions(found: Settings) -> tuple[Inquiry, Literal["current", "seed"]]:
    w = words()
    with st.container(border=True):
        jobs = st.number_input(
            w("calculator.jobs"), 1, MAX_JOBS, 100, key="jobs", bind="query-params", help=w("calculator.jobs_help")
        )
        left, right = st.columns(2)
        size = left.selectbox(w("calculator.size"), list(SIZES), key="size", bind="query-params")
        length_s = right.number_input(
            w("calculator.length"), 1.0, 60.0, 5.0, 1.0, format="%.0f", key="length", bind="query-params"
        )
        workflow = pick(
            w("calculator.workflow"),
            "workflow",
            ["auto", *template_names()],
            "auto",
            lambda name: w("calculator.workflow_auto") if name == "auto" else name,
            help=w("calculator.workflow_help"),
        )
    with st.container(border=True):
        st.markdown(f"**{w('calculator.tiers')}**", help=w("calculator.tiers_help"))
        slots = {tier: _slots(tier, count) for tier, count in default_slots(found).items()}
        pods = st.number_input(
            w("calculator.pods"),
            0,
            MOST_PODS,
            min(found.pods.max_pods, MOST_PODS) if found.pods.may_open else 0,
            key="pods",
            bind="query-params",
            help=w("calculator.pods_help"),
        )
    with st.container(border=True):
        goal = segmented(
            w("calculator.goal"),
            "goal",
            GOALS,
            "balanced",
            lambda name: w(f"calculator.goal_{name}"),
            help=w("calculator.goal_help", rate=w.amounts.usd(found.routing.value_of_time_usd_per_h)),
        )
        minutes = budget = None
        if goal in ("deadline", "both"):
            minutes = st.number_input(
                w("calculator.deadline"), 0.1, 43_200.0, 30.0, 5.0, key="minutes", bind="query-params"
            )
        if goal in ("budget", "both"):
            budget = st.number_input(
                w("calculator.budget"), 0.0, 1_000_000.0, 5.0, 1.0, format="%.2f", key="usd", bind="query-params"
            )
        profile = segmented(
            w("calculator.prices"),
            "prices",
            ("current", "seed"),
            found.routing.prices,
            lambda name: w(f"calculator.prices_{name}"),
            help=w("calculator.prices_help"),
        )
        months = st.number_input(w("calculator.per_month"), 1, 10_000, 20, key="per_month", bind="query-params")
    width, height = SIZES[str(size)]
    return Inquiry(
        jobs=int(jobs),
        slots=slots,
        duration_s=float(length_s),
        width=width,
        height=height,
        workflow=workflow,
        deadline_s=None if minutes is None else minutes * 60,
        budget_usd=None if budget is None else Decimal(str(budget)),
        batches_per_month=int(months),
        pods=int(pods),
    ), ("seed" if profile == "seed" else "current")


def _slots(tier: Tier, count: int) -> int:
    w = words()
    left, right = st.columns([1.35, 1], vertical_alignment="center")
    name = w.known("tier", tier.value)
    on = left.toggle(f"{TIER_ICONS[tier.value]} {name}", value=True, key=f"use_{tier.value}", bind="query-params")
    number = right.number_input(
        w("calculator.at_once", tier=name),
        1,
        1000,
        min(count, 1000),
        key=f"slots_{tier.value}",
        bind="query-params",
        label_visibility="collapsed",
        disabled=not on,
    )
    return int(number) if on else 0


def _answer(found: Calculation, profile: str) -> None:
    w = words()
    say = w.amounts
    if found.missed:
        st.warning(
            w(
                f"calculator.missed_{found.missed}",
                time=say.duration(found.chosen.duration_s),
                cost=say.usd(found.chosen.cost_usd),
            ),
            icon=":material/warning:",
        )
    each = found.chosen.cost_usd / found.inquiry.jobs
    busy = say.duration(found.month_busy_s)
    stats(
        [
            Stat(w("calculator.cost"), say.usd(found.chosen.cost_usd), w("calculator.each", cost=say.usd(each))),
            Stat(
                w("calculator.time"),
                say.duration(found.chosen.duration_s),
                w("calculator.on", count=say.count(found.inquiry.jobs)),
            ),
            Stat(
                w("calculator.saved"),
                say.usd(found.saved_usd),
                w("calculator.saved_share", share=say.percent(found.saved_share)) + ", " + _longer(found),
                w("calculator.saved_help"),
            ),
            Stat(
                w("calculator.month"),
                say.usd(found.month_usd),
                w("calculator.month_google", cost=say.usd(found.month_all_gemini_usd)),
                w("calculator.month_help", time=busy),
            ),
        ]
    )
    with st.container(border=True):
        st.markdown(f"**{w('calculator.split')}**")
        markup(_split_bar(found))
    with st.container(border=True):
        st.markdown(f"**{w('calculator.frontier')}**", help=w("calculator.frontier_help"))
        st.altair_chart(charts.frontier(found, w), alt=w("calculator.frontier"))
        for sentence in found.advice:
            st.caption(f":material/lightbulb: {sentence[0].upper()}{sentence[1:]}.".replace("$", r"\$"))
        if found.pods is not None:
            st.caption(f":material/cloud: {_pods(found, found.pods)}".replace("$", r"\$"))
    _comparison(found)
    with st.expander(w("calculator.basis"), icon=":material/receipt_long:"):
        for tier, quote in found.quotes.items():
            st.markdown(f"**{w.known('tier', tier.value)}** · {quote.model}")
            st.text(quote.basis)
        st.caption(w("calculator.basis_note", profile=w(f"calculator.prices_{profile}")))
    st.caption(w("calculator.elapsed", ms=f"{found.elapsed_s * 1000:.1f}"))


def _pods(found: Calculation, answer: PodAnswer) -> str:
    """What opening rented GPUs would change."""
    w = words()
    say = w.amounts
    offer = w(
        "calculator.pods_offer",
        rate=say.usd(answer.offer.price_usd_per_h),
        start=say.duration(answer.offer.cold_start_s),
    )
    if answer.chosen is None:
        return f"{offer} {w('calculator.pods_cannot')}"
    if not answer.chosen.pods:
        return f"{offer} {w('calculator.pods_none')}"
    return f"{offer} " + w(
        "calculator.pods_would",
        count=say.count(answer.chosen.pods),
        cost=say.usd(answer.chosen.cost_usd),
        time=say.duration(answer.chosen.duration_s),
        opening=say.usd(answer.chosen.opening_usd),
    )


def _split_bar(found: Calculation) -> str:
    w = words()
    prices = {resource.key: resource.price_usd for resource in found.pool}
    parts = [
        (
            w.known("tier", tier),
            float(count),
            TIER_COLOURS[tier],
            w("calculator.part", count=w.amounts.count(count), cost=w.amounts.usd(count * prices[tier])),
        )
        for tier, count in found.chosen.split.items()
    ]
    return share_bar(parts, label=charts.split_text(found.chosen, w))


def _comparison(found: Calculation) -> None:
    w = words()
    plans: list[tuple[str, Plan]] = [
        ("chosen", found.chosen),
        ("gemini", found.all_gemini),
        ("fastest", found.fastest),
        ("kink", found.kink),
        ("cheapest", found.cheapest),
    ]
    named: list[tuple[str, Plan | PodPlan]] = [(w(f"calculator.plan_{name}"), plan) for name, plan in plans]
    if found.pods is not None and found.pods.chosen is not None and found.pods.chosen.pods:
        with_pods = w("calculator.plan_pods", count=w.amounts.count(found.pods.chosen.pods))
        named.insert(1, (with_pods, found.pods.chosen))
    rows = [
        {
            w("calculator.plan"): name,
            w("calculator.cost"): w.amounts.usd(plan.cost_usd),
            w("calculator.time"): w.amounts.duration(plan.duration_s),
            w("calculator.against"): _against(plan, found.all_gemini),
            w("chart.split"): charts.split_text(plan, w),
        }
        for name, plan in named
    ]
    with st.container(border=True):
        st.markdown(f"**{w('calculator.comparison')}**", help=w("calculator.comparison_help"))
        st.table(rows, border="horizontal")


def _against(plan: Plan | PodPlan, other: Plan) -> str:
    """Money and time beside Google alone: never one without the other."""
    w = words()
    if plan == other:
        return w.amounts.usd(None)
    money = w("calculator.less" if plan.cost_usd <= other.cost_usd else "calculator.more").format(
        cost=w.amounts.usd(abs(other.cost_usd - plan.cost_usd))
    )
    late_s = plan.duration_s - other.duration_s
    when = w("calculator.slower" if late_s >= 0 else "calculator.faster").format(time=w.amounts.duration(abs(late_s)))
    return f"{money}, {when}".replace("$", r"\$")


def _longer(found: Calculation) -> str:
    w = words()
    key = "calculator.slower_than" if found.longer_s >= 0 else "calculator.faster_than"
    return w(key, time=w.amounts.duration(abs(found.longer_s)))


@st.cache_data(ttl=30, show_spinner=False)
def _learned(path: str, _changed_ns: int) -> ServiceTimes:
    return learned_times(history())


def _known_times(found: Settings) -> ServiceTimes:
    """What earlier batches taught; the published times where there is no history or it cannot be read."""
    path = found.storage.history_path
    if not path.exists():
        return ServiceTimes()
    try:
        return _learned(str(path), path.stat().st_mtime_ns)
    except LedgerError:
        return ServiceTimes()


shown(page)
