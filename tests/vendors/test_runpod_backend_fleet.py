"""Pods from create to terminate over the RunPod emulator, and a job on a pod that was started for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from uuid import uuid4

import pytest
from pydantic import SecretStr

from hybrid_video.backends.base import BackendContext
from hybrid_video.backends.comfyui.patience import Patience
from hybrid_video.backends.runpod import Pod, PodBackend, PodsClient, PodSpec
from hybrid_video.emulators.faults import FaultPlan, FaultRule
from hybrid_video.emulators.runpod import RunPodEmulator
from hybrid_video.emulators.server import ScaledClock, start_server
from hybrid_video.errors import ConfigurationError, FailureKind, SubmitUncertain, TerminalError, TransientError
from hybrid_video.models import Quote, VideoJob, WorkOrder
from hybrid_video.pricing.catalog import PriceBook
from hybrid_video.pricing.quoting import Quoter
from hybrid_video.pricing.timings import ServiceTimes
from hybrid_video.settings import RunPodSettings, Settings

pytestmark = pytest.mark.timeout(60)

GPU = "NVIDIA GeForce RTX 4090"
TOKEN = "pod-token-0123456789"
PRICES = PriceBook.load("current")
JOB = VideoJob(id="shot-01", prompt="a red fox in snow", duration_s=1, width=320, height=192)


def spec(name: str = "hv-1", *, gpu: str = GPU, token: str = TOKEN) -> PodSpec:
    env = {"HYBRID_VIDEO_POD_TOKEN": token} if token else {}
    return PodSpec(name=name, image="hybrid-video/comfyui:1", gpu=gpu, ports=("8188/http",), env=env)


@dataclass
class Rig:
    emulator: RunPodEmulator
    faults: FaultPlan
    pods: PodsClient
    backend: PodBackend

    async def until(self, pod: Pod, status: str) -> Pod:
        while (now := await self.pods.get(pod.id)) is None or now.status != status:
            await asyncio.sleep(0.02)
        return now


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    faults = FaultPlan()
    emulator = RunPodEmulator(
        clock=ScaledClock(300.0),
        faults=faults,
        prices=PRICES,
        service_s=20.0,
        jitter=0.0,
        stock={"NVIDIA H100 PCIe": "NONE"},
        billing_lag_s=0.0,
    )
    server = await start_server(emulator.app())
    settings = RunPodSettings(api_key=SecretStr("rpa_123456789"), pods_url=server.url, pod_token=SecretStr(TOKEN))
    pods = PodsClient.from_settings(settings)
    backend = PodBackend(
        BackendContext(Settings(runpod=settings), Quoter(PRICES, ServiceTimes())),
        patience=Patience(poll_interval_s=0.03, outage_s=1.0, lookup_pauses_s=(0.01, 0.02)),
    )
    yield Rig(emulator, faults, pods, backend)
    await backend.close()
    await pods.close()
    await server.close()


async def attached(rig: Rig, pod: Pod) -> None:
    """Waits as a caller does: RUNNING comes long before ComfyUI answers."""
    while True:
        try:
            await rig.backend.attach(pod.id)
        except TransientError as error:
            assert error.kind is FailureKind.UNREACHABLE  # noqa: PT017
            await asyncio.sleep(0.05)
        else:
            return


async def test_a_pod_started_for_a_job_makes_its_clip_and_is_ended(rig: Rig, tmp_path: Path) -> None:
    """Create, boot, prove, submit, collect, terminate; the bill holds the whole life of the pod."""
    pod = await rig.pods.create(spec())
    assert (pod.status, pod.runtime) == ("PROVISIONING", None)
    await attached(rig, pod)
    quote = rig.backend.quote(JOB)
    assert isinstance(quote, Quote)
    order = WorkOrder(
        attempt_id=str(uuid4()), batch="reel", job=JOB, number=1, seed=3, lane=f"runpod-pod/{pod.id}", quote=quote
    )
    handle = await rig.backend.submit(order)
    status = await rig.backend.watch(handle)
    path = await rig.backend.collect(handle, status, tmp_path)
    assert path.stat().st_size > 1000
    assert status.gpu == GPU
    assert [(row.job, row.state) for row in rig.emulator.charges.rows] == [("reel/shot-01", "done")]
    assert await rig.pods.terminate(pod.id) is True
    bills = await rig.pods.pod_bills(pod_id=pod.id)
    assert sum(bill.total_amount for bill in bills) > rig.backend.charge(quote, status).amount_usd > Decimal(0)


async def test_a_lost_create_answer_leaves_one_pod_that_is_found(rig: Rig) -> None:
    """The pod exists and costs money; its name leads to it, and there is only one."""
    rig.faults.add(FaultRule(server="runpod", operation="create", action="drop_after"))
    with pytest.raises(SubmitUncertain):
        await rig.pods.create(spec())
    found = await rig.pods.find("hv-1")
    assert found is not None
    assert [pod.id for pod in await rig.pods.list()] == [found.id]


async def test_no_stock_is_no_capacity_and_another_type_works(rig: Rig) -> None:
    """One GPU type per call: the caller goes on with the next candidate."""
    with pytest.raises(TransientError) as caught:
        await rig.pods.create(spec(gpu="NVIDIA H100 PCIe"))
    assert caught.value.kind is FailureKind.NO_CAPACITY
    stock = {gpu.id: gpu.availability for gpu in await rig.pods.catalogue()}
    assert (stock["NVIDIA H100 PCIe"], stock[GPU]) == ("NONE", "HIGH")
    assert (await rig.pods.create(spec())).gpu_name == GPU


async def test_stop_and_start_follow_the_documented_states(rig: Rig) -> None:
    """A stopped pod costs nothing per hour, and stopping or starting twice is no error."""
    pod = await rig.pods.create(spec())
    await rig.until(pod, "RUNNING")
    stopped = await rig.pods.stop(pod.id)
    assert (stopped.status, stopped.cost) == ("EXITED", Decimal(0))
    assert (await rig.pods.stop(pod.id)).status == "EXITED"
    await rig.pods.start(pod.id)
    assert (await rig.pods.start(pod.id)).costs_money
    await rig.until(pod, "RUNNING")


async def test_a_pod_without_a_token_in_its_environment_is_open_and_refused(rig: Rig) -> None:
    """The emulated gate checks nothing without a token, as a bare ComfyUI would not."""
    pod = await rig.pods.create(spec(token=""))
    with pytest.raises(ConfigurationError, match="open to everyone"):
        await attached(rig, pod)


async def test_a_contract_violation_is_never_tried_again(rig: Rig) -> None:
    """422 names the field and is terminal."""
    with pytest.raises(TerminalError) as caught:
        await rig.pods.create(spec().model_copy(update={"gpu_count": 0}))
    assert caught.value.kind is FailureKind.INVALID_REQUEST
