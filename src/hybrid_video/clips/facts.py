"""The nouns of clip checking: what was found in a file, and the refusal of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from hybrid_video.errors import HybridVideoError
from hybrid_video.models import Model

RejectionReason = Literal[
    "not_a_video", "undecodable", "too_large", "wrong_size", "too_few_frames", "wrong_length", "black", "frozen"
]


class ClipFacts(Model):
    """What decoding a file from beginning to end showed. Luma is 0 to 255, measured on small grey copies of frames."""

    container: str = Field(description="mp4, mov, webm, mkv, avi, webp, gif or apng.")
    codec: str
    width: int = Field(ge=1)
    height: int = Field(ge=1)
    fps: float = Field(gt=0)
    frames: int = Field(ge=1, description="Counted by decoding, not read from the header.")
    duration_s: float = Field(gt=0)
    size_bytes: int = Field(ge=1)
    luma_mean: float = Field(description="Mean of the brightest sampled frame.")
    luma_std: float = Field(description="Standard deviation of the most contrasted sampled frame.")
    luma_peak: float = Field(description="Brightest spot of any sampled frame.")
    motion: float = Field(description="Largest change of any spot between the first and another sampled frame.")

    @property
    def suffix(self) -> str:
        """File name suffix that fits the container."""
        return ".png" if self.container == "apng" else f".{self.container}"


class ClipRejected(HybridVideoError):
    """A file is not the clip that was asked for. `reason` is a stable word, the message a sentence for the user."""

    def __init__(self, message: str, *, reason: RejectionReason, facts: ClipFacts | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.facts = facts


def reject(path: Path, reason: RejectionReason, sentence: str, facts: ClipFacts | None = None) -> ClipRejected:
    """A rejection whose message begins with the file's name."""
    return ClipRejected(f"{path.name!r} {sentence}", reason=reason, facts=facts)
