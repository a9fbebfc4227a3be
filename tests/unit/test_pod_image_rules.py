"""Which requests the gate of a pod lets through, by its pure rules."""

from __future__ import annotations

import sys
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[2] / "docker" / "comfyui-pod"))

from gate_rules import ROUTES, RefusedError, judge


def refused(method: str, target: str) -> int:
    """The status a request is refused with."""
    with pytest.raises(RefusedError) as caught:
        judge(method, target)
    return caught.value.status


@pytest.mark.parametrize(
    ("method", "target", "forwarded"),
    [
        ("POST", "/prompt", "/prompt"),
        ("GET", "/prompt", "/prompt"),
        ("POST", "/api/prompt", "/prompt"),
        ("GET", "/queue", "/queue"),
        ("POST", "/queue", "/queue"),
        ("GET", "/history?max_items=3", "/history?max_items=3"),
        ("GET", "/history/0b9f-12", "/history/0b9f-12"),
        (
            "GET",
            "/view?filename=a%20b.mp4&subfolder=hv/x&type=output",
            "/view?filename=a+b.mp4&subfolder=hv%2Fx&type=output",
        ),
        ("HEAD", "/view?filename=a.mp4", "/view?filename=a.mp4"),
        ("POST", "/upload/image", "/upload/image"),
        ("GET", "/object_info", "/object_info"),
        ("GET", "/object_info/KSampler", "/object_info/KSampler"),
        ("GET", "/models/vae", "/models/vae"),
        ("GET", "/system_stats", "/system_stats"),
        ("POST", "/interrupt", "/interrupt"),
        ("POST", "/free", "/free"),
        ("GET", "/api/jobs?status=pending", "/api/jobs?status=pending"),
        ("GET", "/jobs/7", "/api/jobs/7"),
    ],
)
def test_what_a_controller_needs_passes(method: str, target: str, forwarded: str) -> None:
    """Every call of the client is offered, with and without ComfyUI's /api prefix."""
    assert judge(method, target).target == forwarded


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/ws?clientId=1",
        "/internal/logs",
        "/internal/folder_paths",
        "/userdata/x",
        "/extensions",
        "/upload/mask",
        "/api/api/prompt",
        "/manager/reboot",
        "/customnode/install",
        "/prompt/extra",
        "/embeddings",
        "/settings",
    ],
)
def test_what_nobody_needs_is_not_there(target: str) -> None:
    """Anything that is not on the list is 404, whatever ComfyUI would say; some spellings are already malformed."""
    assert refused("GET", target) in (400, 404)
    assert refused("POST", target) in (400, 404)


@pytest.mark.parametrize(
    "target",
    [
        "/history/../internal/logs",
        "/history/%2e%2e/internal/logs",
        "/history/..%2finternal%2flogs",
        "/history/%2E%2E%2Finternal",
        "/models/..",
        "/models/%2e",
        "/models/a%5cb",
        "/models/a%00",
        "/history/a%0d%0aX-Injected:%201",
        "//internal/logs",
        "/history//x",
        "/prompt/",
        "/history/%ff",
        "/history/" + "x" * 300,
        "http://127.0.0.1/prompt",
        "*",
    ],
)
def test_a_path_that_only_looks_allowed_is_malformed(target: str) -> None:
    """Dot parts, encoded slashes, control characters and empty parts are refused, not cleaned up."""
    assert refused("GET", target) == 400


@pytest.mark.parametrize(
    "query",
    [
        "",
        "filename=",
        "filename=../../etc/passwd",
        "filename=%2e%2e%2fsecret",
        "filename=/etc/passwd",
        "filename=a\\b",
        "filename=a.mp4&subfolder=../..",
        "filename=a.mp4&subfolder=/etc",
        "filename=a.mp4&subfolder=x//y",
        "filename=a.mp4&type=temp2",
        "filename=a.mp4&type=output&type=input",
        "filename=a.mp4&channel=rgb",
        "filename=a.mp4&preview=webp",
    ],
)
def test_only_files_of_comfyuis_own_folders_can_be_named(query: str) -> None:
    """Other folders, repeated fields and fields that make ComfyUI decode something are refused."""
    assert refused("GET", f"/view?{query}") == 400


def test_another_method_is_named_with_what_is_offered() -> None:
    """405 carries the methods for `Allow`."""
    with pytest.raises(RefusedError) as caught:
        judge("DELETE", "/prompt")
    assert (caught.value.status, caught.value.allow) == (405, frozenset({"GET", "POST"}))
    assert refused("POST", "/history") == 405  # which would delete what the controller still has to collect
    assert refused("GET", "/prompt?" + "a" * 5000) == 414


@given(st.text(max_size=60))
def test_whatever_is_asked_only_listed_paths_come_out(text: str) -> None:
    """For any text as a path: refused, or a target whose parts are those of a listed route, with no dot part."""
    for target in (
        f"/{quote(text, safe='/?&=%')}",
        f"/history/{quote(text, safe='%')}",
        f"/models/{quote(text, safe='')}",
    ):
        try:
            passage = judge("GET", target)
        except RefusedError:
            continue
        parts = [unquote(part) for part in urlsplit(passage.target).path.strip("/").split("/")]
        assert next(part for part in parts if part != "api") in {route.segments[0] for route in ROUTES}
        assert not {"", ".", ".."} & set(parts)
        assert all("/" not in part for part in parts)


@given(st.text(max_size=40), st.text(max_size=40))
def test_no_query_can_smuggle_a_second_field(name: str, folder: str) -> None:
    """What passes holds exactly the fields that were given, decoded to the same values."""
    given_fields = [("filename", name), ("subfolder", folder)]
    query = "&".join(f"{key}={quote(value, safe='')}" for key, value in given_fields)
    try:
        passage = judge("GET", f"/view?{query}")
    except RefusedError:
        return
    assert parse_qsl(passage.target.partition("?")[2], keep_blank_values=True) == given_fields
    assert ".." not in name
    assert "/" not in name


def test_the_page_lists_exactly_the_routes_there_are() -> None:
    """docs/pods.md: every route with its methods and its largest body, and none that is not there."""
    page = (Path(__file__).parents[2] / "docs" / "pods.md").read_text(encoding="utf-8")
    table = page.partition("| route | methods | largest body |")[2].partition("\n\n")[0]
    listed = {}
    for line in table.splitlines()[2:]:
        paths, methods, body = (cell.strip() for cell in line.strip().strip("|").split("|"))
        for path in paths.split(", "):
            listed[path.strip("`")] = (frozenset(methods.split(", ")), body)
    there = {}
    for route in ROUTES:
        path = f"{route.prefix}/" + "/".join(f"<{hint}>" if hint == "*" else hint for hint in route.segments)
        size = route.largest_body
        body = f"{size // 2**20} MiB" if size >= 2**20 else f"{size // 1024} KiB"
        there[path] = (route.methods, body if "POST" in route.methods else "")
    generic = {
        path.replace("<id>", "<*>").replace("<node>", "<*>").replace("<folder>", "<*>"): v for path, v in listed.items()
    }
    assert generic == there
