"""The journal: nothing is sent that it does not hold, a crash tears at most its last line, and it says how far back it
goes."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from hybrid_video.errors import LedgerError
from hybrid_video.ledger import Ledger, Owner
from hybrid_video.ledger.journal import Journal, JournalError
from hybrid_video.ledger.verify import verify
from hybrid_video.models import AttemptState, JobState, utc_now
from tests.unit.deciding_rig import job
from tests.unit.ledger_rig import advance, finish, make_batch, make_order, reserve

HOUR = timedelta(hours=1)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """A new journal."""
    return Journal.open(tmp_path / "journal")


@pytest.fixture
def ledger(tmp_path: Path, journal: Journal) -> Iterator[Ledger]:
    """A ledger that keeps it, with a batch of three shots."""
    with closing(Ledger.open(tmp_path / "ledger.sqlite3")) as ledger:
        ledger.keep_journal(journal)
        ledger.register(make_batch(), out_dir=tmp_path / "out")
        yield ledger


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Owner]:
    """This process."""
    owner = Owner(tmp_path)
    yield owner
    owner.close()


def kinds(journal: Journal) -> list[str]:
    """What was written, in order: the kind, and an attempt's state."""
    found = journal.read(utc_now() - HOUR)
    return [record["attempt"]["state"] if record["kind"] == "attempt" else record["kind"] for record in found]


def test_every_step_of_an_attempt_is_written_once(ledger: Ledger, journal: Journal, owner: Owner) -> None:
    """Batch, intent, receipt, end; the intent holds the whole job, and later lines only what changes."""
    order = make_order()
    reserve(ledger, order, owner)
    advance(ledger, order, AttemptState.COLLECTED)
    finish(ledger, order)
    assert kinds(journal) == ["batch", "intent", "submitted", "settled"]
    intent, *_, end = [r for r in journal.read(utc_now() - HOUR) if r["kind"] == "attempt"]
    assert json.loads(intent["job"]["spec"])["prompt"] == order.job.prompt
    assert json.loads(intent["attempt"]["quote"])["backend"] == order.quote.backend
    assert "quote" not in end["attempt"]
    assert end["job"]["state"] == JobState.DONE.value


def test_what_costs_nothing_is_written_from_its_receipt_on(ledger: Ledger, journal: Journal, owner: Owner) -> None:
    """A free GPU does not wait for the journal; each line is whole, so that any of them is enough."""
    order = make_order(backend="comfyui", usd="0")
    reserve(ledger, order, owner)
    assert kinds(journal) == ["batch"]
    advance(ledger, order, AttemptState.COLLECTED)
    assert kinds(journal) == ["batch", "submitted"]
    receipt = [r for r in journal.read(utc_now() - HOUR) if r["kind"] == "attempt"][-1]
    assert json.loads(receipt["job"]["spec"])["prompt"] == order.job.prompt
    assert json.loads(receipt["attempt"]["quote"])["backend"] == order.quote.backend


def test_what_is_refused_is_not_written(ledger: Ledger, journal: Journal, owner: Owner) -> None:
    """A rolled-back reservation was never about to be sent."""
    order = make_order()
    reserve(ledger, order, owner)
    with pytest.raises(LedgerError):
        reserve(ledger, order, owner)
    assert kinds(journal) == ["batch", "intent"]


def test_a_journal_that_cannot_be_written_keeps_the_job_from_being_sent(
    ledger: Ledger, tmp_path: Path, owner: Owner
) -> None:
    """The reservation is given back, and the job waits. The receipt of an earlier attempt is stored all the same."""
    sent = make_order()
    reserve(ledger, sent, owner)
    (tmp_path / "elsewhere").write_text("not a folder")
    ledger.keep_journal(Journal(tmp_path / "elsewhere"))
    order = make_order(shot=job("shot-1"))
    with pytest.raises(JournalError, match="elsewhere"):
        reserve(ledger, order, owner)
    refused = ledger.attempt(order.attempt_id)
    assert (refused.state, refused.cost_usd, refused.reserved_usd) == (AttemptState.FAILED, 0, 0)
    assert ledger.job_rows("night", only=["shot-1"])[0].state is JobState.PENDING
    advance(ledger, sent, AttemptState.SUBMITTED)
    assert ledger.attempt(sent.attempt_id).handle is not None
    assert verify(ledger).ok


def test_a_torn_line_is_left_out_and_harms_no_other(journal: Journal) -> None:
    """Somebody was killed in the middle of writing; whoever writes next begins a new line."""
    journal.write([{"kind": "batch", "batch": {"name": "one"}}], durable=True)
    (day,) = journal._files()
    with day.open("ab") as file:
        file.write(b'{"at": "2026-11-22T20:00:00+00:00", "kind": "att')
    journal.write([{"kind": "batch", "batch": {"name": "two"}}], durable=False)
    assert [record["batch"]["name"] for record in journal.read(utc_now() - HOUR)] == ["one", "two"]


def test_many_writers_never_mix_their_lines(tmp_path: Path) -> None:
    """Threads with a journal object each, as processes have."""
    Journal.open(tmp_path)

    def write(writer: int) -> None:
        own = Journal(tmp_path)
        for number in range(25):
            own.write([{"kind": "batch", "batch": {"name": f"{writer}-{number}", "spec": "x" * 3000}}], durable=False)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len({record["batch"]["name"] for record in Journal(tmp_path).read(utc_now() - HOUR)}) == 100


def test_a_pruned_journal_says_from_when_on_it_is_whole(journal: Journal) -> None:
    """A backup older than that cannot be brought up to date by it."""
    begun = journal.identity.complete_since
    old = journal._files
    assert old() == []
    journal.write([{"kind": "batch", "batch": {"name": "now"}}], durable=True)
    (today,) = journal._files()
    before = today.with_name("2026-01-02.jsonl")
    before.write_bytes(today.read_bytes())
    assert journal.covers(begun)
    assert not journal.covers(begun - HOUR)
    assert journal.prune(utc_now()) == [before]
    assert journal.identity.id == Journal.open(before.parent).identity.id
    assert journal.covers(utc_now())
    assert kinds(journal) == ["batch"]


def test_a_new_folder_begins_a_new_journal(tmp_path: Path) -> None:
    """One that was deleted cannot pass for the old one."""
    first = Journal.open(tmp_path / "a").identity
    assert Journal.open(tmp_path / "a").identity == first
    assert Journal.open(tmp_path / "b").identity.id != first.id


def test_nobody_else_can_read_it(ledger: Ledger, journal: Journal, owner: Owner) -> None:
    """It holds prompts, as the ledger does."""
    reserve(ledger, make_order(), owner)
    (day,) = journal._files()
    assert day.stat().st_mode & 0o077 == 0
