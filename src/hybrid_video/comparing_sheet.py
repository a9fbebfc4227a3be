"""The contact sheet of a comparison: every shot side by side, as one HTML page and as Markdown, with the figures.

The page needs no network and no server: clips and pictures lie beside it and are linked by relative paths. Everything
that came from a batch file or a vendor is escaped.
"""

from __future__ import annotations

import html
import json
import os
from pathlib import Path
from urllib.parse import quote

from hybrid_video.clips.posters import poster_of
from hybrid_video.comparing import Comparison, Made, Shot
from hybrid_video.engine.report import money

STYLE = """
:root { color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif }
body { max-width: 84rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; vertical-align: top; padding: .45rem .6rem; border-bottom: 1px solid #8884 }
.figure { text-align: right; font-variant-numeric: tabular-nums }
video { width: 100%; min-width: 12rem; border-radius: .3rem; background: #0008 }
.prompt { max-width: 18rem } .note { opacity: .75 } .error { color: #c33 }
.simulated { background: #c60; color: #fff; padding: .2rem .6rem; border-radius: .3rem }
@media (max-width: 40rem) { table.shots, table.shots tbody, table.shots tr, table.shots td { display: block } }
"""


def write_sheet(comparison: Comparison, folder: Path) -> dict[str, Path]:
    """Writes `comparison.html`, `comparison.md` and `comparison.json` into a folder; returns where they are."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = _pictures(comparison, folder)
    texts = {
        "html": _page(comparison, folder, pictures),
        "md": _markdown(comparison, folder, pictures),
        "json": json.dumps(comparison.to_json(), indent=2, ensure_ascii=False) + "\n",
    }
    written = {}
    for ending, text in texts.items():
        path = folder / f"comparison.{ending}"
        part = path.with_suffix(f".{ending}.part")
        part.write_text(text, encoding="utf-8")
        part.replace(path)
        written[ending] = path
    return written


def _pictures(comparison: Comparison, folder: Path) -> dict[str, str]:
    """A frame of each clip, by the clip's content."""
    found = {}
    for made in comparison.made:
        for shot in made.shots:
            if shot.path:
                poster = poster_of(Path(shot.path), sha256=shot.sha256, folder=folder / "pictures")
                if poster is not None:
                    found[shot.sha256] = _link(poster, folder)
    return found


def _page(comparison: Comparison, folder: Path, pictures: dict[str, str]) -> str:
    title = html.escape(f"Comparison: {comparison.name}")
    mark = '<p><span class="simulated">SIMULATED: no money was spent</span></p>' if comparison.simulated else ""
    figures = "".join(
        "<tr>" + "".join(f'<td class="{kind}">{html.escape(text)}</td>' for kind, text in row) + "</tr>"
        for row in (figures_of(made) for made in comparison.made)
    )
    heads = "".join(f"<th{' class=figure' if number else ''}>{head}</th>" for number, head in enumerate(HEADS))
    findings = "".join(f"<li>{html.escape(pair.sentence)}</li>" for pair in comparison.pairs)
    columns = "".join(f"<th>{html.escape(made.way.name)}</th>" for made in comparison.made)
    rows = "".join(_shot_row(comparison, number, folder, pictures) for number in range(len(comparison.made[0].shots)))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>'
        f"<h1>{title}</h1>{mark}"
        f"<table><thead><tr>{heads}</tr></thead><tbody>{figures}</tbody></table>"
        f"<h2>Shot by shot</h2><ul>{findings}</ul>"
        '<p class="note">Every way started each shot from the same seed. Which looks better is for you to judge.</p>'
        f'<table class="shots"><thead><tr><th>shot</th>{columns}</tr></thead><tbody>{rows}</tbody></table>'
        "</body></html>\n"
    )


HEADS = ("way", "clips", "cost", "per clip", "P50", "P90", "whole")


def figures_of(made: Made) -> list[tuple[str, str]]:
    """A way in figures, in the order of `HEADS`: (kind of cell, text)."""
    per_clip, p50, p90 = made.cost_per_clip_usd, made.seconds(0.5), made.seconds(0.9)
    return [
        ("way", f"{made.way.name} ({made.way.kind})"),
        ("figure", f"{made.completed} of {len(made.shots)}"),
        ("figure", f"${money(made.cost_usd)}"),
        ("figure", "-" if per_clip is None else f"${per_clip:.4f}"),
        ("figure", "-" if p50 is None else f"{p50:.1f} s"),
        ("figure", "-" if p90 is None else f"{p90:.1f} s"),
        ("figure", f"{made.elapsed_s:.1f} s"),
    ]


def _shot_row(comparison: Comparison, number: int, folder: Path, pictures: dict[str, str]) -> str:
    shots = [made.shots[number] for made in comparison.made]
    prompt = html.escape(comparison.prompts.get(shots[0].job, ""))
    cells = "".join(f"<td>{_cell(shot, folder, pictures)}</td>" for shot in shots)
    return f'<tr><td class="prompt"><strong>{html.escape(shots[0].job)}</strong><br>{prompt}</td>{cells}</tr>'


def _cell(shot: Shot, folder: Path, pictures: dict[str, str]) -> str:
    if shot.error:
        return f'<p class="error">{html.escape(shot.error)}</p>'
    poster = pictures.get(shot.sha256)
    picture = f' poster="{html.escape(poster)}"' if poster else ""
    return (
        f'<video controls loop muted playsinline preload="none"{picture} src="{html.escape(_link(shot.path, folder))}">'
        f'</video><p class="note">{html.escape(_words(shot))}</p>'
    )


def _words(shot: Shot) -> str:
    time = "" if shot.seconds is None else f", {shot.seconds:.1f} s"
    gpu = f" on {shot.gpu}" if shot.gpu else ""
    tries = f", {shot.attempts} attempts" if shot.attempts > 1 else ""
    return f"${money(shot.cost_usd)}{time}: {shot.model} at {shot.backend}{gpu}{tries}"


def _markdown(comparison: Comparison, folder: Path, pictures: dict[str, str]) -> str:
    lines = [f"# Comparison: {_plain(comparison.name)}", ""]
    if comparison.simulated:
        lines += ["**SIMULATED: no money was spent.**", ""]
    lines += [f"| {' | '.join(HEADS)} |", f"|{'---|' * len(HEADS)}"]
    lines += [f"| {' | '.join(_plain(text) for _, text in figures_of(made))} |" for made in comparison.made]
    lines += ["", "## Shot by shot", "", *(f"- {_plain(pair.sentence)}" for pair in comparison.pairs), ""]
    names = [_plain(made.way.name) for made in comparison.made]
    lines += [f"| shot | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for number, first in enumerate(comparison.made[0].shots):
        cells = [_markdown_cell(made.shots[number], folder, pictures) for made in comparison.made]
        prompt = _plain(comparison.prompts.get(first.job, ""))
        lines.append(f"| **{_plain(first.job)}** {prompt} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _markdown_cell(shot: Shot, folder: Path, pictures: dict[str, str]) -> str:
    if shot.error:
        return _plain(shot.error)
    poster, clip = pictures.get(shot.sha256), _link(shot.path, folder)
    shown = f"[![{_plain(shot.job)}]({poster})]({clip})" if poster else f"[clip]({clip})"
    return f"{shown}<br>{_plain(_words(shot))}"


def _plain(text: str) -> str:
    """Text that cannot break out of a Markdown table."""
    escaped = html.escape(" ".join(text.split()), quote=False)
    return "".join(f"\\{sign}" if sign in "|[]*_`" else sign for sign in escaped)


def _link(path: str | Path, folder: Path) -> str:
    """A path as seen from the sheet, usable in a link; absolute where there is no way from one to the other."""
    try:
        relative = os.path.relpath(Path(path).resolve(), folder.resolve())
    except ValueError:  # another drive on Windows
        return Path(path).resolve().as_uri()
    return quote(Path(relative).as_posix())
