"""What the clips of a selection would have come to on Google alone, at today's price."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from hybrid_video.estimates import tier_quote
from hybrid_video.history.analytics import Totals
from hybrid_video.models import NANO_USD, Tier, VideoJob
from hybrid_video.pricing.quoting import Quoter
from hybrid_video.pricing.refresh import load_prices
from hybrid_video.pricing.timings import ServiceTimes
from hybrid_video.settings import Settings


@dataclass(frozen=True)
class Reference:
    """Google's price: by the second of video, or flat per clip; and the time its usual clip takes."""

    usd_per_s: Decimal
    usd_per_clip: Decimal
    service_s: float
    model: str

    def cost_usd(self, totals: Totals) -> Decimal:
        """The price of every finished clip whose length is known: whole seconds, at least three."""
        seconds = Decimal(str(totals.google_billed_s))
        return (self.usd_per_s * seconds + self.usd_per_clip * totals.sized_clips).quantize(NANO_USD)


def google_reference(settings: Settings) -> Reference:
    """The reference at the configured profile's prices.

    Raises:
        ConfigurationError: the price list has no price for it.
    """
    quoter = Quoter(load_prices(settings.routing.prices, settings), ServiceTimes())
    short, long = (
        tier_quote(quoter, settings, Tier.GEMINI, VideoJob(id="planned", prompt="planned", duration_s=seconds))
        for seconds in (5, 6)
    )
    rate = long.amount_usd - short.amount_usd
    return Reference(rate, short.amount_usd - 5 * rate, short.service_s, short.model)
