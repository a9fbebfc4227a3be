"""The pod pool over the RunPod emulator: opening, readiness, leases, lost answers, orphans, and the bill."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import httpx
import pytest

from hybrid_video.backends.runpod import PodsClient
from hybrid_video.emulators.runpod.pods import PodStatus
from hybrid_video.errors import (
    ConfigurationError,
    FailureKind,
    InputError,
    LimitError,
    TerminalError,
    TransientError,
)
from hybrid_video.ledger.verify import verify
from hybrid_video.models import utc_now
from hybrid_video.pods.naming import installation_id
from hybrid_video.pods.orphans import stop_everything
from tests.vendors.pod_rig import GPU, SECOND_GPU, PodRig, pod_rig

pytestmark = pytest.mark.timeout(60)

CENT = Decimal("0.01")


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[PodRig]:
    async with pod_rig(tmp_path) as running:
        yield running


# -- opening -----------------------------------------------------------------------------------------------------------


async def test_a_pod_is_ready_only_when_it_has_rendered_a_probe(rig: PodRig) -> None:
    """RUNNING comes long before: the container is up, its ComfyUI answers 502."""
    pod = await rig.pool.open("60 jobs wait")
    assert (pod.state, pod.opened_because) == ("starting", "60 jobs wait")
    assert pod.name.startswith(f"hybrid-video-{installation_id(rig.settings.storage.home)}-")
    await rig.until(lambda: rig.statuses().get(pod.name) is PodStatus.RUNNING)
    assert rig.get(pod.name).state == "starting"
    ready = await rig.ready(pod.name)
    assert ready.lease_until is not None
    assert "rendered a probe" in rig.store.events(pod.name)[-1].detail
    assert rig.emulator.charges.rows == []  # a probe is no job


async def test_the_cheapest_place_with_stock_is_taken(tmp_path: Path) -> None:
    """By RunPod's own catalogue, in every configured cloud."""
    async with pod_rig(tmp_path, clouds=("SECURE", "COMMUNITY")) as rig:
        pod = await rig.pool.open("test")
        assert (pod.gpu, pod.cloud) == (GPU, "COMMUNITY")
        assert pod.price_usd_per_h == pytest.approx(Decimal("0.5521"), abs=Decimal("0.001"))
    async with pod_rig(tmp_path / "2", emulator={"stock": {GPU: "NONE"}}) as rig:
        assert (await rig.pool.open("test")).gpu == SECOND_GPU


async def test_a_place_that_refuses_is_left_alone_and_the_next_one_asked(rig: PodRig) -> None:
    """400 means no capacity or a broken rule; it is remembered, so that the next open does not ask there again."""
    rig.fault("create", "fail", match=GPU)
    first = await rig.pool.open("test")
    assert first.gpu == SECOND_GPU
    assert [place[0] for place in rig.store.refused_places()] == [GPU]
    assert (await rig.pool.open("test")).gpu == SECOND_GPU
    assert len(rig.listed()) == 2
    later = utc_now() + timedelta(seconds=301)
    assert rig.store.refused_places(later) == {}


async def test_data_centres_are_tried_in_order(tmp_path: Path) -> None:
    """One without stock is passed over, also when only the create tells."""
    stock = {f"{GPU}@EU-RO-1": "NONE"}
    async with pod_rig(
        tmp_path, gpus=(GPU,), data_centers=("EU-RO-1", "EU-CZ-1", "US-KS-2"), emulator={"stock": stock}
    ) as rig:
        rig.fault("create", "fail")
        pod = await rig.pool.open("test")
        assert pod.data_center == "US-KS-2"
        assert [key[2] for key in rig.store.refused_places()] == ["EU-CZ-1"]


async def test_no_capacity_anywhere_names_every_place_and_leaves_nothing(rig: PodRig) -> None:
    """The reservation is given back and the advice says what to widen."""
    rig.fault("create", "fail", times=None)
    with pytest.raises(TransientError, match="breaks a rule") as caught:
        await rig.pool.open("test")
    assert caught.value.kind is FailureKind.NO_CAPACITY
    assert GPU in caught.value.message
    assert SECOND_GPU in caught.value.message
    assert rig.store.alive() == ()
    assert rig.ledger.balance("all").reserved_usd == 0
    with pytest.raises(TransientError, match="no pod can be had now"):  # nobody is asked: both are remembered
        await rig.pool.open("test")
    assert len(rig.store.all()) == 1


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (422, FailureKind.INVALID_REQUEST, "does not match the contract"),
        (402, FailureKind.INSUFFICIENT_FUNDS, "top up"),
        (403, FailureKind.AUTHENTICATION, "another key or GPU pool"),
    ],
)
async def test_a_refusal_that_cannot_pass_stops_every_further_create(
    rig: PodRig, status: int, kind: FailureKind, words: str
) -> None:
    """It is not sent again, and every later open says the same sentence."""
    rig.fault("create", "status", status=status)
    for _ in range(3):
        with pytest.raises(TerminalError, match=words) as caught:
            await rig.pool.open("test")
        assert caught.value.kind is kind
    assert [pod.state for pod in rig.store.all()] == ["failed"]
    assert rig.ledger.balance("all").reserved_usd == 0


async def test_a_rate_limit_is_waited_out_as_it_asks(rig: PodRig) -> None:
    """429 with Retry-After: nothing is sent before that; then a pod is opened."""
    rig.fault("create", "status", status=429, headers={"Retry-After": "1"})
    for _ in range(2):
        with pytest.raises(TransientError) as caught:
            await rig.pool.open("test")
        assert caught.value.kind is FailureKind.RATE_LIMITED
        assert caught.value.retry_after_s is not None
        assert caught.value.retry_after_s <= 1
    assert rig.listed() == []
    await asyncio.sleep(1.05)
    assert (await rig.pool.open("test")).state == "starting"


async def test_nothing_dearer_than_allowed_is_opened(tmp_path: Path) -> None:
    """Before anything is sent, with the price and the variable."""
    async with pod_rig(tmp_path, max_price_usd_per_h=Decimal("0.10")) as rig:
        with pytest.raises(LimitError, match="HYBRID_VIDEO_PODS_MAX_PRICE_USD_PER_H"):
            await rig.pool.open("test")
        assert rig.store.all() == ()


async def test_pods_are_not_opened_without_an_image(tmp_path: Path) -> None:
    """The sentence names the variable."""
    async with pod_rig(tmp_path, image="") as rig:
        assert not rig.pool.configured
        with pytest.raises(ConfigurationError, match="HYBRID_VIDEO_PODS_IMAGE"):
            await rig.pool.open("test")


async def test_twelve_requests_at_once_open_five_pods(tmp_path: Path) -> None:
    """From three pools on one ledger, as three processes would ask; starting ones count."""
    async with pod_rig(tmp_path, max_pods=5) as rig:
        pools = [rig.pool, rig.another_pool(), rig.another_pool()]
        outcomes = await asyncio.gather(
            *(pools[number % 3].open(f"request {number}") for number in range(12)), return_exceptions=True
        )
        assert sum(isinstance(outcome, LimitError) for outcome in outcomes) == 7
        assert len(rig.listed()) == len(rig.store.alive()) == 5


async def test_a_budget_keeps_pods_shut(tmp_path: Path) -> None:
    """Start-up, keep-alive and one lease must fit into the day, or nothing is sent."""
    async with pod_rig(tmp_path, routing={"daily_budget_usd": Decimal("0.20")}) as rig:
        await rig.pool.open("first")
        with pytest.raises(LimitError, match="daily budget"):
            await rig.pool.open("second")
        assert len(rig.listed()) == 1


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
        rig.fault("list", "status", status=503, times=12)
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
        rig.fault("list", "status", status=503, times=12)
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
    rig.fault("list", "status", status=503, times=12)
    pod = await rig.pool.open("test")
    rig.fault("list", "status", status=503, times=4)
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


# -- orphans -----------------------------------------------------------------------------------------------------------


async def test_a_pod_of_ours_without_a_record_is_ended_and_others_are_not_touched(rig: PodRig) -> None:
    """Ours by name; another installation's is listed, a foreign one only counted."""
    installation = installation_id(rig.settings.storage.home)
    mine, theirs = f"hybrid-video-{installation}-abcdefghij", "hybrid-video-ffffffff-abcdefghij"
    for name in (mine, theirs, "my-training-pod", "hybrid-video"):
        await rig.foreign_pod(name)
    report = await rig.pool.reconcile()
    assert report.ended == (mine,)
    assert [pod.name for pod in report.other_installations] == [theirs]
    assert report.foreign == 2
    assert rig.listed() == ["hybrid-video", theirs, "my-training-pod"]
    assert rig.get(mine).state == "closed"  # written down, so that its cost is booked
    assert "ours" not in report.alarms


async def test_stop_all_needs_nothing_but_the_key(rig: PodRig) -> None:
    """No ledger and no record: the names say which pods are ours. Others only when asked for."""
    installation = installation_id(rig.settings.storage.home)
    mine, theirs = f"hybrid-video-{installation}-abcdefghij", "hybrid-video-ffffffff-abcdefghij"
    for name in (mine, theirs, "my-training-pod"):
        await rig.foreign_pod(name)
    client = PodsClient.from_settings(rig.settings.runpod)
    stopped = await stop_everything(client, installation=installation)
    assert [pod.name for pod in stopped.ended] == [mine]
    assert [pod.name for pod in stopped.left_alone] == [theirs]
    assert rig.listed() == [theirs, "my-training-pod"]
    stopped = await stop_everything(client, installation=installation, all_installations=True)
    await client.close()
    assert [pod.name for pod in stopped.ended] == [theirs]
    assert rig.listed() == ["my-training-pod"]


async def test_stop_all_ends_and_books_what_the_ledger_knows(rig: PodRig) -> None:
    """Ready, starting and lost ones alike."""
    await rig.ready((await rig.pool.open("one")).name)
    await rig.pool.open("two")
    rig.fault("create", "drop_after")
    rig.fault("list", "status", status=503, times=12)
    await rig.pool.open("three")
    rig.faults.clear()
    stopped = await rig.pool.stop_all()
    assert len(stopped.ended) == 3
    assert rig.listed() == []
    assert [pod.state for pod in rig.store.all()] == ["closed"] * 3
    assert rig.ledger.balance("all").reserved_usd == 0
    assert verify(rig.ledger).ok


async def test_spending_beyond_the_plan_is_an_alarm(rig: PodRig, caplog: pytest.LogCaptureFixture) -> None:
    """A pod of ours that cannot be ended costs money that no record explains."""
    caplog.set_level(logging.WARNING)
    installation = installation_id(rig.settings.storage.home)
    await rig.foreign_pod(f"hybrid-video-{installation}-abcdefghij")
    rig.fault("delete", "status", status=503, times=None)
    report = await rig.pool.reconcile()
    assert report.unresolved == (f"hybrid-video-{installation}-abcdefghij",)
    rig.faults.clear()
    await rig.until(lambda: not rig.listed())
    assert (await rig.pool.reconcile()).alarms == ()


async def test_an_unknown_pod_cannot_be_closed(rig: PodRig) -> None:
    """Pods of others are never touched, by whatever name."""
    await rig.foreign_pod("my-training-pod")
    with pytest.raises(InputError, match="pods list"):
        await rig.pool.close("my-training-pod", "by mistake")
    assert rig.listed() == ["my-training-pod"]


# -- money -------------------------------------------------------------------------------------------------------------


async def test_the_ledger_comes_to_the_providers_bill_to_the_cent(rig: PodRig) -> None:
    """By our clock within a percent, after reconciliation exactly."""
    pods = [await rig.pool.open(f"pod {number}") for number in range(2)]
    for pod in pods:
        await rig.ready(pod.name)
    await asyncio.sleep(1.0)
    for pod in pods:
        await rig.pool.close(pod.name, "idle")
    billed, booked = rig.billed_usd(), rig.ledger.balance("all").settled_usd
    assert abs(billed - booked) / billed < Decimal("0.01")
    report = await rig.pool.reconcile()
    assert all(line.final for line in report.bills)
    assert abs(rig.ledger.balance("all").settled_usd - rig.billed_usd()) < Decimal("0.000001")
    found = verify(rig.ledger)
    assert (found.ok, found.pods, found.pods_alive) == (True, 2, 0)
    assert abs(found.pod_difference_usd) < CENT
    assert (await rig.pool.reconcile()).bills == ()


async def test_a_bill_that_is_not_complete_yet_is_shown_and_not_booked(tmp_path: Path) -> None:
    """RunPod's figures run behind; what is missing in them is not given back."""
    async with pod_rig(tmp_path, emulator={"billing_lag_s": 100_000.0}) as rig:
        pool = rig.pool
        pod = await rig.ready((await pool.open("test")).name)
        closed = await pool.close(pod.name, "idle")
        report = await pool.reconcile()
        (line,) = report.bills
        assert (line.final, line.billed_usd) == (False, 0)
        assert rig.ledger.balance("all").settled_usd == closed.cost_usd


async def test_draining_waits_for_nothing_when_no_job_runs(rig: PodRig) -> None:
    """An idle pod that is drained is gone at the next tick."""
    pod = await rig.ready((await rig.pool.open("test")).name)
    assert (await rig.pool.drain(pod.name, "the queue is empty")).state == "draining"
    await rig.until(lambda: rig.get(pod.name).state == "closed")
    assert rig.get(pod.name).closed_because == "the queue is empty"


# -- secrets -----------------------------------------------------------------------------------------------------------


async def test_the_token_is_in_the_pods_environment_and_nowhere_else(
    rig: PodRig, caplog: pytest.LogCaptureFixture
) -> None:
    """Made once, readable by its owner only; in no database, log or record."""
    caplog.set_level(logging.DEBUG)
    pod = await rig.ready((await rig.pool.open("test")).name)
    path = rig.settings.storage.home / "secrets" / "pod-token"
    token = path.read_text()
    assert len(token) >= 40
    assert path.stat().st_mode & 0o077 == 0
    (running,) = rig.emulator.fleet.listed()
    assert running.request.env["HYBRID_VIDEO_POD_TOKEN"] == token
    assert token.encode() not in rig.settings.storage.ledger_path.read_bytes()
    assert token not in caplog.text
    assert token not in pod.model_dump_json()
    assert await asyncio.to_thread(path.read_text) == token  # made once
