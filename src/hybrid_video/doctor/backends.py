"""Looks at each backend: configured, reachable, healthy, on which GPUs."""

from __future__ import annotations

import asyncio

from hybrid_video.backends.base import Backend, BackendContext
from hybrid_video.backends.registry import BACKENDS
from hybrid_video.doctor.findings import Finding
from hybrid_video.errors import HybridVideoError

CHECK_TIMEOUT_S = 30.0


async def look_at_backend(key: str, context: BackendContext) -> Finding:
    """One backend, as the engine would meet it."""
    entry = BACKENDS[key]
    if not entry.is_configured(context.settings):
        return Finding(subject=key, level="off", detail="not configured", remedy=entry.setup)
    backend = entry.build(context)
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            return await _look(key, backend)
    except TimeoutError:
        detail = f"no answer within {CHECK_TIMEOUT_S:.0f} s"
        return Finding(subject=key, level="error", detail=detail, remedy="check the address and the network")
    except HybridVideoError as error:
        return Finding(subject=key, level="error", detail=str(error), remedy=entry.setup)
    finally:
        await backend.close()


async def _look(key: str, backend: Backend) -> Finding:
    await backend.start()
    health = await backend.health()
    lanes = backend.lanes()
    gpus = sorted({lane.gpu for lane in lanes if lane.gpu})
    detail = f"{health.detail}; {len(lanes)} at once{', on ' + ', '.join(gpus) if gpus else ''}"
    return Finding(subject=key, level="ok" if health.healthy else "error", detail=detail, remedy=health.remedy)
