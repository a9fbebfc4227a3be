"""Routes for files: `/view` and the uploads, with the original's refusals and its range handling (aiohttp's own)."""

from __future__ import annotations

import hashlib
import io
import json
import mimetypes
import os
from pathlib import Path
from typing import Any

from aiohttp import web
from PIL import Image

from hybrid_video.emulators.comfyui.folders import is_inside
from hybrid_video.emulators.comfyui.gate import Gate
from hybrid_video.emulators.comfyui.machine import Machine

_NEVER_SHOWN = {"text/html", "text/html-sandboxed", "application/xhtml+xml", "text/javascript", "text/css"}


class FileRoutes:
    """Handlers over the folders of one machine."""

    def __init__(self, machine: Machine, gate: Gate) -> None:
        self._machine = machine
        self._folders = machine.folders
        self._gate = gate

    def routes(self) -> list[web.RouteDef]:
        """Routes without the `/api` prefix."""
        return [
            web.get("/view", self.view),
            web.post("/upload/image", self.upload_image),
            web.post("/upload/mask", self.upload_mask),
        ]

    async def view(self, request: web.Request) -> web.StreamResponse:
        """`GET /view`."""

        async def answer() -> web.StreamResponse:
            found = self._find(request)
            return web.Response(status=found) if isinstance(found, int) else _show(request, found)

        label = self._label(request.rel_url.query.get("filename", ""))
        return await self._gate.pass_through(request, "download", label, answer)

    def _find(self, request: web.Request) -> Path | int:
        """The file, or the status of the refusal."""
        query = request.rel_url.query
        if "filename" not in query:
            return 404
        name, folder = self._folders.annotated(query["filename"])
        if not name or name[0] == "/" or ".." in name:
            return 400
        folder = folder or self._folders.by_type(query.get("type", "output"))
        if folder is None:
            return 400
        if "subfolder" in query:
            wanted = Path(os.path.abspath(folder / query["subfolder"]))  # noqa: PTH100 - links stay links
            if not is_inside(wanted, folder):
                return 403
            folder = wanted
        path = folder / Path(name).name
        return path if path.is_file() else 404

    def _label(self, filename: str) -> str:
        """The label of the prompt that made a file, for fault rules."""
        for prompt_id, entry in self._machine.queue.history.items():
            for shown in entry["outputs"].values():
                for files in shown.values():
                    if any(isinstance(file, dict) and file.get("filename") == filename for file in files):
                        return self._machine.label_of(prompt_id)
        return filename

    async def upload_image(self, request: web.Request) -> web.StreamResponse:
        """`POST /upload/image`."""
        post = await request.post()

        async def answer() -> web.Response:
            return self._store(dict(post))

        name = getattr(post.get("image"), "filename", "")
        return await self._gate.pass_through(request, "upload", str(name), answer)

    async def upload_mask(self, request: web.Request) -> web.StreamResponse:
        """`POST /upload/mask`: an original that is refused or missing still gets a 200, and nothing is written."""
        post = await request.post()
        original: dict[str, Any] = json.loads(post.get("original_ref"))  # type: ignore[arg-type] # None raises: 500
        name, folder = self._folders.annotated(original["filename"])
        folder = folder or self._folders.by_type(original.get("type", "output"))
        refused = not name or name[0] == "/" or ".." in name or folder is None
        return self._store(dict(post), (folder or Path()) / original.get("subfolder", "") / name, refused)

    def _store(self, post: dict[str, Any], masked: Path | None = None, refused: bool = False) -> web.Response:
        kind = post.get("type")
        folder = {"input": self._folders.input, "temp": self._folders.temp, "output": self._folders.output}[
            "input" if kind is None else kind
        ]  # an unknown or empty type raises: 500, as observed
        upload = post.get("image")
        if not upload or not upload.file:
            return web.Response(status=400)
        name = upload.filename
        if not name:
            return web.Response(status=400)
        subfolder = post.get("subfolder", "")
        target = folder / os.path.normpath(subfolder)
        path = Path(os.path.abspath(target / name))  # noqa: PTH100 - links stay links
        if not is_inside(path, folder):
            return web.Response(status=400)
        target.mkdir(parents=True, exist_ok=True)
        content = upload.file.read()
        if post.get("overwrite") not in ("true", "1"):
            path = _free_name(path, content)
        if masked is None:
            path.write_bytes(content)
        elif not refused and masked.is_file():
            _write_masked(masked, content, path)
        answer = {"name": path.name if path.parent == target else name, "subfolder": subfolder}
        return web.json_response(answer | {"type": kind or "input"})


def _free_name(path: Path, content: bytes) -> Path:
    """The name itself if it is free or holds the same bytes, else `name (1).ext` and so on."""
    wanted, count = path, 1
    digest = hashlib.sha256(content).digest()
    while path.exists() and hashlib.sha256(path.read_bytes()).digest() != digest:
        path = wanted.with_name(f"{wanted.stem} ({count}){wanted.suffix}")
        count += 1
    return path


def _write_masked(original: Path, mask: bytes, path: Path) -> None:
    with Image.open(original) as picture, Image.open(io.BytesIO(mask)) as shape:
        result = picture.convert("RGBA")
        result.putalpha(shape.convert("RGBA").getchannel("A"))
        result.save(path, format="PNG", compress_level=4)


def _show(request: web.Request, path: Path) -> web.StreamResponse:
    query = request.rel_url.query
    disposition = {"Content-Disposition": f'filename="{path.name}"'}
    if "preview" in query or query.get("channel") in ("rgb", "a"):
        return _as_picture(path, query.get("preview"), query.get("channel", ""), disposition)
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    kind = "application/octet-stream" if kind in _NEVER_SHOWN else kind
    return web.FileResponse(path, headers=disposition | {"Content-Type": kind})


def _as_picture(path: Path, preview: str | None, channel: str, headers: dict[str, str]) -> web.Response:
    """A picture converted for the browser; a video raises in Pillow, which is a 500."""
    buffer = io.BytesIO()
    with Image.open(path) as picture:
        if preview is not None:
            wanted, *rest = preview.split(";")
            form = wanted if wanted in ("webp", "jpeg") and "a" not in channel else "webp"
            quality = int(rest[-1]) if rest and rest[-1].isdigit() else 90
            shown = picture.convert("RGB") if form == "jpeg" or channel == "rgb" else picture
            shown.save(buffer, format=form, quality=quality)
            return web.Response(body=buffer.getvalue(), content_type=f"image/{form}", headers=headers)
        if channel == "rgb":
            picture.convert("RGB").save(buffer, format="PNG")
        else:
            alpha = Image.new("RGBA", picture.size)
            alpha.putalpha(picture.convert("RGBA").getchannel("A"))
            alpha.save(buffer, format="PNG")
    return web.Response(body=buffer.getvalue(), content_type="image/png", headers=headers)
