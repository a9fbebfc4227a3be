"""What finished attempts teach about time: sums per kind of work, their spread, and what one place says of another.

A `Kind` is what takes the same time per unit of work: one backend with one GPU making one workflow with the same
settings, cold starts apart where the vendor tells of them. Times are seconds of the vendor's clock per unit of work.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from hybrid_video.models import Attempt, AttemptState, OutputSpec, Tier
from hybrid_video.pricing.physics import is_possible

SERVERLESS = "runpod-serverless"
"""The one backend whose vendor says how long a job waited for its worker."""

WORKER = "worker"
"""Under this name a serverless receipt keeps whether a worker was up when the job was sent."""

WORKER_UP, NO_WORKER = "up", "none"

COLD_FROM_S = 5.0
"""Where the receipt does not say: a wait of this long for a serverless worker means that one had to be started."""

OVERHEAD_S = 0.75
"""The same of our own clock: on an emulator's fast one the way of a request alone looks like a long wait."""

SPREAD = 0.2
"""Spread (standard deviation of the logarithm) of clips of one kind before any was seen; counts as one clip."""

UNSEEN_SPREAD = 0.5
"""The same for a kind never seen, where the published figure itself is uncertain."""

FORGET_PRIOR_AT = 5
"""From so many clips on, the middle of their times is their own and no longer the published one's."""

Z90 = 1.2815515655446004


class Kind(NamedTuple):
    """What takes the same time per unit of work."""

    tier: Tier
    backend: str
    gpu: str
    model: str
    signature: str = ""
    cold: bool = False


@dataclass(frozen=True)
class Observed:
    """Sums over finished attempts of one kind. Failed ones add their seconds and do not count."""

    count: int = 0
    seconds_per_unit_sum: float = 0.0
    log_sum: float = 0.0
    log_square_sum: float = 0.0

    def with_clip(self, per_unit_s: float) -> Observed:
        """One more finished clip."""
        log = math.log(per_unit_s)
        total = self.seconds_per_unit_sum + per_unit_s
        return Observed(self.count + 1, total, self.log_sum + log, self.log_square_sum + log * log)

    def with_failure(self, per_unit_s: float) -> Observed:
        """One more failed attempt: its time is charged to the clips, so that a flaky place prices itself out."""
        total = self.seconds_per_unit_sum + per_unit_s
        return Observed(self.count, total, self.log_sum, self.log_square_sum)

    def __add__(self, other: Observed) -> Observed:
        """Both together."""
        return Observed(
            self.count + other.count,
            self.seconds_per_unit_sum + other.seconds_per_unit_sum,
            self.log_sum + other.log_sum,
            self.log_square_sum + other.log_square_sum,
        )

    @property
    def typical(self) -> float:
        """Geometric mean of the clips' times, seconds per unit."""
        return math.exp(self.log_sum / self.count)


@dataclass(frozen=True)
class Observation:
    """What one finished attempt teaches."""

    kind: Kind
    per_unit_s: float
    success: bool
    cold_start_s: float | None = None

    def added_to(self, seen: Observed) -> Observed:
        """The sums with this one."""
        return seen.with_clip(self.per_unit_s) if self.success else seen.with_failure(self.per_unit_s)


def work_units(tier: Tier, output: OutputSpec) -> float:
    """How much work a clip is on a tier; only ratios within one tier mean anything."""
    if tier is Tier.GEMINI:
        return float(output.frames)
    return float(output.width * output.height * output.frames)


def vendor_seconds(attempt: Attempt) -> float | None:
    """Seconds an attempt ran on the vendor's clock; None where nobody can say.

    A vendor without a figure of its own (Google) is timed from the accepted submit to the stored clip.
    """
    if attempt.execution_s is not None:
        return attempt.execution_s
    if attempt.state is not AttemptState.SETTLED or attempt.submitted_at is None or attempt.finished_at is None:
        return None
    return (attempt.finished_at - attempt.submitted_at).total_seconds() * attempt.quote.time_scale


def served_s(attempt: Attempt) -> float | None:
    """Seconds comparable with `Quote.service_s`: our clock, the start of a serverless worker included."""
    seconds = vendor_seconds(attempt)
    if seconds is None:
        return None
    return (seconds + (started_s(attempt) or 0.0)) / attempt.quote.time_scale


def started_s(attempt: Attempt) -> float | None:
    """Seconds on the vendor's clock that a worker took to start for it; None where one was up, or nobody tells.

    A job sent while none was up waited for the start, however short: were short starts taken for none, only the long
    ones would be learned. One sent to a worker that was up and waited all the same stood behind others.
    """
    waited = attempt.queue_s if attempt.backend == SERVERLESS else None
    worker = attempt.handle.details.get(WORKER) if attempt.handle else None
    if worker == WORKER_UP:
        return None
    if worker == NO_WORKER:
        return waited
    least = max(COLD_FROM_S, OVERHEAD_S * attempt.quote.time_scale)
    return waited if waited is not None and waited >= least else None


def observation(attempt: Attempt) -> Observation | None:
    """What a finished attempt teaches; None for a cancelled one, one without a time, or an impossible time."""
    seconds = vendor_seconds(attempt)
    if attempt.state not in (AttemptState.SETTLED, AttemptState.FAILED) or not seconds or seconds <= 0:
        return None
    success, output = attempt.state is AttemptState.SETTLED, attempt.quote.output
    if success and not is_possible(seconds, gpu=attempt.gpu, model=attempt.model, output=output):
        return None
    start = started_s(attempt)
    signature, cold = attempt.quote.signature, start is not None
    kind = Kind(attempt.tier, attempt.backend, attempt.gpu, attempt.model, signature, cold)
    return Observation(kind, seconds / work_units(attempt.tier, output), success, start)


def quantile90(seen: Observed, expected: float) -> tuple[float, float]:
    """Median and 90th percentile of the next clip, seconds per unit: log-normal, wider the fewer clips were seen.

    A predictive Student t: the spread counts as one clip seen beforehand. Below `FORGET_PRIOR_AT` clips the expected
    time counts as one clip too, and its disagreement with those seen widens the spread.
    """
    if not seen.count:
        return expected, expected * math.exp(Z90 * UNSEEN_SPREAD)
    count, mean = seen.count, seen.log_sum / seen.count
    squares = SPREAD * SPREAD + max(0.0, seen.log_square_sum - count * mean * mean)
    weight = float(count)
    if count < FORGET_PRIOR_AT:
        off = mean - math.log(expected)
        squares += off * off * count / (count + 1)
        mean = (count * mean + math.log(expected)) / (count + 1)
        weight += 1
    spread = math.sqrt(squares / count * (1 + 1 / weight))
    return math.exp(mean), math.exp(mean + _student90(count) * spread)


def borrowed(
    kind: Kind, observed: Mapping[Kind, Observed], published: Callable[[Kind], float]
) -> tuple[float, str] | None:
    """Seconds per unit for a kind, from what is known of it elsewhere than in its own clips; None where nothing is.

    First the same workflow with other settings at the same place. Then the same workflow at other places, corrected by
    how much faster this place is at what both have made, or by the published figures where they share nothing.
    """
    here = _merged(observed, lambda k: _place(k) == _place(kind) and k.model == kind.model and k != kind and not k.cold)
    if here.count and kind.signature:
        return here.typical, f"{here.count} clips with other settings of it"
    logs, weight, sources = 0.0, 0, []
    for place in {_place(k) for k in observed if k.model == kind.model and k.tier is not Tier.GEMINI} - {_place(kind)}:
        there = _merged(observed, lambda k, at=place: _place(k) == at and k.model == kind.model and not k.cold)  # type: ignore[misc]
        if not there.count or kind.tier is Tier.GEMINI:
            continue  # Google's unit of work is another one
        twin = Kind(*place, kind.model, kind.signature)
        ratio = _shared_ratio(kind, place, observed) or published(kind) / published(twin)
        logs += there.count * math.log(there.typical * ratio)
        weight += there.count
        sources.append(f"{there.count} clips on {place[1]}")
    return (math.exp(logs / weight), " and ".join(sorted(sources))) if weight else None


def _student90(freedom: int) -> float:
    """90th percentile of Student's t (Cornish-Fisher; within 2 % from two degrees of freedom on)."""
    if freedom == 1:
        return 3.0777
    z3, z5 = Z90**3, Z90**5
    second = (5 * z5 + 16 * z3 + 3 * Z90) / (96 * freedom**2)
    return Z90 + (z3 + Z90) / (4 * freedom) + second


def _place(kind: Kind) -> tuple[Tier, str, str]:
    return (kind.tier, kind.backend, kind.gpu)


def _merged(observed: Mapping[Kind, Observed], wanted: Callable[[Kind], bool]) -> Observed:
    return merged(seen for kind, seen in observed.items() if wanted(kind))


def merged(parts: Iterable[Observed]) -> Observed:
    """All of them together."""
    total = Observed()
    for part in parts:
        total += part
    return total


def _shared_ratio(kind: Kind, there: tuple[Tier, str, str], observed: Mapping[Kind, Observed]) -> float | None:
    """How many times longer a kind's place takes than another, by the other kinds both have made; None without any."""
    logs = [
        math.log(seen.typical / other.typical)
        for shared, seen in observed.items()
        if _place(shared) == _place(kind)
        and shared.model != kind.model
        and seen.count
        and (other := observed.get(Kind(*there, shared.model, shared.signature, shared.cold))) is not None
        and other.count
    ]
    return math.exp(sum(logs) / len(logs)) if logs else None
