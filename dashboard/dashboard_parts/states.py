"""The designed states of a page with nothing to show: nothing yet, locked, not configured, no rows; and failures."""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Callable
from functools import wraps
from html import escape
from typing import ParamSpec

import streamlit as st

from dashboard_parts.look import markup
from dashboard_parts.session import words
from hybrid_video import observing
from hybrid_video.errors import ConfigurationError, HybridVideoError, InputError, LedgerError
from hybrid_video.redaction import redact

P = ParamSpec("P")
log = logging.getLogger("hybrid_video.dashboard")

GLYPHS = {
    "nothing": ":material/movie:",
    "locked": ":material/lock_clock:",
    "unconfigured": ":material/extension:",
    "no_rows": ":material/search_off:",
    "failed": ":material/report:",
}


def blank(kind: str, title: str, text: str, *, action: tuple[str, str, str] | None = None) -> None:
    """A page's empty state.

    Args:
        action: page file, label and icon of what to do next.
    """
    with st.container(border=True, key=f"hv_state_{kind}"):
        with st.container(horizontal_alignment="center", key=f"hv_glyph_{kind}"):
            st.markdown(GLYPHS[kind], width="content")
        markup(f'<div class="hv-blank" role="status"><h3>{escape(title)}</h3><p>{_code(text)}</p></div>')
        if action is not None:
            page, label, icon = action
            with st.container(horizontal=True, horizontal_alignment="center"):
                st.page_link(page, label=label, icon=icon)


def nothing_yet() -> None:
    """No batch was ever submitted."""
    w = words()
    blank(
        "nothing",
        w("state.nothing_title"),
        w("state.nothing_text"),
        action=("app_pages/batches.py", w("state.nothing_action"), ":material/add_circle:"),
    )


def no_rows() -> None:
    """The filters leave nothing."""
    w = words()
    blank("no_rows", w("state.no_rows_title"), w("state.no_rows_text"))


def not_configured() -> None:
    """No backend is configured."""
    w = words()
    blank(
        "unconfigured",
        w("state.unconfigured_title"),
        w("state.unconfigured_text"),
        action=("app_pages/backends.py", w("state.unconfigured_action"), ":material/tune:"),
    )


def guarded(render: Callable[P, None]) -> Callable[P, None]:
    """Shows what went wrong as a sentence with a next step; a traceback only ever reaches the log."""

    @wraps(render)
    def safely(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            render(*args, **kwargs)
        except LedgerError as error:
            blank("locked", words()("state.locked_title"), redact(error))
            _again(render)
        except ConfigurationError as error:
            blank("unconfigured", words()("state.configuration_title"), redact(error))
            _again(render)
        except InputError as error:
            for problem in error.problems:
                st.error(redact(problem), icon=":material/edit_note:")
        except HybridVideoError as error:
            blank("failed", words()("state.failed_title"), redact(error))
            _again(render)
        except Exception as error:
            reference = uuid.uuid4().hex[:8]
            observing.report(error)
            log.exception("a dashboard page failed, reference %s", reference)
            blank("failed", words()("state.failed_title"), words()("state.failed_text", reference=reference))
            _again(render)

    return safely


def live(seconds: float) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """A part of a page that refreshes itself, guarded like a page."""

    def decorated(render: Callable[P, None]) -> Callable[P, None]:
        return st.fragment(guarded(render), run_every=seconds)

    return decorated


def _code(text: str) -> str:
    """Escaped, with what stands between backquotes as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _again(render: Callable[..., None]) -> None:
    with st.container(horizontal=True, horizontal_alignment="center"):
        st.button(
            words()("state.again"), icon=":material/refresh:", key=f"hv_retry_{render.__module__}_{render.__name__}"
        )
