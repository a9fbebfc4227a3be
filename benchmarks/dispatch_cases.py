"""The workloads of the dispatch benchmark: price sheets, sizes, and runs with fixed seeds summed up."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Literal

from benchmarks.measure import percentile
from benchmarks.scoreboard import Measured
from hybrid_video.estimates import tier_quote
from hybrid_video.models import Tier, VideoJob
from hybrid_video.pricing.catalog import PriceBook
from hybrid_video.pricing.quoting import Quoter
from hybrid_video.pricing.timings import ServiceTimes
from hybrid_video.settings import Settings
from hybrid_video.simulation import Incident, Job, Outcome, Policy, Site, cost_bound_usd, simulate, time_bound_s

CV = {"local": 0.10, "cloud": 0.25, "gemini": 0.50}
SLOTS = {
    "seed": {"local": 3, "cloud": 5, "gemini": 10},
    "current": {"local": 1, "cloud": 5, "gemini": 10},
}
SIZE_CV = 0.6

FIRST_SEED = 1_000_000
"""The benchmark's luck begins here. Constants are chosen on other seeds (`benchmarks.guards`)."""


def sheet(profile: Literal["seed", "current"], *, failure: float = 0.0, certain: bool = False) -> tuple[Site, ...]:
    """The tiers as the shipped price book of a profile has them, with the assumed scatter and failures."""
    quoter, job = Quoter(PriceBook.load(profile), ServiceTimes()), VideoJob(id="a", prompt="p")
    sites = []
    for tier in Tier:
        quote = tier_quote(quoter, Settings(), tier, job)
        sites.append(
            Site(
                tier.value,
                SLOTS[profile][tier.value],
                quote.service_s,
                quote.amount_usd,
                cv=0.0 if certain else CV[tier.value],
                failure=failure,
                per_clip=tier is Tier.GEMINI,
            )
        )
    return tuple(sites)


def clips(count: int) -> list[Job]:
    """Identical jobs."""
    return [Job(f"s{number}") for number in range(count)]


def alike(count: int) -> Callable[[int], list[Job]]:
    """The same identical jobs whatever the seed."""
    return lambda _seed: clips(count)


def sized(count: int, *, told: bool) -> Callable[[int], list[Job]]:
    """Other sizes for each seed."""
    return lambda seed: sized_clips(count, seed, told=told)


def sized_clips(count: int, seed: int, *, told: bool) -> list[Job]:
    """Jobs of lognormal sizes with mean 1; told or hidden from the router."""
    rng = random.Random(seed)
    sigma2 = math.log(1 + SIZE_CV**2)
    sizes = [rng.lognormvariate(-sigma2 / 2, math.sqrt(sigma2)) for _ in range(count)]
    return [Job(f"s{number}", size, size if told else 1.0) for number, size in enumerate(sizes)]


def misjudged(sites: Sequence[Site], seed: int) -> tuple[Site, ...]:
    """The sites with quotes that are wrong by a factor between 0.2 and 3, each its own."""
    rng = random.Random(seed)
    return tuple(replace(site, believed=math.exp(rng.uniform(math.log(0.2), math.log(3)))) for site in sites)


def repeat(
    sites: Sequence[Site],
    jobs: Callable[[int], Sequence[Job]],
    policy: Callable[[], Policy],
    runs: int,
    *,
    incidents: Sequence[Incident] = (),
    world: Callable[[int], Sequence[Site]] | None = None,
    first: int = FIRST_SEED,
) -> list[Outcome]:
    """The same batch with other luck, seeds from `first` on. `world` gives each run its own sites."""
    return [
        simulate(world(seed) if world else sites, jobs(seed), policy(), seed=seed, incidents=incidents)
        for seed in range(first, first + runs)
    ]


def summed(
    workload: str,
    policy: str,
    sites: Sequence[Site],
    jobs: int,
    outcomes: Sequence[Outcome],
    bound_usd: float | None = None,
) -> Measured:
    """Means of some runs beside the bounds at the same time and at the same cost."""
    duration = statistics.fmean(outcome.duration_s for outcome in outcomes)
    cost = statistics.fmean(float(outcome.cost_usd) for outcome in outcomes)
    return Measured(
        workload=workload,
        policy=policy,
        jobs=jobs,
        runs=len(outcomes),
        duration_s=duration,
        p95_s=percentile([outcome.duration_s for outcome in outcomes], 0.95),
        cost_usd=cost,
        bound_usd=cost_bound_usd(sites, jobs, duration) if bound_usd is None else bound_usd,
        time_ratio=duration / time_bound_s(sites, jobs, cost) if bound_usd is None else None,
        all_gemini_usd=float(max(site.price_usd for site in sites)) * jobs,
    )


def ratio_interval(
    sites: Sequence[Site], jobs: int, outcomes: Sequence[Outcome], blocks: int = 50
) -> tuple[float, float, float]:
    """T/T* of a workload with its 95 % interval, by leaving out one block of runs after the other (jackknife)."""

    def ratio(some: Sequence[Outcome]) -> float:
        cost = statistics.fmean(float(one.cost_usd) for one in some)
        return statistics.fmean(one.duration_s for one in some) / time_bound_s(sites, jobs, cost)

    whole, blocks = ratio(outcomes), min(blocks, len(outcomes))
    left = [ratio([one for number, one in enumerate(outcomes) if number % blocks != block]) for block in range(blocks)]
    mean = statistics.fmean(left)
    half = 1.96 * math.sqrt((blocks - 1) / blocks * sum((one - mean) ** 2 for one in left))
    return whole, whole - half, whole + half


def seed_split(jobs: int) -> dict[str, int]:
    """The earlier system's 45/38/17, for any number of jobs."""
    local, cloud = round(0.45 * jobs), round(0.38 * jobs)
    return {"local": local, "cloud": cloud, "gemini": jobs - local - cloud}


def usd(amount: float) -> Decimal:
    """A budget."""
    return Decimal(str(round(amount, 6)))
