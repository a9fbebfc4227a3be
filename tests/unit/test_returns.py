"""Which absent machines a run counts on, and for which jobs."""

from __future__ import annotations

import math
import time

import pytest

from hybrid_video.engine.breaker import OPEN_S, Breaker
from hybrid_video.engine.fleet import Fleet
from hybrid_video.engine.progress import JobProgress
from hybrid_video.engine.returns import Returns, also, merged
from hybrid_video.engine.selection import Shot
from hybrid_video.goals import AFFORDABLE, OUTAGE_S, LaneState
from hybrid_video.models import Candidate, EffectivePreferences, JobState, Refusal
from tests.unit.deciding_rig import SEED_QUOTES, job
from tests.unit.engine_rig import ScriptedBackend

LANES = [LaneState("local-0", "local"), LaneState("local-1", "local", 4.0, 1), LaneState("gemini-0", "gemini")]


def progress(**wishes: object) -> JobProgress:
    """A job that local, cloud and gemini may make."""
    offers = tuple(Candidate(backend=key, tier=quote.tier, quote=quote) for key, quote in SEED_QUOTES.items())
    shot = Shot(job(), seed=0, preferences=EffectivePreferences.model_validate(wishes), offers=offers)
    return JobProgress(shot, JobState.PENDING, 0)


@pytest.fixture
def fleet() -> Fleet:
    """A GPU and a paid tier."""
    return Fleet({key: ScriptedBackend(key) for key in ("local", "gemini")})


def test_a_lane_that_was_never_there_is_not_counted_on(fleet: Fleet) -> None:
    """Only what answered in this run may come back to it."""
    assert Returns(fleet).away(LANES[2:], [], 0.0, None) == {}


def test_a_lane_that_has_gone_counts_until_outages_are_usually_over(fleet: Fleet) -> None:
    """It takes nothing, is free after what is left of the outage, and is forgotten after it; back, it is itself."""
    known = Returns(fleet)
    known.away(LANES, [], 0.0, None)
    (first, second) = known.away(LANES[2:], [], 10.0, None)["local"]
    assert (first.id, first.free_s, first.outstanding, first.ahead) == ("local-0", OUTAGE_S, 1, 0)
    assert second.free_s == OUTAGE_S
    assert known.away(LANES[2:], [], 22.0, None)["local"][0].free_s == OUTAGE_S - 12
    assert known.away(LANES[2:], [], 11.0 + OUTAGE_S, None) == {}
    assert known.away(LANES, [], 50.0, None) == {}
    assert known.troubled
    assert not Returns(fleet).troubled


def test_nobody_waits_for_a_return_with_a_deadline_near(fleet: Fleet) -> None:
    """There must be time to be wrong."""
    known = Returns(fleet)
    known.away(LANES, [], 0.0, None)
    assert known.away(LANES[2:], [], 1.0, AFFORDABLE * OUTAGE_S + 1)
    assert not known.away(LANES[2:], [], 1.0, AFFORDABLE * OUTAGE_S - 1)


def test_closed_pods_are_not_waited_for(fleet: Fleet) -> None:
    """Whoever closes one knows why; the roster tells of those that are starting."""
    known, pod = Returns(fleet), LaneState("pod/a", "runpod-pod", paid=True)
    known.away([pod, *LANES], [], 0.0, None)
    assert not known.away(LANES, [], 1.0, None)


def test_a_backend_at_its_first_rest_is_counted_on_until_its_trial_is_over(fleet: Fleet) -> None:
    """Its own lanes stand for it, free when the rest (then the trial) ends; a second rest ends the patience."""
    known, waiting, now = Returns(fleet), [progress()], time.monotonic()
    breaker = fleet.breaker("local", "m")
    for _ in range(3):
        breaker.failed(now, fatal=False)
    assert [lane.free_s for lane in known.away(LANES, waiting, now + 10, None)["local"]] == [OPEN_S - 10] * 2
    breaker.started(now + OPEN_S)
    assert [lane.free_s for lane in known.away(LANES, waiting, now + OPEN_S + 1, None)["local"]] == [4.0, 4.0]
    breaker.failed(now + OPEN_S + 2, fatal=False)
    assert known.away(LANES, waiting, now + OPEN_S + 3, None) == {}
    assert breaker.rested_s(now + OPEN_S + 3) == math.inf
    assert Breaker().rested_s(now) == 0.0


def test_a_backend_that_works_for_another_model_stays_itself(fleet: Fleet) -> None:
    """One workflow fails there and another does not: its lanes are in use, so nothing stands in for them."""
    other = progress()
    offers = tuple(
        offer.model_copy(update={"quote": offer.quote.model_copy(update={"model": "n"})})
        for offer in other.shot.offers
        if offer.quote is not None
    )
    other.shot = Shot(job("b"), seed=0, preferences=other.shot.preferences, offers=offers)
    fleet.breaker("local", "m").failed(0.0, fatal=True)
    known = Returns(fleet)
    assert known.away(LANES, [progress()], 1.0, None)
    assert known.away(LANES, [progress(), other], 1.0, None) == {}


def test_those_that_come_back_replace_the_lanes_of_their_name() -> None:
    """No lane counts twice."""
    away = {"local": [LaneState("local-0", "local", 9.0, 1), LaneState("local-7", "local", 9.0, 1)]}
    found = {lane.id: lane.free_s for lane in merged(LANES, away)}
    assert found == {"local-0": 9.0, "local-1": 4.0, "gemini-0": 0.0, "local-7": 9.0}


def test_a_job_waits_for_what_is_cheaper_and_has_not_failed_it() -> None:
    """Not where it failed before, not when speed comes first, not for a lasting refusal, not for something dearer."""
    resting = {"local": Refusal(code="breaker", reason="rests"), "cloud": Refusal(code="health", reason="down")}
    found = {"gemini": SEED_QUOTES["gemini"]}
    assert set(also(progress(), found, resting, ["local", "cloud"])) == {"local", "cloud"}
    assert also(progress(prioritize_speed=True), found, resting, ["local"]) == []
    failed = progress()
    failed.last_backend = "local"
    assert also(failed, found, resting, ["local"]) == []
    limited = {"local": Refusal(code="limit", reason="dear")}
    assert also(progress(), found, limited, ["local"]) == []
    away = {"gemini": Refusal(code="breaker", reason="rests")}
    assert also(progress(), {"local": SEED_QUOTES["local"]}, away, ["gemini"]) == []
