"""Quotes and settlements: the only place where seconds become money.

`gpu_time` serves backends that bill by the second of GPU, `video_time` those that bill by the second of video. In the
profile `seed` both give the seed's flat price and time per video. Amounts are rounded up to a hundred-thousandth of a
cent (1e-7 dollars), never to floats.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, ROUND_UP, Decimal

from hybrid_video.models import CostEntry, OutputSpec, Quote, Tier
from hybrid_video.pricing.catalog import PriceBook, PriceEntry
from hybrid_video.pricing.timings import ServiceTimes

QUANTUM = Decimal("0.0000001")
PESSIMISM = 2.5
"""A reservation covers this many times the expected GPU-seconds, and never less than the cold start on top."""


def _round(amount: Decimal, *, up: bool = False) -> Decimal:
    return amount.quantize(QUANTUM, rounding=ROUND_UP if up else ROUND_HALF_EVEN)


@dataclass(frozen=True)
class Quoter:
    """Turns expected and measured seconds into money with one price book and one set of timings.

    `time_scale` is 1 except beside emulators that run faster than real time: expected waits are divided by it, money
    is not.
    """

    prices: PriceBook
    timings: ServiceTimes
    time_scale: float = 1.0

    def gpu_time(
        self,
        *,
        backend: str,
        tier: Tier,
        model: str,
        gpu: str,
        output: OutputSpec,
        cold_start_s: float = 0.0,
        longest_s: float | None = None,
    ) -> Quote:
        """Quote for a backend billed by the GPU-second.

        Args:
            cold_start_s: expected billed seconds before the work begins (0 when warm).
            longest_s: hard limit after which the vendor ends the job; bounds the reservation.
        """
        price = self.prices.find(backend=backend, tier=tier, gpu=gpu, model=model)
        if price.unit == "video":
            return self._flat(price, backend=backend, tier=tier, model=model, output=output)
        service_s, timing = self.timings.expected_s(backend=backend, tier=tier, gpu=gpu, model=model, output=output)
        billed_s = math.ceil(service_s + cold_start_s)
        worst_s = math.ceil(service_s * PESSIMISM + max(cold_start_s, 60.0))
        if longest_s is not None:
            worst_s = max(billed_s, min(worst_s, math.ceil(longest_s + cold_start_s)))
        return Quote(
            backend=backend,
            tier=tier,
            model=model,
            amount_usd=_round(price.usd * billed_s),
            reserve_usd=_round(price.usd * worst_s, up=True),
            service_s=(service_s + cold_start_s) / self.time_scale,
            output=output,
            rate_usd_per_s=_round(price.usd * Decimal(str(self.time_scale))),
            basis=f"{billed_s} GPU-seconds at ${price.usd}/s ({price.id}, checked {price.checked}); {timing}",
        )

    def video_time(
        self, *, backend: str, tier: Tier, model: str, resolution: str, billed_video_s: float, output: OutputSpec
    ) -> Quote:
        """Quote for a backend billed by the second of video; the price is exact, so the reservation equals it."""
        price = self.prices.find(backend=backend, tier=tier, model=model, resolution=resolution)
        if price.unit == "video":
            return self._flat(price, backend=backend, tier=tier, model=model, output=output)
        service_s, timing = self.timings.expected_s(backend=backend, tier=tier, gpu="", model=model, output=output)
        amount = _round(price.usd * Decimal(str(billed_video_s)))
        return Quote(
            backend=backend,
            tier=tier,
            model=model,
            amount_usd=amount,
            reserve_usd=amount,
            service_s=service_s / self.time_scale,
            output=output,
            basis=f"{billed_video_s:g} s of {resolution} video at ${price.usd}/s "
            f"({price.id}, checked {price.checked}); {timing}",
        )

    def settle_gpu_time(self, quote: Quote, *, gpu: str, billed_s: float | None, success: bool) -> CostEntry:
        """Cost of a GPU-billed attempt from the vendor's own times (rounded up to whole seconds).

        Without times a success costs its quote and a failure nothing is known of costs its reservation.
        """
        price = self.prices.find(backend=quote.backend, tier=quote.tier, gpu=gpu, model=quote.model)
        if price.unit == "video":
            amount = price.usd if success else Decimal(0)
            return CostEntry(amount_usd=amount, basis=f"flat price per video ({price.id})", source="metered")
        if billed_s is None:
            amount = quote.amount_usd if success else quote.reserve_usd
            return CostEntry(amount_usd=amount, basis="the vendor reported no times; the quote stands", source="quoted")
        seconds = math.ceil(billed_s)
        return CostEntry(
            amount_usd=_round(price.usd * seconds),
            basis=f"{seconds} GPU-seconds at ${price.usd}/s ({price.id})",
            source="metered",
        )

    def settle_video(self, quote: Quote, *, delivered: bool, basis: str) -> CostEntry:
        """Cost of a clip billed by its length: the quote when it was delivered (or is charged), nothing otherwise."""
        amount = quote.amount_usd if delivered else Decimal(0)
        return CostEntry(amount_usd=amount, basis=basis, source="metered")

    def _flat(self, price: PriceEntry, *, backend: str, tier: Tier, model: str, output: OutputSpec) -> Quote:
        return Quote(
            backend=backend,
            tier=tier,
            model=model,
            amount_usd=price.usd,
            reserve_usd=price.usd,
            service_s=(price.seconds or 0.0) / self.time_scale,
            output=output,
            basis=f"${price.usd} a video, {price.seconds:g} s ({price.id}, {price.source})",
        )
