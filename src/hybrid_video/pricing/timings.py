"""How long a clip takes: priors as dated data, corrected by what was observed.

Times scale with the work: pixel-frames (width x height x frames) on GPUs, frames alone at Google, whose latency follows
the length of the clip rather than its size. The learned estimate is
`(3 x prior + sum of observed) / (3 + observed)` in seconds per unit of work, kept apart by backend, GPU and model.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from functools import cache
from importlib import resources

from hybrid_video.models import Model, OutputSpec, Tier

PRIOR_WEIGHT = 3.0


class TimingPrior(Model):
    """One published or measured timing."""

    id: str
    tier: Tier
    backend: str
    gpu: str = ""
    model: str = ""
    seconds: float
    width: int
    height: int
    frames: int
    source: str
    checked: date
    confidence: str

    @property
    def seconds_per_unit(self) -> float:
        """Seconds per unit of work."""
        output = OutputSpec(width=self.width, height=self.height, fps=24, frames=self.frames)
        return self.seconds / work_units(self.tier, output)


@dataclass(frozen=True)
class Observed:
    """Sums over finished attempts of one (backend, gpu, model)."""

    count: int
    seconds_per_unit_sum: float


@dataclass
class ServiceTimes:
    """Expected seconds for a clip. `observed` is keyed by (backend, gpu, model)."""

    observed: Mapping[tuple[str, str, str], Observed] = field(default_factory=dict)

    def expected_s(self, *, backend: str, tier: Tier, gpu: str, model: str, output: OutputSpec) -> tuple[float, str]:
        """Seconds and their basis. The most specific prior that matches counts."""
        prior = _prior(backend, tier, gpu, model)
        units = work_units(tier, output)
        seen = self.observed.get((backend, gpu, model))
        total, weight = prior.seconds_per_unit * PRIOR_WEIGHT, PRIOR_WEIGHT
        if seen is not None:
            total, weight = total + seen.seconds_per_unit_sum, weight + seen.count
        basis = f"timing {prior.id} of {prior.checked}" + (f", {seen.count} observed" if seen else "")
        return units * total / weight, basis


def work_units(tier: Tier, output: OutputSpec) -> float:
    """How much work a clip is on a tier; only ratios within one tier mean anything."""
    if tier is Tier.GEMINI:
        return float(output.frames)
    return float(output.width * output.height * output.frames)


@cache
def _priors() -> tuple[TimingPrior, ...]:
    text = resources.files(__package__).joinpath("data/timings/priors.toml").read_text(encoding="utf-8")
    return tuple(TimingPrior.model_validate(row) for row in tomllib.loads(text)["timing"])


@cache
def _prior(backend: str, tier: Tier, gpu: str, model: str) -> TimingPrior:
    def specificity(prior: TimingPrior) -> tuple[bool, bool, bool]:
        return (prior.model == model, prior.gpu == gpu, prior.backend == backend)

    matches = [
        prior
        for prior in _priors()
        if prior.tier is tier
        and prior.backend in (backend, "*")
        and prior.gpu in ("", gpu)
        and prior.model in ("", model)
    ]
    return max(matches, key=specificity)
