"""What a jump of the wall clock does to ownership, and what never looks at it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from chaos_rig import Studio

import hybrid_video
from hybrid_video.ledger import Ledger, Owner
from hybrid_video.ledger import owner as ledger_owner
from hybrid_video.ledger import store as ledger_store
from hybrid_video.models import Tier, utc_now

LIVE = """
import sys
from pathlib import Path
from hybrid_video.ledger import Ledger, Owner
home = Path(sys.argv[1])
ledger, owner = Ledger.open(home / "ledger.sqlite3"), Owner(home)
assert ledger.claim("film", "s0", owner)
print("mine", flush=True)
sys.stdin.readline()
"""
DAY = timedelta(days=1)


@contextmanager
def live_owner(home: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that drives the job s0."""
    child = subprocess.Popen(
        [sys.executable, "-c", LIVE, str(home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "mine\n"
        yield child
    finally:
        child.kill()
        child.communicate()


@pytest.fixture
def ledger(tmp_path: Path, studio: Studio) -> Iterator[Ledger]:
    """A ledger with the batch `film`, nothing of it started."""
    opened = Ledger.open(tmp_path / "ledger.sqlite3")
    opened.register(studio.batch([Tier.LOCAL]), out_dir=tmp_path)
    yield opened
    opened.close()


@pytest.mark.parametrize("jump", [DAY, -DAY], ids=["forward", "back"])
def test_a_jump_takes_no_job_from_a_live_process_of_this_machine(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: timedelta
) -> None:
    """Set clock, or a laptop that slept for a day: the lease seems over, but the owner's lock says that it lives."""
    owner = Owner(tmp_path)
    with live_owner(tmp_path) as child:
        for module in (ledger_store, ledger_owner):
            monkeypatch.setattr(module, "utc_now", lambda: utc_now() + jump)
        assert not ledger.claim("film", "s0", owner)
        child.kill()
        child.wait()
        assert ledger.claim("film", "s0", owner)
    owner.close()


def test_a_jump_forward_ends_the_lease_of_an_owner_elsewhere(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lock cannot be seen from here, so the lease is all there is; attempts are looked up, not sent again."""
    owner = Owner(tmp_path)
    far = Owner(tmp_path / "far")
    far.id = "another-machine/1"
    assert ledger.claim("film", "s0", far)
    assert not ledger.claim("film", "s0", owner)
    monkeypatch.setattr(ledger_owner, "utc_now", lambda: utc_now() + DAY)
    assert ledger.claim("film", "s0", owner)
    owner.close()


async def test_a_batch_does_not_notice_that_the_clock_is_a_day_ahead_of_its_receipts(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock is set back a day between reservation and settlement: one attempt, one price, nothing reserved."""
    studio.use(Tier.CLOUD)
    ahead = [True]

    def jumping() -> object:
        return utc_now() + DAY if ahead[0] else utc_now()

    def set_back(_server: str, operation: str, _job: str) -> None:
        ahead[0] = ahead[0] and operation != "status"

    monkeypatch.setattr(ledger_store, "utc_now", jumping)
    studio.vendors.faults.listener = set_back
    try:
        report = await studio.run(studio.batch([Tier.CLOUD]))
    finally:
        studio.vendors.faults.listener = None
    assert not ahead[0]
    studio.made_for_one_price(report)


def test_durations_are_measured_with_the_monotonic_clock() -> None:
    """No module of the product but the emulators and file ages takes the wall clock's difference for a duration."""
    root = Path(hybrid_video.__file__).parent
    found = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if "emulators" not in path.parts and re.search(r"time\.time\(\)", path.read_text(encoding="utf-8"))
    }
    assert found <= {"engine/disk_audit.py", "inputs/fetching.py"}, found
