"""Brings a worker's clip to disk: from a presigned URL (streamed, resumed when cut) or from base64 in the answer.

A presigned URL is a secret for seven days: it is asked without our API key, and never appears in a message or a log.
The content type is not looked at: worker-comfyui uploads a video as `image/mp4`.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
from pathlib import Path, PurePosixPath

import httpx

from hybrid_video.errors import BackendError, FailureKind, TerminalError, TransientError
from hybrid_video.models import RemoteFile
from hybrid_video.redaction import RedactingFilter
from hybrid_video.settings import is_loopback
from hybrid_video.trust import certificates

TRIES = 5
FIRST_PAUSE_S = 0.3
MAX_CLIP_BYTES = 4 * 1024**3
"""A larger answer is no clip; it would only fill the disk."""

TIMEOUT = httpx.Timeout(60.0, connect=10.0)
GONE = frozenset({401, 403, 404, 410})
"""What object stores answer when a presigned URL has expired (403) or the object was deleted (404)."""

# httpx logs every address at INFO, signatures included.
logging.getLogger("httpx").addFilter(RedactingFilter())


def target_path(folder: Path, stem: str, file: RemoteFile) -> Path:
    """Where the clip goes: our own name with the file's extension, so that no remote name becomes a path."""
    return folder / f"{stem}{PurePosixPath(file.name).suffix.lower()}"


async def write_inline(file: RemoteFile, path: Path, *, backend: str) -> Path:
    """Decodes a base64 clip (plain or a data URI) to disk.

    Raises:
        TerminalError: BAD_CLIP, it is empty or no base64.
        TransientError: DOWNLOAD_FAILED, the disk refuses it.
    """
    text = file.inline_base64 or ""
    try:
        data = base64.b64decode(text.rsplit(",", 1)[-1], validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if not data:
        raise _empty(file, backend)
    await asyncio.to_thread(_write_all, path, data, backend)
    return path


def _write_all(path: Path, data: bytes, backend: str) -> None:
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(data)
        part.replace(path)
    except OSError as error:
        raise _disk(path, error, backend) from error


class _Part:
    """The unfinished file: how much of it is on disk, and the ETag that names what it is a part of."""

    def __init__(self, path: Path) -> None:
        self.path = path.with_name(path.name + ".part")
        self.size = 0
        self.etag = ""

    def begin(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.forget()

    def forget(self) -> None:
        self.path.unlink(missing_ok=True)
        self.size, self.etag = 0, ""

    def append(self, block: bytes) -> None:
        with self.path.open("ab") as out:
            out.write(block)
        self.size += len(block)


async def download(file: RemoteFile, path: Path, *, backend: str) -> Path:
    """Streams a file to disk; a cut connection is resumed where it ended when the server still has the same file.

    Raises:
        TransientError: EXPIRED when the address no longer works, DOWNLOAD_FAILED when the network or disk does not.
        TerminalError: BAD_CLIP, the file is empty.
    """
    part = _Part(path)
    pause_s = FIRST_PAUSE_S
    try:
        await asyncio.to_thread(part.begin)
        async with httpx.AsyncClient(
            timeout=TIMEOUT, follow_redirects=True, trust_env=not is_loopback(file.url), verify=certificates()
        ) as client:
            for left in reversed(range(TRIES)):
                try:
                    await _fetch(client, file, part, backend)
                    break
                except (httpx.HTTPError, httpx.InvalidURL, _TryAgain) as error:
                    if not left:
                        raise _cut(file, error, backend) from None
                await asyncio.sleep(pause_s)
                pause_s *= 2
        if part.size == 0:
            raise _empty(file, backend)
        await asyncio.to_thread(part.path.replace, path)
    except OSError as error:
        raise _disk(path, error, backend) from error
    return path


class _TryAgain(Exception):
    """The file should be asked for again."""


async def _fetch(client: httpx.AsyncClient, file: RemoteFile, part: _Part, backend: str) -> None:
    """One request: for the whole file, or for its rest when a part with a known ETag is on disk."""
    if not part.etag:
        part.forget()
    headers = {"Accept-Encoding": "identity"}
    if part.size:
        headers |= {"Range": f"bytes={part.size}-", "If-Range": part.etag}
    async with client.stream("GET", file.url, headers=headers) as response:
        if response.status_code in GONE:
            raise _gone(file, response.status_code, backend)
        if response.status_code not in (200, 206):
            part.etag = part.etag if response.status_code >= 500 else ""
            raise _TryAgain(f"HTTP {response.status_code}")
        etag = response.headers.get("ETag", "")
        if response.status_code == 200:
            part.forget()
            part.etag = "" if etag.startswith("W/") else etag  # a weak tag does not promise equal bytes
        elif etag != part.etag or not _continues(response, part.size):
            part.etag = ""
            raise _TryAgain("the file changed while it was being downloaded")
        await _save(response, part, file, backend)


def _continues(response: httpx.Response, at: int) -> bool:
    """Whether a 206 begins where we stopped. Some servers ignore If-Range, so nothing is taken on trust."""
    return bool(response.headers.get("Content-Range", "").startswith(f"bytes {at}-"))


async def _save(response: httpx.Response, part: _Part, file: RemoteFile, backend: str) -> None:
    async for block in response.aiter_bytes(1 << 18):
        if part.size + len(block) > MAX_CLIP_BYTES:
            raise TerminalError(
                f"the file {file.name!r} is larger than {MAX_CLIP_BYTES >> 30} GiB; it is no clip, check the workflow",
                kind=FailureKind.BAD_CLIP,
                backend=backend,
            )
        await asyncio.to_thread(part.append, block)


def _gone(file: RemoteFile, code: int, backend: str) -> TransientError:
    return TransientError(
        f"the clip {file.name!r} is no longer to be had from its storage ({code}): the presigned address has expired "
        "or the file was deleted; the job has to be made again",
        kind=FailureKind.EXPIRED,
        backend=backend,
    )


def _cut(file: RemoteFile, error: Exception, backend: str) -> TransientError:
    reason = str(error) if isinstance(error, _TryAgain) else type(error).__name__
    return TransientError(
        f"the clip {file.name!r} could not be downloaded in {TRIES} tries ({reason}); check the network, then run "
        "`hybrid-video reconcile` while the result is still kept",
        kind=FailureKind.DOWNLOAD_FAILED,
        backend=backend,
    )


def _disk(path: Path, error: OSError, backend: str) -> TransientError:
    return TransientError(
        f"the clip could not be written to {str(path)!r} ({error.strerror or error}); free some space or choose "
        "another folder",
        kind=FailureKind.DOWNLOAD_FAILED,
        backend=backend,
    )


def _empty(file: RemoteFile, backend: str) -> BackendError:
    return TerminalError(
        f"the worker returned {file.name!r} without usable content; look at the workflow's last node",
        kind=FailureKind.BAD_CLIP,
        backend=backend,
    )
