"""The watcher: never two at once, findings that others can read, and duties that survive whatever goes wrong."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from hybrid_video.errors import ConfigurationError
from hybrid_video.ledger import Ledger, Owner
from hybrid_video.ledger import schema as t
from hybrid_video.models import Health, Tier, utc_now
from hybrid_video.settings import Settings, StorageSettings
from hybrid_video.watcher import loop
from hybrid_video.watcher.demand_store import DemandStore
from hybrid_video.watcher.health_round import HealthRound
from hybrid_video.watcher.health_store import KEPT, HealthStore
from hybrid_video.watcher.lease import WatcherLease, watching
from hybrid_video.watcher.loop import Duty, Watcher
from tests.unit.engine_rig import ScriptedBackend
from tests.unit.watcher_rig import demand, opened

HOLD = """
import sys, time
from pathlib import Path
from hybrid_video.ledger import Ledger, Owner
from hybrid_video.settings import Settings, StorageSettings
from hybrid_video.watcher.lease import WatcherLease
home = Path(sys.argv[1])
lease = WatcherLease(Settings(storage=StorageSettings(home=home)), Ledger.open(home / "ledger.sqlite3"), Owner(home))
print(lease.take({"pid": 4711, "host": "there"}), flush=True)
time.sleep(60)
"""


def looked(backend: str = "comfyui", *, healthy: bool = True, detail: str = "answers") -> Health:
    """One finding."""
    return Health(backend=backend, tier=Tier.LOCAL, healthy=healthy, detail=detail, checked_at=utc_now(), latency_s=0.1)


def plain(home: Path) -> Settings:
    """An installation without pods and without backends."""
    return Settings(storage=StorageSettings(home=home))


def test_findings_are_kept_with_a_short_history(tmp_path: Path) -> None:
    """One row for each backend; the history is bounded and says since when it is as it is."""
    with opened(tmp_path) as (ledger, _owner):
        store = HealthStore(ledger)
        for _ in range(KEPT + 5):
            store.save([looked()])
        store.save([looked(healthy=False, detail="refused"), looked("gemini")])
        seen = store.latest()
        assert set(seen) == {"comfyui", "gemini"}
        assert len(seen["comfyui"].history) == KEPT
        assert seen["comfyui"].health.detail == "refused"
        assert seen["comfyui"].uptime == pytest.approx((KEPT - 1) / KEPT)
        assert seen["comfyui"].since >= seen["comfyui"].history[-2].at
        store.forget(["gemini"])
        assert set(store.latest()) == {"gemini"}


def test_findings_hold_no_secret(tmp_path: Path) -> None:
    """What a vendor says may repeat a key; the table does not."""
    from hybrid_video import redaction

    redaction.register("sk-very-secret-0123456789")
    with opened(tmp_path) as (ledger, _owner):
        HealthStore(ledger).save([looked(detail="the key sk-very-secret-0123456789 is wrong")])
    with sqlite3.connect(tmp_path / "ledger.sqlite3") as connection:
        assert "very-secret" not in connection.execute("select document from health").fetchone()[0]


def test_a_second_watcher_is_told_who_is_there(tmp_path: Path) -> None:
    """The place is taken once, told to the second, and free again as soon as the first gives it up."""
    with opened(tmp_path) as (ledger, owner), opened(tmp_path) as (_, other):
        first = WatcherLease(plain(tmp_path), ledger, owner)
        second = WatcherLease(plain(tmp_path), ledger, other)
        assert first.take({"pid": 12, "host": "studio"}) is None
        holder = second.take({})
        assert holder is not None
        assert holder.label == "process 12 on 'studio'"
        first.give_up()
        assert watching(ledger) is None
        assert second.take({}) is None
        second.give_up()


def test_the_place_of_a_killed_watcher_is_free_at_once(tmp_path: Path) -> None:
    """SIGKILL leaves a row behind; the lock that died with the process says that nobody is there."""
    with opened(tmp_path) as (ledger, owner):
        child = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        assert child.stdout.readline().strip() == "None"
        lease = WatcherLease(plain(tmp_path), ledger, owner)
        holder = lease.take({})
        assert holder is not None
        assert holder.label == "process 4711 on 'there'"
        child.kill()
        child.wait()
        assert watching(ledger) is not None
        assert lease.take({}) is None
        lease.give_up()


def test_a_watcher_elsewhere_is_believed_until_its_lease_ends(tmp_path: Path) -> None:
    """Two machines on one database have no lock in common: there the lease decides, and losing it is noticed."""
    here, there = tmp_path / "here", tmp_path / "there"
    ledger = Ledger.open(tmp_path / "shared.sqlite3")
    owner, other = Owner(here), Owner(there)
    try:
        mine = WatcherLease(plain(here), ledger, owner)
        theirs = WatcherLease(plain(there), ledger, other)
        assert theirs.take({}) is None
        assert mine.take({}) is not None
        with ledger.writing() as connection:
            connection.execute(sa.update(t.watchers).values(lease_until=utc_now() - timedelta(seconds=1)))
        assert mine.take({}) is None
        assert theirs.renew({}) is False
        assert mine.renew({}) is True
    finally:
        owner.close()
        other.close()
        ledger.close()


def test_demands_of_dead_runs_count_for_nothing(tmp_path: Path) -> None:
    """A run that was killed cannot take back what it wanted; its lock says that it is gone."""
    with opened(tmp_path) as (ledger, owner):
        store, gone = DemandStore(ledger, owner), Owner(tmp_path)
        store.publish(demand("dead", gone.id))
        store.publish(demand("live", owner.id, waiting=7))
        assert [one.batch for one in store.live()] == ["dead", "live"]
        gone.close()
        assert [one.batch for one in store.live()] == ["live"]
        assert store.sweep() == ["dead"]
        store.publish(demand("live", owner.id, waiting=3))
        assert store.live()[0].waiting_jobs == 3
        store.remove("live", "somebody else")
        assert len(store.live()) == 1
        store.remove("live", owner.id)
        assert store.live() == ()


class _Hanging(ScriptedBackend):
    async def health(self) -> Health:
        raise RuntimeError("a defect")


class _Refused(ScriptedBackend):
    async def start(self) -> None:
        raise ConfigurationError("the key is wrong; set another")


async def test_one_sick_check_does_not_hide_the_others() -> None:
    """A defect in one backend's check, or a wrong key, is that backend's finding and nobody else's."""
    backends = {"comfyui": ScriptedBackend("comfyui"), "gemini": _Hanging("gemini"), "cloud": _Refused("cloud")}
    found = {health.backend: health for health in await HealthRound(backends).check()}  # type: ignore[arg-type]
    assert found["comfyui"].healthy
    assert "a defect" in found["gemini"].detail
    assert "the key is wrong" in found["cloud"].detail


async def test_a_failing_duty_is_tried_again_and_ends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever a duty raises is logged once a minute, and the next turn comes."""
    with opened(tmp_path) as (ledger, owner):
        watcher, turns = Watcher(plain(tmp_path), ledger, owner), []

        async def work() -> None:
            turns.append(1)
            if len(turns) < 4:
                raise ValueError("the ledger is on fire")

        duty = Duty("burning", 0.01, work)
        keeping = asyncio.create_task(watcher._keep(duty))
        while len(turns) < 5:
            await asyncio.sleep(0.01)
        watcher.stop()
        duty.poke.set()
        await keeping
        assert duty.failures == 0
        assert sum("on fire" in message for message in caplog.messages) == 1


async def test_a_watcher_stands_by_and_takes_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one waits for the place of the first, and one that does not want to wait returns who is there."""
    monkeypatch.setattr(loop, "STAND_BY_S", 0.05)
    with opened(tmp_path) as (ledger, owner), opened(tmp_path) as (again, other):
        first, second = Watcher(plain(tmp_path), ledger, owner), Watcher(plain(tmp_path), again, other)
        running = asyncio.create_task(first.run())
        while not first.acting:
            await asyncio.sleep(0.01)
        refused = await second.run()
        assert refused is not None
        assert refused.document["where"] == "watch"
        waiting = asyncio.create_task(second.run(stand_by=True))
        await asyncio.sleep(0.15)
        assert not second.acting
        first.stop()
        assert await running is None
        while not second.acting:
            await asyncio.sleep(0.01)
        second.stop()
        assert await waiting is None
        assert watching(ledger) is None


async def test_a_watcher_that_lost_its_place_stops_acting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a long sleep of the machine another one has the lease: this one must not go on opening pods."""
    monkeypatch.setattr(loop, "RENEW_S", 0.05)
    monkeypatch.setattr(loop, "STAND_BY_S", 0.05)
    with opened(tmp_path) as (ledger, owner):
        watcher = Watcher(plain(tmp_path), ledger, owner)
        running = asyncio.create_task(watcher.run(stand_by=True))
        while not watcher.acting:
            await asyncio.sleep(0.01)
        with ledger.writing() as connection:
            taken = {"holder": "elsewhere.0/1", "lease_until": utc_now() + timedelta(seconds=60)}
            connection.execute(sa.update(t.watchers).values(taken))
        while watcher.acting:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        assert not watcher.acting
        watcher.stop()
        assert await running is None
