"""What belongs to one visitor: language, settings as they are now, and the stores, opened for as long as one read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import streamlit as st

from hybrid_video.engine.session import open_ledger
from hybrid_video.history import History
from hybrid_video.ledger import Ledger
from hybrid_video.settings import Settings, settings_file
from hybrid_video.wording import LANGUAGES, Words

LANGUAGE_KEY = "lang"
MOST_LEDGERS = 4
_KNOWN: dict[tuple[str, int], Ledger] = {}
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
    written = tuple(_changed_ns(path) for path in (Path(".env"), settings_file()))
    return _settings(tuple(sorted(os.environ.items())), str(Path.cwd()), written)


@contextmanager
def ledger(found: Settings | None = None) -> Iterator[Ledger]:
    """The ledger for one read; no connection is left open.

    What was compiled for it is kept: compiling a question costs more than asking it. A file that was exchanged for
    another (restored, moved) is opened anew.
    """
    storage = (found or settings()).storage
    url = storage.ledger_url
    place = str(storage.ledger_path) if url is None else url.get_secret_value()
    key = (place, 0 if url is not None else _inode(storage.ledger_path))
    opened = _KNOWN.get(key)
    if opened is None:
        opened = open_ledger(found or settings())
        while len(_KNOWN) >= MOST_LEDGERS:
            _KNOWN.pop(next(iter(_KNOWN)), None)
        _KNOWN[(place, 0 if url is not None else _inode(storage.ledger_path))] = opened
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


@lru_cache(maxsize=4)
def _settings(_environment: tuple[tuple[str, str], ...], _folder: str, _written: tuple[int, ...]) -> Settings:
    """Read again whenever the environment or one of the files has changed."""
    return Settings.load()


def _changed_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return 0


@st.cache_resource
def _words(language: str) -> Words:
    return Words(language)


def browser_language() -> str:
    """The language the visitor's browser asks for, English where we do not speak it."""
    locale = (st.context.locale or "").partition("-")[0]
    return locale if locale in LANGUAGES else "en"
