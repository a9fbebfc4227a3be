"""What Prometheus scrapes: every family is computed from the ledger at the moment of the scrape, by whoever serves it.

Nothing is counted beside the ledger, so any process (API replica, `hybrid-video up`) gives the same answer and a
restart resets nothing; only after `hybrid-video ledger prune` are a new process's totals smaller. `deploy/grafana` and
`deploy/prometheus` use these names; a test holds them together.
"""

from hybrid_video.metrics.exposition import CONTENT_TYPE, exposition, families

__all__ = ["CONTENT_TYPE", "exposition", "families"]
