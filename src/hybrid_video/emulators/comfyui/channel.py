"""The websocket side: sockets by client id, and one publisher that sends every message in order.

Kept as observed: a newer socket with the same id replaces the older, and when the older ends the newer goes deaf; one
reader that does not read holds up the messages of all.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from aiohttp import WSMsgType, web

FEATURES: dict[str, Any] = {
    "supports_preview_metadata": True,
    "max_upload_size": 104_857_600,
    "extension": {"manager": {"supports_v4": True}},
}
"""Answer of `GET /features`, observed on ComfyUI 0.8.0."""


class Channel:
    """Sends messages to websocket clients.

    Args:
        queue_info: the present `exec_info`, for the first message to a new client.
    """

    def __init__(self, queue_info: Callable[[], dict[str, Any]]) -> None:
        self._queue_info = queue_info
        self._messages: asyncio.Queue[tuple[str, dict[str, Any], str | None]] = asyncio.Queue()
        self._sockets: dict[str, web.WebSocketResponse] = {}
        self._open: set[web.WebSocketResponse] = set()
        self.client_id: str | None = None
        self.node: str | None = None

    def send(self, kind: str, data: dict[str, Any], to: str | None = None) -> None:
        """Queues a message for one client, or for everyone if `to` is None."""
        self._messages.put_nowait((kind, data, to))

    async def publish(self) -> None:
        """Sends queued messages one after another, for ever."""
        while True:
            kind, data, to = await self._messages.get()
            receivers = list(self._sockets.values()) if to is None else [self._sockets.get(to)]
            for socket in receivers:
                if socket is not None:
                    await _send(socket, kind, data)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """`GET /ws`."""
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        client = request.rel_url.query.get("clientId", "") or uuid.uuid4().hex
        self._sockets[client] = socket
        self._open.add(socket)
        try:
            await _send(socket, "status", {"status": self._queue_info(), "sid": client})
            if self.client_id == client and self.node is not None:
                await _send(socket, "executing", {"node": self.node})
            await self._listen(socket)
        finally:
            self._open.discard(socket)
            self._sockets.pop(client, None)
        return socket

    async def _listen(self, socket: web.WebSocketResponse) -> None:
        first = True
        async for message in socket:
            if message.type is not WSMsgType.TEXT:
                continue
            try:
                data = json.loads(message.data)
            except json.JSONDecodeError:
                continue
            if first and isinstance(data, dict) and data.get("type") == "feature_flags":
                await _send(socket, "feature_flags", FEATURES)
            first = False

    def drop_all(self) -> None:
        """Cuts every connection, as the end of the process does."""
        for socket in self._open:
            transport = socket._req.transport if socket._req else None  # noqa: SLF001 - the only way to cut, not close
            if transport is not None:
                transport.abort()
        self._sockets.clear()
        self.client_id, self.node = None, None


async def _send(socket: web.WebSocketResponse, kind: str, data: dict[str, Any]) -> None:
    with suppress(ConnectionError, RuntimeError):
        await socket.send_json({"type": kind, "data": data})
