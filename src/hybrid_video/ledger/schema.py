"""Tables of the ledger and their append-only migrations.

Money is stored as whole nano-dollars, so sums are exact; times as ISO-8601 text in UTC, so they sort and can be read.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.types import TypeDecorator

from hybrid_video.errors import LedgerError
from hybrid_video.ledger.repairing import complete_first_tables

NANO = Decimal(1_000_000_000)


class Money(TypeDecorator[Decimal]):
    """`Decimal` dollars in Python, nano-dollars in the database."""

    impl = sa.BigInteger
    cache_ok = True

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> int | None:
        """Dollars to nano-dollars; refuses anything finer."""
        if value is None:
            return None
        nano = Decimal(value) * NANO
        if nano != nano.to_integral_value():
            raise ValueError(f"amount {value!r} is finer than a nano-dollar")
        return int(nano)

    def process_result_value(self, value: int | None, dialect: Dialect) -> Decimal | None:
        """Nano-dollars to dollars."""
        return None if value is None else Decimal(value) / NANO


class Utc(TypeDecorator[datetime]):
    """An aware `datetime` in Python, ISO-8601 text in UTC with microseconds in the database."""

    impl = sa.String(40)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> str | None:
        """Aware time to text."""
        return None if value is None else value.astimezone(UTC).isoformat(timespec="microseconds")

    def process_result_value(self, value: str | None, dialect: Dialect) -> datetime | None:
        """Text to aware time."""
        return None if value is None else datetime.fromisoformat(value)


metadata = sa.MetaData()

migrations = sa.Table(
    "migrations",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("applied_at", Utc, nullable=False),
)

batches = sa.Table(
    "batches",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("spec", sa.Text, nullable=False),
    sa.Column("out_dir", sa.Text, nullable=False),
    sa.Column("budget_usd", Money),
    sa.Column("deadline_s", sa.Float),
    sa.Column("created_at", Utc, nullable=False),
    sa.Column("started_at", Utc),
    sa.Column("finished_at", Utc),
    sa.Column("simulated", sa.Boolean, nullable=False, default=False),
    sa.Column("pruned_at", Utc),
)

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("batch", sa.String(64), sa.ForeignKey("batches.name"), primary_key=True),
    sa.Column("job", sa.String(64), primary_key=True),
    sa.Column("ordinal", sa.Integer, nullable=False),
    sa.Column("spec", sa.Text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    sa.Column("owner", sa.String(160)),
    sa.Column("lease_until", Utc),
    sa.Column("fence", sa.Integer, nullable=False, default=0),
    sa.Column("cancel_requested_at", Utc),
    sa.Column("error_kind", sa.String(40), nullable=False, default=""),
    sa.Column("error_message", sa.Text, nullable=False, default=""),
    sa.Column("updated_at", Utc, nullable=False),
    sa.Column("registered_at", Utc),
    sa.Index("jobs_by_state", "batch", "state"),
    sa.Index("jobs_by_time", "state", "updated_at"),
)

attempts = sa.Table(
    "attempts",
    metadata,
    sa.Column("attempt_id", sa.String(36), primary_key=True),
    sa.Column("batch", sa.String(64), nullable=False),
    sa.Column("job", sa.String(64), nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("backend", sa.String(40), nullable=False),
    sa.Column("tier", sa.String(16), nullable=False),
    sa.Column("model", sa.String(200), nullable=False),
    sa.Column("lane", sa.String(200), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("spec_sha", sa.String(64), nullable=False),
    sa.Column("quote", sa.Text, nullable=False),
    sa.Column("quoted_usd", Money, nullable=False),
    sa.Column("reserved_usd", Money, nullable=False),
    sa.Column("cost_usd", Money),
    sa.Column("cost_basis", sa.Text, nullable=False, default=""),
    sa.Column("day", sa.String(10), nullable=False),
    sa.Column("workflow_path", sa.Text, nullable=False, default=""),
    sa.Column("handle", sa.Text),
    sa.Column("clip", sa.Text),
    sa.Column("created_at", Utc, nullable=False),
    sa.Column("submitted_at", Utc),
    sa.Column("finished_at", Utc),
    sa.Column("execution_s", sa.Float),
    sa.Column("queue_s", sa.Float),
    sa.Column("gpu", sa.String(100), nullable=False, default=""),
    sa.Column("error_kind", sa.String(40), nullable=False, default=""),
    sa.Column("error_message", sa.Text, nullable=False, default=""),
    sa.Column("in_history", sa.Boolean, nullable=False, default=False),
    sa.ForeignKeyConstraint(["batch", "job"], ["jobs.batch", "jobs.job"]),
    sa.UniqueConstraint("batch", "job", "number"),
    sa.Index("attempts_by_state", "state"),
    sa.Index("attempts_to_history", "in_history", "state"),
    sa.Index("attempts_by_end", "finished_at", "state"),
    sa.Index("attempts_by_day", "day", "tier", "cost_usd"),
    sa.Index("attempts_by_lane", "lane"),
)

decisions = sa.Table(
    "decisions",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("batch", sa.String(64), nullable=False),
    sa.Column("job", sa.String(64), nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("chosen", sa.String(40)),
    sa.Column("tier", sa.String(16)),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("candidates", sa.Text, nullable=False),
    sa.Column("decided_at", Utc, nullable=False),
    sa.Column("elapsed_us", sa.Float, nullable=False),
    sa.Index("decisions_by_job", "batch", "job"),
)

balances = sa.Table(
    "balances",
    metadata,
    sa.Column("scope", sa.String(200), primary_key=True),
    sa.Column("settled_usd", Money, nullable=False),
    sa.Column("reserved_usd", Money, nullable=False),
)

plans = sa.Table(
    "plans",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("batch", sa.String(64), nullable=False),
    sa.Column("planned_at", Utc, nullable=False),
    sa.Column("jobs", sa.Integer, nullable=False),
    sa.Column("planned_usd", Money, nullable=False),
    sa.Column("planned_s", sa.Float, nullable=False),
    sa.Column("split", sa.Text, nullable=False),
    sa.Column("pool", sa.Text, nullable=False),
    sa.Column("deadline_s", sa.Float),
    sa.Column("budget_usd", Money),
    sa.Column("spent_before_usd", Money, nullable=False),
    sa.Column("actual_usd", Money),
    sa.Column("actual_s", sa.Float),
    sa.Column("made", sa.Integer),
    sa.Index("plans_by_batch", "batch", "id"),
)
"""What each run of a batch was expected to cost and to take, and what it came to."""


pods = sa.Table(
    "pods",
    metadata,
    sa.Column("name", sa.String(120), primary_key=True),
    sa.Column("pod_id", sa.String(64)),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("gpu", sa.String(100), nullable=False),
    sa.Column("cloud", sa.String(16), nullable=False),
    sa.Column("data_center", sa.String(40), nullable=False, default=""),
    sa.Column("price_usd_per_h", Money, nullable=False),
    sa.Column("storage_usd_per_h", Money, nullable=False),
    sa.Column("batch", sa.String(64), nullable=False, default=""),
    sa.Column("day", sa.String(10), nullable=False),
    sa.Column("owner", sa.String(160)),
    sa.Column("opened_because", sa.Text, nullable=False, default=""),
    sa.Column("closed_because", sa.Text, nullable=False, default=""),
    sa.Column("intended_at", Utc, nullable=False),
    sa.Column("created_at", Utc),
    sa.Column("ready_at", Utc),
    sa.Column("busy_at", Utc),
    sa.Column("lease_until", Utc),
    sa.Column("closed_at", Utc),
    sa.Column("reserved_usd", Money, nullable=False),
    sa.Column("booked_usd", Money, nullable=False),
    sa.Column("cost_usd", Money),
    sa.Column("billed_usd", Money),
    sa.Column("reconciled_at", Utc),
    sa.Column("error", sa.Text, nullable=False, default=""),
    sa.Index("pods_by_state", "state"),
)
"""Every rented pod that was ever meant to be opened, written before the create call is sent."""

pod_events = sa.Table(
    "pod_events",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("pod", sa.String(120), nullable=False),
    sa.Column("at", Utc, nullable=False),
    sa.Column("event", sa.String(24), nullable=False),
    sa.Column("detail", sa.Text, nullable=False, default=""),
    sa.Index("pod_events_by_pod", "pod", "id"),
)

pod_shares = sa.Table(
    "pod_shares",
    metadata,
    sa.Column("pod", sa.String(120), primary_key=True),
    sa.Column("batch", sa.String(64), primary_key=True),
    sa.Column("job", sa.String(64), primary_key=True),
    sa.Column("day", sa.String(10), primary_key=True),
    sa.Column("amount_usd", Money, nullable=False),
    sa.Column("booked_at", Utc, nullable=False),
    sa.Index("pod_shares_by_batch", "batch"),
)
"""What a pod cost beyond the seconds that jobs ran (start-up, idle tail, storage), shared out to them.

A row without a job, or without a batch as well, is what no job can be made to carry.
"""

pod_places = sa.Table(
    "pod_places",
    metadata,
    sa.Column("gpu", sa.String(100), primary_key=True),
    sa.Column("cloud", sa.String(16), primary_key=True),
    sa.Column("data_center", sa.String(40), primary_key=True),
    sa.Column("refused_until", Utc, nullable=False),
    sa.Column("message", sa.Text, nullable=False, default=""),
)
"""Where a pod could not be had, and until when nobody asks there again."""

demand = sa.Table(
    "demand",
    metadata,
    sa.Column("batch", sa.String(64), primary_key=True),
    sa.Column("owner", sa.String(160), nullable=False),
    sa.Column("document", sa.Text, nullable=False),
    sa.Column("updated_at", Utc, nullable=False),
)
"""What each running batch still has to do, as its run last published it; the autoscaler reads it."""

health = sa.Table(
    "health",
    metadata,
    sa.Column("backend", sa.String(40), primary_key=True),
    sa.Column("document", sa.Text, nullable=False),
    sa.Column("history", sa.Text, nullable=False, default="[]"),
    sa.Column("checked_at", Utc, nullable=False),
)
"""The watcher's last look at each backend, and in short the looks before it."""

preferences = sa.Table(
    "preferences",
    metadata,
    sa.Column("name", sa.String(40), primary_key=True),
    sa.Column("document", sa.Text, nullable=False),
    sa.Column("updated_at", Utc, nullable=False),
)
"""System-wide preferences changed in the dashboard or over the API; they stand above the environment's."""

watchers = sa.Table(
    "watchers",
    metadata,
    sa.Column("name", sa.String(40), primary_key=True),
    sa.Column("holder", sa.String(160), nullable=False),
    sa.Column("lease_until", Utc, nullable=False),
    sa.Column("document", sa.Text, nullable=False, default="{}"),
)
"""Which process watches, until when it is believed, and what it last said of itself."""

pruned = sa.Table(
    "pruned",
    metadata,
    sa.Column("scope", sa.String(200), primary_key=True),
    sa.Column("settled_usd", Money, nullable=False),
)
"""What deleted attempts had come to, per scope and per lane (`lane:…`), so that balances can be recomputed."""

gaps = sa.Table(
    "gaps",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("taken_at", Utc, nullable=False),
    sa.Column("restored_at", Utc),
    sa.Column("closed_at", Utc),
    sa.Column("closed_because", sa.Text, nullable=False, default=""),
)
"""Times of which this ledger may know nothing: written into every backup when it is taken, so that a ledger made from
one shows it, by whatever way it was made. Nothing is bought while one is not closed."""

journals = sa.Table(
    "journals",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("host", sa.String(255), nullable=False, default=""),
    sa.Column("used_at", Utc, nullable=False),
    sa.Column("read_at", Utc),
)
"""Home folders that keep a journal of what this ledger's processes send, and when each was read after a restore."""


def _first(connection: Connection) -> None:
    metadata.create_all(connection)


def _second(connection: Connection) -> None:
    plans.create(connection, checkfirst=True)


def _third(connection: Connection) -> None:
    for table in (pods, pod_events, pod_shares, pod_places, demand, health, preferences):
        table.create(connection, checkfirst=True)


def _fourth(connection: Connection) -> None:
    watchers.create(connection, checkfirst=True)


def _fifth(connection: Connection) -> None:
    """`jobs.registered_at`: since when a job waits; `updated_at` changes with every state."""
    if "registered_at" not in {column["name"] for column in sa.inspect(connection).get_columns("jobs")}:
        connection.execute(sa.text("ALTER TABLE jobs ADD COLUMN registered_at VARCHAR(40)"))
    connection.execute(sa.update(jobs).where(jobs.c.registered_at.is_(None)).values(registered_at=jobs.c.updated_at))


def _sixth(connection: Connection) -> None:
    """Indexes for what the dashboard and the API ask every second; without them it took longer with every attempt."""
    wanted = {"jobs_by_time", "attempts_by_end", "attempts_by_day"}
    for index in [index for table in (jobs, attempts) for index in table.indexes if index.name in wanted]:
        index.create(connection, checkfirst=True)


def _seventh(connection: Connection) -> None:
    """What `ledger prune` needs."""
    pruned.create(connection, checkfirst=True)
    if "pruned_at" not in {column["name"] for column in sa.inspect(connection).get_columns("batches")}:
        connection.execute(sa.text("ALTER TABLE batches ADD COLUMN pruned_at VARCHAR(40)"))


def _eighth(connection: Connection) -> None:
    """What ran on a pod is asked with every renewal of its lease."""
    for index in attempts.indexes:
        if index.name == "attempts_by_lane":
            index.create(connection, checkfirst=True)


def _ninth(connection: Connection) -> None:
    """What a restored ledger has to know of itself."""
    for table in (gaps, journals):
        table.create(connection, checkfirst=True)


def _tenth(connection: Connection) -> None:
    """Columns that some tables had not yet in their first hour."""
    complete_first_tables(connection, pod_shares)


MIGRATIONS: tuple[Callable[[Connection], None], ...] = (
    _first,
    _second,
    _third,
    _fourth,
    _fifth,
    _sixth,
    _seventh,
    _eighth,
    _ninth,
    _tenth,
)
"""Numbered from 1 by position. Append only: a released migration is never edited."""


def migrate(connection: Connection) -> None:
    """Brings the database to the newest schema, inside the caller's transaction.

    Raises:
        LedgerError: a newer version has written it; an older one must not touch what it does not understand.
    """
    migrations.create(connection, checkfirst=True)
    done = set(connection.execute(sa.select(migrations.c.number)).scalars())
    if max(done, default=0) > len(MIGRATIONS):
        raise LedgerError(
            f"the ledger comes from a newer version of hybrid-video (migration {max(done)}, this one knows "
            f"{len(MIGRATIONS)}); install that version, or set HYBRID_VIDEO_HOME to another folder. To stay with this "
            "one, go back to the copy made before the upgrade with `hybrid-video ledger restore FILE --replace`"
        )
    for number, apply in enumerate(MIGRATIONS, start=1):
        if number not in done:
            apply(connection)
            connection.execute(migrations.insert().values(number=number, applied_at=datetime.now(UTC)))
