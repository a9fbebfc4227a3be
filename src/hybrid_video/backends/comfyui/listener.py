"""Listens to one server's websocket: hints for progress and early wake-up, never the truth.

Rules observed on ComfyUI 0.8.0 shape it. A socket that takes over a client id goes deaf when the older one is cleaned
up, so every connection has a new random id. A reader that does not drain stops the messages of every client, so this
one always drains. The server sends no pings, so ours find a dead connection. What was missed is gone: polling decides.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from uuid import uuid4

from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from hybrid_video.backends.comfyui.progress import PromptProgress
from hybrid_video.redaction import redact
from hybrid_video.settings import is_loopback

logger = logging.getLogger(__name__)

_OPEN_TIMEOUT_S = 5.0
_PING_S = 20.0
_PONG_WITHIN_S = 60.0
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_LONGEST_MESSAGE = 64 << 20


class Listener:
    """One background connection for all prompts sent to a server. Failing to connect is never an error."""

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        self._url = url
        self._headers = dict(headers)
        self._client_id = ""
        self._failed = False
        self._connected = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._prompts: dict[str, PromptProgress] = {}
        self._news: dict[str, asyncio.Event] = {}

    async def client_id(self, *, within_s: float = 1.0) -> str:
        """The id to send a prompt under: the connection's, or a fresh one when there is none in time.

        Only the first connection is waited for: where it failed (a proxy without websockets), polling has to do.
        """
        self._start()
        if not self._failed and not self._connected.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(within_s):
                    await self._connected.wait()
        return self._client_id if self._connected.is_set() else uuid4().hex

    def expect(self, prompt_id: str, graph: Mapping[str, Any]) -> None:
        """Begins to keep the progress of a prompt."""
        self._prompts[prompt_id] = PromptProgress(graph)
        self._news[prompt_id] = asyncio.Event()

    def expects(self, prompt_id: str) -> bool:
        """Whether the prompt was sent a moment ago and its news comes over this connection."""
        return prompt_id in self._prompts and self._connected.is_set()

    def forget(self, prompt_id: str) -> None:
        """Drops what is kept of a prompt."""
        self._prompts.pop(prompt_id, None)
        self._news.pop(prompt_id, None)

    def progress(self, prompt_id: str) -> float | None:
        """The share done, or None where nothing has been heard of the prompt."""
        known = self._prompts.get(prompt_id)
        return known.share if known and known.heard else None

    def ended(self, prompt_id: str) -> bool:
        """Whether the end of the prompt was announced; the history has it now."""
        known = self._prompts.get(prompt_id)
        return known is not None and known.ended

    async def wait(self, prompt_id: str, timeout_s: float) -> None:
        """Returns when something was heard of the prompt, at the latest after the time-out."""
        news = self._news.get(prompt_id)
        if news is None:
            await asyncio.sleep(timeout_s)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):  # unlike `wait_for` without a task of its own: it wakes at once
                await news.wait()
        news.clear()

    async def close(self) -> None:
        """Ends the connection."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    def _start(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="comfyui-listener")

    async def _run(self) -> None:
        pause = _FIRST_PAUSE_S
        while True:
            try:
                await self._listen()
                pause = _FIRST_PAUSE_S
            except (OSError, TimeoutError, WebSocketException, ValueError) as error:
                logger.debug("comfyui websocket ended: %s", redact(error, 200))
            finally:
                self._connected.clear()
                self._failed = True
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_S)

    async def _listen(self) -> None:
        client_id = uuid4().hex
        connection = connect(
            f"{self._url}?clientId={client_id}",
            additional_headers=self._headers,
            open_timeout=_OPEN_TIMEOUT_S,
            ping_interval=_PING_S,
            ping_timeout=_PONG_WITHIN_S,
            close_timeout=1.0,
            max_size=_LONGEST_MESSAGE,
            compression=None,  # many small messages: packing them costs both ends more than sending them
            proxy=None if is_loopback(self._url) else True,
        )
        async with connection as socket:
            self._client_id, self._failed = client_id, False
            self._connected.set()
            async for frame in socket:
                if isinstance(frame, str):  # binary frames are previews
                    self._take(frame)

    def _take(self, frame: str) -> None:
        try:
            message = json.loads(frame)
            kind, data = str(message["type"]), message["data"]
        except (ValueError, TypeError, KeyError):
            return
        prompt_id = data.get("prompt_id") if isinstance(data, Mapping) else None
        known = self._prompts.get(prompt_id) if isinstance(prompt_id, str) else None
        if known is not None and isinstance(prompt_id, str):
            known.feed(kind, data)
            self._news[prompt_id].set()
