"""Bringing a serverless clip home: presigned addresses, base64, cut connections and addresses that expired."""

from __future__ import annotations

import base64
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from hybrid_video.backends.runpod import delivery
from hybrid_video.backends.runpod.delivery import download, target_path, write_inline
from hybrid_video.emulators.server import cut, start_server
from hybrid_video.errors import BackendError, FailureKind, TerminalError, TransientError
from hybrid_video.models import RemoteFile

CLIP = bytes(range(256)) * 4096
BACKEND = "runpod-serverless"


@dataclass
class Bucket:
    """An object store that cuts the connection of the first `cuts` answers in the middle."""

    url: str = ""
    cuts: int = 0
    status: list[int] = field(default_factory=list)
    etags: list[str] = field(default_factory=lambda: ['"one"'])
    honest_range: bool = True
    content: bytes = CLIP
    requests: list[dict[str, str]] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(dict(request.headers))
        if self.status:
            return web.Response(status=self.status.pop(0))
        etag = self.etags.pop(0) if len(self.etags) > 1 else self.etags[0]
        start = 0
        if request.headers.get("Range") and self.honest_range and request.headers.get("If-Range") == etag:
            start = int(request.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        body = self.content[start:]
        headers = {"ETag": etag, "Content-Length": str(len(body)), "Content-Type": "image/mp4"}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(self.content) - 1}/{len(self.content)}"
        response = web.StreamResponse(status=206 if start else 200, headers=headers)
        await response.prepare(request)
        if self.cuts:
            self.cuts -= 1
            await response.write(body[: len(body) // 2])
            cut(request)
            return response
        await response.write(body)
        return response


@pytest.fixture
async def bucket(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bucket]:
    monkeypatch.setattr(delivery, "FIRST_PAUSE_S", 0.01)
    store = Bucket()
    app = web.Application()
    app.router.add_get("/{name}", store.handle)
    server = await start_server(app)
    store.url = f"{server.url}/abc.mp4?X-Amz-Signature=deadbeefdeadbeef"
    yield store
    await server.close()


def remote(url: str, **changes: Any) -> RemoteFile:
    return RemoteFile(**({"name": "clip_00001_.mp4", "url": url} | changes))


async def test_a_clip_with_the_wrong_content_type_arrives_whole(bucket: Bucket, tmp_path: Path) -> None:
    """`image/mp4` is what worker-comfyui uploads; no key of ours goes to the bucket."""
    path = await download(remote(bucket.url), tmp_path / "deep" / "a.mp4", backend=BACKEND)
    assert path.read_bytes() == CLIP
    assert "Authorization" not in bucket.requests[0]
    assert [file.name for file in path.parent.iterdir()] == ["a.mp4"]


async def test_a_cut_download_is_resumed_where_it_ended(bucket: Bucket, tmp_path: Path) -> None:
    """The second request asks only for the rest of the same file."""
    bucket.cuts = 2
    path = await download(remote(bucket.url), tmp_path / "a.mp4", backend=BACKEND)
    assert path.read_bytes() == CLIP
    starts = [int(request.get("Range", "bytes=0-")[6:-1]) for request in bucket.requests]
    assert starts[0] == 0
    assert starts == sorted(starts)
    assert starts[-1] > 0


@pytest.mark.parametrize("changes", [{"etags": ['"one"', '"two"']}, {"honest_range": False}, {"etags": ['W/"weak"']}])
async def test_a_changed_file_starts_anew(bucket: Bucket, tmp_path: Path, changes: dict[str, Any]) -> None:
    """Another ETag, a weak one, or a server that ignores ranges never leads to a spliced file."""
    for name, value in changes.items():
        setattr(bucket, name, value)
    bucket.cuts = 1
    path = await download(remote(bucket.url), tmp_path / "a.mp4", backend=BACKEND)
    assert path.read_bytes() == CLIP


@pytest.mark.parametrize("code", [403, 404, 410])
async def test_an_expired_address_is_expired_at_once(bucket: Bucket, tmp_path: Path, code: int) -> None:
    """No second try at a dead address, and its signature is in no message."""
    bucket.status = [code]
    with pytest.raises(TransientError) as caught:
        await download(remote(bucket.url), tmp_path / "a.mp4", backend=BACKEND)
    assert caught.value.kind is FailureKind.EXPIRED
    assert len(bucket.requests) == 1
    assert "deadbeef" not in f"{caught.value} {caught.value.detail}"


async def test_a_sick_store_is_tried_again(bucket: Bucket, tmp_path: Path) -> None:
    """5xx passes."""
    bucket.status = [503, 500]
    path = await download(remote(bucket.url), tmp_path / "a.mp4", backend=BACKEND)
    assert path.read_bytes() == CLIP


async def test_a_store_that_stays_away_is_a_failed_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing listens there: the error names no signature, and the log neither."""
    monkeypatch.setattr(delivery, "FIRST_PAUSE_S", 0.001)
    with pytest.raises(TransientError) as caught:
        await download(remote("http://127.0.0.1:9/x.mp4?sig=deadbeef"), tmp_path / "a.mp4", backend=BACKEND)
    assert caught.value.kind is FailureKind.DOWNLOAD_FAILED
    assert "deadbeef" not in str(caught.value)


async def test_no_log_holds_a_signature(bucket: Bucket, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """httpx logs the addresses it asks for; the presigned part of them is masked, at any level."""
    with caplog.at_level(logging.DEBUG):
        await download(remote(bucket.url), tmp_path / "a.mp4", backend=BACKEND)
    lines = [record.getMessage() for record in caplog.records]
    assert any("HTTP Request: GET" in line for line in lines)
    assert not [line for line in lines if "deadbeef" in line]


async def test_an_empty_object_is_no_clip(bucket: Bucket, tmp_path: Path) -> None:
    """Zero bytes are refused, and nothing is left under the clip's name."""
    bucket.content = b""
    with pytest.raises(TerminalError) as caught:
        await download(remote(bucket.url), tmp_path / "a.mp4", backend=BACKEND)
    assert caught.value.kind is FailureKind.BAD_CLIP
    assert not (tmp_path / "a.mp4").exists()


@pytest.mark.parametrize("prefix", ["", "data:video/mp4;base64,"])
async def test_base64_is_decoded_to_disk(tmp_path: Path, prefix: str) -> None:
    """Plain base64 and a data URI give the same file."""
    file = remote("", inline_base64=prefix + base64.b64encode(CLIP).decode())
    path = await write_inline(file, tmp_path / "a.mp4", backend=BACKEND)
    assert path.read_bytes() == CLIP


@pytest.mark.parametrize("text", ["", "!!!", "AAA"])
async def test_broken_base64_is_no_clip(tmp_path: Path, text: str) -> None:
    """Empty and malformed content is refused."""
    with pytest.raises(TerminalError) as caught:
        await write_inline(remote("", inline_base64=text), tmp_path / "a.mp4", backend=BACKEND)
    assert caught.value.kind is FailureKind.BAD_CLIP


async def test_an_unwritable_folder_is_a_failed_download(bucket: Bucket, tmp_path: Path) -> None:
    """The disk's own reason is told, for both ways of delivery."""
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    for file in (remote(bucket.url), remote("", inline_base64="AAAA")):
        bring = write_inline if file.inline_base64 else download
        with pytest.raises(BackendError, match="could not be written") as caught:
            await bring(file, blocked / "a.mp4", backend=BACKEND)
        assert caught.value.kind is FailureKind.DOWNLOAD_FAILED


def test_no_remote_name_becomes_a_path(tmp_path: Path) -> None:
    """Only the extension of the worker's file name is used."""
    assert target_path(tmp_path, "attempt", remote("", name="../../etc/x.MP4")) == tmp_path / "attempt.mp4"
