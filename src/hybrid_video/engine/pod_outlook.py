"""What a run is expected to come to with rented GPUs that are not open yet.

Where they pay, this is what to expect, and it is stored as the run's plan: the watcher opens pods by the same worth
while the batch runs. Told beside it is what the run would come to without them. The dispatcher does not look at it: it
counts on a pod once it is being started.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from hybrid_video import planner, pod_plans
from hybrid_video.engine.forecast import plan_for, pool_of, resources_of, wanted_of
from hybrid_video.engine.report import money
from hybrid_video.engine.roster import KEY
from hybrid_video.engine.selection import Shot
from hybrid_video.estimates import cheapest_pod_usd_per_h
from hybrid_video.ledger.forecasts import Forecast
from hybrid_video.models import NANO_USD, Lane
from hybrid_video.pod_plans import PodPlan
from hybrid_video.pricing.catalog import PriceBook
from hybrid_video.pricing.refresh import load_prices
from hybrid_video.scaling.state import PodOffer
from hybrid_video.settings import Settings

PLACES = Decimal("0.0001")
WORTH_SHARE = 0.05
"""Pods are mentioned where they save so much of the money, or of the time where money is fixed."""


def pod_outlook(
    shots: Sequence[Shot],
    lanes: Sequence[Lane],
    settings: Settings,
    *,
    room: int,
    deadline_s: float | None,
    budget_usd: Decimal | None,
) -> PodPlan | None:
    """What up to `room` more pods would make of the plan; None where none is worth opening.

    Only for the policy that opens pods by their worth: another one opens them by the length of the queue.
    """
    if not room or settings.pods.policy != "break-even":
        return None
    offer = offer_of(shots, load_prices(settings.routing.prices, settings), settings)
    if offer is None:
        return None
    return with_pods(
        shots,
        lanes,
        offer,
        room,
        deadline_s=deadline_s,
        budget_usd=budget_usd,
        value_of_time_usd_per_h=settings.routing.value_of_time_usd_per_h,
    )


def told(pods: PodPlan) -> str:
    """The outlook as part of a sentence."""
    number = "a rented GPU" if pods.pods == 1 else f"{pods.pods} rented GPUs"
    return f"${money(pods.cost_usd.quantize(PLACES))} in {pods.duration_s:.1f} s with {number} opened for it"


def counting_on(pods: PodPlan, found: Forecast) -> Forecast:
    """The forecast with what the pods make of it."""
    split = {key: pods.split.get(key, 0) for key in found.split}
    split[KEY] = split.get(KEY, 0) + pods.split.get(pod_plans.PODS, 0)
    cost = pods.cost_usd.quantize(NANO_USD)
    return found.model_copy(update={"planned_usd": cost, "planned_s": pods.duration_s, "split": split})


def offer_of(shots: Sequence[Shot], book: PriceBook, settings: Settings) -> PodOffer | None:
    """The pod that would be opened, with the mean time that the jobs' quotes say, in this run's seconds.

    None without a price or where a job may not use pods: the others alone would be another batch.
    """
    usd_per_h = cheapest_pod_usd_per_h(book, settings)
    quotes = [shot.open_offers.get(KEY) for shot in shots]
    if usd_per_h is None or not quotes or None in quotes:
        return None
    scale = settings.routing.time_scale
    service_s = sum(quote.service_s - quote.cold_start_s for quote in quotes if quote is not None) / len(quotes)
    return PodOffer(
        usd_per_h * Decimal(str(scale)), service_s, settings.pods.cold_start_s / scale, settings.pods.billing
    )


def with_pods(
    shots: Sequence[Shot],
    lanes: Sequence[Lane],
    offer: PodOffer,
    room: int,
    *,
    deadline_s: float | None,
    budget_usd: Decimal | None,
    value_of_time_usd_per_h: float,
) -> PodPlan | None:
    """The plan for the run's goal with up to `room` more pods; None where none would be worth opening.

    Only for jobs that may all use the same backends; for others the arithmetic of identical jobs says nothing.
    """
    present = {lane.backend for lane in lanes} | {KEY}
    wanted = wanted_of(shots, present)
    if room < 1 or len({frozenset(shot.open_offers) for shot in wanted}) != 1 or KEY not in wanted[0].open_offers:
        return None
    jobs, resources = len(shots), resources_of(pool_of(wanted, lanes))
    found = _planned(resources, offer, room, jobs, deadline_s, budget_usd, value_of_time_usd_per_h)
    if found is None or not found.pods:
        return None
    without = plan_for(
        resources,
        jobs,
        deadline_s=deadline_s,
        budget_usd=budget_usd,
        value_of_time_usd_per_h=value_of_time_usd_per_h,
    )
    if without is None or (deadline_s is not None and without.duration_s > deadline_s >= found.duration_s):
        return found
    saved_usd, saved_s = without.cost_usd - found.cost_usd, without.duration_s - found.duration_s
    cheaper = saved_usd >= without.cost_usd * Decimal(str(WORTH_SHARE)) and saved_usd > 0
    sooner = deadline_s is None and saved_s >= without.duration_s * WORTH_SHARE
    return found if cheaper or sooner else None


def _planned(
    resources: Sequence[planner.Resource],
    offer: PodOffer,
    room: int,
    jobs: int,
    deadline_s: float | None,
    budget_usd: Decimal | None,
    value_of_time_usd_per_h: float,
) -> PodPlan | None:
    if deadline_s is not None:
        found = pod_plans.cheapest_with_pods(resources, offer, jobs, deadline_s, most=room)
        if found is not None and (budget_usd is None or found.cost_usd <= budget_usd):
            return found
    if budget_usd is not None:
        return pod_plans.within_budget_with_pods(resources, offer, jobs, budget_usd, most=room)
    if deadline_s is not None:
        return None
    return pod_plans.balanced_with_pods(resources, offer, jobs, value_of_time_usd_per_h, most=room)
