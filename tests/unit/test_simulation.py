"""Simulated batches against brute force and against the bounds: the real dispatcher on a virtual clock."""

from __future__ import annotations

import itertools
import statistics
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.scoreboard import Claim, savings_sentence
from hybrid_video import dispatcher
from hybrid_video.dispatcher import LaneState, PendingJob
from hybrid_video.simulation import (
    EarliestFinish,
    FixedSplit,
    Incident,
    InOrder,
    Job,
    Ours,
    Site,
    cost_bound_usd,
    simulate,
    sized_cost_bound_usd,
    time_bound_s,
)
from hybrid_video.simulation.world import BURNED
from tests.unit.deciding_rig import SEED_QUOTES


def seed_sites(*, cv: bool = True, failure: float = 0.0) -> tuple[Site, ...]:
    """The earlier system's tiers."""
    return (
        Site("local", 3, 10, Decimal(0), 0.10 * cv, failure),
        Site("cloud", 5, 20, Decimal("0.007"), 0.25 * cv, failure),
        Site("gemini", 10, 5, Decimal("0.08"), 0.50 * cv, failure, per_clip=True),
    )


def clips(count: int) -> list[Job]:
    """Identical jobs."""
    return [Job(f"s{number}") for number in range(count)]


@st.composite
def small_worlds(draw: st.DrawFn) -> tuple[tuple[Site, ...], int]:
    """Two or three tiers with certain times, and up to nine jobs."""
    keys = ("local", "cloud", "gemini")[: draw(st.integers(2, 3))]
    prices = sorted(draw(st.lists(st.integers(0, 90), min_size=len(keys), max_size=len(keys), unique=True)))
    sites = tuple(
        Site(key, draw(st.integers(1, 3)), draw(st.integers(1, 12)), Decimal(price) / 1000)
        for key, price in zip(keys, prices, strict=True)
    )
    return sites, draw(st.integers(1, 9))


def least_cost_usd(sites: tuple[Site, ...], jobs: int, deadline_s: float) -> Decimal | None:
    """The cheapest of every possible split that keeps a deadline."""
    costs = []
    for split in itertools.product(range(jobs + 1), repeat=len(sites)):
        ends = [-(-count // site.slots) * site.service_s for count, site in zip(split, sites, strict=True)]
        if sum(split) == jobs and max(ends) <= deadline_s:
            costs.append(sum((n * site.price_usd for n, site in zip(split, sites, strict=True)), Decimal(0)))
    return min(costs, default=None)


@given(small_worlds(), st.integers(1, 60))
@settings(max_examples=200, deadline=None)
def test_a_batch_with_certain_times_costs_what_the_best_split_costs(
    world: tuple[tuple[Site, ...], int], deadline_s: int
) -> None:
    """Whatever the tiers, counts and deadlines: the simulated bill is the brute-force optimum, and it is on time."""
    sites, jobs = world
    best = least_cost_usd(sites, jobs, deadline_s)
    outcome = simulate(sites, clips(jobs), Ours(deadline_s, learning=False), seed=0)
    assert sum(outcome.split.values()) == jobs
    if best is not None:
        assert outcome.cost_usd == best
        assert outcome.duration_s <= deadline_s + 1e-6


@given(small_worlds(), st.decimals(0, 1, places=3))
@settings(max_examples=100, deadline=None)
def test_no_budget_is_exceeded_at_any_moment(world: tuple[tuple[Site, ...], int], budget: Decimal) -> None:
    """Spent and reserved together stay within the budget, and what it cannot pay for is not started."""
    sites = tuple(Site(s.key, s.slots, s.service_s, s.price_usd, cv=0.5, failure=0.3) for s in world[0])
    outcome = simulate(sites, clips(world[1]), Ours(budget_usd=budget), seed=1)
    assert outcome.most_held_usd <= budget
    assert outcome.unmade == 0 or min(site.price_usd for site in sites) > 0


@pytest.mark.parametrize("failure", [0.05, 0.3, 0.6])
def test_failures_cost_what_a_geometric_number_of_attempts_costs(failure: float) -> None:
    """Expected time and money per clip, by adding up every number of failed attempts before the first success."""
    site = Site("cloud", 1, 20, Decimal("0.007"), failure=failure)
    chances = [(1 - failure) * failure**failed for failed in range(400)]
    burned = sum(chance * failed * BURNED for failed, chance in enumerate(chances))
    assert site.effective_s == pytest.approx(20 * (1 + burned))
    assert site.effective_usd == pytest.approx(0.007 * (1 + burned))
    assert Site("gemini", 1, 5, Decimal("0.08"), failure=failure, per_clip=True).effective_usd == 0.08


@given(st.lists(st.floats(0.2, 3), min_size=1, max_size=6), st.floats(5, 40))
@settings(max_examples=60, deadline=None)
def test_the_bound_for_known_sizes_is_below_every_assignment(sizes: list[float], deadline_s: float) -> None:
    """No assignment of the jobs to the tiers that has the room is cheaper than the dual says."""
    sites = seed_sites(cv=False)
    bound = sized_cost_bound_usd(sites, sizes, deadline_s)
    for chosen in itertools.product(range(3), repeat=len(sizes)):
        loads = [sum(z * sites[k].service_s for z, c in zip(sizes, chosen, strict=True) if c == k) for k in range(3)]
        if all(load <= site.slots * deadline_s for load, site in zip(loads, sites, strict=True)):
            cost = sum(sites[k].price_nano(z) / 1e9 for z, k in zip(sizes, chosen, strict=True))
            assert bound <= cost + 1e-6


def test_the_bounds_are_the_published_ones() -> None:
    """At 160 s nothing makes 100 clips for less than $1.24 on average; with any money it takes 39 s."""
    sites = seed_sites()
    assert cost_bound_usd(sites, 100, 160) == pytest.approx(1.24)
    assert time_bound_s(sites, 100, cost_bound_usd(sites, 100, 175)) == pytest.approx(175)
    assert time_bound_s(sites, 100, float("inf")) == pytest.approx(100 / (0.3 + 0.25 + 2))


@pytest.mark.parametrize("failure", [0.0, 0.05])
def test_random_times_stay_near_the_bound_and_never_below(failure: float) -> None:
    """Forty batches of 100 clips for 160 s: within 8 % of the least time for their money, and not better than it."""
    sites = seed_sites(failure=failure)
    outcomes = [simulate(sites, clips(100), Ours(160), seed=seed) for seed in range(40)]
    cost = statistics.fmean(float(outcome.cost_usd) for outcome in outcomes)
    ratio = statistics.fmean(outcome.duration_s for outcome in outcomes) / time_bound_s(sites, 100, cost)
    assert 1.0 <= ratio <= 1.08


def test_knowing_the_sizes_saves_a_third_at_least() -> None:
    """The same clips, sizes told and hidden: told ones are cheaper and earlier."""
    sizes = [0.3, 0.5, 0.7, 1.0, 2.5] * 20
    means = {}
    for told in (True, False):
        jobs = [Job(f"s{n}", size, size if told else 1.0) for n, size in enumerate(sizes)]
        runs = [simulate(seed_sites(), jobs, Ours(160), seed=seed) for seed in range(10)]
        means[told] = [statistics.fmean(float(run.cost_usd) for run in runs), max(run.duration_s for run in runs)]
    assert means[True][0] < 0.67 * means[False][0]
    assert means[True][1] < means[False][1]


def test_outages_lose_and_double_nothing() -> None:
    """The own GPU dies for good, the cloud for a while, Google refuses for a while: every clip is made once."""
    incidents = (Incident("local", 48), Incident("cloud", 80, 100), Incident("gemini", 128, 138, kills=False))
    for seed in range(10):
        outcome = simulate(seed_sites(failure=0.05), clips(100), Ours(160), seed=seed, incidents=incidents)
        assert outcome.unmade == 0
        assert sum(outcome.split.values()) == len(outcome.ends_s) == 100
        assert outcome.attempts == 100 + outcome.failures


def test_when_every_site_is_gone_the_batch_ends_with_what_it_has() -> None:
    """Nobody takes the rest, and the outcome says how many are missing."""
    incidents = [Incident(key, 20) for key in ("local", "cloud", "gemini")]
    outcome = simulate(seed_sites(), clips(100), Ours(160), seed=0, incidents=incidents)
    assert outcome.unmade == 100 - len(outcome.ends_s) > 0


def test_the_compared_rules_do_what_they_are_named_for() -> None:
    """All local; any free slot; a fixed split; the least makespan."""
    sites = seed_sites(cv=False)
    assert simulate(sites, clips(100), InOrder(keys=("local",)), seed=0).duration_s == pytest.approx(340)
    split = {"local": 45, "cloud": 38, "gemini": 17}
    fixed = simulate(sites, clips(100), FixedSplit(split=split), seed=0)
    assert (fixed.split, fixed.cost_usd) == (split, Decimal("1.626"))
    assert simulate(sites, clips(100), EarliestFinish(), seed=0).duration_s == pytest.approx(40)
    assert simulate(sites, clips(100), InOrder(), seed=0).cost_usd > 6


def test_the_same_seed_gives_the_same_batch() -> None:
    """Nothing depends on the hour or on the order of a set."""
    first, second = (simulate(seed_sites(failure=0.1), clips(60), Ours(100), seed=7) for _ in range(2))
    assert first == second


def test_wrong_times_are_learned_while_the_batch_runs() -> None:
    """Google believed five times too fast: learning ends earlier than believing."""
    sites = (*seed_sites()[:2], Site("gemini", 10, 5, Decimal("0.08"), 0.5, per_clip=True, believed=0.2))
    late = {
        learning: statistics.fmean(
            simulate(sites, clips(300), Ours(300, learning=learning), seed=seed).duration_s for seed in range(8)
        )
        for learning in (True, False)
    }
    assert late[True] < late[False] - 5


def test_gpus_stay_with_the_model_they_have_loaded() -> None:
    """Three models on three GPUs: no weights are loaded twice, where taking turns loads dozens."""
    sites = (Site("local", 3, 10, Decimal(0), load_s=30),)
    jobs = [Job(f"s{n}", model=f"m{n % 3}") for n in range(45)]
    assert simulate(sites, jobs, Ours(), seed=0).loads <= 3
    shuffled = sorted(jobs, key=lambda job: job.id[::-1])
    assert simulate(sites, shuffled, InOrder(keys=("local",)), seed=0).loads > 10


def test_a_low_priority_job_is_passed_only_by_what_came_soon_after_it() -> None:
    """Ten steps of priority weigh ten minutes: a later stream of higher priority cannot hold it back for longer."""
    wait_s = 10 * dispatcher.AGING_S
    low = Job("low", rank=dispatcher.precedence(50, 0.0))
    stream = [Job("busy", rank=-1000)]
    stream += [Job(f"h{n}", rank=dispatcher.precedence(60, 9.0 * n), arrives_s=9.0 * n) for n in range(1, 200)]
    outcome = simulate((Site("local", 1, 10, Decimal(0)),), [*stream, low], Ours(), seed=0)
    assert outcome.unmade == 0
    passed = [name for name, end in outcome.ends_s.items() if end < outcome.ends_s["low"] and name.startswith("h")]
    assert passed
    assert max(9.0 * int(name[1:]) for name in passed) <= wait_s


def test_one_job_that_failed_on_the_own_gpu_sends_no_other_to_the_dearest_tier() -> None:
    """Its remaining backends have room for it; the others still have the own GPU."""
    rest = {key: SEED_QUOTES[key] for key in ("cloud", "gemini")}
    jobs = [PendingJob("failed", rest, size=1), *(PendingJob(f"s{n}", SEED_QUOTES, size=1) for n in range(40))]
    lanes = [
        LaneState(f"{key}-{n}", key)
        for key, count in (("local", 3), ("cloud", 5), ("gemini", 10))
        for n in range(count)
    ]
    made = dispatcher.assign(dispatcher.grouped(jobs), lanes, 250)
    assert {item.backend for item in made} == {"local", "cloud"}
    assert next(item.backend for item in made if item.job == "failed") == "cloud"


def test_savings_are_never_shown_without_the_time_they_cost() -> None:
    """The sentence needs both makespans; without one it refuses."""
    assert "95.0 % cheaper and 3.6 times as long" in savings_sentence(0.4, 8.0, 180, 50)
    with pytest.raises(ValueError, match="not shown without both makespans"):
        savings_sentence(0.4, 8.0, None, 50)


def test_a_missed_target_is_a_fail() -> None:
    """At most and at least, with the ratio to the limit."""
    assert not Claim("cost", 3.2, 3).passed
    assert Claim("on time", 95, 95, "at least").passed
    assert Claim("cost", 1.5, 3).ratio == 0.5


def test_a_batch_that_saw_an_absence_does_not_leave_the_dearest_to_the_last_moment() -> None:
    """The own GPU is gone for good, the cloud for a while, and then Google refuses for ten seconds: still on time."""
    sites = seed_sites(failure=0.05)
    incidents = (Incident("local", 75), Incident("cloud", 125, 145), Incident("gemini", 200, 210, kills=False))
    runs = [simulate(sites, clips(100), Ours(250, guard_s=None), seed=seed, incidents=incidents) for seed in range(40)]
    assert sum(outcome.duration_s > 250 for outcome in runs) <= 2


def test_counting_on_a_return_saves_money_and_keeps_the_deadline() -> None:
    """The own GPU is away for 30 s and the cloud for 20 s: nothing dear is bought for work that they can still do."""
    sites = seed_sites(failure=0.05)
    incidents = (Incident("local", 75, 105), Incident("cloud", 125, 145))
    spent, late = {}, {}
    for counts in (False, True):
        outcomes = [
            simulate(
                sites, clips(100), Ours(250, guard_s=None, counts_on_returns=counts), seed=seed, incidents=incidents
            )
            for seed in range(20)
        ]
        spent[counts] = statistics.fmean(float(outcome.cost_usd) for outcome in outcomes)
        late[counts] = sum(outcome.duration_s > 250 for outcome in outcomes)
    assert spent[True] < 0.75 * spent[False]
    assert late[True] <= 1


def test_a_middle_tier_works_on_while_the_cheaper_one_may_fall_short() -> None:
    """Exactly enough room on the own GPUs: certain times leave the cloud idle, times that scatter do not."""
    jobs = [PendingJob(f"shot-{number}", SEED_QUOTES) for number in range(60)]
    lanes = [
        LaneState(f"{key}-{number}", key)
        for key, slots in {"local": 3, "cloud": 5, "gemini": 10}.items()
        for number in range(slots)
    ]
    certain = dispatcher.assign(dispatcher.grouped(jobs), lanes, 200)
    unsure = dispatcher.assign(dispatcher.grouped(jobs), lanes, 200, spread={"local": 0.2, "cloud": 0.2})
    assert {made.backend for made in certain} == {"local"}
    assert {made.backend for made in unsure} == {"local", "cloud"}
