"""Databases that other processes hold: the batch waits or goes on without, and never loses a receipt."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

import pytest
import sqlalchemy as sa
from chaos_rig import Studio
from filelock import FileLock

from hybrid_video.errors import LedgerError
from hybrid_video.history import History
from hybrid_video.ledger import store as ledger_store
from hybrid_video.models import Tier

HOLD_LEDGER = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=10)
connection.execute("begin immediate")
print("held", flush=True)
time.sleep(float(sys.argv[2]))
connection.execute("rollback")
"""
HOLD_HISTORY = """
import duckdb, sys
connection = duckdb.connect(sys.argv[1])
connection.execute("create table if not exists held (n integer)")
print("held", flush=True)
sys.stdin.readline()
"""


@contextmanager
def holding(program: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds a database, until it ends by itself or the block does."""
    command = [sys.executable, "-c", program, *(str(argument) for argument in arguments)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        yield child
    finally:
        child.kill()
        child.communicate()


async def test_a_ledger_locked_for_seconds_only_delays_the_batch(studio: Studio) -> None:
    """Another process holds it for three seconds from the first submit on: everything waits, and is paid once."""
    ledger, held = studio.home / "ledger.sqlite3", ExitStack()
    began: list[float] = []

    def lock(_server: str, operation: str, _job: str) -> None:
        if operation == "submit" and not began:
            began.append(time.monotonic())
            held.enter_context(holding(HOLD_LEDGER, ledger, 3))

    studio.vendors.faults.listener = lock
    with held:
        report = await studio.run(studio.batch())
        studio.vendors.faults.listener = None
        assert time.monotonic() - began[0] > 3
    studio.made_for_one_price(report)


@pytest.mark.parametrize("tier", [Tier.CLOUD, Tier.GEMINI])
async def test_a_receipt_is_stored_although_the_ledger_was_locked_when_it_came(
    studio: Studio, monkeypatch: pytest.MonkeyPatch, tier: Tier
) -> None:
    """The ledger is locked from the paid submit on, longer than its time-out: the receipt waits, nothing is lost."""
    monkeypatch.setattr(ledger_store, "BUSY_TIMEOUT_S", 0.2)
    server = "runpod" if tier is Tier.CLOUD else "gemini"
    locked: list[float] = []

    def lock(heard_server: str, operation: str, _job: str) -> None:
        if (heard_server, operation) != (server, "submit"):
            return
        connection = sqlite3.connect(studio.home / "ledger.sqlite3", isolation_level=None, check_same_thread=False)
        connection.execute("begin immediate")
        locked.append(time.monotonic())
        studio.vendors.call_later(1.5, connection.close)

    studio.vendors.faults.listener = lock
    try:
        report = await studio.run(studio.batch([tier]))
    finally:
        studio.vendors.faults.listener = None
    assert len(locked) == 1
    studio.made_for_one_price(report)
    assert len(studio.attempts("s0")) == 1


async def test_a_history_held_by_another_process_is_filled_later(studio: Studio) -> None:
    """DuckDB lets one process write: the batch finishes without the history, says so, and the next run fills it."""
    with holding(HOLD_HISTORY, studio.home / "history.duckdb"):
        report = await studio.run(studio.batch())
    assert any("history" in notice for notice in report.notices)
    studio.made_for_one_price(report)
    assert len(studio.ledger.unrecorded()) == 3
    await studio.run(studio.batch())
    assert studio.ledger.unrecorded() == []


async def test_a_history_lock_that_is_never_given_up_does_not_stop_a_batch(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hung process holds the lock file: every wait for it is bounded."""
    monkeypatch.setitem(History.__init__.__kwdefaults__, "lock_timeout_s", 0.2)
    studio.made_for_one_price(await studio.run(studio.batch()))
    with FileLock(studio.home / "history.lock"):
        report = await studio.run(studio.batch(name="film2"))
    assert report.errors == ()
    assert any("history" in notice for notice in report.notices)


async def test_a_ledger_that_fills_up_in_mid_batch_is_no_second_price(studio: Studio) -> None:
    """SQLite's own limit of pages stands for a full disk: the run says so and ends; with room again it goes on."""
    with closing(sqlite3.connect(studio.home / "ledger.sqlite3")) as connection:
        pages = connection.execute("pragma page_count").fetchone()[0]

    def small(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute(f"pragma max_page_count = {pages}")

    sa.event.listen(sa.Engine, "connect", small)
    try:
        with pytest.raises(LedgerError, match="full"):
            await studio.run(studio.batch())
    finally:
        sa.event.remove(sa.Engine, "connect", small)
    report = await studio.run(studio.batch())
    studio.person.release_never_accepted("film", studio.vendors.charges())
    if report.errors:
        report = await studio.run(studio.batch())
    studio.made_for_one_price(report)
