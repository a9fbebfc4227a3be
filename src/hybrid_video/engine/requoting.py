"""Quotes of waiting jobs kept up to date with what the batch itself has shown, without asking any backend anew."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from hybrid_video import scoring
from hybrid_video.backends.base import Backend
from hybrid_video.engine.selection import Shot
from hybrid_video.models import Attempt, Candidate, Quote, Refusal
from hybrid_video.pricing.learning import observation, work_units
from hybrid_video.pricing.timings import ServiceTimes
from hybrid_video.spread import Spread

SHARE = 0.05
"""At most this share of the time goes into new quotes: after a slow round the next one waits the longer."""

SHORTEST_PAUSE_S = 0.5
NOTICEABLE = 0.02
"""A change of less than 2 % of the expected time is not worth new quotes."""


class Requoter:
    """Learns from finished attempts and renews the offers of jobs that still wait."""

    def __init__(
        self, timings: ServiceTimes, backends: Mapping[str, Backend], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._timings = timings
        self._backends = backends
        self._clock = clock
        self._stale: set[str] = set()
        self._spreads: dict[str, Spread] = {}
        self._next_s = float("-inf")

    def expect(self, uncertain: Iterable[str]) -> None:
        """Tells which backends have times that scatter; flat times of a price list do not."""
        self._spreads = {key: Spread() for key in uncertain}

    @property
    def spread(self) -> dict[str, float]:
        """Coefficient of variation of a finished clip's time on each backend whose times are not certain."""
        return {key: spread.cv for key, spread in self._spreads.items()}

    def learn(self, attempt: Attempt) -> None:
        """Takes in one finished attempt."""
        seen = observation(attempt)
        if seen is not None:
            quoted_s = (attempt.quote.service_s - attempt.quote.cold_start_s) * attempt.quote.time_scale
            if attempt.backend in self._spreads and quoted_s > 0:
                seconds = seen.per_unit_s * work_units(attempt.tier, attempt.quote.output)
                self._spreads[attempt.backend].took(seconds / quoted_s, success=seen.success)
            self._timings.observe(seen)
            # What one place shows is lent to the others that have not made this workflow yet.
            self._stale |= self._backends.keys()

    def due(self) -> bool:
        """Whether something was learned and the last round is long enough ago."""
        return bool(self._stale) and self._clock() >= self._next_s

    def renewed(self, shots: Iterable[Shot]) -> list[Shot | None]:
        """For each waiting job its shot with new quotes; None where nothing noticeable changed."""
        began = self._clock()
        asked: dict[tuple[object, ...], Quote | Refusal] = {}
        found = [self._renewed(shot, asked) for shot in shots]
        self._stale.clear()
        ended = self._clock()
        self._next_s = ended + max(SHORTEST_PAUSE_S, (ended - began) / SHARE)
        return found

    def _renewed(self, shot: Shot, asked: dict[tuple[object, ...], Quote | Refusal]) -> Shot | None:
        offers = tuple(self._offer(offer, shot, asked) for offer in shot.offers)
        if all(new is old for new, old in zip(offers, shot.offers, strict=True)):
            return None
        fresh = replace(shot, offers=offers)
        # A job is not given up for a forecast: where every offer became too dear, the old ones stay and the spend gate
        # decides.
        return fresh if fresh.open_offers else None

    def _offer(self, offer: Candidate, shot: Shot, asked: dict[tuple[object, ...], Quote | Refusal]) -> Candidate:
        old, backend = offer.quote, self._backends.get(offer.backend)
        if old is None or backend is None or offer.refusal is not None:
            return offer
        key = (offer.backend, old.model, old.signature, old.output, old.amount_usd, old.service_s, shot.job.fit)
        if key not in asked:
            asked[key] = backend.quote(shot.job, workflow_path=shot.workflow_path)
        new = asked[key]
        if isinstance(new, Refusal) or abs(new.service_s - old.service_s) <= NOTICEABLE * old.service_s:
            return offer
        fresh = offer.model_copy(update={"quote": new})
        return fresh.model_copy(update={"refusal": scoring.permission(fresh, shot.preferences)})
