"""The rows behind a day: attempts that ended, pods' shares, and what is open now; from one consistent read.

Details of very old batches are pruned from the ledger and are read from the history, which keeps them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from hybrid_video.history import History
from hybrid_video.ledger import schema as t
from hybrid_video.models import NANO_USD, Tier
from hybrid_video.views.spend import POD_OVERHEAD

POD_BACKEND = "runpod-pod"


@dataclass(frozen=True)
class Booked:
    """One attempt that ended, or a share of a pod's cost (`state` is then "share")."""

    at: datetime
    batch: str
    job: str
    backend: str
    tier: str
    model: str
    state: str
    cost_usd: Decimal
    quoted_usd: Decimal = Decimal(0)
    began_at: datetime | None = None
    clip_s: float = 0.0
    error_kind: str = ""
    away_from: str = ""

    @property
    def google_s(self) -> int:
        """Seconds of video that Google would bill: whole ones, at least three."""
        return max(3, math.ceil(round(self.clip_s, 6)))


def booked(connection: Connection, since: datetime, until: datetime) -> list[Booked]:
    """Everything that was booked from one moment to another, in order."""
    rows = [*_attempts(connection, since, until), *_shares(connection, since, until)]
    return sorted(rows, key=lambda row: row.at)


def _attempts(connection: Connection, since: datetime, until: datetime) -> Iterable[Booked]:
    a, before = t.attempts, t.attempts.alias("before")
    same_job = (before.c.batch == a.c.batch) & (before.c.job == a.c.job) & (before.c.number == a.c.number - 1)
    query = (
        sa.select(a, before.c.backend.label("before"))
        .select_from(a.outerjoin(before, same_job))
        .where(a.c.finished_at >= since, a.c.finished_at < until)
    )
    for row in connection.execute(query):
        output = json.loads(row.quote)["output"]
        yield Booked(
            at=row.finished_at,
            batch=row.batch,
            job=row.job,
            backend=row.backend,
            tier=row.tier,
            model=row.model,
            state=row.state,
            cost_usd=row.cost_usd or Decimal(0),
            quoted_usd=row.quoted_usd,
            began_at=row.created_at,
            clip_s=output["frames"] / output["fps"],
            error_kind=row.error_kind,
            away_from=row.before if row.before and row.before != row.backend else "",
        )


def _shares(connection: Connection, since: datetime, until: datetime) -> Iterable[Booked]:
    """Shares of pods' costs. One counts when its pod ended; where the pod lived on into the next UTC day, at the last
    moment of its own. A bill that corrects it days later corrects it there."""
    query = sa.select(t.pod_shares, t.pods.c.closed_at).select_from(
        t.pod_shares.outerjoin(t.pods, t.pods.c.name == t.pod_shares.c.pod)
    )
    first, last = since.date().isoformat(), until.date().isoformat()
    for row in connection.execute(query.where(t.pod_shares.c.day >= first, t.pod_shares.c.day <= last)):
        at = share_moment(row.day, row.closed_at)
        if since <= at < until:
            yield Booked(
                at=at,
                batch=row.batch or POD_OVERHEAD,
                job=row.job,
                backend=POD_BACKEND,
                tier=Tier.CLOUD.value,
                model=POD_OVERHEAD,
                state="share",
                cost_usd=row.amount_usd,
            )


def share_moment(day: str, closed_at: datetime | None) -> datetime:
    """The moment at which a share that was booked on a UTC day counts."""
    if closed_at is not None and closed_at.astimezone(UTC).date().isoformat() == day:
        return closed_at
    return datetime.combine(datetime.fromisoformat(day).date(), time.max, UTC)


def pruned_names(connection: Connection) -> list[str]:
    """Batches whose details were deleted for their age."""
    return list(connection.execute(sa.select(t.batches.c.name).where(t.batches.c.pruned_at.is_not(None))).scalars())


def from_history(history: History, names: Sequence[str], since: datetime, until: datetime) -> list[Booked]:
    """The attempts of pruned batches, exact to the nano-dollar."""
    query = """
        select a.*, cast(a.cost_usd * 1000000000 as bigint) as cost_nano,
               cast(a.quoted_usd * 1000000000 as bigint) as quoted_nano, b.backend as before
        from attempts a left join attempts b on b.batch = a.batch and b.job = a.job and b.number = a.number - 1
        where list_contains(?::varchar[], a.batch) and a.finished_at >= ? and a.finished_at < ?
    """
    if not names:
        return []
    frame = history.query(query, [list(names), since.replace(tzinfo=None), until.replace(tzinfo=None)])
    return [_from_history(row) for row in frame.to_dict("records")]


def _from_history(row: Mapping[Any, Any]) -> Booked:
    before = row["before"] if isinstance(row["before"], str) else ""
    clip_s = float(row["clip_s"])
    return Booked(
        at=row["finished_at"].to_pydatetime().replace(tzinfo=UTC),
        batch=row["batch"],
        job=row["job"],
        backend=row["backend"],
        tier=row["tier"],
        model=row["model"],
        state=row["state"],
        cost_usd=Decimal(int(row["cost_nano"])) * NANO_USD,
        quoted_usd=Decimal(int(row["quoted_nano"])) * NANO_USD,
        began_at=row["created_at"].to_pydatetime().replace(tzinfo=UTC),
        clip_s=0.0 if math.isnan(clip_s) else clip_s,
        error_kind=row["error_kind"],
        away_from=before if before != row["backend"] else "",
    )
