"""The dispatcher against the optimum: `python -m benchmarks.dispatch [--quick]`.

Virtual clock, fixed seeds that no constant was chosen on (`benchmarks.guards`), lognormal times (CV 0.10, 0.25, 0.50),
failed attempts burn 0.6 of a clip's time. Bounds hold in expectation for every router that cannot see the future.
Opening and closing pods (W4, W7) belongs to the autoscaler's benchmark; kills and resumption (W9) to `make chaos`.

`--quick` has too few runs to tell a figure from its target: it asks whether the target may be met, so it judges the
better end of a 95 % interval where chance is large. Figures to be quoted come from the whole.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import partial
from pathlib import Path
from statistics import fmean, pstdev
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import dispatch_speed
from benchmarks.dispatch_cases import (
    FIRST_SEED,
    alike,
    clips,
    misjudged,
    ratio_interval,
    repeat,
    seed_split,
    sheet,
    sized,
    summed,
    usd,
)
from benchmarks.measure import wilson
from benchmarks.scoreboard import Claim, Measured, Scoreboard, savings_sentence
from hybrid_video import planner
from hybrid_video.dispatcher import GUARD
from hybrid_video.planner import Resource
from hybrid_video.simulation import (
    EarliestFinish,
    FixedSplit,
    Incident,
    InOrder,
    Ours,
    Outcome,
    Policy,
    Site,
    simulate,
    sized_cost_bound_usd,
)

BY_DEADLINE = {10: (30,), 100: (160, 190, 250), 1000: (1600, 1900)}
BUDGETS = {10: 0.05, 100: 0.46, 1000: 4.60}
TIME_LIMIT = {10: 1.45, 100: 1.06, 1000: 1.01}


def frontier_exact(board: Scoreboard) -> None:
    """W1: certain times, every point of the frontier, on both price sheets."""
    board.title("W1: 100 clips, certain times, every point of the frontier")
    profiles: tuple[Literal["seed", "current"], ...] = ("seed", "current")
    for profile in profiles:
        sites = sheet(profile, certain=True)
        pool = [Resource(site.key, site.slots, site.service_s, site.price_usd) for site in sites]
        points = planner.frontier(pool, 100).points
        regret, late = Decimal(0), 0.0
        for point in points:
            policy = Ours(deadline_s=point.duration_s + 1e-6, learning=False)
            outcome = simulate(sites, clips(100), policy, seed=0)
            regret = max(regret, outcome.cost_usd - point.cost_usd)
            late = max(late, outcome.duration_s - point.duration_s)
        board.claim(
            Claim(f"W1 {profile}: cost over the optimum, worst of {len(points)} points", float(regret), 0, unit=" $")
        )
        board.claim(Claim(f"W1 {profile}: time over the deadline, worst point", max(0.0, late - 1e-5), 0, unit=" s"))


def against_the_bound(board: Scoreboard, quick: bool) -> None:
    """W1, W2: random times and failures, ours beside the rules it replaces."""
    for failure in (0.0, 0.05):
        board.title(f"W1, W2: seed prices, {failure:.0%} of attempts fail")
        sites = sheet("seed", failure=failure)
        for jobs, runs in ((10, 250 if quick else 4000), (100, 15 if quick else 300), (1000, 4 if quick else 100)):
            for name, policy in _compared(jobs).items():
                if quick and jobs == 1000 and not name.startswith("ours D"):
                    continue
                fewer = runs if name.startswith("ours D") or (jobs == 10 and "ours" in name) else max(2, runs // 10)
                outcomes = repeat(sites, alike(jobs), policy, fewer)
                row = summed(f"W2 {failure:.0%} fail", name, sites, jobs, outcomes)
                board.row(row)
                if name.startswith("ours D") or (name.startswith("ours $") and jobs == 10):
                    board.claim(_time_claim(row, f"{name}, N={jobs}, {failure:.0%} fail", outcomes, sites, quick))
                if name.startswith("ours D") and jobs == 1000 and row.cost_ratio is not None:
                    board.claim(
                        Claim(
                            f"cost over bound {name}, N=1000, {failure:.0%} fail",
                            100 * (row.cost_ratio - 1),
                            3,
                            unit=" %",
                        )
                    )


def _time_claim(row: Measured, name: str, outcomes: Sequence[Outcome], sites: Sequence[Site], quick: bool) -> Claim:
    """Time over the least for the money."""
    ratio, limit = row.time_ratio or math.inf, TIME_LIMIT[row.jobs]
    if not quick:
        return Claim(f"T/T* {name}", ratio, limit)
    _, low, high = ratio_interval(sites, row.jobs, outcomes)
    return Claim(f"T/T* {name}, lower end of {low:.3f} to {high:.3f}", low, limit)


def _compared(jobs: int) -> dict[str, Callable[[], Policy]]:
    """The rules that are replaced, and ours with each kind of goal; few jobs are planned softly."""
    soft = jobs <= 20
    rules: dict[str, Callable[[], Policy]] = {
        "seed score (all local)": partial(InOrder, keys=("local",)),
        "seed order, caps": InOrder,
        "fixed 45/38/17": partial(FixedSplit, split=seed_split(jobs)),
        "earliest finish": EarliestFinish,
        "ours, no goal": partial(Ours, soft=soft),
    }
    for deadline in BY_DEADLINE[jobs]:
        rules[f"ours D={deadline}" + (" soft" if soft else "")] = partial(Ours, deadline, soft=soft)
    budget = usd(BUDGETS[jobs])
    rules[f"ours ${budget}"] = partial(Ours, budget_usd=budget, soft=soft)
    if soft:
        rules["ours hard, D=30"] = partial(Ours, 30)
    return rules


def current_prices(board: Scoreboard, quick: bool) -> None:
    """W5: the shipped price book of today."""
    board.title("W5: current prices, one own GPU, five serverless workers, ten calls to Google; 5% fail")
    sites, jobs = sheet("current", failure=0.05), 100
    pool = [Resource(site.key, site.slots, site.effective_s, Decimal(str(site.effective_usd))) for site in sites]
    kink_s = planner.frontier(pool, jobs).kink.duration_s
    rules: dict[str, Callable[[], Policy]] = {
        "seed order, caps": InOrder,
        "earliest finish": EarliestFinish,
        f"ours D={kink_s * 1.02:.0f}": partial(Ours, kink_s * 1.02),
        f"ours D={kink_s * 1.5:.0f}": partial(Ours, kink_s * 1.5),
        "ours, no goal": Ours,
    }
    for name, policy in rules.items():
        outcomes = repeat(sites, alike(jobs), policy, 6 if quick else 150)
        row = summed("W5", name, sites, jobs, outcomes)
        board.row(row)
        if name.startswith("ours"):
            dearest = planner.all_on(pool[-1], jobs)
            print("  " + savings_sentence(row.cost_usd, row.all_gemini_usd, row.duration_s, dearest.duration_s))


def on_time(board: Scoreboard, quick: bool) -> None:
    """Deadlines kept with the guard the dispatcher keeps by itself; few runs are judged together."""
    board.title(f"On time with {GUARD} of the longest clip in hand")
    for jobs, deadlines, runs in ((100, (160, 190, 250), 100 if quick else 400), (1000, (1600,), 10 if quick else 100)):
        hits = tried = 0
        for failure in (0.0, 0.05):
            for deadline in deadlines:
                rule = partial(Ours, deadline, guard_s=None)
                outcomes = repeat(sheet("seed", failure=failure), alike(jobs), rule, runs)
                kept = sum(outcome.duration_s <= deadline for outcome in outcomes)
                hits, tried = hits + kept, tried + runs
                low, high = wilson(kept, runs)
                name, share = f"on time, N={jobs}, D={deadline}, {failure:.0%} fail", 100 * kept / runs
                print(f"  {name}: {share:.1f} % of {runs} runs ({100 * low:.1f} to {100 * high:.1f} %)")
                if not quick:
                    board.claim(Claim(name, share, 95, "at least", " %"))
        if quick:
            board.claim(Claim(f"on time, N={jobs}, all of {tried} runs", 100 * hits / tried, 95, "at least", " %"))


def budgets(board: Scoreboard, quick: bool) -> None:
    """No budget is ever exceeded, reservations counted."""
    board.title("Budgets: 1,000 runs, 10% of attempts fail, spent and reserved looked at after every start")
    sizes = (6, 10, 16) if quick else (30, 100)
    sites = sheet("seed", failure=0.10)
    over = unmade = 0
    for run in range(1000):
        jobs = sizes[run % len(sizes)]
        budget = usd(jobs * (0.0005 + 0.00008 * (run % 97)))
        outcome = simulate(sites, clips(jobs), Ours(budget_usd=budget), seed=FIRST_SEED + run)
        over += outcome.most_held_usd > budget
        unmade += outcome.unmade
    board.claim(Claim("budget overruns in 1,000 runs", over, 0))
    board.claim(Claim("jobs lost in 1,000 runs", unmade, 0))


def trouble(board: Scoreboard, quick: bool) -> None:
    """W3: failures, the own GPU dies at 30 %, the cloud is pre-empted, Google refuses for a while."""
    board.title("W3: 5% fail, own GPU dies at 30% of the time, cloud pre-empted for 20 s, Google refuses for 10 s")
    sites, runs = sheet("seed", failure=0.05), 40 if quick else 300
    for deadline in (160, 250):
        incidents = (
            Incident("local", 0.3 * deadline),
            Incident("cloud", 0.5 * deadline, 0.5 * deadline + 20),
            Incident("gemini", 0.8 * deadline, 0.8 * deadline + 10, kills=False),
        )
        late: dict[bool, list[bool]] = {}
        cost: dict[bool, float] = {}
        for counts in (False, True):
            rule = partial(Ours, deadline, guard_s=None, counts_on_returns=counts)
            outcomes = repeat(sites, alike(100), rule, runs, incidents=incidents)
            name = f"ours D={deadline}" + ("" if counts else ", no returns")
            board.row(summed("W3", name, sites, 100, outcomes))
            late[counts] = [outcome.duration_s > deadline for outcome in outcomes]
            cost[counts] = fmean(float(outcome.cost_usd) for outcome in outcomes)
        saved, before, now = 100 * (1 - cost[True] / cost[False]), fmean(late[False]), fmean(late[True])
        print(f"  counting on returns saves {saved:.1f} %; late {before:.1%} without, {now:.1%} with")
        more = [100.0 * (with_it - without) for with_it, without in zip(late[True], late[False], strict=True)]
        extra, half = fmean(more), 1.96 * pstdev(more) / math.sqrt(runs)
        name = f"W3 D={deadline}: batches late more often by counting on returns"
        if quick:
            name += f", lower end of {extra - half:.1f} to {extra + half:.1f}"
        board.claim(Claim(name, extra - half if quick else extra, 5, unit=" %"))
        lost = sum(outcome.unmade for outcome in outcomes)
        doubled = sum(sum(outcome.split.values()) - 100 for outcome in outcomes)
        board.claim(Claim(f"W3 D={deadline}: jobs lost or made twice in {runs} runs", lost + abs(doubled), 0))


def sizes(board: Scoreboard, quick: bool) -> None:
    """W6: sizes with CV 0.6, known and hidden, beside the linear programme."""
    board.title("W6: sizes with CV 0.6, bound from the linear programme at the measured time")
    for failure in (0.0, 0.05):
        sites = sheet("seed", failure=failure)
        for jobs, deadline, runs in ((100, 160, 12 if quick else 200), (1000, 1600, 5 if quick else 40)):
            for told in (True,) if quick else (True, False):
                batches = sized(jobs, told=told)
                tried = runs if told else max(3, runs // 4)
                outcomes = repeat(sites, batches, partial(Ours, deadline), tried)
                mean_s = fmean(outcome.duration_s for outcome in outcomes)
                bound = fmean(
                    sized_cost_bound_usd(sites, [job.size for job in batches(seed)], mean_s)
                    for seed in range(FIRST_SEED, FIRST_SEED + tried)
                )
                name = f"ours D={deadline} " + ("known" if told else "hidden")
                row = summed(f"W6 {failure:.0%} fail", name, sites, jobs, outcomes, bound)
                board.row(row)
                if told and jobs == 1000 and row.cost_ratio is not None:
                    board.claim(
                        Claim(f"W6 cost over LP, N=1000, {failure:.0%} fail", 100 * (row.cost_ratio - 1), 12, unit=" %")
                    )


def wrong_priors(board: Scoreboard, quick: bool) -> None:
    """W8: every quoted time wrong by a factor between 0.2 and 3."""
    board.title("W8: quoted times wrong by 0.2 to 3, each tier its own; learned while the batch runs")
    sites = sheet("seed")
    for jobs, deadlines, limit, runs in (
        (100, (160, 190, 250), 1.10, 20 if quick else 400),
        (1000, (1900,) if quick else (1600, 1900), 1.02, 12 if quick else 80),
    ):
        for deadline in deadlines:
            outcomes = repeat(sites, alike(jobs), partial(Ours, deadline), runs, world=partial(misjudged, sites))
            row = summed("W8", f"ours D={deadline}", sites, jobs, outcomes)
            board.row(row)
            board.claim(Claim(f"W8 T/T*, N={jobs}, D={deadline}", row.time_ratio or math.inf, limit))


def main() -> int:
    """Everything, or with `--quick` the same on fewer runs; returns how many targets are missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer runs, and only the rows with targets")
    quick = parser.parse_args().quick
    return run(quick=quick)


def run(*, quick: bool) -> int:
    """Runs every part; returns how many targets are missed."""
    board, began = Scoreboard(), time.perf_counter()
    frontier_exact(board)
    for part in (against_the_bound, current_prices, on_time, budgets, trouble, sizes, wrong_priors):
        part(board, quick)
        print(f"  ({time.perf_counter() - began:.0f} s)", flush=True)
    dispatch_speed.measure(board)
    missed = board.verdict()
    print(f"took {time.perf_counter() - began:.0f} s")
    return missed


if __name__ == "__main__":
    main()
