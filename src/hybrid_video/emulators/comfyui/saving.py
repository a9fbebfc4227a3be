"""The save nodes: renders a real file and answers what the node would show in the history.

Keys and names observed on ComfyUI 0.8.0; VHS_VideoCombine from the source of VideoHelperSuite.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from hybrid_video.emulators.comfyui.errors import NodeError
from hybrid_video.emulators.comfyui.folders import Folders, SavePath
from hybrid_video.emulators.comfyui.graph import ClipPlan, Graph
from hybrid_video.emulators.render import render_clip_async
from hybrid_video.emulators.scene import Scene

Shown = dict[str, Any]
"""What `outputs` of the history holds for one node."""

_STILLS = frozenset({"SaveImage", "PreviewImage"})
_TAGGED = frozenset({".mp4", ".webm"})


@dataclass(frozen=True)
class Rendered:
    """Finished files of one plan, not yet under the name the node will give them."""

    plan: ClipPlan
    files: tuple[Path, ...]


async def render(
    plan: ClipPlan,
    folder: Path,
    *,
    graph: Graph,
    extra_pnginfo: dict[str, Any] | None = None,
    kind: str = "ComfyUI",
    black: bool = False,
) -> Rendered:
    """Renders the files of a plan into a scratch folder; the graph travels in the file, as ComfyUI does it.

    Raises:
        NodeError: the encoder refuses the size.
    """
    if plan.suffix in _TAGGED and (plan.width % 2 or plan.height % 2):
        codec = "libx264" if plan.suffix == ".mp4" else "libvpx-vp9"
        text = f"[Errno 542398533] Generic error in an external library: 'avcodec_open2(\"{codec}\", {{}})'"
        raise NodeError(text, "av.error.ExternalError")
    if plan.class_type in _STILLS:
        return Rendered(plan, await asyncio.to_thread(_draw_stills, plan, folder, kind, black))
    path = folder / f"{uuid.uuid4().hex}{plan.suffix}"
    tags = {"prompt": json.dumps(graph)}
    tags |= {key: json.dumps(value) for key, value in (extra_pnginfo or {}).items()}
    await render_clip_async(
        path,
        prompt=plan.prompt,
        seed=plan.seed,
        width=plan.width,
        height=plan.height,
        fps=plan.fps,
        frames=plan.frames,
        kind=kind,
        audio=plan.audio,
        black=black,
        metadata=tags if plan.suffix in _TAGGED else None,
    )
    return Rendered(plan, (path,))


def reserve(plan: ClipPlan, folders: Folders) -> SavePath:
    """The name the node will write to.

    Raises:
        NodeError: the prefix leaves the output folder or is too long.
    """
    temporary = plan.class_type == "PreviewImage" or not plan.keep
    prefix = f"ComfyUI_temp_{uuid.uuid4().hex[:5]}" if plan.class_type == "PreviewImage" else plan.prefix
    try:
        place = folders.save_path(prefix, width=plan.width, height=plan.height, kind="temp" if temporary else "output")
        if len(place.name(plan.suffix).encode()) > 255:
            raise OSError(36, "File name too long")
        return place
    except OSError as error:
        raise NodeError(f"[Errno {error.errno}] {error.strerror}: {plan.prefix[:300]!r}", "OSError") from None


def begin(rendered: Rendered, place: SavePath) -> None:
    """Writes the first half of a video under its final name: `/view` serves files that are still being written."""
    if rendered.plan.suffix in _TAGGED and rendered.plan.class_type != "VHS_VideoCombine":
        content = rendered.files[0].read_bytes()
        (place.folder / place.name(rendered.plan.suffix)).write_bytes(content[: len(content) // 2])


def finish(rendered: Rendered, place: SavePath) -> Shown:
    """Moves the files to their names and returns what the node shows."""
    plan = rendered.plan
    if plan.class_type == "VHS_VideoCombine":
        return _finish_vhs(rendered, place)
    shown = []
    for index, file in enumerate(rendered.files):
        name = SavePath(place.folder, place.subfolder, place.stem, place.counter + index).name(plan.suffix)
        shutil.move(file, place.folder / name)
        kind = "temp" if plan.class_type == "PreviewImage" else "output"
        shown.append({"filename": name, "subfolder": place.subfolder, "type": kind})
    animated = plan.class_type == "SaveVideo" or (plan.class_type not in _STILLS and plan.frames > 1)
    # SaveWEBM says so even for one frame, as SaveVideo does; the picture formats do not.
    animated = animated or plan.class_type == "SaveWEBM"
    return {"images": shown, "animated": [True]} if animated else {"images": shown}


def _finish_vhs(rendered: Rendered, place: SavePath) -> Shown:
    plan = rendered.plan
    base = f"{place.stem}_{place.counter:05}"
    picture = f"{base}.png"
    with Image.new("RGB", (plan.width, plan.height), (40, 40, 60)) as first:
        first.save(place.folder / picture)
    name = f"{base}{plan.suffix}"
    if plan.audio and plan.suffix == ".mp4":
        shutil.copy(rendered.files[0], place.folder / name)
        name = f"{base}-audio{plan.suffix}"
    path = place.folder / name
    shutil.move(rendered.files[0], path)
    form = {".mp4": "video/h264-mp4", ".webm": "video/webm"}.get(plan.suffix, f"image/{plan.suffix[1:]}")
    entry = {
        "filename": name,
        "subfolder": place.subfolder,
        "type": "output" if plan.keep else "temp",
        "format": form,
        "frame_rate": plan.fps,
        "workflow": picture,
        "fullpath": str(path),
    }
    return {"gifs": [entry]}


def _draw_stills(plan: ClipPlan, folder: Path, kind: str, black: bool) -> tuple[Path, ...]:
    scene = Scene(plan.prompt, plan.seed, plan.width, plan.height, kind, black)
    files = []
    for picture in scene.pictures(plan.frames):
        path = folder / f"{uuid.uuid4().hex}.png"
        Image.fromarray(picture).save(path, compress_level=1)
        files.append(path)
    return tuple(files)
