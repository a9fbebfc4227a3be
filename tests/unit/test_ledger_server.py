"""The ledger on a database server that goes away for a moment."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from hybrid_video.errors import LedgerError
from hybrid_video.ledger import Ledger
from hybrid_video.ledger.journal import Journal
from tests.postgres_rig import control, data_folder, postgres_server, server_folder
from tests.unit.ledger_rig import make_batch

AWAY_S = 2.0


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A server that only these tests use."""
    if server_folder() is None:
        assert "CI" not in os.environ, "CI must have PostgreSQL; .ci/run installs it"
        pytest.skip("PostgreSQL is not installed here (Debian: apt install postgresql)")
    with postgres_server() as url:
        yield url


@pytest.fixture
def away(server: str) -> Iterator[Path]:
    """The data folder of the server, which is running again at the end."""
    data = data_folder(server)
    yield data
    if not (data / "postmaster.pid").exists():
        control(data, "-o", _options(data), "start")


def _options(data: Path) -> str:
    words = [word.strip('"') for word in (data / "postmaster.opts").read_text(encoding="utf-8").split()[1:]]
    return " ".join(words[words.index("-h") :])


def test_reads_and_writes_wait_for_a_server_that_is_started_again(server: str, away: Path, tmp_path: Path) -> None:
    """What was not begun when it went away is done when it is back; nobody sees an error."""
    with closing(Ledger.open(server)) as ledger:
        ledger.register(make_batch("before"), out_dir=tmp_path)
        options = _options(away)
        control(away, "-m", "immediate", "stop")
        again = threading.Timer(AWAY_S, control, (away, "-o", options, "start"))
        again.start()
        began = time.monotonic()
        ledger.register(make_batch("after"), out_dir=tmp_path)
        waited_s = time.monotonic() - began
        again.join()
        assert waited_s >= AWAY_S * 0.9
        assert set(ledger.batch_names()) == {"before", "after"}


def test_a_transaction_that_loses_the_server_leaves_nothing_and_says_so(
    server: str, away: Path, tmp_path: Path
) -> None:
    """An error of ours with a sentence, also where a journal is kept; the ledger works on when the server does."""

    def lose(ledger: Ledger) -> None:
        with ledger.writing() as connection:
            connection.execute(sa.text("INSERT INTO balances VALUES ('lost', 1, 1)"))
            control(away, "-m", "immediate", "restart")
            connection.execute(sa.text("INSERT INTO balances VALUES ('lost too', 1, 1)"))

    with closing(Ledger.open(server)) as ledger:
        ledger.keep_journal(Journal.open(tmp_path / "journal"))
        with pytest.raises(LedgerError, match="the ledger cannot be used"):
            lose(ledger)
        assert ledger.balance("lost").settled_usd == 0


def test_a_wrong_address_is_said_at_once(tmp_path: Path) -> None:
    """Patience is for a server that was there; a typing error is told right away."""
    began = time.monotonic()
    with pytest.raises(LedgerError, match="cannot be opened"):
        Ledger.open("postgresql://nobody@127.0.0.1:9/none")
    assert time.monotonic() - began < 5
