"""Which backends a job may use, and the decision between them, with the reason each one lost."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hybrid_video import scoring
from hybrid_video.engine.fleet import Fleet
from hybrid_video.models import Candidate, Decision, EffectivePreferences, Quote, Refusal, VideoJob, utc_now


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
    """Quotes of the backends the dispatcher may use for a job now; the preferred tier alone, if it can serve."""
    able = {key: quote for key, quote in shot.open_offers.items() if key not in unavailable}
    preferred = shot.preferences.backend
    wanted = {key: quote for key, quote in able.items() if quote.tier.value == preferred}
    return wanted or able


def decide(request: SelectionRequest) -> Decision:
    """The decision: the dispatcher's proposal where there is one, else the best score.

    The score ranks all candidates in either case and is stored with them. A proposal wins over a higher score because
    it knows the whole batch (its goal and what the cheaper backends can still finish); the reason says so.
    """
    began = time.perf_counter_ns()
    candidates = [_as_of_now(offer, request) for offer in request.shot.offers]
    ranked = scoring.rank(candidates, request.shot.preferences)
    chosen = _chosen(ranked, request.proposed)
    reason = request.proposal_reason
    if chosen is None:
        reason = "no backend can take it: " + "; ".join(f"{c.backend}: {c.lost_because}" for c in ranked)
    elif not reason:
        reason = f"best score, {chosen.score or 0:.1f} of {sum(term.weight for term in chosen.terms):g} points"
    final = tuple(_with_loss(c, chosen, reason) for c in ranked)
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


def _with_loss(candidate: Candidate, chosen: Candidate | None, reason: str) -> Candidate:
    if chosen is None:
        return candidate
    if candidate.backend == chosen.backend:
        return candidate.model_copy(update={"lost_because": ""})
    if candidate.lost_because:
        return candidate
    return candidate.model_copy(
        update={"lost_because": f"scores higher, but has no free lane now (wait {candidate.wait_s:.0f} s): {reason}"}
    )
