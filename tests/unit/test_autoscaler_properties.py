"""What holds for every state that could be: drawn at random, for both policies."""

from __future__ import annotations

import math
from dataclasses import replace
from decimal import Decimal
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_video.autoscaler import Arrivals, LaneView, PodOffer, PodView, ScaleState, decide, lanes_of
from hybrid_video.demand import BatchDemand, LaneDemand, shared_lanes
from hybrid_video.models import Tier
from hybrid_video.scaling.erlang import jobs_present, waiting_share
from hybrid_video.scaling.lane_memory import LaneMemory
from hybrid_video.scaling.outlook import Server, outlook
from hybrid_video.simulation.autoscale import EPOCH

POLICIES = st.sampled_from(["break-even", "threshold"])
seconds = st.floats(0, 5000, allow_nan=False)
some_s = st.floats(1, 600, allow_nan=False)


@st.composite
def lanes(draw: st.DrawFn) -> tuple[LaneView, ...]:
    """Own GPUs, serverless workers, Google operations, in any mixture; also none."""
    kinds = [
        LaneView("comfyui", Tier.LOCAL, draw(some_s), 0.0, Decimal(0)),
        LaneView("runpod-serverless", Tier.CLOUD, draw(some_s), 0.0, Decimal(draw(st.integers(1, 200))) / 1000),
        LaneView("gemini", Tier.GEMINI, draw(some_s), 0.0, Decimal(draw(st.integers(20, 3000))) / 1000),
    ]
    found = []
    for kind in kinds:
        for _ in range(draw(st.integers(0, 4))):
            found.append(replace(kind, free_in_s=draw(st.sampled_from([0.0, 3.0, 77.7]))))
    return tuple(found)


@st.composite
def pods(draw: st.DrawFn) -> tuple[PodView, ...]:
    """Pods in every state."""
    found = []
    for number in range(draw(st.integers(0, 6))):
        state: Any = draw(st.sampled_from(["starting", "ready", "draining"]))
        jobs = 0 if state == "starting" else draw(st.integers(0, 2))
        found.append(
            PodView(
                f"p{number}",
                state,
                ready_in_s=draw(some_s) if state == "starting" else 0.0,
                jobs=jobs,
                idle_s=0.0 if jobs or state == "starting" else draw(seconds),
                age_s=draw(seconds),
                price_usd_per_h=Decimal(draw(st.integers(10, 400))) / 100,
                service_s=draw(st.sampled_from([0.0, 12.5, 100.0])),
                free_in_s=draw(some_s) if jobs else 0.0,
            )
        )
    return tuple(found)


@st.composite
def demands(draw: st.DrawFn) -> tuple[BatchDemand, ...]:
    """None to three batches, with and without deadlines and budgets."""
    found = []
    for number in range(draw(st.integers(0, 3))):
        budget = draw(st.one_of(st.none(), st.integers(0, 500)))
        found.append(
            BatchDemand(
                batch=f"b{number}",
                waiting_jobs=draw(st.integers(0, 300)),
                under_way_jobs=draw(st.floats(0, 20)),
                deadline_s=draw(st.one_of(st.none(), st.floats(-100, 5000))),
                budget_left_usd=None if budget is None else Decimal(budget) / 100,
                budget_is_goal=draw(st.booleans()),
                pod_service_s=draw(st.one_of(st.none(), some_s)),
                pods_possible=draw(st.booleans()),
                value_of_time_usd_per_h=draw(st.sampled_from([0.0, 10.0, 1000.0])),
                published_at=EPOCH,
            )
        )
    return tuple(found)


@st.composite
def states(draw: st.DrawFn) -> ScaleState:
    """Anything the watcher could see, and some that it could not."""
    offer = PodOffer(
        Decimal(draw(st.integers(1, 500))) / 100,
        draw(some_s),
        draw(st.floats(0, 900)),
        draw(st.sampled_from(["second", "hour"])),
    )
    rate = draw(st.sampled_from([0.0, 1e-9, 0.004, 0.3, 50.0]))
    return ScaleState(
        draw(demands()),
        draw(lanes()),
        draw(pods()),
        draw(st.one_of(st.just(offer), st.just(offer), st.none())),
        Arrivals(rate, draw(st.floats(0, 500)), draw(st.floats(1, 50)), 900.0),
        draw(st.integers(0, 8)),
        draw(st.sampled_from([0.0, 1.0, 5.0, 500.0])),
    )


@given(states(), POLICIES)
@settings(max_examples=300, deadline=None)
def test_every_decision_is_lawful(state: ScaleState, policy: Any) -> None:
    """Never over the maximum with starting pods counted, never a busy pod closed, never the same pod twice, no NaN."""
    decision = decide(state, policy)
    known = {pod.name: pod for pod in state.pods}
    assert decision.open >= 0
    assert decision.open == 0 or len(state.pods) + decision.open <= state.max_pods
    assert decision.open == 0 or state.offer is not None
    assert all(not known[name].busy for name in decision.close)
    assert len({*decision.close, *decision.drain}) == len(decision.close) + len(decision.drain)
    assert not (decision.open and decision.close)
    assert decision.reason
    assert "nan" not in decision.reason.lower()
    assert all(math.isfinite(figure) for figure in decision.figures.values() if not isinstance(figure, str))


@given(states(), POLICIES)
@settings(max_examples=100, deadline=None)
def test_the_same_state_gives_the_same_decision(state: ScaleState, policy: Any) -> None:
    """Nothing is remembered between two decisions."""
    assert decide(state, policy) == decide(state, policy)


@given(st.integers(1, 6), st.floats(2, 300), st.floats(2, 300), st.floats(1, 600), st.floats(0, 1), st.integers(1, 500))
@settings(max_examples=300, deadline=None)
def test_nothing_opens_for_what_is_done_before_a_pod_is_ready(
    gpus: int, service_s: float, pod_s: float, start_s: float, share: float, value: int
) -> None:
    """Below mu sigma no value of waiting opens a pod."""
    waiting = int(share * gpus / service_s * start_s)
    batch = BatchDemand(batch="b", waiting_jobs=waiting, value_of_time_usd_per_h=float(value), published_at=EPOCH)
    state = ScaleState(
        (batch,),
        (LaneView("comfyui", Tier.LOCAL, service_s),) * gpus,
        offer=PodOffer(Decimal("0.34"), pod_s, start_s),
        value_of_waiting_usd_per_job_h=float(value),
    )
    assert decide(state).open == 0


@given(states(), POLICIES, st.integers(0, 200))
@settings(max_examples=200, deadline=None)
def test_twice_as_much_waiting_never_opens_fewer(state: ScaleState, policy: Any, more: int) -> None:
    """The number of pods opened does not fall when twice as many jobs of the same kind wait, or more.

    One job more may save a pod: clips are whole, and the last ones may divide better among fewer.
    """
    alone = replace(state, lanes=tuple(lane for lane in state.lanes if not lane.price_usd), pods=())
    if not alone.demands:
        return
    few = alone.demands[0].model_copy(update={"deadline_s": None, "budget_left_usd": None})
    many = few.model_copy(update={"waiting_jobs": 2 * few.waiting_jobs + more})
    before, after = (decide(replace(alone, demands=(one,)), policy).open for one in (few, many))
    assert after >= before


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0.5, 60)), min_size=1, max_size=5), st.integers(0, 40))
@settings(max_examples=200, deadline=None)
def test_the_outlook_is_what_greedy_assignment_gives(pairs: list[tuple[float, float]], jobs: int) -> None:
    """Counts, flow and duration equal those of giving each job to the server that finishes it first."""
    servers = [Server(free_s, service_s) for free_s, service_s in pairs]
    ends = [server.free_s for server in servers]
    flow_s = last_s = 0.0
    for _ in range(jobs):
        index = min(range(len(servers)), key=lambda i: ends[i] + servers[i].service_s)
        ends[index] += servers[index].service_s
        flow_s += ends[index]
        last_s = max(last_s, ends[index])
    found = outlook(servers, jobs)
    assert found is not None
    assert sum(found.jobs) == jobs
    assert math.isclose(found.flow_s, flow_s, rel_tol=1e-3, abs_tol=0.02)
    assert math.isclose(found.duration_s, last_s, rel_tol=1e-3, abs_tol=0.02)


@given(st.floats(0.001, 50), st.integers(1, 20))
def test_erlangs_formula_is_a_share_and_grows_with_the_load(offered: float, servers: int) -> None:
    """Between 0 and 1, more with more load, less with more servers; and M/M/1 is the load itself."""
    share = waiting_share(offered, servers)
    assert 0 <= share <= 1
    assert waiting_share(offered * 1.1, servers) >= share - 1e-12
    assert waiting_share(offered, servers + 1) <= share + 1e-12
    assert math.isclose(waiting_share(0.4, 1), 0.4)
    assert math.isclose(jobs_present(0.5, 1.0, 1), 1.0)
    assert jobs_present(0.0, 0.0, 0) == 0.0


def lane(name: str, **fields: Any) -> LaneDemand:
    """A published lane."""
    return LaneDemand(**{"id": name, "backend": "comfyui", "tier": Tier.LOCAL, "service_s": 10, **fields})


def test_a_lane_that_two_batches_share_counts_once() -> None:
    """Its time is the mean by waiting jobs, and it is free when both have left it."""
    one = BatchDemand(batch="a", waiting_jobs=30, lanes=(lane("gpu-1", free_in_s=4),))
    two = BatchDemand(batch="b", waiting_jobs=10, lanes=(lane("gpu-1", service_s=50, free_in_s=9), lane("gpu-2")))
    shared = {lane.id: lane for lane in shared_lanes((one, two))}
    assert len(lanes_of((one, two))) == 2
    assert shared["gpu-1"].service_s == 20
    assert shared["gpu-1"].free_in_s == 9


def test_lanes_are_remembered_while_no_batch_speaks_of_them() -> None:
    """Between two batches the own GPU is still there, and free; after hours of silence it is forgotten."""
    memory = LaneMemory()
    batch = BatchDemand(batch="a", waiting_jobs=3, lanes=(lane("gpu-1", free_in_s=8),))
    assert memory.see((batch,), 100.0)[0].free_in_s == 8
    assert memory.see((), 103.0)[0].free_in_s == 5
    assert memory.see((), 900.0)[0].free_in_s == 0
    assert memory.see((), 100_000.0) == ()


def test_a_demand_survives_the_ledger_and_grows_older() -> None:
    """The JSON document gives the same demand; ten seconds later its deadline and its lanes are ten seconds nearer."""
    told = BatchDemand(
        batch="a", waiting_jobs=3, deadline_s=60, budget_left_usd=Decimal("0.1"), lanes=(lane("gpu-1", free_in_s=4),)
    )
    read = BatchDemand.model_validate_json(told.model_dump_json())
    assert read == told
    later = read.aged(told.published_at.replace(year=told.published_at.year + 1))
    assert later.deadline_s is not None
    assert later.deadline_s < 0
    assert later.lanes[0].free_in_s == 0
    assert read.tier_mean(Tier.LOCAL) == (10, 0)
    assert read.tier_mean(Tier.GEMINI) is None
