"""Which backends a job may use, and the decision between them, with the reason each one lost."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hybrid_video import scoring
from hybrid_video.engine.fleet import Fleet
from hybrid_video.models import Candidate, Decision, EffectivePreferences, Quote, Refusal, Tier, VideoJob, utc_now
from hybrid_video.observing import traced


@dataclass(frozen=True)
class Shot:
    """A job with everything that was resolved for it before the run: preferences, files, standing offers."""

    job: VideoJob
    seed: int
    preferences: EffectivePreferences
    image_path: Path | None = None
    workflow_path: Path | None = None
    offers: tuple[Candidate, ...] = ()
    lenient: bool = False
    """The user's own workflow does not say what clip it makes, so only a broken clip is refused."""

    @property
    def open_offers(self) -> dict[str, Quote]:
        """Quotes of the backends that could make it, availability aside."""
        return {c.backend: c.quote for c in self.offers if c.refusal is None and c.quote is not None}


@dataclass(frozen=True)
class SelectionRequest:
    """Everything one decision depends on; picklable, no live objects."""

    shot: Shot
    attempt: int
    proposed: str | None = None
    proposal_reason: str = ""
    waits_s: Mapping[str, float] = field(default_factory=dict)
    queued: Mapping[str, int] = field(default_factory=dict)
    unavailable: Mapping[str, Refusal] = field(default_factory=dict)
    value_of_time_usd_per_h: float = scoring.VALUE_OF_TIME_USD_PER_H


async def make_offers(
    fleet: Fleet, job: VideoJob, preferences: EffectivePreferences, image_path: Path | None, workflow_path: Path | None
) -> tuple[Candidate, ...]:
    """Every backend's standing answer to a job: a quote, or a refusal from capability, limits or preflight."""
    offers = []
    for key, backend in fleet.backends.items():
        answer = backend.quote(job, workflow_path=workflow_path)
        if isinstance(answer, Refusal):
            offers.append(Candidate(backend=key, tier=backend.tier, refusal=answer))
            continue
        offer = Candidate(backend=key, tier=backend.tier, quote=answer)
        refusal = scoring.permission(offer, preferences)
        if refusal is None and key not in fleet.down:
            refusal = await backend.preflight(job, workflow_path=workflow_path, image_path=image_path)
        offers.append(offer.model_copy(update={"refusal": refusal}))
    return tuple(offers)


def options(shot: Shot, unavailable: Mapping[str, Refusal]) -> dict[str, Quote]:
    """Quotes of the backends the dispatcher may use for a job now.

    The preferred tier alone, if it can serve; and of the cloud tier serverless alone, where that is preferred.
    """
    able = {key: quote for key, quote in shot.open_offers.items() if key not in unavailable}
    if shot.preferences.prefer_serverless and scoring.SERVERLESS in able:
        able = {k: quote for k, quote in able.items() if k == scoring.SERVERLESS or quote.tier is not Tier.CLOUD}
    preferred = shot.preferences.backend
    wanted = {key: quote for key, quote in able.items() if quote.tier.value == preferred}
    return wanted or able


@traced("decide")
def decide(request: SelectionRequest) -> Decision:
    """The decision: the dispatcher's proposal where there is one, else the best rank.

    The candidates are ranked in either case and stored with their scores. A proposal wins over a higher rank because
    it knows the whole batch (its goal and what the cheaper backends can still finish); the reason says so.
    """
    began = time.perf_counter_ns()
    preferences, rate = request.shot.preferences, request.value_of_time_usd_per_h
    candidates = [_as_of_now(offer, request) for offer in request.shot.offers]
    ranked = scoring.rank(candidates, preferences, value_of_time_usd_per_h=rate)
    chosen = _chosen(ranked, request.proposed)
    if chosen is None:
        reason = "no backend can take it: " + "; ".join(f"{c.backend}: {c.lost_because or 'not asked'}" for c in ranked)
        final = tuple(ranked)
    else:
        reason = request.proposal_reason or _own_reason(chosen, ranked)
        final = tuple(_with_loss(c, chosen, ranked, request, reason) for c in ranked)
    return Decision(
        job=request.shot.job.id,
        attempt=request.attempt,
        chosen=chosen.backend if chosen else None,
        tier=chosen.tier if chosen else None,
        reason=reason,
        candidates=final,
        decided_at=utc_now(),
        elapsed_us=(time.perf_counter_ns() - began) / 1000,
    )


def _as_of_now(offer: Candidate, request: SelectionRequest) -> Candidate:
    refusal = offer.refusal or request.unavailable.get(offer.backend)
    return offer.model_copy(
        update={
            "refusal": refusal,
            "wait_s": request.waits_s.get(offer.backend, 0.0),
            "queued": request.queued.get(offer.backend, 0),
        }
    )


def _chosen(ranked: Sequence[Candidate], proposed: str | None) -> Candidate | None:
    able = [candidate for candidate in ranked if candidate.refusal is None]
    if proposed is not None:
        return next((candidate for candidate in able if candidate.backend == proposed), None)
    return able[0] if able else None


def _own_reason(chosen: Candidate, ranked: Sequence[Candidate]) -> str:
    """Why the first in rank is the first: its score, or what outweighs a higher one."""
    points = f"{chosen.score or 0:.1f} of {sum(term.weight for term in chosen.terms):g} points"
    higher = [c for c in ranked if c.refusal is None and (c.score or 0) > (chosen.score or 0)]
    if not higher:
        return f"best score, {points}"
    best = max(higher, key=lambda c: c.score or 0)
    return f"{points}; {best.backend} has {best.score or 0:.1f}, but {best.lost_because}"


def _with_loss(
    candidate: Candidate, chosen: Candidate, ranked: Sequence[Candidate], request: SelectionRequest, reason: str
) -> Candidate:
    if candidate.refusal is not None:
        return candidate
    if candidate.backend == chosen.backend:
        return candidate.model_copy(update={"lost_because": ""})
    scored = [c for c in ranked if c.refusal is None]
    loss = scoring.difference(chosen, candidate, scored, request.shot.preferences, request.value_of_time_usd_per_h)
    if not loss or scored.index(candidate) < scored.index(chosen):
        busy = f"is busy for {candidate.wait_s:.0f} s" if candidate.wait_s else "the batch is better served"
        loss = f"ranks higher for this job alone, but {busy}: {reason}"
    return candidate.model_copy(update={"lost_because": loss})
