"""An estimate over the API: the calculator's question and answer in JSON."""

from __future__ import annotations

import asyncio

from hybrid_video import calculating
from hybrid_video.api.bodies import Estimate, EstimateRequest, PlanPoint, PodEstimate, PodPlanPoint, TierPrice
from hybrid_video.api.live import LiveBackends
from hybrid_video.calculating import Calculation, Inquiry, PodAnswer
from hybrid_video.estimates import default_slots
from hybrid_video.planner import Plan
from hybrid_video.pod_plans import PodPlan
from hybrid_video.pricing.quoting import Quoter
from hybrid_video.pricing.refresh import load_prices
from hybrid_video.pricing.timings import ServiceTimes
from hybrid_video.settings import Settings


async def estimate(request: EstimateRequest, settings: Settings, live: LiveBackends) -> Estimate:
    """Computes off the event loop: a frontier of 10,000 clips takes tens of milliseconds.

    Raises:
        InputError: the question is out of range, or a workflow has no price or time.
    """
    quoter = await live.quoter()
    if request.prices is not None and request.prices != quoter.prices.profile:
        book = await asyncio.to_thread(load_prices, request.prices, settings)
        quoter = Quoter(book, ServiceTimes() if request.prices == "seed" else quoter.timings, quoter.time_scale)
    inquiry = Inquiry(
        jobs=request.jobs,
        slots=request.slots or default_slots(settings),
        duration_s=request.duration_s,
        width=request.width,
        height=request.height,
        fps=request.fps,
        workflow=request.workflow,
        deadline_s=request.deadline_s,
        budget_usd=request.budget_usd,
        batches_per_month=request.batches_per_month,
        pods=request.pods,
    )
    return _answer(await asyncio.to_thread(calculating.calculate, inquiry, settings, quoter))


def _answer(found: Calculation) -> Estimate:
    share = found.saved_share
    return Estimate(
        jobs=found.inquiry.jobs,
        split=found.chosen.split,
        cost_usd=found.chosen.cost_usd,
        duration_s=found.chosen.duration_s,
        feasible=not found.missed,
        missed=found.missed,
        per_clip=tuple(
            TierPrice(
                tier=tier,
                price_usd=quote.amount_usd,
                service_s=quote.service_s,
                slots=found.inquiry.slots.get(tier, 0),
                basis=quote.basis,
            )
            for tier, quote in found.quotes.items()
        ),
        all_gemini_usd=found.all_gemini.cost_usd,
        all_gemini_duration_s=found.all_gemini.duration_s,
        saved_usd=found.saved_usd,
        savings_percent=None if share is None else round(100 * share, 1),
        kink=_point(found.kink),
        frontier=tuple(_point(plan) for plan in found.frontier),
        month_usd=found.month_usd,
        month_all_gemini_usd=found.month_all_gemini_usd,
        advice=found.advice,
        pods=None if found.pods is None else _pods(found.pods),
    )


def _pods(found: PodAnswer) -> PodEstimate:
    return PodEstimate(
        price_usd_per_h=found.offer.price_usd_per_h,
        cold_start_s=found.offer.cold_start_s,
        service_s=found.offer.service_s,
        billing=found.offer.billing,
        plan=None if found.chosen is None else _pod_point(found.chosen),
        frontier=tuple(_pod_point(plan) for plan in found.frontier),
    )


def _pod_point(plan: PodPlan) -> PodPlanPoint:
    return PodPlanPoint(
        split=plan.split,
        cost_usd=plan.cost_usd,
        duration_s=plan.duration_s,
        pods=plan.pods,
        opening_usd=plan.opening_usd,
    )


def _point(plan: Plan) -> PlanPoint:
    return PlanPoint(split=plan.split, cost_usd=plan.cost_usd, duration_s=plan.duration_s)
