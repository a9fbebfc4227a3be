"""The first frame of an image-to-video job, as Google takes it: PNG, JPEG or WebP, sent inline."""

from __future__ import annotations

from pathlib import Path

MAX_BYTES = 14_000_000
"""Google limits a request with inline data to 20 MB; base64 makes an image a third longer."""


def media_type(path: Path) -> str:
    """The media type by the file's first bytes.

    Raises:
        ValueError: a whole sentence: unreadable, too large, or another format.
    """
    try:
        length = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(12)
    except OSError as error:
        raise ValueError(f"image {str(path)!r} cannot be read ({error.strerror}).") from None
    if length > MAX_BYTES:
        raise ValueError(f"image {str(path)!r} has {length} bytes; Google takes at most {MAX_BYTES}. Make it smaller.")
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    raise ValueError(f"image {str(path)!r} is not PNG, JPEG or WebP; convert it.")
