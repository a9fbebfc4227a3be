"""What the autoscaler is shown: demands of live runs, lanes and pods as they stand, in the vendor's seconds.

Beside emulators that run faster than real time, runs publish real seconds; prices are per hour of the emulated clock.
Everything is brought to that clock here, so that the policy decides as it would at normal speed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from statistics import median

import sqlalchemy as sa

from hybrid_video.autoscaler import Arrivals, LaneView, PodOffer, PodView, ScaleState
from hybrid_video.demand import BatchDemand
from hybrid_video.ledger import Ledger
from hybrid_video.ledger import schema as t
from hybrid_video.ledger.lanes import Held, held
from hybrid_video.pods.records import PodRecord
from hybrid_video.settings import Settings

MEASURED = 8
"""Cold starts of so many last pods say how long the next one takes."""

GUESSED_SERVICE_S = 60.0
"""What a clip takes on a pod where no batch says; only its order of magnitude matters."""

STARTING = frozenset({"intended", "creating", "starting"})


def held_on_pods(ledger: Ledger, pods: Sequence[PodRecord]) -> dict[str, list[Held]]:
    """What is on each pod now, by its name."""
    lanes = {pod.lane: pod.name for pod in pods if pod.lane}
    found: dict[str, list[Held]] = {pod.name: [] for pod in pods}
    if lanes:
        with ledger.reading() as connection:
            for one in held(connection, lanes=list(lanes)):
                found[lanes[one.lane]].append(one)
    return found


def last_ends(ledger: Ledger, pods: Sequence[PodRecord]) -> dict[str, datetime]:
    """When the last job on each pod ended, by its name; pods that never had one are left out."""
    lanes = {pod.lane: pod.name for pod in pods if pod.lane}
    if not lanes:
        return {}
    query = (
        sa.select(t.attempts.c.lane, sa.func.max(t.attempts.c.finished_at).label("ended"))
        .where(t.attempts.c.lane.in_(list(lanes)), t.attempts.c.finished_at.is_not(None))
        .group_by(t.attempts.c.lane)
    )
    with ledger.reading() as connection:
        rows = connection.execute(query).all()
    return {lanes[row.lane]: _moment(row.ended) for row in rows if row.ended is not None}


def cold_start_s(pods: Sequence[PodRecord], settings: Settings) -> float:
    """Seconds from asking for a pod to its first job: as the last ones took, else as configured."""
    times = [
        (pod.ready_at - pod.billed_from).total_seconds() * settings.routing.time_scale
        for pod in pods
        if pod.ready_at is not None
    ]
    return median(times[-MEASURED:]) if times else settings.pods.cold_start_s


def scaled(demand: BatchDemand, now: datetime, scale: float) -> BatchDemand:
    """A demand as it stands now, on the vendor's clock."""
    aged = demand.aged(now)
    if scale == 1.0:
        return aged
    lanes = tuple(
        lane.model_copy(update={"service_s": lane.service_s * scale, "free_in_s": lane.free_in_s * scale})
        for lane in aged.lanes
    )
    return aged.model_copy(
        update={
            "lanes": lanes,
            "guard_s": aged.guard_s * scale,
            "deadline_s": None if aged.deadline_s is None else aged.deadline_s * scale,
            "pod_service_s": None if aged.pod_service_s is None else aged.pod_service_s * scale,
            "value_of_time_usd_per_h": aged.value_of_time_usd_per_h / scale,
        }
    )


def pod_views(
    pods: Sequence[PodRecord],
    jobs: dict[str, list[Held]],
    ended: dict[str, datetime],
    *,
    now: datetime,
    scale: float,
    cold_s: float,
    service_s: float,
) -> tuple[PodView, ...]:
    """Every pod that costs money, as the policy sees it."""
    return tuple(_view(pod, jobs.get(pod.name, []), ended.get(pod.name), now, scale, cold_s, service_s) for pod in pods)


def state_of(
    *,
    demands: Sequence[BatchDemand],
    lanes: tuple[LaneView, ...],
    pods: tuple[PodView, ...],
    offer: PodOffer | None,
    arrivals: Arrivals,
    settings: Settings,
    tick_s: float,
) -> ScaleState:
    """Everything together; demands are on the vendor's clock already."""
    return ScaleState(
        demands=tuple(demands),
        lanes=lanes,
        pods=pods,
        offer=offer,
        arrivals=arrivals,
        max_pods=settings.pods.max_pods,
        value_of_waiting_usd_per_job_h=settings.pods.value_of_waiting_usd_per_job_h,
        threshold_queue=settings.pods.threshold_queue,
        threshold_idle_s=settings.pods.threshold_idle_s,
        tick_s=tick_s,
    )


def pod_service_s(demands: Sequence[BatchDemand]) -> float:
    """Mean seconds of a waiting job on a pod, over all batches."""
    known = [(demand.pod_service_s, max(1, demand.podable_jobs)) for demand in demands if demand.pod_service_s]
    if known:
        return sum(seconds * jobs for seconds, jobs in known) / sum(jobs for _, jobs in known)
    lanes = [lane.service_s for demand in demands for lane in demand.lanes if lane.service_s > 0]
    return sum(lanes) / len(lanes) if lanes else GUESSED_SERVICE_S


def counted(pods: Sequence[PodRecord]) -> dict[str, int]:
    """Pods by state."""
    return dict(Counter(pod.state for pod in pods))


def _view(
    pod: PodRecord,
    jobs: list[Held],
    ended: datetime | None,
    now: datetime,
    scale: float,
    cold_s: float,
    service_s: float,
) -> PodView:
    age_s = max(0.0, (now - pod.billed_from).total_seconds()) * scale
    starting = pod.state in STARTING
    idle_from = max((moment for moment in (pod.ready_at, ended, pod.busy_at) if moment is not None), default=now)
    return PodView(
        name=pod.name,
        state="starting" if starting else "ready" if pod.state == "ready" else "draining",
        ready_in_s=max(cold_s - age_s, cold_s / 5) if starting else 0.0,
        jobs=len(jobs),
        idle_s=0.0 if jobs or starting else max(0.0, (now - idle_from).total_seconds()) * scale,
        age_s=age_s,
        price_usd_per_h=pod.usd_per_h,
        service_s=service_s,
        free_in_s=sum(one.left_s(now) for one in jobs) * scale,
    )


def _moment(value: object) -> datetime:
    """SQLite's `max` gives the stored text back."""
    return value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
