"""Cost and latency history in DuckDB, for analysis; rebuilt from the ledger at any time."""

from hybrid_video.history.store import History

__all__ = ["History"]
