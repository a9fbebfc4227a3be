"""The weighted score, pure: candidates in, the same candidates out with every term visible, best first.

Each term is a value between 0 and 1 times its weight (40 priority, 30 cost, 20 speed, 10 queue unless the user says
otherwise):

    priority  1 for local, 2/3 for cloud, 1/3 for gemini
    cost      1 - price / dearest price among the candidates
    speed     earliest expected finish / own expected finish, wait included
    queue     own service time / own expected finish: 1 when it can start at once, towards 0 as the wait grows

The score alone cannot overflow: on the seed's prices a free local GPU keeps at least 70 points however long its queue,
and cloud never has more than 69.04. So expected finish and expected money are compared as well. A backend is crowded
when another one finishes earlier and its extra price is less than the time saved is worth; crowded ones rank behind the
others. An idle backend is never crowded, whatever it takes for a clip: only waiting counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal

from hybrid_video.models import Candidate, EffectivePreferences, Quote, Refusal, ScoreTerm, Tier

TIER_PRIORITY = {Tier.LOCAL: 1.0, Tier.CLOUD: 2 / 3, Tier.GEMINI: 1 / 3}
SAME_FINISH = 0.02
"""Finishes within 2 % of each other count as equal when speed decides."""

VALUE_OF_TIME_USD_PER_H = 10.0
"""What an hour of waiting is worth where nobody says otherwise."""

SERVERLESS = "runpod-serverless"
TIGHT = Decimal("1.2")


def permission(candidate: Candidate, preferences: EffectivePreferences) -> Refusal | None:
    """Why the user's limits forbid a candidate, if they do. A hard limit holds for preferred backends too.

    The limit is held against the least that must be reserved, because the spend gate would refuse it otherwise.
    """
    quote = candidate.quote
    if not preferences.permits(candidate.tier):
        return Refusal(
            code="permission",
            reason=f"cloud fallback is not allowed, and {candidate.tier.value} is neither local nor the named backend",
        )
    limit = preferences.max_cost_usd
    if quote is None or limit is None:
        return None
    if quote.amount_usd > limit:
        return Refusal(code="limit", reason=f"its price of ${quote.amount_usd:f} is over the limit of ${limit:f}")
    least = least_reserve_usd(quote)
    if least > limit:
        return Refusal(
            code="limit",
            reason=f"it is expected to cost ${quote.amount_usd:f} but may cost ${least:f}, which is over the limit of "
            f"${limit:f}",
        )
    return None


def least_reserve_usd(quote: Quote) -> Decimal:
    """The smallest reservation with which a job may start.

    A price per second is reserved with much to spare; near a limit that may shrink to a fifth above the expected cost,
    because the job is stopped before it crosses the limit. The start of a worker counts: it is billed too, and a limit
    that cannot carry it is no limit to start with. Any other price is reserved whole.
    """
    return min(quote.reserve_usd, quote.caused_usd * TIGHT) if quote.rate_usd_per_s else quote.reserve_usd


def rank(
    candidates: Sequence[Candidate],
    preferences: EffectivePreferences,
    *,
    value_of_time_usd_per_h: float = VALUE_OF_TIME_USD_PER_H,
) -> list[Candidate]:
    """Scores and orders the candidates; refused ones come last, each with what it lost by.

    The order is: the user's preferred tier, then what is not crowded, then the earliest finish if speed is prioritised,
    then the score.
    """
    judged = [_with_permission(candidate, preferences) for candidate in candidates]
    open_ = [c for c in judged if c.refusal is None and c.quote is not None]
    refused = [c.model_copy(update={"lost_because": c.refusal.reason}) for c in judged if c.refusal is not None]
    if not open_:
        return refused
    dearest = max(float(_quote(c).caused_usd) for c in open_)
    earliest = min(c.finish_s for c in open_)
    scored = [_score(c, preferences, dearest=dearest, earliest=earliest) for c in open_]
    best_cloud = _best_cloud(scored)

    def order(candidate: Candidate) -> tuple[object, ...]:
        late = preferences.prioritize_speed and candidate.finish_s > earliest * (1 + SAME_FINISH)
        lifted = preferences.prefer_serverless and candidate.backend == SERVERLESS
        return (
            not _preferred(candidate, preferences),
            late,
            candidate.finish_s if late else 0.0,
            crowded_by(candidate, scored, value_of_time_usd_per_h) is not None,
            -(best_cloud if lifted else candidate.score or 0.0),
            not lifted,
            _quote(candidate).caused_usd,
            candidate.backend,
        )

    best, *others = sorted(scored, key=order)
    losers = [
        c.model_copy(update={"lost_because": difference(best, c, scored, preferences, value_of_time_usd_per_h)})
        for c in others
    ]
    return [best, *losers, *refused]


def crowded_by(
    candidate: Candidate, others: Sequence[Candidate], value_of_time_usd_per_h: float = VALUE_OF_TIME_USD_PER_H
) -> Candidate | None:
    """The candidate that makes waiting for this one a bad bargain, if there is one: the one with the most to gain."""
    gains = [(_gain(candidate, other, value_of_time_usd_per_h), other.backend, other) for other in others]
    best = max((gain for gain in gains if gain[0] > 0), key=lambda gain: gain[:2], default=None)
    return best[2] if best else None


def difference(
    best: Candidate,
    other: Candidate,
    scored: Sequence[Candidate],
    preferences: EffectivePreferences,
    value_of_time_usd_per_h: float = VALUE_OF_TIME_USD_PER_H,
) -> str:
    """What a scored candidate lost by against the chosen one, as a sentence; empty where it ranks no lower."""
    if _preferred(best, preferences) and not _preferred(other, preferences):
        return f"{preferences.backend} is preferred"
    if preferences.prioritize_speed and other.finish_s > best.finish_s:
        return f"would finish {other.finish_s - best.finish_s:.0f} s later, and speed is prioritised"
    rival = crowded_by(other, scored, value_of_time_usd_per_h)
    if rival is not None and crowded_by(best, scored, value_of_time_usd_per_h) is None:
        extra = _quote(rival).caused_usd - _quote(other).caused_usd
        return (
            f"has a wait of {other.wait_s:.0f} s with {other.queued} ahead; {rival.backend} finishes "
            f"{other.finish_s - rival.finish_s:.0f} s earlier for {_money(extra)}, and an hour of waiting is worth "
            f"${value_of_time_usd_per_h:g}"
        )
    gap = (best.score or 0.0) - (other.score or 0.0)
    if preferences.prefer_serverless and best.backend == SERVERLESS and other.tier is Tier.CLOUD:
        return "serverless is preferred within the cloud tier"
    if gap < 0:
        lifted = preferences.prefer_serverless and best.backend == SERVERLESS
        won = lifted and _best_cloud(scored) >= (other.score or 0.0)
        return "the cloud tier scores best, and serverless is preferred within it" if won else ""
    gaps = {theirs.name: mine.points - theirs.points for mine, theirs in zip(best.terms, other.terms, strict=True)}
    worst = max(gaps, key=lambda name: gaps[name])
    delay = other.finish_s - best.finish_s
    when = f"{delay:.0f} s later" if delay > 0 else f"{-delay:.0f} s earlier" if delay < 0 else "at the same time"
    money = _money(_quote(other).caused_usd - _quote(best).caused_usd)
    return f"scores {gap:.1f} points less, most of it on {worst}: {money}, finished {when}"


def _best_cloud(scored: Sequence[Candidate]) -> float:
    return max((c.score or 0.0 for c in scored if c.tier is Tier.CLOUD), default=0.0)


def _money(extra: Decimal) -> str:
    return f"${extra:f} more" if extra > 0 else f"${-extra:f} less" if extra < 0 else "the same price"


def _gain(waiting: Candidate, other: Candidate, value_of_time_usd_per_h: float) -> float:
    """Dollars gained by not waiting: the wait saved at its value, less the extra price; 0 where nothing is saved."""
    saved_s = min(waiting.wait_s, waiting.finish_s - other.finish_s)
    if saved_s <= 0:
        return 0.0
    extra = float(_quote(other).caused_usd - _quote(waiting).caused_usd)
    return saved_s * value_of_time_usd_per_h / 3600 - extra


def _preferred(candidate: Candidate, preferences: EffectivePreferences) -> bool:
    return candidate.tier.value == preferences.backend


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
        ("cost", 1.0 - _share(float(_quote(candidate).caused_usd), dearest, nothing=0.0), weights.cost),
        ("speed", _share(earliest, finish), weights.speed),
        ("queue", _share(_quote(candidate).service_s, finish), weights.queue),
    )
    terms = tuple(ScoreTerm(name=n, value=v, weight=w, points=v * w) for n, v, w in values)
    return candidate.model_copy(update={"terms": terms, "score": sum(term.points for term in terms)})


def _share(part: float, whole: float, *, nothing: float = 1.0) -> float:
    """`part / whole`, a number even where the whole is nothing or endless."""
    if whole <= 0:
        return nothing
    return 0.0 if math.isinf(whole) else part / whole
