"""Decisions: standing offers, availability now, proposals of the dispatcher, and the reasons that are stored."""

from __future__ import annotations

import pickle
from decimal import Decimal
from typing import Any

import pytest

from hybrid_video.engine.selection import SelectionRequest, Shot, decide, options
from hybrid_video.models import Candidate, Decision, EffectivePreferences, Refusal
from tests.unit.deciding_rig import candidate, job

OFFERS = (
    candidate("comfyui", "0", 10),
    candidate("runpod-pod", "0.005", 18),
    candidate("runpod-serverless", "0.007", 20),
    candidate("gemini", "0.08", 5),
)


def shot(offers: tuple[Candidate, ...] = OFFERS, **preferences: Any) -> Shot:
    """A job with standing offers and preferences."""
    return Shot(job(), 1, EffectivePreferences.model_validate(preferences), offers=offers)


def lost(decision: Decision) -> dict[str, str]:
    """Why each loser lost."""
    return {c.backend: c.lost_because for c in decision.candidates if c.backend != decision.chosen}


def test_a_decision_holds_every_candidate_and_why_each_lost() -> None:
    """The chosen one has no reason for losing, every other has a sentence."""
    decision = decide(SelectionRequest(shot(), attempt=1))
    assert decision.chosen == "comfyui"
    assert decision.tier == "local"
    assert decision.quote == OFFERS[0].quote
    assert decision.reason == "best score, 90.0 of 100 points"
    assert {c.backend for c in decision.candidates} == {c.backend for c in OFFERS}
    assert all(len(sentence) > 10 for sentence in lost(decision).values())
    assert decision.elapsed_us > 0


def test_a_request_is_plain_data() -> None:
    """It survives pickling, because a task carries it to another process, and decides the same there."""
    request = SelectionRequest(shot(prioritize_speed=True), attempt=2, waits_s={"gemini": 3.0}, queued={"gemini": 1})
    again = pickle.loads(pickle.dumps(request))  # noqa: S301 - our own bytes
    assert decide(again).candidates == decide(request).candidates


def test_waits_and_queues_are_those_of_now() -> None:
    """The standing offers know nothing of the queue; the request does, and overflows."""
    request = SelectionRequest(shot(), 1, waits_s={"comfyui": 100.0}, queued={"comfyui": 10})
    decision = decide(request)
    assert decision.chosen == "runpod-pod"
    assert "comfyui has" in decision.reason
    assert "a wait of 100 s with 10 ahead" in decision.reason
    local = next(c for c in decision.candidates if c.backend == "comfyui")
    assert (local.wait_s, local.queued) == (100.0, 10)


def test_the_value_of_time_is_the_requests() -> None:
    """Who values time at nothing waits."""
    request = SelectionRequest(shot(), 1, waits_s={"comfyui": 100.0}, value_of_time_usd_per_h=0.0)
    assert decide(request).chosen == "comfyui"


def test_what_is_unavailable_now_is_refused_with_its_reason() -> None:
    """A breaker or an exclusion takes a backend out of this decision only."""
    resting = Refusal(code="health", reason="is resting after failures; one trial job in 30 s")
    decision = decide(SelectionRequest(shot(), 1, unavailable={"comfyui": resting}))
    assert decision.chosen == "runpod-pod"
    assert lost(decision)["comfyui"] == resting.reason


def test_a_proposal_of_the_dispatcher_is_followed_and_explained() -> None:
    """The batch's goal outweighs the score; the loser with the higher rank says so."""
    why = "cheaper backends can finish only 30 of the 97 waiting jobs within 100 s"
    request = SelectionRequest(shot(), 1, proposed="gemini", proposal_reason=why, waits_s={"comfyui": 8.0})
    decision = decide(request)
    assert (decision.chosen, decision.reason) == ("gemini", why)
    assert lost(decision)["comfyui"] == f"ranks higher for this job alone, but is busy for 8 s: {why}"
    assert lost(decision)["runpod-pod"] == f"ranks higher for this job alone, but the batch is better served: {why}"


def test_losers_are_compared_with_the_chosen_one() -> None:
    """A backend that ranks below the proposal is measured against it, not against the first of the list."""
    request = SelectionRequest(shot(), 1, proposed="runpod-serverless", proposal_reason="needed for the goal")
    sentence = lost(decide(request))["gemini"]
    assert sentence == "scores 25.7 points less, most of it on cost: $0.073 more, finished 15 s earlier"


def test_nobody_able_is_a_decision_too() -> None:
    """Nothing is chosen, and the reason lists what each one refused with."""
    down = {c.backend: Refusal(code="health", reason="does not answer") for c in OFFERS}
    decision = decide(SelectionRequest(shot(), 1, unavailable=down))
    assert decision.chosen is None
    assert decision.tier is None
    assert decision.quote is None
    assert decision.reason.startswith("no backend can take it: ")
    assert decision.reason.count("does not answer") == 4


def test_options_are_the_open_and_available_offers() -> None:
    """The dispatcher sees what is neither refused nor unavailable."""
    refused = OFFERS[0].model_copy(update={"refusal": Refusal(code="preflight", reason="misses a model")})
    found = options(shot((refused, *OFFERS[1:])), {"gemini": Refusal(code="health", reason="down")})
    assert set(found) == {"runpod-pod", "runpod-serverless"}


@pytest.mark.parametrize(
    ("preferences", "expected"),
    [
        ({"backend": "local"}, {"comfyui"}),
        ({"backend": "cloud"}, {"runpod-pod", "runpod-serverless"}),
        ({"backend": "cloud", "prefer_serverless": True}, {"runpod-serverless"}),
        ({"prefer_serverless": True}, {"comfyui", "runpod-serverless", "gemini"}),
    ],
)
def test_a_preference_narrows_the_options(preferences: dict[str, Any], expected: set[str]) -> None:
    """The preferred tier alone; of the cloud tier serverless alone, where that is preferred."""
    assert set(options(shot(**preferences), {})) == expected


def test_a_preferred_tier_that_cannot_serve_leaves_the_others() -> None:
    """Preferences fall back, limits do not."""
    down = {"comfyui": Refusal(code="health", reason="down")}
    assert set(options(shot(backend="local"), down)) == {"runpod-pod", "runpod-serverless", "gemini"}
    no_serverless = {"runpod-serverless": Refusal(code="health", reason="down")}
    assert "runpod-pod" in options(shot(prefer_serverless=True), no_serverless)


def test_a_limit_holds_in_the_decision_even_for_a_proposal() -> None:
    """A proposed backend over the limit is not chosen."""
    request = SelectionRequest(shot(max_cost_usd=Decimal("0.01")), 1, proposed="gemini", proposal_reason="in a hurry")
    decision = decide(request)
    assert decision.chosen is None
    assert lost(decision)["gemini"] == "its price of $0.08 is over the limit of $0.01"
