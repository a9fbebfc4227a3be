"""Input fields that keep what was typed and say beside themselves what is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal, InvalidOperation

import streamlit as st

from dashboard_parts.session import words
from hybrid_video.models import MAX_BUDGET_USD, whole_nano_usd


def complaint(text: str) -> None:
    """A sentence beside a field."""
    st.error(text.replace("$", "\\$"), icon=":material/edit_note:")


def money(label: str, key: str, *, value: Decimal | None = None, help_text: str = "") -> tuple[Decimal | None, bool]:
    """An optional amount in dollars; the amount, and whether the field can be used as it is."""
    w = words()
    text = st.text_input(
        label, "" if value is None else f"{value:f}", key=key, placeholder=w("field.no_limit"), help=help_text or None
    )
    raw = text.strip().removeprefix("$").replace(",", "")
    if not raw:
        return None, True
    try:
        amount = Decimal(raw)
    except InvalidOperation:
        amount = Decimal("NaN")
    if not amount.is_finite() or not 0 <= amount <= MAX_BUDGET_USD:
        complaint(w("field.not_money", value=repr(text[:40])))
        return None, False
    return whole_nano_usd(amount), True


def minutes(label: str, key: str, *, help_text: str = "") -> tuple[float | None, bool]:
    """An optional time in minutes as seconds, and whether the field can be used as it is."""
    w = words()
    text = st.text_input(label, "", key=key, placeholder=w("field.no_limit"), help=help_text or None)
    if not text.strip():
        return None, True
    try:
        seconds = float(text.replace(",", ".")) * 60
    except ValueError:
        seconds = float("nan")
    if not 0 < seconds <= 30 * 86_400:
        complaint(w("field.not_minutes", value=repr(text[:40])))
        return None, False
    return seconds, True


def beside(problems: Sequence[str], *names: str) -> list[str]:
    """Shows the problems that name one of these fields, here; returns the others."""
    mine = [text for text in problems if any(f" {name}" in f" {text}" or f".{name}" in text for name in names)]
    for text in mine:
        complaint(text)
    return [text for text in problems if text not in mine]
