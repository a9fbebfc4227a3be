"""Reading workflow files: what is accepted, what is refused and with which words."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_video.errors import InputError
from hybrid_video.workflows.graph import MAX_FILE_BYTES, check_graph, find_cycle, load_graph

SAVE: dict[str, Any] = {"class_type": "SaveVideo", "inputs": {"video": ["video", 0], "filename_prefix": "x"}}


def small(**nodes: Any) -> dict[str, Any]:
    """Four black frames saved as a video, with nodes added or replaced."""
    return {
        "img": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 4, "color": 0}},
        "video": {"class_type": "CreateVideo", "inputs": {"images": ["img", 0], "fps": 8.0}},
        "save": SAVE,
        **nodes,
    }


def written(folder: Path, data: object) -> Path:
    """A workflow file with the given content."""
    path = folder / "flow.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return path


def node(**inputs: Any) -> dict[str, Any]:
    """Some node with these inputs."""
    return {"class_type": "Thing", "inputs": inputs}


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"nodes": [], "links": [], "version": 0.4}, r"editor's format.*Workflow > Export \(API\)"),
        ({"id": "x", "last_node_id": 3, "nodes": [{"id": 1}], "links": []}, "editor's format"),
        ([1, 2], "holds a JSON list, not an object"),
        ({}, "it has no nodes"),
        ("{", "not valid JSON"),
        ('{"a": NaN}', "not valid JSON: NaN is not a JSON number"),
        ("[" * 100_000, "not valid JSON"),
        ({"3": {"inputs": {}}}, "node '3' has no class_type"),
        ({"3": {"class_type": "KSampler"}}, r"node '3' \(KSampler\) has no inputs"),
        ({"version": 1, "3": node()}, "entry 'version' is not a node but 1"),
        ({"prompt": {"prompt": {"3": {}}}}, "node '3' has no class_type"),
        (small(save=node(video=["video", 0])), "no node saves a video; add one of SaveVideo"),
        (small(more=node(image=["gone", 0])), "input 'image' of node 'more' .* node 'gone', which does not exist"),
        (small(more=node(image=["img", -1])), "names the output -1"),
        (small(**{"2": node(), "more": node(image=[2, 0])}), r"node ids in links are texts, write \['2', 0\]"),
        (small(a=node(x=["b", 0]), b=node(x=["a", 0])), "its links form a circle"),
        (small(a=node(x=["a", 0])), "circle .a -> a."),
    ],
)
def test_what_is_no_usable_workflow_is_refused_by_its_reason(tmp_path: Path, data: object, expected: str) -> None:
    """Each with the file's name and what to do."""
    with pytest.raises(InputError, match=expected) as caught:
        load_graph(written(tmp_path, data))

    assert "'flow.json'" in str(caught.value)
    assert caught.value.problems


def test_every_problem_is_listed_not_only_the_first(tmp_path: Path) -> None:
    """The user corrects a file once."""
    with pytest.raises(InputError) as caught:
        load_graph(written(tmp_path, small(a=node(x=["p", 0], y=["q", 0]))))

    assert len(caught.value.problems) == 2


def test_a_graph_wrapped_as_a_request_body_is_unwrapped(tmp_path: Path) -> None:
    """`{"prompt": graph, "client_id": ...}` is what scripts save."""
    assert load_graph(written(tmp_path, {"prompt": small(), "client_id": "x"})) == small()


def test_a_node_whose_id_is_prompt_is_not_taken_for_a_wrapper(tmp_path: Path) -> None:
    """ComfyUI accepts any text as a node id."""
    graph = small(prompt={"class_type": "PrimitiveStringMultiline", "inputs": {"value": "x"}})

    assert load_graph(written(tmp_path, graph)) == graph


def test_a_byte_order_mark_is_no_obstacle(tmp_path: Path) -> None:
    """Windows editors write one."""
    assert load_graph(written(tmp_path, "\ufeff" + json.dumps(small()))) == small()


def test_lists_that_are_data_are_not_links(tmp_path: Path) -> None:
    """Longer lists, pairs of numbers that name no node, and wrapped values stay as they are."""
    graph = small(more=node(a=[1, 2, 3], b=[0.5, 1], c={"__value__": ["img", 0]}, d=[True, 0], e=[99, 0]))

    assert load_graph(written(tmp_path, graph)) == graph


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    """Parsed files are kept, but not beyond a change."""
    path = written(tmp_path, small())
    load_graph(path)
    path.write_text(json.dumps(small(extra=node())), encoding="utf-8")
    os.utime(path, ns=(1, 1))

    assert "extra" in load_graph(path)


def test_a_missing_and_an_oversized_file_are_refused(tmp_path: Path) -> None:
    """Neither is read."""
    with pytest.raises(InputError, match="cannot be read: No such file"):
        load_graph(tmp_path / "gone.json")
    big = tmp_path / "big.json"
    with big.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(InputError, match="more than 8388608"):
        load_graph(big)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=20))
def test_a_circle_is_found_exactly_when_there_is_no_order(edges: list[tuple[int, int]]) -> None:
    """Compared with removing nodes that depend on nothing until none is left."""
    graph: dict[str, dict[str, Any]] = {str(n): node() for n in range(8)}
    for index, (target, source) in enumerate(edges):
        graph[str(target)]["inputs"][f"i{index}"] = [str(source), 0]
    left = {str(n): {str(s) for t, s in edges if t == n} for n in range(8)}
    while free := [n for n, needs in left.items() if not needs]:
        left = {n: needs - set(free) for n, needs in left.items() if n not in free}

    cycle = find_cycle(graph)

    assert bool(cycle) == bool(left)
    for before, after in itertools.pairwise(cycle):
        assert (int(before), int(after)) in edges
    assert not cycle or cycle[0] == cycle[-1]


def test_a_chain_of_thousands_of_nodes_is_walked_without_recursion() -> None:
    """A long chain is unusual but legal."""
    graph = small(**{f"n{n}": node(x=[f"n{n - 1}", 0] if n else 1) for n in range(5000)})

    assert check_graph(graph, "long.json") is graph
