"""Downloads: who gets the credentials, and what a refused one means."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from aiohttp import web

from hybrid_video.backends.google.download import bucket_url, fetch, write_inline
from hybrid_video.emulators.server import RunningServer, start_server
from hybrid_video.errors import FailureKind, TerminalError, TransientError

KEY = {"x-goog-api-key": "secret-key-123"}
Answer = Callable[[web.Request], web.Response]


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[tuple[RunningServer, list[web.Request]]]:
    seen: list[web.Request] = []

    async def handle(request: web.Request) -> web.Response:
        seen.append(request)
        return answer(request)

    app = web.Application()
    app.router.add_get("/{path:.*}", handle)
    server = await start_server(app)
    try:
        yield server, seen
    finally:
        await server.close()


def video(_request: web.Request) -> web.Response:
    return web.Response(body=b"0000ftyp", content_type="video/mp4")


async def get(url: str, target: Path, origin: str) -> Path:
    async with httpx.AsyncClient() as http:
        return await fetch(http, url, target, backend="gemini", credentials=KEY, origin=origin)


async def test_the_key_goes_to_the_api_and_to_no_other_host(tmp_path: Path) -> None:
    """A redirect to a storage host is followed without the key."""
    async with serving(video) as (storage, at_storage):
        moved = lambda _request: web.Response(status=302, headers={"Location": f"{storage.url}/clip"})  # noqa: E731
        async with serving(moved) as (api, at_api):
            path = await get(f"{api.url}/file", tmp_path / "clip.mp4", api.url)
    assert path.read_bytes() == b"0000ftyp"
    assert at_api[0].headers["x-goog-api-key"] == "secret-key-123"
    assert "x-goog-api-key" not in at_storage[0].headers


async def test_an_address_on_another_host_gets_no_key(tmp_path: Path) -> None:
    """A result that points elsewhere cannot collect our key."""
    async with serving(video) as (elsewhere, seen):
        await get(f"{elsewhere.url}/file", tmp_path / "clip.mp4", "https://generativelanguage.googleapis.com")
    assert "x-goog-api-key" not in seen[0].headers


async def test_endless_redirects_end(tmp_path: Path) -> None:
    """A loop is a failed download, not a hang."""
    async with serving(lambda request: web.Response(status=302, headers={"Location": request.path})) as (api, _seen):
        with pytest.raises(TransientError, match="redirects") as caught:
            await get(f"{api.url}/file", tmp_path / "clip.mp4", api.url)
    assert caught.value.kind is FailureKind.DOWNLOAD_FAILED


@pytest.mark.parametrize(
    ("code", "message", "kind"),
    [
        (404, "gone", FailureKind.EXPIRED),
        (403, "You do not have permission to access the File x or it may not exist.", FailureKind.EXPIRED),
        (403, "unregistered callers", FailureKind.DOWNLOAD_FAILED),
        (400, "API key not valid", FailureKind.DOWNLOAD_FAILED),
    ],
)
async def test_a_refused_download_is_expired_or_failed(
    tmp_path: Path, code: int, message: str, kind: FailureKind
) -> None:
    """Google answers 403 for files that do not exist any more; nothing of it is tried again."""
    body = {"error": {"code": code, "message": message}}
    async with serving(lambda _request: web.json_response(body, status=code)) as (api, seen):
        with pytest.raises(TransientError) as caught:
            await get(f"{api.url}/file", tmp_path / "clip.mp4", api.url)
    assert caught.value.kind is kind
    assert len(seen) == 1


async def test_a_folder_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    """The message names the file; the clip is not made again."""
    async with serving(video) as (api, _seen):
        with pytest.raises(TransientError, match="could not be downloaded"):
            await get(f"{api.url}/file", tmp_path / "missing" / "clip.mp4", api.url)


@pytest.mark.parametrize("data", ["", "not base64!"])
async def test_an_inline_clip_without_content_is_a_bad_clip(tmp_path: Path, data: str) -> None:
    """Nothing is left on the disk."""
    with pytest.raises(TerminalError) as caught:
        await write_inline(data, tmp_path / "clip.mp4", backend="veo")
    assert caught.value.kind is FailureKind.BAD_CLIP
    assert list(tmp_path.iterdir()) == []


def test_a_bucket_address_is_escaped() -> None:
    """Slashes of an object name belong to the name."""
    assert bucket_url("gs://shots/a/b c.mp4", "https://s") == "https://s/storage/v1/b/shots/o/a%2Fb%20c.mp4?alt=media"
