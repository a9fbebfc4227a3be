"""The calls of ComfyUI's HTTP API for one server: no waiting, no policy, no knowledge of jobs.

Every route used here exists with the same shape on ComfyUI 0.3.x and 0.8.0 (`/api/jobs` does not, so it is not used).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from hybrid_video.backends.comfyui.records import (
    HistoryEntry,
    MalformedError,
    PromptAnswer,
    QueueState,
    SystemStats,
    parse_prompt_answer,
)
from hybrid_video.backends.comfyui.rejections import rejection
from hybrid_video.backends.comfyui.transport import READ_TRIES, Transport
from hybrid_video.errors import FailureKind, TerminalError, TransientError
from hybrid_video.redaction import redact


class ComfyUIClient:
    """One ComfyUI server; see `Transport` for the arguments."""

    def __init__(
        self,
        base_url: str,
        *,
        backend: str = "comfyui",
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        self.backend = backend
        self.headers: Mapping[str, str] = dict(headers or {})
        self._transport = Transport(base_url, backend=backend, headers=self.headers, timeout_s=timeout_s)

    def __repr__(self) -> str:
        return f"ComfyUIClient({self.url!r})"

    @property
    def url(self) -> str:
        """The address without credentials, safe to show and to store."""
        return self._transport.url

    @property
    def websocket_url(self) -> str:
        """Address of `/ws`, to be completed with `?clientId=`; may hold credentials."""
        return f"ws{self._transport.base.removeprefix('http')}/ws"

    async def close(self) -> None:
        """Closes the connections."""
        await self._transport.close()

    async def system_stats(self, *, tries: int = READ_TRIES) -> SystemStats:
        """Version and GPU."""
        return await self._transport.read("/system_stats", SystemStats.parse, tries=tries)

    async def queue(self, *, tries: int = READ_TRIES) -> QueueState:
        """Ids running and waiting. The answer holds full graphs; where the number is enough use `queue_remaining`."""
        return await self._transport.read("/queue", QueueState.parse, tries=tries)

    async def queue_remaining(self, *, tries: int = READ_TRIES) -> int:
        """Number of prompts waiting and running (a 39-byte answer)."""
        return await self._transport.read("/prompt", _remaining, tries=tries)

    async def history(self, prompt_id: str, *, tries: int = READ_TRIES) -> HistoryEntry | None:
        """The finished prompt, or None while it is unknown, waiting or running."""

        def parse(body: Any) -> HistoryEntry | None:
            if not isinstance(body, Mapping):
                raise MalformedError("not an object")
            entry = body.get(prompt_id)
            return None if entry is None else HistoryEntry.parse(prompt_id, entry)

        return await self._transport.read(f"/history/{quote(prompt_id, safe='')}", parse, tries=tries)

    async def object_info(self) -> Mapping[str, Any]:
        """Every node class with its inputs, model lists included; hundreds of kilobytes."""
        return await self._transport.read("/object_info", _object)

    async def post_prompt(
        self, graph: Mapping[str, Any], *, prompt_id: str, client_id: str, extra_data: Mapping[str, Any]
    ) -> PromptAnswer:
        """Sends a graph exactly once.

        `number` is never sent: the same id with the same number kills the worker thread, and without a `client_id`
        a cached prompt succeeds with empty outputs (both observed on ComfyUI 0.8.0).

        Raises:
            TransientError, TerminalError: it was certainly not accepted.
            SubmitUncertain: it may have been accepted; only looking can tell.
        """
        body = {"prompt": graph, "prompt_id": prompt_id, "client_id": client_id, "extra_data": extra_data}
        response = await self._transport.send_once("/prompt", json=body)
        if response.status_code == 200:
            try:
                return self._transport.parsed(response, "POST /prompt", parse_prompt_answer)
            except TransientError as error:
                raise self._transport.uncertain(error.message, error.detail) from None
        if response.status_code == 400:
            raise rejection(response.text, backend=self.backend, url=self.url)
        if response.status_code == 413:
            raise TerminalError(
                f"{self.url!r} refused the workflow as too large ({redact(response.text, 200)!r}); start ComfyUI with "
                "a higher --max-upload-size",
                kind=FailureKind.INVALID_REQUEST,
                backend=self.backend,
            )
        raise self._transport.refused(response, "POST /prompt")

    async def delete_pending(self, prompt_id: str) -> None:
        """Takes a waiting prompt out of the queue; running and unknown ids are left alone."""
        await self._transport.send("/queue", json={"delete": [prompt_id]})

    async def interrupt(self, prompt_id: str) -> None:
        """Interrupts this prompt if it is the one running now; does nothing otherwise."""
        await self._transport.send("/interrupt", json={"prompt_id": prompt_id})

    async def upload_image(self, path: Path) -> str:
        """Uploads an input image under a name made from its content; returns the name to put into the graph.

        The server renames a file whose name is taken by other bytes, so only the returned name counts.
        """
        try:
            content = await asyncio.to_thread(path.read_bytes)
        except OSError as error:
            raise TerminalError(
                f"input image {str(path)!r} cannot be read ({error.strerror}); check the file",
                kind=FailureKind.INVALID_REQUEST,
                backend=self.backend,
            ) from None
        name = f"hv-{hashlib.sha256(content).hexdigest()[:24]}{path.suffix.lower() or '.png'}"
        response = await self._transport.send("/upload/image", files={"image": (name, content)}, data={"type": "input"})
        return self._transport.parsed(response, "/upload/image", _uploaded_name)

    def view(
        self, parameters: Mapping[str, str], headers: Mapping[str, str]
    ) -> AbstractAsyncContextManager[httpx.Response]:
        """Opens `GET /view` for streaming; the caller judges the status and meets plain `httpx` errors."""
        return self._transport.stream("/view", parameters, headers)

    def view_url(self, parameters: Mapping[str, str]) -> str:
        """The address of an output file, without credentials."""
        return str(httpx.URL(f"{self.url}/view", params=dict(parameters)))


def _object(body: Any) -> Mapping[str, Any]:
    if not isinstance(body, Mapping):
        raise MalformedError("not an object")
    return body


def _remaining(body: Any) -> int:
    try:
        return max(0, int(body["exec_info"]["queue_remaining"]))
    except (TypeError, KeyError):
        raise MalformedError("no exec_info.queue_remaining") from None


def _uploaded_name(body: Any) -> str:
    name, folder = _object(body).get("name"), _object(body).get("subfolder")
    if not name:
        raise MalformedError("no name of the uploaded file")
    return f"{folder}/{name}" if folder else str(name)
