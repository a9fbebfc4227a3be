"""Translates ComfyUI's validation errors (a 400, or a 200 with `node_errors`) into errors a user can act on."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from hybrid_video.backends.comfyui.records import NodeError, parse_node_errors
from hybrid_video.errors import FailureKind, TerminalError
from hybrid_video.redaction import redact

MODEL_SUFFIXES = (".safetensors", ".sft", ".ckpt", ".pt", ".pt2", ".pth", ".bin", ".gguf", ".onnx", ".pkl")
"""What makes a value of a list a model file: ComfyUI's own list of suffixes, and two of custom nodes."""

_MISSING_CLASS = re.compile(r"node (?P<name>.+?) does not exist")
_SHOWN = 5


def looks_like_model(value: str) -> bool:
    """Whether a value names a model file."""
    return value.lower().endswith(MODEL_SUFFIXES)


def model_folder(class_type: str, input_name: str) -> str:
    """Where ComfyUI looks for the file an input names, below `models/`; a guess from the input's name."""
    known = {
        "ckpt_name": "checkpoints",
        "unet_name": "diffusion_models",
        "vae_name": "vae",
        "lora_name": "loras",
        "control_net_name": "controlnet",
        "style_model_name": "style_models",
        "clip_name": "clip_vision" if "vision" in class_type.lower() else "text_encoders",
        "upscale_model": "upscale_models",
        "model_name": "upscale_models" if "upscale" in class_type.lower() else "",
    }
    folder = known.get(input_name.rstrip("0123456789"), "")
    return f"models/{folder}" if folder else "its folder under models"


def rejection(text: str, *, backend: str, url: str) -> TerminalError:
    """The error for a 400 of `POST /prompt`."""
    try:
        body = json.loads(text)
    except ValueError:
        body = {}
    error = body.get("error") if isinstance(body, Mapping) else None
    error = error if isinstance(error, Mapping) else {"message": text}
    node_errors = parse_node_errors(body.get("node_errors")) if isinstance(body, Mapping) else ()
    missing = _missing_class(error)
    if missing:
        return TerminalError(
            f"ComfyUI at {url!r} has no node {missing!r}; install the custom node there, or use another workflow",
            kind=FailureKind.MISSING_NODE,
            backend=backend,
            detail=redact(error.get("message", ""), 500),
        )
    if node_errors:
        return node_rejection(node_errors, backend=backend, url=url)
    words = " ".join(str(error.get(part) or "") for part in ("type", "message", "details")).strip()
    return TerminalError(
        f"ComfyUI at {url!r} refused the workflow ({redact(words, 500)!r}); correct it, and export it with "
        "Workflow > Export (API)",
        kind=FailureKind.INVALID_WORKFLOW,
        backend=backend,
        detail=redact(words, 500),
    )


def node_rejection(errors: Sequence[NodeError], *, backend: str, url: str) -> TerminalError:
    """The error for `node_errors`. A workflow that is wrong in itself stays wrong after a model is installed, so the
    gravest kind decides."""
    kinds = [_kind(error) for error in errors]
    order = (FailureKind.MISSING_MODEL, FailureKind.INVALID_REQUEST, FailureKind.INVALID_WORKFLOW)
    kind = max(kinds, key=order.index, default=FailureKind.INVALID_WORKFLOW)
    sentences = list(dict.fromkeys(_sentence(error) for error in errors))
    more = f"; and {len(sentences) - _SHOWN} more" if len(sentences) > _SHOWN else ""
    said = "; ".join(sentences[:_SHOWN]) + more
    return TerminalError(
        f"ComfyUI at {url!r} refused the workflow: {said}",
        kind=kind,
        backend=backend,
        detail=redact(said, 1000),
    )


def _missing_class(error: Mapping[str, Any]) -> str:
    if error.get("type") not in ("invalid_prompt", "missing_node_type"):
        return ""
    extra = error.get("extra_info")
    named = extra.get("class_type") if isinstance(extra, Mapping) else None
    match = _MISSING_CLASS.search(str(error.get("message", "")))
    return str(named) if named and not match else (match["name"].strip("'\"") if match else "")


def _kind(error: NodeError) -> FailureKind:
    if error.type == "value_not_in_list" and looks_like_model(_received(error)):
        return FailureKind.MISSING_MODEL
    if error.type in ("value_not_in_list", "custom_validation_failed"):
        return FailureKind.INVALID_REQUEST  # another server may well offer the value or hold the file
    return FailureKind.INVALID_WORKFLOW


def _received(error: NodeError) -> str:
    match = re.match(r"^[^:]+: '(?P<value>.*)' not in ", error.details)
    return error.received or (match["value"] if match else "")


def _sentence(error: NodeError) -> str:
    where = f"node {error.node} ({error.class_type})"
    if error.type == "value_not_in_list":
        value = redact(_received(error), 200)
        if looks_like_model(value):
            folder = model_folder(error.class_type, error.input_name)
            return f"{where} needs the model file {value!r} as {error.input_name!r}; put it into {folder} there"
        return f"{where} does not know {error.input_name!r} = {value!r}; choose one that this server offers"
    # Details may carry a Python traceback and long lists: the first line says it.
    first_line = (error.details.strip().splitlines() or [""])[0]
    words = redact(f"{error.message}: {first_line}" if first_line else error.message, 300)
    return f"{where} says {words!r}; correct it in the workflow"
