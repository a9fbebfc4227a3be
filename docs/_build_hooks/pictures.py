"""Draws the pictures of the explanations when the documentation is built, so that none can go stale: from the real
planner, the real dispatcher and the ledger's own table of states.

A page names one by `<!-- picture: frontier -->`. The SVG stands inside the page, so that its colours follow the theme.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from html import escape

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

from hybrid_video import planner
from hybrid_video.ledger.states import MOVES, OPEN
from hybrid_video.models import AttemptState, Tier
from hybrid_video.planner import Plan, Resource
from hybrid_video.pricing.catalog import PriceBook
from hybrid_video.simulation import Job, Ours, Site, simulate
from hybrid_video.simulation.policies import Choice, View

NAMED = re.compile(r"^<!-- picture: ([a-z-]+) -->$", re.MULTILINE)
CLIPS = 100
DEADLINE_S = 180.0
SLOTS = {Tier.LOCAL: 3, Tier.CLOUD: 5, Tier.GEMINI: 10}
WIDTH = 720


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Puts the pictures that a page names into it."""

    def drawn(found: re.Match[str]) -> str:
        if found[1] not in PICTURES:
            raise PluginError(f"{page.file.src_path}: there is no picture {found[1]!r}; there are {sorted(PICTURES)}")
        return picture(found[1])

    return NAMED.sub(drawn, markdown)


def picture(name: str) -> str:
    """One picture as a block of HTML; no empty line in it, which would end the block in Markdown."""
    title, draw = PICTURES[name]
    parts = list(draw())
    height = parts.pop()
    return (
        f'<figure class="picture"><svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg><figcaption>{escape(title)}</figcaption></figure>"
    )


def pool() -> list[Resource]:
    """The example's slots, with the seed's prices and times."""
    entries = {entry.tier: entry for entry in PriceBook.load("seed").entries}
    return [Resource(tier.value, SLOTS[tier], entries[tier].seconds or 0.0, entries[tier].usd) for tier in Tier]


def frontier() -> Iterator[str]:
    """Cost over duration, and below it who makes how many."""
    points = planner.frontier(pool(), CLIPS).points
    kink = planner.frontier(pool(), CLIPS).kink
    left, right, top, base, floor = 64, WIDTH - 16, 16, 230, 350
    last_s, dearest = points[-1].duration_s, float(points[0].cost_usd)

    def x(seconds: float) -> float:
        return left + (right - left) * seconds / last_s

    def y(usd: Decimal) -> float:
        return base - (base - top) * float(usd) / dearest

    for usd in range(int(dearest) + 1):
        yield _line(left, y(Decimal(usd)), right, y(Decimal(usd)), "grid")
        yield _text(left - 8, y(Decimal(usd)) + 4, f"${usd}", "end")
    steps = [(x(points[0].duration_s), y(points[0].cost_usd))]
    for before, after in itertools.pairwise(points):
        steps += [(x(after.duration_s), y(before.cost_usd)), (x(after.duration_s), y(after.cost_usd))]
    yield f'<polyline class="curve" points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in steps)}"/>'
    yield f'<circle class="mark" cx="{x(kink.duration_s):.1f}" cy="{y(kink.cost_usd):.1f}" r="5"/>'
    yield _text(
        x(kink.duration_s) + 4, y(kink.cost_usd) - 12, f"{kink.duration_s:g} s for ${kink.cost_usd:.2f}: the kink"
    )
    yield _text(x(points[0].duration_s) + 60, y(points[0].cost_usd) + 6, _point("fastest", points[0]))
    yield _text(right, y(points[-1].cost_usd) - 12, _point("cheapest", points[-1]), "end")
    width = (x(points[1].duration_s) - x(points[0].duration_s)) * 0.8
    for plan in points:
        bottom = float(floor)
        for tier in Tier:
            height = (floor - base - 34) * plan.split[tier.value] / CLIPS
            bottom -= height
            yield _box(x(plan.duration_s) - width / 2, bottom, width, height, tier)
    for seconds in range(0, int(last_s) + 1, 60):
        yield _text(x(seconds), floor + 18, f"{seconds} s", "middle")
    yield _text(left - 8, base + 44, "clips", "end")
    yield from _legend(left, floor + 42)
    yield str(floor + 56)


def _point(word: str, plan: Plan) -> str:
    return f"{word}: {plan.duration_s:g} s for ${plan.cost_usd:.2f}"


@dataclass
class Recorded(Ours):
    """The dispatcher, with what it decided and when."""

    starts: list[tuple[float, Choice]] = field(default_factory=list)

    def choose(self, view: View) -> list[Choice]:
        """Writes down every choice."""
        made = super().choose(view)
        self.starts += [(view.now_s, choice) for choice in made]
        return made


def schedule() -> tuple[list[tuple[float, float, str]], Decimal, float]:
    """The example batch as the dispatcher gives it out: begin, end and lane of each clip; its cost and duration."""
    sites = [Site(one.key, one.slots, one.service_s, one.price_usd) for one in pool()]
    policy = Recorded(deadline_s=DEADLINE_S + 1e-6, learning=False)
    outcome = simulate(sites, [Job(f"shot-{number:03d}") for number in range(1, CLIPS + 1)], policy, seed=0)
    clips = [(began, outcome.ends_s[job], lane) for began, (job, lane) in policy.starts]
    return clips, outcome.cost_usd, outcome.duration_s


def timeline() -> Iterator[str]:
    """Who makes a clip when."""
    clips, _, duration_s = schedule()
    left, right, row = 96, WIDTH - 16, 17
    used = {lane for _, _, lane in clips}
    lanes = [lane for tier in Tier for number in range(SLOTS[tier]) if (lane := f"{tier.value}-{number}") in used]

    def x(seconds: float) -> float:
        return left + (right - left) * seconds / DEADLINE_S

    for number, lane in enumerate(lanes):
        tier = Tier(lane.rpartition("-")[0])
        yield _text(left - 10, 14 + number * row, f"{tier.value} {int(lane.rpartition('-')[2]) + 1}", "end")
        yield _line(left, 10 + number * row, right, 10 + number * row, "grid")
        for began, end, where in clips:
            if where == lane:
                yield _box(x(began) + 0.5, 4 + number * row, x(end) - x(began) - 1, row - 5, tier)
    floor = 10 + len(lanes) * row
    for seconds in range(0, int(DEADLINE_S) + 1, 30):
        yield _text(x(seconds), floor + 12, f"{seconds} s", "middle" if seconds < DEADLINE_S else "end")
    yield _line(x(duration_s), 0, x(duration_s), floor, "mark")
    yield _text(left, floor + 34, f"{sum(SLOTS.values()) - len(lanes)} more slots at Google were not needed")
    yield str(floor + 44)


def states() -> Iterator[str]:
    """The life of an attempt, from the table that the ledger enforces."""
    yield '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    yield '<path class="tip" d="M0,0 L8,4 L0,8 z"/></marker></defs>'
    for state, moves in MOVES.items():
        for to in sorted(moves):
            yield _arrow(state, to)
    for state, (x, y) in PLACES.items():
        kind = "held" if state in OPEN else "over"
        yield f'<g class="state {kind}"><rect x="{x - 52}" y="{y - 17}" width="104" height="34" rx="8"/>'
        yield f"{_text(x, y + 4, state.value, 'middle')}</g>"
    yield '<g class="state held"><rect x="20" y="284" width="22" height="14" rx="4"/></g>'
    yield _text(50, 296, "money is reserved")
    yield '<g class="state over"><rect x="200" y="284" width="22" height="14" rx="4"/></g>'
    yield _text(230, 296, "booked, or given back")
    yield "310"


PLACES = {
    AttemptState.INTENT: (72, 60),
    AttemptState.SUBMITTED: (216, 60),
    AttemptState.RUNNING: (360, 60),
    AttemptState.COLLECTED: (504, 60),
    AttemptState.SETTLED: (648, 60),
    AttemptState.UNCERTAIN: (288, 160),
    AttemptState.FAILED: (216, 250),
    AttemptState.CANCELLED: (432, 250),
}


def _arrow(old: AttemptState, new: AttemptState) -> str:
    """From the edge of one box to the edge of the other; those that would lie on one another are bent."""
    (x1, y1), (x2, y2) = PLACES[old], PLACES[new]
    along = y1 == y2
    if along:
        begin, end = (x1 + 52, y1), (x2 - 52, y2)
        bend = -46 if abs(x2 - x1) > 160 else 0
        if bend:
            begin, end = (x1 + 20, y1 - 17), (x2 - 20, y2 - 17)
    else:
        down = 1 if y2 > y1 else -1
        shift = max(-40.0, min(40.0, (x2 - x1) / 4)) + 7 * down
        begin, end = (x1 + shift, y1 + 17 * down), (x2 - shift + 14 * down, y2 - 17 * down)
        bend = 0
    middle = ((begin[0] + end[0]) / 2, (begin[1] + end[1]) / 2 + bend)
    path = f"M{begin[0]:.0f},{begin[1]:.0f} Q{middle[0]:.0f},{middle[1]:.0f} {end[0]:.0f},{end[1]:.0f}"
    return f'<path class="move" data-move="{old.value}-{new.value}" d="{path}" marker-end="url(#tip)"/>'


def _legend(x: float, y: float) -> Iterator[str]:
    for tier, words in zip(Tier, ("your GPUs (local)", "rented GPUs (cloud)", "Google (gemini)"), strict=True):
        yield _box(x, y - 10, 14, 11, tier)
        yield _text(x + 20, y, words)
        x += 170


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _box(x: float, y: float, width: float, height: float, tier: Tier) -> str:
    return f'<rect class="{tier.value}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"/>'


def _text(x: float, y: float, words: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _titles() -> Sequence[tuple[str, str, Callable[[], Iterator[str]]]]:
    _, cost, duration_s = schedule()
    slots = ", ".join(f"{count} {tier.value}" for tier, count in SLOTS.items())
    return (
        ("frontier", f"{CLIPS} clips on {slots} slots: what every duration costs, and who makes how many", frontier),
        (
            "timeline",
            f"The same {CLIPS} clips within {DEADLINE_S:g} s: made in {duration_s:g} s for ${cost:.3f}",
            timeline,
        ),
        ("states", "The states of an attempt and every move that the ledger allows", states),
    )


PICTURES = {name: (title, draw) for name, title, draw in _titles()}
