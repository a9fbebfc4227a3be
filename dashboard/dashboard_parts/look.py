"""The look: one colour per backend everywhere, small pieces of markup, and the style sheet that themes cannot say.

Colours hold a contrast of 3:1 or more against the light and the dark background, and differ in lightness, so that they
can be told apart without colour vision. Text never depends on colour alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

import streamlit as st

TIER_COLOURS = {"local": "#0d9488", "cloud": "#6366f1", "gemini": "#d97706"}
BACKEND_COLOURS = {
    "comfyui": "#0d9488",
    "runpod-pod": "#6366f1",
    "runpod-serverless": "#a78bfa",
    "gemini": "#d97706",
    "veo": "#b45309",
}
OTHER_COLOURS = ("#db2777", "#0284c7", "#65a30d", "#9333ea", "#ca8a04", "#0891b2", "#e11d48", "#4d7c0f")
REST_COLOUR = "#7c859b"
STATE_COLOURS = {
    "ok": "#16a34a",
    "warning": "#d97706",
    "error": "#dc2626",
    "off": "#7c859b",
    "active": "#6366f1",
}
JOB_COLOURS = {
    "done": "#16a34a",
    "active": "#6366f1",
    "pending": "#94a3b8",
    "failed": "#dc2626",
    "cancelled": "#7c859b",
    "uncertain": "#d97706",
}
TIER_ICONS = {"local": ":material/computer:", "cloud": ":material/cloud:", "gemini": ":material/auto_awesome:"}

STYLE = """
<style>
.block-container {max-width: 1320px; padding-top: 3.6rem; padding-bottom: 4rem;}
/* A part that refreshes itself every two seconds must not fade while it does. */
[data-stale="true"] {opacity: 1 !important; transition: none !important;}
.hv-num {font-variant-numeric: tabular-nums;}
.hv-stats {display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: .9rem;}
.hv-stat {border: 1px solid rgba(124,133,155,.3); border-radius: .6rem; padding: .8rem 1rem .75rem;}
.hv-plain {grid-template-columns: repeat(auto-fit, minmax(105px, 1fr));}
.hv-plain .hv-stat {border: none; padding: .1rem 0;}
.hv-stat span {display: block; font-size: .84rem; opacity: .78;}
.hv-stat abbr {text-decoration: none; cursor: help; display: inline-block; width: 1.05rem; height: 1.05rem;
  line-height: 1rem; text-align: center; border: 1px solid currentColor; border-radius: 50%; font-size: .68rem;}
.hv-stat b {display: block; margin: .05rem 0 0; font-size: 1.62rem; line-height: 1.3; font-weight: 600;
  overflow-wrap: anywhere; font-variant-numeric: tabular-nums; letter-spacing: -.01em;}
.hv-stat small {display: block; font-size: .83rem; opacity: .75; margin-top: .1rem; overflow-wrap: anywhere;}
[data-testid="stStatusWidget"] {visibility: hidden;}
.hv-sub {opacity: .75; margin: -.6rem 0 .4rem 0; font-size: .98rem;}
.hv-bar {display: flex; height: 14px; border-radius: 7px; overflow: hidden; gap: 2px;
  background: rgba(124,133,155,.22);}
.hv-bar > i {display: block; height: 100%; min-width: 3px;}
.hv-key {display: flex; flex-wrap: wrap; gap: .35rem 1.3rem; margin-top: .55rem; font-size: .88rem;}
.hv-key b {font-weight: 600;}
.hv-dot {display: inline-block; width: .65rem; height: .65rem; border-radius: 50%; margin-right: .4rem;
  vertical-align: baseline;}
.hv-pill {display: inline-flex; align-items: center; gap: .1rem; padding: .08rem .6rem; border-radius: 999px;
  font-size: .8rem; font-weight: 600; border: 1px solid rgba(124,133,155,.4); white-space: nowrap;}
.hv-facts {margin: 0; padding: 0; display: grid; grid-template-columns: minmax(7rem, max-content) 1fr;
  gap: .3rem 1.1rem; font-size: .92rem;}
.hv-facts > span {opacity: .75;} .hv-facts > b {font-weight: 400; overflow-wrap: anywhere;}
.hv-blank {text-align: center; padding: 0 1rem 1.4rem; max-width: 34rem; margin: 0 auto;}
[class*="st-key-hv_glyph"] p, [class*="st-key-hv_glyph"] [data-testid="stIconMaterial"] {font-size: 2.8rem !important;
  line-height: 1; opacity: .75; margin: 1.4rem 0 0;}
.hv-blank h3 {margin: .5rem 0 .2rem; padding: 0;} .hv-blank p {opacity: .8; margin: 0;}
.hv-terms {display: grid; grid-template-columns: 6.5rem 1fr 5.2rem; gap: .28rem .7rem; align-items: center;
  font-size: .85rem; margin-top: .4rem;}
.hv-terms .hv-bar {height: 8px;}
.hv-small {font-size: .85rem; opacity: .85; margin-top: .35rem;}
.hv-mono {font-family: var(--st-code-font, monospace); font-size: .85em;}
a:focus-visible, button:focus-visible, input:focus-visible {outline: 2px solid #818cf8 !important; outline-offset: 2px;}
@media (prefers-reduced-motion: reduce) {* {animation: none !important; transition: none !important;}}
</style>
"""


class Stat(NamedTuple):
    """One figure: what it is, its value, a line below it, and an explanation."""

    label: str
    value: str
    below: str = ""
    help: str = ""


def style() -> None:
    """Puts the style sheet on the page."""
    st.html(STYLE)


def colour(name: str) -> str:
    """The colour of a tier or backend; others get one that stays the same for their name."""
    known = TIER_COLOURS.get(name) or BACKEND_COLOURS.get(name)
    if known:
        return known
    return OTHER_COLOURS[sum(name.encode()) % len(OTHER_COLOURS)] if name else REST_COLOUR


def colours(names: Sequence[str]) -> list[str]:
    """A colour for each name, different ones as long as there are enough."""
    found: list[str] = []
    spare = [hue for hue in OTHER_COLOURS if hue not in {colour(name) for name in names if name in BACKEND_COLOURS}]
    for name in names:
        if name in TIER_COLOURS or name in BACKEND_COLOURS or not name:
            found.append(colour(name))
        else:
            found.append(spare.pop(0) if spare else colour(name))
    return found


def dot(hue: str) -> str:
    """A small filled circle, as markup."""
    return f'<span class="hv-dot" style="background:{hue}" aria-hidden="true"></span>'


def pill(text: str, hue: str) -> str:
    """A word with a coloured dot, as markup."""
    return f'<span class="hv-pill">{dot(hue)}{escape(text)}</span>'


def share_bar(parts: Sequence[tuple[str, float, str, str]], *, label: str) -> str:
    """A bar of shares with its key, as markup.

    Args:
        parts: name, size, colour, and what the key says of it.
        label: what a screen reader reads instead of the bar.
    """
    whole = sum(size for _, size, _, _ in parts) or 1.0
    bar = "".join(
        f'<i style="width:{size / whole * 100:.3f}%;background:{hue}"></i>' for _, size, hue, _ in parts if size > 0
    )
    key = "".join(
        f"<span>{dot(hue)}<b>{escape(name)}</b> <span class='hv-num'>{escape(said)}</span></span>"
        for name, _, hue, said in parts
    )
    return f'<div class="hv-bar" role="img" aria-label="{escape(label)}">{bar}</div><div class="hv-key">{key}</div>'


def stats(rows: Sequence[Stat], *, plain: bool = False) -> None:
    """Figures side by side; they wrap on narrow screens rather than being cut."""
    cells = "".join(
        f'<div class="hv-stat" role="group" aria-label="{escape(row.label, quote=True)}"><span>{escape(row.label)}'
        + (f' <abbr title="{escape(row.help, quote=True)}" tabindex="0">?</abbr>' if row.help else "")
        + f"</span><b>{escape(row.value)}</b>"
        + (f"<small>{escape(row.below)}</small>" if row.below else "")
        + "</div>"
        for row in rows
    )
    st.html(f'<div class="hv-stats{" hv-plain" if plain else ""}">{cells}</div>')


def facts(rows: Mapping[str, str]) -> str:
    """Names and values one below the other, as markup; values are text."""
    inner = "".join(f"<span>{escape(name)}</span><b>{escape(value)}</b>" for name, value in rows.items() if value)
    return f'<div class="hv-facts">{inner}</div>'


def markup(*parts: str) -> None:
    """Shows markup; everything in it that came from outside has been escaped by whoever made it."""
    st.html("".join(parts))
