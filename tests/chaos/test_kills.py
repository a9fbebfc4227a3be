"""Fifty kills of real batch processes: nothing paid twice, nothing lost or held, all taken up again within seconds."""

from __future__ import annotations

import os
from decimal import Decimal
from pathlib import Path

import pytest

from benchmarks.chaos import Tally, run

pytestmark = pytest.mark.skipif(os.name == "nt", reason="SIGKILL and fork")

SEEDS = (20261122, 7)
KILLS = 25


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_killed_batches_pay_once_and_lose_nothing(tmp_path: Path, seed: int) -> None:
    """`make chaos` does the same with a thousand; a failure is repeated with `SEED=<seed> KILLS=25 make chaos`."""
    tally = run(Tally(seed=seed), KILLS, state=None, keep=tmp_path)
    assert tally.findings == []
    assert tally.kills >= KILLS
    assert (tally.duplicates, tally.lost_clips) == ([], [])
    assert (Decimal(tally.leaked_reservations_usd), Decimal(tally.ledger_minus_charges_usd)) == (0, 0)
    assert Decimal(tally.charged_usd) > 0
    assert tally.reattach_s
    assert max(tally.reattach_s) < 10
