"""How long a clip takes: priors as dated data, corrected by what was observed.

Times scale with the work: pixel-frames (width x height x frames) on GPUs, frames alone at Google, whose latency follows
the length of the clip rather than its size. The learned estimate is
`(w x prior + seconds seen, those of failures included) / (w + clips seen)` in seconds per unit of work, kept apart by
backend, GPU, workflow and its settings, cold starts apart. The prior weighs `w` = 3 clips until 5 were seen, then less
and less: a published figure that is wrong by a factor would else bend a mean of many. What is known of a workflow
elsewhere stands in for the published figure.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from functools import cache
from importlib import resources

from hybrid_video.models import Model, OutputSpec, Tier
from hybrid_video.pricing.learning import (
    FORGET_PRIOR_AT,
    SPREAD,
    UNSEEN_SPREAD,
    Z90,
    Kind,
    Observation,
    Observed,
    borrowed,
    merged,
    quantile90,
    work_units,
)

__all__ = ["Estimate", "Observed", "ServiceTimes", "TimingPrior", "work_units"]

PRIOR_WEIGHT = 3.0
PROBES = 3
"""Below so many clips of a kind its time is hardly known: a few jobs that must go there anyway may go first."""

COLD_START_S = 60.0
"""The published cold start that learned ones are held against: 30-60 s for an SDXL-size first request (RunPod's
docs), 45 s (worker-comfyui issue 90)."""


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


START_WEIGHT = 1.0
FORGET_STARTS_AT = 2
"""Published starts range from half a second to minutes; a few that were seen at this endpoint say far more. So the
published one weighs as one start, and less from two seen ones on."""


@dataclass(frozen=True)
class Estimate:
    """Seconds on the vendor's clock for one clip, and how they are known."""

    expected_s: float
    p50_s: float
    p90_s: float
    observed: int
    basis: str

    @property
    def probe(self) -> bool:
        """Whether so little is known of this kind that trying it teaches something."""
        return self.observed < PROBES


@dataclass
class ServiceTimes:
    """Expected seconds for a clip; learns while a batch runs through `observe`.

    `cold_starts` holds (how many, seconds together) of worker starts by backend and GPU.
    """

    observed: Mapping[Kind, Observed] = field(default_factory=dict)
    cold_starts: Mapping[tuple[str, str], tuple[int, float]] = field(default_factory=dict)

    _known: dict[Kind, Estimate] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Estimates for one unit of work, until something is learned."""

    def observe(self, seen: Observation) -> None:
        """Learns from one finished attempt."""
        kind = seen.kind
        self._known.clear()
        self.observed = {**self.observed, kind: seen.added_to(self.observed.get(kind, Observed()))}
        if seen.cold_start_s is not None:
            place = (kind.backend, kind.gpu)
            count, total = self.cold_starts.get(place, (0, 0.0))
            self.cold_starts = {**self.cold_starts, place: (count + 1, total + seen.cold_start_s)}

    def expected_s(self, *, backend: str, tier: Tier, gpu: str, model: str, output: OutputSpec) -> tuple[float, str]:
        """Seconds and their basis. The most specific prior that matches counts."""
        found = self.estimate(Kind(tier, backend, gpu, model), output)
        return found.expected_s, found.basis

    def estimate(self, kind: Kind, output: OutputSpec) -> Estimate:
        """What a clip of this kind takes: the mean, the median and what nine of ten stay below."""
        one = self._known.get(kind)
        if one is None:
            one = self._known[kind] = self._estimate(kind)
        units = work_units(kind.tier, output)
        return Estimate(units * one.expected_s, units * one.p50_s, units * one.p90_s, one.observed, one.basis)

    def cold_start_s(self, *, backend: str, gpu: str, published_s: float) -> float:
        """Seconds until a worker's work begins: the published figure, corrected by the starts that were seen."""
        count, total = self.cold_starts.get((backend, gpu), (0, 0.0))
        weight = prior_weight(count, START_WEIGHT, FORGET_STARTS_AT)
        return published_s * (weight * COLD_START_S + total) / ((weight + count) * COLD_START_S)

    def cold_start_p90_s(self, backend: str, gpu: str, expected_s: float) -> float:
        """What nine of ten worker starts stay below, given the expected time: wide until some were seen."""
        count, _ = self.cold_starts.get((backend, gpu), (0, 0.0))
        return expected_s * math.exp(Z90 * (UNSEEN_SPREAD if count < FORGET_PRIOR_AT else SPREAD))

    def _estimate(self, kind: Kind) -> Estimate:
        base, basis = self._base(kind)
        seen = self._seen(kind)
        weight = prior_weight(seen.count)
        expected = (weight * base + seen.seconds_per_unit_sum) / (weight + seen.count)
        p50, p90 = quantile90(seen, expected)
        return Estimate(expected, p50, p90, seen.count, f"{basis}, {seen.count} observed" if seen.count else basis)

    def _base(self, kind: Kind) -> tuple[float, str]:
        """What is expected without the clips of this kind, seconds per unit."""
        if kind.cold:
            warm = kind._replace(cold=False)
            found = self._estimate(warm)
            return found.expected_s, found.basis
        twin = self._seen(kind._replace(cold=True))
        if twin.count and not self._seen(kind).count:
            return twin.typical, f"timing of {twin.count} clips on workers that had just started"
        lent = borrowed(kind, self.observed, _published)
        if lent is not None:
            return lent[0], f"timing borrowed from {lent[1]}"
        prior = _prior(kind.backend, kind.tier, kind.gpu, kind.model)
        return prior.seconds_per_unit, f"timing {prior.id} of {prior.checked}"

    def _seen(self, kind: Kind) -> Observed:
        """What was seen of a kind; of every GPU where the GPU is not known, of all settings where none is named."""
        exact = self.observed.get(kind)
        if exact is not None or (kind.gpu and kind.signature):
            return exact or Observed()
        return merged(
            seen
            for other, seen in self.observed.items()
            if (other.tier, other.backend, other.model, other.cold) == (kind.tier, kind.backend, kind.model, kind.cold)
            and kind.gpu in ("", other.gpu)
            and kind.signature in ("", other.signature)
        )


def prior_weight(clips: int, weight: float = PRIOR_WEIGHT, forget_at: int = FORGET_PRIOR_AT) -> float:
    """How many clips the published figure weighs beside so many that were seen."""
    return weight * min(1.0, (forget_at / clips) ** 2 if clips else 1.0)


def _published(kind: Kind) -> float:
    return _prior(kind.backend, kind.tier, kind.gpu, kind.model).seconds_per_unit


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
