"""The scaling policies as a function of what they see: when pods open, when they end, and the reasons given."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from hybrid_video.autoscaler import ArrivalRate, Arrivals, LaneView, PodOffer, PodView, ScaleState, decide, window_s
from hybrid_video.demand import BatchDemand
from hybrid_video.models import Tier
from hybrid_video.scaling.backlog import threshold_jobs
from hybrid_video.scaling.base_level import base_level

SMALL = PodOffer(Decimal("0.34"), 20, 90)
REAL = PodOffer(Decimal("0.69"), 100, 120)
GPU = LaneView("comfyui", Tier.LOCAL, 10)
SLOW_GPU = LaneView("comfyui", Tier.LOCAL, 170)
GOOGLE = LaneView("gemini", Tier.GEMINI, 5, price_usd=Decimal("0.08"))


def demand(waiting: int, **fields: Any) -> BatchDemand:
    """A running batch with so many jobs that wait; its makespan has no value of its own."""
    return BatchDemand(**{"batch": "b", "waiting_jobs": waiting, "value_of_time_usd_per_h": 0.0, **fields})


def ready(name: str = "p1", **fields: Any) -> PodView:
    """A pod that is up."""
    return PodView(**{"name": name, "state": "ready", "price_usd_per_h": Decimal("0.34"), "service_s": 20, **fields})


def backlog(waiting: int, lanes: int = 3, **fields: Any) -> ScaleState:
    """Waiting jobs on own GPUs of 10 s a clip."""
    return ScaleState(**{"demands": (demand(waiting),), "lanes": (GPU,) * lanes, "offer": SMALL, **fields})


def first_opening(state: ScaleState) -> int:
    """The least number of waiting jobs for which a pod opens."""
    return next(n for n in range(1, 400) if decide(replace(state, demands=(demand(n),))).open)


# -- break-even: waiting --


@pytest.mark.parametrize(
    ("lanes", "lane", "offer", "low", "high"),
    [(3, GPU, SMALL, 27, 36), (1, GPU, SMALL, 9, 12), (1, SLOW_GPU, REAL, 1, 2)],
)
def test_the_first_pod_opens_near_w_star(lanes: int, lane: LaneView, offer: PodOffer, low: int, high: int) -> None:
    """About 32 jobs of 10 s with three GPUs, 11 with one, 1 to 2 real clips of 170 s: never a fixed five."""
    state = ScaleState(lanes=(lane,) * lanes, offer=offer)
    assert low <= first_opening(state) <= high
    assert first_opening(state) <= threshold_jobs(lanes / lane.service_s, offer, 5 / 3600) + 2


def test_w_star_is_what_the_formula_gives() -> None:
    """Three GPUs at $1, $5 and $20 for a job's hour: 40.6, 32.5 and 29.6 jobs."""
    found = [round(threshold_jobs(0.3, SMALL, value / 3600), 1) for value in (1, 5, 20)]
    assert found == [40.6, 32.5, 29.6]


def test_nothing_opens_below_what_is_gone_when_a_pod_is_ready() -> None:
    """At mu sigma = 27 jobs even a very high value of waiting opens nothing."""
    state = backlog(27, value_of_waiting_usd_per_job_h=10_000.0)
    assert decide(state).open == 0
    assert decide(backlog(60, value_of_waiting_usd_per_job_h=10_000.0)).open == 5


def test_waiting_without_value_opens_nothing() -> None:
    """Where neither a job's waiting nor the batch's end is worth anything, own GPUs do it all."""
    assert decide(backlog(500, value_of_waiting_usd_per_job_h=0.0)).open == 0


def test_a_burst_is_answered_by_one_decision() -> None:
    """Sixty jobs open all the pods they are worth at once; while those start, nothing more opens."""
    first = decide(backlog(60))
    assert first.open >= 2
    starting = tuple(ready(f"p{n}", state="starting", ready_in_s=85) for n in range(first.open))
    assert decide(backlog(60, pods=starting)).open == 0


def test_pods_are_the_only_capacity() -> None:
    """Without any lane a single waiting job opens a pod: it would wait for ever."""
    decision = decide(ScaleState(demands=(demand(1),), offer=SMALL))
    assert decision.open == 1
    assert "never without" in decision.reason


def test_the_budget_left_limits_what_opens() -> None:
    """With a cent left at most the start of one pod can be paid, with nothing left none."""
    rich = decide(backlog(200)).open
    poor = decide(replace(backlog(200), demands=(demand(200, budget_left_usd=Decimal("0.03")),))).open
    none = decide(replace(backlog(200), demands=(demand(200, budget_left_usd=Decimal(0)),))).open
    assert rich > poor
    assert none == 0


def test_jobs_that_cannot_run_on_pods_open_none() -> None:
    """A batch whose tier is not allowed, or whose workflow pods do not have, is no reason."""
    assert decide(replace(backlog(0), demands=(demand(300, pods_possible=False),))).open == 0
    assert decide(replace(backlog(0), demands=(demand(300, pod_jobs=0),))).open == 0


def test_pods_replace_dear_clips() -> None:
    """A batch that Google would be paid for opens pods though no GPU is slow: they make the same for less."""
    google = replace(GOOGLE, service_s=45, price_usd=Decimal("0.35"))
    state = ScaleState(
        (demand(100, value_of_time_usd_per_h=1.0),), (google,) * 4, offer=SMALL, value_of_waiting_usd_per_job_h=0.0
    )
    assert decide(state).open >= 1
    dear = replace(state, offer=replace(SMALL, price_usd_per_h=Decimal(90)))
    assert decide(dear).open == 0


def test_by_the_hour_more_has_to_wait() -> None:
    """An hour that is begun is paid, so the first pod opens later than by the second."""
    state = backlog(0, lanes=1)
    hourly = replace(state, offer=replace(SMALL, billing="hour"))
    assert first_opening(hourly) > first_opening(state)


# -- break-even: deadlines and budgets --


def due(jobs: int, deadline_s: float, **fields: Any) -> ScaleState:
    """A batch with a deadline on three GPUs and ten Google operations."""
    lanes = (GPU,) * 3 + (GOOGLE,) * 10
    return ScaleState((demand(jobs, deadline_s=deadline_s),), lanes, offer=SMALL, **fields)


def test_a_deadline_that_is_easy_opens_nothing() -> None:
    """What the own GPUs finish with minutes to spare needs no pod."""
    assert decide(due(100, 600)).open == 0


def test_a_deadline_opens_the_pods_that_are_cheaper_than_google() -> None:
    """100 jobs in 250 s: four or five pods at under a cent each instead of 25 clips at eight cents."""
    decision = decide(due(100, 250))
    assert decision.open in {4, 5}
    assert "100 jobs are due in 250 s" in decision.reason


def test_after_the_latest_useful_moment_no_pod_opens() -> None:
    """A pod that would be ready too late for a single clip is not opened, however much is due."""
    assert decide(due(100, 105)).open == 0
    assert decide(due(100, 125)).open > 0


def test_earlier_deadlines_count_for_later_ones() -> None:
    """Two batches that are easy alone need pods together: the earlier one uses the GPUs first."""
    batches = (demand(60, batch="a", deadline_s=260), demand(60, batch="b", deadline_s=280))
    lanes = (GPU,) * 3
    assert decide(ScaleState(batches[:1], lanes, offer=SMALL)).open == 0
    assert decide(ScaleState(batches, lanes, offer=SMALL)).open >= 2


def test_pods_that_a_deadline_needs_no_more_are_drained_and_closed() -> None:
    """When the rest finishes in time without, an idle pod ends and a busy one is given nothing more."""
    pods = (ready("idle", idle_s=1), ready("busy", jobs=1, free_in_s=10))
    decision = decide(due(10, 300, pods=pods))
    assert decision.close == ("idle",)
    assert decision.drain == ("busy",)
    assert "without" in decision.reason


def test_pods_that_a_deadline_needs_are_kept() -> None:
    """With 60 jobs due in 200 s no open pod is given up."""
    pods = tuple(ready(f"p{n}", jobs=1, free_in_s=10) for n in range(3))
    decision = decide(due(90, 200, pods=pods))
    assert not decision.close
    assert not decision.drain


def test_a_budget_as_goal_opens_what_makes_it_quicker() -> None:
    """A batch with a budget and no deadline is to be as quick as its money allows."""
    rich = demand(200, budget_is_goal=True, budget_left_usd=Decimal("0.50"))
    decision = decide(ScaleState((rich,), (GPU,) * 3, offer=SMALL))
    assert decision.open == 5
    assert "$0.500 of budget" in decision.reason


# -- break-even: closing and traffic --


def test_at_the_end_of_a_batch_every_pod_ends_at_once() -> None:
    """Nothing waits: idle pods close now, starting ones too; the busy one does its job first."""
    pods = (ready("a"), ready("b", state="starting", ready_in_s=30), ready("c", jobs=1))
    decision = decide(ScaleState((demand(0),), (GPU,), pods, SMALL))
    assert set(decision.close) == {"a", "b"}


def test_an_idle_pod_beside_waiting_jobs_is_kept_for_a_cold_start() -> None:
    """The dispatcher may use it any moment; only after as much idling as another start costs it ends."""
    assert not decide(backlog(5, pods=(ready(idle_s=60),))).close
    assert decide(backlog(5, pods=(ready(idle_s=95),))).close == ("p1",)


def test_by_the_hour_a_pod_stays_until_its_paid_hour_ends() -> None:
    """Half an hour in it is paid for anyway; half a minute before the next hour it ends."""
    hourly = replace(SMALL, billing="hour")
    early = ScaleState((demand(0),), (GPU,), (ready(age_s=1800, idle_s=900),), hourly)
    late = replace(early, pods=(ready(age_s=3575, idle_s=900),))
    assert not decide(early).close
    assert decide(late).close == ("p1",)


def test_by_the_hour_a_pod_that_earns_the_next_hour_is_kept() -> None:
    """With hundreds of jobs waiting the next hour is worth its price; with two it is not."""
    hourly = replace(SMALL, billing="hour")
    pod = ready(age_s=3590, jobs=1, free_in_s=5)
    many = ScaleState((demand(800),), (GPU,), (pod,), hourly, max_pods=1)
    few = replace(many, demands=(demand(2),))
    assert not decide(many).drain
    assert decide(few).drain == ("p1",)


def steady(per_s: float, *, service_s: float, events: float = 100.0) -> Arrivals:
    """Traffic that has been watched for a window."""
    return Arrivals(per_s, events, 1.0, window_s(service_s))


def test_steady_traffic_earns_a_base_level() -> None:
    """One GPU of 170 s at 85 % load: one pod pays though nothing waits this moment."""
    arrivals = steady(0.005, service_s=170)
    state = ScaleState(lanes=(SLOW_GPU,), offer=REAL, arrivals=arrivals)
    decision = decide(state)
    assert decision.open == 1
    assert "18.0 jobs an hour keep coming" in decision.reason
    pod = ready(service_s=100, price_usd_per_h=Decimal("0.69"), idle_s=3000)
    assert not decide(replace(state, pods=(pod,))).acts


def test_one_large_batch_is_not_traffic() -> None:
    """The same rate from three arrivals earns nothing: bursts are answered when they come."""
    rate = ArrivalRate(window_s(170))
    for at_s in (0.0, 1200.0, 2400.0):
        rate.observe(6, at_s)
    state = ScaleState(lanes=(SLOW_GPU,), offer=REAL, arrivals=rate.at(2500.0))
    assert state.arrivals_per_s > 0.004
    assert decide(state).open == 0


def test_a_base_level_falls_later_than_it_rises() -> None:
    """A rate that would not open a second pod does not close it either: pods do not come and go."""
    lanes, found = (SLOW_GPU,), []
    for step in range(10, 400):
        arrivals = steady(step * 1e-4, service_s=170)
        rises = base_level(arrivals, lanes, REAL, 5, 5 / 3600)
        cheap = replace(REAL, price_usd_per_h=REAL.price_usd_per_h * Decimal("0.7"))
        found.append((rises, base_level(arrivals, lanes, cheap, 5, 5 / 3600)))
    assert all(kept >= rises for rises, kept in found)
    assert any(kept > rises for rises, kept in found)


def test_where_the_next_job_is_expected_soon_an_idle_pod_waits_for_it() -> None:
    """Batches come every minute: ending a pod that takes 90 s to start again would cost more than keeping it."""
    arrivals = Arrivals(0.001, 15.0, 1.0, 900.0)
    state = ScaleState((demand(0),), (GPU,), (ready(idle_s=30),), SMALL, arrivals)
    assert not decide(state).close
    assert decide(replace(state, pods=(ready(idle_s=91),))).close == ("p1",)


# -- threshold --


def test_threshold_opens_above_five_and_never_beyond_five_pods() -> None:
    """The rule people know: 5 waiting jobs open nothing, 6 open two, 100 open five at once."""
    assert decide(backlog(5), "threshold").open == 0
    assert decide(backlog(6), "threshold").open == 2
    assert decide(backlog(100), "threshold").open == 5


def test_threshold_counts_pods_that_start() -> None:
    """Four are starting: one more at most, whatever waits."""
    starting = tuple(ready(f"p{n}", state="starting") for n in range(4))
    assert decide(backlog(100, pods=starting), "threshold").open == 1


def test_threshold_closes_after_five_idle_minutes() -> None:
    """299 s are not enough, 300 s are, and never while jobs wait."""
    assert not decide(backlog(0, pods=(ready(idle_s=299),)), "threshold").close
    assert decide(backlog(0, pods=(ready(idle_s=300),)), "threshold").close == ("p1",)
    assert not decide(backlog(3, pods=(ready(idle_s=900),)), "threshold").close


# -- reasons --


@pytest.mark.parametrize("policy", ["break-even", "threshold"])
def test_every_decision_says_why(policy: Any) -> None:
    """A sentence and figures, also for doing nothing."""
    states = [
        ScaleState(),
        backlog(3),
        backlog(100),
        backlog(100, offer=None),
        backlog(100, max_pods=0),
        due(100, 250),
        backlog(0, pods=(ready(idle_s=1000),)),
    ]
    for state in states:
        decision = decide(state, policy)
        assert decision.reason
        assert "nan" not in decision.reason
    assert "no pod can be had now" in decide(states[3]).reason
    assert decide(backlog(100)).figures["waiting"] == 100
