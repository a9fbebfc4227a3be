"""Holds a graph against a server's `/object_info` before anything is sent: missing nodes, missing model files.

Pure. Lists come in two styles, both live (they follow the files on disk): V1 `[["a", "b"], {…}]` and
V3 `["COMBO", {"options": ["a", "b"]}]` (observed on ComfyUI 0.8.0). What the lists cannot tell is left to the server.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hybrid_video.backends.comfyui.rejections import looks_like_model, model_folder
from hybrid_video.errors import FailureKind
from hybrid_video.redaction import redact

_UPLOADS = ("image_upload", "video_upload", "audio_upload", "file_upload")
_SHOWN = 3


@dataclass(frozen=True)
class Problem:
    """One thing a server lacks, as a whole sentence for the user."""

    kind: FailureKind
    sentence: str


def problems(
    graph: Mapping[str, Any], object_info: Mapping[str, Any], *, uploaded: frozenset[str] = frozenset()
) -> tuple[Problem, ...]:
    """What the graph needs and the server does not have.

    Args:
        graph: API format, bound.
        object_info: the server's whole `/object_info`.
        uploaded: names of input files that will be uploaded before the graph is sent.
    """
    found: dict[str, Problem] = {}
    for node_id, node in graph.items():
        class_type = str(node.get("class_type", "")) if isinstance(node, Mapping) else ""
        schema = object_info.get(class_type)
        if not isinstance(schema, Mapping):
            sentence = (
                f"it has no node {class_type!r} (node {node_id} of the workflow): install the custom node there, "
                "or use another workflow"
            )
            found.setdefault(class_type, Problem(FailureKind.MISSING_NODE, sentence))
            continue
        inputs = node.get("inputs")
        for problem in _inputs(node_id, class_type, inputs if isinstance(inputs, Mapping) else {}, schema, uploaded):
            found.setdefault(problem.sentence, problem)
    return tuple(found.values())


def summary(found: Sequence[Problem]) -> str:
    """The first few problems in one line."""
    more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return "; ".join(problem.sentence for problem in found[:_SHOWN]) + more


def _inputs(
    node_id: str, class_type: str, inputs: Mapping[str, Any], schema: Mapping[str, Any], uploaded: frozenset[str]
) -> Iterator[Problem]:
    for name, options, config in _lists(schema):
        value = inputs.get(name)
        if not isinstance(value, str | int | float) or value in options:
            continue
        text = str(value)
        if text in uploaded or text in {str(option) for option in options}:
            continue
        if any(config.get(flag) for flag in _UPLOADS):
            if "/" in text or text.endswith("]"):
                continue  # in a subfolder or with "[output]": such names are valid without being listed
            sentence = f"node {node_id} ({class_type}) reads {name!r} = {redact(text, 200)!r}, which is not in its "
            yield Problem(FailureKind.INVALID_REQUEST, sentence + "input folder: upload the file there")
        elif looks_like_model(text):
            sentence = f"node {node_id} ({class_type}) needs the model file {redact(text, 200)!r} as {name!r}: "
            folder = model_folder(class_type, name)
            yield Problem(FailureKind.MISSING_MODEL, sentence + f"download it to {folder} there")
        else:
            sentence = f"node {node_id} ({class_type}) does not know {name!r} = {redact(text, 200)!r}: "
            yield Problem(FailureKind.INVALID_REQUEST, sentence + f"choose one of {_some(options)}")


def _lists(schema: Mapping[str, Any]) -> Iterator[tuple[str, Sequence[Any], Mapping[str, Any]]]:
    """Every list input of a node with its options and its configuration."""
    groups = schema.get("input")
    for group in ("required", "optional"):
        members = groups.get(group) if isinstance(groups, Mapping) else None
        for name, spec in (members if isinstance(members, Mapping) else {}).items():
            if not isinstance(spec, Sequence) or isinstance(spec, str) or not spec:
                continue
            config = spec[1] if len(spec) > 1 and isinstance(spec[1], Mapping) else {}
            if config.get("multiselect") or config.get("multi_select") or config.get("remote"):
                continue
            if isinstance(spec[0], list):
                yield name, spec[0], config
            elif spec[0] == "COMBO" and isinstance(config.get("options"), list):
                yield name, config["options"], config


def _some(options: Sequence[Any]) -> str:
    shown = ", ".join(repr(option) for option in options[:8])
    return f"{shown}, …" if len(options) > 8 else shown or "(none is installed)"
