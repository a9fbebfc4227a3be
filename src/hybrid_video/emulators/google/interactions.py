"""The Interactions API of Gemini Omni: create, get, cancel, delete.

Without `background` a create blocks for the whole render. A prompt the safety system declines gives a *completed*
interaction that holds text only. An unknown id is 400 "Invalid interaction name", sometimes wrapped in a list.
"""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from hybrid_video.emulators.google.answers import Refused, gone, invalid
from hybrid_video.emulators.google.files import file_uri
from hybrid_video.emulators.google.models import OMNI
from hybrid_video.emulators.google.operations import Operation
from hybrid_video.emulators.google.requests import read_interaction, read_object
from hybrid_video.emulators.google.wire import Wire, job_label

_TOKENS_PER_SECOND = 5792
_STATUS = {"queued": "queued", "running": "in_progress", "done": "completed", "filtered": "completed"}
_REFUSAL = "I can't create that video. It may go against our safety guidelines; try describing something else."


class Interactions:
    """Handlers of `/v1beta/interactions`."""

    def __init__(self, wire: Wire, retired: frozenset[str]) -> None:
        self._wire, self._retired = wire, retired

    def add_to(self, app: web.Application) -> None:
        """Adds the routes."""
        each = "/v1beta/interactions/{id}"
        app.router.add_post("/v1beta/interactions", self._wire.handler("submit", self._create))
        app.router.add_get(each, self._wire.handler("status", self._get))
        app.router.add_post(each + "/cancel", self._wire.handler("cancel", self._cancel))
        app.router.add_delete(each, self._wire.handler("delete", self._delete))

    async def _create(self, request: web.Request) -> web.Response:
        body = await read_object(request)
        name = str(body.get("model", "")).removeprefix("models/")
        if not name:
            raise invalid("model is required.")
        model = OMNI.get(name)
        if model is None or name in self._retired:
            raise gone(name)
        wanted = read_interaction(body, model)
        price = self._wire.price(wanted, "gemini")
        operation = self._wire.operations.accept(wanted, job_label(request, wanted), price=price, id_length=24)
        if not body.get("background"):
            await operation.finished.wait()
        return self._answer(request, operation)

    async def _get(self, request: web.Request) -> web.Response:
        return self._answer(request, self._find(request))

    async def _cancel(self, request: web.Request) -> web.Response:
        operation = self._find(request)
        self._wire.operations.cancel(operation)
        return self._answer(request, operation)

    async def _delete(self, request: web.Request) -> web.Response:
        self._wire.operations.delete(self._find(request))
        return web.json_response({})

    def _find(self, request: web.Request) -> Operation:
        operation = self._wire.operations.get(request.match_info["id"])
        if operation is None:
            raise Refused(400, "Invalid interaction name", listed=True)
        return operation

    def _answer(self, request: web.Request, operation: Operation) -> web.Response:
        body: dict[str, Any] = {
            "id": operation.id,
            "object": "interaction",
            "model": operation.wanted.model.name,
            "status": _STATUS.get(operation.state, operation.state),
            "created": _iso(operation.created),
            "updated": _iso(operation.ended or self._wire.operations.clock.now()),
            "steps": [],
        }
        if operation.state == "done":
            body["steps"] = [{"type": "thought"}, _output(self._video(request, operation))]
            tokens = operation.wanted.seconds * _TOKENS_PER_SECOND
            body["usage"] = {"total_input_tokens": 12, "total_output_tokens": tokens, "total_tokens": 12 + tokens}
        elif operation.state == "filtered":
            body["steps"] = [_output({"type": "text", "text": _REFUSAL})]
            body["usage"] = {"total_input_tokens": 12, "total_output_tokens": 24, "total_tokens": 36}
        elif operation.state == "failed":
            body["errors"] = [{"code": "internal", "message": "An internal error has occurred."}]
        return web.json_response(body)

    def _video(self, request: web.Request, operation: Operation) -> dict[str, str]:
        if operation.wanted.delivery == "inline":
            data = base64.b64encode(operation.path.read_bytes()).decode()
            return {"type": "video", "mime_type": "video/mp4", "data": data}
        return {"type": "video", "mime_type": "video/mp4", "uri": file_uri(request, operation)}


def _output(content: dict[str, str]) -> dict[str, Any]:
    return {"type": "model_output", "content": [content]}


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
