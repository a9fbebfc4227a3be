"""The score and the order it gives: visible terms, hard limits, overflow, preferences."""

from __future__ import annotations

import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_video import scoring
from hybrid_video.models import Candidate, EffectivePreferences, Refusal, ScoreWeights, Tier
from tests.unit.deciding_rig import candidate, quote

AUTO = EffectivePreferences()


def seed(queued: int = 0, *, gpus: int = 1) -> list[Candidate]:
    """The three tiers at the seed's prices, with so many clips queued on the local GPUs."""
    wait = queued / gpus * 10.0
    return [
        candidate("comfyui", "0", 10, wait_s=wait, queued=queued),
        candidate("runpod-serverless", "0.007", 20),
        candidate("gemini", "0.08", 5),
    ]


def order(ranked: list[Candidate]) -> list[str]:
    """Backends in order."""
    return [item.backend for item in ranked]


@st.composite
def candidate_lists(draw: st.DrawFn) -> list[Candidate]:
    """Up to five candidates of any price, time and wait, some refused already."""
    found = []
    for backend in draw(
        st.lists(st.sampled_from(["comfyui", "runpod-pod", "runpod-serverless", "gemini"]), unique=True, min_size=1)
    ):
        usd = draw(st.decimals(0, 3, places=3))
        item = candidate(
            backend, str(usd), draw(st.floats(0, 600)), wait_s=draw(st.floats(0, 5000)), queued=draw(st.integers(0, 99))
        )
        refusal = Refusal(code="health", reason="does not answer") if draw(st.integers(0, 4)) == 0 else None
        found.append(item.model_copy(update={"refusal": refusal}))
    return found


preference_sets = st.builds(
    EffectivePreferences,
    backend=st.sampled_from(["auto", "local", "cloud", "gemini"]),
    max_cost_usd=st.none() | st.decimals(0, 2, places=2),
    prioritize_speed=st.booleans(),
    allow_cloud_fallback=st.booleans(),
    prefer_serverless=st.booleans(),
    weights=st.builds(ScoreWeights, priority=st.floats(0, 100), cost=st.just(1), speed=st.floats(0, 100)),
)


def test_the_four_terms_are_visible_and_sum_to_the_score() -> None:
    """40 priority, 30 cost, 20 speed, 10 queue: each with its value, weight and points."""
    for item in scoring.rank(seed(), AUTO):
        assert [term.name for term in item.terms] == ["priority", "cost", "speed", "queue"]
        assert [term.weight for term in item.terms] == [40, 30, 20, 10]
        assert all(term.points == term.value * term.weight for term in item.terms)
        assert item.score == pytest.approx(sum(term.points for term in item.terms))


def test_the_seed_scores_are_what_the_formula_says() -> None:
    """Idle tiers at the seed's prices: 90, 69.04 and 43.33 points."""
    scores = {item.backend: item.score for item in scoring.rank(seed(), AUTO)}
    assert scores["comfyui"] == pytest.approx(40 + 30 + 20 * 5 / 10 + 10)
    assert scores["runpod-serverless"] == pytest.approx(40 * 2 / 3 + 30 * (1 - 0.007 / 0.08) + 20 * 5 / 20 + 10)
    assert scores["gemini"] == pytest.approx(40 / 3 + 0 + 20 + 10)


@given(candidate_lists(), preference_sets)
def test_every_value_lies_between_nothing_and_its_weight(
    candidates: list[Candidate], preferences: EffectivePreferences
) -> None:
    """No term is negative, above its weight, or not a number, whatever the prices and waits."""
    for item in scoring.rank(candidates, preferences):
        for term in item.terms:
            assert -1e-9 <= term.value <= 1 + 1e-9
        assert item.score is None or math.isfinite(item.score)


@given(candidate_lists(), preference_sets)
def test_nobody_is_lost_and_every_loser_has_a_reason(
    candidates: list[Candidate], preferences: EffectivePreferences
) -> None:
    """All candidates come back; only the winner, if there is one, has no reason for losing."""
    ranked = scoring.rank(candidates, preferences)
    assert sorted(order(ranked)) == sorted(item.backend for item in candidates)
    able = [item for item in ranked if item.refusal is None]
    assert ranked[: len(able)] == able
    for position, item in enumerate(ranked):
        assert bool(item.lost_because) is not (position == 0 and item.refusal is None)


@given(candidate_lists(), preference_sets)
def test_no_limit_is_ever_crossed(candidates: list[Candidate], preferences: EffectivePreferences) -> None:
    """What is ranked without a refusal keeps the cost limit and the permission, preferred or not."""
    for item in scoring.rank(candidates, preferences):
        if item.refusal is not None:
            continue
        assert item.quote is not None
        assert preferences.permits(item.tier)
        if preferences.max_cost_usd is not None:
            assert scoring.least_reserve_usd(item.quote) <= preferences.max_cost_usd


def test_a_free_gpu_wins_until_two_clips_wait_for_it() -> None:
    """On the seed's prices and $10 an hour one GPU keeps its job with 0 or 1 ahead; from 2 on cloud gets it."""
    winners = [order(scoring.rank(seed(queued), AUTO))[0] for queued in range(6)]
    assert winners == ["comfyui"] * 2 + ["runpod-serverless"] * 4


@pytest.mark.parametrize(("gpus", "length"), [(1, 2), (2, 3), (3, 4), (8, 11)])
def test_the_overflow_length_grows_with_the_gpus(gpus: int, length: int) -> None:
    """More GPUs drain a queue faster, so a longer one is worth waiting for."""
    assert order(scoring.rank(seed(length - 1, gpus=gpus), AUTO))[0] == "comfyui"
    assert order(scoring.rank(seed(length, gpus=gpus), AUTO))[0] == "runpod-serverless"


@given(st.integers(0, 2000))
def test_once_a_queue_is_too_long_a_longer_one_is_too(queued: int) -> None:
    """The rule has one threshold, also at a thousand jobs."""
    winner = order(scoring.rank(seed(queued), AUTO))[0]
    assert winner == ("comfyui" if queued < 2 else "runpod-serverless")


def test_the_score_itself_never_overflows() -> None:
    """Why finish and money are compared too: with 1,000 queued the free GPU still has the most points."""
    scores = {item.backend: item.score or 0.0 for item in scoring.rank(seed(1000), AUTO)}
    assert max(scores, key=lambda key: scores[key]) == "comfyui"


def test_the_overflow_is_explained_with_wait_money_and_value_of_time() -> None:
    """The crowded backend's reason holds the figures that decided."""
    lost = {item.backend: item.lost_because for item in scoring.rank(seed(5), AUTO)}
    assert lost["comfyui"] == (
        "has a wait of 50 s with 5 ahead; runpod-serverless finishes 40 s earlier for $0.007 more, "
        "and an hour of waiting is worth $10"
    )


def test_who_does_not_value_time_waits_for_the_free_gpu() -> None:
    """At $0 an hour no wait is worth a cent."""
    assert order(scoring.rank(seed(1000), AUTO, value_of_time_usd_per_h=0))[0] == "comfyui"


def test_a_slow_idle_gpu_is_not_crowded() -> None:
    """Only waiting counts: a clip of nine minutes on an idle GPU is not sold for a dearer, faster one."""
    slow = [candidate("comfyui", "0", 535), candidate("gemini", "0.35", 45)]
    assert order(scoring.rank(slow, AUTO)) == ["comfyui", "gemini"]


def test_the_preferred_tier_wins_whatever_its_queue() -> None:
    """A preference is the user's word; the losers say so."""
    ranked = scoring.rank(seed(1000), EffectivePreferences(backend="local"))
    assert order(ranked)[0] == "comfyui"
    assert {item.lost_because for item in ranked[1:]} == {"local is preferred"}


def test_a_preferred_tier_over_the_limit_is_refused() -> None:
    """The limit holds for the preferred tier too, with both amounts in the reason."""
    ranked = scoring.rank(seed(), EffectivePreferences(backend="gemini", max_cost_usd=Decimal("0.05")))
    assert order(ranked)[0] == "comfyui"
    assert ranked[-1].lost_because == "its price of $0.08 is over the limit of $0.05"


def test_the_limit_is_held_against_the_worst_case() -> None:
    """A backend that may cost more than the limit is refused before it is tried, because the spend gate would."""
    risky = Candidate(
        backend="runpod-serverless",
        tier=Tier.CLOUD,
        quote=quote("runpod-serverless", "0.02", 20, reserve_usd="0.06"),
    )
    refusal = scoring.permission(risky, EffectivePreferences(max_cost_usd=Decimal("0.05")))
    assert refusal is not None
    assert refusal.code == "limit"
    assert "$0.02 but may cost $0.06" in refusal.reason
    assert scoring.permission(risky, EffectivePreferences(max_cost_usd=Decimal("0.06"))) is None


def test_a_price_per_second_needs_only_a_fifth_more_than_expected_near_a_limit() -> None:
    """Its reservation may shrink, because the job is stopped before it crosses the limit."""
    priced = quote("runpod-serverless", "0.02", 20, reserve_usd="0.06")
    metered = priced.model_copy(update={"rate_usd_per_s": Decimal("0.001")})
    item = Candidate(backend="runpod-serverless", tier=Tier.CLOUD, quote=metered)
    assert scoring.permission(item, EffectivePreferences(max_cost_usd=Decimal("0.024"))) is None
    assert scoring.permission(item, EffectivePreferences(max_cost_usd=Decimal("0.0239"))) is not None


def test_without_cloud_fallback_no_paid_tier_is_left() -> None:
    """Cloud and Gemini alike are excluded; a tier named as the preferred one is not."""
    ranked = scoring.rank(seed(1000), EffectivePreferences(allow_cloud_fallback=False))
    assert [item.refusal.code if item.refusal else None for item in ranked] == [None, "permission", "permission"]
    named = scoring.rank(seed(), EffectivePreferences(allow_cloud_fallback=False, backend="gemini"))
    assert [item.backend for item in named if item.refusal is None] == ["gemini", "comfyui"]


def test_a_maximum_cost_of_nothing_is_an_ordinary_limit() -> None:
    """With a limit of 0 the free GPU stays, with a finite score, and the paid tiers are refused."""
    ranked = scoring.rank(seed(), EffectivePreferences(max_cost_usd=Decimal(0)))
    assert [item.refusal is None for item in ranked] == [True, False, False]
    assert ranked[0].score == pytest.approx(100)


def test_speed_first_takes_the_earliest_finish() -> None:
    """Prioritised speed goes to Google when idle, and the others are told how much later they are."""
    ranked = scoring.rank(seed(), EffectivePreferences(prioritize_speed=True))
    assert order(ranked) == ["gemini", "comfyui", "runpod-serverless"]
    assert ranked[1].lost_because == "would finish 5 s later, and speed is prioritised"


def test_speed_first_counts_the_wait() -> None:
    """A fast backend with a queue is not fast."""
    busy = [candidate("comfyui", "0", 10), candidate("gemini", "0.08", 5, wait_s=60, queued=12)]
    assert order(scoring.rank(busy, EffectivePreferences(prioritize_speed=True)))[0] == "comfyui"


def test_finishes_within_two_percent_are_the_same() -> None:
    """Nobody pays for a second in a minute."""
    near = [candidate("comfyui", "0", 100), candidate("gemini", "0.08", 99)]
    assert order(scoring.rank(near, EffectivePreferences(prioritize_speed=True)))[0] == "comfyui"


def test_serverless_is_preferred_within_cloud_only() -> None:
    """It passes a pod of a better score, but not the local GPU."""
    three = [
        candidate("comfyui", "0", 10),
        candidate("runpod-pod", "0.003", 15),
        candidate("runpod-serverless", "0.007", 20),
    ]
    assert order(scoring.rank(three, AUTO)) == ["comfyui", "runpod-pod", "runpod-serverless"]
    ranked = scoring.rank(three, EffectivePreferences(prefer_serverless=True))
    assert order(ranked) == ["comfyui", "runpod-serverless", "runpod-pod"]
    both = scoring.rank(three[1:], EffectivePreferences(prefer_serverless=True))
    assert both[1].lost_because == "serverless is preferred within the cloud tier"


def test_serverless_takes_the_place_of_the_best_of_the_cloud() -> None:
    """Where a pod would have won, serverless wins, and the local GPU is told so."""
    weights = ScoreWeights(priority=0, cost=100, speed=0, queue=0)
    three = [
        candidate("comfyui", "0.005", 10),
        candidate("runpod-pod", "0.003", 15),
        candidate("runpod-serverless", "0.007", 20),
    ]
    ranked = scoring.rank(three, EffectivePreferences(prefer_serverless=True, weights=weights))
    assert order(ranked) == ["runpod-serverless", "runpod-pod", "comfyui"]
    assert ranked[2].lost_because == "the cloud tier scores best, and serverless is preferred within it"


def test_preferring_serverless_does_not_demote_pods_where_there_is_none() -> None:
    """A pod keeps its place before Google."""
    two = [candidate("gemini", "0.35", 45), candidate("runpod-pod", "0.02", 60)]
    assert order(scoring.rank(two, EffectivePreferences(prefer_serverless=True)))[0] == "runpod-pod"


def test_weights_are_shares() -> None:
    """Doubling all of them changes no order; the user's own weights do."""
    doubled = EffectivePreferences(weights=ScoreWeights(priority=80, cost=60, speed=40, queue=20))
    assert order(scoring.rank(seed(), doubled)) == order(scoring.rank(seed(), AUTO))
    hasty = EffectivePreferences(weights=ScoreWeights(priority=0, cost=0, speed=100, queue=0))
    assert order(scoring.rank(seed(), hasty))[0] == "gemini"


def test_refused_candidates_come_last_with_their_refusal() -> None:
    """A refusal made earlier (health, capability) is kept as it is."""
    down = candidate("comfyui", "0", 10).model_copy(
        update={"refusal": Refusal(code="health", reason="does not answer: connection refused")}
    )
    ranked = scoring.rank([down, *seed()[1:]], AUTO)
    assert order(ranked)[-1] == "comfyui"
    assert ranked[-1].lost_because == "does not answer: connection refused"
    assert ranked[-1].score is None


def test_an_endless_wait_is_a_number() -> None:
    """A wait nobody can bound costs all of speed and queue, and makes no score not a number."""
    endless = [candidate("comfyui", "0", 10, wait_s=math.inf), candidate("gemini", "0.08", 5)]
    ranked = scoring.rank(endless, AUTO)
    assert order(ranked)[0] == "gemini"
    assert ranked[1].score == pytest.approx(70)
