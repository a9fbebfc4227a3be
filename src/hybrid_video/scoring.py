"""The weighted score, pure: candidates in, the same candidates out with every term visible, best first.

Each term is a value between 0 and 1 times its weight (40 priority, 30 cost, 20 speed, 10 queue unless the user says
otherwise):

    priority  1 for local, 2/3 for cloud, 1/3 for gemini
    cost      1 - price / dearest price among the candidates
    speed     earliest expected finish / own expected finish, wait included
    queue     own service time / own expected finish: 1 when it can start at once, towards 0 as the wait grows

Speed and queue see the wait, so a long queue costs a free backend up to 30 points and there is a length at which the
next tier wins; with the earlier system's terms the local GPU won with a thousand jobs queued.
"""

from __future__ import annotations

from collections.abc import Sequence

from hybrid_video.models import Candidate, EffectivePreferences, Quote, Refusal, ScoreTerm, Tier

TIER_PRIORITY = {Tier.LOCAL: 1.0, Tier.CLOUD: 2 / 3, Tier.GEMINI: 1 / 3}
SAME_FINISH = 0.02
"""Finishes within 2 % of each other count as equal when speed decides."""


def permission(candidate: Candidate, preferences: EffectivePreferences) -> Refusal | None:
    """Why the user's limits forbid a candidate, if they do. A hard limit holds for preferred backends too."""
    quote = candidate.quote
    if not preferences.permits(candidate.tier):
        return Refusal(
            code="permission",
            reason=f"cloud fallback is not allowed, and {candidate.tier.value} is neither local nor the named backend",
        )
    if quote is not None and preferences.max_cost_usd is not None and quote.amount_usd > preferences.max_cost_usd:
        return Refusal(
            code="limit",
            reason=f"its price of ${quote.amount_usd:f} is over the limit of ${preferences.max_cost_usd:f}",
        )
    return None


def rank(candidates: Sequence[Candidate], preferences: EffectivePreferences) -> list[Candidate]:
    """Scores and orders the candidates; refused ones come last, each with what it lost by.

    The order is: the user's preferred tier, then the earliest finish if speed is prioritised, then the score.
    """
    judged = [_with_permission(candidate, preferences) for candidate in candidates]
    open_ = [c for c in judged if c.refusal is None and c.quote is not None]
    refused = [c.model_copy(update={"lost_because": c.refusal.reason}) for c in judged if c.refusal is not None]
    if not open_:
        return refused
    dearest = max(float(_quote(c).amount_usd) for c in open_)
    earliest = min(c.finish_s for c in open_)
    scored = [_score(c, preferences, dearest=dearest, earliest=earliest) for c in open_]
    scored.sort(key=lambda c: _order(c, preferences, earliest))
    best = scored[0]
    losers = [c.model_copy(update={"lost_because": _difference(best, c, preferences)}) for c in scored[1:]]
    return [best, *losers, *refused]


def _with_permission(candidate: Candidate, preferences: EffectivePreferences) -> Candidate:
    if candidate.refusal is not None:
        return candidate
    return candidate.model_copy(update={"refusal": permission(candidate, preferences)})


def _quote(candidate: Candidate) -> Quote:
    assert candidate.quote is not None  # noqa: S101 - only called for open candidates
    return candidate.quote


def _score(candidate: Candidate, preferences: EffectivePreferences, *, dearest: float, earliest: float) -> Candidate:
    weights = preferences.weights
    finish = candidate.finish_s
    values = (
        ("priority", TIER_PRIORITY[candidate.tier], weights.priority),
        ("cost", 1.0 - float(_quote(candidate).amount_usd) / dearest if dearest > 0 else 1.0, weights.cost),
        ("speed", earliest / finish if finish > 0 else 1.0, weights.speed),
        ("queue", _quote(candidate).service_s / finish if finish > 0 else 1.0, weights.queue),
    )
    terms = tuple(ScoreTerm(name=n, value=v, weight=w, points=v * w) for n, v, w in values)
    return candidate.model_copy(update={"terms": terms, "score": sum(term.points for term in terms)})


def _order(candidate: Candidate, preferences: EffectivePreferences, earliest: float) -> tuple[object, ...]:
    preferred = preferences.backend != "auto" and candidate.tier.value == preferences.backend
    finish = 0.0
    if preferences.prioritize_speed and candidate.finish_s > earliest * (1 + SAME_FINISH):
        finish = candidate.finish_s
    serverless = candidate.backend == "runpod-serverless"
    wanted = serverless if preferences.prefer_serverless and candidate.tier is Tier.CLOUD else True
    return (
        not preferred,
        finish,
        not wanted,
        -(candidate.score or 0.0),
        _quote(candidate).amount_usd,
        candidate.backend,
    )


def _difference(best: Candidate, other: Candidate, preferences: EffectivePreferences) -> str:
    if preferences.backend != "auto" and best.tier.value == preferences.backend != other.tier.value:
        return f"{preferences.backend} is preferred"
    if preferences.prioritize_speed and other.finish_s > best.finish_s * (1 + SAME_FINISH):
        return f"would finish {other.finish_s - best.finish_s:.0f} s later, and speed is prioritised"
    gaps = {theirs.name: mine.points - theirs.points for mine, theirs in zip(best.terms, other.terms, strict=True)}
    worst = max(gaps, key=lambda name: gaps[name])
    extra = _quote(other).amount_usd - _quote(best).amount_usd
    money = f"${extra:f} dearer" if extra > 0 else f"${-extra:f} cheaper" if extra < 0 else "the same price"
    delay = other.finish_s - best.finish_s
    when = f"{delay:.0f} s later" if delay > 0 else f"{-delay:.0f} s earlier" if delay < 0 else "at the same time"
    return (
        f"scores {(best.score or 0) - (other.score or 0):.1f} points less, most of it on {worst}: "
        f"{money}, finished {when}"
    )
