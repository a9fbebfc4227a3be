"""Proves that a ComfyUI works: renders a tiny clip that needs no model, fetches it and decodes it.

The graph uses core nodes only (observed on ComfyUI 0.3.64 and 0.8.0). Where the clip cannot be deleted afterwards a
picture in ComfyUI's `temp` folder is rendered instead, which ComfyUI empties by itself.
"""

from __future__ import annotations

import asyncio
import io
import random
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from hybrid_video.backends.comfyui.client import ComfyUIClient
from hybrid_video.backends.comfyui.records import HistoryEntry
from hybrid_video.clips.inspecting import inspect
from hybrid_video.errors import BackendError, HybridVideoError
from hybrid_video.models import Model
from hybrid_video.redaction import redact

FRAMES = 4
SIZE = 64
FPS = 8
FOLDER = "hybrid-video-check"
POLL_S = 0.25
ANSWER_POLL_S = 0.3


class RenderCheck(Model):
    """How the proof ended. `busy`: its queue was not empty, so nothing was sent."""

    ok: bool
    detail: str
    remedy: str = ""
    seconds: float = 0.0
    busy: bool = False


def video_graph(color: int, prefix: str) -> dict[str, Any]:
    """Four frames of one colour as an MP4. A colour of its own keeps the server's cache out of it."""
    return {
        "image": {
            "class_type": "EmptyImage",
            "inputs": {"width": SIZE, "height": SIZE, "batch_size": FRAMES, "color": color},
        },
        "video": {"class_type": "CreateVideo", "inputs": {"images": ["image", 0], "fps": float(FPS)}},
        "save": {
            "class_type": "SaveVideo",
            "inputs": {"video": ["video", 0], "filename_prefix": prefix, "format": "mp4", "codec": "h264"},
        },
    }


def picture_graph(color: int) -> dict[str, Any]:
    """One picture that ends in `temp`."""
    return {
        "image": {
            "class_type": "EmptyImage",
            "inputs": {"width": SIZE, "height": SIZE, "batch_size": 1, "color": color},
        },
        "show": {"class_type": "PreviewImage", "inputs": {"images": ["image", 0]}},
    }


async def render_check(url: str, *, output: Path | None = None, timeout_s: float = 120.0) -> RenderCheck:
    """Renders on the ComfyUI at `url`.

    Args:
        output: its output folder, where it is known: then a video is made, and deleted again.
        timeout_s: longest wait for the result.
    """
    client = ComfyUIClient(url, timeout_s=15.0)
    began = time.monotonic()
    try:
        waiting = await client.queue_remaining()
        if waiting:
            return RenderCheck(ok=True, busy=True, detail=f"{waiting} jobs are in its queue; nothing was rendered")
        entry = await _run(client, with_video=output is not None, timeout_s=timeout_s)
        facts = await _decode(client, entry, output)
    except HybridVideoError as error:
        remedy = "look at ComfyUI's log: `hybrid-video install-comfyui logs`"
        return RenderCheck(ok=False, detail=redact(error.message, 600), remedy=remedy)
    finally:
        await client.close()
    seconds = round(time.monotonic() - began, 2)
    return RenderCheck(ok=True, detail=f"rendered and decoded {facts} in {seconds:.1f} s", seconds=seconds)


async def wait_for_answer(url: str, *, timeout_s: float, alive: Any = None) -> str:
    """Waits until a ComfyUI answers; returns its version.

    Args:
        alive: asked meanwhile; False ends the wait at once.

    Raises:
        BackendError: it does not answer in time.
    """
    client = ComfyUIClient(url, timeout_s=5.0)
    deadline = time.monotonic() + timeout_s
    try:
        while True:
            try:
                return (await client.system_stats(tries=1)).version
            except BackendError:
                gone = alive is not None and not alive()
                if gone or time.monotonic() > deadline:
                    raise
            await asyncio.sleep(ANSWER_POLL_S)
    finally:
        await client.close()


async def _run(client: ComfyUIClient, *, with_video: bool, timeout_s: float) -> HistoryEntry:
    id_ = str(uuid.uuid4())
    color = random.randrange(0x202020, 0xE0E0E0)  # noqa: S311 - only has to differ
    graph = video_graph(color, f"{FOLDER}/{id_[:8]}") if with_video else picture_graph(color)
    answer = await client.post_prompt(graph, prompt_id=id_, client_id=id_, extra_data={})
    if answer.node_errors:
        raise HybridVideoError(f"{client.url!r} left out a part of the test: {answer.node_errors[0].message}")
    deadline = time.monotonic() + timeout_s
    while (entry := await client.history(id_)) is None:
        if time.monotonic() > deadline:
            raise HybridVideoError(f"{client.url!r} took the test but had no result after {timeout_s:.0f} s")
        await asyncio.sleep(POLL_S)
    failed = entry.last("execution_error")
    if entry.status != "success":
        said = redact(str((failed or {}).get("exception_message", "no reason given")), 300).strip()
        raise HybridVideoError(f"{client.url!r} could not render the test: {said}")
    return entry


async def _decode(client: ComfyUIClient, entry: HistoryEntry, output: Path | None) -> str:
    """Fetches the result, decodes it, and deletes it where the folder is known."""
    found = [file for node in entry.outputs.values() for file in node.get("images", []) if file.get("filename")]
    if not found:
        raise HybridVideoError(f"{client.url!r} says it rendered the test, but names no file")
    parameters = {key: str(found[0].get(key, "")) for key in ("filename", "subfolder", "type")}
    async with client.view(parameters, {}) as response:
        content = await response.aread()
        code = response.status_code
    if code != 200:
        raise HybridVideoError(f"{client.url!r} rendered the test, but answers {code} when asked for the file")
    if output is None:
        try:
            with Image.open(io.BytesIO(content)) as picture:
                picture.load()
                return f"a picture of {picture.width}x{picture.height}"
        except (UnidentifiedImageError, OSError) as error:
            raise HybridVideoError(f"what {client.url!r} rendered does not decode: {redact(error, 200)}") from None
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "check.mp4"
        file.write_bytes(content)
        facts = await asyncio.to_thread(inspect, file)
    _delete(output / parameters["subfolder"] / parameters["filename"])
    if facts.frames != FRAMES or facts.width != SIZE:
        raise HybridVideoError(f"{client.url!r} rendered {facts.frames} frames of {facts.width} px instead of 4 of 64")
    return f"{facts.frames} frames of {facts.width}x{facts.height}"


def _delete(file: Path) -> None:
    file.unlink(missing_ok=True)
    if file.parent.name == FOLDER and file.parent.is_dir() and not any(file.parent.iterdir()):
        file.parent.rmdir()
