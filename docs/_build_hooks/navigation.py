"""Puts pages that `nav` in mkdocs.yml does not name at the end of their section, so that a new page is never lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig

SECTIONS = {"schedules.md": "How-to", "how-to": "How-to", "decisions": "Decisions", "": "Explanation"}
"""Page, or folder below docs/, to the section it belongs to."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Completes the navigation."""
    assert config.nav is not None  # noqa: S101 - mkdocs.yml has one
    named = set(_pages(config.nav))
    docs = Path(config.docs_dir)
    for path in sorted(docs.rglob("*.md")):
        page = path.relative_to(docs).as_posix()
        folder = page.rpartition("/")[0]
        title = SECTIONS.get(page, SECTIONS.get(folder))
        if page not in named and title is not None:
            _section(config.nav, title).append(page)
    return config


def _section(nav: list[Any], title: str) -> list[Any]:
    for entry in nav:
        if isinstance(entry, dict) and isinstance(entry.get(title), list):
            found: list[Any] = entry[title]
            return found
    nav.append({title: []})
    added: list[Any] = nav[-1][title]
    return added


def _pages(entry: Any) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
    elif isinstance(entry, dict):
        for value in entry.values():
            yield from _pages(value)
    else:
        for value in entry:
            yield from _pages(value)
