"""The figures of the overview in Prometheus' text format."""

from __future__ import annotations

from hybrid_video import views
from hybrid_video.ledger import Ledger
from hybrid_video.settings import Settings


def exposition(ledger: Ledger, settings: Settings) -> str:
    """One scrape."""
    seen = views.overview(ledger, settings)
    lines = [
        "# TYPE hybrid_video_jobs gauge",
        *(
            f'hybrid_video_jobs{{state="{state}"}} {count}'
            for state, count in (
                ("active", seen.active_jobs),
                ("pending", seen.queued_jobs),
                ("uncertain", seen.uncertain_jobs),
            )
        ),
        "# TYPE hybrid_video_settled_usd counter",
        f"hybrid_video_settled_usd {seen.spend.total_usd}",
        "# TYPE hybrid_video_reserved_usd gauge",
        f"hybrid_video_reserved_usd {seen.spend.reserved_usd}",
        "# TYPE hybrid_video_pods gauge",
        f"hybrid_video_pods {seen.pods.open}",
    ]
    return "\n".join(lines) + "\n"
