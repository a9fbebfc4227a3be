"""Pieces that more than one page shows: states, batches in progress, clips, a backend's line."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import streamlit as st

from dashboard_parts.look import JOB_COLOURS, STATE_COLOURS, TIER_COLOURS, colour, markup, pill, share_bar
from dashboard_parts.posters import poster
from dashboard_parts.session import words
from hybrid_video.redaction import redact
from hybrid_video.settings import Settings
from hybrid_video.views import BatchLine, BatchView, ClipLine, JobCounts

BATCH_STATES = {
    "running": STATE_COLOURS["active"],
    "done": STATE_COLOURS["ok"],
    "failed": STATE_COLOURS["error"],
    "uncertain": STATE_COLOURS["warning"],
    "interrupted": STATE_COLOURS["warning"],
    "cancelled": STATE_COLOURS["off"],
    "stopped": STATE_COLOURS["off"],
}
JOB_ORDER = ("done", "active", "pending", "uncertain", "failed", "cancelled")


def batch_pill(state: str) -> str:
    """A batch's state as markup."""
    return pill(words().known("batch_state", state), BATCH_STATES.get(state, STATE_COLOURS["off"]))


def job_pill(state: str) -> str:
    """A job's state as markup."""
    return pill(words().known("job_state", state), JOB_COLOURS.get(state, STATE_COLOURS["off"]))


def tier_pill(tier: str, backend: str = "") -> str:
    """Where something runs, in its colour, as markup."""
    return pill(backend or words().known("tier", tier), colour(backend or tier))


def job_bar(counts: JobCounts) -> str:
    """The jobs of a batch by state, as markup."""
    w = words()
    found = counts.model_dump()
    parts = [
        (w.known("job_state", state), float(found[state]), JOB_COLOURS[state], w.amounts.count(found[state]))
        for state in JOB_ORDER
        if found[state]
    ]
    return share_bar(parts, label=w("batches.progress", done=counts.finished, total=counts.total))


def batch_card(view: BatchView) -> None:
    """A batch in progress: how far, how long still, at what cost."""
    w = words()
    say, line = w.amounts, view.batch
    with st.container(border=True):
        left, right = st.columns([3, 1], vertical_alignment="center")
        left.page_link(
            "app_pages/batches.py", label=f"**{line.name}**", icon=":material/movie:", query_params={"batch": line.name}
        )
        with right:
            markup(f'<div style="text-align:right">{batch_pill(line.state)}</div>')
        markup(job_bar(line.jobs))
        st.caption(progress_text(view))
        if line.budget_usd:
            share = min(1.0, float((line.settled_usd + line.reserved_usd) / line.budget_usd))
            st.progress(
                share, w("batches.of_budget", spent=_dollars(say.usd(line.settled_usd)), cap=say.usd(line.budget_usd))
            )


def progress_text(view: BatchView) -> str:
    """How far a batch is, in one line."""
    w = words()
    say, line, outlook = w.amounts, view.batch, view.outlook
    parts = [w("batches.progress", done=say.count(line.jobs.finished), total=say.count(line.jobs.total))]
    if outlook.remaining_s is not None:
        parts.append(w("batches.remaining", time=say.duration(outlook.remaining_s)))
    elif outlook.actual_s is not None:
        parts.append(w("batches.took", time=say.duration(outlook.actual_s)))
    parts.append(w("batches.spent", cost=_dollars(say.usd(line.settled_usd))))
    if outlook.expected_usd is not None:
        parts.append(w("batches.expected", cost=_dollars(say.usd(outlook.expected_usd))))
    return " · ".join(parts)


def batch_row(line: BatchLine) -> dict[str, object]:
    """A batch as a row of a table."""
    return {
        "name": line.name,
        "state": words().known("batch_state", line.state),
        "progress": line.jobs.finished / line.jobs.total if line.jobs.total else 0.0,
        "jobs": line.jobs.total,
        "failed": line.jobs.failed,
        "cost_usd": float(line.settled_usd),
        "started_at": line.started_at,
    }


def pager(cursors: list[str | None], next_cursor: str | None, hint: str = "", *, key: str = "hv") -> None:
    """Back and on below a list; `cursors` are those of the pages up to this one."""
    w = words()

    def back() -> None:
        cursors.pop()

    with st.container(horizontal=True, vertical_alignment="center"):
        # Callbacks, not `st.rerun`: a press that falls together with a run of the whole page counts as well.
        st.button(
            w("jobs.back"),
            icon=":material/chevron_left:",
            disabled=len(cursors) == 1,
            key=f"{key}_back",
            on_click=back,
        )
        st.button(
            w("jobs.on"),
            icon=":material/chevron_right:",
            disabled=not next_cursor,
            key=f"{key}_on",
            on_click=cursors.append,
            args=(next_cursor,),
        )
        if hint:
            st.caption(hint)


def gallery(clips: Sequence[ClipLine], found: Settings, *, columns: int = 4, key: str = "gallery") -> None:
    """Clips as pictures; one click plays one."""
    w = words()
    for start in range(0, len(clips), columns):
        row = st.columns(columns)
        for place, clip in zip(row, clips[start : start + columns], strict=False):
            with place.container(border=True, height="stretch"):
                picture = poster(clip, found)
                if picture is None:
                    st.caption(w("clips.gone"))
                else:
                    st.image(str(picture), width="stretch", alt=clip.prompt[:200])
                st.markdown(f"**{_plain(clip.job)}**")
                markup(
                    f'{tier_pill(clip.tier.value, clip.backend)}<div class="hv-num hv-small">'
                    f"{escape(w.amounts.usd(clip.cost_usd))} · {escape(w.amounts.duration(clip.duration_s))}</div>"
                )
                if picture is not None and st.button(
                    w("clips.play"),
                    icon=":material/play_circle:",
                    key=f"hv_play_{key}_{clip.batch}_{clip.job}",
                    width="stretch",
                ):
                    play(clip)


def play(clip: ClipLine) -> None:
    """A clip in a dialog, with what is known of it."""
    w = words()

    @st.dialog(f"{clip.batch} / {clip.job}", width="large")
    def dialog() -> None:
        video(clip)
        st.markdown(_plain(clip.prompt))
        st.caption(
            w(
                "clips.facts",
                width=clip.width,
                height=clip.height,
                fps=f"{clip.fps:g}",
                size=w.amounts.size(clip.size_bytes),
                model=clip.model,
                when=w.amounts.ago(clip.finished_at),
            )
        )

    dialog()


def video(clip: ClipLine) -> None:
    """The player; where the file is an animated picture, the picture."""
    if clip.media_type.startswith("image/"):
        st.image(clip.path, width="stretch", alt=clip.prompt[:200])
    else:
        st.video(clip.path, format=clip.media_type, loop=True, autoplay=True, muted=True, alt=clip.prompt[:200])


def tier_bar(parts: Sequence[tuple[str, float, str]], label: str) -> str:
    """Money or clips by tier, as markup: tier, size, and what the key says."""
    w = words()
    return share_bar(
        [(w.known("tier", tier), size, TIER_COLOURS[tier], said) for tier, size, said in parts], label=label
    )


def told(text: str) -> str:
    """A text that came from a vendor or a user, safe to show as Markdown."""
    return _plain(redact(text))


def _plain(text: str) -> str:
    """Text whose Markdown means nothing."""
    for sign in "\\`*_[]<>#$~|:":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())


def _dollars(text: str) -> str:
    return text.replace("$", "\\$")
