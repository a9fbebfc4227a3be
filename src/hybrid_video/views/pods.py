"""Rented pods as the ledger knows them: what is open, what it costs by the hour and so far, and what happened to it."""

from __future__ import annotations

import difflib
from datetime import datetime
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from pydantic import Field
from sqlalchemy.engine import Connection

from hybrid_video.errors import NotFoundError
from hybrid_video.ledger import Ledger
from hybrid_video.ledger import schema as t
from hybrid_video.models import Model
from hybrid_video.settings import Settings
from hybrid_video.views.figures import NOTHING, Money, Page, checked_limit, decode_moment, encode_moment
from hybrid_video.views.reading import reading

OVER = ("closed", "failed")
STARTING = ("intended", "creating", "starting")


class PodSummary(Model):
    """The open pods together."""

    open: int = Field(description="Starting, ready and draining ones: all that may cost money.")
    starting: int
    ready: int
    draining: int
    max_pods: int
    usd_per_h: Money = Field(description="What all open pods cost by the hour.")


class PodLine(Model):
    """One pod."""

    name: str
    pod_id: str | None
    state: str
    gpu: str
    cloud: str
    data_center: str
    price_usd_per_h: Money
    storage_usd_per_h: Money
    batch: str = Field(description="The batch it was opened for; empty for none in particular.")
    opened_because: str
    closed_because: str
    intended_at: datetime
    created_at: datetime | None
    ready_at: datetime | None
    busy_at: datetime | None
    lease_until: datetime | None
    closed_at: datetime | None
    reserved_usd: Money
    booked_usd: Money = Field(description="Booked beyond what its jobs were charged for their own seconds.")
    cost_usd: Money | None = Field(description="What the whole pod cost by our clock, known once it is closed.")
    billed_usd: Money | None = Field(description="What the provider's bill says; None until it is known.")
    overhead_usd: Money = Field(description="Shared out to jobs beside the seconds that they ran.")
    error: str


class PodEvent(Model):
    """One thing that happened to a pod."""

    at: datetime
    event: str
    detail: str


class PodView(Model):
    """One pod with its story."""

    pod: PodLine
    events: tuple[PodEvent, ...]


def pod_summary(connection: Connection, settings: Settings) -> PodSummary:
    """Counts and hourly price of what is open."""
    prices = (sa.func.sum(t.pods.c.price_usd_per_h), sa.func.sum(t.pods.c.storage_usd_per_h))  # apart: a sum of both
    query = (  # columns would lose its type and come out in nano-dollars
        sa.select(t.pods.c.state, sa.func.count(), *prices).where(t.pods.c.state.not_in(OVER)).group_by(t.pods.c.state)
    )
    rows = list(connection.execute(query))
    counts = {row[0]: row[1] for row in rows}
    return PodSummary(
        open=sum(counts.values()),
        starting=sum(counts.get(state, 0) for state in STARTING),
        ready=counts.get("ready", 0),
        draining=counts.get("draining", 0) + counts.get("closing", 0),
        max_pods=settings.pods.max_pods,
        usd_per_h=sum((gpu + storage for _state, _count, gpu, storage in rows), NOTHING),
    )


def pods(ledger: Ledger, *, include_closed: bool = False, cursor: str | None = None, limit: int = 50) -> Page[PodLine]:
    """Open pods, or all of them, the newest first."""
    query = sa.select(t.pods).order_by(t.pods.c.intended_at.desc(), t.pods.c.name).limit(checked_limit(limit) + 1)
    if not include_closed:
        query = query.where(t.pods.c.state.not_in(OVER))
    if cursor is not None:
        at, name = decode_moment(cursor)
        begun = t.pods.c.intended_at
        query = query.where((begun < at) | ((begun == at) & (t.pods.c.name > name)))
    with reading(ledger) as connection:
        found = connection.execute(query).all()
        shown = found[:limit]
        overhead = _overhead(connection, [row.name for row in shown])
    lines = tuple(_line(row, overhead) for row in shown)
    more = len(found) > limit
    return Page(items=lines, next_cursor=encode_moment(shown[-1].intended_at, shown[-1].name) if more else None)


def pod(ledger: Ledger, name_or_id: str) -> PodView:
    """One pod by our name for it or by the provider's id.

    Raises:
        NotFoundError: the ledger knows none.
    """
    with reading(ledger) as connection:
        query = sa.select(t.pods).where((t.pods.c.name == name_or_id) | (t.pods.c.pod_id == name_or_id))
        row = connection.execute(query.order_by(t.pods.c.intended_at.desc()).limit(1)).one_or_none()
        if row is None:
            names = connection.execute(sa.select(t.pods.c.name).order_by(t.pods.c.intended_at.desc()).limit(200))
            near = difflib.get_close_matches(name_or_id, list(names.scalars()), n=1)
            hint = f"did you mean {near[0]!r}?" if near else "`hybrid-video pods list` shows them"
            raise NotFoundError(f"no pod has the name or id {name_or_id!r}; {hint}")
        events = connection.execute(sa.select(t.pod_events).where(t.pod_events.c.pod == row.name).order_by("id"))
        told = tuple(PodEvent(at=event.at, event=event.event, detail=event.detail) for event in events)
        return PodView(pod=_line(row, _overhead(connection, [row.name])), events=told)


def _overhead(connection: Connection, names: list[str]) -> dict[str, Decimal]:
    query = (
        sa.select(t.pod_shares.c.pod, sa.func.sum(t.pod_shares.c.amount_usd))
        .where(t.pod_shares.c.pod.in_(names))
        .group_by(t.pod_shares.c.pod)
    )
    return {pod: amount for pod, amount in connection.execute(query)}  # noqa: C416 - rows are no pairs to mypy


def _line(row: sa.Row[Any], overhead: dict[str, Decimal]) -> PodLine:
    known = row._mapping  # noqa: SLF001 - SQLAlchemy's public accessor
    values = {name: known[name] for name in PodLine.model_fields if name in known}
    return PodLine.model_validate({**values, "overhead_usd": overhead.get(row.name, NOTHING)})
