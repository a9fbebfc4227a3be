"""Gaps: what a ledger that came out of a backup cannot know, until it is found out or a person gives their word.

A backup carries an open gap from the moment it is taken. Whoever works with it afterwards, restored by command or put
in place by hand, is refused every purchase until `hybrid-video reconcile` has read the journals and closed the gap, or
a person has (`hybrid-video ledger close-gap`). Each journal that was in use is waited for: one per home folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from hybrid_video.errors import ConfigurationError, InputError
from hybrid_video.ledger import money
from hybrid_video.ledger import schema as t
from hybrid_video.ledger.journal import JournalId
from hybrid_video.models import Tier, utc_now

MARGIN = timedelta(minutes=10)
"""Journals are read from so long before the backup: a process may have waited for the ledger in between."""
RETIRED = timedelta(days=60)
"""A journal that nobody has used for so long before the backup is not waited for."""

OPEN_GAPS = sa.select(t.gaps).where(t.gaps.c.closed_at.is_(None)).order_by(t.gaps.c.taken_at)


@dataclass(frozen=True)
class Gap:
    """Nothing is known from `taken_at` on."""

    taken_at: datetime
    restored_at: datetime | None
    waits_for: tuple[str, ...]
    """Machines whose journals were in use and have not been read since."""


def open_gap(connection: Connection) -> Gap | None:
    """The gap that is not closed, the oldest and so the widest if there are several."""
    row = connection.execute(OPEN_GAPS.limit(1)).one_or_none()
    if row is None:
        return None
    unread = sa.select(t.journals.c.host).where(
        t.journals.c.read_at.is_(None), t.journals.c.used_at > row.taken_at - RETIRED
    )
    hosts = connection.execute(unread.order_by(t.journals.c.host)).scalars()
    return Gap(row.taken_at, row.restored_at, tuple(hosts))


def refuse_gap(connection: Connection) -> None:
    """Makes sure that nothing is bought by a ledger that may not know what was bought already.

    Raises:
        ConfigurationError: a gap is open.
    """
    gap = open_gap(connection)
    if gap is not None:
        raise ConfigurationError(
            f"this ledger comes from a backup of {gap.taken_at:%Y-%m-%d %H:%M:%S} UTC, and what was sent after that is "
            "not known yet, so nothing is sent that may be paid for already; run `hybrid-video reconcile` first"
        )


def remember_journal(connection: Connection, journal: JournalId) -> None:
    """Notes that a journal is in use, so that it is waited for after a restore."""
    values = {"host": journal.host, "used_at": utc_now()}
    known = sa.update(t.journals).where(t.journals.c.id == journal.id)
    if not connection.execute(known.values(values)).rowcount:
        connection.execute(sa.insert(t.journals).values(id=journal.id, **values))


def journal_was_read(connection: Connection, journal: JournalId) -> None:
    """Notes that a journal has given everything it holds since the backup."""
    known = sa.update(t.journals).where(t.journals.c.id == journal.id)
    connection.execute(known.values(read_at=utc_now()))


def mark_copy(connection: Connection, taken_at: datetime) -> None:
    """Opens a gap in a copy that is a backup."""
    connection.execute(sa.insert(t.gaps).values(taken_at=taken_at, closed_because=""))
    connection.execute(sa.update(t.journals).values(read_at=None))


def mark_restored(connection: Connection) -> None:
    """Notes the restore; a backup of an earlier version, which says nothing of itself, gets its gap here."""
    now = utc_now()
    if connection.execute(OPEN_GAPS.limit(1)).one_or_none() is None:
        mark_copy(connection, _newest(connection) or now)
    connection.execute(sa.update(t.gaps).where(t.gaps.c.closed_at.is_(None)).values(restored_at=now))


def close_gaps(connection: Connection, because: str) -> None:
    """Purchases are allowed again."""
    values = {"closed_at": utc_now(), "closed_because": because}
    connection.execute(sa.update(t.gaps).where(t.gaps.c.closed_at.is_(None)).values(values))


def close_by_word(connection: Connection, charged_usd: dict[Tier, Decimal], said_by: str = "a person") -> Gap:
    """A person's word on what was charged in the gap and is in nobody's books; it counts from today on.

    Raises:
        InputError: no gap is open.
    """
    gap = open_gap(connection)
    if gap is None:
        raise InputError("this ledger has no gap: it was not restored from a backup, or the gap is closed already")
    day = utc_now().date().isoformat()
    for tier, amount in charged_usd.items():
        scopes = (f"day:{day}", f"month:{day[:7]}", f"tier:{tier.value}:{day[:7]}", "all")
        for scope in scopes if amount else ():
            carry(connection, scope, amount)
        if amount:
            money.move(connection, sorted(scopes), settled=amount)
    said = ", ".join(f"${amount:f} on {tier.value}" for tier, amount in charged_usd.items() if amount) or "nothing more"
    close_gaps(connection, f"{said_by} said that {said} was charged since {gap.taken_at:%Y-%m-%d %H:%M:%S} UTC")
    return gap


def carry(connection: Connection, scope: str, amount: Decimal) -> None:
    """Adds to what attempts had come to that have no row here: deleted for their age, or lost with a ledger."""
    known = sa.update(t.pruned).where(t.pruned.c.scope == scope)
    if not connection.execute(known.values(settled_usd=t.pruned.c.settled_usd + amount)).rowcount:
        connection.execute(sa.insert(t.pruned).values(scope=scope, settled_usd=amount))


def _newest(connection: Connection) -> datetime | None:
    """The newest thing a ledger knows of."""
    columns = (t.attempts.c.created_at, t.attempts.c.finished_at, t.jobs.c.updated_at, t.batches.c.started_at)
    found = [connection.execute(sa.select(sa.func.max(column))).scalar() for column in columns]
    return max((moment for moment in found if moment is not None), default=None)
