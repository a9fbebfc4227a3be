"""Looks at each backend: configured, reachable, healthy, on which GPUs."""

from __future__ import annotations

import asyncio

from hybrid_video.backends.base import Backend, BackendContext
from hybrid_video.backends.registry import BACKENDS
from hybrid_video.doctor.findings import Finding
from hybrid_video.errors import HybridVideoError

CHECK_TIMEOUT_S = 30.0

SETUP = {
    "comfyui": "set HYBRID_VIDEO_COMFYUI_URLS to your ComfyUI's address, for example http://127.0.0.1:8188",
    "runpod-serverless": "set RUNPOD_API_KEY and HYBRID_VIDEO_RUNPOD_ENDPOINT_ID",
    "runpod-pod": "set RUNPOD_API_KEY and HYBRID_VIDEO_PODS_IMAGE to have pods opened when they pay, or "
    "HYBRID_VIDEO_RUNPOD_POD_IDS and HYBRID_VIDEO_RUNPOD_POD_TOKEN to use running ones",
    "gemini": "set GEMINI_API_KEY",
    "veo": "set HYBRID_VIDEO_GEMINI_PROJECT and sign in with Google Cloud's application default credentials",
}


async def look_at_backend(key: str, context: BackendContext) -> Finding:
    """One backend, as the engine would meet it."""
    entry = BACKENDS[key]
    if not entry.is_configured(context.settings):
        return Finding(subject=key, level="off", detail="not configured", remedy=SETUP.get(key, ""))
    backend = entry.build(context)
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            return await _look(key, backend)
    except TimeoutError:
        detail = f"no answer within {CHECK_TIMEOUT_S:.0f} s"
        return Finding(subject=key, level="error", detail=detail, remedy="check the address and the network")
    except HybridVideoError as error:
        return Finding(subject=key, level="error", detail=str(error), remedy=SETUP.get(key, ""))
    finally:
        await backend.close()


async def _look(key: str, backend: Backend) -> Finding:
    await backend.start()
    health = await backend.health()
    lanes = backend.lanes()
    gpus = sorted({lane.gpu for lane in lanes if lane.gpu})
    detail = f"{health.detail}; {len(lanes)} at once{', on ' + ', '.join(gpus) if gpus else ''}"
    return Finding(subject=key, level="ok" if health.healthy else "error", detail=detail, remedy=health.remedy)
