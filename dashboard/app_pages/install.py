"""Install: what this machine can do, what is missing, and ComfyUI put there with its real progress."""

from __future__ import annotations

import asyncio

import streamlit as st
from dashboard_parts.frame import header, shown
from dashboard_parts.look import STATE_COLOURS, markup, pill
from dashboard_parts.pieces import told
from dashboard_parts.session import settings, words

from hybrid_video.doctor import Finding, examine

SYMBOLS = {
    "ok": ":material/check_circle:",
    "warning": ":material/warning:",
    "error": ":material/error:",
    "off": ":material/remove_circle:",
}


def page() -> None:
    """The system check first: it says what is worth installing."""
    w = words()
    header(w("install.title"), w("install.subtitle"))
    _check()


def _check() -> None:
    w = words()
    with st.container(border=True):
        left, right = st.columns([4, 1], vertical_alignment="center")
        left.markdown(f"**{w('install.check')}**  \n{w('install.check_text')}")
        asked = right.button(w("install.check_now"), icon=":material/troubleshoot:", type="primary", key="hv_examine")
        if asked or "hv_findings" not in st.session_state:
            with st.spinner(w("backends.checking")):
                st.session_state["hv_findings"] = asyncio.run(examine(settings()))
        for finding in st.session_state["hv_findings"]:
            _finding(finding)


def _finding(finding: Finding) -> None:
    left, right = st.columns([1, 4], vertical_alignment="center")
    with left:
        markup(pill(finding.subject, STATE_COLOURS[finding.level]))
    text = f"{SYMBOLS[finding.level]} {told(finding.detail)}"
    right.markdown(text + (f"  \n:material/build: {told(finding.remedy)}" if finding.remedy else ""))


shown(page)
