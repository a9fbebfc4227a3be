"""What keeps a pod alive and what ends it: lost create answers, leases, budgets, and pods that vanish."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import httpx
import pytest

from hybrid_video.backends.runpod import PodsClient
from hybrid_video.errors import (
    LimitError,
    TransientError,
)
from hybrid_video.ledger import Caps, Owner
from hybrid_video.ledger.verify import verify
from hybrid_video.models import utc_now
from hybrid_video.pods import accounting
from hybrid_video.pods.pool import PodPool
from hybrid_video.settings import Settings, StorageSettings
from tests.unit.ledger_rig import make_batch, make_order, reserve
from tests.vendors.pod_rig import PodRig, pod_rig

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[PodRig]:
    async with pod_rig(tmp_path) as running:
        yield running


# -- lost answers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["drop_after", "truncate"])
async def test_a_lost_create_answer_leads_to_one_pod_that_is_adopted(rig: PodRig, action: str) -> None:
    """It is found by its name; nothing is sent again."""
    rig.fault("create", action)
    pod = await rig.pool.open("test")
    assert pod.pod_id is not None
    await rig.ready(pod.name)
    assert rig.listed() == [pod.name]


async def test_a_lost_answer_whose_pod_cannot_be_looked_for_yet_stays_open_and_counts(tmp_path: Path) -> None:
    """`creating` until somebody can look; meanwhile it counts toward the maximum and holds its money."""
    async with pod_rig(tmp_path, max_pods=1) as rig:
        rig.fault("create", "drop_after")
        rig.fault("list", "garbage", times=3)
        pod = await rig.pool.open("test")
        assert (pod.state, pod.pod_id) == ("creating", None)
        with pytest.raises(LimitError):
            await rig.another_pool().open("another")
        rig.faults.clear()
        await rig.ready(pod.name)
        assert rig.listed() == [pod.name]


async def test_a_create_that_never_arrived_is_given_up_after_a_while(rig: PodRig) -> None:
    """A 503 from a gateway: perhaps accepted, but no such pod is ever listed."""
    rig.fault("create", "status", status=503)
    pod = await rig.pool.open("test")
    assert pod.state == "creating"
    await rig.pool.tick()
    assert rig.get(pod.name).state == "creating"
    await rig.pool.tick(utc_now() + timedelta(seconds=130))
    assert rig.get(pod.name).state == "failed"
    assert rig.ledger.balance("all").reserved_usd == 0


async def test_a_pod_that_lived_and_ended_unseen_is_found_on_the_bill(tmp_path: Path) -> None:
    """The answer was lost, nobody looked before its lease ran out: only the bill knows that it cost money."""
    async with pod_rig(tmp_path, lease_s=60.0) as rig:
        rig.fault("create", "drop_after")
        rig.fault("list", "garbage", times=3)
        pod = await rig.pool.open("test")
        assert pod.pod_id is None
        await asyncio.sleep(1.5)
        assert rig.listed() == []
        await rig.until(lambda: not rig.get(pod.name).alive)
        assert rig.get(pod.name).pod_id is not None
        await rig.pool.reconcile()
        assert abs(rig.ledger.balance("all").settled_usd - rig.billed_usd()) < Decimal("0.000001")
        assert verify(rig.ledger).ok


async def test_a_stop_during_a_lost_create_ends_the_pod_that_appears(rig: PodRig) -> None:
    """The wish to end it stands, whoever finds the pod."""
    rig.fault("create", "drop_after")
    rig.fault("list", "garbage", times=3)
    pod = await rig.pool.open("test")
    rig.fault("list", "garbage")
    with pytest.raises(TransientError):
        await rig.pool.close(pod.name, "not needed")
    assert rig.get(pod.name).state == "closing"
    await rig.until(lambda: rig.get(pod.name).state == "closed")
    assert rig.listed() == []


# -- leases and ends ---------------------------------------------------------------------------------------------------


async def test_a_lease_is_renewed_while_somebody_looks_and_ends_the_pod_when_nobody_does(tmp_path: Path) -> None:
    """Ticks keep it alive for several leases; without them it ends itself, and the next look books that."""
    async with pod_rig(tmp_path, lease_s=100.0) as rig:  # one real second
        pod = await rig.ready((await rig.pool.open("test")).name)
        for _ in range(25):
            await rig.pool.tick()
            await asyncio.sleep(0.1)
        assert rig.listed() == [pod.name]
        await asyncio.sleep(1.3)
        assert rig.listed() == []
        await rig.pool.tick()
        gone = rig.get(pod.name)
        assert gone.state == "closed"
        assert "gone" in gone.closed_because
        assert gone.closed_at == rig.get(pod.name).lease_until
        assert verify(rig.ledger).ok


async def test_a_lost_renewal_is_repeated_before_it_counts(tmp_path: Path) -> None:
    """A third of the lease has passed at the first try; two more fit in."""
    async with pod_rig(tmp_path, lease_s=200.0) as rig:
        pod = await rig.ready((await rig.pool.open("test")).name)
        rig.fault("lease", "drop", times=2)
        for _ in range(25):
            await rig.pool.tick()
            await asyncio.sleep(0.1)
        assert rig.get(pod.name).state == "ready"
        assert "trouble" in [event.event for event in rig.store.events(pod.name)]


async def test_a_request_for_a_lease_without_the_token_renews_nothing(rig: PodRig) -> None:
    """401, and the lease runs on as it was; a lease that makes no sense is 400."""
    pod = await rig.ready((await rig.pool.open("test")).name)
    url = f"{rig.settings.runpod.pod_url(pod.pod_id or '')}/lease"
    token = (rig.settings.storage.home / "secrets" / "pod-token").read_text()
    async with httpx.AsyncClient() as http:
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            answer = await http.post(url, json={"lease_s": 86_400}, headers=headers)
            assert answer.status_code == 401
        mine = {"Authorization": f"Bearer {token}"}
        for nonsense in (0, -1, 1e9, "600", None, True):
            assert (await http.post(url, json={"lease_s": nonsense}, headers=mine)).status_code == 400
        left_s = (await http.get(url, headers=mine)).json()["ends_in_s"]
        assert left_s <= rig.settings.pods.lease_s


async def test_a_machine_with_another_token_does_not_end_the_others_pods(rig: PodRig, tmp_path: Path) -> None:
    """Two homes on one ledger: the second one cannot renew, says what to set, and leaves the pod alone."""
    pod = await rig.ready((await rig.pool.open("test")).name)
    elsewhere = Settings(
        runpod=rig.settings.runpod,
        pods=rig.settings.pods,
        routing=rig.settings.routing,
        storage=StorageSettings(home=tmp_path / "another machine"),
    )
    with rig.ledger.writing() as connection:
        connection.exec_driver_sql("UPDATE pods SET lease_until = NULL")
    pool = PodPool(elsewhere, rig.ledger)
    await pool.tick()
    await pool.aclose()
    after = rig.get(pod.name)
    assert after.state == "ready"
    assert "HYBRID_VIDEO_RUNPOD_POD_TOKEN" in after.error
    await rig.until(lambda: rig.get(pod.name).lease_until is not None)


async def test_a_pod_without_a_lease_keeper_is_not_used(rig: PodRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing would end it without us, so it is ended at once, with the remedy."""
    monkeypatch.setattr("hybrid_video.emulators.runpod.pods.LEASE_VARIABLE", "NOT_READ")
    pod = await rig.pool.open("test")
    await rig.until(lambda: rig.get(pod.name).state == "closed")
    assert "docker/comfyui-pod" in rig.get(pod.name).closed_because
    assert rig.listed() == []


async def test_a_pod_that_never_renders_is_given_up_and_paid_for(tmp_path: Path) -> None:
    """The seed never recorded a slow pod and never ended it."""
    async with pod_rig(tmp_path, ready_timeout_s=100.0) as rig:
        rig.fault("submit", "status", status=500, times=None)
        pod = await rig.pool.open("test")
        await rig.until(lambda: rig.get(pod.name).state == "closed")
        closed = rig.get(pod.name)
        assert "rendered nothing within 100 s" in closed.closed_because
        assert rig.listed() == []
        assert (closed.cost_usd or 0) > 0
        assert rig.ledger.balance("all").settled_usd == closed.cost_usd


async def test_a_pod_lives_into_a_new_day(tmp_path: Path) -> None:
    """What it cost until midnight is the old day's; the new day's budget holds the rest."""
    async with pod_rig(tmp_path, lease_s=100.0) as rig:
        pod = await rig.ready((await rig.pool.open("test")).name)
        today, yesterday = pod.day, "2020-02-28"
        cost = rig.pool.tariff.cost(pod)
        accounting.roll_over(
            rig.ledger, pod.name, cost, day=yesterday, reserve_usd=Decimal("0.05"), caps=Caps()
        )  # as if it had been opened that day
        await rig.until(lambda: rig.get(pod.name).day == today)
        assert rig.ledger.balance(f"day:{yesterday}").reserved_usd == 0
        assert rig.ledger.balance(f"day:{yesterday}").settled_usd > 0
        assert rig.ledger.balance(f"day:{today}").reserved_usd == rig.get(pod.name).reserved_usd > 0
        closed = await rig.pool.close(pod.name, "idle")
        assert rig.ledger.balance("all").settled_usd == closed.cost_usd
        assert verify(rig.ledger).ok


async def test_a_dead_runs_job_does_not_keep_a_draining_pod_open(rig: PodRig, tmp_path: Path) -> None:
    """Its process is gone: the pod waits for a moment, and then ends."""
    pod = await rig.ready((await rig.pool.open("test")).name)
    rig.ledger.register(make_batch(), out_dir=tmp_path)
    owner = Owner(tmp_path / "other")
    order = make_order(backend="runpod-pod").model_copy(update={"lane": pod.lane})
    reserve(rig.ledger, order, owner)
    await rig.pool.drain(pod.name, "the queue is empty")
    await rig.pool.tick()
    assert rig.get(pod.name).state == "draining"
    owner.close()
    with rig.ledger.writing() as connection:
        connection.exec_driver_sql("UPDATE jobs SET lease_until = NULL, owner = NULL")
        connection.exec_driver_sql("UPDATE attempts SET created_at = '2020-01-01T00:00:00.000000+00:00'")
    await rig.until(lambda: rig.get(pod.name).state == "closed")


async def test_a_pod_that_vanishes_is_noticed_and_booked(rig: PodRig) -> None:
    """Taken away by the provider, or ended in the console."""
    pod = await rig.ready((await rig.pool.open("test")).name)
    client = PodsClient.from_settings(rig.settings.runpod)
    await client.terminate(pod.pod_id or "")
    await client.close()
    report = await rig.pool.reconcile()
    assert report.vanished == (pod.name,)
    assert rig.get(pod.name).state == "closed"
    assert verify(rig.ledger).ok


async def test_a_terminate_that_fails_is_repeated_until_it_is_confirmed(rig: PodRig) -> None:
    """The pod stays `closing`, counts and holds its money meanwhile."""
    pod = await rig.ready((await rig.pool.open("test")).name)
    rig.fault("delete", "status", status=503, times=6)
    with pytest.raises(TransientError):
        await rig.pool.close(pod.name, "idle")
    assert rig.get(pod.name).state == "closing"
    assert rig.ledger.balance("all").reserved_usd > 0
    await rig.until(lambda: rig.get(pod.name).state == "closed")
    assert rig.get(pod.name).closed_because == "idle"
    assert rig.ledger.balance("all").reserved_usd == 0


async def test_a_pod_that_no_budget_carries_any_more_is_closed(tmp_path: Path) -> None:
    """Every renewal reserves what the next lease may cost; where that does not fit, the pod ends."""
    async with pod_rig(tmp_path, lease_s=100.0, routing={"daily_budget_usd": Decimal("0.12")}) as rig:
        pod = await rig.pool.open("test")
        await rig.until(lambda: rig.get(pod.name).state == "closed")
        assert "daily budget" in rig.get(pod.name).closed_because
        assert rig.ledger.balance("all").settled_usd <= Decimal("0.12")
