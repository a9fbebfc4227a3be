"""Fetching a finished clip to disk: streamed, redirects followed by hand, credentials for the API's own host only.

Google answers a file's address with a 302 to `/download/…` on the same host and wants the key on both hops (recorded on
the real API). It promises no ranges, so a broken transfer starts over.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote, urljoin, urlsplit

import httpx
import stamina

from hybrid_video.backends.google.failures import read_answer
from hybrid_video.errors import FailureKind, TerminalError, TransientError
from hybrid_video.redaction import redact

_REDIRECTS = (301, 302, 303, 307, 308)
_MAX_HOPS = 5
_ATTEMPTS = 3


class _Passing(Exception):
    """Worth another try; `reason` is for the message of the last one."""


async def fetch(
    http: httpx.AsyncClient, url: str, target: Path, *, backend: str, credentials: Mapping[str, str], origin: str
) -> Path:
    """Streams `url` into `target`.

    Args:
        credentials: headers sent to `origin` and to no other host.

    Raises:
        TransientError: DOWNLOAD_FAILED, or EXPIRED when the file is gone.
    """
    part = target.with_name(target.name + ".part")
    try:
        async for attempt in stamina.retry_context(
            on=(_Passing, httpx.TransportError), attempts=_ATTEMPTS, timeout=600.0, wait_initial=0.2, wait_max=3.0
        ):
            with attempt:
                await _once(http, url, part, backend=backend, credentials=credentials, origin=origin)
    except (_Passing, httpx.HTTPError, OSError) as error:
        part.unlink(missing_ok=True)
        raise TransientError(
            f"the finished clip could not be downloaded to {str(target)!r} ({type(error).__name__}: "
            f"{redact(error, 300)}); check the network and the disk; Google keeps the file for two days",
            kind=FailureKind.DOWNLOAD_FAILED,
            backend=backend,
        ) from error
    part.replace(target)
    return target


async def _once(
    http: httpx.AsyncClient, url: str, part: Path, *, backend: str, credentials: Mapping[str, str], origin: str
) -> None:
    for _hop in range(_MAX_HOPS):
        headers = dict(credentials) if _same_origin(url, origin) else {}
        async with http.stream("GET", url, headers=headers, follow_redirects=False) as response:
            if response.status_code in _REDIRECTS and "location" in response.headers:
                url = urljoin(url, response.headers["location"])
                continue
            if response.status_code != 200:
                await _raise(response, backend)
            kind = response.headers.get("content-type", "")
            if not kind.startswith(("video/", "application/octet-stream")):
                raise _Passing(f"a video was expected, {kind!r} came")
            with part.open("wb") as file:
                async for block in response.aiter_bytes(1 << 18):
                    file.write(block)
            return
    raise _Passing(f"more than {_MAX_HOPS} redirects")


async def _raise(response: httpx.Response, backend: str) -> None:
    text = (await response.aread()).decode("utf-8", "replace")
    try:
        answer = read_answer(response.status_code, json.loads(text))
    except ValueError:
        answer = read_answer(response.status_code, text)
    if answer.code in (404, 410) or (answer.code == 403 and "may not exist" in answer.message):
        raise TransientError(
            f"Google no longer has the finished clip: {answer.message!r}; files are kept two days, make it again",
            kind=FailureKind.EXPIRED,
            backend=backend,
            detail=answer.message,
        )
    if answer.code == 429 or answer.code >= 500:
        raise _Passing(f"{answer.code}: {answer.message}")
    raise TransientError(
        f"Google refused the download ({answer.code}): {answer.message!r}; check the key and run again",
        kind=FailureKind.DOWNLOAD_FAILED,
        backend=backend,
        detail=answer.message,
    )


async def write_inline(data: str, target: Path, *, backend: str) -> Path:
    """Writes a clip that came as base64.

    Raises:
        TerminalError: BAD_CLIP, it is not base64 or empty.
        TransientError: DOWNLOAD_FAILED, the disk refuses it.
    """
    try:
        content = await asyncio.to_thread(base64.b64decode, data, validate=True)
    except binascii.Error:
        content = b""
    if not content:
        raise TerminalError("Google sent a clip without content", kind=FailureKind.BAD_CLIP, backend=backend)
    part = target.with_name(target.name + ".part")
    try:
        await asyncio.to_thread(part.write_bytes, content)
        part.replace(target)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise TransientError(
            f"the finished clip could not be written to {str(target)!r} ({error.strerror}); free some space",
            kind=FailureKind.DOWNLOAD_FAILED,
            backend=backend,
        ) from error
    return target


def bucket_url(gcs_uri: str, origin: str) -> str:
    """The HTTPS address of `gs://bucket/object`."""
    bucket, _, name = gcs_uri.removeprefix("gs://").partition("/")
    return f"{origin}/storage/v1/b/{bucket}/o/{quote(name, safe='')}?alt=media"


def _same_origin(url: str, origin: str) -> bool:
    one, other = urlsplit(url), urlsplit(origin)
    return (one.scheme, one.hostname, one.port) == (other.scheme, other.hostname, other.port)
