"""One consistent read of the ledger, with its errors told in our own words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from hybrid_video.errors import LedgerError
from hybrid_video.ledger import Ledger
from hybrid_video.redaction import redact


def unindexed(column: sa.Column[str]) -> sa.ColumnElement[str]:
    """A text column as an expression that no index is used for.

    SQLite keeps no statistics by itself and takes an equality before a range: of a million attempts nearly all are
    settled, and it would read every one of them instead of today's.
    """
    return column + sa.literal("")


@contextmanager
def reading(ledger: Ledger) -> Iterator[Connection]:
    """A connection whose statements all see the same moment; nothing is written through it.

    Raises:
        LedgerError: the ledger cannot be read now.
    """
    try:
        with ledger.raw().connect() as connection:
            sqlite = connection.dialect.name == "sqlite"
            if sqlite:
                connection.exec_driver_sql("BEGIN")
            else:
                connection.execution_options(isolation_level="REPEATABLE READ")
            try:
                yield connection
            finally:
                if sqlite:
                    connection.exec_driver_sql("ROLLBACK")
    except SQLAlchemyError as error:
        cause = redact(getattr(error, "orig", None) or error, limit=300)
        raise LedgerError(f"the ledger cannot be read: {cause}; try again in a moment") from None
