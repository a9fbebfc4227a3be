"""Twenty-five kills of a controller over the life of its pods: none forgotten, none unpaid, nobody else's touched."""

from __future__ import annotations

import os
from decimal import Decimal
from pathlib import Path

import pytest

from benchmarks.chaos_pods import MAX_PODS, Tally, run

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == "nt", reason="SIGKILL and fork")]

KILLS = 25


@pytest.mark.timeout(420)
@pytest.mark.parametrize("seed", [20261122])
def test_killed_controllers_forget_no_pod_and_owe_nothing(tmp_path: Path, seed: int) -> None:
    """`python benchmarks/chaos_pods.py` does the same 500 times; a failure is repeated with its seed."""
    tally = run(Tally(seed=seed), KILLS, keep=tmp_path)
    assert tally.findings == []
    assert tally.kills >= KILLS
    assert tally.pods > 10
    assert 0 < tally.most_at_once <= MAX_PODS
    assert Decimal(tally.billed_usd) > 0
    assert abs(Decimal(tally.billed_usd) - Decimal(tally.ledger_usd)) < Decimal("0.0001")
