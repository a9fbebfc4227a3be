"""The tables as they were in the hours before each migration had its final form: brought to that form, with every row.

Whoever followed the project from the start may have such a ledger. A migration that creates a table leaves one alone
that is there already, so these kept the columns of their first hour.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

ADDED = (
    ("jobs", "cancel_requested_at", "VARCHAR(40)"),
    ("attempts", "workflow_path", "TEXT NOT NULL DEFAULT ''"),
    ("health", "history", "TEXT NOT NULL DEFAULT '[]'"),
    ("pods", "storage_usd_per_h", "BIGINT NOT NULL DEFAULT 0"),
    ("pods", "batch", "VARCHAR(64) NOT NULL DEFAULT ''"),
    ("pods", "day", "VARCHAR(10) NOT NULL DEFAULT ''"),
    ("pods", "owner", "VARCHAR(160)"),
    ("pods", "cost_usd", "BIGINT"),
)


def complete_first_tables(connection: Connection, pod_shares: sa.Table) -> None:
    """Adds what is missing; changes nothing where nothing is. Inside the caller's transaction."""
    looked = sa.inspect(connection)
    for table, column, kind in ADDED:
        if column not in {found["name"] for found in looked.get_columns(table)}:
            connection.execute(sa.text(f"ALTER TABLE {table} ADD COLUMN {column} {kind}"))
    connection.execute(sa.text("UPDATE pods SET day = substr(intended_at, 1, 10) WHERE day = ''"))
    if "day" not in looked.get_pk_constraint(pod_shares.name)["constrained_columns"]:
        kept = [dict(row) for row in connection.execute(sa.select(pod_shares)).mappings()]
        pod_shares.drop(connection)
        pod_shares.create(connection)
        if kept:
            connection.execute(sa.insert(pod_shares), kept)
