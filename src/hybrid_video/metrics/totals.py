"""Sums over all attempts ever made, by one grouped query that the database runs alone."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.sql.elements import ColumnElement

from hybrid_video.ledger import schema as t
from hybrid_video.models import AttemptState

BUCKETS_S = (1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 180.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0)
"""From a cached prompt to the longest clip a backend is given time for."""


@dataclass(frozen=True)
class Spread:
    """A histogram: clips up to each bound of BUCKETS_S, then all of them, and the sum of their seconds."""

    up_to: tuple[int, ...]
    count: int
    sum_s: float


@dataclass(frozen=True)
class Total:
    """Attempts with one backend, tier, state and kind of error."""

    backend: str
    tier: str
    state: str
    error_kind: str
    attempts: int
    again: int
    """Those that were not the first of their job."""
    cost_usd: Decimal
    quoted_usd: Decimal
    whole: Spread
    """From decision to end."""
    worked: Spread
    """What the backend itself says it worked."""


def attempt_totals(connection: Connection) -> tuple[Total, ...]:
    """One row for each combination that exists."""
    a = t.attempts.c
    whole_s = _seconds_between(connection, a.created_at, a.finished_at)
    names = (a.backend, a.tier, a.state, a.error_kind)
    query = sa.select(
        *names,
        sa.func.count(),
        sa.func.sum(sa.case((a.number > 1, 1), else_=0)),
        sa.func.sum(a.cost_usd),
        sa.func.sum(a.quoted_usd),
        *_spread(whole_s),
        *_spread(a.execution_s),
    ).group_by(*names)
    return tuple(_total(tuple(row)) for row in connection.execute(query))


def _spread(seconds: ColumnElement[float]) -> list[ColumnElement[float]]:
    return [
        *(sa.func.sum(sa.case((seconds <= bound, 1), else_=0)) for bound in BUCKETS_S),
        sa.type_coerce(sa.func.count(seconds), sa.Float),
        sa.func.sum(seconds),
    ]


def _total(row: tuple[object, ...]) -> Total:
    backend, tier, state, error_kind, attempts, again, cost, quoted, *numbers = row
    half = len(BUCKETS_S) + 2
    return Total(
        backend=str(backend),
        tier=str(tier),
        state=str(state),
        error_kind=str(error_kind),
        attempts=_whole(attempts),
        again=_whole(again),
        cost_usd=_money(cost),
        quoted_usd=_money(quoted),
        whole=_read_spread(numbers[:half]),
        worked=_read_spread(numbers[half:]),
    )


def _read_spread(numbers: list[object]) -> Spread:
    *up_to, count, sum_s = numbers
    return Spread(tuple(_whole(number) for number in up_to), _whole(count), float(str(sum_s or 0)))


def _whole(value: object) -> int:
    return int(float(str(value or 0)))


def _money(value: object) -> Decimal:
    return value if isinstance(value, Decimal) else Decimal(0)


def _seconds_between(
    connection: Connection, begin: ColumnElement[object], end: ColumnElement[object]
) -> ColumnElement[float]:
    """Seconds between two times, which the ledger keeps as text."""
    began, ended = (sa.type_coerce(column, sa.String) for column in (begin, end))
    if connection.dialect.name == "sqlite":
        days = sa.func.julianday(ended) - sa.func.julianday(began)
        return sa.type_coerce(days * 86_400.0, sa.Float)
    moment = sa.TIMESTAMP(timezone=True)
    return sa.type_coerce(sa.func.extract("epoch", sa.cast(ended, moment) - sa.cast(began, moment)), sa.Float)


def ended_well(total: Total) -> bool:
    """Whether these attempts became clips."""
    return total.state == AttemptState.SETTLED.value
