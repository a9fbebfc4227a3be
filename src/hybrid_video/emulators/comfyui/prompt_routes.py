"""Routes for prompts: submit, queue, history, interrupt, free, jobs.

Written like the original where its mistakes are visible from outside: whatever raises is answered with a 500.
"""

from __future__ import annotations

import json
import uuid
from typing import Any

from aiohttp import web

from hybrid_video.emulators.comfyui import jobs
from hybrid_video.emulators.comfyui.gate import Gate
from hybrid_video.emulators.comfyui.machine import Machine
from hybrid_video.emulators.comfyui.prompt_queue import Item
from hybrid_video.emulators.comfyui.validation import validate_prompt

_SECRET_KEYS = ("auth_token_comfy_org", "api_key_comfy_org")


class PromptRoutes:
    """Handlers over one machine; `gate` injects the faults."""

    def __init__(self, machine: Machine, gate: Gate) -> None:
        self._machine = machine
        self._gate = gate

    def routes(self) -> list[web.RouteDef]:
        """Routes without the `/api` prefix."""
        return [
            web.post("/prompt", self.post_prompt),
            web.get("/prompt", self.get_prompt),
            web.get("/queue", self.get_queue),
            web.post("/queue", self.post_queue),
            web.post("/interrupt", self.post_interrupt),
            web.post("/free", self.post_free),
            web.get("/history", self.get_history),
            web.get("/history/{prompt_id}", self.get_history_entry),
            web.post("/history", self.post_history),
            web.get("/api/jobs", self.get_jobs),
            web.get("/api/jobs/{job_id}", self.get_job),
        ]

    async def post_prompt(self, request: web.Request) -> web.StreamResponse:
        """`POST /prompt`."""
        body = await request.json()
        return await self._gate.pass_through(request, "submit", self._label(body), lambda: self._accept(body))

    async def _accept(self, body: Any) -> web.Response:
        queue = self._machine.queue
        if "number" in body:
            number = float(body["number"])
        else:
            number = -queue.counter if _field(body, "front") else queue.counter
            queue.counter += 1
        if "prompt" not in body:
            details = "No prompt provided"
            error = {"type": "no_prompt", "message": details, "details": details, "extra_info": {}}
            return web.json_response({"error": error, "node_errors": {}}, status=400)
        prompt_id = str(body.get("prompt_id", uuid.uuid4()))
        verdict = validate_prompt(body["prompt"], self._machine.catalog, body.get("partial_execution_targets"))
        extra_data = body.get("extra_data", {})
        if "client_id" in body:
            extra_data["client_id"] = body["client_id"]
        if verdict.error is not None:
            return web.json_response({"error": verdict.error, "node_errors": verdict.node_errors}, status=400)
        for key in _SECRET_KEYS:
            extra_data.pop(key, None)
        extra_data["create_time"] = int(self._machine.clock.now() * 1000)
        item: Item = (number, prompt_id, body["prompt"], extra_data, verdict.outputs)
        self._machine.submit(item)
        answer = {"prompt_id": prompt_id, "number": number, "node_errors": verdict.node_errors}
        return web.json_response(answer)

    async def get_prompt(self, request: web.Request) -> web.StreamResponse:
        """`GET /prompt`: the queue depth."""
        return await self._read(request, "", self._machine.queue_info)

    async def get_queue(self, request: web.Request) -> web.StreamResponse:
        """`GET /queue`: pending in heap order."""
        queue = self._machine.queue
        label = "\n".join(self._machine.label_of(item[1]) for item in queue.items())
        return await self._read(
            request,
            label,
            lambda: {
                "queue_running": [self._machine.queue.running] if self._machine.queue.running else [],
                "queue_pending": self._machine.queue.pending,
            },
        )

    async def post_queue(self, request: web.Request) -> web.StreamResponse:
        """`POST /queue`: clear or delete what is pending."""
        body = await request.json()

        async def change() -> web.Response:
            if _field(body, "clear"):
                self._machine.queue.wipe()
            if "delete" in body:
                for prompt_id in body["delete"]:
                    self._machine.queue.delete(prompt_id)
            return web.Response(status=200)

        return await self._gate.pass_through(request, "cancel", self._named(body), change)

    async def post_interrupt(self, request: web.Request) -> web.StreamResponse:
        """`POST /interrupt`: a body that is no JSON counts as none."""
        try:
            body = await request.json()
        except json.JSONDecodeError:
            body = {}

        async def change() -> web.Response:
            self._machine.interrupt(body.get("prompt_id"))
            return web.Response(status=200)

        return await self._gate.pass_through(request, "cancel", self._named(body), change)

    async def post_free(self, request: web.Request) -> web.StreamResponse:
        """`POST /free`."""
        body = await request.json()
        self._machine.free(
            unload_models=bool(body.get("unload_models", False)), free_memory=bool(body.get("free_memory", False))
        )
        return web.Response(status=200)

    async def get_history(self, request: web.Request) -> web.StreamResponse:
        """`GET /history`."""
        query = request.rel_url.query
        max_items = int(query["max_items"]) if "max_items" in query else None
        offset = int(query.get("offset", -1))
        return await self._read(request, "", lambda: self._machine.queue.recent(max_items, offset))

    async def get_history_entry(self, request: web.Request) -> web.StreamResponse:
        """`GET /history/{id}`: `{}` for an id that is unknown or not finished."""
        prompt_id = request.match_info["prompt_id"]

        def entry() -> dict[str, Any]:
            history = self._machine.queue.history
            return {prompt_id: history[prompt_id]} if prompt_id in history else {}

        return await self._read(request, self._machine.label_of(prompt_id), entry)

    async def post_history(self, request: web.Request) -> web.StreamResponse:
        """`POST /history`: clear or delete."""
        body = await request.json()
        history = self._machine.queue.history
        if _field(body, "clear"):
            history.clear()
        if "delete" in body:
            for prompt_id in body["delete"]:
                history.pop(prompt_id, None)
        return web.Response(status=200)

    async def get_jobs(self, request: web.Request) -> web.StreamResponse:
        """`GET /api/jobs`."""
        return await self._gate.pass_through(request, "status", "", lambda: jobs.get_jobs(self._machine, request))

    async def get_job(self, request: web.Request) -> web.StreamResponse:
        """`GET /api/jobs/{id}`."""
        label = self._machine.label_of(request.match_info["job_id"])
        return await self._gate.pass_through(request, "status", label, lambda: jobs.get_job(self._machine, request))

    async def _read(self, request: web.Request, label: str, body: Any) -> web.StreamResponse:
        async def answer() -> web.Response:
            return web.json_response(body())

        return await self._gate.pass_through(request, "status", label, answer)

    def _label(self, body: Any) -> str:
        try:
            return self._machine.label(body["prompt"], body.get("extra_data") or {})
        except Exception:  # a graph nobody can read has no label; the answer to it comes later
            return ""

    def _named(self, body: Any) -> str:
        if not isinstance(body, dict):
            return ""
        listed = body.get("delete")
        ids = [body.get("prompt_id"), *(listed if isinstance(listed, list) else [])]
        return "\n".join(self._machine.label_of(str(prompt_id)) for prompt_id in ids if prompt_id)


def _field(body: Any, name: str) -> Any:
    """A field of a body that may be a list or a text as well, as the original allows."""
    return body[name] if name in body else None  # noqa: SIM401 - a list has no `get`
