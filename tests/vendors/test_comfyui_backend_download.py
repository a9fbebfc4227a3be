"""How clips come to disk: streamed, resumed, compared, and never half."""

from __future__ import annotations

import hashlib
import os
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web

from hybrid_video.backends.comfyui.client import ComfyUIClient
from hybrid_video.backends.comfyui.download import download
from hybrid_video.emulators.server import cut, start_server
from hybrid_video.errors import FailureKind, TransientError

PARAMETERS = {"filename": "a.mp4", "subfolder": "hv/b", "type": "output"}
CONTENT = os.urandom(3_000_000)

View = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Viewer:
    """A server whose `/view` is scripted; keeps the Range header of every call."""

    def __init__(self) -> None:
        self.answers: list[View] = []
        self.ranges: list[str] = []
        self.client: ComfyUIClient

    async def view(self, request: web.Request) -> web.StreamResponse:
        """Answers with the next script, the last one for ever."""
        self.ranges.append(request.headers.get("Range", ""))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return await answer(request)

    @property
    def calls(self) -> int:
        """Requests so far."""
        return len(self.ranges)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pause before the next try, which doubles, begins at 0.02 s."""
    monkeypatch.setattr("hybrid_video.backends.comfyui.download._FIRST_PAUSE_S", 0.02)


@pytest.fixture
async def viewer() -> AsyncIterator[Viewer]:
    """A started server with its client."""
    scripted = Viewer()
    app = web.Application()
    app.router.add_get("/view", scripted.view)
    server = await start_server(app)
    scripted.client = ComfyUIClient(server.url, timeout_s=5)
    yield scripted
    await scripted.client.close()
    await server.close()


def serves(content: bytes = CONTENT, etag: str = '"1"', cut_after: int | None = None) -> View:
    """Serves ranges as ComfyUI does; cuts the connection after so many bytes of the body."""

    async def answer(request: web.Request) -> web.StreamResponse:
        start = int(request.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        if start >= len(content):
            return web.Response(status=416, headers={"Content-Range": f"bytes */{len(content)}"})
        headers = {"ETag": etag, "Content-Length": str(len(content) - start)}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        response = web.StreamResponse(status=206 if start else 200, headers=headers)
        await response.prepare(request)
        await response.write(content[start : None if cut_after is None else start + cut_after])
        if cut_after is not None and start + cut_after < len(content):
            cut(request)
        return response

    return answer


def refuses(status: int) -> View:
    """Answers every call with one status."""

    async def answer(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=status)

    return answer


async def test_a_whole_file_arrives_byte_for_byte(viewer: Viewer, tmp_path: Path) -> None:
    """One request, no Range, no leftovers."""
    viewer.answers = [serves()]
    path = await download(viewer.client, PARAMETERS, tmp_path / "new" / "clip.mp4")
    assert path.read_bytes() == CONTENT
    assert viewer.ranges == [""]
    assert [file.name for file in path.parent.iterdir()] == ["clip.mp4"]


async def test_a_cut_download_resumes_where_it_stopped(viewer: Viewer, tmp_path: Path) -> None:
    """Three connections, none of which sends a byte twice."""
    viewer.answers = [serves(cut_after=1_200_000), serves(cut_after=1_200_000), serves()]
    path = await download(viewer.client, PARAMETERS, tmp_path / "clip.mp4")
    assert path.read_bytes() == CONTENT
    starts = [int(value.removeprefix("bytes=").removesuffix("-")) for value in viewer.ranges if value]
    assert len(starts) == 2
    assert 0 < starts[0] < starts[1] < len(CONTENT)


async def test_a_file_that_changed_meanwhile_is_fetched_anew(viewer: Viewer, tmp_path: Path) -> None:
    """ComfyUI ignores If-Range with an ETag, so the halves of two files would be joined without a comparison."""
    other = os.urandom(len(CONTENT))
    viewer.answers = [serves(cut_after=1_200_000), serves(other, '"2"')]
    path = await download(viewer.client, PARAMETERS, tmp_path / "clip.mp4")
    assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(other).digest()


async def test_a_file_that_became_shorter_is_fetched_anew(viewer: Viewer, tmp_path: Path) -> None:
    """A 416 on resuming means that the old part is worth nothing."""
    viewer.answers = [serves(cut_after=1_200_000), serves(b"short", '"2"')]
    path = await download(viewer.client, PARAMETERS, tmp_path / "clip.mp4")
    assert path.read_bytes() == b"short"


async def test_a_server_without_ranges_starts_over(viewer: Viewer, tmp_path: Path) -> None:
    """A 200 to a Range request carries the whole file."""

    async def whole(_request: web.Request) -> web.StreamResponse:
        return web.Response(body=CONTENT)

    viewer.answers = [serves(cut_after=1_200_000), whole]
    path = await download(viewer.client, PARAMETERS, tmp_path / "clip.mp4")
    assert path.read_bytes() == CONTENT


async def test_a_server_error_is_waited_out(viewer: Viewer, tmp_path: Path) -> None:
    """502 from a proxy in the middle of it all is no reason to make the clip again."""
    viewer.answers = [refuses(502), refuses(500), serves()]
    assert (await download(viewer.client, PARAMETERS, tmp_path / "clip.mp4")).read_bytes() == CONTENT


async def test_a_download_that_never_gets_further_ends(viewer: Viewer, tmp_path: Path) -> None:
    """Bounded tries, then DOWNLOAD_FAILED and nothing on disk."""
    viewer.answers = [serves(cut_after=1_000_000), serves(cut_after=0)]
    with pytest.raises(TransientError, match=r"'hv/b/a.mp4' could not be fetched") as caught:
        await download(viewer.client, PARAMETERS, tmp_path / "clip.mp4")
    assert caught.value.kind is FailureKind.DOWNLOAD_FAILED
    assert viewer.calls < 10
    assert list(tmp_path.iterdir()) == []


async def test_a_deleted_file_is_expired(viewer: Viewer, tmp_path: Path) -> None:
    """404 is final: asking again cannot bring it back."""
    viewer.answers = [refuses(404)]
    with pytest.raises(TransientError, match="deleted before it was collected") as caught:
        await download(viewer.client, PARAMETERS, tmp_path / "clip.mp4")
    assert (caught.value.kind, viewer.calls) == (FailureKind.EXPIRED, 1)


async def test_a_refused_name_is_not_asked_for_again(viewer: Viewer, tmp_path: Path) -> None:
    """400 (a `..` in the name) and 403 (outside the folder) stay what they are."""
    viewer.answers = [refuses(403)]
    with pytest.raises(TransientError, match="refused with status 403") as caught:
        await download(viewer.client, PARAMETERS, tmp_path / "clip.mp4")
    assert (caught.value.kind, viewer.calls) == (FailureKind.DOWNLOAD_FAILED, 1)


async def test_a_folder_that_cannot_be_written_is_named(viewer: Viewer, tmp_path: Path) -> None:
    """The disk's own words and what to do."""
    viewer.answers = [serves()]
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(TransientError, match=r"clip\.mp4' cannot be written \(.+\); free some disk space"):
        await download(viewer.client, PARAMETERS, tmp_path / "file" / "clip.mp4")


async def test_three_hundred_megabytes_need_less_than_thirty_of_memory(viewer: Viewer, tmp_path: Path) -> None:
    """The file goes to disk as it comes; client and server of this test together stay small."""
    block, blocks = bytes(1 << 20), 300

    async def long(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(len(block) * blocks), "ETag": '"1"'})
        await response.prepare(request)
        for _ in range(blocks):
            await response.write(block)
        return response

    viewer.answers = [long]
    tracemalloc.start()
    try:
        path = await download(viewer.client, PARAMETERS, tmp_path / "long.mp4")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert path.stat().st_size == len(block) * blocks
    assert peak < 30 << 20
    path.unlink()
