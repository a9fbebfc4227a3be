"""Reads of the ledger that only reconciliation, cancelling and the command line need."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import sqlalchemy as sa

from hybrid_video.errors import InputError
from hybrid_video.ledger import schema as t
from hybrid_video.ledger.states import OPEN
from hybrid_video.ledger.store import Ledger
from hybrid_video.models import Attempt, JobState

SHORTEST_PREFIX = 6


@dataclass(frozen=True)
class BatchRow:
    """A batch as the ledger knows it, with its jobs counted by state."""

    name: str
    out_dir: Path
    budget_usd: Decimal | None
    simulated: bool
    jobs: Counter[JobState]


def batch_rows(ledger: Ledger) -> dict[str, BatchRow]:
    """Every batch by name, the newest first."""
    counted: dict[str, Counter[JobState]] = {}
    by_state = sa.select(t.jobs.c.batch, t.jobs.c.state, sa.func.count()).group_by(t.jobs.c.batch, t.jobs.c.state)
    with ledger.raw().connect() as connection:
        rows = connection.execute(sa.select(t.batches).order_by(t.batches.c.started_at.desc())).all()
        for batch, state, count in connection.execute(by_state):
            counted.setdefault(batch, Counter())[JobState(state)] = count
    return {
        row.name: BatchRow(row.name, Path(row.out_dir), row.budget_usd, row.simulated, counted.get(row.name, Counter()))
        for row in rows
    }


def known_batches(ledger: Ledger, names: Sequence[str]) -> dict[str, BatchRow]:
    """The named batches, or all when none is named.

    Raises:
        InputError: one is not known.
    """
    rows = batch_rows(ledger)
    for name in names:
        if name not in rows:
            near = difflib.get_close_matches(name, rows, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "`hybrid-video ledger show` lists the batches"
            raise InputError(f"no batch is named {name!r}; {hint}")
    return {name: rows[name] for name in dict.fromkeys(names)} if names else rows


def find_attempt(ledger: Ledger, text: str) -> Attempt:
    """The attempt with this id, or with the only id that begins so.

    Raises:
        InputError: there is none, or more than one.
    """
    query = sa.select(t.attempts.c.attempt_id).where(t.attempts.c.attempt_id.startswith(text, autoescape=True)).limit(2)
    with ledger.raw().connect() as connection:
        ids = list(connection.execute(query).scalars()) if len(text) >= SHORTEST_PREFIX else []
    if len(ids) != 1:
        which = "more than one attempt begins with" if ids else "no attempt has the id"
        raise InputError(f"{which} {text!r}; `hybrid-video ledger show BATCH` lists the ids")
    return ledger.attempt(ids[0])


def settled_by_day(ledger: Ledger, backend: str, days: Sequence[str]) -> dict[str, Decimal]:
    """What the ledger has booked and still holds for a backend on each day (UTC, ISO dates)."""
    amounts = dict.fromkeys(days, Decimal(0))
    query = sa.select(t.attempts.c.day, t.attempts.c.cost_usd, t.attempts.c.reserved_usd, t.attempts.c.state).where(
        t.attempts.c.backend == backend, t.attempts.c.day.in_(days)
    )
    held = {state.value for state in OPEN}
    with ledger.raw().connect() as connection:
        for day, cost, reserved, state in connection.execute(query):
            amounts[day] += reserved if state in held else cost or Decimal(0)
    return amounts


def pruned_batches(ledger: Ledger) -> list[str]:
    """Batches whose jobs and attempts were deleted for their age; only the history has them."""
    with ledger.reading() as connection:
        return list(connection.execute(sa.select(t.batches.c.name).where(t.batches.c.pruned_at.is_not(None))).scalars())
