"""A running ComfyUI emulator with an HTTP client, and small graphs for it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import websockets

from hybrid_video.emulators.comfyui import ComfyUIEmulator
from hybrid_video.emulators.faults import FaultPlan, FaultRule
from hybrid_video.emulators.server import ScaledClock, start_server

Graph = dict[str, dict[str, Any]]


def graph(prefix: str = "t/clip", *, color: int = 255, width: int = 64, frames: int = 4) -> Graph:
    """Four frames of 64x48 at 8 fps into an mp4; runs without weights."""
    image = {"width": width, "height": 48, "batch_size": frames, "color": color}
    save = {"video": ["video", 0], "filename_prefix": prefix, "format": "mp4", "codec": "h264"}
    return {
        "img": {"class_type": "EmptyImage", "inputs": image},
        "video": {"class_type": "CreateVideo", "inputs": {"images": ["img", 0], "fps": 8.0}},
        "save": {"class_type": "SaveVideo", "inputs": save},
    }


def sampled(prefix: str = "t/wan", *, prompt: str = "a red fox", steps: int = 10) -> Graph:
    """A text-to-video graph with a sampler, which reports steps and can be interrupted."""
    return {
        "unet": {
            "class_type": "UNETLoader",
            "inputs": {"unet_name": "wan2.1_t2v_1.3B_fp16.safetensors", "weight_dtype": "default"},
        },
        "clip": {
            "class_type": "CLIPLoader",
            "inputs": {"clip_name": "umt5_xxl_fp8_e4m3fn_scaled.safetensors", "type": "wan"},
        },
        "vae": {"class_type": "VAELoader", "inputs": {"vae_name": "wan_2.1_vae.safetensors"}},
        "yes": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["clip", 0], "text": prompt}},
        "no": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["clip", 0], "text": "blurry"}},
        "latent": {
            "class_type": "EmptyHunyuanLatentVideo",
            "inputs": {"width": 96, "height": 64, "length": 8, "batch_size": 1},
        },
        "sampler": {
            "class_type": "KSampler",
            "inputs": {
                "model": ["unet", 0],
                "positive": ["yes", 0],
                "negative": ["no", 0],
                "latent_image": ["latent", 0],
                "seed": 7,
                "steps": steps,
                "cfg": 6.0,
                "sampler_name": "euler",
                "scheduler": "simple",
                "denoise": 1.0,
            },
        },
        "decode": {"class_type": "VAEDecode", "inputs": {"samples": ["sampler", 0], "vae": ["vae", 0]}},
        "video": {"class_type": "CreateVideo", "inputs": {"images": ["decode", 0], "fps": 16.0}},
        "save": {
            "class_type": "SaveVideo",
            "inputs": {"video": ["video", 0], "filename_prefix": prefix, "format": "mp4", "codec": "h264"},
        },
    }


@dataclass
class Rig:
    """A started emulator; `service_s` and all times are simulated, 100 times faster than real ones by default."""

    emulator: ComfyUIEmulator
    http: httpx.AsyncClient
    url: str
    faults: FaultPlan

    async def post(self, prompt: Any, **fields: Any) -> httpx.Response:
        """`POST /prompt`."""
        return await self.http.post("/prompt", json={"prompt": prompt, **fields})

    async def submit(self, prompt: Graph, **fields: Any) -> str:
        """Submits a graph that must be accepted and returns its id."""
        response = await self.post(prompt, **fields)
        assert response.status_code == 200, response.text
        return str(response.json()["prompt_id"])

    async def entry(self, prompt_id: str) -> dict[str, Any]:
        """The history entry, as soon as there is one."""
        for _ in range(1000):
            found = (await self.http.get(f"/history/{prompt_id}")).json()
            if found:
                return dict(found[prompt_id])
            await asyncio.sleep(0.005)
        raise AssertionError(f"{prompt_id!r} did not finish")

    async def run(self, prompt: Graph, **fields: Any) -> dict[str, Any]:
        """Submits and waits for the history entry."""
        return await self.entry(await self.submit(prompt, **fields))

    async def view(self, file: dict[str, str], **headers: str) -> httpx.Response:
        """`GET /view` of a file the history names."""
        query = {key: file[key] for key in ("filename", "subfolder", "type")}
        return await self.http.get("/view", params=query, headers=headers)

    async def until_running(self, prompt_id: str) -> None:
        """Waits until this prompt is the running one."""
        for _ in range(1000):
            running = (await self.http.get("/queue")).json()["queue_running"]
            if running and running[0][1] == prompt_id:
                return
            await asyncio.sleep(0.002)
        raise AssertionError(f"{prompt_id!r} did not start")

    def socket(self, client_id: str = "") -> websockets.connect:
        """A websocket client."""
        return websockets.connect(f"{self.url.replace('http', 'ws')}/ws?clientId={client_id}")


async def messages(socket: websockets.ClientConnection, until: str | None = None) -> list[dict[str, Any]]:
    """Messages up to the end marker of a prompt, or up to the first of a type."""
    found: list[dict[str, Any]] = []
    while True:
        message = json.loads(await asyncio.wait_for(socket.recv(), 5))
        found.append(message)
        ended = message["type"] == "executing" and message["data"].get("node", "") is None
        if message["type"] == until or (until is None and ended):
            return found


@asynccontextmanager
async def comfyui(
    *rules: FaultRule, scale: float = 100, service_s: float | None = 1.0, **options: Any
) -> AsyncIterator[Rig]:
    """An emulator on a free port."""
    faults = FaultPlan(rules)
    emulator = ComfyUIEmulator(clock=ScaledClock(scale), faults=faults, service_s=service_s, jitter=0, **options)
    server = await start_server(emulator.app())
    try:
        async with httpx.AsyncClient(base_url=server.url, timeout=10) as http:
            yield Rig(emulator, http, server.url, faults)
    finally:
        await server.close()
