"""Every address of the API against every role: none is open that the documentation's table does not call open."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hybrid_video.api.access import PUBLIC, RANK
from tests.unit.api_rig import Served, serving

ROOT = Path(__file__).resolve().parents[2]
METHODS = ("get", "head", "post", "put", "patch", "delete")
CALLERS: tuple[Any, ...] = (None, *RANK)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """An API with a token for each role."""
    with serving(tmp_path_factory.mktemp("roles"), roles=True) as running:
        yield running


def routes(served: Served) -> list[tuple[str, str]]:
    """Method and path of everything it serves."""
    document = served.http.get("/openapi.json").json()
    return [
        (method.upper(), path) for path, found in document["paths"].items() for method in METHODS if method in found
    ]


def documented() -> dict[tuple[str, str], str]:
    """Method and path as `docs/api.md` tells them, with the role that each needs."""
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    table = text.partition("## Addresses")[2].partition("## Submitting")[0]
    found: dict[tuple[str, str], str] = {}
    for cell, roles in re.findall(r"^\| (`.*?) \| (–|[a-z, ]+) \|", table, re.MULTILINE):
        quoted = " ".join(re.findall(r"`([^`]+)`", cell))
        methods = re.findall(r"\b(?:GET|POST|PUT|DELETE)\b", quoted)
        paths = [word for word in re.findall(r"[/…][\w/{}…-]*", quoted) if len(word) > 1]
        by_method = [role.strip() for role in roles.split(",")]
        for number, method in enumerate(methods):
            for path in paths:
                found[method, path] = by_method[min(number, len(by_method) - 1)]
    return found


def needed(told: dict[tuple[str, str], str], method: str, path: str) -> str:
    """The role in the table for an address; its rows shorten paths from the left."""
    match = [role for (known, end), role in told.items() if known == method and path.endswith(end.replace("/…", ""))]
    assert match, f"docs/api.md does not name {method} {path}"
    return max(match, key=lambda role: RANK.get(role, -1))  # type: ignore[call-overload,unused-ignore]


def test_every_address_refuses_whoever_has_less_than_the_documented_role(served: Served) -> None:
    """401 without a token, 403 with a lower one, and never an answer; looked at in full, so a new address is too."""
    told, wrong = documented(), []
    found = routes(served)
    assert len(found) > 25
    for method, path in found:
        role = "–" if path in PUBLIC else needed(told, method, path)
        address = re.sub(r"{\w+}", "none", path)
        for caller in CALLERS:
            if role in RANK and caller is not None and RANK[caller] >= RANK[role]:  # type: ignore[index]
                continue
            if role == "–":
                continue
            with served.as_role(caller) as http:
                answer = http.request(method, address, json={} if method in ("POST", "PUT") else None)
            expected = 401 if caller is None else 403
            if answer.status_code != expected:
                wrong.append(f"{method} {path} as {caller}: {answer.status_code} instead of {expected}")
    assert not wrong, "\n".join(wrong)


def test_only_looking_needs_no_more_than_the_right_to_read(served: Served) -> None:
    """A read token is not refused where nothing is changed."""
    with served.as_role("read") as reader:
        for method, path in routes(served):
            if method == "GET":
                answer = reader.get(re.sub(r"{\w+}", "none", path))
                assert answer.status_code not in (401, 403), (path, answer.text)
