"""How long deciding takes, on states recorded from a simulated batch; and what model affinity saves."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from benchmarks.dispatch_cases import clips, sheet
from benchmarks.measure import percentile
from benchmarks.scoreboard import Claim, Scoreboard, emit
from hybrid_video import dispatcher, planner
from hybrid_video.dispatcher import LaneState, Waiting
from hybrid_video.planner import Resource
from hybrid_video.rounds import Round
from hybrid_video.simulation import InOrder, Job, Ours, Policy, simulate


def measure(board: Scoreboard) -> None:
    """Every figure of speed, then affinity."""
    board.title("Speed in process (one thread of this machine)")
    decisions(board)
    planning(board)
    replay(board)
    board.title("Model affinity: 90 clips of three models, 30 s to load another one, own GPUs only")
    affinity(board)


def decisions(board: Scoreboard) -> None:
    """One lane's question to the rule, and a whole round with its preparation, at every decision of a batch."""
    rule: list[float] = []
    rounds: list[float] = []

    def timed(waiting: Waiting, lanes: Sequence[LaneState], horizon_s: float) -> None:
        began = time.perf_counter_ns()
        dispatcher.assign(waiting, lanes, horizon_s)
        rounds.append((time.perf_counter_ns() - began) / 1000)
        state = Round(waiting, lanes, horizon_s, soft=False, pace={}, probes={})
        for backend in state.backends:
            began = time.perf_counter_ns()
            dispatcher.pick(state, backend, 0)
            rule.append((time.perf_counter_ns() - began) / 1000)

    simulate(sheet("seed", failure=0.05), clips(1000), Ours(1600, on_decision=timed), seed=1)
    board.claim(Claim("rule for one lane, p50", percentile(rule, 0.5), 10, unit=" us"))
    board.claim(Claim("rule for one lane, p99", percentile(rule, 0.99), 100, unit=" us"))
    emit(
        benchmark="dispatch",
        round_p50_us=round(percentile(rounds, 0.5), 1),
        round_p99_us=round(percentile(rounds, 0.99), 1),
    )
    print(f"  a whole round over 18 lanes: p50 {percentile(rounds, 0.5):.0f} us, p99 {percentile(rounds, 0.99):.0f} us")


def planning(board: Scoreboard) -> None:
    """The frontier of a thousand jobs on slots that free at different times, and one horizon for each kind of goal."""
    ready = {site.key: tuple(0.37 * n for n in range(site.slots)) for site in sheet("seed")}
    pool = [Resource(site.key, site.slots, site.service_s, site.price_usd) for site in sheet("seed")]
    took = []
    for _ in range(5):
        began = time.perf_counter()
        planner.frontier(pool, 1000)
        took.append(time.perf_counter() - began)
    board.claim(Claim("frontier of 1,000 jobs", 1000 * percentile(took, 0.5), 50, unit=" ms"))
    busy = [replace(resource, ready_s=ready[resource.key]) for resource in pool]
    began = time.perf_counter()
    planner.balanced(busy, 1000, 10.0)
    board.claim(
        Claim("plan without a goal, 1,000 jobs, busy slots", 1000 * (time.perf_counter() - began), 50, unit=" ms")
    )


def replay(board: Scoreboard) -> None:
    """Ten thousand decisions: a batch of ten thousand clips, each assigned, made and learned from; processor time."""
    began = time.process_time()
    outcome = simulate(sheet("seed"), clips(10_000), Ours(19_000), seed=1)
    seconds = (time.process_time() - began) * 10_000 / outcome.attempts
    board.claim(Claim("10,000 decisions replayed", seconds, 5, unit=" s"))


def affinity(board: Scoreboard) -> None:
    """Loads of weights with and without looking at what a GPU has loaded."""
    sites = tuple(replace(site, load_s=30.0) for site in sheet("seed") if site.key == "local")
    jobs = [Job(f"s{number}", model=f"m{number % 3}") for number in range(90)]
    policies: dict[str, Policy] = {"seed order": InOrder(keys=("local",)), "ours": Ours()}
    loads = {}
    for name, policy in policies.items():
        outcome = simulate(sites, jobs, policy, seed=1)
        loads[name] = outcome.loads
        print(f"  {name}: {outcome.loads} loads, {outcome.duration_s:.0f} s")
    board.claim(Claim("loads of another model, three models on three GPUs", loads["ours"], 3))
