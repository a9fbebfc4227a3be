"""Routes that tell about the server: `object_info`, `system_stats`, models, features, internals."""

from __future__ import annotations

import sys
from typing import Any

from aiohttp import web

from hybrid_video.emulators.comfyui.channel import FEATURES
from hybrid_video.emulators.comfyui.gate import Gate
from hybrid_video.emulators.comfyui.machine import Machine

VERSION = "0.8.0"
_RAM = 64 * 1024**3
_VRAM = {"NVIDIA GeForce RTX 5090": 32, "NVIDIA L4": 24, "NVIDIA A100 80GB PCIe": 80, "NVIDIA H100 80GB HBM3": 80}
_VRAM_DEFAULT_GB = 24


class InfoRoutes:
    """Handlers over one machine."""

    def __init__(self, machine: Machine, gate: Gate) -> None:
        self._machine = machine
        self._gate = gate

    def routes(self) -> list[web.RouteDef]:
        """Routes without the `/api` prefix."""
        return [
            web.get("/ws", self._machine.channel.serve),
            web.get("/", self.root),
            web.get("/system_stats", self.system_stats),
            web.get("/features", self.features),
            web.get("/object_info", self.object_info),
            web.get("/object_info/{node_class}", self.object_info_of),
            web.get("/models", self.models),
            web.get("/models/{folder}", self.models_in),
            web.get("/embeddings", self.embeddings),
            web.get("/extensions", self.embeddings),
        ]

    def internal_routes(self) -> list[web.RouteDef]:
        """Routes that exist only without the `/api` prefix."""
        return [
            web.get("/internal/logs", self.logs),
            web.get("/internal/logs/raw", self.raw_logs),
            web.get("/internal/folder_paths", self.folder_paths),
            web.get("/internal/files/{kind}", self.files),
        ]

    async def root(self, _request: web.Request) -> web.Response:
        """Where the real server shows its editor."""
        page = "<!doctype html><title>ComfyUI (simulated)</title><h1>Simulated ComfyUI</h1>"
        return web.Response(text=page, content_type="text/html")

    async def system_stats(self, request: web.Request) -> web.StreamResponse:
        """`GET /system_stats`."""
        return await self._answer(request, "health", self._stats())

    async def features(self, request: web.Request) -> web.StreamResponse:
        """`GET /features`."""
        return await self._answer(request, "health", FEATURES)

    async def object_info(self, request: web.Request) -> web.StreamResponse:
        """`GET /object_info`."""
        catalog = self._machine.catalog
        return await self._answer(request, "list", {name: catalog.info(name) for name in catalog.names()})

    async def object_info_of(self, request: web.Request) -> web.StreamResponse:
        """`GET /object_info/{node}`: `{}` when unknown."""
        name = request.match_info["node_class"]
        info = self._machine.catalog.info(name)
        return await self._answer(request, "list", {} if info is None else {name: info})

    async def models(self, request: web.Request) -> web.StreamResponse:
        """`GET /models`: folder names."""
        return await self._answer(request, "list", list(self._machine.catalog.models()))

    async def models_in(self, request: web.Request) -> web.StreamResponse:
        """`GET /models/{folder}`."""
        found = self._machine.catalog.models().get(request.match_info["folder"])
        if found is None:
            return web.Response(status=404)
        return await self._answer(request, "list", found)

    async def embeddings(self, _request: web.Request) -> web.Response:
        """Nothing is installed."""
        return web.json_response([])

    async def logs(self, _request: web.Request) -> web.Response:
        """`GET /internal/logs`."""
        return web.json_response("Simulated by hybrid-video\n")

    async def raw_logs(self, _request: web.Request) -> web.Response:
        """`GET /internal/logs/raw`."""
        return web.json_response({"entries": [], "size": {"cols": 80, "rows": 24}})

    async def folder_paths(self, _request: web.Request) -> web.Response:
        """`GET /internal/folder_paths`."""
        return web.json_response(
            {folder: [f"/opt/ComfyUI/models/{folder}"] for folder in self._machine.catalog.models()}
        )

    async def files(self, request: web.Request) -> web.Response:
        """`GET /internal/files/{type}`: newest first."""
        folder = self._machine.folders.by_type(request.match_info["kind"])
        if folder is None:
            return web.json_response({"error": "Invalid directory type"}, status=400)
        entries = [entry for entry in folder.iterdir() if entry.is_file()]
        entries.sort(key=lambda entry: -entry.stat().st_mtime)
        return web.json_response([entry.name for entry in entries])

    async def _answer(self, request: web.Request, operation: str, body: Any) -> web.StreamResponse:
        async def answer() -> web.Response:
            return web.json_response(body)

        return await self._gate.pass_through(request, operation, "", answer)

    def _stats(self) -> dict[str, Any]:
        gpu = self._machine.gpu
        vram = _VRAM.get(gpu, _VRAM_DEFAULT_GB) * 1024**3
        return {
            "system": {
                "os": "linux",
                "ram_total": _RAM,
                "ram_free": _RAM // 2,
                "comfyui_version": VERSION,
                "required_frontend_version": "1.36.14",
                "python_version": sys.version,
                "pytorch_version": "2.9.1+cu128",
                "embedded_python": False,
                "argv": ["main.py", "--listen", "127.0.0.1", "--simulated-by-hybrid-video"],
            },
            "devices": [
                {
                    "name": f"cuda:0 {gpu} : cudaMallocAsync",
                    "type": "cuda",
                    "index": 0,
                    "vram_total": vram,
                    "vram_free": vram - 2 * 1024**3,
                    "torch_vram_total": 0,
                    "torch_vram_free": 0,
                }
            ],
        }
