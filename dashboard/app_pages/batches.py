"""Batches: write one, watch it, play its clips, start it again, stop it, take it home."""

from __future__ import annotations

import asyncio
import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import streamlit as st
from dashboard_parts.composer import composer
from dashboard_parts.frame import header, shown
from dashboard_parts.look import Stat, markup, stats
from dashboard_parts.pieces import batch_pill, batch_row, gallery, job_bar, pager, progress_text, tier_bar, told
from dashboard_parts.session import flash, ledger, settings, words
from dashboard_parts.states import blank, live, nothing_yet

from hybrid_video import submitting
from hybrid_video.batchfile import dump
from hybrid_video.engine.cancel import cancel
from hybrid_video.errors import HybridVideoError, NotFoundError
from hybrid_video.ledger import Ledger
from hybrid_video.redaction import redact
from hybrid_video.settings import Settings
from hybrid_video.views import BatchEvent, BatchView, ClipLine, batch, batches, clips, events, stored_batch

ON_A_PAGE = 25
CLIPS_ON_A_PAGE = 12
MOST_ZIPPED_BYTES = 400_000_000
CANCEL_WAIT_S = 20.0
ALL_CLIPS = 500


def page() -> None:
    """One batch where the address names it, else the list and the composer."""
    w = words()
    if name := st.query_params.get("batch"):
        _detail(name)
        return
    header(w("batches.title"), w("batches.subtitle"))
    with ledger() as opened:
        known = bool(batches(opened, limit=1).items)
    with st.expander(w("new.title"), icon=":material/add_circle:", expanded=not known or "new" in st.query_params):
        composer()
    if not known:
        nothing_yet()
        return
    search = st.text_input(
        w("batches.search"),
        key="q",
        bind="query-params",
        icon=":material/search:",
        placeholder=w("batches.search_hint"),
    )
    _list(search)


@live(3)
def _list(search: str) -> None:
    w = words()
    cursors: list[str | None] = st.session_state.setdefault(f"hv_batches_{search}", [None])
    with ledger() as opened:
        found = batches(opened, search=search, cursor=cursors[-1], limit=ON_A_PAGE)
    if not found.items:
        blank("no_rows", w("state.no_rows_title"), w("batches.search_none", text=search))
        return
    picked = st.dataframe(
        [batch_row(line) for line in found.items],
        hide_index=True,
        on_select="rerun",
        selection_mode="single-row",
        height=38 + 36 * len(found.items),
        key=f"hv_batch_list_{search}_{len(cursors)}",
        column_config={
            "name": st.column_config.TextColumn(w("batches.name"), width="medium"),
            "state": st.column_config.TextColumn(w("batches.state"), width="small"),
            "progress": st.column_config.ProgressColumn(w("batches.progress_column"), format="percent"),
            "jobs": st.column_config.NumberColumn(w("batches.jobs"), format="localized"),
            "failed": st.column_config.NumberColumn(w("batches.failed"), format="localized"),
            "cost_usd": st.column_config.NumberColumn(w("batches.cost"), format="$%.4f"),
            "started_at": st.column_config.DatetimeColumn(w("batches.started"), format="distance"),
        },
    )
    pager(cursors, found.next_cursor, w("batches.hint"))
    if rows := picked.selection.rows:
        st.query_params["batch"] = found.items[rows[0]].name
        st.rerun()


def _detail(name: str) -> None:
    w = words()
    if st.button(w("batches.all"), icon=":material/arrow_back:", type="tertiary"):
        st.query_params.pop("batch", None)
        st.rerun()
    header(told(name[:80]), w("batches.one_subtitle"))
    _progress(name)
    _actions(name)
    _gallery(name)
    _events(name)


@live(2)
def _progress(name: str) -> None:
    w = words()
    say = w.amounts
    found = settings()
    with ledger(found) as opened:
        try:
            view = batch(opened, name)
        except NotFoundError as error:
            view = None
            missing = str(error)
    _run_line(found, name, known=view is not None)
    if view is None:
        if submitting.find(found, name) is None:
            blank("no_rows", w("state.no_rows_title"), redact(missing))
        return
    line, outlook = view.batch, view.outlook
    running = outlook.remaining_s is not None
    budget = w("batches.budget", value=say.usd(line.budget_usd)) if line.budget_usd else w("batches.no_budget")
    stats(
        [
            Stat(w("batches.done"), f"{say.count(line.jobs.done)} / {say.count(line.jobs.total)}", _unfinished(view)),
            Stat(
                w("batches.time_left" if running else "batches.time_taken"),
                say.duration(outlook.remaining_s if running else outlook.actual_s),
                w("batches.planned", value=say.duration(outlook.planned_s)),
            ),
            Stat(
                w("batches.cost"),
                say.usd(line.settled_usd),
                w("batches.planned", value=say.usd(outlook.planned_usd)),
            ),
            Stat(w("batches.held"), say.usd(line.reserved_usd), budget, w("overview.reserved_help")),
        ]
    )
    with st.container(border=True):
        left, right = st.columns([4, 1], vertical_alignment="center")
        left.markdown(progress_text(view))
        with right:
            markup(f'<div style="text-align:right">{batch_pill(line.state)}</div>')
        markup(job_bar(line.jobs))
        if view.by_tier:
            st.caption(w("batches.by_tier"))
            parts = [
                (
                    t.tier.value,
                    float(t.clips),
                    w("batches.tier_part", clips=say.count(t.clips), cost=say.usd(t.cost_usd)),
                )
                for t in view.by_tier
            ]
            markup(tier_bar(parts, w("batches.by_tier")))
        if view.failovers:
            st.caption(w("batches.failovers", count=say.count(view.failovers)))


def _unfinished(view: BatchView) -> str:
    w = words()
    jobs = view.batch.jobs
    if jobs.failed or jobs.uncertain:
        return w("batches.failed_count", failed=jobs.failed, uncertain=jobs.uncertain)
    return w("batches.waiting_count", active=jobs.active, pending=jobs.pending)


def _run_line(found: Settings, name: str, *, known: bool) -> None:
    """How the run stands that was started from here, with its page or the end of its log."""
    w = words()
    made = submitting.find(found, name)
    if made is None:
        return
    try:
        stands = submitting.status(made)
    except HybridVideoError as error:
        st.caption(told(str(error)))
        return
    if stands.state == "starting" or (not known and stands.state == "running"):
        st.info(w("batches.starting"), icon=":material/hourglass_top:")
    if stands.error and stands.state in ("ended", "lost"):
        for problem in stands.problems or (stands.error,):
            st.error(told(problem), icon=":material/error:")
    if made.run_url:
        st.link_button(w("batches.in_prefect"), made.run_url, icon=":material/open_in_new:", type="tertiary")
    elif made.log_path:
        with st.expander(w("batches.log"), icon=":material/terminal:"):
            st.code(submitting.log_tail(made) or w("batches.log_empty"), language=None, height=220)


@live(3)
def _actions(name: str) -> None:
    w = words()
    found = settings()
    with ledger(found) as opened:
        try:
            view = batch(opened, name)
        except NotFoundError:
            return
    line = view.batch
    left = line.jobs.pending + line.jobs.active + line.jobs.uncertain
    again = line.state not in ("running", "done")
    with st.container(horizontal=True, vertical_alignment="center"):
        if st.button(
            w("batches.again"),
            icon=":material/replay:",
            disabled=not again,
            help=w("batches.again_help"),
            key="hv_again",
        ):
            _again(found, name)
        if st.button(w("batches.cancel"), icon=":material/cancel:", disabled=not left, key="hv_cancel"):
            _confirm_cancel(name, left)
        st.download_button(
            w("batches.download"),
            _zip(found, name),
            f"{name}.zip",
            "application/zip",
            icon=":material/download:",
            disabled=not line.jobs.done,
            on_click="ignore",
            key="hv_zip",
        )
        st.download_button(
            w("batches.download_file"),
            _batch_file(found, name),
            f"{name}.yaml",
            "application/yaml",
            icon=":material/description:",
            on_click="ignore",
            key="hv_yaml",
        )
        st.page_link(
            "app_pages/jobs.py", label=w("batches.jobs_link"), icon=":material/rule:", query_params={"batch": name}
        )
    st.caption(w("batches.folder", path=view.out_dir))


def _again(found: Settings, name: str) -> None:
    w = words()
    try:
        with ledger(found) as opened:
            wanted = stored_batch(opened, name)
        submitting.submit(wanted, found)
    except HybridVideoError as error:
        st.error(told(str(error)), icon=":material/error:")
        return
    flash(w("new.started", name=name), ":material/replay:")
    st.rerun()


def _confirm_cancel(name: str, left: int) -> None:
    w = words()

    @st.dialog(w("batches.cancel_title"), icon=":material/cancel:")
    def dialog() -> None:
        st.write(w("batches.cancel_text", jobs=left, name=name))
        if st.button(w("batches.cancel_yes"), type="primary", key="hv_cancel_yes"):
            with st.spinner(w("batches.cancelling")):
                try:
                    report = asyncio.run(cancel(settings(), batch=name, wait_s=CANCEL_WAIT_S))
                except HybridVideoError as error:
                    st.error(told(str(error)))
                    return
            counts = report.to_json()
            flash(w("batches.cancelled", count=counts["cancelled"], finished=counts["finished"]))
            st.rerun()

    dialog()


def _zip(found: Settings, name: str) -> Callable[[], bytes]:
    def build() -> bytes:
        with ledger(found) as opened:
            lines = _all_clips(opened, name)
        paths = [Path(line.path) for line in lines if Path(line.path).is_file()]
        if sum(path.stat().st_size for path in paths) > MOST_ZIPPED_BYTES:
            return words()("batches.too_large").encode()
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
            for path in paths:
                archive.write(path, path.name)
        return buffer.getvalue()

    return build


def _all_clips(opened: Ledger, name: str) -> list[ClipLine]:
    found: list[ClipLine] = []
    cursor: str | None = None
    while True:
        some = clips(opened, batch=name, cursor=cursor, limit=ALL_CLIPS)
        found += some.items
        cursor = some.next_cursor
        if cursor is None:
            return found


def _batch_file(found: Settings, name: str) -> Callable[[], bytes]:
    def build() -> bytes:
        with ledger(found) as opened:
            return dump(stored_batch(opened, name)).encode()

    return build


@live(4)
def _gallery(name: str) -> None:
    w = words()
    found = settings()
    cursors: list[str | None] = st.session_state.setdefault(f"hv_clips_{name}", [None])
    with ledger(found) as opened:
        try:
            some = clips(opened, batch=name, cursor=cursors[-1], limit=CLIPS_ON_A_PAGE)
        except NotFoundError:
            return
    st.subheader(w("batches.clips"), anchor=False)
    if not some.items:
        st.caption(w("batches.clips_none"))
        return
    gallery(some.items, found, key="batch")
    pager(cursors, some.next_cursor, key="hv_clips")


@live(4)
def _events(name: str) -> None:
    w = words()
    with ledger() as opened:
        try:
            told_events = _newest_events(opened, name)
        except NotFoundError:
            return
    with st.expander(w("batches.events"), icon=":material/history:"):
        for event in told_events:
            st.markdown(f":gray[{w.amounts.moment(event.at)}] {told(event.message)}")


def _newest_events(opened: Ledger, name: str) -> list[BatchEvent]:
    found: list[BatchEvent] = []
    cursor: str | None = None
    while True:
        some = events(opened, name, cursor=cursor, limit=500)
        found = [*found, *some.items][-60:]
        cursor = some.cursor
        if not some.more:
            return found[::-1]


shown(page)
