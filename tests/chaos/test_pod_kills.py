"""Twenty-seven kills of a controller over the life of its pods: none forgotten, none unpaid, nobody else's touched."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

import pytest

from benchmarks.chaos_pods import MAX_PODS, Tally, run

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == "nt", reason="SIGKILL and fork")]

SEEDS = (20261122, 7, 99)
KILLS = 9


@pytest.mark.timeout(420)
def test_killed_controllers_forget_no_pod_and_owe_nothing(tmp_path: Path) -> None:
    """Three installations at once, each with a provider of its own, for pods are mostly waited for.

    `python benchmarks/chaos_pods.py` does the same 500 times; a failure is repeated with its seed.
    """

    def killed(seed: int) -> Tally:
        folder = tmp_path / str(seed)
        folder.mkdir()
        return run(Tally(seed=seed), KILLS, keep=folder)

    with ThreadPoolExecutor(len(SEEDS)) as at_once:
        tallies = list(at_once.map(killed, SEEDS))
    for tally in tallies:
        assert tally.findings == [], tally.seed
        assert tally.kills >= KILLS
        assert tally.pods > 10
        assert 0 < tally.most_at_once <= MAX_PODS
        assert Decimal(tally.billed_usd) > 0
        assert abs(Decimal(tally.billed_usd) - Decimal(tally.ledger_usd)) < Decimal("0.0001")
