"""Input images and workflow files that jobs name: found, fetched and checked before anything is paid.

A local path never leaves the folder of the batch file, an address never leads into the user's own network, and a
picture counts only if it decodes. Messages name the field, the value and the remedy; the caller adds the job.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from hybrid_video.errors import InputError
from hybrid_video.inputs.fetching import ImageFetcher
from hybrid_video.inputs.paths import contained_file
from hybrid_video.inputs.pictures import MAX_BYTES, UnusablePictureError, check_picture
from hybrid_video.models import VideoJob

MAX_WORKFLOW_BYTES = 20_000_000
_URL = re.compile(r"https?:", re.IGNORECASE)

__all__ = ["ImageFetcher", "resolve_image", "resolve_workflow"]


async def resolve_image(job: VideoJob, batch_dir: Path, *, allow_private: bool, cache_dir: Path) -> Path | None:
    """The local file of a job's first frame, checked; None for text-to-video.

    Args:
        batch_dir: folder of the batch file; paths are relative to it.
        allow_private: also fetch from private addresses and over plain http.
        cache_dir: where fetched pictures are kept, named by their content.

    Raises:
        InputError: the picture is not there, not allowed or not a picture.
    """
    if job.image is None:
        return None
    if _URL.match(job.image):
        return await ImageFetcher(cache_dir=cache_dir, allow_private=allow_private).fetch(job.image)
    path = contained_file("image", job.image, batch_dir, MAX_BYTES)
    try:
        await asyncio.to_thread(check_picture, path)
    except UnusablePictureError as error:
        raise InputError(f"image: {job.image!r} {error}") from None
    return path


def resolve_workflow(job: VideoJob, batch_dir: Path) -> Path | None:
    """The local file of the user's own workflow; None if `workflow` is `auto` or the name of a template.

    Raises:
        InputError: the file is not there or lies outside the folder of the batch file.
    """
    if not job.workflow.lower().endswith(".json"):
        return None
    return contained_file("workflow", job.workflow, batch_dir, MAX_WORKFLOW_BYTES)
