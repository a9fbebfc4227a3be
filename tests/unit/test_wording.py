"""The dashboard's words: complete in every language, all in one place, and numbers as people read them."""

from __future__ import annotations

import ast
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from hybrid_video.errors import FailureKind
from hybrid_video.models import AttemptState, JobState, Tier
from hybrid_video.preferences import Pods, Routing
from hybrid_video.wording import LANGUAGES, Words, catalogue
from hybrid_video.wording.texts import placeholders

DASHBOARD = Path(__file__).resolve().parents[2] / "dashboard"
FILES = sorted(DASHBOARD.rglob("*.py"))
PROSE = re.compile(r"[A-Za-zก-๙]{2,}[,.!?…]* +[A-Za-zก-๙]{2,}|^[A-Z][a-z]{2,}$")
"""Two words in a row, or one that begins like a label."""

NOT_SHOWN = {"Any", "Authorization", "Source Sans"}
SHOWN_ARGUMENTS = {"label", "help", "placeholder", "title", "text", "body", "caption", "alt"}


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_has_the_same_keys_and_placeholders(language: str) -> None:
    """A missing key would show English, a missing name would fail where it is filled in."""
    english, other = catalogue("en"), catalogue(language)
    assert set(english) == set(other)
    wrong = {key for key in english if placeholders(english[key]) != placeholders(other[key])}
    assert not wrong
    assert all(text.strip() for text in other.values())


def test_thai_is_thai() -> None:
    """Nearly every text differs from the English one; names and signs may be the same."""
    english, thai = catalogue("en"), catalogue("th")
    same = [key for key in english if english[key] == thai[key]]
    assert len(same) < 0.05 * len(english), same


def keys_of(tree: ast.Module) -> set[str]:
    """Keys that a file asks for in full."""
    return {
        node.args[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and node.args
        and isinstance(node.args[0], ast.Constant)
        and isinstance(node.args[0].value, str)
        and (
            (isinstance(node.func, ast.Name) and node.func.id == "w")
            or (isinstance(node.func, ast.Call) and getattr(node.func.func, "id", "") == "words")
        )
    }


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(DASHBOARD)))
def test_every_key_that_is_asked_for_exists(file: Path) -> None:
    """A key that nobody has written would be shown as itself."""
    assert not keys_of(ast.parse(file.read_text(encoding="utf-8"))) - set(catalogue("en"))


def test_every_key_is_asked_for() -> None:
    """Texts that nobody shows are translated for nothing. Keys made up at run time are known by their first part."""
    source = "\n".join(file.read_text(encoding="utf-8") for file in FILES)
    made_up = set(re.findall(r'f"([a-z_]+)\.(?:[a-z_]*)\{', source)) | set(
        re.findall(r"""known\(\s*["']([a-z_]+)["']""", source)
    )
    unused = {
        key
        for key in catalogue("en")
        if not re.search(rf"""["']{re.escape(key)}["']""", source)
        and key.split(".")[0] not in made_up | {"units", "preference"}
    }
    assert not sorted(unused)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(DASHBOARD)))
def test_no_page_holds_words_of_its_own(file: Path) -> None:
    """All wording is in the catalogues: nothing that reads like a sentence or a label stands in a page."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    quiet = documentation(tree) | logged(tree) | constants(tree, {"STYLE", "EXAMPLE", "ROWS"})
    found = [
        (node.lineno, node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in quiet
        and PROSE.search(re.sub(r"<[^>]*>|style=\"[^\"]*\"?|:material/\w+:", "", node.value))
        and node.value not in NOT_SHOWN
        and not re.search(r"[<>{};=]|px|rem|^\.|^#", node.value)
    ]
    assert not found


def documentation(tree: ast.Module) -> set[int]:
    """Docstrings."""
    return {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }


def logged(tree: ast.Module) -> set[int]:
    """What goes to the log."""
    return {
        id(argument)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and getattr(node.func.value, "id", "") == "log"
        for argument in node.args
    }


def constants(tree: ast.Module, names: set[str]) -> set[int]:
    """Values of constants that are no wording: the style sheet, an example file."""
    return {
        id(part)
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") in names
        for part in ast.walk(node.value)
    }


@pytest.mark.parametrize(
    ("section", "names"),
    [
        ("tier", [tier.value for tier in Tier]),
        ("job_state", [state.value for state in JobState]),
        ("attempt_state", [state.value for state in AttemptState]),
        ("error", [kind.value for kind in FailureKind]),
        ("preference", [*Routing.model_fields, *Pods.model_fields]),
        ("term", ["priority", "cost", "speed", "queue"]),
        ("batch_state", ["running", "interrupted", "done", "failed", "cancelled", "stopped", "uncertain"]),
        ("backend_state", ["off", "healthy", "unhealthy", "unknown"]),
    ],
)
def test_every_state_and_kind_has_a_name(section: str, names: list[str]) -> None:
    """A new state would otherwise appear as a bare identifier."""
    assert not [name for name in names if f"{section}.{name}" not in catalogue("en")]


def test_an_unknown_key_is_shown_and_not_an_error() -> None:
    """A page with one word missing is better than none."""
    assert Words()("no.such_key") == "no.such_key"
    assert Words().known("error", "quite-new_kind") == "quite-new kind"
    assert Words("xx")("tier.local") == "Your GPU"


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (Decimal(0), "$0"),
        (Decimal("0.000310"), "$0.00031"),
        (Decimal("0.007"), "$0.007"),
        (Decimal("0.0691"), "$0.069"),
        (Decimal("0.1"), "$0.10"),
        (Decimal("1234.567"), "$1,234.57"),
        (Decimal("123456.7"), "$123,457"),
        (Decimal("-2.5"), "-$2.50"),
        (Decimal("0.000000001"), "$0.000000001"),
        (None, "–"),
    ],
)
def test_money_is_never_rounded_to_nothing(amount: Decimal | None, text: str) -> None:
    """Small amounts keep two digits that say something."""
    assert Words().amounts.usd(amount) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (2.54, "2.5 s"),
        (59.7, "60 s"),
        (119.4, "119 s"),
        (200, "3 min 20 s"),
        (3600, "1 h"),
        (5400, "1 h 30 min"),
        (172_800, "2 d"),
        (200_000, "2 d 8 h"),
        (float("inf"), "–"),
        (None, "–"),
    ],
)
def test_durations_have_two_units_at_most(seconds: float | None, text: str) -> None:
    """As people say them."""
    assert Words().amounts.duration(seconds) == text


def test_ages_sizes_and_shares() -> None:
    """The remaining kinds of numbers."""
    say, now = Words().amounts, datetime(2026, 1, 2, tzinfo=UTC)
    assert say.ago(now - timedelta(hours=5, minutes=50), now=now) == "5 h ago"
    assert say.ago(now, now=now) == "just now"
    assert say.ago(None) == "never"
    assert say.size(999) == "999 B"
    assert say.size(1_234_567) == "1.2 MB"
    assert say.percent(0.7967) == "79.7 %"
    assert say.percent(None) == "–"
    assert say.count(10_000) == "10,000"
    assert Words("th").amounts.duration(200) == "3 นาที 20 วินาที"
