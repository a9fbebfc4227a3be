"""Quotes, candidates and a virtual clock for tests of what decides."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from hybrid_video import dispatcher
from hybrid_video.dispatcher import Assignment, LaneState, PendingJob
from hybrid_video.models import Candidate, OutputSpec, Quote, Tier, VideoJob

OUTPUT = OutputSpec(width=832, height=480, fps=16, frames=80)

TIERS = {
    "comfyui": Tier.LOCAL,
    "runpod-pod": Tier.CLOUD,
    "runpod-serverless": Tier.CLOUD,
    "gemini": Tier.GEMINI,
    "local": Tier.LOCAL,
    "cloud": Tier.CLOUD,
}


def quote(backend: str, usd: str, service_s: float, *, reserve_usd: str | None = None) -> Quote:
    """A quote with nothing in it but what decides."""
    return Quote(
        backend=backend,
        tier=TIERS[backend],
        model="m",
        amount_usd=Decimal(usd),
        reserve_usd=Decimal(reserve_usd or usd),
        service_s=service_s,
        output=OUTPUT,
        basis="test",
    )


def candidate(backend: str, usd: str, service_s: float, *, wait_s: float = 0.0, queued: int = 0) -> Candidate:
    """A candidate that nothing refuses yet."""
    return Candidate(
        backend=backend, tier=TIERS[backend], quote=quote(backend, usd, service_s), wait_s=wait_s, queued=queued
    )


def job(name: str = "shot", **values: object) -> VideoJob:
    """A job of default size."""
    return VideoJob.model_validate({"id": name, "prompt": "a harbour at dawn", **values})


SEED_QUOTES = {
    "local": quote("local", "0", 10),
    "cloud": quote("cloud", "0.007", 20),
    "gemini": quote("gemini", "0.08", 5),
}
SEED_LANES = {"local": 3, "cloud": 5, "gemini": 10}


@dataclass
class Simulated:
    """What a simulated batch came to."""

    cost_usd: Decimal = Decimal(0)
    end_s: float = 0.0
    made: list[Assignment] = field(default_factory=list)
    most_held: dict[str, int] = field(default_factory=dict)


def simulate(
    pending: Sequence[PendingJob],
    horizon_of: Callable[[float], float],
    *,
    lanes: Mapping[str, int] = SEED_LANES,
    ahead: int = 0,
    service: Callable[[PendingJob, str], float] = lambda job, backend: job.options[backend].service_s,
) -> Simulated:
    """Runs a batch on a virtual clock: every event asks the dispatcher again.

    Args:
        horizon_of: seconds from now to plan for, given now.
        service: how long a job really takes on a backend.
    """
    waiting = {item.id: item for item in pending}
    held: dict[str, list[float]] = {f"{key}-{n}": [] for key, count in lanes.items() for n in range(count)}
    result, now = Simulated(), 0.0
    while waiting or any(held.values()):
        states = [
            LaneState(
                lane, lane.rpartition("-")[0], max(0.0, ends[-1] - now) if ends else 0.0, len(ends), _ahead(lane, ahead)
            )
            for lane, ends in held.items()
        ]
        for made in dispatcher.assign(dispatcher.grouped(waiting.values()), states, horizon_of(now)):
            item = waiting.pop(made.job)
            begin = max(now, held[made.lane][-1]) if held[made.lane] else now
            held[made.lane].append(begin + service(item, made.backend))
            result.most_held[made.lane] = max(result.most_held.get(made.lane, 0), len(held[made.lane]))
            result.cost_usd += item.options[made.backend].amount_usd
            result.end_s = max(result.end_s, held[made.lane][-1])
            result.made.append(made)
        now = min([ends[0] for ends in held.values() if ends] + [now + 0.5])
        held = {lane: [end for end in ends if end > now + 1e-9] for lane, ends in held.items()}
        assert now < 100_000, f"{len(waiting)} jobs are never assigned"
    return result


def _ahead(lane: str, ahead: int) -> int:
    return ahead if lane.startswith("local") else 0
