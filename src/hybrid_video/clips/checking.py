"""Decides whether a file is the clip that was promised. A file that merely exists is no success."""

from __future__ import annotations

from pathlib import Path

from hybrid_video.clips.facts import ClipFacts, RejectionReason, reject
from hybrid_video.clips.inspecting import inspect
from hybrid_video.models import OutputSpec

FRAME_SLACK = 2
FRAME_SHARE = 0.05
LENGTH_SHARE = 0.10
BLACK_MEAN = 10.0
BLACK_STD = 3.0
BLACK_PEAK = 24.0
FROZEN_MOTION = 7.0
"""Measured with x264 and VP9 from 128x72 to 1280x720: a still picture of pure noise changes by 2 of 255 at crf 18 to 48
with one key frame and by 6 at crf 30 with a key frame every five frames; black with sensor noise has a mean and a peak
of 8; a picture that shifts by 4 pixels in 24 frames changes by 23 and more, a 6-pixel light on black by over 100.
A still picture at crf 40 with a key frame every five frames (19) would pass."""


def check_clip(path: Path, expected: OutputSpec, *, lenient: bool = False) -> ClipFacts:
    """Holds a file against what the backend promised.

    Args:
        lenient: size, frame count and length are taken as they come, for workflows of the user's own whose output we
            cannot foretell. It must still be a moving picture that decodes.

    Raises:
        ClipRejected: with a sentence that gives both figures.
    """
    facts = inspect(path)
    fault = None if lenient else _shape_fault(facts, expected)
    fault = fault or _picture_fault(facts, expected)
    if fault:
        raise reject(path, *fault, facts)
    return facts


def _shape_fault(facts: ClipFacts, expected: OutputSpec) -> tuple[RejectionReason, str] | None:
    if (facts.width, facts.height) != (expected.width, expected.height):
        found = f"{facts.width}x{facts.height}"
        return "wrong_size", f"is {found} pixels, not {expected.width}x{expected.height} as promised"
    if expected.frames - facts.frames > max(FRAME_SLACK, FRAME_SHARE * expected.frames):
        return "too_few_frames", f"holds {facts.frames} frames where {expected.frames} were promised"
    slack_s = max(LENGTH_SHARE * expected.duration_s, FRAME_SLACK / expected.fps)
    if abs(facts.duration_s - expected.duration_s) > slack_s:
        return "wrong_length", (
            f"lasts {facts.duration_s:.2f} s ({facts.frames} frames at {facts.fps:g}/s) where "
            f"{expected.duration_s:.2f} s were promised"
        )
    return None


def _picture_fault(facts: ClipFacts, expected: OutputSpec) -> tuple[RejectionReason, str] | None:
    if facts.luma_mean < BLACK_MEAN and facts.luma_std < BLACK_STD and facts.luma_peak < BLACK_PEAK:
        return "black", f"is black in every sampled frame (brightest spot {facts.luma_peak:.0f} of 255)"
    if expected.frames > 1 and facts.frames == 1:
        return "frozen", f"is a single picture where {expected.frames} frames were promised"
    if expected.frames > 1 and facts.motion < FROZEN_MOTION:
        return "frozen", (
            f"shows the same picture in all of its {facts.frames} frames (largest change {facts.motion:.0f} of 255)"
        )
    return None
