"""Jobs, and the decision card of one: why this backend, and why not each of the others."""

from __future__ import annotations

from html import escape

import streamlit as st
from dashboard_parts.address import pick, select
from dashboard_parts.frame import header, shown
from dashboard_parts.look import TIER_COLOURS, Stat, colour, facts, markup, pill, stats
from dashboard_parts.pieces import job_pill, pager, tier_pill, told
from dashboard_parts.session import ledger, words
from dashboard_parts.states import live, no_rows, nothing_yet

from hybrid_video.errors import NotFoundError
from hybrid_video.models import JobState
from hybrid_video.views import (
    AttemptLine,
    CandidateLine,
    DecisionLine,
    JobLine,
    JobView,
    batches,
    clip_file,
    job,
    jobs,
)

ON_A_PAGE = 50
OFFERED_BATCHES = 200


def page() -> None:
    """Choose a batch, then a job."""
    w = words()
    header(w("jobs.title"), w("jobs.subtitle"))
    with ledger() as opened:
        names = [line.name for line in batches(opened, limit=OFFERED_BATCHES).items]
    if not names:
        nothing_yet()
        return
    top = st.columns([2, 1.4, 1.6])
    asked = st.query_params.get("batch")
    if asked and asked not in names:
        names = [asked, *names]
    with top[0]:
        batch = pick(w("jobs.batch"), "batch", names, names[0], filter_mode="contains")
    with top[1]:
        states = [state.value for state in JobState]
        state = select(
            w("jobs.state"),
            "state",
            states,
            lambda name: w.known("job_state", name),
            placeholder=w("jobs.any_state"),
        )
    _list(batch, None if state is None else JobState(state))
    if chosen := st.query_params.get("job"):
        _card(batch, chosen)


@live(2)
def _list(batch: str, state: JobState | None) -> None:
    w = words()
    cursors: list[str | None] = st.session_state.setdefault(f"hv_cursors_{batch}_{state}", [None])
    with ledger() as opened:
        found = jobs(opened, batch, state=state, cursor=cursors[-1], limit=ON_A_PAGE)
    if not found.items:
        no_rows()
        return
    picked = st.dataframe(
        [_row(line) for line in found.items],
        hide_index=True,
        height=min(420, 38 + 36 * len(found.items)),
        on_select="rerun",
        selection_mode="single-row",
        key=f"hv_jobs_{batch}_{state}_{len(cursors)}",
        column_config={
            "job": st.column_config.TextColumn(w("jobs.job"), width="small"),
            "prompt": st.column_config.TextColumn(w("jobs.prompt"), width="large"),
            "state": st.column_config.TextColumn(w("jobs.state"), width="small"),
            "backend": st.column_config.TextColumn(w("jobs.backend"), width="small"),
            "attempts": st.column_config.NumberColumn(w("jobs.attempts"), width="small"),
            "quoted_usd": st.column_config.NumberColumn(w("jobs.quoted"), format="$%.4f"),
            "cost_usd": st.column_config.NumberColumn(w("jobs.cost"), format="$%.4f"),
        },
    )
    pager(cursors, found.next_cursor, w("jobs.hint"))
    rows = picked.selection.rows
    if rows and (name := found.items[rows[0]].job) != st.query_params.get("job"):
        st.query_params["job"] = name
        st.rerun()


def _row(line: JobLine) -> dict[str, object]:
    return {
        "job": line.job,
        "prompt": line.prompt,
        "state": words().known("job_state", line.state.value),
        "backend": line.backend,
        "attempts": line.attempts,
        "quoted_usd": None if line.quoted_usd is None else float(line.quoted_usd),
        "cost_usd": float(line.cost_usd),
    }


@live(2)
def _card(batch: str, name: str) -> None:
    w = words()
    say = w.amounts
    with ledger() as opened:
        try:
            view = job(opened, batch, name)
        except NotFoundError:
            return  # the address still names a job of another batch
        try:
            clip = clip_file(opened, batch, name) if view.clip else None
        except NotFoundError as error:
            clip = None
            st.warning(told(str(error)), icon=":material/broken_image:")
    st.subheader(f"{batch} / {name}", anchor=False)
    left, right = st.columns([1.6, 1], gap="medium")
    with left, st.container(border=True):
        markup(
            job_pill(view.job.state.value),
            " ",
            tier_pill(view.job.tier.value, view.job.backend or "") if view.job.tier else "",
        )
        st.markdown(told(view.spec.prompt))
        if view.job.error_message:
            st.error(told(view.job.error_message), icon=":material/error:")
        markup(facts(_spec(view)))
    with right:
        if clip is not None and clip.media_type.startswith("video/"):
            st.video(str(clip.path), format=clip.media_type, loop=True, muted=True, alt=view.spec.prompt[:200])
        elif clip is not None:
            st.image(str(clip.path), alt=view.spec.prompt[:200])
        stats([Stat(w("jobs.cost"), say.usd(view.job.cost_usd), _against_quote(view))])
    made = {attempt.number: attempt for attempt in view.attempts}
    for decision in reversed(view.decisions):
        _decision(decision, made.get(decision.attempt))


def _spec(view: JobView) -> dict[str, str]:
    w = words()
    spec, clip = view.spec, view.clip
    asked = w(
        "jobs.size_text", width=spec.width, height=spec.height, fps=spec.fps, time=w.amounts.duration(spec.duration_s)
    )
    made = (
        w(
            "jobs.size_text",
            width=clip.width,
            height=clip.height,
            fps=f"{clip.fps:g}",
            time=w.amounts.duration(clip.duration_s),
        )
        if clip
        else ""
    )
    return {
        w("jobs.asked_for"): asked,
        w("jobs.made"): made,
        w("jobs.workflow"): spec.workflow,
        w("jobs.negative"): spec.negative_prompt,
        w("jobs.image"): spec.image or "",
        w("jobs.priority"): str(spec.priority),
        w("jobs.sha"): clip.sha256 if clip else "",
    }


def _against_quote(view: JobView) -> str:
    w = words()
    return w("jobs.quoted_at", cost=w.amounts.usd(view.job.quoted_usd))


def _decision(decision: DecisionLine, attempt: AttemptLine | None) -> None:
    w = words()
    say = w.amounts
    with st.container(border=True):
        title = w("jobs.decision", number=decision.attempt, when=say.ago(decision.decided_at))
        st.markdown(f"**{title}** — {told(decision.reason)}")
        st.caption(w("jobs.decided_in", us=f"{decision.elapsed_us:,.0f}"))
        if attempt is not None:
            _attempt(attempt)
        ordered = sorted(decision.candidates, key=lambda c: (not c.chosen, c.score is None, -(c.score or 0)))
        columns = st.columns(min(3, len(ordered)) or 1)
        for index, candidate in enumerate(ordered):
            with columns[index % len(columns)].container(border=True):
                _candidate(candidate)


def _attempt(attempt: AttemptLine) -> None:
    w = words()
    say = w.amounts
    parts = [
        w.known("attempt_state", attempt.state.value),
        w("jobs.paid", cost=say.usd(attempt.cost_usd))
        if attempt.cost_usd is not None
        else w("jobs.held", cost=say.usd(attempt.reserved_usd)),
        w("jobs.took", time=say.duration(attempt.took_s), quoted=say.duration(attempt.quoted_s))
        if attempt.took_s is not None
        else "",
        attempt.gpu,
        attempt.cost_basis,
    ]
    st.markdown(" · ".join(told(part) for part in parts if part))
    if attempt.error_message:
        st.error(told(f"{w.known('error', attempt.error_kind)}: {attempt.error_message}"), icon=":material/error:")
    if attempt.advice:
        st.warning(told(attempt.advice), icon=":material/help:")


def _candidate(candidate: CandidateLine) -> None:
    w = words()
    say = w.amounts
    verdict = w("jobs.chosen") if candidate.chosen else w("jobs.refused") if candidate.refusal else w("jobs.lost")
    score = "" if candidate.score is None else w("jobs.points", points=f"{candidate.score:.1f}")
    markup(
        f'<div style="display:flex;justify-content:space-between;align-items:center;gap:.5rem">'
        f"{pill(candidate.backend, colour(candidate.backend))}<b class='hv-num'>{escape(score)}</b></div>"
    )
    if candidate.chosen:
        st.markdown(f":green[:material/check_circle: {verdict}]")
    else:
        st.markdown(f":gray[:material/do_not_disturb_on: {verdict}] — {told(candidate.lost_because)}")
    if candidate.price_usd is not None:
        markup(
            facts(
                {
                    w("jobs.price"): say.usd(candidate.price_usd),
                    w("jobs.makes"): say.duration(candidate.service_s),
                    w("jobs.waits"): say.duration(candidate.wait_s),
                    w("jobs.model"): candidate.model or "",
                }
            )
        )
    if candidate.terms:
        markup(_terms(candidate))
    if candidate.basis:
        with st.expander(w("jobs.basis")):
            st.text(candidate.basis)


def _terms(candidate: CandidateLine) -> str:
    """Each term of the score as a bar of its weight."""
    w = words()
    hue = TIER_COLOURS[candidate.tier.value]
    rows = "".join(
        f"<span>{escape(w.known('term', term.name))}</span>"
        f'<div class="hv-bar" aria-hidden="true">{_filled(term.value, hue)}</div>'
        f'<span class="hv-num">{term.points:.1f} / {term.weight:g}</span>'
        for term in candidate.terms
    )
    return f'<div class="hv-terms">{rows}</div>'


def _filled(share: float, hue: str) -> str:
    return f'<i style="width:{max(0.0, min(1.0, share)) * 100:.1f}%;background:{hue}"></i>'


shown(page)
