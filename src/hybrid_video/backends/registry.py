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
from hybrid_video.settings import Settings


@dataclass(frozen=True)
class Registration:
    """Where a backend lives (`module:class`) and whether the settings configure it."""

    location: str
    is_configured: Callable[[Settings], bool]

    def build(self, context: BackendContext) -> Backend:
        """Imports and constructs it; does no I/O."""
        module, _, name = self.location.partition(":")
        return cast("Backend", getattr(import_module(module), name)(context))


BACKENDS: dict[str, Registration] = {
    "comfyui": Registration("hybrid_video.backends.comfyui:ComfyUIBackend", lambda s: bool(s.comfyui.urls)),
    "runpod-serverless": Registration(
        "hybrid_video.backends.runpod:ServerlessBackend", lambda s: bool(s.runpod.api_key and s.runpod.endpoint_url)
    ),
    "runpod-pod": Registration(
        "hybrid_video.backends.runpod:PodBackend",
        lambda s: bool(s.runpod.api_key and (s.runpod.pod_ids or s.pods.may_open)),
    ),
    "gemini": Registration(
        "hybrid_video.backends.google:GeminiBackend",
        lambda s: s.gemini.api_key is not None and not (s.gemini.project and s.gemini.model.startswith("veo-")),
    ),
    "veo": Registration("hybrid_video.backends.google:VeoBackend", lambda s: bool(s.gemini.project)),
}
"""Registry key to registration, in the order they are shown."""


def configured_backends(context: BackendContext) -> dict[str, Backend]:
    """Builds every backend that the settings configure; does no I/O."""
    return {key: entry.build(context) for key, entry in BACKENDS.items() if entry.is_configured(context.settings)}
