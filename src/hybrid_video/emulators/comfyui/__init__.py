"""A simulated ComfyUI: speaks the wire protocol of ComfyUI 0.8.0 and renders real, marked clips.

Other emulators reuse its parts: `catalog` and `validation` judge a graph, `graph` reads it, `saving` renders its files.
"""

from hybrid_video.emulators.comfyui.emulator import ComfyUIEmulator

__all__ = ["ComfyUIEmulator"]
