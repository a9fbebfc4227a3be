"""Which rows a transaction has changed, and what the journal is told of them.

Everything is written after the commit, so that nobody waits for the ledger meanwhile, and before the caller goes on. An
paid intent that cannot be written down is an error, so that nothing is ever bought that the journal does not know. All
else only adds to what is known, and must not keep a receipt from being stored; what costs nothing is written down from
its receipt on, so that a free GPU does not wait for the journal.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import InvalidRequestError

from hybrid_video.ledger import schema as t
from hybrid_video.ledger.journal import Journal, JournalError, row_record
from hybrid_video.models import AttemptState

log = logging.getLogger("hybrid_video.ledger")

Kind = Literal["attempt", "batch", "pod"]
Record = dict[str, Any]

_CHANGED = "rows for the journal"
UNCHANGING = ("quote", "spec_sha", "workflow_path")
"""Columns of an attempt that its intent holds already."""

_ATTEMPT = sa.select(t.attempts).where(t.attempts.c.attempt_id == sa.bindparam("key"))
_JOB = sa.select(t.jobs).where(t.jobs.c.batch == sa.bindparam("of_batch"), t.jobs.c.job == sa.bindparam("of_job"))
_BATCH = sa.select(t.batches).where(t.batches.c.name == sa.bindparam("key"))
_POD = sa.select(t.pods).where(t.pods.c.name == sa.bindparam("key"))


def note(connection: Connection, kind: Kind, key: str) -> None:
    """Remembers that this transaction changes a row; nothing where no journal is kept."""
    changed = connection.info.get(_CHANGED)
    if changed is not None:
        changed[kind, key] = None


@contextlib.contextmanager
def noted(connection: Connection, journal: Journal | None) -> Iterator[list[Record]]:
    """Around the body of a transaction: leaves in the list what is to be written after it."""
    later: list[Record] = []
    if journal is None:
        yield later
        return
    connection.info[_CHANGED] = changed = dict[tuple[Kind, str], None]()
    try:
        yield later
        later.extend(_record(connection, kind, key) for kind, key in changed)
    finally:
        with contextlib.suppress(InvalidRequestError):  # the server has closed the connection, and this went with it
            connection.info.pop(_CHANGED, None)


def write_later(journal: Journal | None, records: list[Record]) -> None:
    """Writes what a committed transaction left.

    Raises:
        JournalError: an intent could not be written down, so it must not be followed.
    """
    if journal is None or not records:
        return
    try:
        journal.write(records, durable=any(is_intent(record) and holds_money(record) for record in records))
    except JournalError as error:
        if any(is_intent(record) for record in records):
            raise
        log.warning("%s; the ledger has it, and a restore from an earlier backup would ask the vendor for it", error)


def is_intent(record: Record) -> bool:
    """Whether something is about to be sent, or opened, because of it."""
    if record["kind"] == "attempt":
        return bool(record["attempt"]["state"] == AttemptState.INTENT.value)
    return record["kind"] == "pod" and record["pod"]["state"] in ("intended", "creating")


def holds_money(record: Record) -> bool:
    """Whether money is reserved for it."""
    return Decimal(record.get(record["kind"], {}).get("reserved_usd") or 0) > 0


def _record(connection: Connection, kind: Kind, key: str) -> Record:
    if kind == "batch":
        return {"kind": kind, "batch": row_record(connection.execute(_BATCH, {"key": key}).one())}
    if kind == "pod":
        return {"kind": kind, "pod": row_record(connection.execute(_POD, {"key": key}).one())}
    row = connection.execute(_ATTEMPT, {"key": key}).one()
    job = connection.execute(_JOB, {"of_batch": row.batch, "of_job": row.job}).one()
    # What costs nothing has no line of its intent, so each of its lines is whole.
    whole = row.state == AttemptState.INTENT.value or not (row.reserved_usd or row.quoted_usd)
    return {
        "kind": kind,
        "attempt": row_record(row, () if whole else UNCHANGING),
        "job": row_record(job, ("owner", "lease_until", *(() if whole else ("spec",)))),
    }
