"""`/api/loadbalancer/…`: the state of everything, decisions without spending, estimates, preferences, backends."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query, Response

from hybrid_video import preferences, views
from hybrid_video.api import advising
from hybrid_video.api.access import Admin, Read
from hybrid_video.api.bodies import (
    Estimate,
    EstimateRequest,
    PreferenceChanges,
    PreferencesAnswer,
    PreferenceValues,
    Recommendations,
    SelectAnswer,
    SelectRequest,
    Status,
)
from hybrid_video.api.context import Context, Shared
from hybrid_video.api.estimating import estimate
from hybrid_video.api.problems import RESPONSES
from hybrid_video.errors import InputError
from hybrid_video.models import MAX_JOBS
from hybrid_video.preferences import Stored
from hybrid_video.views import BackendView
from hybrid_video.views.jobs import decision_line

router = APIRouter(prefix="/api/loadbalancer", tags=["loadbalancer"], responses=RESPONSES)


@router.get("/status", dependencies=[Read], response_model=Status)
async def status(shared: Shared) -> Response:
    """Active and waiting jobs, today's figures, money, pods, and each backend with its health; at most a second old."""
    return Response(await shared.status.get(), media_type="application/json")


@router.get("/backends", dependencies=[Read])
def backends(shared: Shared) -> tuple[BackendView, ...]:
    """Each backend: configured or not, last check with its age, load, breakers, prices with their age."""
    return views.backends(shared.ledger, shared.applied(), checked=shared.live.checked)


@router.post("/select", dependencies=[Read])
async def select(shared: Shared, body: SelectRequest) -> SelectAnswer:
    """The decision that a run would make for this job now, with every candidate. Nothing is reserved or sent."""
    if body.job.workflow.lower().endswith(".json"):
        raise InputError(
            f"job.workflow: {body.job.workflow!r} is a file, and a selection carries none; give the name of a "
            "template, or validate a whole batch with POST /api/batches?validate_only=true"
        )
    settings = await shared.settings_now.get()
    decision = await shared.live.select(body.job, settings, body.preferences, body.attempt)
    line = decision_line(decision)
    chosen = next((candidate for candidate in line.candidates if candidate.chosen), None)
    return SelectAnswer(
        backend=decision.chosen,
        tier=decision.tier,
        reason=decision.reason,
        estimated_cost_usd=chosen.price_usd if chosen else None,
        estimated_time_s=chosen.service_s if chosen else None,
        estimated_wait_s=chosen.wait_s if chosen else None,
        decision=line,
    )


@router.get("/recommendations", dependencies=[Read])
async def recommendations(
    shared: Shared,
    jobs: Annotated[int | None, Query(ge=1, le=MAX_JOBS, description="Also plan so many default clips.")] = None,
) -> Recommendations:
    """What is worth doing now: set-up, health, budgets, prices, waiting; and a plan for a number of clips."""
    settings = await asyncio.to_thread(shared.applied)
    items = await asyncio.to_thread(advising.recommend, shared.ledger, settings, shared.live.checked)
    plan = await estimate(EstimateRequest(jobs=jobs), settings, shared.live) if jobs else None
    return Recommendations(items=items, plan=plan)


@router.post("/estimate-cost", dependencies=[Read])
async def estimate_cost(shared: Shared, body: EstimateRequest) -> Estimate:
    """Money and time for a number of clips and a goal, beside 100 % Google and everything between. Asks no backend."""
    return await estimate(body, await asyncio.to_thread(shared.applied), shared.live)


@router.get("/preferences", dependencies=[Read])
def get_preferences(shared: Shared) -> PreferencesAnswer:
    """System-wide preferences and limits: in force, the environment's, and when each was changed."""
    return _answer(shared, preferences.load(shared.ledger))


@router.post("/preferences", dependencies=[Admin])
def post_preferences(shared: Shared, body: PreferenceChanges) -> PreferencesAnswer:
    """Changes some preferences for every batch that starts from now on; null resets one to the environment's."""
    changes = body.model_dump(exclude_unset=True)
    stored = preferences.change(shared.ledger, shared.settings, changes)
    shared.changed()
    return _answer(shared, stored)


@router.delete("/preferences", dependencies=[Admin])
def delete_preferences(shared: Shared) -> PreferencesAnswer:
    """Resets every preference to the environment's."""
    stored = preferences.reset(shared.ledger)
    shared.changed()
    return _answer(shared, stored)


def _answer(shared: Context, stored: Stored) -> PreferencesAnswer:
    own = preferences.environment_values(shared.settings)
    now = preferences.environment_values(shared.applied())
    return PreferencesAnswer(
        effective=PreferenceValues.model_validate(now),
        environment=PreferenceValues.model_validate(own),
        changed=stored.changed,
    )
