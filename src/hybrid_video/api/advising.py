"""Recommendations: what the figures of this moment say is worth doing. Each names its figures; none is a constant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal

from hybrid_video import views
from hybrid_video.api.bodies import Recommendation
from hybrid_video.doctor import OLD_PRICES_DAYS
from hybrid_video.engine.report import money
from hybrid_video.ledger import Ledger
from hybrid_video.models import Health
from hybrid_video.settings import Settings
from hybrid_video.views import BackendView, Overview

NEARLY_USED = Decimal("0.8")
_ORDER = {"now": 0, "soon": 1, "idea": 2}


def recommend(ledger: Ledger, settings: Settings, checked: Mapping[str, Health]) -> tuple[Recommendation, ...]:
    """Everything worth doing, the most urgent first."""
    seen = views.overview(ledger, settings)
    backends = views.backends(ledger, settings, checked=checked)
    found = [*_setup(backends), *_health(backends), *_budgets(seen), *_jobs(seen, backends), *_prices(backends)]
    return tuple(sorted(found, key=lambda item: _ORDER[item.urgency]))


def _setup(backends: tuple[BackendView, ...]) -> Iterator[Recommendation]:
    configured = [view for view in backends if view.configured]
    if not configured:
        yield Recommendation(
            kind="setup",
            urgency="now",
            message="no backend is configured, so no clip can be made",
            action=backends[0].setup,
        )
        return
    if len(configured) == 1:
        other = next(view for view in backends if not view.configured)
        yield Recommendation(
            kind="setup",
            urgency="idea",
            message=f"{configured[0].backend} is the only backend; when it fails or is full, jobs wait or fail",
            action=f"add a second one: {other.setup}",
        )


def _health(backends: tuple[BackendView, ...]) -> Iterator[Recommendation]:
    for view in backends:
        if view.state == "unhealthy" and view.health is not None:
            text = f"{view.backend} does not work: {view.health.detail}"
            yield Recommendation(kind="health", urgency="now", message=text, action=view.health.remedy)
        for breaker in view.breakers:
            if breaker.state != "closed":
                text = f"{view.backend} rests for {breaker.model}: {breaker.last_error}"
                wait = f"a trial job may go there in {breaker.rests_s:.0f} s" if breaker.rests_s else ""
                yield Recommendation(kind="breaker", urgency="now", message=text, action=wait)


def _budgets(seen: Overview) -> Iterator[Recommendation]:
    spend = seen.spend
    limits: list[tuple[str, Decimal, Decimal | None]] = [
        ("daily budget", spend.today_usd, spend.day_cap_usd),
        ("monthly budget", spend.month_usd, spend.month_cap_usd),
    ]
    limits += [(f"monthly budget for {line.tier.value}", line.month_usd, line.month_cap_usd) for line in spend.by_tier]
    for name, used, cap in limits:
        if cap is None or used < cap * NEARLY_USED or not cap:
            continue
        yield Recommendation(
            kind="budget",
            urgency="now" if used >= cap else "soon",
            message=f"${money(used)} of the {name} of ${money(cap)} is spent ({used / cap:.0%})",
            action="raise it, or let jobs wait for the local GPU",
        )


def _jobs(seen: Overview, backends: tuple[BackendView, ...]) -> Iterator[Recommendation]:
    if seen.uncertain_jobs:
        yield Recommendation(
            kind="uncertain",
            urgency="soon",
            message=f"nobody can say yet whether {seen.uncertain_jobs} jobs were made; "
            f"${money(seen.spend.reserved_usd)} is held",
            action="run `hybrid-video reconcile`: they are looked up, never sent twice",
        )
    lanes = sum(view.lanes for view in backends if view.state != "unhealthy")
    if lanes and seen.queued_jobs > 5 * lanes:
        yield Recommendation(
            kind="waiting",
            urgency="idea",
            message=f"{seen.queued_jobs} jobs wait for {lanes} places that make one clip at a time",
            action="a deadline on the batch buys speed where it is cheapest; more pods add places",
        )


def _prices(backends: tuple[BackendView, ...]) -> Iterator[Recommendation]:
    for view in backends:
        ages = [line.age_days for line in view.prices] if view.configured else []
        if ages and max(ages) > OLD_PRICES_DAYS:
            yield Recommendation(
                kind="prices",
                urgency="soon",
                message=f"a price of {view.backend} was checked {max(ages)} days ago",
                action="compare it with the vendor's page, or run `hybrid-video prices`",
            )
