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
from hybrid_video.workflows import CustomNodes, ModelFile

_UPLOADS = ("image_upload", "video_upload", "audio_upload", "file_upload")
_SHOWN = 3

Choices = tuple[tuple[str, Sequence[Any], Mapping[str, Any]], ...]
"""List inputs of one node class: name, options, configuration."""


@dataclass(frozen=True)
class Problem:
    """One thing a server lacks, as a whole sentence for the user."""

    kind: FailureKind
    sentence: str


@dataclass(frozen=True)
class Sources:
    """Where what a workflow needs can be got; makes the remedies precise."""

    models: Sequence[ModelFile] = ()
    custom_nodes: Sequence[CustomNodes] = ()

    def of_model(self, file: str, class_type: str, input_name: str) -> str:
        """Folder of a model file, and its address where known."""
        known = next((model for model in self.models if model.file == file), None)
        if known is None:
            return model_folder(class_type, input_name) + " there"
        return f"models/{known.folder} there" + (f", from {known.url}" if known.url else "")

    def of_nodes(self) -> str:
        """Packages that bring nodes which are not part of ComfyUI."""
        packages = " and ".join(f"{package.name} ({package.url})" for package in self.custom_nodes)
        return packages or "the custom node"


def problems(
    graph: Mapping[str, Any],
    object_info: Mapping[str, Any],
    *,
    uploaded: frozenset[str] = frozenset(),
    sources: Sources | None = None,
    known: dict[str, Choices] | None = None,
) -> tuple[Problem, ...]:
    """What the graph needs and the server does not have.

    Args:
        graph: API format, bound.
        object_info: the server's whole `/object_info`.
        uploaded: names of input files that will be uploaded before the graph is sent.
        sources: where models and custom nodes come from.
        known: what was found in this `object_info` before, and is added to: a batch asks once for each job.
    """
    sources, known = sources or Sources(), {} if known is None else known
    found: dict[str, Problem] = {}
    for node_id, node in graph.items():
        class_type = str(node.get("class_type", "")) if isinstance(node, Mapping) else ""
        schema = object_info.get(class_type)
        if not isinstance(schema, Mapping):
            sentence = (
                f"it has no node {class_type!r} (node {node_id} of the workflow): install {sources.of_nodes()} there, "
                "or use another workflow"
            )
            found.setdefault(class_type, Problem(FailureKind.MISSING_NODE, sentence))
            continue
        choices = known.get(class_type)
        if choices is None:
            choices = known[class_type] = tuple(_lists(schema))
        for problem in _inputs(node_id, node, choices, uploaded=uploaded, sources=sources):
            found.setdefault(problem.sentence, problem)
    return tuple(found.values())


def summary(found: Sequence[Problem]) -> str:
    """The first few problems in one line."""
    more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return "; ".join(problem.sentence for problem in found[:_SHOWN]) + more


def _inputs(
    node_id: str, node: Mapping[str, Any], choices: Choices, *, uploaded: frozenset[str], sources: Sources
) -> Iterator[Problem]:
    class_type, inputs = str(node["class_type"]), node.get("inputs")
    where = f"node {node_id} ({class_type})"
    for name, options, config in choices:
        value = inputs.get(name) if isinstance(inputs, Mapping) else None
        if not isinstance(value, str | int | float) or value in options:
            continue
        text = str(value)
        if text in uploaded or text in {str(option) for option in options}:
            continue
        shown = repr(redact(text, 200))
        if any(config.get(flag) for flag in _UPLOADS):
            if "/" in text or text.endswith("]"):
                continue  # in a subfolder or with "[output]": such names are valid without being listed
            sentence = f"{where} reads {name!r} = {shown}, which is not in its input folder: upload the file there"
            yield Problem(FailureKind.INVALID_REQUEST, sentence)
        elif looks_like_model(text):
            target = sources.of_model(text, class_type, name)
            sentence = f"{where} needs the model file {shown} as {name!r}: download it to {target}"
            yield Problem(FailureKind.MISSING_MODEL, sentence)
        else:
            sentence = f"{where} does not know {name!r} = {shown}: choose one of {_some(options)}"
            yield Problem(FailureKind.INVALID_REQUEST, sentence)


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
