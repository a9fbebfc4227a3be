"""Quotes of waiting jobs kept up to date with what the batch itself has shown, without asking any backend anew."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from hybrid_video import scoring
from hybrid_video.backends.base import Backend
from hybrid_video.engine.selection import Shot
from hybrid_video.models import Attempt, Candidate, Quote, Refusal
from hybrid_video.pricing.learning import observation
from hybrid_video.pricing.timings import ServiceTimes

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
        self._next_s = float("-inf")

    def learn(self, attempt: Attempt) -> None:
        """Takes in one finished attempt."""
        seen = observation(attempt)
        if seen is not None:
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
