"""Poster frames: one small JPEG for each clip, named after the clip's content, so that it is made once."""

from __future__ import annotations

import re
from pathlib import Path

import av
from av.error import FFmpegError
from PIL import Image

WIDTH = 480
AT_SHARE = 0.35
"""Where in the clip the picture is taken: beginnings are often dark."""


def poster_of(clip: Path, *, sha256: str, folder: Path) -> Path | None:
    """The picture of a clip, made if there is none yet; None where the clip cannot be read."""
    if not re.fullmatch(r"[0-9a-f]{8,64}", sha256):
        return None
    poster = folder / f"{sha256[:32]}.jpg"
    if poster.is_file():
        return poster
    try:
        picture = _frame(clip)
        folder.mkdir(parents=True, exist_ok=True)
        part = poster.with_suffix(".part")
        picture.save(part, "JPEG", quality=82)
        part.replace(poster)
    except (OSError, ValueError, FFmpegError):
        return None
    return poster


def _frame(clip: Path) -> Image.Image:
    """A frame from the first third; the last one there is where the clip is shorter than it says."""
    with av.open(str(clip)) as container:
        stream = container.streams.video[0]
        wanted = int((stream.frames or 1) * AT_SHARE)
        picture = None
        for index, frame in enumerate(container.decode(stream)):
            picture = frame
            if index >= wanted:
                break
        if picture is None:
            raise ValueError(f"{str(clip)!r} holds no frame")
        image: Image.Image = picture.to_image()  # type: ignore[no-untyped-call]
    image.thumbnail((WIDTH, WIDTH))
    return image.convert("RGB")
