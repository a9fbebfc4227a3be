"""The contract of worker-comfyui: what its input looks like and how a clip is found in its output.

Source: handler.py of github.com/runpod-workers/worker-comfyui 5.8.5. Three facts decide a lot: only files under the
key `images` come back, so core's SaveVideo works and VHS_VideoCombine's clip (`gifs`) is rendered, paid for and
dropped; unknown input keys are ignored; and a job without any file is COMPLETED with `success_no_images`.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from hybrid_video.models import RemoteFile, WorkOrder

VIDEO_TYPES = {
    ".mp4": "video/mp4",
    ".webm": "video/webm",
    ".mov": "video/quicktime",
    ".mkv": "video/x-matroska",
    ".m4v": "video/mp4",
    ".avi": "video/x-msvideo",
}
ANIMATION_TYPES = {".webp": "image/webp", ".gif": "image/gif", ".apng": "image/apng"}

RETURNED_SAVERS = frozenset({"SaveVideo", "SaveWEBM", "SaveAnimatedWEBP", "SaveAnimatedPNG"})
"""Nodes of ComfyUI's core whose animated files appear under `images`."""

DROPPED_SAVERS = frozenset({"VHS_VideoCombine"})
"""Nodes whose files appear under other keys, which the worker only logs."""


def image_entry(path: Path) -> dict[str, str]:
    """The `images` entry of an input image, named after its content so that equal images share a file on the worker."""
    data = path.read_bytes()
    return {"name": image_name(data, path.suffix), "image": base64.b64encode(data).decode("ascii")}


def image_name(data: bytes, suffix: str) -> str:
    """`hv-<first 16 hex digits of the SHA-256><suffix>`."""
    return f"hv-{hashlib.sha256(data).hexdigest()[:16]}{suffix.lower() or '.png'}"


def job_request(
    order: WorkOrder,
    graph: Mapping[str, Any],
    images: list[dict[str, str]],
    *,
    execution_timeout_s: float,
    ttl_s: float,
) -> dict[str, Any]:
    """The body of `/run`. `hybrid_video` is ours: the worker ignores it, and the request list shows it."""
    worker_input: dict[str, Any] = {
        "workflow": dict(graph),
        "hybrid_video": {"job": order.label, "attempt": order.attempt_id},
    }
    if images:
        worker_input["images"] = images
    policy = {"executionTimeout": round(execution_timeout_s * 1000), "ttl": round(ttl_s * 1000)}
    return {"input": worker_input, "policy": policy}


def dropped_saver(graph: Mapping[str, Any]) -> str | None:
    """The node whose clip the worker would drop, when no other node of the workflow saves one that comes back."""
    classes = {str(node.get("class_type")) for node in graph.values() if isinstance(node, Mapping)}
    if classes & RETURNED_SAVERS:
        return None
    return next(iter(sorted(classes & DROPPED_SAVERS)), None)


def errors_of(output: object) -> tuple[str, ...]:
    """The worker's `errors` beside its files, and its `details` of a failure."""
    if not isinstance(output, Mapping):
        return ()
    found: list[str] = []
    for key in ("errors", "details"):
        value = output.get(key)
        found += [str(item) for item in value] if isinstance(value, list) else [str(value)] if value else []
    return tuple(found)


def files_of(output: object) -> tuple[RemoteFile, ...]:
    """Every file the worker returned, in its order; the list may be empty.

    Versions before 5.0 gave one `message` instead of the list; it is not read, because it has no file name to judge.
    """
    entries = output.get("images") if isinstance(output, Mapping) else None
    if not isinstance(entries, list):
        return ()
    return tuple(file for entry in entries if (file := _file(entry)) is not None)


def _file(entry: object) -> RemoteFile | None:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("data"), str):
        return None
    name = PurePosixPath(str(entry.get("filename") or "").replace("\\", "/")).name
    suffix = PurePosixPath(name).suffix.lower()
    media_type = VIDEO_TYPES.get(suffix) or ANIMATION_TYPES.get(suffix, "")
    data = str(entry["data"])
    if entry.get("type") == "base64":
        return RemoteFile(name=name, url="", media_type=media_type, inline_base64=data)
    return RemoteFile(name=name, url=data, media_type=media_type)


def clip_among(files: tuple[RemoteFile, ...], prefix: str) -> RemoteFile | None:
    """The clip of this attempt, judged by file extension: the content type of an upload is always `image/…`.

    A file that begins with our prefix beats one that does not, and a video beats an animated image.
    """
    candidates = [file for file in files if file.media_type]

    def rank(file: RemoteFile) -> tuple[bool, bool]:
        return (is_ours(file, prefix), file.media_type.startswith("video/"))

    return max(candidates, key=rank, default=None)


def is_ours(file: RemoteFile, prefix: str) -> bool:
    """Whether a file is named after the attempt. The worker drops the folder of `filename_prefix`."""
    return bool(prefix) and file.name.startswith(PurePosixPath(prefix).name)


def is_url(file: RemoteFile) -> bool:
    """Whether the file can be downloaded.

    With only BUCKET_ENDPOINT_URL set, the worker leaves the file on its own disk and returns that path.
    """
    return file.url.startswith(("http://", "https://"))
