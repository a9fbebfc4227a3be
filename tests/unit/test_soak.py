"""The soak in short: nothing grows over some dozens of batches, and what is made to leak is seen."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

import pytest

from benchmarks.soak import Plan, Soak, Soaked, table
from benchmarks.soak_gauges import PROCESS, STATE, Gauge, judged

BATCHES = 24


def soaked(home: Path, leak: object = None) -> Soaked:
    """A short soak within this process: no servers, no other processes."""
    plan = Plan(BATCHES, 0.0, home, real_every=0, beside=False, samples=12, leak=leak)  # type: ignore[arg-type]
    return asyncio.run(Soak(plan).run())


def counted(result: Soaked) -> set[str]:
    """Leaking gauges that are counts; memory needs hundreds of batches to settle."""
    return {name for name in result.leaks if not name.endswith("memory")}


def test_some_dozens_of_batches_leave_nothing_open(tmp_path: Path) -> None:
    """No file, thread, connection, task or temporary file more; every batch was made, and each gauge was read."""
    result = soaked(tmp_path)
    assert counted(result) == set(), table(result)
    assert (result.batches, result.jobs) == (BATCHES, BATCHES * 2)
    names = {row.gauge.rsplit(": ", 1)[-1] for row in result.rows}
    assert names == {gauge.name for gauge in (*STATE, *PROCESS)}


def test_a_file_left_open_with_every_round_is_seen(tmp_path: Path) -> None:
    """The check can fail: this is what it is for."""
    left_open = []

    def leak() -> None:
        left_open.extend((tmp_path / "left-open").open("w") for _ in range(10))

    try:
        assert "batches: files" in soaked(tmp_path, leak).leaks
    finally:
        for file in left_open:
            file.close()


STEADY = [100.0 + 2 * math.sin(n) for n in range(40)]


@pytest.mark.parametrize(
    ("values", "leaks"),
    [
        (STEADY, False),
        ([value + (30 if n < 8 else 40) for n, value in enumerate(STEADY)], False),
        ([value + 0.5 * n for n, value in enumerate(STEADY)], True),
        ([*STEADY[:30], 900.0, *STEADY[31:]], False),
        ([value - n for n, value in enumerate(STEADY)], False),
    ],
    ids=["noise", "a step at the beginning", "growth", "one outlier", "shrinking"],
)
def test_growth_is_told_from_noise(values: list[float], leaks: bool) -> None:
    """By the median slope over the second half: 12 MB in 3,000 batches is 4 kB a batch, and seen."""
    memory = next(gauge for gauge in PROCESS if gauge.name == "memory")
    assert judged(memory, "memory", [75 * n for n in range(40)], values).leaks is leaks


def test_what_is_kept_by_policy_may_grow_steadily_and_no_faster() -> None:
    """The same size for each batch is the policy; more for each later one is a leak."""
    kept = Gauge("history", "MB", noise=1.0, kept="for the charts")
    batches = [75 * n for n in range(40)]
    assert not judged(kept, "history", batches, [2.0 + n / 2 for n in range(40)]).leaks
    assert judged(kept, "history", batches, [2.0 + n * n / 20 for n in range(40)]).leaks
