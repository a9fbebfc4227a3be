"""Money broken down by day, tier, backend, batch or workflow, from the ledger's own rows, exact to the nano-dollar.

The history answers the same questions faster over very many rows, in floats; these are the sums that must agree with
the balances. What pods cost beside the seconds of jobs is a line of its own, so that it can be seen.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from typing import Any, Literal

import sqlalchemy as sa
from pydantic import Field

from hybrid_video.errors import InputError
from hybrid_video.ledger import Ledger
from hybrid_video.ledger import schema as t
from hybrid_video.models import Model, Tier
from hybrid_video.views.figures import NOTHING, Money
from hybrid_video.views.reading import reading

Dimension = Literal["day", "tier", "backend", "batch", "workflow"]
POD_OVERHEAD = "pod overhead"
_COLUMNS = {
    "day": t.attempts.c.day,
    "tier": t.attempts.c.tier,
    "backend": t.attempts.c.backend,
    "batch": t.attempts.c.batch,
    "workflow": t.attempts.c.model,
}


class SpendLine(Model):
    """One line of a breakdown. `key` holds one value for each dimension asked for."""

    key: dict[str, str]
    attempts: int
    clips: int
    cost_usd: Money
    quoted_usd: Money = Field(description="What the finished clips were quoted at.")
    reserved_usd: Money


class Spend(Model):
    """A breakdown and its sums."""

    by: tuple[str, ...]
    since: date | None
    until: date | None
    cost_usd: Money
    reserved_usd: Money
    lines: tuple[SpendLine, ...]


def spend(
    ledger: Ledger,
    *by: Dimension,
    since: date | None = None,
    until: date | None = None,
    batch: str | None = None,
) -> Spend:
    """What was booked, by these dimensions together (`day` alone when none is named).

    Args:
        since: first day (UTC) on which it was booked.
        until: last day, itself included.

    Raises:
        InputError: the days are in the wrong order.
    """
    if since is not None and until is not None and since > until:
        raise InputError(f"since: {since.isoformat()} is after until: {until.isoformat()}; exchange them")
    wanted: tuple[Dimension, ...] = tuple(dict.fromkeys(by)) or ("day",)
    found: dict[tuple[str, ...], list[Any]] = defaultdict(lambda: [0, 0, NOTHING, NOTHING, NOTHING])
    with reading(ledger) as connection:
        for row in connection.execute(_attempts(wanted, since, until, batch)):
            *key, attempts, clips, cost, quoted, reserved = row
            found[tuple(key)] = [attempts, clips, cost or NOTHING, quoted or NOTHING, reserved or NOTHING]
        for day, name, amount in connection.execute(_shares(since, until, batch)):
            line = found[_share_key(wanted, day, name)]
            line[2] += amount
    lines = tuple(
        SpendLine(
            key=dict(zip(wanted, key, strict=True)),
            attempts=values[0],
            clips=values[1],
            cost_usd=values[2],
            quoted_usd=values[3],
            reserved_usd=values[4],
        )
        for key, values in sorted(found.items())
    )
    return Spend(
        by=wanted,
        since=since,
        until=until,
        cost_usd=_total(line.cost_usd for line in lines),
        reserved_usd=_total(line.reserved_usd for line in lines),
        lines=lines,
    )


def _attempts(by: Sequence[Dimension], since: date | None, until: date | None, batch: str | None) -> sa.Select[Any]:
    a = t.attempts
    columns = [_COLUMNS[name] for name in by]
    settled = a.c.state == "settled"
    query = sa.select(
        *columns,
        sa.func.count(),
        sa.func.sum(sa.case((settled, 1), else_=0)),
        sa.func.sum(a.c.cost_usd),
        sa.func.sum(sa.case((settled, a.c.quoted_usd), else_=None)),
        sa.func.sum(a.c.reserved_usd),
    ).group_by(*columns)
    return _within(query, a, since, until, batch)


def _shares(since: date | None, until: date | None, batch: str | None) -> sa.Select[Any]:
    s = t.pod_shares
    query = sa.select(s.c.day, s.c.batch, sa.func.sum(s.c.amount_usd)).group_by(s.c.day, s.c.batch)
    return _within(query, s, since, until, batch)


def _within(
    query: sa.Select[Any], table: sa.Table, since: date | None, until: date | None, batch: str | None
) -> sa.Select[Any]:
    if since is not None:
        query = query.where(table.c.day >= since.isoformat())
    if until is not None:
        query = query.where(table.c.day <= until.isoformat())
    return query if batch is None else query.where(table.c.batch == batch)


def _share_key(by: Sequence[Dimension], day: str, batch: str) -> tuple[str, ...]:
    known = {
        "day": day,
        "tier": Tier.CLOUD.value,
        "backend": "runpod-pod",
        "batch": batch or POD_OVERHEAD,
        "workflow": POD_OVERHEAD,
    }
    return tuple(known[name] for name in by)


def _total(amounts: Any) -> Decimal:
    return sum(amounts, NOTHING)
