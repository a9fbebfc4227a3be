"""Veo: `predictLongRunning` on the API-key road (switched off by default, as in reality) and on Google Cloud.

A pending operation is `{"name"}` without `done`; on the API-key road it is now and then `{}`. On Cloud the poll is a
POST to `:fetchPredictOperation` and the clip comes inline, or in a bucket where `storageUri` was given.
"""

from __future__ import annotations

import asyncio
import base64
from typing import Any
from urllib.parse import unquote

from aiohttp import web

from hybrid_video.emulators.google.answers import Refused, gone
from hybrid_video.emulators.google.files import file_uri, media
from hybrid_video.emulators.google.models import VEO_API, VEO_CLOUD
from hybrid_video.emulators.google.operations import Operation
from hybrid_video.emulators.google.requests import read_object, read_veo
from hybrid_video.emulators.google.wire import Wire, job_label

_RAI = (
    "We encountered an issue with the prompt: it could not be shown because it may violate our usage guidelines. "
    "You have not been charged for this attempt."
)
_API_TYPE = "type.googleapis.com/google.ai.generativelanguage.v1beta.PredictLongRunningResponse"
_CLOUD_TYPE = "type.googleapis.com/cloud.ai.large_models.vision.GenerateVideoResponse"
_ERROR = {"code": 13, "message": "Video generation failed due to an internal server issue. Please try again later."}


class VeoApi:
    """Handlers of `/v1beta/models/{model}:predictLongRunning` and its operations."""

    def __init__(self, wire: Wire, retired: frozenset[str]) -> None:
        self._wire, self._retired, self._polls = wire, retired, 0

    def add_to(self, app: web.Application) -> None:
        """Adds the routes."""
        start = self._wire.handler("submit", self._start)
        app.router.add_post("/v1beta/models/{model:[^:/]+}:predictLongRunning", start)
        app.router.add_get("/v1beta/models/{model:[^:/]+}/operations/{id}", self._wire.handler("status", self._poll))

    async def _start(self, request: web.Request) -> web.Response:
        name = request.match_info["model"]
        model = VEO_API.get(name)
        if model is None or name in self._retired:
            raise gone(name)
        wanted = read_veo(await read_object(request), model, cloud=False)
        price = self._wire.price(wanted, "veo")
        operation = self._wire.operations.accept(wanted, job_label(request, wanted), price=price)
        return web.json_response({"name": _api_name(operation)})

    async def _poll(self, request: web.Request) -> web.Response:
        operation = self._wire.operations.get(request.match_info["id"])
        if operation is None or operation.wanted.model.name != request.match_info["model"]:
            raise Refused(404, "Requested entity was not found.")
        self._polls += 1
        if operation.ended is None:
            return web.json_response({} if self._polls % 5 == 0 else {"name": _api_name(operation)})
        body = _ended(operation)
        if "error" not in body:
            inner: dict[str, Any] = _filtered()
            if operation.state == "done":
                inner = {"generatedSamples": [{"video": {"uri": file_uri(request, operation)}}]}
            body["response"] = {"@type": _API_TYPE, "generateVideoResponse": inner}
        return web.json_response({"name": _api_name(operation), **body})


class VeoCloud:
    """Handlers of the Google Cloud paths."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def add_to(self, app: web.Application) -> None:
        """Adds the routes."""
        publisher = "/publishers/google/models/{model:[^:/]+}"
        base = "/{version:v1|v1beta1}/projects/{project}/locations/{location}" + publisher
        app.router.add_post(base + ":predictLongRunning", self._wire.handler("submit", self._start))
        app.router.add_post(base + ":fetchPredictOperation", self._wire.handler("status", self._poll))
        app.router.add_get("/{version:v1|v1beta1}" + publisher, self._wire.handler("list", self._describe))
        app.router.add_get("/storage/v1/b/{bucket}/o/{object:.+}", self._wire.handler("download", self._object))

    async def _describe(self, request: web.Request) -> web.Response:
        name = request.match_info["model"]
        if name not in VEO_CLOUD:
            raise Refused(404, f"Publisher Model `publishers/google/models/{name}` is not found.")
        return web.json_response({"name": f"publishers/google/models/{name}", "launchStage": "GA"})

    async def _start(self, request: web.Request) -> web.Response:
        name = request.match_info["model"]
        model = VEO_CLOUD.get(name)
        if model is None:
            raise Refused(
                404,
                f"Publisher Model `{_resource(request)}` was not found or your project does not have access to it. "
                "Please ensure you are using a valid model version.",
            )
        wanted = read_veo(await read_object(request), model, cloud=True)
        price = self._wire.price(wanted, "veo")
        operation = self._wire.operations.accept(wanted, job_label(request, wanted), price=price, id_length=36)
        return web.json_response({"name": f"{_resource(request)}/operations/{operation.id}"})

    async def _poll(self, request: web.Request) -> web.Response:
        body = await read_object(request)
        name = str(body.get("operationName", ""))
        operation = self._wire.operations.get(name.rpartition("/")[2])
        if operation is None or not name.startswith(_resource(request)):
            raise Refused(404, f"The operation {name!r} was not found.")
        if operation.ended is None:
            return web.json_response({"name": name})
        answer = _ended(operation)
        if "error" not in answer:
            inner = {"videos": [await _video(operation)]} if operation.state == "done" else _filtered()
            answer["response"] = {"@type": _CLOUD_TYPE, **inner}
        return web.json_response({"name": name, **answer})

    async def _object(self, request: web.Request) -> web.Response:
        name = unquote(request.match_info["object"])
        operation = self._wire.operations.of_file(name.rpartition("/")[2].removesuffix(".mp4"))
        if operation is None or not operation.wanted.storage_uri.startswith(f"gs://{request.match_info['bucket']}"):
            raise Refused(404, f"No such object: {request.match_info['bucket']}/{name}")
        return await media(operation)


def _ended(operation: Operation) -> dict[str, Any]:
    return {"done": True, **({"error": _ERROR} if operation.state in ("failed", "cancelled") else {})}


def _filtered() -> dict[str, Any]:
    return {"raiMediaFilteredCount": 1, "raiMediaFilteredReasons": [_RAI]}


async def _video(operation: Operation) -> dict[str, str]:
    if operation.wanted.storage_uri:
        uri = f"{operation.wanted.storage_uri.rstrip('/')}/{operation.file_id}.mp4"
        return {"gcsUri": uri, "mimeType": "video/mp4"}
    data = await asyncio.to_thread(operation.path.read_bytes)
    return {"bytesBase64Encoded": base64.b64encode(data).decode(), "mimeType": "video/mp4"}


def _api_name(operation: Operation) -> str:
    return f"models/{operation.wanted.model.name}/operations/{operation.id}"


def _resource(request: web.Request) -> str:
    info = request.match_info
    return f"projects/{info['project']}/locations/{info['location']}/publishers/google/models/{info['model']}"
