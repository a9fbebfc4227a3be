"""Plans that open pods: the figures of the seed's case, and brute force on small ones."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_video.autoscaler import PodOffer
from hybrid_video.planner import Resource
from hybrid_video.pod_plans import (
    PODS,
    balanced_with_pods,
    cheapest_with_pods,
    frontier_with_pods,
    within_budget_with_pods,
)

OFFER = PodOffer(Decimal("0.34"), 20, 90)
HOURLY = replace(OFFER, billing="hour")
LANES = (Resource("local", 3, 10, Decimal(0)), Resource("gemini", 10, 5, Decimal("0.08")))


@pytest.mark.parametrize(
    ("offer", "deadline_s", "usd"),
    [
        (OFFER, 160, "3.03"),
        (OFFER, 200, "1.29"),
        (OFFER, 250, "0.081"),
        (OFFER, 300, "0.027"),
        (HOURLY, 200, "2.90"),
        (HOURLY, 250, "1.10"),
        (HOURLY, 300, "0.34"),
    ],
)
def test_a_hundred_clips_cost_what_was_worked_out_by_hand(offer: PodOffer, deadline_s: float, usd: str) -> None:
    """Three own GPUs, five pods at $0.34/h that start in 90 s, ten Google operations."""
    plan = cheapest_with_pods(LANES, offer, 100, deadline_s)
    assert plan is not None
    assert float(plan.cost_usd) == pytest.approx(float(usd), rel=0.01, abs=0.0005)
    assert sum(plan.split.values()) == 100
    assert plan.duration_s <= deadline_s


def test_no_pod_is_opened_that_would_make_nothing() -> None:
    """A deadline that the own GPUs meet, or that a pod cannot reach, opens none."""
    easy, short = cheapest_with_pods(LANES, OFFER, 100, 400), cheapest_with_pods(LANES, OFFER, 30, 60)
    assert easy is not None
    assert short is not None
    assert (easy.pods, easy.cost_usd) == (0, 0)
    assert short.pods == 0
    assert cheapest_with_pods(LANES[:1], OFFER, 1000, 60) is None


SMALL = (
    st.integers(0, 3),
    st.integers(1, 20),
    st.integers(1, 20),
    st.integers(0, 60),
    st.integers(1, 12),
    st.sampled_from(["second", "hour"]),
)


def small(
    gpus: int, service_s: int, pod_s: int, start_s: int, billing: str
) -> tuple[tuple[Resource, Resource], PodOffer]:
    """Own GPUs, a dear lane, and pods at a tenth of a cent a second."""
    lanes = (Resource("local", gpus, service_s, Decimal(0)), Resource("dear", 1, 3, Decimal("0.08")))
    return lanes, PodOffer(Decimal("3.6"), pod_s, start_s, billing)  # type: ignore[arg-type]


def every_plan(
    gpus: int, service_s: int, pod_s: int, start_s: int, jobs: int, billing: str
) -> Iterator[tuple[Decimal, int]]:
    """Cost and duration of every split over own GPUs, zero to three pods and the dear lane; all within an hour."""
    for pods, own, rented in itertools.product(range(4), range(jobs + 1), range(jobs + 1)):
        dear = jobs - own - rented
        if dear < 0 or (rented and not pods) or (own and not gpus):
            continue
        ends = [-(-own // gpus) * service_s if own else 0, dear * 3]
        ends.append(start_s + -(-rented // pods) * pod_s if rented else 0)
        opened = min(pods, rented)
        by_second = Decimal(opened * start_s + rented * pod_s) / 1000
        yield dear * Decimal("0.08") + (opened * Decimal("3.6") if billing == "hour" else by_second), max(ends)


@given(*SMALL, st.integers(1, 120))
@settings(max_examples=200, deadline=None)
def test_small_batches_cost_the_brute_force_optimum(
    gpus: int, service_s: int, pod_s: int, start_s: int, jobs: int, billing: str, deadline_s: int
) -> None:
    """For a deadline: the least cost of all splits that keep it, tried one by one."""
    lanes, offer = small(gpus, service_s, pod_s, start_s, billing)
    every = every_plan(gpus, service_s, pod_s, start_s, jobs, billing)
    best = min((cost for cost, time_s in every if time_s <= deadline_s), default=None)
    plan = cheapest_with_pods(lanes, offer, jobs, deadline_s, most=3)
    assert (plan is None) == (best is None)
    if plan is not None:
        assert plan.cost_usd == best


@given(*SMALL, st.decimals("0", "5", places=2))
@settings(max_examples=200, deadline=None)
def test_small_batches_are_as_fast_as_a_budget_allows(
    gpus: int, service_s: int, pod_s: int, start_s: int, jobs: int, billing: str, budget_usd: Decimal
) -> None:
    """For a budget: the least time of all splits it can pay."""
    lanes, offer = small(gpus, service_s, pod_s, start_s, billing)
    every = every_plan(gpus, service_s, pod_s, start_s, jobs, billing)
    best = min((time_s for cost, time_s in every if cost <= budget_usd), default=None)
    plan = within_budget_with_pods(lanes, offer, jobs, budget_usd, most=3)
    assert (plan is None) == (best is None)
    if plan is not None:
        assert plan.duration_s == pytest.approx(best)
        assert plan.cost_usd <= budget_usd


@given(*SMALL, st.sampled_from([0.0, 1.0, 5.0, 60.0, 1000.0]))
@settings(max_examples=200, deadline=None)
def test_small_batches_weigh_money_against_time(
    gpus: int, service_s: int, pod_s: int, start_s: int, jobs: int, billing: str, rate: float
) -> None:
    """Without a goal: the least sum of cost and the value of the time."""
    lanes, offer = small(gpus, service_s, pod_s, start_s, billing)
    every = every_plan(gpus, service_s, pod_s, start_s, jobs, billing)
    best = min(float(cost) + rate / 3600 * time_s for cost, time_s in every)
    plan = balanced_with_pods(lanes, offer, jobs, rate, most=3)
    assert plan is not None
    assert float(plan.cost_usd) + rate / 3600 * plan.duration_s == pytest.approx(best, abs=1e-6)


def test_by_the_hour_a_second_hour_is_paid_only_where_the_budget_holds_it() -> None:
    """One pod, 100 clips of a minute: two hours begun. With $0.50 they fit, with $0.34 nothing does."""
    offer = PodOffer(Decimal("0.25"), 60, 90, "hour")
    plan = within_budget_with_pods((), offer, 100, Decimal("0.50"), most=1)
    assert plan is not None
    assert (plan.cost_usd, plan.pods, plan.duration_s) == (Decimal("0.50"), 1, 6090)
    assert within_budget_with_pods((), offer, 100, Decimal("0.34"), most=1) is None


def test_the_frontier_falls_from_the_fastest_plan_to_the_cheapest() -> None:
    """Longer is always cheaper on it, pods come and go with the duration, and the cheapest needs none."""
    points = frontier_with_pods(LANES, OFFER, 100)
    assert [p.duration_s for p in points] == sorted(p.duration_s for p in points)
    assert all(later.cost_usd < earlier.cost_usd for earlier, later in itertools.pairwise(points))
    assert points[-1].cost_usd == 0
    assert points[-1].pods == 0
    assert max(point.pods for point in points) == 5
    assert all((point.split.get(PODS, 0) > 0) == (point.pods > 0) for point in points)
    for point in points:
        cheapest = cheapest_with_pods(LANES, OFFER, 100, point.duration_s)
        assert cheapest is not None
        assert cheapest.cost_usd == point.cost_usd
    with pytest.raises(ValueError, match="slot"):
        frontier_with_pods((), OFFER, 5, most=0)
