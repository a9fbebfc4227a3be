"""Looks at what should be looked after: open pods, and the watcher that renews their leases and checks health."""

from __future__ import annotations

from hybrid_video.doctor.findings import Finding
from hybrid_video.ledger import Ledger
from hybrid_video.models import utc_now
from hybrid_video.pods.store import PodStore
from hybrid_video.settings import Settings
from hybrid_video.watcher.health_store import HealthStore
from hybrid_video.watcher.lease import Holder, watching
from hybrid_video.watcher.loop import pods_configured

STALE_S = 180.0


def look_at_pods(ledger: Ledger, settings: Settings) -> Finding:
    """Pods that may cost money now."""
    store = PodStore(ledger)
    alive = store.alive()
    if not alive:
        level = "ok" if pods_configured(settings) else "off"
        return Finding(subject="pods", level=level, detail="none is open")
    per_hour = sum(pod.usd_per_h for pod in alive)
    detail = f"{len(alive)} open, ${per_hour:.2f} an hour: {', '.join(f'{p.name} ({p.state})' for p in alive[:5])}"
    late = [pod.name for pod in alive if pod.lease_until is not None and pod.lease_until < utc_now()]
    if late:
        remedy = "run `hybrid-video reconcile`: it compares with RunPod's list and ends what should not be there"
        return Finding(
            subject="pods", level="error", detail=f"{detail}; lease run out: {', '.join(late)}", remedy=remedy
        )
    holder = watching(ledger)
    if holder is None or not holder.believed:
        remedy = "start `hybrid-video watch` (or `hybrid-video up`), or end them with `hybrid-video pods stop-all`"
        return Finding(subject="pods", level="error", detail=f"{detail}; nobody watches them", remedy=remedy)
    return Finding(subject="pods", level="ok", detail=detail)


def look_at_watcher(ledger: Ledger, settings: Settings) -> Finding:
    """Whether somebody checks health and pods, and how old the newest look is."""
    holder = watching(ledger)
    ages = [seen.age_s for seen in HealthStore(ledger).latest().values()]
    age = f"newest look {min(ages):.0f} s ago" if ages else "nothing looked at yet"
    if holder is not None and holder.believed:
        if ages and min(ages) > STALE_S:
            remedy = "look at its log; stop it and start `hybrid-video watch` again"
            return Finding(subject="watcher", level="warning", detail=f"{holder.label}, but the {age}", remedy=remedy)
        return Finding(subject="watcher", level="ok", detail=f"{holder.label}, {age}")
    return _without(holder, settings, age)


def _without(holder: Holder | None, settings: Settings, age: str) -> Finding:
    remedy = "`hybrid-video watch` keeps health fresh and opens and ends pods; `hybrid-video up` starts it as well"
    if holder is not None and pods_configured(settings):
        detail = f"{holder.label} has gone; {age}"
        return Finding(subject="watcher", level="warning", detail=detail, remedy=remedy)
    return Finding(subject="watcher", level="off", detail=f"none runs; {age}", remedy=remedy)
