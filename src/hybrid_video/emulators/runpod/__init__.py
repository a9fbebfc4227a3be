"""A simulated RunPod: serverless jobs running worker-comfyui, and pods with ComfyUI behind the proxy."""

from __future__ import annotations

from hybrid_video.emulators.runpod.emulator import RunPodEmulator
from hybrid_video.emulators.runpod.pods import BootTimes, StaticPod

__all__ = ["BootTimes", "RunPodEmulator", "StaticPod"]
