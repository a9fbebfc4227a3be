"""What each Google model can make, and the closest thing to a job it offers. Pure: no prices, no I/O.

Facts of November 2026. Omni: whole seconds, 3 to 10 (1.2: 3 to 15, with a seed), 24 frames a second, 16:9 or 9:16, no
negative prompt. Veo 3.1: 4, 6 or 8 seconds; 1080p is bought with 8 seconds only, because Google's table of allowed
combinations was not seen and 8 seconds is the one that is always allowed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from hybrid_video.models import AUTO_WORKFLOW, OutputSpec, VideoJob

FPS = 24
SHORT_SIDES = {"360p": 360, "720p": 720, "1080p": 1080}
ASPECT_TOLERANCE = 1.25
LANDSCAPE, PORTRAIT = "16:9", "9:16"


@dataclass(frozen=True)
class GoogleModel:
    """One model. `long_only` names resolutions that are sold in the longest duration only."""

    name: str
    durations: tuple[int, ...]
    resolutions: tuple[str, ...]
    seed: bool
    negative_prompt: bool
    long_only: tuple[str, ...] = ()


def _veo(name: str) -> GoogleModel:
    return GoogleModel(name, (4, 6, 8), ("720p", "1080p"), seed=True, negative_prompt=True, long_only=("1080p",))


OMNI_MODELS = (
    GoogleModel(
        "gemini-omni-1.2-flash", tuple(range(3, 16)), ("360p", "720p", "1080p"), seed=True, negative_prompt=False
    ),
    GoogleModel(
        "gemini-omni-1.1-flash", tuple(range(3, 11)), ("360p", "720p", "1080p"), seed=False, negative_prompt=False
    ),
)
"""Newest first: where prices are equal the newer model is taken."""

VEO_MODELS = (
    _veo("veo-3.1-lite-generate-001"),
    _veo("veo-3.1-fast-generate-001"),
    _veo("veo-3.1-generate-001"),
)


@dataclass(frozen=True)
class Offer:
    """The clip a model would make for a job. `notes` are what the job asked for and will not get."""

    model: GoogleModel
    resolution: str
    seconds: int
    output: OutputSpec
    notes: tuple[str, ...] = ()


def offer(model: GoogleModel, job: VideoJob, *, smallest: str) -> Offer | str:
    """The closest clip the model can make for a job, or the sentence why it cannot.

    Args:
        smallest: the smallest resolution class to buy; a job with `fit="exact"` gets exactly its own.
    """
    if job.workflow != AUTO_WORKFLOW:
        return f"workflow {job.workflow!r} runs only on ComfyUI backends."
    problem = _inexact(model, job) if job.fit == "exact" else _aspect_problem(job)
    if problem:
        return f"{model.name} {problem}"
    resolution = _resolution(model, job, smallest)
    if resolution is None:
        return f"{model.name} makes at most {model.resolutions[-1]}, smaller than the job's {job.width}x{job.height}."
    seconds = _seconds(model, job, resolution)
    if seconds is None:
        return f"{model.name} makes at most {model.durations[-1]} s, not {job.duration_s:g} s; split the shot."
    width, height = size(resolution, aspect_of(job.width, job.height))
    return Offer(
        model=model,
        resolution=resolution,
        seconds=seconds,
        output=OutputSpec(width=width, height=height, fps=FPS, frames=seconds * FPS),
        notes=_notes(model, job),
    )


def aspect_of(width: int, height: int) -> str:
    """16:9 for landscape and square, 9:16 for portrait."""
    return LANDSCAPE if width >= height else PORTRAIT


def resolution_of(output: OutputSpec) -> str:
    """The resolution class of a promised clip."""
    short = min(output.width, output.height)
    return next(name for name, side in SHORT_SIDES.items() if side == short)


def size(resolution: str, aspect: str) -> tuple[int, int]:
    """Width and height of a resolution class."""
    short = SHORT_SIDES[resolution]
    long = short * 16 // 9
    return (long, short) if aspect == LANDSCAPE else (short, long)


def _resolution(model: GoogleModel, job: VideoJob, smallest: str) -> str | None:
    short = min(job.width, job.height)
    floor = short if job.fit == "exact" else max(short, SHORT_SIDES[smallest])
    return next((name for name in model.resolutions if SHORT_SIDES[name] >= floor), None)


def _seconds(model: GoogleModel, job: VideoJob, resolution: str) -> int | None:
    wanted = math.ceil(job.duration_s - 1e-9)
    choices = model.durations[-1:] if resolution in model.long_only else model.durations
    return next((seconds for seconds in choices if seconds >= wanted), None)


def _aspect_problem(job: VideoJob) -> str:
    ratio = max(job.width, job.height) / min(job.width, job.height) / (16 / 9)
    if max(ratio, 1 / ratio) <= ASPECT_TOLERANCE:
        return ""
    return f"makes 16:9 or 9:16 only; {job.width}x{job.height} is too far from both."


def _inexact(model: GoogleModel, job: VideoJob) -> str:
    sizes = {size(name, aspect): name for name in model.resolutions for aspect in (LANDSCAPE, PORTRAIT)}
    resolution = sizes.get((job.width, job.height))
    lengths = model.durations[-1:] if resolution in model.long_only else model.durations
    if resolution is None:
        return f"cannot make exactly {job.width}x{job.height}; set fit to 'nearest' or choose 1280x720."
    if job.fps != FPS:
        return f"makes {FPS} frames a second, not exactly {job.fps}; set fit to 'nearest' or fps to {FPS}."
    if job.duration_s not in lengths:
        return f"cannot make exactly {job.duration_s:g} s; it makes {_lengths(lengths)} s at {resolution}."
    if job.negative_prompt.strip() and not model.negative_prompt:
        return "takes no negative prompt, and fit is 'exact'; set it to 'nearest' or drop the negative prompt."
    if job.seed is not None and not model.seed:
        return f"takes no seed, and fit is 'exact' with seed {job.seed!r}; set fit to 'nearest' or drop the seed."
    return ""


def _lengths(durations: tuple[int, ...]) -> str:
    whole = durations == tuple(range(durations[0], durations[-1] + 1)) and len(durations) > 2
    return f"{durations[0]} to {durations[-1]} whole" if whole else ", ".join(map(str, durations))


def _notes(model: GoogleModel, job: VideoJob) -> tuple[str, ...]:
    notes = []
    if job.negative_prompt.strip() and not model.negative_prompt:
        notes.append("negative prompt is not sent")
    if job.seed is not None and not model.seed:
        notes.append("seed is not sent")
    return tuple(notes)
