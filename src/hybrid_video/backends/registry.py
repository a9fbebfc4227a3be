"""Which backends exist, and which of them are configured. One line per backend; nothing else changes for a fourth.

A backend's module is imported when it is built: Google's SDK alone takes most of a second, and a user without a key
should not wait for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import cast

from hybrid_video.backends.base import Backend, BackendContext
from hybrid_video.models import Tier
from hybrid_video.settings import Settings


@dataclass(frozen=True)
class Registration:
    """Where a backend lives (`module:class`), whether the settings configure it, and what to set if they do not."""

    location: str
    is_configured: Callable[[Settings], bool]
    tier: Tier
    setup: str

    def build(self, context: BackendContext) -> Backend:
        """Imports and constructs it; does no I/O."""
        module, _, name = self.location.partition(":")
        return cast("Backend", getattr(import_module(module), name)(context))


BACKENDS: dict[str, Registration] = {
    "comfyui": Registration(
        "hybrid_video.backends.comfyui:ComfyUIBackend",
        lambda s: bool(s.comfyui.urls),
        Tier.LOCAL,
        "set HYBRID_VIDEO_COMFYUI_URLS to your ComfyUI's address, for example http://127.0.0.1:8188",
    ),
    "runpod-serverless": Registration(
        "hybrid_video.backends.runpod:ServerlessBackend",
        lambda s: bool(s.runpod.api_key and s.runpod.endpoint_url),
        Tier.CLOUD,
        "set RUNPOD_API_KEY and HYBRID_VIDEO_RUNPOD_ENDPOINT_ID",
    ),
    "runpod-pod": Registration(
        "hybrid_video.backends.runpod:PodBackend",
        lambda s: bool(s.runpod.api_key and (s.runpod.pod_ids or s.pods.may_open)),
        Tier.CLOUD,
        "set RUNPOD_API_KEY and HYBRID_VIDEO_PODS_IMAGE to have pods opened when they pay, or "
        "HYBRID_VIDEO_RUNPOD_POD_IDS and HYBRID_VIDEO_RUNPOD_POD_TOKEN to use running ones",
    ),
    "gemini": Registration(
        "hybrid_video.backends.google:GeminiBackend",
        lambda s: s.gemini.api_key is not None and not (s.gemini.project and s.gemini.model.startswith("veo-")),
        Tier.GEMINI,
        "set GEMINI_API_KEY",
    ),
    "veo": Registration(
        "hybrid_video.backends.google:VeoBackend",
        lambda s: bool(s.gemini.project),
        Tier.GEMINI,
        "set HYBRID_VIDEO_GEMINI_PROJECT and sign in with Google Cloud's application default credentials",
    ),
}
"""Registry key to registration, in the order they are shown."""


def configured_backends(context: BackendContext) -> dict[str, Backend]:
    """Builds every backend that the settings configure; does no I/O."""
    return {key: entry.build(context) for key, entry in BACKENDS.items() if entry.is_configured(context.settings)}
