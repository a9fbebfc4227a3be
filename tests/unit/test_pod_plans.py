"""Plans that open pods: the figures of the seed's case, and brute force on small ones."""

from __future__ import annotations

import itertools
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_video.autoscaler import PodOffer
from hybrid_video.planner import Resource
from hybrid_video.pod_plans import PODS, cheapest_with_pods, frontier_with_pods

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


@given(
    st.integers(0, 3),
    st.integers(1, 20),
    st.integers(1, 20),
    st.integers(0, 60),
    st.integers(1, 12),
    st.integers(1, 120),
    st.sampled_from(["second", "hour"]),
)
@settings(max_examples=200, deadline=None)
def test_small_batches_cost_the_brute_force_optimum(
    gpus: int, service_s: int, pod_s: int, start_s: int, jobs: int, deadline_s: int, billing: str
) -> None:
    """Every split over own GPUs, zero to three pods and a dear lane, tried one by one."""
    lanes = (Resource("local", gpus, service_s, Decimal(0)), Resource("dear", 1, 3, Decimal("0.08")))
    offer = PodOffer(Decimal("3.6"), pod_s, start_s, billing)  # type: ignore[arg-type]
    best = None
    for pods, own, rented in itertools.product(range(4), range(jobs + 1), range(jobs + 1)):
        dear = jobs - own - rented
        if dear < 0 or (rented and not pods) or (own and not gpus):
            continue
        ends = [-(-own // gpus) * service_s if own else 0, dear * 3]
        ends.append(start_s + -(-rented // pods) * pod_s if rented else 0)
        if max(ends) > deadline_s:
            continue
        opened = min(pods, rented)
        by_second = Decimal(opened * start_s + rented * pod_s) / 1000
        cost = dear * Decimal("0.08") + (opened * Decimal("3.6") if billing == "hour" else by_second)
        best = cost if best is None else min(best, cost)
    plan = cheapest_with_pods(lanes, offer, jobs, deadline_s, most=3)
    assert (plan is None) == (best is None)
    if plan is not None:
        assert plan.cost_usd == best


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
