"""What a restored ledger is told: rows by rows, on both kinds of database, and again without changing anything."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest
import sqlalchemy as sa

from hybrid_video.engine.refilling import Refilled, refill
from hybrid_video.errors import ConfigurationError, InputError
from hybrid_video.ledger import Caps, Ledger, Owner, gaps
from hybrid_video.ledger import schema as t
from hybrid_video.ledger.copying import backup, restore
from hybrid_video.ledger.journal import Journal
from hybrid_video.ledger.verify import verify
from hybrid_video.models import AttemptState, JobState, Tier, utc_now
from hybrid_video.pods.records import PodIntent
from hybrid_video.pods.store import PodStore
from tests.unit.deciding_rig import job
from tests.unit.ledger_rig import advance, fail, finish, make_batch, make_clip, make_order, reserve

POD = PodIntent(
    name="hybrid-video-00000000-aaaaaaaaaa",
    gpu="NVIDIA GeForce RTX 4090",
    cloud="SECURE",
    price_usd_per_h=Decimal("0.69"),
    reserve_usd=Decimal("0.15"),
)


class Studio:
    """A ledger with a journal, and what is left of it after a restore."""

    def __init__(self, folder: Path, url: str | Path) -> None:
        self.folder = folder
        self.journal = Journal.open(folder / "journal")
        self.owner = Owner(folder)
        self.ledger = Ledger.open(url)
        self.ledger.keep_journal(self.journal)
        self.ledger.register(make_batch(jobs=6), out_dir=folder / "out")

    def back_up(self) -> None:
        """A copy of this moment."""
        backup(self.ledger, self.folder / "copy.sqlite3")

    def restored(self) -> Ledger:
        """Another ledger, made from the copy."""
        again = Ledger.open(self.folder / "again.sqlite3")
        again.keep_journal(self.journal)
        restore(self.folder / "copy.sqlite3", again)
        return again


@pytest.fixture
def studio(tmp_path: Path, ledger_url: str | Path) -> Iterator[Studio]:
    """A batch of six shots."""
    studio = Studio(tmp_path, ledger_url)
    yield studio
    studio.owner.close()
    studio.ledger.close()


def told(ledger: Ledger) -> Refilled:
    """What `refill` found; there is a gap."""
    found = refill(ledger)
    assert found is not None
    return found


def same_money(one: Ledger, other: Ledger) -> None:
    """Equal balances in every scope, and no contradiction."""

    def held(ledger: Ledger) -> dict[str, tuple[Decimal, Decimal]]:
        with ledger.reading() as connection:
            rows = connection.execute(sa.select(t.balances)).all()
        found = {row.scope: (row.settled_usd, row.reserved_usd) for row in rows}
        return {scope: amounts for scope, amounts in found.items() if any(amounts)}

    assert held(one) == held(other)
    report = verify(other)
    assert report.ok, report.findings


def test_every_attempt_ends_where_it_was(studio: Studio) -> None:
    """Known and unknown to the backup; done, failed, uncertain and under way: states, numbers and money agree."""
    ledger, owner = studio.ledger, studio.owner
    orders = [make_order(shot=job(f"shot-{n}"), usd="0.02") for n in range(5)]
    for order in orders[:2]:
        reserve(ledger, order, owner)
        advance(ledger, order, AttemptState.SUBMITTED)
    studio.back_up()
    ended = orders[0]
    ledger.mark_collected(ended.attempt_id, make_clip(ended), execution_s=3.0, queue_s=1.0, gpu="x")
    finish(ledger, ended, "0.0123")
    fail(ledger, orders[1], "0.004")
    again = make_order(shot=job("shot-1"), number=2, usd="0.03")
    for order in (again, *orders[2:]):
        reserve(ledger, order, owner)
    advance(ledger, orders[2], AttemptState.SUBMITTED)
    advance(ledger, orders[3], AttemptState.UNCERTAIN)
    with closing(studio.restored()) as restored:
        found = told(restored)
        assert (found.attempts_added, found.attempts_brought_on, found.closed) == (4, 2, True)
        same_money(ledger, restored)
        before = {a.attempt_id: (a.state, a.number, a.cost_usd) for a in ledger.attempts()}
        assert {a.attempt_id: (a.state, a.number, a.cost_usd) for a in restored.attempts()} == before
        states = {row.job: (row.state, row.attempts) for row in ledger.job_rows("night")}
        assert {row.job: (row.state, row.attempts) for row in restored.job_rows("night")} == states
        assert all(row.owner is None for row in restored.job_rows("night"))
        assert refill(restored) is None


def test_a_pod_opened_or_ended_since_is_known_with_its_cost(studio: Studio) -> None:
    """One was alive at the backup and ended, one was opened and ended after it, one is being opened now."""
    store = PodStore(studio.ledger)
    first, second, third = (POD.model_copy(update={"name": f"{POD.name[:-1]}{n}"}) for n in "123")
    for pod in (first, second):
        if pod is second:
            studio.back_up()
        store.intend(pod, caps=Caps(), max_pods=5)
        store.mark_creating(pod.name)
        store.mark_created(pod.name, f"id-{pod.name[-1]}")
    order = make_order(shot=job("shot-0"), backend="runpod-pod").model_copy(update={"lane": "runpod-pod/id-2"})
    reserve(studio.ledger, order, studio.owner)
    advance(studio.ledger, order, AttemptState.COLLECTED)
    finish(studio.ledger, order, "0.01")
    for pod, usd in ((first, "0.05"), (second, "0.08")):
        store.mark_closing(pod.name, "idle")
        store.mark_closed(pod.name, cost_usd=Decimal(usd))
    store.intend(third, caps=Caps(), max_pods=5)
    with closing(studio.restored()) as restored:
        assert len(told(restored).pods) == 3
        same_money(studio.ledger, restored)
        assert verify(restored).settled_usd == Decimal("0.13")
        assert [pod.state for pod in PodStore(restored).all()] == [pod.state for pod in store.all()]


def test_a_gap_stays_open_where_the_journal_begins_too_late(studio: Studio) -> None:
    """One that was begun after the backup says nothing about the time before."""
    studio.back_up()
    with closing(Ledger.open(studio.folder / "again.sqlite3")) as restored:
        restore(studio.folder / "copy.sqlite3", restored)
        restored.keep_journal(Journal.open(studio.folder / "another"))
        found = told(restored)
        assert not found.closed
        assert "goes back to" in found.not_whole[0]
        assert found.waits_for
        order = make_order(shot=job("shot-0"))
        with pytest.raises(ConfigurationError, match="reconcile"):
            reserve(restored, order, studio.owner)
        free = make_order(shot=job("shot-0"), usd="0", backend="comfyui")
        reserve(restored, free, studio.owner)
        with restored.writing() as connection:
            gaps.close_by_word(connection, {Tier.CLOUD: Decimal("0.30")})
        assert verify(restored).ok
        assert restored.balance("all").settled_usd == Decimal("0.30")
        with restored.writing() as connection, pytest.raises(InputError, match="has no gap"):
            gaps.close_by_word(connection, {})


def test_a_backup_of_an_earlier_version_gets_its_gap_when_it_is_restored(studio: Studio) -> None:
    """It says nothing of itself; the gap begins with the newest thing it knows."""
    studio.back_up()
    with closing(Ledger.open(studio.folder / "copy.sqlite3")) as old, old.writing() as connection:
        connection.execute(sa.delete(t.gaps))
    with closing(studio.restored()) as restored, restored.reading() as connection:
        gap = gaps.open_gap(connection)
        assert gap is not None
        assert utc_now() - timedelta(minutes=5) < gap.taken_at < utc_now()
        assert gap.restored_at is not None


def test_a_backup_of_a_restored_ledger_keeps_the_wider_gap(studio: Studio) -> None:
    """Nothing is forgotten by copying a ledger that does not know everything itself."""
    studio.back_up()
    with closing(studio.restored()) as restored:
        backup(restored, studio.folder / "second.sqlite3")
        with restored.reading() as connection:
            first = gaps.open_gap(connection)
    with closing(Ledger.open(studio.folder / "second.sqlite3")) as second, second.reading() as connection:
        found = gaps.open_gap(connection)
    assert first is not None
    assert found is not None
    assert found.taken_at == first.taken_at


def test_a_job_that_was_done_stays_done(studio: Studio) -> None:
    """An older line of a journal moves nothing back."""
    order = make_order(shot=job("shot-0"))
    reserve(studio.ledger, order, studio.owner)
    advance(studio.ledger, order, AttemptState.COLLECTED)
    finish(studio.ledger, order)
    studio.back_up()
    with closing(studio.restored()) as restored:
        found = told(restored)
        assert (found.attempts_added, found.attempts_brought_on) == (0, 0)
        assert restored.job_rows("night", only=["shot-0"])[0].state is JobState.DONE
        same_money(studio.ledger, restored)
