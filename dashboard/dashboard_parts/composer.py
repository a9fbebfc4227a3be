"""A new batch: written in a form, uploaded or pasted; checked and estimated before anything is spent."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import Any

import streamlit as st
from streamlit.runtime.uploaded_file_manager import UploadedFile

from dashboard_parts.fields import beside, complaint, minutes, money
from dashboard_parts.look import TIER_COLOURS, Stat, markup, share_bar, stats
from dashboard_parts.session import flash, history, ledger, settings, words
from hybrid_video.batchfile import SUFFIXES, load_batch, parse_batch
from hybrid_video.calculating import BatchEstimate, estimate
from hybrid_video.errors import HybridVideoError, InputError, LedgerError
from hybrid_video.history.queries import learned_times
from hybrid_video.models import Batch, Tier
from hybrid_video.preferences import applied
from hybrid_video.pricing.quoting import Quoter
from hybrid_video.pricing.refresh import load_prices
from hybrid_video.pricing.timings import ServiceTimes
from hybrid_video.redaction import redact
from hybrid_video.settings import Settings
from hybrid_video.submitting import submit
from hybrid_video.workflows import template_names

SIZES = {"832 × 480": (832, 480), "1280 × 720": (1280, 720), "480 × 832": (480, 832), "640 × 640": (640, 640)}
PICTURES = ["png", "jpg", "jpeg", "webp"]
FORMATS = {"YAML": ".yaml", "JSON": ".json", "CSV": ".csv"}
EXAMPLE = """name: night-shots
budget_usd: 5
jobs:
  - id: lighthouse
    prompt: a lighthouse on a cliff at dusk, slow aerial orbit
  - id: rain
    prompt: rain on a neon street in Bangkok, handheld tracking shot
    duration_s: 4
"""


@dataclass(frozen=True)
class Draft:
    """A batch that could be submitted, with the files that came with it."""

    batch: Batch
    files: tuple[UploadedFile, ...] = ()


def composer() -> None:
    """The three ways to write a batch, and what it would come to."""
    w = words()
    way = st.segmented_control(
        w("new.way"),
        ("form", "file", "paste"),
        default="form",
        required=True,
        key="hv_way",
        format_func=lambda name: w(f"new.way_{name}"),
        label_visibility="collapsed",
    )
    draft = {"form": _form, "file": _file, "paste": _paste}[str(way)]()
    if draft is not None:
        _check(draft)


def _form() -> Draft | None:
    w = words()
    left, right = st.columns([1.5, 1], gap="medium")
    with left:
        name = st.text_input(
            w("new.name"), _fresh_name(), key="hv_new_name", max_chars=64, help=w("new.name_help")
        ).strip()
        at_name = st.container()
        text = st.text_area(
            w("new.prompts"),
            key="hv_new_prompts",
            height=200,
            placeholder=w("new.prompts_hint"),
            help=w("new.prompts_help"),
        )
        at_jobs = st.container()
        pictures = st.file_uploader(
            w("new.images"), PICTURES, accept_multiple_files=True, key="hv_new_images", help=w("new.images_help")
        )
    with right:
        size = st.selectbox(w("new.size"), list(SIZES), key="hv_new_size")
        length_s = st.number_input(w("new.length"), 1.0, 60.0, 5.0, 1.0, format="%.1f", key="hv_new_length")
        workflow = st.selectbox(
            w("new.workflow"),
            ["auto", *template_names()],
            key="hv_new_workflow",
            format_func=lambda name: w("calculator.workflow_auto") if name == "auto" else name,
        )
        backend = st.segmented_control(
            w("new.backend"),
            ["auto", *(tier.value for tier in Tier)],
            default="auto",
            required=True,
            key="hv_new_backend",
            format_func=lambda name: w("new.backend_auto") if name == "auto" else w.known("tier", name),
            help=w("new.backend_help"),
        )
        budget, budget_fits = money(w("new.budget"), "hv_new_budget", help_text=w("new.budget_help"))
        deadline_s, deadline_fits = minutes(w("new.deadline"), "hv_new_deadline", help_text=w("new.deadline_help"))
    prompts = [line.strip() for line in text.splitlines() if line.strip()]
    if not prompts or not (budget_fits and deadline_fits):
        return None
    width, height = SIZES[str(size)]
    shape = {"width": width, "height": height, "duration_s": float(length_s), "workflow": str(workflow)}
    images = [picture.name for picture in pictures]
    data: dict[str, Any] = {
        "name": name,
        "jobs": [
            {"id": f"shot-{number:03d}", "prompt": prompt, **shape, **_picture(images, number)}
            for number, prompt in enumerate(prompts, 1)
        ],
    }
    data |= {} if budget is None else {"budget_usd": str(budget)}
    data |= {} if deadline_s is None else {"deadline_s": deadline_s}
    data |= {} if backend == "auto" else {"preferences": {"backend": str(backend)}}
    try:
        return Draft(parse_batch(data, w("new.this_batch")), tuple(pictures))
    except InputError as error:
        with at_name:
            left_over = beside(error.problems, "name")
        with at_jobs:
            for problem in left_over:
                complaint(redact(problem))
        return None


def _picture(images: Sequence[str], number: int) -> dict[str, str]:
    """The first picture belongs to the first prompt; a single one belongs to all."""
    if not images:
        return {}
    if len(images) == 1:
        return {"image": images[0]}
    return {"image": images[number - 1]} if number <= len(images) else {}


def _file() -> Draft | None:
    w = words()
    uploaded = st.file_uploader(
        w("new.file"), [suffix.removeprefix(".") for suffix in SUFFIXES], key="hv_new_file", help=w("new.file_help")
    )
    extra = st.file_uploader(
        w("new.extra"), [*PICTURES, "json"], accept_multiple_files=True, key="hv_new_extra", help=w("new.extra_help")
    )
    if uploaded is None:
        return None
    return _read(PurePath(uploaded.name).name, uploaded.getvalue(), tuple(extra))


def _paste() -> Draft | None:
    w = words()
    form = st.segmented_control(
        w("new.format"), list(FORMATS), default="YAML", required=True, key="hv_new_format", label_visibility="collapsed"
    )
    text = st.text_area(w("new.pasted"), key="hv_new_text", height=260, placeholder=EXAMPLE, help=w("new.pasted_help"))
    if not text.strip():
        return None
    return _read(f"{_fresh_name()}{FORMATS[str(form)]}", text.encode(), ())


def _read(name: str, content: bytes, files: tuple[UploadedFile, ...]) -> Draft | None:
    """Reads a batch file as the command line does; each problem with its line."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, re.sub(r"[^\w.-]", "-", name) or "batch.yaml")
        path.write_bytes(content)
        try:
            return Draft(load_batch(path), files)
        except InputError as error:
            for problem in error.problems:
                complaint(redact(problem.replace(f"{folder}/", "")))
            return None


def _check(draft: Draft) -> None:
    """What it would come to, and the button that starts it."""
    w = words()
    found = settings()
    batch = draft.batch
    with st.container(border=True):
        st.markdown(f"**{w('new.checked', jobs=w.amounts.count(len(batch.jobs)))}**")
        with ledger(found) as opened:
            in_force = applied(found, opened)
        try:
            seen = estimate(batch, in_force, _quoter(in_force))
        except HybridVideoError as error:
            complaint(redact(error))
            return
        if seen.plan is None:
            st.warning(w("new.nowhere"), icon=":material/block:")
            return
        _estimate(batch, seen, in_force)
        with st.expander(w("new.jobs"), icon=":material/list:"):
            st.dataframe(
                [
                    {"id": job.id, "prompt": job.prompt, "s": job.duration_s, "px": f"{job.width}×{job.height}"}
                    for job in batch.jobs[:500]
                ],
                hide_index=True,
                height=260,
            )
        if st.button(
            w("new.submit", jobs=w.amounts.count(len(batch.jobs))),
            type="primary",
            icon=":material/rocket_launch:",
            key="hv_submit",
        ):
            _submit(draft, found)


def _estimate(batch: Batch, seen: BatchEstimate, in_force: Settings) -> None:
    w = words()
    say = w.amounts
    assert seen.plan is not None  # noqa: S101 - the caller has looked
    stats(
        [
            Stat(w("new.cost"), say.usd(seen.plan.cost_usd), w("new.estimate")),
            Stat(w("new.time"), say.duration(seen.plan.duration_s), w("new.estimate")),
            Stat(
                w("new.google"),
                say.usd(seen.all_gemini.cost_usd),
                w("new.google_time", time=say.duration(seen.all_gemini.duration_s)),
            ),
        ],
        plain=True,
    )
    parts = [
        (w.known("tier", tier), float(count), TIER_COLOURS[tier], say.count(count))
        for tier, count in seen.plan.split.items()
    ]
    markup(share_bar(parts, label=w("calculator.split")))
    if seen.missed:
        values = {"time": say.duration(seen.plan.duration_s), "cost": say.usd(seen.plan.cost_usd)}
        st.warning(w(f"calculator.missed_{seen.missed}", **values).replace("$", "\\$"), icon=":material/warning:")
    if in_force.routing.simulated:
        st.caption(f":material/science: {w('new.simulated')}")


def _submit(draft: Draft, found: Settings) -> None:
    w = words()
    with tempfile.TemporaryDirectory() as folder:
        for file in draft.files:
            Path(folder, PurePath(file.name).name).write_bytes(file.getvalue())
        try:
            made = submit(draft.batch, found, files_from=Path(folder))
        except HybridVideoError as error:
            for problem in getattr(error, "problems", ()) or (str(error),):
                complaint(redact(problem))
            return
    flash(w("new.started", name=made.batch), ":material/rocket_launch:")
    for notice in made.notices:
        flash(notice, ":material/info:")
    for key in ("hv_new_name", "hv_new_prompts", "hv_new_text"):
        st.session_state.pop(key, None)
    st.query_params["batch"] = made.batch
    st.rerun()


def _quoter(in_force: Settings) -> Quoter:
    scale = in_force.routing.time_scale
    times: Callable[[], ServiceTimes] = lambda: learned_times(history(in_force), time_scale=scale)  # noqa: E731
    try:
        known = times() if in_force.storage.history_path.exists() else ServiceTimes()
    except LedgerError:
        known = ServiceTimes()
    return Quoter(load_prices(in_force.routing.prices, in_force), known, scale)


def _fresh_name() -> str:
    """A name that says when; kept while the visitor writes."""
    stamp = f"{datetime.now(UTC):batch-%Y%m%d-%H%M%S}"
    return str(st.session_state.setdefault("hv_fresh_name", stamp))
