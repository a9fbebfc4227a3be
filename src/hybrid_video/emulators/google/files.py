"""Downloads: `files/{id}:download?alt=media` answers 302 to `/download/…` on the same host; both ask for the key.

Recorded on the real API: the redirect carries a JSON error body with code 302; the file comes with `X-Goog-Hash` and
as an attachment. Ranges are not honoured. Two days after it was made a file is gone.
"""

from __future__ import annotations

import asyncio

from aiohttp import web

from hybrid_video.emulators.google.answers import Refused
from hybrid_video.emulators.google.clips import crc32c
from hybrid_video.emulators.google.operations import Operation
from hybrid_video.emulators.google.wire import Wire


def file_uri(request: web.Request, operation: Operation) -> str:
    """The address a client downloads a clip from."""
    return f"{request.scheme}://{request.host}/v1beta/files/{operation.file_id}:download?alt=media"


class Files:
    """Handlers of the download addresses. `redirect` False gives the file at once, as was seen for Omni."""

    def __init__(self, wire: Wire, *, redirect: bool) -> None:
        self._wire, self._redirect = wire, redirect

    def add_to(self, app: web.Application) -> None:
        """Adds the routes; only the one that sends bytes is open to the faults of `download`."""
        first = self._wire.handler("redirect", self._first) if self._redirect else None
        last = self._wire.handler("download", self._send)
        app.router.add_get("/v1beta/files/{id}:download", first or last)
        app.router.add_get("/download/v1beta/files/{id}:download", last)

    async def _first(self, request: web.Request) -> web.Response:
        target = f"{request.scheme}://{request.host}/download{request.path_qs}"
        error = {"code": 302, "message": "Found", "status": "UNKNOWN"}
        return web.json_response({"error": error}, status=302, headers={"Location": target})

    async def _send(self, request: web.Request) -> web.Response:
        name = request.match_info["id"]
        operation = self._wire.operations.of_file(name)
        if operation is None:
            raise Refused(404, f"The File {name} does not exist or has expired.")
        return await media(operation)


async def media(operation: Operation) -> web.Response:
    """The bytes of a delivered clip with Google's headers."""
    data = await asyncio.to_thread(operation.path.read_bytes)
    checksum = await asyncio.to_thread(crc32c, data)
    return web.Response(
        body=data,
        content_type="video/mp4",
        headers={"X-Goog-Hash": f"crc32c={checksum}", "Content-Disposition": "attachment"},
    )
