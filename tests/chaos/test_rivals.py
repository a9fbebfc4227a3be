"""Two processes on one batch: what one of them has read may be old by the time it acts."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.chaos_farm import SMALL
from hybrid_video.engine.selection import SelectionRequest, Shot, decide
from hybrid_video.estimates import tier_quote
from hybrid_video.ledger import Caps, JobTakenError, Ledger, Owner
from hybrid_video.models import (
    AttemptState,
    Batch,
    Candidate,
    CostEntry,
    EffectivePreferences,
    JobState,
    Tier,
    VideoJob,
    WorkOrder,
)
from hybrid_video.pricing.catalog import PriceBook
from hybrid_video.pricing.quoting import Quoter
from hybrid_video.pricing.timings import ServiceTimes
from hybrid_video.settings import Settings

JOB = VideoJob(id="s0", prompt="a shot", **SMALL)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """A ledger with one job."""
    opened = Ledger.open(tmp_path / "ledger.sqlite3")
    opened.register(Batch(name="film", jobs=(JOB,)), out_dir=tmp_path)
    yield opened
    opened.close()


def reserve(ledger: Ledger, owner: Owner, number: int) -> WorkOrder:
    """The spend gate, for attempt `number` on the paid cloud tier."""
    quote = tier_quote(Quoter(PriceBook.load("seed"), ServiceTimes()), Settings(), Tier.CLOUD, JOB)
    order = WorkOrder(attempt_id=str(uuid.uuid4()), batch="film", job=JOB, number=number, seed=1, lane="l", quote=quote)
    offer = Candidate(backend=quote.backend, tier=quote.tier, quote=quote)
    decision = decide(SelectionRequest(Shot(JOB, 1, EffectivePreferences(), offers=(offer,)), number))
    ledger.reserve(order, decision, Caps(), owner)
    return order


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_job_that_was_finished_meanwhile_is_not_bought_again(ledger: Ledger, tmp_path: Path, number: int) -> None:
    """The other process made it, settled it and died; whoever still holds it for waiting may not reserve for it."""
    other, late = Owner(tmp_path), Owner(tmp_path)
    order = reserve(ledger, other, 1)
    cost = CostEntry(amount_usd=order.quote.amount_usd, basis="made", source="metered")
    ledger.settle(order.attempt_id, cost, state=AttemptState.FAILED, job_state=JobState.DONE)
    other.close()
    with pytest.raises(JobTakenError, match="moved on"):
        reserve(ledger, late, number)
    assert ledger.balance("all").reserved_usd == 0
    late.close()
