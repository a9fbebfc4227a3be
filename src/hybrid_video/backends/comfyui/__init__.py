"""ComfyUI: the client of one server, which other backends reuse, and the backend for the user's own GPUs."""

from hybrid_video.backends.comfyui.backend import ComfyUIBackend
from hybrid_video.backends.comfyui.client import ComfyUIClient
from hybrid_video.backends.comfyui.patience import Patience
from hybrid_video.backends.comfyui.server import Checkup, ComfyUIServer

__all__ = ["Checkup", "ComfyUIBackend", "ComfyUIClient", "ComfyUIServer", "Patience"]
