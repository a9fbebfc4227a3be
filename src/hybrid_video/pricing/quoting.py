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
from hybrid_video.pricing.learning import Kind
from hybrid_video.pricing.timings import ServiceTimes

QUANTUM = Decimal("0.0000001")
PESSIMISM = 2.5
"""A reservation covers this many times the expected GPU-seconds, and never less than the cold start on top."""

KNOWN_FROM = 5
"""From so many finished clips on, what nine of ten took replaces the flat pessimism."""

P90_MARGIN = 1.25
"""A reservation covers this many times what nine of ten clips took: a clip that outgrows it may have to be stopped."""


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
        signature: str = "",
    ) -> Quote:
        """Quote for a backend billed by the GPU-second.

        Args:
            cold_start_s: expected seconds before the work begins (0 when warm), as published. They are billed to
                the endpoint, never booked for a job, and stand in the quote as `start_usd`.
            longest_s: hard limit after which the vendor ends the job; bounds the reservation.
            signature: settings of the workflow that its time depends on; what was learned is kept apart by it.
        """
        price = self.prices.find(backend=backend, tier=tier, gpu=gpu, model=model)
        if price.unit == "video":
            return self._flat(price, backend=backend, tier=tier, model=model, output=output)
        time = self.timings.estimate(Kind(tier, backend, gpu, model, signature, cold=cold_start_s > 0), output)
        cold_start_s = self.timings.cold_start_s(backend=backend, gpu=gpu, published_s=cold_start_s)
        service_s = time.expected_s
        billed_s, start_s = math.ceil(service_s), math.ceil(cold_start_s)
        start_usd = _round(price.usd * start_s)
        starting = f"; starting a worker takes {start_s} s (${start_usd}, billed to the endpoint)" if start_s else ""
        work_worst_s = time.p90_s * P90_MARGIN if time.observed >= KNOWN_FROM else service_s * PESSIMISM
        worst_s = max(billed_s + start_s, math.ceil(work_worst_s + max(cold_start_s, 60.0)))
        if longest_s is not None:
            worst_s = max(billed_s + start_s, min(worst_s, math.ceil(longest_s + cold_start_s)))
        return Quote(
            backend=backend,
            tier=tier,
            model=model,
            amount_usd=_round(price.usd * billed_s),
            reserve_usd=_round(price.usd * worst_s, up=True),
            start_usd=start_usd,
            service_s=(service_s + cold_start_s) / self.time_scale,
            output=output,
            rate_usd_per_s=_round(price.usd * Decimal(str(self.time_scale))),
            basis=f"{billed_s} GPU-seconds at ${price.usd}/s ({price.id}, checked {price.checked}){starting}; "
            f"{time.basis}",
            service_p90_s=(time.p90_s + self.timings.cold_start_p90_s(backend, gpu, cold_start_s)) / self.time_scale,
            cold_start_s=cold_start_s / self.time_scale,
            observed=time.observed,
            signature=signature,
            time_scale=self.time_scale,
        )

    def video_time(
        self, *, backend: str, tier: Tier, model: str, resolution: str, billed_video_s: float, output: OutputSpec
    ) -> Quote:
        """Quote for a backend billed by the second of video; the price is exact, so the reservation equals it."""
        price = self.prices.find(backend=backend, tier=tier, model=model, resolution=resolution)
        if price.unit == "video":
            return self._flat(price, backend=backend, tier=tier, model=model, output=output)
        time = self.timings.estimate(Kind(tier, backend, "", model), output)
        amount = _round(price.usd * Decimal(str(billed_video_s)))
        return Quote(
            backend=backend,
            tier=tier,
            model=model,
            amount_usd=amount,
            reserve_usd=amount,
            service_s=time.expected_s / self.time_scale,
            output=output,
            basis=f"{billed_video_s:g} s of {resolution} video at ${price.usd}/s "
            f"({price.id}, checked {price.checked}); {time.basis}",
            service_p90_s=time.p90_s / self.time_scale,
            observed=time.observed,
            time_scale=self.time_scale,
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
            basis=f"${price.usd} a video, {price.seconds or 0:g} s ({price.id}, {price.source})",
        )
