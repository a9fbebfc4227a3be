"""Durations as people say them, and text that stays text inside Markdown."""

from __future__ import annotations

import html


def clock(seconds: float) -> str:
    """A duration as people say it: `2.5 s`, `3 min 05 s`, `1 h 20 min`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"


def plain(text: str) -> str:
    """Text of others that neither marks anything up nor breaks out of a table."""
    escaped = html.escape(" ".join(text.split()), quote=False)
    return "".join(f"\\{sign}" if sign in "|*[]" else sign for sign in escaped)
