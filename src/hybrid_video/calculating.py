"""The calculator: a question in people's terms to a split, a frontier, a comparison and a month. Spends nothing.

The planner does the arithmetic, the same one that `plan` and the dispatcher use. Asks no backend and opens no file.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal

from hybrid_video import planner
from hybrid_video.advice import advise
from hybrid_video.backends.registry import BACKENDS
from hybrid_video.errors import InputError
from hybrid_video.estimates import GOOGLE_MODEL, default_slots, pod_offer, resources, tier_quote
from hybrid_video.models import (
    AUTO_WORKFLOW,
    MAX_BUDGET_USD,
    MAX_DEADLINE_S,
    MAX_JOBS,
    Batch,
    EffectivePreferences,
    Quote,
    Tier,
    VideoJob,
)
from hybrid_video.planner import Plan, Resource
from hybrid_video.pod_plans import (
    PodPlan,
    balanced_with_pods,
    cheapest_with_pods,
    frontier_with_pods,
    within_budget_with_pods,
)
from hybrid_video.pricing.catalog import PriceBook
from hybrid_video.pricing.quoting import Quoter
from hybrid_video.scaling.state import PodOffer
from hybrid_video.settings import Settings
from hybrid_video.workflows import template_names

MOST_POINTS = 240
MOST_SLOTS = 10_000
MOST_PODS = 20
"""Pods the calculator tries at most: each number is planned on its own, and an answer takes under 0.1 s."""

Missed = Literal["", "deadline", "budget", "deadline_over_budget"]
"""Which part of the goal the plan cannot keep; the nearest feasible plan is given instead."""


@dataclass(frozen=True)
class Inquiry:
    """What somebody wants to know. A tier with 0 slots is off."""

    jobs: int
    slots: Mapping[Tier, int]
    duration_s: float = 5.0
    width: int = 832
    height: int = 480
    fps: int = 16
    workflow: str = "auto"
    deadline_s: float | None = None
    budget_usd: Decimal | None = None
    batches_per_month: int = 1
    pods: int = 0
    """Rented GPUs that may be opened for it, beside the slots."""

    def problems(self) -> dict[str, tuple[float, float]]:
        """The fields that are out of range, with their range; empty when all is well."""
        ranges: dict[str, tuple[float, float, float]] = {
            "jobs": (self.jobs, 1, MAX_JOBS),
            "batches_per_month": (self.batches_per_month, 1, 10_000),
            "slots": (sum(self.slots.values()), 1, 3 * MOST_SLOTS),
            "pods": (self.pods, 0, MOST_PODS),
        }
        if self.deadline_s is not None:
            ranges["deadline_s"] = (self.deadline_s, 1, MAX_DEADLINE_S)
        if self.budget_usd is not None:
            ranges["budget_usd"] = (float(self.budget_usd), 0, MAX_BUDGET_USD)
        return {name: (low, high) for name, (value, low, high) in ranges.items() if not low <= value <= high}


@dataclass(frozen=True)
class PodAnswer:
    """The same question with rented GPUs opened for it, their starts included."""

    offer: PodOffer
    chosen: PodPlan | None
    """What the goal would take with them; None where it cannot be kept with them either."""
    frontier: tuple[PodPlan, ...]


@dataclass(frozen=True)
class Calculation:
    """The answer. `frontier` runs from the fastest plan to the cheapest and holds `chosen` and `kink`."""

    inquiry: Inquiry
    pool: tuple[Resource, ...]
    quotes: Mapping[Tier, Quote]
    chosen: Plan
    missed: Missed
    frontier: tuple[Plan, ...]
    kink: Plan
    all_gemini: Plan
    advice: tuple[str, ...]
    pods: PodAnswer | None
    elapsed_s: float = field(compare=False)

    @property
    def fastest(self) -> Plan:
        """The plan that takes the least time."""
        return self.frontier[0]

    @property
    def cheapest(self) -> Plan:
        """The plan that costs least."""
        return self.frontier[-1]

    @property
    def saved_usd(self) -> Decimal:
        """Money the plan saves against Google alone; negative where it costs more."""
        return self.all_gemini.cost_usd - self.chosen.cost_usd

    @property
    def saved_share(self) -> float | None:
        """The saving as a share of what Google alone costs."""
        return float(self.saved_usd / self.all_gemini.cost_usd) if self.all_gemini.cost_usd else None

    @property
    def longer_s(self) -> float:
        """How much longer the plan takes than Google alone."""
        return self.chosen.duration_s - self.all_gemini.duration_s

    @property
    def month_usd(self) -> Decimal:
        """What a month of such batches costs."""
        return self.chosen.cost_usd * self.inquiry.batches_per_month

    @property
    def month_all_gemini_usd(self) -> Decimal:
        """What a month of such batches costs on Google alone."""
        return self.all_gemini.cost_usd * self.inquiry.batches_per_month

    @property
    def month_busy_s(self) -> float:
        """Hours of a month in which such batches run, one after the other, in seconds."""
        return self.chosen.duration_s * self.inquiry.batches_per_month


def calculate(inquiry: Inquiry, settings: Settings, quoter: Quoter) -> Calculation:
    """The plan for a goal, everything around it, and how long that took.

    Raises:
        InputError: a field is out of range, or a workflow has no price or time.
    """
    started_s = time.perf_counter()
    wrong = inquiry.problems()
    if wrong:
        told = "; ".join(f"{name} must lie between {low:g} and {high:g}" for name, (low, high) in wrong.items())
        raise InputError(f"the calculator cannot answer this: {told}")
    job = VideoJob(
        id="planned",
        prompt="planned",
        duration_s=inquiry.duration_s,
        width=inquiry.width,
        height=inquiry.height,
        fps=inquiry.fps,
        workflow=inquiry.workflow,
    )
    quotes = {tier: tier_quote(quoter, settings, tier, job) for tier in Tier}
    pool = resources({tier: [quote] for tier, quote in quotes.items()}, inquiry.slots)
    points = thinned_frontier(pool, inquiry.jobs)
    kink = _kink(pool, inquiry.jobs, points)
    chosen, missed = _chosen(inquiry, pool, points, settings.routing.value_of_time_usd_per_h)
    google = quotes[Tier.GEMINI]
    at_once = inquiry.slots.get(Tier.GEMINI) or settings.gemini.max_concurrent
    all_gemini = planner.all_on(Resource(Tier.GEMINI.value, at_once, google.service_s, google.amount_usd), inquiry.jobs)
    return Calculation(
        inquiry=inquiry,
        pool=tuple(pool),
        quotes=quotes,
        chosen=chosen,
        missed=missed,
        frontier=_pareto([*points, kink, chosen]),
        kink=kink,
        all_gemini=all_gemini,
        advice=tuple(advise(pool, inquiry.jobs, chosen, points=points)),
        pods=_with_pods(inquiry, pool, settings, quoter.prices, quotes[Tier.CLOUD]) if inquiry.pods else None,
        elapsed_s=time.perf_counter() - started_s,
    )


def _with_pods(
    inquiry: Inquiry, pool: Sequence[Resource], settings: Settings, book: PriceBook, quote: Quote
) -> PodAnswer:
    offer = pod_offer(settings, book, [quote])
    if offer is None:
        raise InputError(
            f"pods: no GPU of HYBRID_VIDEO_PODS_GPUS has a known price up to ${settings.pods.max_price_usd_per_h} an "
            "hour; see `hybrid-video prices`, or ask without pods"
        )
    jobs, most = inquiry.jobs, inquiry.pods
    chosen: PodPlan | None
    if inquiry.deadline_s is not None:
        chosen = cheapest_with_pods(pool, offer, jobs, inquiry.deadline_s, most=most)
    elif inquiry.budget_usd is not None:
        chosen = within_budget_with_pods(pool, offer, jobs, inquiry.budget_usd, most=most)
    else:
        chosen = balanced_with_pods(pool, offer, jobs, settings.routing.value_of_time_usd_per_h, most=most)
    each = max(12, MOST_POINTS // (most + 1))
    points = frontier_with_pods(
        pool, offer, jobs, most=most, frontier=lambda mine, count: thinned_frontier(mine, count, most=each)
    )
    return PodAnswer(offer, chosen, points)


def thinned_frontier(pool: Sequence[Resource], jobs: int, most: int = MOST_POINTS) -> tuple[Plan, ...]:
    """The frontier from fastest to cheapest with at most so many points: each is a true one, some are left out.

    A batch of 10,000 has over 10,000 of them, more than any chart shows.
    """
    fastest = planner.shortest(pool, jobs)
    least_usd = min(resource.price_usd for resource in pool if resource.slots) * jobs
    cheapest = planner.within_budget(pool, jobs, least_usd)
    assert cheapest is not None  # noqa: S101 - the least cost is always affordable with itself
    span_s = cheapest.duration_s - fastest.duration_s
    step_s = span_s / (most - 1) if most > 1 else span_s
    between = (
        plan
        for n in range(1, most - 1)
        if step_s > 0 and (plan := planner.cheapest_by(pool, jobs, fastest.duration_s + n * step_s)) is not None
    )
    return _pareto([fastest, *between, cheapest])


def reference_model() -> str:
    """The Google model that every comparison is made with."""
    return GOOGLE_MODEL


def _pareto(points: Sequence[Plan]) -> tuple[Plan, ...]:
    """Those that nothing else beats in both time and money, from fastest to cheapest."""
    kept: list[Plan] = []
    for plan in sorted(points, key=lambda plan: (plan.duration_s, plan.cost_usd)):
        if not kept or plan.cost_usd < kept[-1].cost_usd:
            kept.append(plan)
    return tuple(kept)


def _kink(pool: Sequence[Resource], jobs: int, points: Sequence[Plan]) -> Plan:
    """The first plan that does without the dearest tier: before it a second saved is dear, after it cheap."""
    dearest = max(pool, key=lambda resource: (resource.price_usd, -resource.service_s))
    others = [resource for resource in pool if resource is not dearest]
    if not others:
        return points[-1]
    without = planner.shortest(others, jobs)
    plan = planner.cheapest_by(pool, jobs, without.duration_s)
    return plan if plan is not None and plan.split[dearest.key] == 0 else points[-1]


def _chosen(
    inquiry: Inquiry, pool: list[Resource], points: Sequence[Plan], value_of_time_usd_per_h: float
) -> tuple[Plan, Missed]:
    budget = inquiry.budget_usd
    if inquiry.deadline_s is not None:
        found = planner.cheapest_by(pool, inquiry.jobs, inquiry.deadline_s)
        if found is None:
            return points[0], "deadline"
        return found, "deadline_over_budget" if budget is not None and found.cost_usd > budget else ""
    if budget is not None:
        within = planner.within_budget(pool, inquiry.jobs, budget)
        return (within, "") if within is not None else (points[-1], "budget")
    return planner.balanced(pool, inquiry.jobs, value_of_time_usd_per_h), ""


@dataclass(frozen=True)
class BatchEstimate:
    """What a batch would come to on what is configured; `plan` is None where nothing configured may take it."""

    plan: Plan | None
    missed: Missed
    pool: tuple[Resource, ...]
    all_gemini: Plan


def estimate(batch: Batch, settings: Settings, quoter: Quoter) -> BatchEstimate:
    """Cost and duration of a batch from mean quotes of the tiers that are configured and permitted. Asks nobody.

    Args:
        settings: with stored preferences applied.

    Raises:
        ConfigurationError: a tier's price is not known.
    """
    wishes = EffectivePreferences.fold(batch.preferences, settings.routing.preferences)
    shapes = {(job.width, job.height, job.fps, job.duration_s, job.workflow): job for job in batch.jobs}
    counts = Counter((job.width, job.height, job.fps, job.duration_s, job.workflow) for job in batch.jobs)
    quotes: dict[Tier, list[Quote]] = {}
    for tier in Tier:
        made = {shape: tier_quote(quoter, settings, tier, _priced(job)) for shape, job in shapes.items()}
        quotes[tier] = [made[shape] for shape, count in counts.items() for _ in range(count)]
    google = resources({Tier.GEMINI: quotes[Tier.GEMINI]}, {Tier.GEMINI: settings.gemini.max_concurrent})[0]
    usable = [tier for tier in configured_tiers(settings) if wishes.permits(tier)]
    if wishes.backend != "auto" and Tier(wishes.backend) in usable:
        usable = [Tier(wishes.backend)]
    limit = wishes.max_cost_usd
    allowed = {
        tier: mine
        for tier in usable
        if (mine := [quote for quote in quotes[tier] if limit is None or quote.amount_usd <= limit])
    }
    pool = resources(allowed, default_slots(settings))
    all_gemini = planner.all_on(google, len(batch.jobs))
    if not pool:
        return BatchEstimate(None, "", (), all_gemini)
    inquiry = Inquiry(
        jobs=len(batch.jobs),
        slots=default_slots(settings),
        deadline_s=batch.deadline_s,
        budget_usd=batch.budget_usd,
    )
    points = thinned_frontier(pool, len(batch.jobs))
    plan, missed = _chosen(inquiry, pool, points, settings.routing.value_of_time_usd_per_h)
    return BatchEstimate(plan, missed, tuple(pool), all_gemini)


def configured_tiers(settings: Settings) -> list[Tier]:
    """The tiers that have at least one configured backend."""
    keys = [key for key, entry in BACKENDS.items() if entry.is_configured(settings)]
    return [tier for tier in Tier if any(BACKENDS[key].tier is tier for key in keys)]


def _priced(job: VideoJob) -> VideoJob:
    """A user's own workflow has no published time; the usual one stands in for it."""
    return job if job.workflow in (AUTO_WORKFLOW, *template_names()) else job.model_copy(update={"workflow": "auto"})
