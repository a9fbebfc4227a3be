"""Imports point one way: hybrid_video <- tasks <- flows; dashboard imports only hybrid_video."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

FORBIDDEN = {
    "src/hybrid_video": {"prefect", "prefect_docker", "streamlit", "tasks", "flows", "dashboard"},
    "tasks": {"flows", "dashboard", "streamlit"},
    "flows": {"dashboard", "streamlit"},
    "dashboard": {"prefect", "tasks", "flows"},
}

PURE = ("models.py", "scoring.py", "planner.py", "dispatcher.py", "failures.py", "errors.py")
"""Modules that decide: they may not do I/O, so they import nothing that could."""

IO = {"httpx", "aiohttp", "sqlalchemy", "duckdb", "asyncio", "subprocess", "socket", "os", "pathlib", "time"}


def imported_roots(file: Path) -> set[str]:
    """First names of everything a file imports, at any depth of the file."""
    roots: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            roots |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            roots.add(node.module.split(".")[0])
    return roots


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_no_layer_imports_a_layer_above_it(folder: str) -> None:
    """A file that imports upwards would drag Prefect into the package or the dashboard into the flows."""
    files = sorted((ROOT / folder).rglob("*.py"))
    wrong = {str(f.relative_to(ROOT)): found for f in files if (found := imported_roots(f) & FORBIDDEN[folder])}
    assert not wrong


@pytest.mark.parametrize("name", PURE)
def test_modules_that_decide_do_no_io(name: str) -> None:
    """Scoring, planning and dispatching are pure, so a virtual clock and property tests reach all of them."""
    assert not imported_roots(ROOT / "src/hybrid_video" / name) & IO


def test_every_layer_that_exists_is_checked() -> None:
    """A check over an empty folder would pass for ever."""
    for folder in ("src/hybrid_video", "tasks", "flows"):
        assert any((ROOT / folder).rglob("*.py")), folder
