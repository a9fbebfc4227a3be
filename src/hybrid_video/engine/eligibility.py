"""Which backends a waiting job may be given now, and whether it had better wait for a cheaper one."""

from __future__ import annotations

import time
from collections.abc import Collection
from decimal import ROUND_DOWN, Decimal

from hybrid_video import scoring
from hybrid_video.engine.fleet import Fleet
from hybrid_video.engine.progress import JobProgress
from hybrid_video.models import Batch, Quote, Refusal

PATIENT_OPENINGS = 3
NANO = Decimal("0.000000001")


class Eligibility:
    """Answers for the jobs of one run that began at `began_s` (monotonic seconds)."""

    def __init__(self, fleet: Fleet, batch: Batch, *, began_s: float, value_of_time_usd_per_h: float) -> None:
        self._fleet = fleet
        self._batch = batch
        self._began_s = began_s
        self._value_of_time_usd_per_h = value_of_time_usd_per_h

    def unavailable(self, progress: JobProgress, headroom: Decimal) -> dict[str, Refusal]:
        """Backends this job cannot be given now, each with the reason."""
        blocked: dict[str, Refusal] = {}
        now = time.monotonic()
        for key, quote in progress.shot.open_offers.items():
            resting = self._fleet.unavailable(key, quote.model)
            if resting is not None:
                blocked[key] = resting
            elif key in progress.excluded:
                blocked[key] = Refusal(code="excluded", reason="an attempt of this job failed there")
            elif key in progress.limited and now < progress.limited[key][0]:
                blocked[key] = Refusal(code="limit", reason=progress.limited[key][1])
            elif fitted(quote, headroom) is None:
                blocked[key] = Refusal(code="limit", reason=f"only ${headroom:f} of the batch budget is left")
        able = progress.shot.open_offers.keys() - blocked.keys()
        if progress.last_backend in able and len(able) > 1:
            blocked[progress.last_backend] = Refusal(code="excluded", reason="the last attempt failed there")
        return blocked

    def worth_waiting(
        self,
        progress: JobProgress,
        found: dict[str, Quote],
        blocked: dict[str, Refusal],
        now: float,
        counted: Collection[str] = (),
    ) -> bool:
        """Whether a cheaper backend only rests, and soon enough that buying from a dearer one would waste money.

        Never for a job that failed there, one in a hurry, one whose preferred tier is free, or after the third rest in
        a row.

        Args:
            counted: backends whose return the dispatcher counts on: it weighs that for the whole batch.
        """
        wishes = progress.shot.preferences
        if wishes.prioritize_speed or any(quote.tier.value == wishes.backend for quote in found.values()):
            return False
        price = min(quote.amount_usd for quote in found.values())
        for key, refusal in blocked.items():
            quote = progress.shot.open_offers[key]
            breaker = self._fleet.breaker(key, quote.model)
            resting = refusal.code == "breaker" and key not in counted
            if not resting or key == progress.last_backend or breaker.openings >= PATIENT_OPENINGS:
                continue
            wait_s = max(0.0, (breaker.open_until_s or now) - now) + quote.service_s
            late = self._batch.deadline_s is not None and now - self._began_s + 2 * wait_s > self._batch.deadline_s
            waiting_usd = wait_s / 3600 * self._value_of_time_usd_per_h
            if not late and float(price - quote.amount_usd) > waiting_usd:
                return True
        return False

    def last_resort(self, progress: JobProgress, blocked: dict[str, Refusal], working: set[str]) -> dict[str, Quote]:
        """The last able backend is never locked out: where only breakers stand in the way, one job is let through.

        Args:
            working: backends that have an attempt under way.
        """
        if any(refusal.code == "health" for refusal in blocked.values()):
            return {}
        resting = [key for key, refusal in blocked.items() if refusal.code == "breaker" and key not in working]
        return {key: progress.shot.open_offers[key] for key in resting[:1]}


def fitted(quote: Quote, headroom_usd: Decimal) -> Quote | None:
    """The quote with a reservation that fits; None if even a tight one does not.

    A price per second is reserved with much to spare. Where a limit is closer than that, the reservation may shrink to
    a fifth above the expected cost, and the job is stopped if it would cross the limit.
    """
    if quote.reserve_usd <= headroom_usd:
        return quote
    if scoring.least_reserve_usd(quote) > headroom_usd:
        return None
    return quote.model_copy(update={"reserve_usd": headroom_usd.quantize(NANO, rounding=ROUND_DOWN)})
