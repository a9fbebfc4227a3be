"""`/api/cloud/…`: rented GPUs: what is open, what it costs, opening and ending pods, and their limits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import date
from typing import Annotated

from fastapi import APIRouter, Query

from hybrid_video import preferences, views
from hybrid_video.api.access import Admin, Read
from hybrid_video.api.bodies import CloudCost, CloudStatus, PodConfig, PodsEnded, SpawnRequest
from hybrid_video.api.context import Context, Shared
from hybrid_video.api.problems import RESPONSES
from hybrid_video.models import Tier
from hybrid_video.pods.pool import PodPool
from hybrid_video.preferences import Pods
from hybrid_video.views import Page, PodLine, PodView
from hybrid_video.views.figures import NOTHING
from hybrid_video.views.spend import POD_OVERHEAD

router = APIRouter(prefix="/api/cloud", tags=["cloud"], responses=RESPONSES)


@router.get("/status", dependencies=[Read])
def status(shared: Shared) -> CloudStatus:
    """Serverless and pods: configured, healthy, open, money today and this month, and the limits in force."""
    settings = shared.applied()
    seen = views.overview(shared.ledger, settings)
    found = {view.backend: view for view in views.backends(shared.ledger, settings, checked=shared.live.checked)}
    money = next(line for line in seen.spend.by_tier if line.tier is Tier.CLOUD)
    serverless, pods = found["runpod-serverless"], found["runpod-pod"]
    return CloudStatus(
        configured=serverless.configured or pods.configured,
        serverless=serverless,
        pod_backend=pods,
        pods=seen.pods,
        prefer_serverless=settings.routing.prefer_serverless,
        today_usd=money.today_usd,
        month_usd=money.month_usd,
        reserved_usd=money.reserved_usd,
        month_cap_usd=money.month_cap_usd,
        config=_config(shared),
    )


@router.get("/pods", dependencies=[Read])
def pods(
    shared: Shared,
    include_closed: Annotated[bool, Query(description="Also those that have ended.")] = False,
    cursor: str | None = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> Page[PodLine]:
    """Rented pods, the newest first."""
    return views.pods(shared.ledger, include_closed=include_closed, cursor=cursor, limit=limit)


@router.get("/pods/{id}", dependencies=[Read])
def pod(shared: Shared, id: str) -> PodView:  # noqa: A002 - the path's own word
    """One pod, by our name or the provider's id, with everything that happened to it."""
    return views.pod(shared.ledger, id)


@router.get("/cost", dependencies=[Read])
def cost(
    shared: Shared,
    since: Annotated[date | None, Query(description="First day (UTC).")] = None,
    until: Annotated[date | None, Query(description="Last day, itself included.")] = None,
) -> CloudCost:
    """What rented GPUs cost by day and backend, exact to the ledger; pods' starting and idling apart."""
    settings = shared.applied()
    found = views.spend(shared.ledger, "day", "backend", "workflow", since=since, until=until)
    lines = tuple(line for line in found.lines if line.key["backend"].startswith("runpod-"))
    amounts = {
        key: sum((line.cost_usd for line in lines if line.key["backend"] == key), NOTHING)
        for key in ("runpod-serverless", "runpod-pod")
    }
    overhead = sum((line.cost_usd for line in lines if line.key["workflow"] == POD_OVERHEAD), NOTHING)
    total = sum((line.cost_usd for line in lines), NOTHING)
    held = sum((line.reserved_usd for line in lines), NOTHING)
    return CloudCost(
        spend=found.model_copy(update={"lines": lines, "cost_usd": total, "reserved_usd": held}),
        serverless_usd=amounts["runpod-serverless"],
        pods_usd=amounts["runpod-pod"],
        pods_overhead_usd=overhead,
        usd_per_h=views.overview(shared.ledger, settings).pods.usd_per_h,
    )


@router.post("/spawn", dependencies=[Admin], status_code=201)
async def spawn(shared: Shared, body: SpawnRequest | None = None) -> PodLine:
    """Opens one pod at the cheapest place that has one. Its start and one lease are reserved first; limits hold."""
    wanted = body or SpawnRequest()
    async with _pool(shared) as pool:
        opened = await pool.open(wanted.reason, batch=wanted.batch or "")
    return await asyncio.to_thread(_line, shared, opened.name)


@router.post("/terminate/{id}", dependencies=[Admin])
async def terminate(shared: Shared, id: str) -> PodLine:  # noqa: A002 - the path's own word
    """Ends one pod now. Its jobs go elsewhere; what it cost is settled."""
    known = await asyncio.to_thread(_line, shared, id)
    async with _pool(shared) as pool:
        await pool.close(known.name, "ended over the API")
    return await asyncio.to_thread(_line, shared, known.name)


@router.post("/shutdown-all", dependencies=[Admin])
async def shutdown_all(shared: Shared) -> PodsEnded:
    """Ends every pod of this installation now, those the ledger does not know included."""
    if shared.settings.runpod.api_key is None:
        return PodsEnded(pods=(), message="no pod can be open: RUNPOD_API_KEY is not set")
    async with _pool(shared) as pool:
        stopped = await pool.stop_all()
    names = tuple(pod.name for pod in stopped.ended)
    text = f"{len(names)} pods were told to end" if names else "no pod was open"
    if stopped.failed:
        text += f"; {len(stopped.failed)} did not confirm it, call again"
    return PodsEnded(pods=names, failed=stopped.failed, message=text)


@router.put("/config", dependencies=[Admin])
def config(shared: Shared, body: PodConfig) -> PodConfig:
    """Changes how pods are opened and closed, from the watcher's next look on; null resets a field."""
    preferences.change(shared.ledger, shared.settings, body.model_dump(exclude_unset=True))
    shared.changed()
    return _config(shared)


def _line(shared: Context, name: str) -> PodLine:
    return views.pod(shared.ledger, name).pod


def _config(shared: Context) -> PodConfig:
    values = preferences.environment_values(shared.applied())
    return PodConfig.model_validate({name: values[name] for name in Pods.model_fields})


@asynccontextmanager
async def _pool(shared: Context) -> AsyncIterator[PodPool]:
    pool = PodPool(await asyncio.to_thread(shared.applied), shared.ledger)
    try:
        yield pool
    finally:
        await pool.aclose()
        shared.changed()
