"""Choices that stand in the page's address, so that a view can be shared.

Streamlit's own binding writes the label that is shown, which another language does not know; these write the value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import streamlit as st

Say = Callable[[str], str]


def segmented(label: str, key: str, options: Sequence[str], default: str, say: Say = str, **more: Any) -> str:
    """One of a few, always one."""
    _seed(key, lambda text: text if text in options else default, default)
    chosen = st.segmented_control(label, options, required=True, key=_state(key), format_func=say, **more)
    return _kept(key, str(chosen), default)


def select(label: str, key: str, options: Sequence[str], say: Say = str, **more: Any) -> str | None:
    """One of many, or none."""
    _seed(key, lambda text: text if text in options else None, None)
    chosen = st.selectbox(label, options, index=None, key=_state(key), format_func=say, **more)
    _kept(key, str(chosen or ""), "")
    return None if chosen is None else str(chosen)


def pick(label: str, key: str, options: Sequence[str], default: str, say: Say = str, **more: Any) -> str:
    """One of many, always one."""
    _seed(key, lambda text: text if text in options else default, default)
    chosen = st.selectbox(label, options, key=_state(key), format_func=say, **more)
    return _kept(key, str(chosen), default)


def several(label: str, key: str, options: Sequence[str], say: Say = str, **more: Any) -> tuple[str, ...]:
    """Any number of them."""
    _seed(key, lambda text: [part for part in text.split(",") if part in options], [])
    chosen = st.multiselect(label, options, key=_state(key), format_func=say, **more)
    _kept(key, ",".join(chosen), "")
    return tuple(chosen)


def _state(key: str) -> str:
    return f"hv_at_{key}"


def _seed(key: str, read: Callable[[str], Any], default: Any) -> None:
    """The address decides what a widget begins with; after that, the visitor."""
    if _state(key) not in st.session_state:
        text = st.query_params.get(key)
        st.session_state[_state(key)] = default if text is None else read(text)


def _kept(key: str, value: str, default: str) -> str:
    """Writes a choice to the address; the usual one is left out."""
    if value == default:
        if key in st.query_params:
            del st.query_params[key]
    elif st.query_params.get(key) != value:
        st.query_params[key] = value
    return value
