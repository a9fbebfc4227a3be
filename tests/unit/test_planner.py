"""The planner against brute force on small cases, and against the published figures of the seed profile."""

from __future__ import annotations

import itertools
import math
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_video import planner
from hybrid_video.planner import Resource

SEED = (
    Resource("local", 3, 10, Decimal(0)),
    Resource("cloud", 5, 20, Decimal("0.007")),
    Resource("gemini", 10, 5, Decimal("0.08")),
)

PUBLISHED = {
    40: ("6.310", (12, 10, 78)),
    60: ("5.465", (18, 15, 67)),
    80: ("4.620", (24, 20, 56)),
    100: ("3.775", (30, 25, 45)),
    120: ("2.930", (36, 30, 34)),
    140: ("2.085", (42, 35, 23)),
    160: ("1.240", (48, 40, 12)),
    170: ("1.000", (51, 40, 9)),
    180: ("0.395", (54, 45, 1)),
    190: ("0.301", (57, 43, 0)),
    220: ("0.238", (66, 34, 0)),
    250: ("0.175", (75, 25, 0)),
    300: ("0.070", (90, 10, 0)),
    340: ("0.000", (100, 0, 0)),
}


def brute_finish(resource: Resource, jobs: int) -> float:
    """The end of the n-th clip, by listing every end there is."""
    if not jobs:
        return 0.0
    ends = sorted(start + n * resource.service_s for start in resource.starts() for n in range(1, jobs + 1))
    return ends[jobs - 1]


def brute_plans(resources: list[Resource], jobs: int) -> list[tuple[Decimal, float]]:
    """Cost and duration of every possible split."""
    plans = []
    for split in itertools.product(range(jobs + 1), repeat=len(resources)):
        if sum(split) == jobs:
            cost = sum((n * r.price_usd for n, r in zip(split, resources, strict=True)), Decimal(0))
            plans.append((cost, max(brute_finish(r, n) for n, r in zip(split, resources, strict=True))))
    return plans


@st.composite
def pools(draw: st.DrawFn) -> list[Resource]:
    """One to three kinds of slots, some of them busy for a while."""
    result = []
    for key in "abc"[: draw(st.integers(1, 3))]:
        slots = draw(st.integers(1, 3))
        busy = draw(st.booleans())
        ready = tuple(draw(st.sampled_from([0.0, 0.5, 1.0, 4.0, 12.0])) for _ in range(slots)) if busy else ()
        service = draw(st.sampled_from([0.7, 1.0, 2.5, 10 / 3, 5.0, 7.0]))
        price = draw(st.sampled_from(["0", "0.007", "0.08", "0.35"]))
        result.append(Resource(key, slots, service, Decimal(price), ready))
    return result


@given(pools(), st.integers(1, 7), st.floats(0.5, 40))
@settings(max_examples=150, deadline=None)
def test_the_cheapest_split_for_a_deadline_is_the_cheapest_of_all_splits(
    pool: list[Resource], jobs: int, deadline_s: float
) -> None:
    """No split that keeps the deadline costs less, and None means that none keeps it."""
    feasible = [cost for cost, duration in brute_plans(pool, jobs) if duration <= deadline_s + 1e-7]
    plan = planner.cheapest_by(pool, jobs, deadline_s)
    if plan is None:
        assert not feasible
    else:
        assert plan.cost_usd == min(feasible)
        assert plan.duration_s <= deadline_s + 1e-7
        assert sum(plan.split.values()) == jobs


@given(pools(), st.integers(1, 7))
@settings(max_examples=150, deadline=None)
def test_the_shortest_plan_is_the_shortest_of_all_splits(pool: list[Resource], jobs: int) -> None:
    """The least duration is found exactly, and at that duration the least cost."""
    plans = brute_plans(pool, jobs)
    least = min(duration for _, duration in plans)
    plan = planner.shortest(pool, jobs)
    assert plan.duration_s == pytest.approx(least, abs=1e-6)
    assert plan.cost_usd == min(cost for cost, duration in plans if duration <= least + 1e-6)


@given(pools(), st.integers(1, 7), st.decimals(0, 2, places=3))
@settings(max_examples=150, deadline=None)
def test_a_budget_buys_the_shortest_time_it_can_pay_for(pool: list[Resource], jobs: int, budget: Decimal) -> None:
    """The plan never costs more than the budget, and no affordable split is faster."""
    affordable = [duration for cost, duration in brute_plans(pool, jobs) if cost <= budget]
    plan = planner.within_budget(pool, jobs, budget)
    if plan is None:
        assert not affordable
    else:
        assert plan.cost_usd <= budget
        assert plan.duration_s == pytest.approx(min(affordable), abs=1e-6)


@given(pools(), st.integers(1, 7), st.sampled_from([0.0, 1.0, 10.0, 200.0, 5000.0]))
@settings(max_examples=150, deadline=None)
def test_balanced_minimises_cost_plus_value_of_time(pool: list[Resource], jobs: int, value: float) -> None:
    """No split has a smaller sum of money and priced time."""
    plan = planner.balanced(pool, jobs, value)
    least = min(float(cost) + value / 3600 * duration for cost, duration in brute_plans(pool, jobs))
    assert float(plan.cost_usd) + value / 3600 * plan.duration_s == pytest.approx(least, abs=1e-6)


@given(pools(), st.integers(1, 12))
@settings(max_examples=100, deadline=None)
def test_the_frontier_trades_time_for_money_at_every_step(pool: list[Resource], jobs: int) -> None:
    """From the shortest to the cheapest plan, each point is slower and cheaper than the one before."""
    front = planner.frontier(pool, jobs)
    for earlier, later in itertools.pairwise(front.points):
        assert later.duration_s > earlier.duration_s
        assert later.cost_usd < earlier.cost_usd
    assert front.points[0] == planner.shortest(pool, jobs)
    assert front.points[-1].cost_usd == jobs * min(resource.price_usd for resource in pool)
    assert front.kink in front.points


@given(pools(), st.integers(1, 9))
@settings(max_examples=100, deadline=None)
def test_finish_is_the_end_of_the_last_clip_made(pool: list[Resource], jobs: int) -> None:
    """A slot that is busy longer than the rest needs does not lengthen the plan."""
    for resource in pool:
        assert resource.finish_s(jobs) == pytest.approx(brute_finish(resource, jobs), abs=1e-6)


def test_a_slot_that_makes_nothing_does_not_count() -> None:
    """One clip on a free slot beside one that is busy for 100 s takes 10 s."""
    assert Resource("a", 2, 10, Decimal(0), (0.0, 100.0)).finish_s(1) == 10


@pytest.mark.parametrize("service_s", [10 / 3, 20 / 60, 1 / 7, 170 / 33])
def test_services_that_are_not_round_numbers_can_be_planned(service_s: float) -> None:
    """A third of a second is planned like any other time."""
    assert planner.shortest([Resource("a", 3, service_s, Decimal(0))], 10).duration_s == pytest.approx(4 * service_s)


def test_the_seed_frontier_has_31_points_and_their_published_costs() -> None:
    """From 40 s to 340 s in steps of ten, $6.31 down to $0."""
    points = {point.duration_s: point for point in planner.frontier(SEED, 100).points}
    assert sorted(points) == list(range(40, 350, 10))
    for duration, (cost, split) in PUBLISHED.items():
        assert points[duration].cost_usd == Decimal(cost)
        assert tuple(points[duration].split.values()) == split


def test_the_kink_is_the_first_plan_without_the_dearest_tier() -> None:
    """Left of 190 s a second saved is bought from Google."""
    kink = planner.frontier(SEED, 100).kink
    assert (kink.duration_s, kink.cost_usd, kink.split["gemini"]) == (190, Decimal("0.301"), 0)


def test_46_cents_buys_180_seconds_on_the_seed_prices() -> None:
    """The fastest plan for $0.46 is 54/45/1 at $0.395."""
    plan = planner.within_budget(SEED, 100, Decimal("0.46"))
    assert plan is not None
    assert (plan.duration_s, plan.cost_usd, tuple(plan.split.values())) == (180, Decimal("0.395"), (54, 45, 1))


def test_balanced_stays_at_the_kink_over_a_wide_range_of_values_of_time() -> None:
    """Between $7.56/h and $152/h the answer is the same: everything but Google, or one clip of it."""
    plans = {value: planner.balanced(SEED, 100, value) for value in (10.0, 30.0, 100.0, 145.0)}
    assert {plan.duration_s for plan in plans.values()} <= {180.0, 190.0}
    assert planner.balanced(SEED, 100, 0.0).duration_s == 340
    assert planner.balanced(SEED, 100, 100_000.0).duration_s == 40


def test_everything_on_one_tier_costs_its_price_and_takes_its_rounds() -> None:
    """100 clips on ten slots of Google: $8 and ten rounds of 5 s."""
    plan = planner.all_on(SEED[2], 100)
    assert (plan.cost_usd, plan.duration_s) == (Decimal("8.00"), 50)


def test_without_a_slot_the_planner_says_so() -> None:
    """No slot anywhere is an error with a remedy, and a tier without slots is never used."""
    with pytest.raises(ValueError, match="configure at least one"):
        planner.shortest([Resource("a", 0, 1, Decimal(0))], 1)
    plan = planner.shortest([Resource("a", 0, 1, Decimal(0)), SEED[1]], 5)
    assert plan.split == {"a": 0, "cloud": 5}
    assert Resource("a", 0, 1, Decimal(0)).finish_s(1) == math.inf


def test_ten_thousand_jobs_on_busy_slots_are_planned_without_listing_every_end() -> None:
    """The answers for 10,000 jobs on 18 slots that free at different times are feasible and keep their goals."""
    pool = [Resource(r.key, r.slots, r.service_s, r.price_usd, tuple(0.37 * n for n in range(r.slots))) for r in SEED]
    fastest = planner.shortest(pool, 10_000)
    assert planner.cheapest_by(pool, 10_000, fastest.duration_s - 1e-3) is None
    bought = planner.within_budget(pool, 10_000, Decimal(46))
    assert bought is not None
    assert bought.cost_usd <= 46
    even = planner.balanced(pool, 10_000, 10)
    for other in (fastest, bought, even):
        assert sum(other.split.values()) == 10_000
        assert float(even.cost_usd) + even.duration_s / 360 <= float(other.cost_usd) + other.duration_s / 360 + 1e-6
