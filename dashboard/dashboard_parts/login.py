"""The optional password. Wrong ones cost more time each, for everybody together: guessing in parallel wins nothing."""

from __future__ import annotations

import hmac
import threading
import time

import streamlit as st

from dashboard_parts.session import words
from hybrid_video.settings import Settings

SESSION_KEY = "hv_signed_in"
MOST_DELAY_S = 30.0


class Gate:
    """Counts wrong passwords of all visitors and says how long everybody has to wait."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wrong = 0
        self._open_at_s = 0.0

    def wait_s(self) -> float:
        """Seconds until the next try."""
        with self._lock:
            return max(0.0, self._open_at_s - time.monotonic())

    def tried(self, right: bool) -> None:
        """Notes a try."""
        with self._lock:
            self._wrong = 0 if right else self._wrong + 1
            delay_s = min(MOST_DELAY_S, 2.0 ** (self._wrong - 3)) if self._wrong > 2 else 0.0
            self._open_at_s = time.monotonic() + delay_s


@st.cache_resource
def _gate() -> Gate:
    return Gate()


def signed_in(settings: Settings) -> bool:
    """Whether the visitor may see anything; shows the form where not."""
    password = settings.dashboard.password
    if password is None or not password.get_secret_value() or st.session_state.get(SESSION_KEY):
        return True
    _form(password.get_secret_value())
    return False


def sign_out() -> None:
    """Forgets that the visitor signed in."""
    st.session_state.pop(SESSION_KEY, None)


def _form(password: str) -> None:
    w = words()
    _, middle, _ = st.columns([1, 1.2, 1])
    with middle, st.form("hv_login"):
        st.subheader(w("login.title"))
        given = st.text_input(w("login.password"), type="password", autocomplete="current-password")
        if not st.form_submit_button(w("login.enter"), type="primary", width="stretch"):
            return
        gate = _gate()
        if (wait_s := gate.wait_s()) > 0:
            st.error(w("login.wait", wait=w.amounts.duration(wait_s)))
            return
        right = hmac.compare_digest(given.encode(), password.encode())
        gate.tried(right)
        if right:
            st.session_state[SESSION_KEY] = True
            st.rerun()
        st.error(w("login.wrong"))
