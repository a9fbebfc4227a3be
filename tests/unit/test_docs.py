"""The documentation builds without a warning, its pictures are drawn by the code, and its blocks say what they are."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections import Counter
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from hybrid_video import planner
from hybrid_video.ledger.states import MOVES
from hybrid_video.settings import GROUPS, variable_name
from tests.docs_rig import ROOT, blocks, mismatch, pages

MOST_NOT_RUN = 24
"""Shell blocks that no test runs, because they need root, another machine, an account or a container engine."""

COMMANDS = ("hybrid-video ", "prefect ", "make ", "export ", "curl ", "docker ", "python ", "sudo ", "git ", "pip ")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; a dead link, a page outside the navigation or a missing anchor ends the build."""
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert built.returncode == 0, built.stderr
    return folder


class Page(HTMLParser):
    """What the tests ask of a built page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.classes: Counter[str] = Counter()
        self.moves: set[str] = set()
        self.words = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collects."""
        given = {name: value or "" for name, value in attrs}
        if tag == "a":
            self.links.append(given.get("href", ""))
        if "data-move" in given:
            self.moves.add(given["data-move"])
        for name in given.get("class", "").split():
            self.classes[f"{tag}.{name}"] += 1

    def handle_data(self, data: str) -> None:
        """Collects."""
        self.words += data


def test_every_page_is_in_the_navigation_of_the_built_site(site: Path) -> None:
    """A page that nobody named in mkdocs.yml is added to its section."""
    home = Page(site / "index.html")
    shown = {link.removesuffix("/").removeprefix("./") for link in home.links}
    for page in pages()[1:]:
        name = page.relative_to(ROOT / "docs").with_suffix("").as_posix()
        assert name in shown or name == "index", f"{name} is not in the navigation"


def test_the_frontier_is_the_planners_own(site: Path) -> None:
    """One bar for each sensible duration, from the planner."""
    page = Page(site / "dispatch/index.html")
    pool = _pool()
    points = planner.frontier(pool, 100).points
    assert f"cheapest: {points[-1].duration_s:g} s" in page.words
    assert f"fastest: {points[0].duration_s:g} s for ${points[0].cost_usd:.2f}" in page.words
    assert page.classes["rect.local"] >= len(points)


def test_the_timeline_makes_every_clip_once_at_the_planners_cost(site: Path) -> None:
    """The dispatcher's own decisions on a virtual clock come to the exact optimum."""
    page = Page(site / "dispatch/index.html")
    best = planner.cheapest_by(_pool(), 100, 180)
    assert best is not None
    assert f"made in {best.duration_s:g} s for ${best.cost_usd:.3f}" in page.words


def test_every_move_of_the_ledger_is_an_arrow(site: Path) -> None:
    """The picture of the states is the table itself."""
    page = Page(site / "money/index.html")
    assert page.moves == {f"{old.value}-{new.value}" for old, moves in MOVES.items() for new in moves}


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    """The site works without a network, and tells nobody who reads it."""
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=\"(https?://[^\"]+)\"", text)
        assert not [url for url in loaded if "canonical" not in url], path


def test_every_block_says_what_it_is() -> None:
    """A block without a language can neither be coloured nor tested."""
    assert not [block.where for page in pages() for block in blocks(page) if not block.language]


def test_commands_stand_in_blocks_that_are_run_or_marked() -> None:
    """`text` is for how a command is called in general: with a placeholder, or with words beside it."""
    hidden = [
        f"{block.where}: {line}"
        for page in pages()
        for block in blocks(page)
        if block.language in {"text", "none"}
        for line in block.text.splitlines()
        if line.startswith(COMMANDS) and not re.search(r"[\[<…]|\b[A-Z]{3,}\b|\S {3,}\S", line)
    ]
    assert not hidden


def test_few_commands_are_not_run(record_property: pytest.RecordProperty) -> None:
    """They are counted and listed, so that a page of untested commands cannot grow unseen."""
    skipped = [block.where for page in pages() for block in blocks(page) if block.shell and not block.runs]
    run = [block.where for page in pages() for block in blocks(page) if block.runs]
    record_property("not_run", skipped)
    print(f"{len(run)} blocks are run, {len(skipped)} are not:", *skipped, sep="\n  ")
    assert len(run) > len(skipped)
    assert len(skipped) <= MOST_NOT_RUN, skipped


def test_every_setting_in_the_documentation_exists() -> None:
    """A variable nobody reads would be set in vain."""
    known = {variable_name(group, field) for group in GROUPS for field in group.model_fields}
    known |= {"HYBRID_VIDEO_DEBUG", "HYBRID_VIDEO_MODEL_MIRRORS"}
    for page in pages():
        text = page.read_text(encoding="utf-8")
        named = set(re.findall(r"\bHYBRID_VIDEO_[A-Z_]+[A-Z](?![A-Z_<])", text))
        unknown = {name for name in named - known if not name.startswith(("HYBRID_VIDEO_INSTALL", "HYBRID_VIDEO_POD_"))}
        unknown = {name for name in unknown if not any(other.startswith(f"{name}_") for other in known)}
        assert not unknown, page


def test_python_yaml_and_toml_examples_are_whole() -> None:
    """What people copy can be read by what reads it."""
    for block in (block for page in pages() for block in blocks(page)):
        match block.language:
            case "python":
                ast.parse(block.text)
            case "yaml":
                yaml.safe_load(block.text)
            case "toml":
                tomllib.loads(block.text)


def test_the_service_of_the_page_starts_a_command_that_exists(tmp_path: Path) -> None:
    """systemd finds no fault with the unit, where it is here."""
    page = ROOT / "docs/how-to/one-machine.md"
    unit = next(block for block in blocks(page) if block.file and block.file.endswith(".service"))
    command = re.search(r"^ExecStart=\S+/hybrid-video (\S+)$", unit.text, re.MULTILINE)
    assert command is not None
    assert command[1] == "up"
    file = tmp_path / "hybrid-video.service"
    file.write_text(re.sub(r"^ExecStart=.*$", "ExecStart=/bin/true", unit.text, flags=re.MULTILINE), encoding="utf-8")
    try:
        done = subprocess.run(
            ["systemd-analyze", "verify", "--user", str(file)], capture_output=True, text=True, timeout=30, check=False
        )
    except FileNotFoundError:
        return
    assert "hybrid-video.service" not in done.stderr, done.stderr


def test_the_front_of_the_cloud_page_fills_in_every_variable_of_the_template() -> None:
    """A variable that stays empty would open the wrong door, or none."""
    page = (ROOT / "docs/how-to/cloud-vm.md").read_text(encoding="utf-8")
    template = (ROOT / "deploy/nginx/hybrid-video.conf.template").read_text(encoding="utf-8")
    given = set(re.findall(r"\b([A-Z][A-Z_0-9]+)=", "\n".join(re.findall(r"^\$ export (.*)$", page, re.MULTILINE))))
    assert set(re.findall(r"\$\{([A-Z_0-9]+)\}", template)) <= given


@pytest.mark.parametrize(
    ("shown", "printed", "fits"),
    [
        (["a", "b"], "a\nb\n", True),
        (["a", "c"], "a\nb\nc\n", False),
        (["a", "...", "c"], "a\nb\nc\n", True),
        (["a", "..."], "a\nb\n", True),
        (["a"], "a\nb\n", False),
        (["..."], "", True),
        (["...", "b"], "a\nc\n", False),
        (["│ opening │ local ... │ $0.00 │"], "│ opening  │ local comfyui │ $0.00 │", True),
        (["2 of 2 clips in ... s"], "1 of 2 clips in 3 s", False),
        (["cost ... s"], "\x1b[1mcost 3 s\x1b[0m", True),
    ],
)
def test_what_a_page_shows_is_compared_line_by_line(shown: list[str], printed: str, fits: bool) -> None:
    """The comparison itself can fail."""
    assert (mismatch(shown, printed) is None) is fits


def _pool() -> list[planner.Resource]:
    """The seed's figures, written down once more: a changed price list must not pass unseen."""
    return [
        planner.Resource("local", 3, 10, Decimal(0)),
        planner.Resource("cloud", 5, 20, Decimal("0.007")),
        planner.Resource("gemini", 10, 5, Decimal("0.08")),
    ]
