"""Which sizes and lengths a model can make, and how a job's wish is fitted to them."""

from __future__ import annotations

import math

from pydantic import Field

from hybrid_video.errors import InputError
from hybrid_video.models import Model, OutputSpec, VideoJob

_ROUNDING = 1e-6  # 2.4 s at 25 fps must not become 61 frames


class FrameRule(Model):
    """Allowed numbers of frames: `base + n * step` between `minimum` and `maximum`."""

    base: int = Field(ge=0)
    step: int = Field(ge=1)
    minimum: int = Field(ge=1)
    trained: int = Field(ge=1, description="Longest clip the model was trained on; longer ones drift or repeat.")
    maximum: int = Field(ge=1, description="Longest clip accepted.")

    def at_least(self, frames: int) -> int:
        """The smallest allowed number not below `frames`; it may lie above `maximum`."""
        frames = max(frames, self.minimum)
        return self.base + math.ceil((frames - self.base) / self.step) * self.step

    def at_most(self, frames: int) -> int:
        """The largest allowed number not above `frames`, but never below the smallest."""
        return max(self.at_least(1), self.base + (frames - self.base) // self.step * self.step)


class SizeRule(Model):
    """Allowed sizes: both sides multiples of `multiple`, the area at most `max_pixels`."""

    multiple: int = Field(ge=2)
    max_pixels: int = Field(ge=1)
    native: tuple[int, int]
    native_fps: int = Field(ge=1)

    def at_least(self, pixels: int) -> int:
        """The smallest allowed side not below `pixels`."""
        return math.ceil(pixels / self.multiple) * self.multiple


def frames_for(duration_s: float, fps: float) -> int:
    """The fewest frames that are not shorter than a duration."""
    return max(1, math.ceil(duration_s * fps - _ROUNDING))


def fit_job(job: VideoJob, workflow: str, frames: FrameRule, size: SizeRule) -> OutputSpec:
    """The clip that comes closest to the job without being smaller or shorter.

    A clip of more frames than the model makes gets a lower frame rate, down to half the model's own.

    Args:
        job: The job; with `fit="exact"` nothing is rounded.
        workflow: Name for messages.
        frames: The model's rule for lengths.
        size: The model's rule for sizes.

    Raises:
        InputError: it would be too long or too large, or not exactly what an exact job asks for.
    """
    if job.fit == "exact":
        _refuse_inexact(job, workflow, frames, size)
        fps, count, width, height = job.fps, job.frames, job.width, job.height
    else:
        fps, count = _rate_and_count(job, frames, size)
        width, height = size.at_least(job.width), size.at_least(job.height)
    if count > frames.maximum:
        longest = frames.at_most(frames.maximum)
        raise InputError(
            f"job {job.id!r}: {job.duration_s:g} s at {fps} fps are {count} frames, but {workflow!r} makes at most "
            f"{longest} ({longest / fps:.3g} s at {fps} fps); lower duration_s, or choose another workflow"
        )
    if width * height > size.max_pixels:
        raise InputError(
            f"job {job.id!r}: {width}x{height} is too large for {workflow!r}, which makes at most {size.max_pixels} "
            f"pixels (its own size is {size.native[0]}x{size.native[1]}); lower width or height, "
            "or choose another workflow"
        )
    return OutputSpec(width=width, height=height, fps=fps, frames=count)


def _rate_and_count(job: VideoJob, frames: FrameRule, size: SizeRule) -> tuple[int, int]:
    """The highest rate up to the one asked for at which the clip is not too long, and its frames."""
    count = frames.at_least(max(job.frames, frames_for(job.duration_s, job.fps)))
    if count <= frames.maximum:
        return job.fps, count
    slowest = min(job.fps, max(1, size.native_fps // 2))
    for fps in range(job.fps - 1, slowest - 1, -1):
        count = frames.at_least(frames_for(job.duration_s, fps))
        if count <= frames.maximum:
            return fps, count
    return slowest, count


def _refuse_inexact(job: VideoJob, workflow: str, frames: FrameRule, size: SizeRule) -> None:
    for field, value in (("width", job.width), ("height", job.height)):
        if value % size.multiple:
            below, above = value // size.multiple * size.multiple, size.at_least(value)
            raise InputError(
                f"job {job.id!r}: {field} is {value!r}, but {workflow!r} makes multiples of {size.multiple}; "
                f"ask for {below or above} or {above}, or use fit: nearest"
            )
    exact = job.frames
    if frames.at_least(exact) != exact:
        near = dict.fromkeys((frames.at_most(exact), frames.at_least(exact)))
        raise InputError(
            f"job {job.id!r}: duration_s {job.duration_s!r} at {job.fps} fps is {exact} frames, which {workflow!r} "
            f"cannot make; ask for {' or '.join(f'{n / job.fps:.6g} s ({n} frames)' for n in near)}, "
            "or use fit: nearest"
        )
