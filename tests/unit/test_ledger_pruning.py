"""Old batches lose their details, never their money: balances, bills and the history stay as they were."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest
import sqlalchemy as sa

from hybrid_video.errors import InputError
from hybrid_video.history import History
from hybrid_video.ledger import Ledger, Owner
from hybrid_video.ledger import schema as t
from hybrid_video.ledger.pruning import compact, prunable, prune
from hybrid_video.ledger.verify import verify
from hybrid_video.models import AttemptState, utc_now
from tests.unit.deciding_rig import job
from tests.unit.ledger_rig import advance, make_batch, make_done, make_order, reserve

YEAR = timedelta(days=365)


@pytest.fixture
def ledger(ledger_url: str | Path, tmp_path: Path) -> Iterator[Ledger]:
    """A ledger with the batches `old`, `odd` (one attempt uncertain) and `new`, each of two shots."""
    ledger, owner = Ledger.open(ledger_url), Owner(tmp_path)
    for name in ("old", "odd", "new"):
        ledger.register(make_batch(name, 2), out_dir=tmp_path / "out")
        make_done(ledger, make_order(name), owner, "0.0123")
        order = make_order(name, job("shot-1"), usd="0.07")
        if name == "odd":
            reserve(ledger, order, owner)
            advance(ledger, order, AttemptState.UNCERTAIN)
        else:
            make_done(ledger, order, owner, "0.07")
        ledger.finish_batch(name)
    ledger.release(owner)
    old = utc_now() - 2 * YEAR
    with ledger.writing() as connection:
        connection.execute(sa.update(t.batches).where(t.batches.c.name != "new").values(finished_at=old))
    yield ledger
    owner.close()
    ledger.close()


@pytest.fixture
def history(tmp_path: Path, ledger: Ledger) -> History:
    """The history, up to date."""
    history = History(tmp_path / "history.duckdb")
    history.update(ledger)
    return history


def balances(ledger: Ledger) -> dict[str, Decimal]:
    """Settled dollars of every scope but those of single jobs."""
    with ledger.reading() as connection:
        rows = connection.execute(sa.select(t.balances)).all()
    return {row.scope: row.settled_usd for row in rows if not row.scope.startswith("job:")}


def test_only_old_batches_with_nothing_open_go_and_every_sum_stays(ledger: Ledger, history: History) -> None:
    """The uncertain one stays, the new one stays; what went is carried in the sums."""
    before = balances(ledger), verify(ledger).settled_usd
    gone = prune(ledger, utc_now() - YEAR)
    assert (gone.batches, gone.jobs, gone.attempts, gone.settled_usd) == (("old",), 2, 2, Decimal("0.0823"))
    assert (balances(ledger), verify(ledger).settled_usd) == before
    assert [finding for finding in verify(ledger).findings if finding.serious] == []
    assert ledger.attempts("old") == []
    assert len(ledger.attempts("odd")) == len(ledger.attempts("new")) == 2
    compact(ledger)
    assert prune(ledger, utc_now() - YEAR).batches == ()
    assert verify(ledger).settled_usd == before[1]


def test_the_history_keeps_what_was_pruned_even_when_it_is_rebuilt(ledger: Ledger, history: History) -> None:
    """The charts of past years do not change."""
    count = "select batch, count(*) as n, sum(cost_usd) as usd from attempts group by batch order by batch"
    before = history.query(count).to_dict("records")
    prune(ledger, utc_now() - YEAR)
    assert history.query(count).to_dict("records") == before
    history.rebuild(ledger)
    assert history.query(count).to_dict("records") == before


def test_a_pruned_batch_is_not_made_again_by_its_name(ledger: Ledger, history: History, tmp_path: Path) -> None:
    """Nobody knows any more which clips were paid for."""
    prune(ledger, utc_now() - YEAR)
    with pytest.raises(InputError, match="batch 'old' was made long ago"):
        ledger.register(make_batch("old", 2), out_dir=tmp_path)


def test_what_is_not_in_the_history_yet_stays(ledger: Ledger) -> None:
    """It would be gone from every chart."""
    assert prunable(ledger, utc_now() - YEAR) == ()


def test_a_batch_waits_for_the_bill_of_its_pods(ledger: Ledger, history: History) -> None:
    """The bill is compared with the attempts that ran on the pod."""
    values = {"name": "p", "pod_id": "p1", "state": "closed", "gpu": "x", "cloud": "SECURE", "intended_at": utc_now()}
    money = dict.fromkeys(("price_usd_per_h", "storage_usd_per_h", "reserved_usd", "booked_usd"), Decimal(0))
    with ledger.writing() as connection:
        connection.execute(sa.insert(t.pods).values(**values, **money, day="2024-11-22"))
        connection.execute(sa.update(t.attempts).where(t.attempts.c.batch == "old").values(lane="runpod-pod/p1"))
    assert prunable(ledger, utc_now() - YEAR) == ()
    with ledger.writing() as connection:
        billed = {"reconciled_at": utc_now(), "billed_usd": Decimal("0.0823")}
        connection.execute(sa.update(t.pods).values(**billed))
    assert verify(ledger).pod_difference_usd == 0
    assert prune(ledger, utc_now() - YEAR).batches == ("old",)
    report = verify(ledger)
    assert (report.pod_difference_usd, report.pod_billed_usd) == (Decimal(0), Decimal("0.0823"))
    assert [finding for finding in report.findings if finding.serious] == []


# -- space -------------------------------------------------------------------------------------------------------------


def many_old_batches(ledger: Ledger, owner: Owner, folder: Path, count: int = 12) -> None:
    """Finished long ago, in the history, some kilobytes each."""
    for number in range(count):
        name = f"long-ago-{number}"
        ledger.register(make_batch(name, 4), out_dir=folder)
        for shot in range(4):
            make_done(ledger, make_order(name, job(f"shot-{shot}")), owner, "0.01")
        ledger.finish_batch(name)
    ledger.release(owner)
    with ledger.writing() as connection:
        mine = t.batches.c.name.startswith("long-ago")
        connection.execute(sa.update(t.batches).where(mine).values(finished_at=utc_now() - 2 * YEAR))
        connection.execute(sa.update(t.attempts).values(in_history=True))


def folded_size(path: Path) -> int:
    """Size of a ledger's file with its log folded in."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path.stat().st_size


def free_pages(path: Path) -> int:
    """Pages of a file that hold nothing."""
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("PRAGMA freelist_count").fetchone()[0])


def test_space_is_given_back_while_a_batch_is_made(tmp_path: Path) -> None:
    """Whoever writes meanwhile loses nothing and never waits for long; pruning again changes nothing."""
    path = tmp_path / "ledger.sqlite3"
    shots = tuple(job(f"busy-{number}") for number in range(100))
    with closing(Ledger.open(path)) as ledger:
        owner, busy = Owner(tmp_path / "old"), Owner(tmp_path / "busy")
        many_old_batches(ledger, owner, tmp_path)
        ledger.register(make_batch("now", shots), out_dir=tmp_path)
        waits: list[float] = []
        stop = threading.Event()

        def make() -> None:
            with closing(Ledger.open(path)) as other:
                for shot in shots:
                    if stop.is_set():
                        return
                    began = time.monotonic()
                    make_done(other, make_order("now", shot), busy, "0.01")
                    waits.append(time.monotonic() - began)

        maker = threading.Thread(target=make)
        maker.start()
        try:
            gone = prune(ledger, utc_now() - YEAR)
            freed = free_pages(path)
            assert compact(ledger)
            assert prune(ledger, utc_now() - YEAR).batches == ()
            assert compact(ledger)
        finally:
            stop.set()
            maker.join()
        owner.close()
        busy.close()
        report = verify(ledger)
        assert len(gone.batches) == 12
        assert report.ok, report.findings
        assert report.settled_usd == Decimal("0.01") * (48 + len(waits))
        assert waits
        assert max(waits) < 10
        assert freed > 20
        assert free_pages(path) < freed / 2


def test_an_older_file_is_written_anew_only_while_nothing_runs(tmp_path: Path) -> None:
    """It was made without the means to give space back bit by bit, and writing it anew holds everybody up."""
    path = tmp_path / "ledger.sqlite3"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE something (x)")  # the mode of a file is decided with its first table
    owner = Owner(tmp_path / "old")
    with closing(Ledger.open(path)) as ledger:
        many_old_batches(ledger, owner, tmp_path)
        ledger.register(make_batch("now", 1), out_dir=tmp_path)
        full = folded_size(path)
        assert len(prune(ledger, utc_now() - YEAR).batches) == 12
        assert ledger.claim("now", "shot-0", owner)
        assert compact(ledger) is False
        ledger.release(owner)
        assert compact(ledger)
        assert verify(ledger).ok
    owner.close()
    assert folded_size(path) < full * 0.8
