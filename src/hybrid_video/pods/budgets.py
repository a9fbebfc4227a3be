"""Which balances a pod's money counts in, and what the settings allow there."""

from __future__ import annotations

from decimal import Decimal

from hybrid_video.ledger import money
from hybrid_video.ledger.money import Caps
from hybrid_video.models import Tier
from hybrid_video.settings import Settings

Limits = dict[str, tuple[str, Decimal | None]]


def caps_of(settings: Settings) -> Caps:
    """The budgets that a pod counts in: day, month, and the cloud tier's month."""
    routing = settings.routing
    return Caps(
        day_usd=routing.daily_budget_usd,
        month_usd=routing.monthly_budget_usd,
        tier_usd=routing.monthly_tier_budgets_usd.get(Tier.CLOUD),
    )


def scopes(day: str, batch: str = "", caps: Caps = money.UNLIMITED) -> Limits:
    """Every scope that pod money counts in; a batch's budget only for a pod opened for that batch."""
    every = money.scopes(batch, "", day, Tier.CLOUD.value, caps)
    every.pop(f"job:{batch}/")
    if not batch:
        every.pop("batch:")
    return every
