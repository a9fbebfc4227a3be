"""Fetches model files: resumable, verified, placed in one move, from mirrors first where there are any.

A file grows as `<name>.part` beside its place, with `<name>.part.json` saying where from. A connection that breaks is
taken up again with `Range` and `If-Range`; whatever came together in pieces is hashed as a whole before it counts.
Observed on Hugging Face: `resolve` addresses redirect to a signed one on another host, gated files answer 401 or 403.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from hybrid_video.errors import ConfigurationError
from hybrid_video.installer.commands import Cancelled
from hybrid_video.installer.journal import FileState, Status, write_atomically
from hybrid_video.installer.manifest import ModelSource
from hybrid_video.installer.options import Token
from hybrid_video.redaction import redact

CHUNK_BYTES = 1 << 20
LARGE_BYTES = 1 << 30
"""Hashing more than this takes a while, so it is said."""
TRIES = 6
"""Attempts in a row that may bring no byte; one that brings some starts the count again."""
PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
TIMEOUT = httpx.Timeout(30.0, connect=15.0)
RATE_WINDOW_S = 5.0
NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

OnProgress = Callable[[FileState], None]


class _NextSource(Exception):
    """This source cannot give the file; `reason` is a sentence without its end."""


@dataclass(frozen=True)
class Source:
    """One place a file can be had: an address, or a file on this machine."""

    url: str = ""
    path: Path | None = None
    official: bool = False

    def __str__(self) -> str:
        return str(self.path) if self.path else redact(self.url)


def sources_of(file: ModelSource, mirrors: Sequence[str]) -> Iterator[Source]:
    """Mirrors in their order, then the file's own address.

    A mirror is a folder laid out like `models/`, or an address: either one that keeps the paths of the original host
    (as hf-mirror.com does) or one laid out like `models/`.
    """
    for mirror in mirrors:
        if "://" not in mirror:
            yield Source(path=Path(mirror).expanduser() / file.folder / file.name)
        else:
            base = mirror.rstrip("/")
            yield Source(url=base + urlsplit(file.url).path)
            yield Source(url=f"{base}/{file.path}")
    yield Source(url=file.url, official=True)


class Downloader:
    """Brings files to their place.

    Args:
        models: ComfyUI's models folder.
        mirrors: asked first, see `sources_of`.
        known: hashes of earlier downloads by path, for files whose manifest has none.
        pause_s: first pause after a failure; doubles.
    """

    def __init__(
        self,
        models: Path,
        *,
        mirrors: Sequence[str] = (),
        known: dict[str, str] | None = None,
        token: Token | None = None,
        cancelled: Callable[[], bool] = lambda: False,
        on_notice: Callable[[str], None] = lambda _: None,
        pause_s: float = PAUSE_S,
    ) -> None:
        self._models = models
        self._mirrors = tuple(mirrors)
        self._known = dict(known or {})
        self._token = token or Token()
        self._cancelled = cancelled
        self._on_notice = on_notice
        self._pause_s = pause_s

    def place_of(self, file: ModelSource) -> Path:
        """Where it belongs."""
        return self._models / file.folder / file.name

    def missing_bytes(self, files: Sequence[ModelSource]) -> int:
        """How much is still to come, parts that are there already counted."""
        return sum(max(0, file.bytes - self._have(file)) for file in files)

    def fetch(self, file: ModelSource, on_progress: OnProgress, *, check: bool = False) -> str:
        """Leaves the file in its place and returns its SHA-256.

        Args:
            check: hash a file that is there already instead of trusting its size and the receipt.

        Raises:
            ConfigurationError: no source could give it; says why each could not, and what to do.
            Cancelled: somebody asked to stop; what has come is kept.
        """
        place = self.place_of(file)
        expected = file.sha256 or self._known.get(file.path, "")
        if place.is_file():
            kept = self._keep(file, place, expected, check, on_progress)
            if kept:
                return kept
        place.parent.mkdir(parents=True, exist_ok=True)
        reasons: list[str] = []
        for source in sources_of(file, self._mirrors):
            try:
                digest = self._from(source, file, expected, on_progress)
            except _NextSource as failure:
                reasons.append(f"{source}: {failure}")
                self._on_notice(f"{file.name}: {source}: {failure}")
                continue
            _part(place).replace(place)
            _note(place).unlink(missing_ok=True)
            on_progress(_state(file, "done", file.bytes))
            return digest
        on_progress(_state(file, "failed", self._have(file)))
        raise ConfigurationError(_whole_reason(file, reasons))

    def _have(self, file: ModelSource) -> int:
        place = self.place_of(file)
        for path in (place, _part(place)):
            if path.is_file():
                return path.stat().st_size
        return 0

    def _keep(self, file: ModelSource, place: Path, expected: str, check: bool, on_progress: OnProgress) -> str:
        """The hash of a file that is there and right; "" after moving a wrong one out of the way."""
        if place.stat().st_size == file.bytes:
            trusted = self._known.get(file.path)
            digest = trusted if trusted and not check else self._hash(place, file, on_progress)
            if not expected or digest == expected:
                on_progress(_state(file, "done", file.bytes))
                return digest
        aside = place.with_name(f"{place.name}.wrong")
        place.replace(aside)
        self._on_notice(f"{file.name} is not the file it should be; it was moved to {str(aside)!r} and is fetched anew")
        return ""

    def _from(self, source: Source, file: ModelSource, expected: str, on_progress: OnProgress) -> str:
        """Brings the part file from one source and verifies it; once more from the start if it came in pieces."""
        place = self.place_of(file)
        for again in (True, False):
            if source.path:
                self._copy(source.path, file, on_progress)
            pieces = 1 if source.path else self._download(source, file, on_progress)
            digest = self._hash(_part(place), file, on_progress)
            if not expected or digest == expected:
                return digest
            _discard(place)
            if not again or pieces == 1:
                break
            self._on_notice(f"{file.name} did not come together rightly; fetching it anew")
        raise _NextSource(
            f"its SHA-256 is {digest}, but {expected} is expected; the download was deleted, because a model file can "
            "hold programs"
        )

    def _copy(self, source: Path, file: ModelSource, on_progress: OnProgress) -> None:
        if not source.is_file():
            raise _NextSource("not there")
        if source.stat().st_size != file.bytes:
            raise _NextSource(f"has {source.stat().st_size} bytes instead of {file.bytes}")
        part = _part(self.place_of(file))
        rate = _Rate()
        try:
            with source.open("rb") as reading, part.open("wb") as writing:
                while chunk := reading.read(CHUNK_BYTES):
                    self._stop_if_cancelled()
                    writing.write(chunk)
                    on_progress(_state(file, "running", writing.tell(), rate.of(writing.tell())))
        except OSError as error:
            raise _disk_error(error, part) from None

    def _download(self, source: Source, file: ModelSource, on_progress: OnProgress) -> int:
        """Brings the rest of the file; returns in how many pieces it came, with what was there before."""
        part = _part(self.place_of(file))
        tries, pause = 0, self._pause_s
        for pieces in itertools.count(2 if part.exists() else 1):
            self._stop_if_cancelled()
            before = part.stat().st_size if part.exists() else 0
            if before == file.bytes:
                return pieces
            try:
                self._attempt(source, file, part, on_progress)
                return pieces
            except httpx.HTTPError as error:
                after = part.stat().st_size if part.exists() else 0
                tries = 0 if after > before else tries + 1
                if tries == 0:
                    pause = self._pause_s
                if tries >= TRIES or isinstance(error, httpx.UnsupportedProtocol | httpx.InvalidURL):
                    raise _NextSource(f"{tries} tries brought nothing ({_named(error)})") from None
                self._on_notice(f"{file.name}: {_named(error)} after {after} bytes; trying again in {pause:.0f} s")
            self._sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_S)
        raise AssertionError("unreachable: count has no end")

    def _attempt(self, source: Source, file: ModelSource, part: Path, on_progress: OnProgress) -> None:
        have, note = (part.stat().st_size if part.exists() else 0), _read_note(self.place_of(file))
        if have > file.bytes or note.get("url") != source.url:
            have, note = 0, {}  # what is there stays until this source has something better
        headers = {"Accept-Encoding": "identity", "User-Agent": "hybrid-video-installer"}
        if have:
            headers["Range"] = f"bytes={have}-"
            if note.get("etag"):
                headers["If-Range"] = note["etag"]
        if self._token.value and _is_hugging_face(source.url):
            headers["Authorization"] = f"Bearer {self._token.value}"
        on_progress(_state(file, "running", have))
        with (
            httpx.Client(timeout=TIMEOUT, follow_redirects=True, max_redirects=5) as http,
            http.stream("GET", source.url, headers=headers) as response,
        ):
            start = self._start_of(response, file, have)
            etag = response.headers.get("ETag", "")
            write_atomically(_note(self.place_of(file)), json.dumps({"url": source.url, "etag": _strong(etag)}))
            self._write(response, file, part, start, on_progress)
        if part.stat().st_size != file.bytes:
            raise httpx.RemoteProtocolError(f"the answer ended after {part.stat().st_size} of {file.bytes} bytes")

    def _start_of(self, response: httpx.Response, file: ModelSource, have: int) -> int:
        """Where the bytes of this answer belong.

        Raises:
            _NextSource: there is nothing to be had here, or something else than the manifest says.
            httpx.RemoteProtocolError: worth another try.
        """
        code = response.status_code
        if code == 206:
            found = response.headers.get("Content-Range", "")
            span, _, total = found.removeprefix("bytes ").partition("/")
            if span.split("-")[0] != str(have):
                raise httpx.RemoteProtocolError(f"asked for bytes from {have}, got {found!r}")
            self._must_fit(file, int(total) if total.isdigit() else None)
            known, now = _read_note(self.place_of(file)).get("etag", ""), _strong(response.headers.get("ETag", ""))
            if known and now and known != now:  # not every server honours If-Range
                _discard(self.place_of(file))
                raise httpx.RemoteProtocolError("the file was replaced on the server meanwhile; starting anew")
            return have
        if code == 200:
            length = response.headers.get("Content-Length", "")
            self._must_fit(file, int(length) if length.isdigit() else None)
            return 0
        if code == 416:
            _discard(self.place_of(file))
            raise httpx.RemoteProtocolError("the server has fewer bytes than came before; starting anew")
        if code == 429 or code >= 500:
            raise httpx.RemoteProtocolError(f"the server answered {code}")
        if code in (401, 403):
            raise _NextSource(self._locked(file, code))
        raise _NextSource(f"the server answered {code}")

    def _must_fit(self, file: ModelSource, total: int | None) -> None:
        if total is not None and total != file.bytes:
            raise _NextSource(f"it has {total} bytes there instead of {file.bytes}; it is another file")

    def _locked(self, file: ModelSource, code: int) -> str:
        page = file.licence_url or _page_of(file.url)
        if self._token.value:
            return (
                f"the server answered {code} although HF_TOKEN is set: open {page} in a browser with the account of "
                "that token and accept the licence, and let the token read gated repositories"
            )
        return (
            f"the server answered {code}, the model wants consent: open {page}, sign in and accept the licence, make a "
            "token with read rights at https://huggingface.co/settings/tokens, set HF_TOKEN to it and run this again"
        )

    def _write(
        self, response: httpx.Response, file: ModelSource, part: Path, start: int, on_progress: OnProgress
    ) -> None:
        rate = _Rate(start)
        try:
            with part.open("r+b" if start else "wb") as writing:
                writing.seek(start)
                writing.truncate()
                done = start
                for chunk in response.iter_raw():  # with a size, httpx would lose what it gathers when the line breaks
                    self._stop_if_cancelled()
                    if done + len(chunk) > file.bytes:
                        raise _NextSource(f"it sends more than {file.bytes} bytes; it is another file")
                    writing.write(chunk)
                    done += len(chunk)
                    on_progress(_state(file, "running", done, rate.of(done)))
                writing.flush()
                os.fsync(writing.fileno())
        except OSError as error:
            raise _disk_error(error, part) from None

    def _hash(self, path: Path, file: ModelSource, on_progress: OnProgress) -> str:
        """SHA-256 of the whole file."""
        digest = hashlib.sha256()
        if file.bytes > LARGE_BYTES:
            self._on_notice(f"{file.name}: checking its SHA-256")
        with path.open("rb") as reading:
            while chunk := reading.read(CHUNK_BYTES * 4):
                self._stop_if_cancelled()
                digest.update(chunk)
        on_progress(_state(file, "running", path.stat().st_size))
        return digest.hexdigest()

    def _sleep(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._stop_if_cancelled()
            time.sleep(min(0.2, seconds))

    def _stop_if_cancelled(self) -> None:
        if self._cancelled():
            raise Cancelled


class _Rate:
    """Bytes a second over the last few seconds."""

    def __init__(self, start: int = 0) -> None:
        self._marks = [(time.monotonic(), start)]

    def of(self, done: int) -> float:
        now = time.monotonic()
        self._marks.append((now, done))
        while len(self._marks) > 2 and now - self._marks[0][0] > RATE_WINDOW_S:
            self._marks.pop(0)
        since, first = self._marks[0]
        return (done - first) / (now - since) if now > since else 0.0


def check_space(folder: Path, needed_bytes: int, spare_gb: float) -> None:
    """Raises before the first byte where a disk is too small.

    Raises:
        ConfigurationError: with the three numbers and what to do.
    """
    place = folder
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed_bytes + spare_gb * 2**30:
        raise ConfigurationError(
            f"the disk of {str(place)!r} has {free / 2**30:.1f} GiB free, but {needed_bytes / 2**30:.1f} GiB are to "
            f"come and {spare_gb:g} GiB must be left; free some space, choose a smaller --bundle, or another --dir"
        )


def _state(file: ModelSource, status: Status, done: int, rate: float = 0.0) -> FileState:
    return FileState(
        file=file.name,
        folder=file.folder,
        status=status,
        bytes_done=done,
        bytes_total=file.bytes,
        bytes_per_s=rate,
    )


def _whole_reason(file: ModelSource, reasons: Sequence[str]) -> str:
    tail = "; nothing that was there before was changed. Run it again to go on where it stopped"
    network = "" if not all("tries brought nothing" in reason for reason in reasons) else "; check the network"
    mirror = ", or name a mirror in HYBRID_VIDEO_MODEL_MIRRORS" if network else ""
    return f"{file.name!r} could not be fetched: {' | '.join(reasons)}{network}{mirror}{tail}"


def _disk_error(error: OSError, part: Path) -> ConfigurationError:
    if error.errno in NO_SPACE:
        return ConfigurationError(
            f"the disk became full while writing {str(part)!r}; free some space and run this again: it goes on where "
            "it stopped"
        )
    return ConfigurationError(f"{str(part)!r} cannot be written ({error.strerror}); check the disk and its rights")


def _part(place: Path) -> Path:
    return place.with_name(f"{place.name}.part")


def _note(place: Path) -> Path:
    return place.with_name(f"{place.name}.part.json")


def _discard(place: Path) -> None:
    _part(place).unlink(missing_ok=True)
    _note(place).unlink(missing_ok=True)


def _read_note(place: Path) -> dict[str, str]:
    try:
        data = json.loads(_note(place).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return {}
    return {str(key): str(value) for key, value in data.items()} if isinstance(data, dict) else {}


def _strong(etag: str) -> str:
    """Only a strong validator may be used in If-Range (RFC 9110, 13.1.5)."""
    return "" if etag.startswith("W/") else etag


def _is_hugging_face(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    return host == "huggingface.co" or host.endswith(".huggingface.co")


def _page_of(url: str) -> str:
    return url.partition("/resolve/")[0]


def _named(error: Exception) -> str:
    return redact(f"{type(error).__name__}: {error}".rstrip(": "), 200)
