"""What will run on a machine and how fast, before anything is downloaded. Pure.

Times are the published ones for an RTX 4090 (`pricing.timings`), scaled by the peak rates of the cards where both are
known, and never below what the card's peak allows (`pricing.physics`). They are expectations, not measurements.
"""

from __future__ import annotations

from typing import Literal

from hybrid_video.installer.hardware import Gpu, Machine
from hybrid_video.installer.manifest import Bundle, Manifest
from hybrid_video.models import Model, OutputSpec, Tier
from hybrid_video.pricing.learning import Kind
from hybrid_video.pricing.physics import least_seconds, peak_tflops
from hybrid_video.pricing.timings import ServiceTimes
from hybrid_video.workflows import template_info

REFERENCE_GPU = "NVIDIA GeForce RTX 4090"
ANY_MODEL = "local-any"
"""Id of the timing that stands in where a model has none; too vague to show as a promise."""

MEMORY_TO_MODELS = 1.0
"""Main memory a bundle needs beside the card, as a share of its largest files: models wait there to be swapped in."""


class Verdict(Model):
    """One bundle on this machine."""

    bundle: str
    title: str
    runs: Literal["yes", "tight", "no"]
    reason: str
    download_gb: float
    min_vram_gb: float
    licences: tuple[str, ...]
    seconds_per_clip: float | None = None
    clip: str = ""
    """The clip that the seconds are for."""
    basis: str = ""


def judge(machine: Machine, manifest: Manifest) -> tuple[Verdict, ...]:
    """Every bundle on this machine."""
    return tuple(_one(machine, bundle) for bundle in manifest.bundles)


def _one(machine: Machine, bundle: Bundle) -> Verdict:
    runs, reason = _runs(machine, bundle)
    seconds, clip, basis = _speed(machine.gpu, bundle) if runs != "no" else (None, "", "")
    return Verdict(
        bundle=bundle.id,
        title=bundle.title,
        runs=runs,
        reason=reason,
        download_gb=round(bundle.bytes / 1e9, 1),
        min_vram_gb=bundle.min_vram_gb,
        licences=bundle.licences,
        seconds_per_clip=seconds,
        clip=clip,
        basis=basis,
    )


def _runs(machine: Machine, bundle: Bundle) -> tuple[Literal["yes", "tight", "no"], str]:
    gpu, need = machine.gpu, bundle.min_vram_gb
    if gpu is None:
        return "no", "no usable GPU here; on the processor one clip takes hours"
    if gpu.vram_gb is None:
        return "tight", f"the memory of {gpu.name} is not known; {need:g} GB are needed"
    # Cards report a little less than they are sold with: 8188 MiB for 8 GB, 23.6 GiB for 24.
    if gpu.vram_gb * 1.06 < need:
        return "no", f"{need:g} GB of GPU memory are needed, {gpu.name} has {gpu.vram_gb:g} GB"
    largest_gb = max((file.bytes for file in bundle.files), default=0) / 2**30
    if machine.memory_gb < largest_gb * MEMORY_TO_MODELS:
        return "tight", f"{machine.memory_gb:g} GB of memory are less than the largest file ({largest_gb:.0f} GB)"
    if gpu.vram_gb < need * 1.25:
        return "tight", f"{gpu.name} has {gpu.vram_gb:g} GB, just what is needed; parts are kept in main memory"
    return "yes", f"{gpu.name} has {gpu.vram_gb:g} GB, {need:g} GB are needed"


def _speed(gpu: Gpu | None, bundle: Bundle) -> tuple[float | None, str, str]:
    if gpu is None or not bundle.workflows:
        return None, "", ""
    info = template_info(bundle.workflows[0])
    output = OutputSpec(
        width=info.size.native[0], height=info.size.native[1], fps=info.size.native_fps, frames=info.frames.trained
    )
    clip = f"{output.width}x{output.height}, {output.frames} frames"
    times = ServiceTimes()
    general = times.estimate(Kind(Tier.LOCAL, "comfyui", "", info.name), output)
    special = times.estimate(Kind(Tier.LOCAL, "comfyui", gpu.name, info.name), output)
    own, reference = peak_tflops(gpu.name), peak_tflops(REFERENCE_GPU)
    if special.expected_s != general.expected_s:
        scale, basis = 1.0, "published for this card"
    elif own is None or reference is None or ANY_MODEL in general.basis:
        what = info.title if ANY_MODEL in general.basis else gpu.name
        return None, clip, f"nobody has published a time for {what}; the first clips will tell"
    else:
        scale = reference / own
        basis = "published for an RTX 4090" + (f", times {scale:.1f} for this card" if scale != 1 else "")
    least = least_seconds(gpu=gpu.name, model=info.name, output=output, passes=info.steps)
    return round(max(special.expected_s * scale, least), 1), clip, basis
