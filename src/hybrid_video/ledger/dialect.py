"""Statements compiled once for all ledgers of a process, not once for each time one is opened.

Whoever looks at a SQLite ledger opens it, reads and closes it: each time with an engine of its own, and SQLAlchemy
would compile every statement anew for it, because what it remembers belongs to one engine and one dialect object.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.util import LRUCache

DRIVER: Final = "sqlite+shared"
"""The beginning of the URL of an engine that speaks it."""

_STATEMENTS: Final[LRUCache[Any, Any]] = LRUCache(1000)


class SharedDialect(SQLiteDialect_pysqlite):
    """SQLite's own dialect; all of one process are the same, because the library in it is."""

    supports_statement_cache = True

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(type(self))


registry.register("sqlite.shared", __name__, "SharedDialect")


def sharing() -> dict[str, Any]:
    """Arguments of `create_engine` with which an engine uses what the others have compiled."""
    return {"execution_options": {"compiled_cache": _STATEMENTS}}
