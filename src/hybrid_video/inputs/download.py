"""One guarded download over HTTP: checked addresses, redirects followed by hand, type and size limits.

The host is resolved once per request, every address found must be public, and the connection goes to an address that
was checked, so a name that changes its answer in between (DNS rebinding) gains nothing. Proxies from the environment
are not used: behind one, the address could not be checked.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import httpx

from hybrid_video.inputs.addresses import Resolver, is_public
from hybrid_video.inputs.pictures import MAX_BYTES
from hybrid_video.redaction import redact
from hybrid_video.trust import certificates

MAX_REDIRECTS = 3
_TIMEOUT = httpx.Timeout(30.0, connect=10.0)
_UNTYPED = {"", "application/octet-stream", "binary/octet-stream"}
_PICTURES = {"image/png", "image/jpeg", "image/jpg", "image/webp"}
_REDIRECTS = {301, 302, 303, 307, 308}
_BUSY = {408, 425, 429, 500, 502, 503, 504}


class RefusedError(Exception):
    """The rest of a sentence that begins with the address."""


class OutageError(RefusedError):
    """As `RefusedError`, but trying again may help."""


@dataclass(frozen=True)
class Downloader:
    """Fetches one file under rules.

    Args:
        allow_private: also private addresses and plain http.
        resolve: finds the addresses of a host.
        tls: trust store for https; the usual one when None.
    """

    allow_private: bool
    resolve: Resolver
    tls: ssl.SSLContext | None

    async def download(self, url: str, target: Path) -> str:
        """Writes what the address serves to `target`; returns its SHA-256 in hex.

        Raises:
            RefusedError: the rules forbid it, or what is there cannot be used.
            OutageError: it cannot be reached now.
        """
        async with httpx.AsyncClient(
            verify=self.tls or certificates(of_environment=False), timeout=_TIMEOUT, trust_env=False
        ) as client:
            place = self._parse(url)
            for _ in range(MAX_REDIRECTS + 1):
                try:
                    async with self._open(client, place) as response:
                        if response.status_code not in _REDIRECTS:
                            return await _save(response, target)
                        place = self._parse(str(place.join(response.headers.get("location", ""))))
                except (httpx.HTTPError, httpx.InvalidURL) as error:
                    reason = redact(str(error) or type(error).__name__, 200)
                    raise OutageError(f"cannot be fetched ({reason}); check the address, or try again") from None
        raise RefusedError(f"redirects more than {MAX_REDIRECTS} times; give the address it ends at")

    def _parse(self, url: str) -> httpx.URL:
        try:
            place = httpx.URL(url)
        except (httpx.InvalidURL, ValueError):
            raise RefusedError("is not a valid address; write it like https://example.com/picture.png") from None
        if place.scheme != "https" and not (place.scheme == "http" and self.allow_private):
            raise RefusedError(f"leads to {place.scheme or 'no'!r} instead of https; give an https address")
        if not place.host:
            raise RefusedError("names no host; write it like https://example.com/picture.png")
        if place.userinfo:
            raise RefusedError("holds a user name or password; give an address that works without")
        return place

    @asynccontextmanager
    async def _open(self, client: httpx.AsyncClient, place: httpx.URL) -> AsyncIterator[httpx.Response]:
        """A response from the first checked address that accepts a connection."""
        host = place.raw_host.decode("ascii")
        headers = {"Host": place.netloc.decode("ascii"), "Accept": "image/png, image/jpeg, image/webp"}
        headers["Accept-Encoding"] = "identity"
        failure: httpx.ConnectError | httpx.ConnectTimeout | None = None
        for address in await self._addresses(place, host):
            request = client.build_request(
                "GET", place.copy_with(host=address), headers=headers, extensions={"sni_hostname": host.strip("[]")}
            )
            try:
                response = await client.send(request, stream=True)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                failure = error
                continue
            try:
                yield response
            finally:
                await response.aclose()
            return
        raise failure or httpx.ConnectError("the host has no address")

    async def _addresses(self, place: httpx.URL, host: str) -> list[str]:
        port = place.port or {"http": 80, "https": 443}[place.scheme]
        try:
            addresses = [str(ip_address(host.strip("[]")))]
        except ValueError:
            addresses = await self._resolved(host, port)
        private = [address for address in addresses if not is_public(address)]
        if private and not self.allow_private:
            raise RefusedError(
                f"leads to {private[0]}, which is not on the public internet; give a public address, copy the picture "
                "beside the batch file, or set HYBRID_VIDEO_ALLOW_PRIVATE_URLS=true"
            )
        return addresses

    async def _resolved(self, host: str, port: int) -> list[str]:
        try:
            async with asyncio.timeout(10):
                return await self.resolve(host, port)
        except (OSError, UnicodeError, TimeoutError) as error:
            reason = redact(str(error) or "no answer in 10 s", 200)
            raise OutageError(f"names the host {host!r}, which is not found ({reason}); check the spelling") from None


async def _save(response: httpx.Response, target: Path) -> str:
    _check_response(response)
    digest, size = hashlib.sha256(), 0
    with target.open("wb") as file:
        async for chunk in response.aiter_raw():
            size += len(chunk)
            _check_size(size)
            digest.update(chunk)
            file.write(chunk)
    if size == 0:
        raise RefusedError("serves an empty file; check the address")
    return digest.hexdigest()


def _check_response(response: httpx.Response) -> None:
    status = response.status_code
    if status in _BUSY:
        raise OutageError(f"answers {status} {response.reason_phrase}; try again later")
    if status != 200:
        raise RefusedError(f"answers {status} {response.reason_phrase}; check that it can be opened without signing in")
    content_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type not in _PICTURES | _UNTYPED:
        raise RefusedError(f"serves {redact(content_type, 80)!r}, not a picture; give the picture's own address")
    encoding = response.headers.get("content-encoding", "identity").lower()
    if encoding not in {"", "identity"}:
        raise RefusedError(f"serves the picture compressed as {redact(encoding, 40)!r}, which was not asked for")
    length = response.headers.get("content-length", "")
    _check_size(int(length) if length.isdecimal() else 0)


def _check_size(size: int) -> None:
    if size > MAX_BYTES:
        raise RefusedError(f"serves more than {MAX_BYTES // 1_000_000} MB; give a smaller picture")
