"""What belongs to one visitor: language, settings as they are now, and the stores, opened for as long as one read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import streamlit as st

from hybrid_video.engine.session import open_ledger
from hybrid_video.history import History
from hybrid_video.ledger import Ledger
from hybrid_video.settings import Settings
from hybrid_video.wording import LANGUAGES, Words

LANGUAGE_KEY = "lang"
FLASH_KEY = "hv_flash"


def words() -> Words:
    """The texts in the visitor's language."""
    chosen = st.session_state.get(f"hv_at_{LANGUAGE_KEY}") or st.query_params.get(LANGUAGE_KEY)
    return _words(str(chosen or browser_language()))


def settings() -> Settings:
    """The settings as the environment and the files say now.

    Raises:
        ConfigurationError: a variable is wrong; the page shows the sentence.
    """
    return Settings.load()


@contextmanager
def ledger(found: Settings | None = None) -> Iterator[Ledger]:
    """The ledger for one read."""
    opened = open_ledger(found or settings())
    try:
        yield opened
    finally:
        opened.close()


def history(found: Settings | None = None) -> History:
    """The history; it opens its file for each read."""
    return History((found or settings()).storage.history_path, lock_timeout_s=2.0)


def flash(text: str, icon: str = ":material/check_circle:") -> None:
    """A message that survives the rerun or the page change that follows."""
    st.session_state.setdefault(FLASH_KEY, []).append((text, icon))


def show_flashes() -> None:
    """Shows what `flash` kept."""
    for text, icon in st.session_state.pop(FLASH_KEY, []):
        st.toast(text, icon=icon)


@st.cache_resource
def _words(language: str) -> Words:
    return Words(language)


def browser_language() -> str:
    """The language the visitor's browser asks for, English where we do not speak it."""
    locale = (st.context.locale or "").partition("-")[0]
    return locale if locale in LANGUAGES else "en"
