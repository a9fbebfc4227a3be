"""The dispatcher on a virtual clock: the exact optimum where times are known, and its rules one by one."""

from __future__ import annotations

import random
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_video import dispatcher, planner
from hybrid_video.dispatcher import Goal, LaneState, PendingJob
from hybrid_video.planner import Resource
from tests.unit.deciding_rig import SEED_LANES, SEED_QUOTES, quote, simulate

SEED = tuple(Resource(k, SEED_LANES[k], q.service_s, q.amount_usd) for k, q in SEED_QUOTES.items())
HUNDRED = [PendingJob(f"shot-{n}", SEED_QUOTES) for n in range(100)]


def free_lanes(**counts: int) -> list[LaneState]:
    """Idle lanes, `n` of each backend."""
    return [LaneState(f"{key}-{n}", key) for key, count in counts.items() for n in range(count)]


@pytest.mark.parametrize("ahead", [0, 1])
@pytest.mark.parametrize("deadline_s", range(40, 350, 10))
def test_known_times_give_exactly_the_least_cost_for_the_deadline(deadline_s: int, ahead: int) -> None:
    """At each of the 31 published deadlines the cost is the optimum to the cent and the deadline is kept."""
    outcome = simulate(HUNDRED, lambda now: deadline_s - now, ahead=ahead)
    best = planner.cheapest_by(SEED, 100, deadline_s)
    assert best is not None
    assert outcome.cost_usd == best.cost_usd
    assert outcome.end_s <= deadline_s
    assert len({made.job for made in outcome.made}) == len(outcome.made) == 100


@pytest.mark.parametrize("ahead", [0, 1])
def test_no_lane_ever_holds_more_than_it_may(ahead: int) -> None:
    """One clip at a time, and one more behind it only on the GPUs that can hold it."""
    outcome = simulate(HUNDRED, lambda now: 160 - now, ahead=ahead)
    for lane, most in outcome.most_held.items():
        assert most <= 1 + (ahead if lane.startswith("local") else 0)


@given(
    st.integers(1, 40),
    st.fixed_dictionaries({key: st.integers(0, 3) for key in SEED_LANES}).filter(lambda lanes: any(lanes.values())),
    st.floats(1, 400),
    st.integers(0, 1),
    st.randoms(use_true_random=False),
)
@settings(max_examples=60, deadline=None)
def test_every_job_is_assigned_once_whatever_the_times(
    count: int, lanes: dict[str, int], deadline_s: float, ahead: int, rng: random.Random
) -> None:
    """Random times, lanes and goals: nothing is lost, doubled or left waiting for ever."""
    jobs = [PendingJob(f"shot-{n}", SEED_QUOTES, urgent=rng.random() < 0.1) for n in range(count)]
    outcome = simulate(
        jobs,
        lambda now: deadline_s - now,
        lanes=lanes,
        ahead=ahead,
        service=lambda item, backend: item.options[backend].service_s * rng.uniform(0.3, 3),
    )
    assert sorted(made.job for made in outcome.made) == sorted(item.id for item in jobs)


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(0, 2)), min_size=18, max_size=18), st.floats(1, 300))
@settings(max_examples=60, deadline=None)
def test_lanes_and_groups_are_left_as_they_were(state: list[tuple[float, int]], horizon_s: float) -> None:
    """Asking twice gives the same answer: the inputs are not used up."""
    lanes = free_lanes(**SEED_LANES)
    for lane, (free_s, outstanding) in zip(lanes, state, strict=True):
        lane.free_s, lane.outstanding = free_s if outstanding else 0.0, outstanding
    groups = dispatcher.grouped(HUNDRED)
    first = dispatcher.assign(groups, lanes, horizon_s)
    assert dispatcher.assign(groups, lanes, horizon_s) == first
    held = {lane.id: lane.outstanding for lane in lanes}
    for made in first:
        held[made.lane] += 1
    assert all(count <= max(1, lane.outstanding) for lane, count in zip(lanes, held.values(), strict=True))


def test_without_haste_the_free_gpu_makes_everything() -> None:
    """With 340 s for 100 clips nothing is bought."""
    outcome = simulate(HUNDRED, lambda now: 340 - now)
    assert outcome.cost_usd == 0
    assert outcome.end_s == 340


def test_a_lane_that_would_be_late_takes_a_job_only_if_no_other_finishes_it_earlier() -> None:
    """Ten seconds for 100 clips: slots of 20 s stay empty, because Google still finishes each clip earlier."""
    outcome = simulate(HUNDRED, lambda now: 10 - now)
    assert outcome.end_s <= 60
    assert {made.backend for made in outcome.made} == {"local", "gemini"}
    assert any("cannot be met; no other finishes it earlier" in made.reason for made in outcome.made)


def test_an_urgent_job_goes_where_it_finishes_first() -> None:
    """Speed is prioritised for one job: it goes to Google at once, though nobody is in a hurry."""
    jobs = [PendingJob("calm", SEED_QUOTES), PendingJob("urgent", SEED_QUOTES, urgent=True)]
    made = dispatcher.assign(dispatcher.grouped(jobs), free_lanes(**SEED_LANES), 1000)
    assert {item.job: item.backend for item in made} == {"calm": "local", "urgent": "gemini"}
    assert "speed is prioritised" in next(item.reason for item in made if item.job == "urgent")


def test_a_job_with_one_option_waits_for_it_and_is_not_sent_elsewhere() -> None:
    """A preferred or only backend that is busy keeps its job waiting; others pass by it."""
    lanes = free_lanes(local=1, gemini=1)
    lanes[0].outstanding, lanes[0].free_s = 1, 8.0
    jobs = [PendingJob("only-local", {"local": SEED_QUOTES["local"]}), PendingJob("any", SEED_QUOTES, urgent=True)]
    made = dispatcher.assign(dispatcher.grouped(jobs), lanes, 5)
    assert [(item.job, item.backend) for item in made] == [("any", "gemini")]


def test_jobs_of_one_size_are_taken_in_the_order_given() -> None:
    """Order holds across kinds of jobs: the first job that a lane may take is the one it takes."""
    dear = {"local": SEED_QUOTES["local"], "cloud": quote("cloud", "0.02", 60)}
    jobs = [PendingJob("a", SEED_QUOTES), PendingJob("b", dear), PendingJob("c", SEED_QUOTES)]
    made = dispatcher.assign(dispatcher.grouped(jobs), free_lanes(local=2), 1000)
    assert [item.job for item in made] == ["a", "b"]


def test_rank_comes_before_size_and_size_before_arrival() -> None:
    """A small job of high priority goes first; among equals the largest does, so that small ones fill the end."""
    small, large = {"local": quote("local", "0", 10)}, {"local": quote("local", "0", 30)}
    jobs = [
        PendingJob("small", small),
        PendingJob("large", large),
        PendingJob("first", small, rank=dispatcher.precedence(80) - dispatcher.precedence(0)),
    ]
    made = dispatcher.assign(dispatcher.grouped(jobs), free_lanes(local=3), 1000)
    assert [item.job for item in made] == ["first", "large", "small"]


def test_each_assignment_says_why_now_and_there() -> None:
    """Cheapest, only, needed for the goal, or too late: each is a sentence."""
    made = dispatcher.assign(dispatcher.grouped(HUNDRED), free_lanes(**SEED_LANES), 100)
    reasons = {item.backend: item.reason for item in made}
    assert reasons["local"] == "the cheapest backend that can take it, and free"
    assert reasons["cloud"] == "cheaper backends can finish only 27 of the 93 waiting jobs within 100 s"
    few = dispatcher.assign(dispatcher.grouped(HUNDRED[:1]), free_lanes(local=1, cloud=1, gemini=1), 5)
    assert few[0].reason == "cheaper backends cannot finish the waiting job within 5 s"
    alone = dispatcher.assign(dispatcher.grouped(HUNDRED[:1]), free_lanes(cloud=1), 100)
    assert alone[0].reason == "the only backend that can take it"


def test_room_that_is_too_uncertain_is_not_called_too_little() -> None:
    """That they can finish only 2 of 2 would be no reason."""
    scattering = {"local": 0.3, "cloud": 0.5}
    lanes = free_lanes(local=1, cloud=1, gemini=1)
    made = dispatcher.assign(dispatcher.grouped(HUNDRED[:2]), lanes, 20, spread=scattering)
    assert {item.backend: item.reason for item in made}["cloud"] == (
        "cheaper backends might not finish the waiting job within 20 s: their times scatter"
    )


def test_without_a_deadline_nothing_is_bought_against_chance() -> None:
    """Both were planned on the own GPU for nothing, and nobody asked for 20 s; what cannot be made there is bought."""
    scattering = {"local": 0.3, "cloud": 0.5}
    lanes = free_lanes(local=1, cloud=1, gemini=1)
    two, five = (dispatcher.grouped(HUNDRED[:count]) for count in (2, 5))
    planned = dispatcher.assign(two, lanes, 20, soft=True, spread=scattering)
    short = dispatcher.assign(five, lanes, 20, soft=True, spread=scattering)
    assert [item.backend for item in planned] == ["local"]
    assert {item.backend for item in short} >= {"local", "cloud"}


def test_a_deadline_is_planned_with_most_of_a_service_time_in_hand() -> None:
    """160 s are planned as 148 s, because real times scatter: with half a clip only 94 of 100 batches were on time."""
    goal = Goal(deadline_s=160)
    assert dispatcher.horizon(goal, dispatcher.grouped(HUNDRED), free_lanes(**SEED_LANES)) == 148


def test_a_budget_gives_the_shortest_time_it_can_pay_for() -> None:
    """$0.46 buys 180 s and nothing buys 340 s; half the shortest service time (2.5 s) is added to both."""
    groups, lanes = dispatcher.grouped(HUNDRED), free_lanes(**SEED_LANES)
    assert dispatcher.horizon(Goal(budget_usd=Decimal("0.46")), groups, lanes) == 182.5
    assert dispatcher.horizon(Goal(budget_usd=Decimal(0)), groups, lanes) == 342.5


def test_a_budget_holds_even_where_the_deadline_asks_for_more() -> None:
    """A deadline of 100 s costs $3.78; with $0.46 it is missed by as little as the money allows."""
    groups, lanes = dispatcher.grouped(HUNDRED), free_lanes(**SEED_LANES)
    assert dispatcher.horizon(Goal(100, Decimal("0.46")), groups, lanes) == 180
    assert dispatcher.horizon(Goal(300, Decimal("0.46")), groups, lanes) == 288


def test_an_impossible_deadline_becomes_the_shortest_possible_time() -> None:
    """One second for 100 clips is planned as 40 s."""
    assert dispatcher.horizon(Goal(deadline_s=1), dispatcher.grouped(HUNDRED), free_lanes(**SEED_LANES)) == 40


def test_without_a_goal_the_value_of_time_decides() -> None:
    """Neither deadline nor budget: the kink of the frontier, to the second."""
    groups, lanes = dispatcher.grouped(HUNDRED), free_lanes(**SEED_LANES)
    assert dispatcher.horizon(Goal(), groups, lanes) == 190
    assert dispatcher.horizon(Goal(value_of_time_usd_per_h=0), groups, lanes) == 340


def test_nothing_to_do_or_nowhere_to_do_it_is_no_assignment() -> None:
    """No job, no lane, or no lane of a backend that a job may use."""
    groups = dispatcher.grouped(HUNDRED)
    assert dispatcher.assign(dispatcher.grouped([]), free_lanes(**SEED_LANES), 100) == []
    assert dispatcher.assign(groups, [], 100) == []
    assert dispatcher.assign(groups, free_lanes(other=3), 100) == []
    assert dispatcher.horizon(Goal(), groups, []) == float("inf")
