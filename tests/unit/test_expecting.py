"""What a batch is expected to come to where times scatter, held against simulated batches."""

from __future__ import annotations

import statistics
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_video.expecting import Uncertain, expected
from hybrid_video.planner import Resource
from hybrid_video.simulation import Job, Ours, Site, simulate

SITES = (
    Site("local", 3, 10, Decimal(0), 0.10),
    Site("cloud", 5, 20, Decimal("0.007"), 0.25),
    Site("gemini", 10, 5, Decimal("0.08"), 0.50, per_clip=True),
)
KINDS = [Uncertain(Resource(site.key, site.slots, site.service_s, site.price_usd), site.cv) for site in SITES]
RATE = 10.0


@pytest.mark.parametrize("deadline_s", [None, 160.0, 190.0])
def test_many_simulated_batches_come_to_what_was_expected(deadline_s: float | None) -> None:
    """The means of forty batches of a hundred clips are within 5 % of the expected time and 8 % of the money."""
    plan = expected(KINDS, 100, deadline_s=deadline_s, budget_usd=None, value_of_time_usd_per_h=RATE)
    assert plan is not None
    jobs = [Job(f"s{number}") for number in range(100)]
    outcomes = [simulate(SITES, jobs, Ours(deadline_s, guard_s=None), seed=seed) for seed in range(40)]
    assert statistics.fmean(o.duration_s for o in outcomes) == pytest.approx(plan.duration_s, rel=0.05)
    assert statistics.fmean(float(o.cost_usd) for o in outcomes) == pytest.approx(float(plan.cost_usd), rel=0.08)


@given(
    st.integers(1, 300),
    st.none() | st.floats(1, 5000),
    st.none() | st.decimals(0, 10, places=3),
    st.lists(st.floats(0, 0.8), min_size=3, max_size=3),
)
def test_every_clip_is_somewhere_and_a_later_deadline_never_costs_more(
    jobs: int, deadline_s: float | None, budget_usd: Decimal | None, spreads: list[float]
) -> None:
    """Whole clips that add up, a cost between all on the cheapest and all on the dearest; less haste, less money."""
    kinds = [Uncertain(kind.resource, cv) for kind, cv in zip(KINDS, spreads, strict=True)]
    plan = expected(kinds, jobs, deadline_s=deadline_s, budget_usd=budget_usd, value_of_time_usd_per_h=RATE)
    assert plan is not None
    assert sum(plan.split.values()) == jobs
    assert min(plan.split.values()) >= 0
    assert 0 <= plan.cost_usd <= jobs * Decimal("0.080001")
    assert plan.duration_s > 0
    if deadline_s is not None and budget_usd is None:
        later = expected(kinds, jobs, deadline_s=deadline_s * 2, budget_usd=None, value_of_time_usd_per_h=RATE)
        assert later is not None
        assert later.cost_usd <= plan.cost_usd + Decimal("0.000001")


def test_one_slot_takes_as_long_as_its_clips() -> None:
    """Nobody waits for a last slot where there is only one."""
    alone = [Uncertain(Resource("local", 1, 10, Decimal(0)), 0.3)]
    plan = expected(alone, 20, deadline_s=None, budget_usd=None, value_of_time_usd_per_h=RATE)
    assert plan is not None
    assert plan.duration_s == pytest.approx(200)


def test_nothing_and_nowhere_are_not_expected() -> None:
    """No jobs or no slots: no plan."""
    assert expected(KINDS, 0, deadline_s=None, budget_usd=None, value_of_time_usd_per_h=RATE) is None
    assert expected([], 5, deadline_s=None, budget_usd=None, value_of_time_usd_per_h=RATE) is None
