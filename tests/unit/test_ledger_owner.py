"""Who drives a job: dead owners lose it at once, live ones keep it, distant ones are believed until the lease ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from hybrid_video.errors import LedgerError
from hybrid_video.ledger import JobTakenError, Ledger, Owner
from hybrid_video.ledger import schema as t
from hybrid_video.models import AttemptState, utc_now
from tests.unit.ledger_rig import advance, make_batch, make_order, reserve

ROOT = Path(__file__).resolve().parents[2]

DRIVER = """
import sys
from pathlib import Path
from hybrid_video.ledger import Ledger, Owner
home, url = Path(sys.argv[1]), sys.argv[3]
ledger, owner = Ledger.open(url if "://" in url else Path(url)), Owner(home)
assert ledger.claim("night", "shot-0", owner)
print(owner.id, flush=True)
sys.stdin.readline()
if sys.argv[2] == "release":
    ledger.release(owner)
    owner.close()
"""


@pytest.fixture
def ledger(ledger_url: str | Path, tmp_path: Path) -> Iterator[Ledger]:
    """A ledger with the batch `night`."""
    ledger = Ledger.open(ledger_url)
    ledger.register(make_batch(), out_dir=tmp_path / "out")
    yield ledger
    ledger.close()


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Owner]:
    """This process."""
    owner = Owner(tmp_path)
    yield owner
    owner.close()


@contextmanager
def driver(home: Path, url: str | Path, end: str = "crash") -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Another process that drives shot-0, and its owner id."""
    child = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(home), end, str(url)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    try:
        yield child, child.stdout.readline().strip()
    finally:
        child.kill()
        child.communicate()


def give_to(ledger: Ledger, owner: str, *, lease_s: float) -> None:
    """Writes an owner into shot-0 as another process would."""
    until = utc_now() + timedelta(seconds=lease_s)
    with ledger.raw().begin() as connection:
        connection.execute(sa.update(t.jobs).where(t.jobs.c.job == "shot-0").values(owner=owner, lease_until=until))


def test_a_live_process_keeps_its_job_and_a_killed_one_loses_it_at_once(
    ledger: Ledger, owner: Owner, ledger_url: str | Path, tmp_path: Path
) -> None:
    """The operating system releases the lock of a killed process; its lease of 30 s need not run out."""
    with driver(tmp_path, ledger_url) as (child, other):
        assert not owner.is_dead(other)
        assert not ledger.claim("night", "shot-0", owner)
        with pytest.raises(JobTakenError, match="'night/shot-0' is driven by another process"):
            reserve(ledger, make_order(), owner)
        assert ledger.attempts("night") == []
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert owner.is_dead(other)
        assert ledger.claim("night", "shot-0", owner)
    assert ledger.job_rows("night")[0].owner == owner.id


def test_a_released_job_is_free(ledger: Ledger, owner: Owner, ledger_url: str | Path, tmp_path: Path) -> None:
    """A process that ends in order leaves nothing to take over."""
    with driver(tmp_path, ledger_url, "release") as (child, other):
        child.communicate("end\n", timeout=30)
        assert ledger.job_rows("night")[0].owner is None
        assert owner.is_dead(other)
        assert ledger.claim("night", "shot-0", owner)


def test_an_owner_elsewhere_is_believed_until_its_lease_ends(ledger: Ledger, owner: Owner) -> None:
    """Nobody can see from here whether a process on another machine lives."""
    give_to(ledger, "elsewhere/1234", lease_s=30)
    assert not owner.is_dead("elsewhere/1234")
    assert not ledger.claim("night", "shot-0", owner)
    give_to(ledger, "elsewhere/1234", lease_s=-1)
    assert ledger.claim("night", "shot-0", owner)


def test_an_owner_of_another_home_on_this_host_is_believed_until_its_lease_ends(
    ledger: Ledger, owner: Owner, ledger_url: str | Path, tmp_path: Path
) -> None:
    """Two containers may share a host name and a database; the lock of one cannot be seen from the other."""
    with driver(tmp_path / "other", ledger_url) as (child, other):
        assert not owner.is_dead(other)
        assert not ledger.claim("night", "shot-0", owner)
        child.kill()
        child.wait()
        assert not owner.is_dead(other)
        assert not ledger.claim("night", "shot-0", owner)
    give_to(ledger, other, lease_s=-1)
    assert ledger.claim("night", "shot-0", owner)


def test_renewing_keeps_exactly_the_own_leases(ledger: Ledger, owner: Owner) -> None:
    """A lease that is renewed does not end, and nobody else's is prolonged."""
    assert ledger.claim("night", "shot-1", owner)
    give_to(ledger, "elsewhere/1234", lease_s=-1)
    with ledger.raw().begin() as connection:
        connection.execute(sa.update(t.jobs).where(t.jobs.c.job == "shot-1").values(lease_until=utc_now()))
    ledger.renew(owner)
    with ledger.raw().connect() as connection:
        rows = {row.job: row.lease_until for row in connection.execute(sa.select(t.jobs))}
    assert rows["shot-1"] > utc_now() + timedelta(seconds=20)
    assert rows["shot-0"] < utc_now()


def test_claiming_again_changes_nothing_and_a_change_of_owner_is_counted(ledger: Ledger, owner: Owner) -> None:
    """The fence grows with every change of owner, never with a renewal."""

    def fence() -> int:
        with ledger.raw().connect() as connection:
            value: int = connection.execute(sa.select(t.jobs.c.fence).where(t.jobs.c.job == "shot-0")).scalar_one()
            return value

    assert ledger.claim("night", "shot-0", owner)
    assert ledger.claim("night", "shot-0", owner)
    assert fence() == 1
    give_to(ledger, f"{owner.place}/gone", lease_s=30)
    assert ledger.claim("night", "shot-0", owner)
    assert fence() == 2


def test_a_reservation_claims_its_job(ledger: Ledger, owner: Owner, tmp_path: Path) -> None:
    """Ownership and reservation are one commit, so nobody can come between."""
    reserve(ledger, make_order(), owner)
    assert ledger.job_rows("night")[0].owner == owner.id
    second = Owner(tmp_path)
    assert not ledger.claim("night", "shot-0", second)
    ledger.release(owner)
    assert ledger.claim("night", "shot-0", second)
    second.close()


def test_an_uncertain_job_belongs_to_nobody(ledger: Ledger, owner: Owner, tmp_path: Path) -> None:
    """Whoever reconciles may take it."""
    order = make_order()
    reserve(ledger, order, owner)
    advance(ledger, order, AttemptState.UNCERTAIN)
    second = Owner(tmp_path)
    assert ledger.claim("night", "shot-0", second)
    second.close()


def test_closing_an_owner_leaves_no_file(tmp_path: Path) -> None:
    """Its lock file goes with it; a dead one's is removed by whoever finds it."""
    owner = Owner(tmp_path)
    assert not owner.is_dead(owner.id)
    owner.close()
    assert list((tmp_path / "owners").iterdir()) == []
    other = Owner(tmp_path)
    with driver_without_ledger(tmp_path) as dead:
        pass
    assert other.is_dead(dead)
    assert [file.name for file in (tmp_path / "owners").iterdir()] == [f"{other.id.partition('/')[2]}.lock"]
    other.close()


@contextmanager
def driver_without_ledger(home: Path) -> Iterator[str]:
    """A process that is an owner and then is killed."""
    code = (
        "import sys; from pathlib import Path; from hybrid_video.ledger.owner import Owner; "
        "owner = Owner(Path(sys.argv[1])); print(owner.id, flush=True); sys.stdin.readline()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(home)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    yield child.stdout.readline().strip()
    child.kill()
    child.communicate()


def test_claiming_what_is_not_registered_is_an_error(ledger: Ledger, owner: Owner) -> None:
    """A job that the ledger does not know cannot be driven."""
    with pytest.raises(LedgerError, match="no job 'night/nope' is known"):
        ledger.claim("night", "nope", owner)
