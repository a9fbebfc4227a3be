"""Backups, restores and the move to another database: whole, checked, and never onto something that holds data."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from hybrid_video.errors import ConfigurationError
from hybrid_video.ledger import Ledger, Owner, gaps
from hybrid_video.ledger import schema as t
from hybrid_video.ledger.copying import backup, backup_name, copy, inspect, prune_backups, restore
from hybrid_video.ledger.verify import verify
from hybrid_video.models import AttemptState, utc_now
from tests.unit.deciding_rig import job
from tests.unit.ledger_rig import advance, make_batch, make_done, make_order, reserve


@pytest.fixture
def ledger(ledger_url: str | Path, tmp_path: Path) -> Iterator[Ledger]:
    """A ledger with a finished, an uncertain and a waiting job."""
    ledger, owner = Ledger.open(ledger_url), Owner(tmp_path)
    ledger.register(make_batch(), out_dir=tmp_path / "out")
    make_done(ledger, make_order(), owner, "0.0123")
    order = make_order(shot=job("shot-1"), usd="0.07")
    reserve(ledger, order, owner)
    advance(ledger, order, AttemptState.UNCERTAIN)
    ledger.release(owner)
    yield ledger
    owner.close()
    ledger.close()


def everything(ledger: Ledger) -> dict[str, list[tuple[object, ...]]]:
    """Every row of every table but the migrations' times."""
    with ledger.raw().connect() as connection:
        return {
            table.name: sorted((tuple(row) for row in connection.execute(sa.select(table))), key=repr)
            for table in t.metadata.sorted_tables
            if table is not t.migrations
        }


def test_a_backup_restores_to_the_same_rows_and_goes_on(ledger: Ledger, tmp_path: Path) -> None:
    """Every row comes back, the sums add up, and new rows can be written behind the copied ones."""
    copied = backup(ledger, tmp_path / "copy.sqlite3")
    assert (copied.batches, copied.attempts) == (1, 2)
    with closing(Ledger.open(tmp_path / "new.sqlite3")) as restored:
        again = restore(tmp_path / "copy.sqlite3", restored)
        assert {**everything(restored), "gaps": []} == everything(ledger)
        assert (again.settled_usd, again.reserved_usd) == (copied.settled_usd, copied.reserved_usd)
        assert verify(restored).settled_usd == verify(ledger).settled_usd
        owner = Owner(tmp_path / "other")
        with pytest.raises(ConfigurationError, match="what was sent after that is not known yet"):
            make_done(restored, make_order(shot=job("shot-2")), owner, "0.01")
        with restored.writing() as connection:
            gaps.close_gaps(connection, "nothing was sent")
        make_done(restored, make_order(shot=job("shot-2")), owner, "0.01")
        owner.close()
    assert sorted(file.name for file in tmp_path.glob("*copy*")) == ["copy.sqlite3"]


def test_a_ledger_moves_between_kinds_of_database(ledger: Ledger, ledger_url: str | Path, tmp_path: Path) -> None:
    """What was copied in is the same, and ids that the database counts go on after the copied ones."""
    with closing(Ledger.open(tmp_path / "start.sqlite3")) as start:
        copy(ledger, start)
        with ledger.writing() as connection:  # the way back needs an empty ledger
            for table in reversed(t.metadata.sorted_tables):
                if table is not t.migrations:
                    connection.execute(sa.delete(table))
        copy(start, ledger, running=False)
        assert everything(ledger) == everything(start)
    owner = Owner(tmp_path / "other")
    make_done(ledger, make_order(shot=job("shot-2")), owner, "0.01")
    owner.close()
    assert len(ledger.decisions("night")) == 3


def test_nothing_is_copied_onto_data(ledger: Ledger, tmp_path: Path) -> None:
    """Two ledgers in one would double every sum."""
    before = everything(ledger)
    backup(ledger, tmp_path / "copy.sqlite3")
    with pytest.raises(ConfigurationError, match="holds data already"):
        restore(tmp_path / "copy.sqlite3", ledger)
    assert everything(ledger) == before
    with pytest.raises(ConfigurationError, match="there is a file at"):
        backup(ledger, tmp_path / "copy.sqlite3")


def test_a_ledger_is_not_moved_while_a_batch_is_made(ledger: Ledger, tmp_path: Path) -> None:
    """Its run would go on writing into the old one."""
    owner = Owner(tmp_path / "driver")
    assert ledger.claim("night", "shot-2", owner)
    with closing(Ledger.open(tmp_path / "new.sqlite3")) as new:
        with pytest.raises(ConfigurationError, match="batch 'night' is being made"):
            copy(ledger, new, running=False)
        assert everything(new)["batches"] == []
    owner.close()


def test_a_backup_taken_among_writes_is_one_moment(ledger: Ledger, tmp_path: Path) -> None:
    """Whatever others write meanwhile, the balances in the copy are those of its attempts."""
    shots = tuple(job(f"busy-{number}") for number in range(60))
    ledger.register(make_batch("busy", shots), out_dir=tmp_path / "out")
    stop = threading.Event()

    def spend() -> None:
        owner = Owner(tmp_path / "spender")
        for shot in shots:
            if stop.is_set():
                break
            make_done(ledger, make_order("busy", shot), owner, "0.01")
        owner.close()

    spender = threading.Thread(target=spend)
    spender.start()
    held = []
    for number in range(4):
        path = tmp_path / f"copy-{number}.sqlite3"
        held.append(backup(ledger, path).attempts)
        with closing(Ledger.open(path)) as copied:
            assert [finding for finding in verify(copied).findings if finding.kind == "balance"] == []
    stop.set()
    spender.join()
    assert held == sorted(held)
    assert held[-1] > 2


@pytest.mark.parametrize("kind", ["missing", "not a database", "another database", "torn"])
def test_an_unusable_backup_is_refused_with_a_sentence(tmp_path: Path, kind: str) -> None:
    """It is looked at whole before anything is changed."""
    path = tmp_path / "copy.sqlite3"
    if kind == "not a database":
        path.write_text("certainly not a database " * 100)
    elif kind == "another database":
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE other (x)")
    elif kind == "torn":
        with closing(Ledger.open(tmp_path / "ledger.sqlite3")) as ledger:
            ledger.register(make_batch(jobs=200), out_dir=tmp_path)
            backup(ledger, path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with closing(Ledger.open(tmp_path / "target.sqlite3")) as target:
        with pytest.raises(ConfigurationError, match=r"backup|no ledger"):
            restore(path, target)
        assert everything(target)["batches"] == []
    with pytest.raises(ConfigurationError):
        inspect(path)


def test_only_the_newest_backups_are_kept(tmp_path: Path) -> None:
    """By their names, which sort by time; other files of the folder stay."""
    names = []
    for _ in range(4):
        names.append(backup_name(utc_now()))
        (tmp_path / names[-1]).write_text("x")
    (tmp_path / "notes.txt").write_text("mine")
    assert [path.name for path in prune_backups(tmp_path, 2)] == names[:2]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names[2:], "notes.txt"])
