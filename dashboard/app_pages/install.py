"""Install: what this machine can do, ComfyUI put there with its real progress, and whether everything works."""

from __future__ import annotations

import asyncio

import streamlit as st
from dashboard_parts.frame import header, shown
from dashboard_parts.look import STATE_COLOURS, Stat, facts, markup, pill, stats
from dashboard_parts.pieces import told
from dashboard_parts.session import flash, settings, words
from dashboard_parts.states import guarded, live

from hybrid_video.doctor import Finding, examine
from hybrid_video.errors import HybridVideoError
from hybrid_video.installer.installation import Installation, ServiceStatus, SystemCheck
from hybrid_video.installer.journal import FileState, InstallState, StepState
from hybrid_video.installer.manifest import NO_MODELS
from hybrid_video.installer.verdict import Verdict

SYMBOLS = {
    "ok": ":material/check_circle:",
    "warning": ":material/warning:",
    "error": ":material/error:",
    "off": ":material/remove_circle:",
}
STEP_SYMBOLS = {
    "waiting": ":material/radio_button_unchecked:",
    "running": ":material/pending:",
    "done": ":material/check_circle:",
    "skipped": ":material/check_circle:",
    "failed": ":material/error:",
    "cancelled": ":material/cancel:",
}
RUNS = {"yes": STATE_COLOURS["ok"], "tight": STATE_COLOURS["warning"], "no": STATE_COLOURS["off"]}


def page() -> None:
    """The machine first: it says what is worth installing."""
    w = words()
    header(w("install.title"), w("install.subtitle"))
    guarded(_machine)()
    guarded(_progress)()
    guarded(_findings)()


def _machine() -> None:
    w = words()
    say = w.amounts
    if st.session_state.pop("hv_look_again", False) or "hv_machine" not in st.session_state:
        with st.spinner(w("install.looking")):
            installation = Installation()
            st.session_state["hv_machine"] = (installation.check(), installation.status())
    found: SystemCheck
    status: ServiceStatus
    found, status = st.session_state["hv_machine"]
    machine, gpu = found.machine, found.machine.gpu
    st.subheader(w("install.machine"), anchor=False)
    memory = f"{gpu.vram_gb:g} GB" if gpu is not None and gpu.vram_gb else ""
    stats(
        [
            Stat(w("install.gpu"), gpu.name if gpu else w("install.no_gpu"), memory),
            Stat(w("install.memory"), f"{machine.memory_gb:g} GB", f"{machine.system} {machine.architecture}"),
            Stat(w("install.disk"), f"{machine.free_disk_gb:g} GB", machine.disk_path),
            Stat(w("install.python"), machine.python, f"PyTorch {found.torch.variant}" if found.torch else ""),
        ]
    )
    for problem in found.problems:
        st.warning(told(problem), icon=":material/build:")
    for other in found.foreign:
        st.info(
            told(w("install.foreign", where=" ".join((other.place, other.version)).strip())), icon=":material/folder:"
        )
    if status.installed:
        with st.container(border=True):
            state = "ok" if status.answers else "warning"
            left, right = st.columns([4, 1], vertical_alignment="center")
            with left:
                markup(pill(w("install.answers" if status.answers else "install.silent"), STATE_COLOURS[state]))
                rows = {
                    w("install.version"): f"{status.version} {status.commit[:8]}",
                    w("install.address"): status.url,
                    w("install.service"): status.sentence or status.kind,
                    w("install.bundles"): ", ".join(status.bundles),
                    w("install.models"): f"{say.count(status.models_gb)} GB" if status.models_gb else "",
                }
                markup(facts(rows))
            _service_buttons(right, status)
    _choose(found, status)


def _service_buttons(place: st.delta_generator.DeltaGenerator, status: ServiceStatus) -> None:
    w = words()
    label = w("install.stop" if status.running else "install.start")
    if place.button(label, key="hv_service", icon=":material/power_settings_new:", width="stretch"):
        installation = Installation()
        try:
            if status.running:
                installation.stop_service()
            else:
                installation.start_service()
        except HybridVideoError as error:
            st.error(told(str(error)), icon=":material/error:")
            return
        st.session_state["hv_look_again"] = True
        st.rerun()


def _choose(found: SystemCheck, status: ServiceStatus) -> None:
    w = words()
    st.subheader(w("install.what"), anchor=False)
    verdicts = {verdict.bundle: verdict for verdict in found.verdicts}
    for start in range(0, len(verdicts), 3):
        row = st.columns(3)
        for place, verdict in zip(row, list(verdicts.values())[start : start + 3], strict=False):
            with place.container(border=True, height="stretch"):
                _verdict(verdict, recommended=verdict.bundle == found.recommended)
    names = [NO_MODELS, *verdicts]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        bundle = st.selectbox(
            w("install.bundle"),
            names,
            index=names.index(found.recommended) if found.recommended in names else 0,
            key="hv_bundle",
            format_func=lambda name: w("install.no_models") if name == NO_MODELS else verdicts[name].title,
            width=420,
        )
        if st.button(
            w("install.again" if status.installed else "install.go"),
            type="primary",
            icon=":material/download_for_offline:",
            key="hv_install",
        ):
            _confirm(str(bundle))
        if st.button(w("install.look"), icon=":material/refresh:", key="hv_look"):
            st.session_state["hv_look_again"] = True
            st.rerun()


def _verdict(verdict: Verdict, *, recommended: bool) -> None:
    w = words()
    marks = [pill(w(f"install.runs_{verdict.runs}"), RUNS[verdict.runs])]
    if recommended:
        marks.append(pill(w("install.recommended"), STATE_COLOURS["active"]))
    st.markdown(f"**{told(verdict.title)}**")
    markup(" ".join(marks))
    st.caption(told(verdict.reason))
    speed = "" if verdict.seconds_per_clip is None else w.amounts.duration(verdict.seconds_per_clip)
    markup(
        facts(
            {
                w("install.download"): f"{verdict.download_gb:g} GB",
                w("install.vram"): f"{verdict.min_vram_gb:g} GB" if verdict.min_vram_gb else "",
                w("install.speed"): f"{speed} ({verdict.clip})" if speed else "",
                w("install.licence"): ", ".join(verdict.licences),
            }
        )
    )


def _confirm(bundle: str) -> None:
    w = words()

    @st.dialog(w("install.go"), width="large", icon=":material/download_for_offline:")
    def dialog() -> None:
        try:
            installation = Installation({"bundles": (bundle,)})
            planned = installation.plan()
        except HybridVideoError as error:
            st.error(told(str(error)), icon=":material/error:")
            return
        st.write(w("install.plan_text", folder=str(installation.layout.folder)))
        for step in planned:
            st.markdown(f":material/chevron_right: **{told(step.title)}** — {told(step.detail)}")
        if st.button(w("install.yes"), type="primary", key="hv_install_yes"):
            try:
                installation.start()
            except HybridVideoError as error:
                st.error(told(str(error)), icon=":material/error:")
                return
            flash(w("install.started"), ":material/download_for_offline:")
            st.rerun()

    dialog()


@live(1)
def _progress() -> None:
    """What the installer itself has written, whichever process runs it."""
    w = words()
    installation = Installation()
    state = installation.state()
    before = st.session_state.get("hv_install_status")
    st.session_state["hv_install_status"] = state.status
    if before == "running" and state.status != "running":
        st.session_state["hv_look_again"] = True
        st.rerun()
    if state.status == "none":
        return
    with st.container(border=True):
        st.markdown(f"**{w(f'install.state_{state.status}')}**")
        if state.status == "running":
            st.progress(state.share_done, _how_far(state))
        if state.message:
            show = st.error if state.status == "failed" else st.caption
            show(told(f"{state.message} {state.remedy}"))
        for step in state.steps:
            _step(step)
        for file in state.files:
            if file.status in ("running", "failed", "cancelled"):
                _file(file)
        with st.container(horizontal=True):
            if state.status == "running" and st.button(w("install.cancel"), icon=":material/cancel:", key="hv_stop"):
                installation.cancel()
            if state.status in ("failed", "cancelled", "interrupted") and st.button(
                w("install.resume"), icon=":material/play_arrow:", type="primary", key="hv_resume"
            ):
                kept = {name: value for name, value in state.options.items() if name != "folder"}
                Installation({**kept, "folder": installation.layout.folder}).start(state.action or "install")
                st.rerun()


def _how_far(state: InstallState) -> str:
    w = words()
    if not state.bytes_total:
        return w.amounts.percent(state.share_done, digits=0)
    done, total = w.amounts.size(state.bytes_done), w.amounts.size(state.bytes_total)
    return f"{w.amounts.percent(state.share_done, digits=0)} · {done} / {total}"


def _step(step: StepState) -> None:
    w = words()
    took = "" if step.seconds is None else f" :gray[{w.amounts.duration(step.seconds)}]"
    detail = f" — {told(step.detail)}" if step.detail else ""
    st.markdown(f"{STEP_SYMBOLS[step.status]} {told(step.title)}{detail}{took}")


def _file(file: FileState) -> None:
    say = words().amounts
    share = file.bytes_done / file.bytes_total if file.bytes_total else 0.0
    rate = f" · {say.size(file.bytes_per_s)}/s" if file.status == "running" else ""
    st.progress(min(1.0, share), told(f"{file.file}: {say.size(file.bytes_done)} / {say.size(file.bytes_total)}{rate}"))


def _findings() -> None:
    w = words()
    st.subheader(w("install.check"), anchor=False)
    with st.container(border=True):
        left, right = st.columns([4, 1], vertical_alignment="center")
        left.markdown(w("install.check_text"))
        asked = right.button(w("install.check_now"), icon=":material/troubleshoot:", key="hv_examine", width="stretch")
        if asked:
            with st.spinner(w("backends.checking")):
                st.session_state["hv_findings"] = asyncio.run(examine(settings()))
        for finding in st.session_state.get("hv_findings", ()):
            _finding(finding)


def _finding(finding: Finding) -> None:
    left, right = st.columns([1, 4], vertical_alignment="center")
    with left:
        markup(pill(finding.subject, STATE_COLOURS[finding.level]))
    text = f"{SYMBOLS[finding.level]} {told(finding.detail)}"
    right.markdown(text + (f"  \n:material/build: {told(finding.remedy)}" if finding.remedy else ""))


shown(page)
