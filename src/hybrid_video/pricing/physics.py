"""The least time a clip can take on a GPU: operations of one pass through the model, at the card's peak.

A forward pass of a video transformer over `n` tokens with `p` parameters, `l` layers of width `w` costs
`2 p n + 4 l w n^2` operations (weights, and attention in both directions). At 1280x720 and 81 frames a 14B Wan model
has 75,600 tokens and costs 6.8e15 of them, so a claim of 30 steps with guidance in 260 s on an RTX 4090 would need
1,570 TFLOPS: more than the 660 the card has. Such a figure is a mistake and must not be learned from.

A seventh of the weights (keys and values of the attention to the text) sees no token of the video, so one pass is
reckoned up to 5 % too dear. No workflow makes a clip in one pass, and only one is asked of a timing.
"""

from __future__ import annotations

import math
import tomllib
from datetime import date
from functools import cache
from importlib import resources

from pydantic import Field

from hybrid_video.models import Model, OutputSpec

TERA = 1e12


class GpuPeak(Model):
    """What one GPU can do at most."""

    id: str
    peak_tflops: float = Field(gt=0)
    source: str
    checked: date


class TransformerSize(Model):
    """What decides the work of one pass through a model."""

    id: str
    parameters: float = Field(gt=0)
    layers: int = Field(ge=1)
    width: int = Field(ge=1)
    pixels_per_token_side: int = Field(ge=1)
    frames_per_token: int = Field(ge=1)
    source: str
    checked: date

    def tokens(self, output: OutputSpec) -> int:
        """Tokens of a clip: a grid over each picture, the first frame alone and then one for every few."""
        side = self.pixels_per_token_side
        moments = (output.frames - 1) // self.frames_per_token + 1
        return math.ceil(output.width / side) * math.ceil(output.height / side) * moments

    def pass_flop(self, output: OutputSpec) -> float:
        """Operations of one forward pass."""
        tokens = float(self.tokens(output))
        return 2 * self.parameters * tokens + 4 * self.layers * self.width * tokens * tokens


def least_seconds(*, gpu: str, model: str, output: OutputSpec, passes: int = 1) -> float:
    """Seconds that even a perfect program needs; 0 where the card or the model is not known.

    Args:
        passes: forward passes: steps, twice as many with guidance. One where nothing is known of them.
    """
    card, size = _gpus().get(gpu), _models().get(model)
    if card is None or size is None:
        return 0.0
    return passes * size.pass_flop(output) / (card.peak_tflops * TERA)


def is_possible(seconds: float, *, gpu: str, model: str, output: OutputSpec, passes: int = 1) -> bool:
    """Whether a timing is one that the card can reach."""
    return math.isfinite(seconds) and seconds >= least_seconds(gpu=gpu, model=model, output=output, passes=passes)


@cache
def _gpus() -> dict[str, GpuPeak]:
    return {found.id: found for found in map(GpuPeak.model_validate, _data()["gpu"])}


@cache
def _models() -> dict[str, TransformerSize]:
    return {found.id: found for found in map(TransformerSize.model_validate, _data()["model"])}


@cache
def _data() -> dict[str, list[dict[str, object]]]:
    text = resources.files(__package__).joinpath("data/timings/physics.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def peak_tflops(gpu: str) -> float | None:
    """The peak rate of a card, None where it is not known."""
    card = _gpus().get(gpu)
    return card.peak_tflops if card else None
