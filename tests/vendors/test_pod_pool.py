"""The pod pool over the RunPod emulator: opening, readiness, orphans, the bill, and secrets."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from pydantic import SecretStr

from hybrid_video import preferences
from hybrid_video.backends.runpod import PodsClient
from hybrid_video.emulators.runpod.pods import BootTimes, PodStatus
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


async def test_a_pod_is_ready_only_when_it_has_rendered_a_probe(tmp_path: Path) -> None:
    """RUNNING comes long before: the container is up, its ComfyUI answers 502."""
    boot = BootTimes(provisioning_s=5.0, starting_s=10.0, service_s=400.0)  # four seconds of ours, to be seen in
    async with pod_rig(tmp_path, emulator={"boot": boot}) as rig:
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


async def test_a_maximum_that_was_lowered_at_run_time_holds_at_once(rig: PodRig) -> None:
    """The pool of a long-lived watcher asks for the limits anew with every pod."""
    await rig.pool.open("first")
    preferences.change(rig.ledger, rig.settings, {"max_pods": 1})
    with pytest.raises(LimitError, match="at most 1 pods"):
        await rig.pool.open("second")


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
    rig.fault("list", "garbage", times=3)
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


async def test_a_template_may_hold_the_token_so_that_nobody_lists_it(tmp_path: Path) -> None:
    """With a template and a token of the user's, the create request does not name it."""
    async with pod_rig(tmp_path, template_id="tpl-1", runpod={"pod_token": SecretStr("from-a-runpod-secret")}) as rig:
        await rig.pool.open("test")
        (running,) = rig.emulator.fleet.listed()
        assert running.request.templateId == "tpl-1"
        assert running.request.image == ""
        assert set(running.request.env) == {
            "HYBRID_VIDEO_POD_LEASE_S",
            "HYBRID_VIDEO_POD_NAME",
            "HYBRID_VIDEO_POD_API_URL",
        }


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
