"""What every page has around it: navigation, language, the mark of a simulation, the sign-in."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from html import escape
from pathlib import Path

import streamlit as st

from dashboard_parts import login
from dashboard_parts.address import pick
from dashboard_parts.look import markup, style
from dashboard_parts.session import LANGUAGE_KEY, browser_language, settings, show_flashes, words
from dashboard_parts.states import guarded
from hybrid_video import __version__, logs, observing
from hybrid_video.errors import HybridVideoError
from hybrid_video.settings import Settings
from hybrid_video.wording import LANGUAGES

ASSETS = Path(__file__).resolve().parent.parent / "assets"
PAGES = {
    "make": (("overview", ":material/space_dashboard:"), ("batches", ":material/movie:"), ("jobs", ":material/rule:")),
    "understand": (("calculator", ":material/calculate:"), ("analytics", ":material/insights:")),
    "run": (("backends", ":material/dns:"), ("install", ":material/download_for_offline:")),
}


def run() -> None:
    """The router: shows the page that the address names."""
    _begin()
    w = words()
    st.set_page_config(page_title=w("app.name"), page_icon=str(ASSETS / "icon.png"), layout="wide")
    st.logo(str(ASSETS / "logo.svg"), icon_image=str(ASSETS / "icon.png"), size="large")
    style()
    found = _settings()
    if found is None:
        return
    if not login.signed_in(found):
        st.navigation([st.Page(_no_page, title=w("login.title"))], position="hidden").run()
        return
    pages = {
        w(f"nav.{section}"): [
            st.Page(
                f"app_pages/{name}.py",
                title=w(f"nav.{name}"),
                icon=icon,
                url_path="" if name == "overview" else name,
                default=name == "overview",
            )
            for name, icon in names
        ]
        for section, names in PAGES.items()
    }
    page = st.navigation(pages)
    _sidebar(found)
    show_flashes()
    page.run()


@lru_cache(maxsize=1)
def _begin() -> None:
    """Once in the server's process: log lines and reports, as the environment says."""
    with suppress(HybridVideoError):  # wrong settings are told by the page
        logs.configure()
    observing.start("dashboard", strict=False)


def header(title: str, subtitle: str) -> None:
    """The head of a page."""
    st.title(title, anchor=False)
    markup(f'<p class="hv-sub">{escape(subtitle)}</p>')


def shown(render: Callable[[], None]) -> None:
    """Shows a page, guarded."""
    guarded(render)()


def _settings() -> Settings | None:
    """The settings; where they are wrong, the page says so instead."""
    found: list[Settings] = []

    @guarded
    def load() -> None:
        found.append(settings())

    load()
    return found[0] if found else None


def _sidebar(found: Settings) -> None:
    w = words()
    with st.sidebar:
        if found.routing.simulated:
            st.badge(w("app.simulated"), icon=":material/science:", color="orange", help=w("app.simulated_help"))
        pick(
            w("app.language"),
            LANGUAGE_KEY,
            list(LANGUAGES),
            browser_language(),
            LANGUAGES.__getitem__,
            icon=":material/translate:",
        )
        if found.dashboard.password is not None and st.button(w("login.leave"), icon=":material/logout:"):
            login.sign_out()
            st.rerun()
        st.caption(w("app.version", version=__version__))


def _no_page() -> None:
    """Nothing is shown before the visitor has signed in."""
