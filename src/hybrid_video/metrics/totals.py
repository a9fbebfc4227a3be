"""Sums over all attempts ever made, by one grouped query that the database runs alone.

What has ended long enough ago never changes, so its sums are kept in memory and only what is newer is asked for: the
first scrape of a process reads the whole table, every further one a few rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.sql.elements import ColumnElement

from hybrid_video.ledger import schema as t
from hybrid_video.ledger.states import OPEN
from hybrid_video.models import AttemptState

UNCHANGING_AFTER = timedelta(minutes=5)
"""Longer than any transaction that stamps an end may wait before it commits."""

BUCKETS_S = (1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 180.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0)
"""From a cached prompt to the longest clip a backend is given time for."""


@dataclass(frozen=True)
class Spread:
    """A histogram: clips up to each bound of BUCKETS_S, then all of them, and the sum of their seconds."""

    up_to: tuple[int, ...]
    count: int
    sum_s: float

    def __add__(self, other: Spread) -> Spread:
        up_to = tuple(mine + theirs for mine, theirs in zip(self.up_to, other.up_to, strict=True))
        return Spread(up_to, self.count + other.count, self.sum_s + other.sum_s)


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

    def __add__(self, other: Total) -> Total:
        return Total(
            self.backend,
            self.tier,
            self.state,
            self.error_kind,
            self.attempts + other.attempts,
            self.again + other.again,
            self.cost_usd + other.cost_usd,
            self.quoted_usd + other.quoted_usd,
            self.whole + other.whole,
            self.worked + other.worked,
        )


_Sums = dict[tuple[str, str, str, str], Total]
_kept: dict[str, tuple[datetime, _Sums]] = {}
"""By ledger: the sums of what had ended by then."""


def attempt_totals(connection: Connection, now: datetime) -> tuple[Total, ...]:
    """One row for each combination of backend, tier, state and kind of error that exists."""
    ended = t.attempts.c.finished_at
    ledger, until = _identity(connection), now - UNCHANGING_AFTER
    since, sums = _kept.get(ledger, (None, {}))
    if since is None or since > until:
        sums = _sums(connection, ended <= until)
    else:
        sums = _merged(sums, _sums(connection, (ended > since) & (ended <= until)))
    _kept[ledger] = (until, sums)
    newer = _sums(connection, ended > until)
    still_open = _sums(connection, t.attempts.c.state.in_([state.value for state in OPEN]) & ended.is_(None))
    return tuple(_merged(_merged(sums, newer), still_open).values())


def _identity(connection: Connection) -> str:
    """The database, and for a file which one: another may be put in its place (a restored backup)."""
    url = connection.engine.url
    file = Path(url.database or "") if url.get_backend_name() == "sqlite" else None
    return f"{url.render_as_string(hide_password=True)} {file.stat().st_ino if file and file.exists() else ''}"


def _merged(some: _Sums, more: _Sums) -> _Sums:
    return some | {key: some[key] + total if key in some else total for key, total in more.items()}


def _sums(connection: Connection, which: ColumnElement[bool]) -> _Sums:
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
    )
    rows = (_total(tuple(row)) for row in connection.execute(query.where(which).group_by(*names)))
    return {(row.backend, row.tier, row.state, row.error_kind): row for row in rows}


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
