"""What stands at the moment: jobs, batches, pods, the watcher, predictions, and what nobody has looked after."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from hybrid_video.demand import BatchDemand
from hybrid_video.ledger import schema as t
from hybrid_video.ledger.states import OPEN
from hybrid_video.models import AttemptState

PLANS = 50
"""Newest finished plans that the prediction error is taken from."""

DEMAND_BELIEVED_S = 60.0
PODS_OVER = ("closed", "failed")


@dataclass(frozen=True)
class PodCounts:
    """Pods by state, and what is wrong with them."""

    by_state: dict[str, int]
    past_lease: int
    """Open pods whose lease, as far as we know, has run out: they should be gone."""
    unreconciled: int
    """Closed pods that RunPod's bill has not been compared with."""
    oldest_unreconciled_s: float
    """How long ago the first of them ended; 0 without any."""


@dataclass(frozen=True)
class Uncertain:
    """Attempts of which nobody can say whether they cost money."""

    attempts: int
    oldest_s: float


@dataclass(frozen=True)
class WatcherState:
    """Whether somebody watches."""

    up: bool
    looks: bool
    """At the backends' health as well: a watcher that lives in a run only tends pods."""


def jobs_by_state(connection: Connection) -> dict[str, int]:
    """All jobs of the ledger."""
    query = sa.select(t.jobs.c.state, sa.func.count()).group_by(t.jobs.c.state)
    return {str(state): int(count) for state, count in connection.execute(query)}


def batches_by_state(connection: Connection) -> dict[str, int]:
    """Batches that have ended and those that have not."""
    ended = sa.case((t.batches.c.finished_at.is_(None), "unfinished"), else_="finished")
    query = sa.select(ended, sa.func.count()).group_by(ended)
    return {str(state): int(count) for state, count in connection.execute(query)}


def under_way(connection: Connection) -> dict[tuple[str, str], int]:
    """Open attempts by backend and state."""
    a = t.attempts.c
    query = sa.select(a.backend, a.state, sa.func.count()).where(a.state.in_([state.value for state in OPEN]))
    rows = connection.execute(query.group_by(a.backend, a.state))
    return {(str(backend), str(state)): int(count) for backend, state, count in rows}


def uncertain(connection: Connection, now: datetime) -> Uncertain:
    """How many, and for how long the oldest has been."""
    a = t.attempts.c
    query = sa.select(sa.func.count(), sa.func.min(a.created_at)).where(a.state == AttemptState.UNCERTAIN.value)
    count, oldest = connection.execute(query).one()
    return Uncertain(int(count), max(0.0, (now - oldest).total_seconds()) if oldest else 0.0)


def abandoned(connection: Connection, now: datetime) -> int:
    """Jobs that count as worked on by a run whose lease ran out long ago: `hybrid-video reconcile` takes them up."""
    j = t.jobs.c
    query = sa.select(sa.func.count()).where(j.state == "active", j.lease_until.is_not(None), j.lease_until < now)
    return int(connection.execute(query).scalar_one())


def waiting_jobs(connection: Connection, now: datetime) -> int:
    """Jobs that live runs say they have not placed yet."""
    rows = connection.execute(sa.select(t.demand.c.document, t.demand.c.updated_at))
    believed = [row.document for row in rows if (now - row.updated_at).total_seconds() <= DEMAND_BELIEVED_S]
    return sum(BatchDemand.model_validate_json(document).waiting_jobs for document in believed)


def pod_counts(connection: Connection, now: datetime, first_lease: timedelta) -> PodCounts:
    """From the pods' own table.

    Args:
        first_lease: a pod that nobody has seen ready has no lease yet; so long after its intent it should be gone.
    """
    p = t.pods.c
    states = connection.execute(sa.select(p.state, sa.func.count()).group_by(p.state))
    late_pod = sa.or_(p.lease_until < now, sa.and_(p.lease_until.is_(None), p.intended_at < now - first_lease))
    late = sa.select(sa.func.count()).where(p.state.not_in(PODS_OVER), late_pod)
    unbilled = sa.select(sa.func.count(), sa.func.min(p.closed_at))
    unreconciled, since = connection.execute(unbilled.where(p.state == "closed", p.reconciled_at.is_(None))).one()
    return PodCounts(
        {str(state): int(count) for state, count in states},
        int(connection.execute(late).scalar_one()),
        int(unreconciled),
        max(0.0, (now - since).total_seconds()) if since else 0.0,
    )


def prediction_errors(connection: Connection) -> dict[str, float]:
    """Mean of |actual - planned| / planned over the newest finished plans, for `cost` and `duration`."""
    p = t.plans.c
    query = sa.select(p.planned_usd, p.actual_usd, p.planned_s, p.actual_s).where(p.actual_s.is_not(None))
    rows = connection.execute(query.order_by(p.id.desc()).limit(PLANS)).all()
    cost = [float(abs(r.actual_usd - r.planned_usd) / r.planned_usd) for r in rows if r.planned_usd and r.actual_usd]
    took = [abs(r.actual_s - r.planned_s) / r.planned_s for r in rows if r.planned_s]
    found = {"cost": cost, "duration": took}
    return {what: sum(errors) / len(errors) for what, errors in found.items() if errors}


def watcher(connection: Connection, now: datetime) -> WatcherState:
    """From its lease, and from what it says of itself there."""
    rows = connection.execute(sa.select(t.watchers.c.lease_until, t.watchers.c.document)).all()
    held = [json.loads(row.document) for row in rows if row.lease_until > now]
    return WatcherState(up=bool(held), looks=any(document.get("where") != "run" for document in held))
