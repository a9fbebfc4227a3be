"""Judges a history entry: a clip, or which failure. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from hybrid_video.backends.comfyui.outputs import MEDIA_TYPES, videos
from hybrid_video.backends.comfyui.records import HistoryEntry, Json
from hybrid_video.errors import BackendError, FailureKind, TerminalError
from hybrid_video.models import JobStatus, RemoteFile
from hybrid_video.redaction import redact

_OUT_OF_MEMORY = re.compile(r"out of memory|OutOfMemory|can't allocate memory|Allocation on device", re.IGNORECASE)
_MISSING_FILE = re.compile(r"model .*not found|No such file or directory.*models[/\\]", re.IGNORECASE | re.DOTALL)


def judge(
    entry: HistoryEntry,
    *,
    backend: str,
    url: str,
    view_url: Callable[[Mapping[str, str]], str],
    gpu: str,
    output_node: str = "",
) -> JobStatus:
    """The status of a finished prompt.

    Args:
        output_node: node whose file is the clip; any video counts where it made none.
        view_url: gives the address of an output file from its `/view` parameters.

    Raises:
        TerminalError: it failed, was interrupted, or only a part of it was run.
    """
    interrupted = entry.last("execution_interrupted")
    failed = entry.last("execution_error")
    if entry.status != "success" or failed is not None or interrupted is not None:
        raise _failure(entry, failed, interrupted, backend=backend, url=url)
    dropped = _dropped_savers(entry)
    if dropped:
        raise TerminalError(
            f"ComfyUI at {url!r} ran only a part of the workflow: {dropped} failed validation and was left out; "
            "correct the workflow",
            kind=FailureKind.INVALID_WORKFLOW,
            backend=backend,
            execution_s=entry.execution_s,
        )
    files = tuple(
        RemoteFile(
            name=file.filename,
            url=view_url(file.parameters),
            media_type=MEDIA_TYPES[file.suffix],
            details=file.parameters,
        )
        for file in videos(entry, output_node)
    )
    return JobStatus(
        phase="succeeded",
        progress=1.0,
        files=files,
        queue_s=entry.queue_s,
        execution_s=entry.execution_s,
        gpu=gpu,
    )


def _failure(
    entry: HistoryEntry, failed: Json | None, interrupted: Json | None, *, backend: str, url: str
) -> BackendError:
    if failed is None and interrupted is not None:
        return TerminalError(
            f"the job was interrupted in ComfyUI at {url!r} while it ran; run the batch again to make it",
            kind=FailureKind.CANCELLED,
            backend=backend,
            execution_s=entry.execution_s,
        )
    failed = failed or {}
    # `current_inputs` prints tensors and server paths, `traceback` the server's files: neither leaves this function.
    words = redact(str(failed.get("exception_message", "")).strip() or "it gives no reason", 500)
    kind_name = redact(str(failed.get("exception_type", "")), 100)
    node = f"node {failed.get('node_id', '?')} ({redact(str(failed.get('node_type', '?')), 100)})"
    if _OUT_OF_MEMORY.search(f"{kind_name} {words}"):
        kind, said = FailureKind.OUT_OF_MEMORY, f"{node} ran out of memory"
        advice = "use a larger GPU, or a smaller or shorter clip"
    else:
        kind, said = FailureKind.EXECUTION_FAILED, f"{node} failed with {kind_name or 'an error'} {words!r}"
        missing = _MISSING_FILE.search(words)
        advice = "put the missing file there" if missing else "open the workflow in ComfyUI and run that node"
    return TerminalError(
        f"{said} on ComfyUI at {url!r}; {advice}",
        kind=kind,
        backend=backend,
        detail=f"{kind_name}: {words}" if kind_name else words,
        execution_s=entry.execution_s,
    )


def _dropped_savers(entry: HistoryEntry) -> str:
    """Save nodes of the graph that the server did not run, as a phrase; empty when it ran them all.

    A prompt of which some outputs fail validation is accepted without them (observed on ComfyUI 0.8.0).
    """
    if not entry.executed:
        return ""
    missing = []
    for node_id, node in entry.graph.items():
        class_type = str(node.get("class_type", "")) if isinstance(node, Mapping) else ""
        saves = class_type.startswith("Save") or class_type == "VHS_VideoCombine"
        inputs = node.get("inputs") if isinstance(node, Mapping) else None
        if saves and isinstance(inputs, Mapping) and "filename_prefix" in inputs and node_id not in entry.executed:
            missing.append(f"node {node_id} ({class_type})")
    return ", ".join(missing)
