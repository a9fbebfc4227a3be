"""Balances: the scopes an amount counts in, whether they can hold it, and moving it.

Everything here happens in the caller's transaction. Every amount is booked in six scopes at once (job, batch, day,
month, tier within the month, all). They are read with one statement and moved with another, in the order of their
names, so that two processes never wait for each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import Connection

from hybrid_video.errors import LimitError
from hybrid_video.ledger import schema as t

NOTHING = Decimal(0)

_HELD = (
    sa.select(t.balances)
    .where(t.balances.c.scope.in_(sa.bindparam("scopes", expanding=True)))
    .order_by(t.balances.c.scope)
    .with_for_update()
)


@dataclass(frozen=True)
class Caps:
    """Hard limits in force for one reservation; None means unlimited."""

    job_usd: Decimal | None = None
    batch_usd: Decimal | None = None
    day_usd: Decimal | None = None
    month_usd: Decimal | None = None
    tier_usd: Decimal | None = None
    """For the attempt's tier within the UTC month."""


@dataclass(frozen=True)
class Balance:
    """Money booked and held within one scope."""

    settled_usd: Decimal
    reserved_usd: Decimal


UNLIMITED = Caps()


def scopes(batch: str, job: str, day: str, tier: str, caps: Caps = UNLIMITED) -> dict[str, tuple[str, Decimal | None]]:
    """Every scope of an attempt, in order, with the name and the amount of its cap."""
    limits = {
        f"job:{batch}/{job}": ("the limit per job", caps.job_usd),
        f"batch:{batch}": ("the batch budget", caps.batch_usd),
        f"day:{day}": (f"the daily budget ({day})", caps.day_usd),
        f"month:{day[:7]}": (f"the monthly budget ({day[:7]})", caps.month_usd),
        f"tier:{tier}:{day[:7]}": (f"the monthly budget for {tier} ({day[:7]})", caps.tier_usd),
        "all": ("the total", None),
    }
    return dict(sorted(limits.items()))


def check_caps(
    connection: Connection, limits: Mapping[str, tuple[str, Decimal | None]], amount: Decimal, what_for: str
) -> None:
    """Locks every scope; what costs nothing always fits.

    Raises:
        LimitError: a scope cannot hold the amount.
    """
    if connection.dialect.name != "sqlite":  # a row must exist to be locked; SQLite has locked the whole file already
        connection.execute(_ensure(connection.dialect.name), _rows(limits))
    balances = {
        row.scope: Balance(row.settled_usd, row.reserved_usd)
        for row in connection.execute(_HELD, {"scopes": list(limits)})
    }
    for scope, (what, cap) in limits.items():
        held = balances.get(scope, Balance(NOTHING, NOTHING))
        if cap is None or not amount or held.settled_usd + held.reserved_usd + amount <= cap:
            continue
        raise LimitError(
            f"{what} of ${cap:f} does not allow another ${amount:f} on {what_for}: ${held.settled_usd:f} is spent "
            f"and ${held.reserved_usd:f} reserved; raise the limit, or allow a cheaper backend"
        )


def move(
    connection: Connection, in_scopes: Iterable[str], *, settled: Decimal = NOTHING, reserved: Decimal = NOTHING
) -> None:
    """Adds to what is settled and reserved in every scope; either may be negative."""
    if settled or reserved:
        connection.execute(_add(connection.dialect.name), _rows(in_scopes, settled, reserved))


def _rows(in_scopes: Iterable[str], settled: Decimal = NOTHING, reserved: Decimal = NOTHING) -> list[dict[str, Any]]:
    return [{"scope": scope, "settled_usd": settled, "reserved_usd": reserved} for scope in in_scopes]


@cache
def _insert(dialect: str) -> Any:
    if dialect == "sqlite":
        return sqlite.insert(t.balances)
    from sqlalchemy.dialects import postgresql  # noqa: PLC0415 - only where it is used

    return postgresql.insert(t.balances)


@cache
def _ensure(dialect: str) -> Any:
    return _insert(dialect).on_conflict_do_nothing()


@cache
def _add(dialect: str) -> Any:
    fresh = _insert(dialect)
    return fresh.on_conflict_do_update(
        index_elements=[t.balances.c.scope],
        set_={
            "settled_usd": t.balances.c.settled_usd + fresh.excluded.settled_usd,
            "reserved_usd": t.balances.c.reserved_usd + fresh.excluded.reserved_usd,
        },
    )
