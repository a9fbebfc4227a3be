"""API-format graphs: reading them from a file, checking their shape, walking their links.

A graph maps node ids to `{"class_type": ..., "inputs": {...}, "_meta": {"title": ...}}`. A link is a two-item list of
the source node's id and its output number. Nothing here knows a job.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeGuard

from hybrid_video.errors import InputError

Graph = dict[str, dict[str, Any]]

MAX_FILE_BYTES = 8 * 1024 * 1024

VIDEO_SAVERS = ("SaveVideo", "VHS_VideoCombine", "SaveWEBM", "SaveAnimatedWEBP")
"""Classes known to write a moving picture, the one most wanted first."""

EXPORT_REMEDY = "In ComfyUI open it and choose Workflow > Export (API), then use the exported file"


def copied(graph: Graph) -> Graph:
    """A copy that shares nothing that can be changed; ten times as fast as `copy.deepcopy`, which knows no JSON."""
    return {id_: _copied(node) for id_, node in graph.items()}


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _copied(member) for name, member in value.items()}
    return [_copied(member) for member in value] if isinstance(value, list) else value


def is_link(value: object) -> TypeGuard[list[Any]]:
    """Whether an input's value is a link, by ComfyUI's own rule: two items, a text and a number."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], int | float)
        and not isinstance(value[1], bool)
    )


def title_of(node: dict[str, Any]) -> str:
    """The node's title as shown in the editor, or an empty text."""
    meta = node.get("_meta")
    title = meta.get("title") if isinstance(meta, dict) else None
    return title.strip() if isinstance(title, str) else ""


def links_of(node: dict[str, Any]) -> Iterator[tuple[str, str, int]]:
    """Every link of a node: input name, source node id, output number."""
    for name, value in node["inputs"].items():
        if is_link(value):
            yield name, value[0], int(value[1])


def ancestors(graph: Graph, roots: Iterable[str]) -> set[str]:
    """The given nodes and everything they depend on."""
    found: set[str] = set()
    waiting = list(roots)
    while waiting:
        id_ = waiting.pop()
        if id_ in found or id_ not in graph:
            continue
        found.add(id_)
        waiting.extend(source for _, source, _ in links_of(graph[id_]))
    return found


def save_nodes(graph: Graph) -> list[str]:
    """Ids of the nodes that write files under a `filename_prefix`, in the order of the graph."""
    return [id_ for id_, node in graph.items() if "filename_prefix" in node["inputs"]]


def video_nodes(graph: Graph) -> list[str]:
    """Ids of the nodes that write a video, the most wanted class first.

    A node of an unknown class counts when its title is OUTPUT.
    """
    known = [id_ for id_, node in graph.items() if node["class_type"] in VIDEO_SAVERS]
    titled = [id_ for id_, node in graph.items() if title_of(node).casefold() == "output" and id_ not in known]
    return sorted(known, key=lambda id_: VIDEO_SAVERS.index(graph[id_]["class_type"])) + titled


def load_graph(path: Path) -> Graph:
    """Reads and checks a workflow file. The result is shared: copy it before changing it.

    Raises:
        InputError: the file cannot be read, or is not a workflow in API format.
    """
    try:
        stat = path.stat()
    except OSError as error:
        raise InputError(
            f"workflow {str(path)!r} cannot be read: {error.strerror}. Check the path; it is relative to the batch file"
        ) from error
    if stat.st_size > MAX_FILE_BYTES:
        raise InputError(
            f"workflow {path.name!r} has {stat.st_size} bytes, more than {MAX_FILE_BYTES}; "
            "export it again without embedded data"
        )
    return _load(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=64)
def _load(path: Path, _modified_ns: int, _size: int) -> Graph:
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"), parse_constant=_refuse_constant)
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise InputError(f"workflow {path.name!r} is not valid JSON: {error}. {EXPORT_REMEDY}") from error
    return check_graph(data, path.name)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def check_graph(data: object, source: str) -> Graph:
    """Checks decoded JSON and returns its graph, unwrapped if it was wrapped in `{"prompt": ...}`.

    Args:
        data: The decoded JSON.
        source: Name of the file, for messages.

    Raises:
        InputError: it is not an API-format graph that saves a video; `problems` lists every reason.
    """
    if not isinstance(data, dict):
        raise InputError(f"workflow {source!r} holds a JSON {type(data).__name__}, not an object. {EXPORT_REMEDY}")
    if isinstance(data.get("nodes"), list) and "links" in data:
        raise InputError(f"workflow {source!r} is in the editor's format (nodes and links). {EXPORT_REMEDY}")
    inner = data.get("prompt")
    if isinstance(inner, dict) and "class_type" not in inner:
        return check_graph(inner, source)
    problems = list(_shape_problems(data)) or [*_link_problems(data), *_output_problems(data)]
    if problems:
        raise InputError(f"workflow {source!r} cannot be used: {problems[0]}", tuple(problems))
    return data


def _shape_problems(data: dict[str, Any]) -> Iterator[str]:
    if not data:
        yield f"it has no nodes. {EXPORT_REMEDY}"
    for id_, node in data.items():
        if not isinstance(node, dict):
            yield f"entry {id_!r} is not a node but {node!r:.60}. {EXPORT_REMEDY}"
        elif not isinstance(node.get("class_type"), str) or not node["class_type"]:
            yield f"node {id_!r} has no class_type. {EXPORT_REMEDY}"
        elif not isinstance(node.get("inputs"), dict):
            yield f"node {id_!r} ({node['class_type']}) has no inputs object. {EXPORT_REMEDY}"


def _link_problems(graph: Graph) -> Iterator[str]:
    for id_, node in graph.items():
        for name, value in node["inputs"].items():
            where = f"input {name!r} of node {id_!r} ({node['class_type']})"
            if is_link(value):
                if value[0] not in graph:
                    yield f"{where} is linked to node {value[0]!r}, which does not exist; connect it again and export"
                elif value[1] < 0 or value[1] != int(value[1]):
                    yield f"{where} names the output {value[1]!r}; outputs count 0, 1, 2 ..."
            elif _is_integer_link(value, graph):
                yield f"{where} links to {value[0]!r}; node ids in links are texts, write {[str(value[0]), value[1]]!r}"
    cycle = find_cycle(graph)
    if cycle:
        yield f"its links form a circle ({' -> '.join(cycle)}); a node cannot depend on itself"


def _is_integer_link(value: object, graph: Graph) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(isinstance(item, int) and not isinstance(item, bool) for item in value)
        and str(value[0]) in graph
    )


def _output_problems(graph: Graph) -> Iterator[str]:
    if not video_nodes(graph):
        yield (
            f"no node saves a video; add one of {', '.join(VIDEO_SAVERS)}, "
            "or give the title OUTPUT to the node that writes the clip"
        )


def find_cycle(graph: Graph) -> list[str]:
    """The ids of one circle of links, its first id repeated at the end; empty when there is none."""
    state: dict[str, int] = {}
    for start in graph:
        if start in state:
            continue
        path: list[str] = []
        stack: list[tuple[str, Iterator[str]]] = []
        waiting: str | None = start
        while waiting is not None or stack:
            if waiting is not None:
                state[waiting] = 1
                path.append(waiting)
                stack.append((waiting, iter([source for _, source, _ in links_of(graph[waiting])])))
                waiting = None
            for source in stack[-1][1]:
                if state.get(source) == 1:
                    return [*path[path.index(source) :], source]
                if source not in state and source in graph:
                    waiting = source
                    break
            if waiting is None:
                state[stack.pop()[0]] = 2
                path.pop()
    return []
