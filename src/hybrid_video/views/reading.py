"""One consistent read of the ledger, with its errors told in our own words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from hybrid_video.errors import LedgerError
from hybrid_video.ledger import Ledger
from hybrid_video.redaction import redact


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
