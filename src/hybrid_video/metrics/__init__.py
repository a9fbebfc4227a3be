"""What Prometheus scrapes: every family is computed from the ledger at the moment of the scrape, by whoever serves it.

Nothing is counted in memory, so any process (API replica, `hybrid-video up`) gives the same answer, a restart resets
nothing, and the sums are those of the ledger. `deploy/grafana` and `deploy/prometheus` use these names; a test holds
them together.
"""

from hybrid_video.metrics.exposition import CONTENT_TYPE, exposition, families

__all__ = ["CONTENT_TYPE", "exposition", "families"]
