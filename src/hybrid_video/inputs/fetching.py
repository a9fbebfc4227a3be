"""Keeps pictures from the web in a folder, named by their content, and downloads each address once for all its jobs."""

from __future__ import annotations

import asyncio
import hashlib
import os
import ssl
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakValueDictionary

from hybrid_video.errors import InputError
from hybrid_video.inputs.addresses import Resolver, system_resolver
from hybrid_video.inputs.download import Downloader, OutageError, RefusedError
from hybrid_video.inputs.pictures import UnusablePictureError, check_picture
from hybrid_video.redaction import redact

TRIES = 3
FRESH_S = 600.0
"""So long one download serves every job that names the same address."""

_locks: WeakValueDictionary[tuple[int, str], asyncio.Lock] = WeakValueDictionary()


@dataclass(frozen=True)
class ImageFetcher:
    """Downloads pictures into `cache_dir`.

    Args:
        allow_private: also fetch from private addresses and over plain http.
        resolve: finds the addresses of a host.
        tls: trust store for https; the system's usual one when None.
        timeout_s: longest a whole download may take.
        pause_s: pause before the second try; doubles with each further one.
    """

    cache_dir: Path
    allow_private: bool = False
    resolve: Resolver = system_resolver
    tls: ssl.SSLContext | None = None
    timeout_s: float = 120.0
    pause_s: float = 0.5

    async def fetch(self, url: str) -> Path:
        """The local file of the picture at an address.

        Raises:
            InputError: naming the address, without any signature in it, and the remedy.
        """
        shown = f"image: {redact(repr(url))}"
        key = hashlib.sha256(f"{self.allow_private} {url}".encode()).hexdigest()
        lock = _locks.setdefault((id(asyncio.get_running_loop()), f"{self.cache_dir} {key}"), asyncio.Lock())
        async with lock:
            try:
                return self._recent(key) or await self._fetch(url, key)
            except (RefusedError, UnusablePictureError) as refusal:
                raise InputError(f"{shown} {refusal}") from None
            except OSError as error:
                place, reason = str(self.cache_dir), error.strerror or error
                raise InputError(
                    f"{shown} cannot be kept in {place!r} ({reason}); free space there or correct its permissions"
                ) from None

    def _recent(self, key: str) -> Path | None:
        reference = self.cache_dir / f"{key}.ref"
        try:
            if time.time() - reference.stat().st_mtime > FRESH_S:
                return None
            path = self.cache_dir / Path(reference.read_text(encoding="utf-8")).name
        except (OSError, ValueError):
            return None
        return path if path.is_file() else None

    async def _fetch(self, url: str, key: str) -> Path:
        self.cache_dir.mkdir(parents=True, exist_ok=True)
        with _part(self.cache_dir) as part:
            digest = await self._patiently(url, part)
            suffix = await asyncio.to_thread(check_picture, part)
            path = self.cache_dir / f"{digest}{suffix}"
            part.replace(path)
        with _part(self.cache_dir) as part:
            part.write_text(path.name, encoding="utf-8")
            part.replace(self.cache_dir / f"{key}.ref")
        return path

    async def _patiently(self, url: str, part: Path) -> str:
        downloader = Downloader(self.allow_private, self.resolve, self.tls)
        for attempt in range(1, TRIES):
            try:
                return await self._timely(downloader, url, part)
            except OutageError:
                await asyncio.sleep(self.pause_s * 2 ** (attempt - 1))
        return await self._timely(downloader, url, part)

    async def _timely(self, downloader: Downloader, url: str, part: Path) -> str:
        try:
            async with asyncio.timeout(self.timeout_s):
                return await downloader.download(url, part)
        except TimeoutError:
            raise RefusedError(f"was not complete after {self.timeout_s:g} s; copy it beside the batch file") from None


@contextmanager
def _part(folder: Path) -> Iterator[Path]:
    """A new file in the folder that is gone afterwards unless it was renamed."""
    handle, name = tempfile.mkstemp(prefix=".fetching-", suffix=".part", dir=folder)
    os.close(handle)
    path = Path(name)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
