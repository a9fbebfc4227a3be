"""Checks that a file is a picture every backend can start from, without trusting anything it says about itself."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, UnidentifiedImageError

MAX_BYTES = 50_000_000
MAX_PIXELS = 64_000_000
MIN_SIDE = 16
_SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp"}


class UnusablePictureError(Exception):
    """The message is the rest of a sentence that begins with the picture's name."""


def check_picture(path: Path) -> str:
    """Decodes the picture once and returns the file name suffix that fits its format.

    The size is read from the header first, so a small file that would unpack to gigabytes is refused unopened.

    Raises:
        UnusablePictureError: not PNG, JPEG or WebP, damaged, or too large.
    """
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise UnusablePictureError(f"has {size / 1e6:.1f} MB, more than {MAX_BYTES // 1_000_000}; make it smaller")
    try:
        with Image.open(path, formats=tuple(_SUFFIXES)) as image:
            _check_size(*image.size)
            form = str(image.format)
            image.load()
    except UnusablePictureError:
        raise
    except Image.DecompressionBombError:
        raise UnusablePictureError(f"has more than {MAX_PIXELS // 1_000_000} megapixels; make it smaller") from None
    except UnidentifiedImageError:
        raise UnusablePictureError("is not a PNG, JPEG or WebP picture; save it in one of these formats") from None
    except Exception as error:  # Pillow's decoders raise what they like on damaged data
        raise UnusablePictureError(f"is damaged ({error}); save or download it again") from None
    return _SUFFIXES[form]


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        limit = MAX_PIXELS // 1_000_000
        raise UnusablePictureError(f"is {width}x{height}, more than {limit} megapixels; make it smaller")
    if min(width, height) < MIN_SIDE:
        raise UnusablePictureError(f"is only {width}x{height} pixels; use a picture of at least {MIN_SIDE}x{MIN_SIDE}")
