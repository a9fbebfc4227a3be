"""Brings an output file to disk in constant memory, through cut connections.

`/view` supports single ranges, but ignores `If-Range` with an ETag (observed on ComfyUI 0.8.0), so a resumed part is
compared with the first answer here: the same ETag, the same total, the right offset. Otherwise the file starts anew.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import httpx

from hybrid_video.backends.comfyui.client import ComfyUIClient
from hybrid_video.errors import FailureKind, TransientError
from hybrid_video.redaction import redact

CHUNK_BYTES = 1 << 20
FRUITLESS_TRIES = 5
"""So many tries in a row that bring no byte beyond the farthest one end the download."""
MOST_TRIES = 60
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 5.0
_CONTENT_RANGE = re.compile(r"^bytes (?P<start>\d+)-\d+/(?P<total>\d+)$")


class _Cut(Exception):
    """One try ended early for this reason; the next one goes on."""


async def download(client: ComfyUIClient, parameters: Mapping[str, str], target: Path) -> Path:
    """Streams `/view?<parameters>` to `target`, which appears only when it is complete.

    Raises:
        TransientError: EXPIRED when the file is gone, DOWNLOAD_FAILED otherwise.
    """
    part = target.with_name(target.name + ".part")
    whole = False
    try:
        file = await asyncio.to_thread(_opened, part)
        try:
            await _Fetch(client, parameters, file).run()
            await asyncio.to_thread(_put_in_place, file, part, target)
            whole = True
        finally:
            if not whole:
                await asyncio.to_thread(_thrown_away, file, part)
    except OSError as error:
        raise TransientError(
            f"{str(target)!r} cannot be written ({error.strerror}); free some disk space or choose another folder",
            kind=FailureKind.DOWNLOAD_FAILED,
            backend=client.backend,
        ) from None
    return target


def _opened(part: Path) -> BinaryIO:
    part.parent.mkdir(parents=True, exist_ok=True)
    return part.open("wb")


def _put_in_place(file: BinaryIO, part: Path, target: Path) -> None:
    file.close()
    part.replace(target)


def _thrown_away(file: BinaryIO, part: Path) -> None:
    with suppress(OSError):
        file.close()
    with suppress(OSError):
        part.unlink(missing_ok=True)


class _Fetch:
    """One download into one open file; `run` repeats tries until the file is whole."""

    def __init__(self, client: ComfyUIClient, parameters: Mapping[str, str], file: BinaryIO) -> None:
        self._client = client
        self._parameters = parameters
        self._file = file
        self._etag = ""
        self._total: int | None = None

    async def run(self) -> None:
        farthest, fruitless, reason = 0, 0, ""
        for _ in range(MOST_TRIES):
            try:
                await self._try()
                return
            except _Cut as cut:
                reason = str(cut)
            position = self._file.tell()
            fruitless = 0 if position > farthest else fruitless + 1
            farthest = max(farthest, position)
            if fruitless >= FRUITLESS_TRIES:
                break
            await asyncio.sleep(min(_FIRST_PAUSE_S * 2**fruitless, _LONGEST_PAUSE_S))
        raise self._failed(f"{reason}; it was tried again without success")

    async def _try(self) -> None:
        have = self._file.tell()
        headers = {"Range": f"bytes={have}-"} if have else {}
        try:
            async with self._client.view(self._parameters, headers) as response:
                if response.status_code == 416 and have and have == self._total:
                    return
                self._accept(response, have)
                async for chunk in response.aiter_raw(CHUNK_BYTES):
                    await asyncio.to_thread(self._file.write, chunk)
        except httpx.HTTPError as error:
            raise _Cut(f"the connection broke ({type(error).__name__}: {redact(error, 200)})") from None
        if self._total is not None and self._file.tell() != self._total:
            raise _Cut(f"{self._file.tell()} of {self._total} bytes came")

    def _accept(self, response: httpx.Response, have: int) -> None:
        """Decides by the head of an answer where its body belongs."""
        code = response.status_code
        if code == 200:
            self._restart()
            length = response.headers.get("Content-Length", "")
            self._etag, self._total = response.headers.get("ETag", ""), int(length) if length.isdigit() else None
            return
        if code == 206:
            match = _CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
            same = match and int(match["start"]) == have and int(match["total"]) == self._total
            if same and self._etag and response.headers.get("ETag", "") == self._etag:
                return
            self._restart()
            raise _Cut("the file changed while it was fetched")
        if code == 416:
            self._restart()
            raise _Cut("the file became shorter while it was fetched")
        if code == 404:
            raise self._failed("it is no longer there; the clip was deleted before it was collected", gone=True)
        if code == 429 or code >= 500:
            raise _Cut(f"it was answered with status {code}")
        raise self._failed(f"it was refused with status {code}")

    def _restart(self) -> None:
        self._file.seek(0)
        self._file.truncate()

    def _failed(self, reason: str, *, gone: bool = False) -> TransientError:
        name = "/".join(part for part in (self._parameters.get("subfolder"), self._parameters.get("filename")) if part)
        return TransientError(
            f"{name!r} could not be fetched from ComfyUI at {self._client.url!r}: {reason}",
            kind=FailureKind.EXPIRED if gone else FailureKind.DOWNLOAD_FAILED,
            backend=self._client.backend,
            detail=reason,
        )
