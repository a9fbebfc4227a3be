"""How the dispatcher's margins were chosen, and what they do on luck they were not chosen on.

`python -m benchmarks.guards --choose` compares values of `rounds.SAFETY`, `dispatcher.SURE` and `goals.GUARD` on the
seeds for choosing; without it the present values are judged on other seeds, with intervals. The seeds of the benchmark
(`dispatch_cases.FIRST_SEED` and up) belong to neither, so no target is met by having been aimed at.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import fmean

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.dispatch_cases import alike, ratio_interval, repeat, sheet
from benchmarks.measure import show, wilson
from hybrid_video import dispatcher, goals, rounds
from hybrid_video.simulation import Ours, cost_bound_usd

CHOOSING = 2_000_000
"""First seed for choosing."""

JUDGING = 3_000_000
"""First seed for judging what was chosen."""

CASES = ((100, 160.0), (100, 190.0), (100, 250.0), (1000, 1600.0), (1000, 1900.0))
MANY = 500
"""Batches larger than this are run a tenth as often."""

CANDIDATES = tuple(
    {"safety": safety, "sure": sure, "guard": guard}
    for safety, sure, guard in (
        (2.0, 0.2, 0.6),
        (2.5, 0.2, 0.6),
        (3.0, 0.2, 0.6),
        (3.5, 0.2, 0.6),
        (3.0, 0.1, 0.6),
        (3.0, 0.3, 0.6),
        (3.0, 0.2, 0.5),
        (3.0, 0.2, 0.7),
    )
)


@contextmanager
def margins(safety: float, sure: float, guard: float) -> Iterator[None]:
    """Other values for a while."""
    kept = rounds.SAFETY, dispatcher.SURE, goals.GUARD
    rounds.SAFETY, dispatcher.SURE, goals.GUARD = safety, sure, guard
    try:
        yield
    finally:
        rounds.SAFETY, dispatcher.SURE, goals.GUARD = kept


def judge(runs: int, first: int, cases: Sequence[tuple[int, float]] = CASES, **said: float) -> None:
    """On-time shares with intervals, and what the punctuality costs over the bound."""
    for failure in (0.0, 0.05):
        sites = sheet("seed", failure=failure)
        for jobs, deadline in cases:
            tried = runs if jobs <= MANY else max(10, runs // 10)
            outcomes = repeat(sites, alike(jobs), partial(Ours, deadline, guard_s=None), tried, first=first)
            hits = sum(one.duration_s <= deadline for one in outcomes)
            low, high = wilson(hits, tried)
            cost, mean_s = fmean(float(one.cost_usd) for one in outcomes), fmean(one.duration_s for one in outcomes)
            show(
                "guards",
                **said,
                jobs=jobs,
                deadline_s=deadline,
                failing=failure,
                runs=tried,
                on_time=round(hits / tried, 4),
                interval=(round(low, 4), round(high, 4)),
                cost_usd=round(cost, 4),
                over_bound=round(cost / cost_bound_usd(sites, jobs, mean_s) - 1, 4),
            )


def few_clips(runs: int, first: int) -> None:
    """T/T* of ten clips, where chance is largest."""
    for failure in (0.0, 0.05):
        for soft in (True, False):
            rule = partial(Ours, 30, soft=soft)
            outcomes = repeat(sheet("seed", failure=failure), alike(10), rule, runs, first=first)
            ratio, low, high = ratio_interval(sheet("seed", failure=failure), 10, outcomes)
            interval = (round(low, 4), round(high, 4))
            show(
                "guards",
                jobs=10,
                deadline_s=30,
                soft=soft,
                failing=failure,
                runs=runs,
                ratio=round(ratio, 4),
                interval=interval,
            )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--choose", action="store_true", help="compare values on the seeds for choosing")
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--few", action="store_true", help="only ten clips")
    asked = parser.parse_args()
    if asked.few:
        few_clips(asked.runs, JUDGING)
    elif asked.choose:
        for candidate in CANDIDATES:
            with margins(**candidate):
                judge(asked.runs, CHOOSING, ((100, 160.0), (100, 190.0)), **candidate)
    else:
        judge(asked.runs, JUDGING)
        few_clips(10 * asked.runs, JUDGING)


if __name__ == "__main__":
    main()
