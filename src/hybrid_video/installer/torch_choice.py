"""Which PyTorch build a machine needs, and what ComfyUI is told with it. Pure.

Sources: pytorch.org/get-started/locally and PyTorch's release notes (CUDA 12.8 is the first with kernels for compute
capability 10 and 12, the RTX 50 series; builds from 12.8 on have none below 7.5), NVIDIA's CUDA compatibility table
(any 12.x build runs on drivers from 525 on; CUDA 13 needs 580), ComfyUI's README.
"""

from __future__ import annotations

from typing import Literal

from hybrid_video.errors import ConfigurationError
from hybrid_video.installer.hardware import Gpu, Machine
from hybrid_video.models import Model

WHEELS = "https://download.pytorch.org/whl"
ROCM = "rocm7.2"
BLACKWELL = (10, 0)
TURING = (7, 5)
PACKAGES = ("torch", "torchvision", "torchaudio")

Device = Literal["cuda", "rocm", "mps", "xpu", "cpu"]


class TorchChoice(Model):
    """One build."""

    variant: str
    """cu126, cu128, cu130, rocm7.2, xpu, cpu, default (the registry's own) or none."""
    device: Device
    index: str = ""
    """Package index; empty: the registry's own."""
    reason: str
    warning: str = ""

    @property
    def comfyui_arguments(self) -> tuple[str, ...]:
        """What ComfyUI needs to be told."""
        return ("--cpu",) if self.device == "cpu" else ()

    @property
    def download_gb(self) -> float:
        """About how much the environment takes on disk."""
        return {"cuda": 9.0, "rocm": 16.0, "xpu": 7.0, "mps": 2.5, "cpu": 2.5}[self.device]


def choose_torch(machine: Machine, wanted: str = "auto", index: str = "") -> TorchChoice:
    """The build for this machine, or the one asked for.

    Raises:
        ConfigurationError: a build is asked for that nobody makes, or the card's driver is too old for any.
    """
    found = _automatic(machine) if wanted == "auto" else _asked(machine, wanted)
    return found.model_copy(update={"index": index}) if index and found.variant != "none" else found


def _automatic(machine: Machine) -> TorchChoice:
    gpu = machine.gpu
    if gpu is None:
        broken = next((card for card in machine.gpus), None)
        warning = ""
        if broken:
            warning = f"{broken.name} is there but cannot be used: {broken.trouble}; {_driver_advice(broken, machine)}"
        return _cpu(machine, "no GPU that PyTorch can use", warning)
    if gpu.vendor == "nvidia":
        return _nvidia(gpu)
    if gpu.vendor == "amd":
        return TorchChoice(variant=ROCM, device="rocm", index=f"{WHEELS}/{ROCM}", reason=f"{gpu.name} with ROCm")
    if gpu.vendor == "apple":
        return TorchChoice(variant="default", device="mps", reason=f"{gpu.name}: the registry's build has Metal")
    return TorchChoice(variant="xpu", device="xpu", index=f"{WHEELS}/xpu", reason=f"{gpu.name} with oneAPI")


def _nvidia(gpu: Gpu) -> TorchChoice:
    capability, driver = gpu.capability or _guessed_capability(gpu.name), _driver_cuda(gpu)
    if capability and capability < (5, 0):
        raise ConfigurationError(
            f"{gpu.name} has compute capability {gpu.compute_capability}, and PyTorch has no kernels below 5.0; use "
            "--torch cpu to test without it, or a rented GPU"
        )
    if driver and driver < (12, 0):
        raise ConfigurationError(
            f"the driver {gpu.driver} of {gpu.name} runs CUDA {gpu.cuda} at most, and PyTorch needs 12.0 or newer; "
            "install driver 570 or newer from nvidia.com/drivers, or use --torch cpu to test without the card"
        )
    if capability and capability >= BLACKWELL:
        if driver and driver < (12, 8):
            raise ConfigurationError(
                f"{gpu.name} needs PyTorch for CUDA 12.8 or newer, but its driver {gpu.driver} runs {gpu.cuda} at "
                "most; install driver 570 or newer from nvidia.com/drivers"
            )
        variant = "cu130" if driver and driver >= (13, 0) else "cu128"
        return _cuda(variant, f"{gpu.name} (compute capability {_text(capability)}) has kernels from CUDA 12.8 on")
    if capability and capability < TURING:
        return _cuda("cu126", f"{gpu.name} (compute capability {_text(capability)}) has no kernels after CUDA 12.6")
    if driver and driver >= (13, 0):
        return _cuda("cu130", f"{gpu.name}, driver {gpu.driver} runs CUDA {gpu.cuda}")
    if driver and driver >= (12, 8):
        return _cuda("cu128", f"{gpu.name}, driver {gpu.driver} runs CUDA {gpu.cuda}")
    return _cuda("cu126", f"{gpu.name}, driver {gpu.driver or 'unknown'} runs CUDA {gpu.cuda or 'unknown'}")


_SERIES = ((" RTX 50", (12, 0)), (" RTX 40", (8, 9)), (" RTX 30", (8, 6)), (" RTX 20", (7, 5)), (" GTX 10", (6, 1)))


def _guessed_capability(name: str) -> tuple[int, int] | None:
    """From the name, where an old nvidia-smi does not tell."""
    return next((capability for mark, capability in _SERIES if mark in name), None)


def _asked(machine: Machine, wanted: str) -> TorchChoice:
    reason = "asked for"
    if wanted == "cpu":
        return _cpu(machine, reason, "")
    if wanted in ("none", "default"):
        device: Device = "cpu" if machine.gpu is None else _device(machine.gpu)
        return TorchChoice(variant=wanted, device=device, reason=reason)
    if wanted == "xpu":
        return TorchChoice(variant="xpu", device="xpu", index=f"{WHEELS}/xpu", reason=reason)
    if wanted.startswith("cu") and wanted[2:].isdigit():
        return _cuda(wanted, reason)
    if wanted.startswith("rocm"):
        return TorchChoice(variant=wanted, device="rocm", index=f"{WHEELS}/{wanted}", reason=reason)
    raise ConfigurationError(
        f"--torch is {wanted!r}, which is no PyTorch build; use auto, cpu, cu126, cu128, cu130, {ROCM}, xpu, default "
        "(the registry's own) or none (do not install it)"
    )


def _device(gpu: Gpu) -> Device:
    devices: dict[str, Device] = {"nvidia": "cuda", "amd": "rocm", "apple": "mps", "intel": "xpu"}
    return devices[gpu.vendor]


def _cuda(variant: str, reason: str) -> TorchChoice:
    return TorchChoice(variant=variant, device="cuda", index=f"{WHEELS}/{variant}", reason=reason)


def _cpu(machine: Machine, reason: str, warning: str) -> TorchChoice:
    index = "" if machine.system == "Darwin" else f"{WHEELS}/cpu"
    return TorchChoice(variant="cpu", device="cpu", index=index, reason=reason, warning=warning)


def _driver_cuda(gpu: Gpu) -> tuple[int, int] | None:
    major, _, minor = gpu.cuda.partition(".")
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else None


def _text(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"


def _driver_advice(gpu: Gpu, machine: Machine) -> str:
    if gpu.vendor == "nvidia":
        return "install the driver from nvidia.com/drivers and restart, then run this again"
    if gpu.vendor == "amd" and machine.system == "Windows":
        return "use Linux with ROCm, or a rented GPU"
    return "install ROCm (rocm.docs.amd.com) and restart, then run this again"
