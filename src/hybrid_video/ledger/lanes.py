"""How full the places are that several runs share: one machine holds one running prompt and a bounded number behind it.

Runs are separate processes. What each of them has put on a lane is in the ledger before it is sent, so the ledger alone
can keep two of them from filling one machine twice; a vendor's queue that has no bound of ours (serverless, Google) is
not counted. A pod that is being closed takes nothing new: that is checked in the transaction that reserves.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from hybrid_video.errors import LedgerError
from hybrid_video.ledger import schema as t
from hybrid_video.models import AttemptState, Quote, utc_now

ON_LANE = tuple(state.value for state in (AttemptState.INTENT, AttemptState.SUBMITTED, AttemptState.RUNNING))
"""States in which a prompt is in a machine's queue, or on its way there."""

POD_PREFIX = "runpod-pod/"
STALE = 3.0
"""A prompt nobody drives any more counts for so many times its expected duration, then as gone."""

_HELD = (
    sa.select(
        t.attempts.c.attempt_id,
        t.attempts.c.batch,
        t.attempts.c.job,
        t.attempts.c.lane,
        t.attempts.c.quote,
        t.attempts.c.created_at,
        t.attempts.c.state,
        t.jobs.c.owner,
        t.jobs.c.lease_until,
    )
    .join(t.jobs, sa.and_(t.jobs.c.batch == t.attempts.c.batch, t.jobs.c.job == t.attempts.c.job))
    .where(t.attempts.c.state.in_(ON_LANE))
)


class LaneBusyError(LedgerError):
    """The lane holds as many prompts as it may, or takes none any more; the job waits and nothing is lost."""


@dataclass(frozen=True)
class Held:
    """One prompt on a lane."""

    attempt_id: str
    batch: str
    job: str
    lane: str
    owner: str | None
    since: datetime
    service_s: float
    running: bool

    def left_s(self, now: datetime | None = None) -> float:
        """Expected seconds until it is done: all of it while it waits, a quarter of the rest once it is overdue."""
        passed = ((now or utc_now()) - self.since).total_seconds() if self.running else 0.0
        left = self.service_s - max(0.0, passed)
        return left if left > 0 else self.service_s / 4


def held(connection: Connection, *, lanes: Collection[str] | None = None) -> list[Held]:
    """Prompts on lanes that somebody drives, or has driven until a moment ago; the oldest first."""
    query = _HELD.order_by(t.attempts.c.created_at)
    if lanes is not None:
        query = query.where(t.attempts.c.lane.in_(list(lanes)))
    return [found for row in connection.execute(query) if (found := _held(row)) is not None]


def check_room(connection: Connection, lane: str, beside: int, owner: str) -> None:
    """Refuses one more prompt on a lane that others fill, or on a pod that is being closed. In the caller's
    transaction.

    Args:
        beside: how many prompts of others the lane may hold beside the new one.
        owner: who asks; what it has on the lane itself it knows better than the ledger.

    Raises:
        LaneBusyError: it may not take one now.
    """
    if lane.startswith(POD_PREFIX):
        pod_id = lane.removeprefix(POD_PREFIX)
        states = connection.execute(sa.select(t.pods.c.state).where(t.pods.c.pod_id == pod_id)).scalars().all()
        if states and "ready" not in states:
            raise LaneBusyError(f"pod {pod_id!r} is {states[-1]} and takes no further job")
    others = [one for one in held(connection, lanes=[lane]) if one.owner != owner]
    if len(others) > max(0, beside):
        names = ", ".join(sorted({f"{one.batch}/{one.job}" for one in others}))
        raise LaneBusyError(f"lane {lane!r} holds {len(others)} jobs of other runs ({names}) and takes no more now")


def _held(row: Any) -> Held | None:
    quote = Quote.model_validate_json(row.quote)
    driven = row.owner is not None and row.lease_until is not None and row.lease_until >= utc_now()
    if not driven and (utc_now() - row.created_at).total_seconds() > STALE * max(quote.service_s, 10.0):
        return None
    running = bool(row.state == AttemptState.RUNNING.value)
    return Held(row.attempt_id, row.batch, row.job, row.lane, row.owner, row.created_at, quote.service_s, running)
