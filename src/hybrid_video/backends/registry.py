"""Which backends exist, and which of them are configured. One line per backend; nothing else changes for a fourth."""

from __future__ import annotations

from collections.abc import Callable

from hybrid_video.backends.base import Backend, BackendContext
from hybrid_video.backends.comfyui import ComfyUIBackend
from hybrid_video.backends.google import GeminiBackend, VeoBackend
from hybrid_video.backends.runpod import PodBackend, ServerlessBackend
from hybrid_video.settings import Settings

Configured = Callable[[Settings], bool]

BACKENDS: dict[str, tuple[Callable[[BackendContext], Backend], Configured]] = {
    "comfyui": (ComfyUIBackend, lambda s: bool(s.comfyui.urls)),
    "runpod-serverless": (ServerlessBackend, lambda s: bool(s.runpod.api_key and s.runpod.endpoint_url)),
    "runpod-pod": (PodBackend, lambda s: bool(s.runpod.api_key and s.runpod.pod_ids)),
    "gemini": (GeminiBackend, lambda s: s.gemini.api_key is not None),
    "veo": (VeoBackend, lambda s: bool(s.gemini.project)),
}
"""Registry key to constructor and to the test whether the settings configure it."""


def configured_backends(context: BackendContext) -> dict[str, Backend]:
    """Builds every backend that the settings configure; does no I/O."""
    return {
        key: build(context) for key, (build, is_configured) in BACKENDS.items() if is_configured(context.settings)
    }
