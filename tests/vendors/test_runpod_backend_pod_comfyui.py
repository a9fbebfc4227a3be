"""The pod backend: a simulated ComfyUI behind a gate as on a pod, and a management API that knows the pod."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import av
import pytest
from aiohttp import web
from pydantic import SecretStr

from hybrid_video.backends.base import BackendContext
from hybrid_video.backends.comfyui.patience import Patience
from hybrid_video.backends.runpod import PodBackend
from hybrid_video.emulators.comfyui import ComfyUIEmulator
from hybrid_video.emulators.faults import FaultPlan
from hybrid_video.emulators.server import ScaledClock, start_server
from hybrid_video.errors import ConfigurationError, FailureKind, TransientError
from hybrid_video.models import JobHandle, Quote, Refusal, VideoJob, WorkOrder
from hybrid_video.pricing.catalog import PriceBook
from hybrid_video.pricing.quoting import Quoter
from hybrid_video.pricing.timings import ServiceTimes
from hybrid_video.settings import RunPodSettings, Settings

pytestmark = pytest.mark.timeout(60)

TOKEN = "pod-token-0123456789"
GPU = "NVIDIA GeForce RTX 4090"
JOB = VideoJob(id="shot-01", prompt="a red fox in snow", duration_s=1, width=320, height=192)
PRICES = PriceBook.load("current")


@dataclass
class Machine:
    """One pod as seen from outside: its record, and the proxy with the gate in front of its ComfyUI."""

    comfyui_url: str = ""
    status: str = "RUNNING"
    gone: bool = False
    booting: bool = False
    token: str = TOKEN
    guarded: tuple[str, ...] = ("",)
    """Beginnings of the paths the gate checks; ("",) is all of them, () none."""
    compares: bool = True
    websockets: int = 0
    requests: list[str] = field(default_factory=list)

    async def record(self, request: web.Request) -> web.Response:
        if self.gone:
            return web.json_response({"title": "Not Found", "status": 404, "detail": "resource not found"}, status=404)
        pod_id = request.match_info["id"]
        return web.json_response({"id": pod_id, "name": "p", "status": self.status, "gpu": {"id": GPU, "count": 1}})

    async def proxy(self, request: web.Request) -> web.StreamResponse:
        path = "/" + request.match_info["tail"]
        self.requests.append(path)
        self.websockets += path == "/ws"
        if self.booting or self.gone or self.status != "RUNNING":
            return web.Response(status=502, text="Bad Gateway")
        sent = request.headers.get("Authorization", "")
        good = sent == f"Bearer {self.token}" if self.compares else bool(sent)
        if not good and any(path.startswith(start or "/") for start in self.guarded):
            return web.Response(status=401)
        headers = {key: value for key, value in request.headers.items() if key.lower() not in ("host", "authorization")}
        async with (
            aiohttp.ClientSession() as session,
            session.request(
                request.method,
                f"{self.comfyui_url}{path}",
                params=request.query,
                data=await request.read(),
                headers=headers,
            ) as answer,
        ):
            return web.Response(status=answer.status, body=await answer.read(), content_type=answer.content_type)


@dataclass
class Rig:
    machine: Machine
    comfyui: ComfyUIEmulator
    backend: PodBackend

    def order(self) -> WorkOrder:
        quote = self.backend.quote(JOB)
        assert isinstance(quote, Quote)
        return WorkOrder(
            attempt_id=str(uuid4()),
            batch="reel",
            job=JOB,
            number=1,
            seed=3,
            lane="runpod-pod/p1",
            quote=quote,
        )


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    comfyui = ComfyUIEmulator(
        clock=ScaledClock(200.0), faults=FaultPlan(), service_s=20.0, jitter=0.0, gpu="cuda:0 Odd"
    )
    inner = await start_server(comfyui.app())
    machine = Machine(comfyui_url=inner.url)
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_get("/v2/pods/{id}", machine.record)
    app.router.add_route("*", "/_proxy/{pod}-{port}/{tail:.*}", machine.proxy)
    outer = await start_server(app)
    settings = RunPodSettings(
        api_key=SecretStr("rpa_123456789"), pods_url=outer.url, pod_ids=("p1",), pod_token=SecretStr(TOKEN)
    )
    backend = PodBackend(
        BackendContext(Settings(runpod=settings), Quoter(PRICES, ServiceTimes())),
        patience=Patience(poll_interval_s=0.03, outage_s=0.5, lookup_pauses_s=(0.01, 0.02)),
    )
    yield Rig(machine, comfyui, backend)
    await backend.close()
    await outer.close()
    await inner.close()


async def test_a_job_on_a_pod_becomes_a_clip_without_a_websocket(rig: Rig, tmp_path: Path) -> None:
    """Everything goes by polling through the gate, the GPU is the one of RunPod's record, its price is the pod's."""
    await rig.backend.start()
    (lane,) = rig.backend.lanes()
    assert (lane.id, lane.gpu, lane.ahead) == ("runpod-pod/p1", GPU, 1)
    assert await rig.backend.preflight(JOB) is None
    order = rig.order()
    handle = await rig.backend.submit(order)
    status = await rig.backend.watch(handle)
    path = await rig.backend.collect(handle, status, tmp_path)
    with av.open(str(path)) as container:
        assert sum(1 for _ in container.decode(video=0)) == order.quote.output.frames
    assert status.gpu == GPU
    cost = rig.backend.charge(order.quote, status)
    assert cost.source == "metered"
    assert Decimal(0) < cost.amount_usd < Decimal("0.01")
    assert rig.machine.websockets == 0
    assert TOKEN not in handle.model_dump_json()
    assert len(rig.comfyui.charges.rows) == 1


@pytest.mark.parametrize(
    ("gate", "words"),
    [
        ({"guarded": ()}, "without a token"),
        ({"guarded": ("/system_stats",)}, "'/prompt' without a token"),
        ({"compares": False}, "with a wrong token"),
    ],
)
async def test_a_pod_that_strangers_can_use_is_refused(rig: Rig, gate: dict[str, Any], words: str) -> None:
    """No gate, a gate on some routes, and one that takes any token are all open doors; the error says what to do."""
    for name, value in gate.items():
        setattr(rig.machine, name, value)
    with pytest.raises(ConfigurationError, match=words) as caught:
        await rig.backend.start()
    assert "reverse proxy" in caught.value.message
    assert rig.backend.lanes() == ()
    report = await rig.backend.health()
    assert not report.healthy
    assert "open to everyone" in report.detail
    with pytest.raises(ConfigurationError):
        await rig.backend.submit(rig.order())
    assert rig.comfyui.charges.rows == []


async def test_a_booting_pod_is_waited_for_and_taken_in_by_health(rig: Rig) -> None:
    """RUNNING with 502 is no proof of anything: transient, and the next health check finds it up."""
    rig.machine.booting = True
    with pytest.raises(TransientError, match="502") as caught:
        await rig.backend.start()
    assert caught.value.kind is FailureKind.UNREACHABLE
    rig.machine.booting = False
    assert (await rig.backend.health()).healthy
    assert len(rig.backend.lanes()) == 1


@pytest.mark.parametrize("state", ["PROVISIONING", "EXITED", "ERROR"])
async def test_a_pod_that_does_not_run_has_no_lane(rig: Rig, state: str) -> None:
    """Its record is enough to know; nothing is sent to it."""
    rig.machine.status = state
    with pytest.raises(TransientError, match=state):
        await rig.backend.start()
    assert rig.machine.requests == []


async def test_our_own_wrong_token_is_named(rig: Rig) -> None:
    """A gate that refuses everyone includes us: the setting is wrong."""
    rig.machine.token = "another"
    with pytest.raises(ConfigurationError, match="valid token"):
        await rig.backend.start()
    assert rig.backend.lanes() == ()


async def test_a_pod_that_is_terminated_under_a_job_has_lost_it(rig: Rig) -> None:
    """The record tells a gone pod from a mere outage, so the job may be made again elsewhere."""
    await rig.backend.start()
    handle = await rig.backend.submit(rig.order())
    rig.machine.gone = True
    with pytest.raises(TransientError, match="terminated") as caught:
        await rig.backend.watch(handle)
    assert caught.value.kind is FailureKind.RESTARTED
    assert await rig.backend.cancel(handle) == "stopped"


async def test_a_lost_answer_is_looked_up_by_its_own_id(rig: Rig) -> None:
    """The attempt id is the prompt id, so a submit is found or known to be absent."""
    await rig.backend.start()
    order = rig.order()
    assert await rig.backend.find(order) is None
    handle = await rig.backend.submit(order)
    found = await rig.backend.find(order)
    assert isinstance(found, JobHandle)
    assert (found.remote_id, found.lane) == (handle.remote_id, "runpod-pod/p1") == (order.attempt_id, handle.lane)


async def test_pods_can_be_attached_and_detached(rig: Rig) -> None:
    """A pod that was started for a full queue becomes a lane, and its end takes the lane away."""
    await rig.backend.start()
    lane = await rig.backend.attach("p2")
    assert lane.id == "runpod-pod/p2"
    assert len(rig.backend.lanes()) == 2
    await rig.backend.detach("p2")
    assert [lane.id for lane in rig.backend.lanes()] == ["runpod-pod/p1"]


async def test_missing_settings_are_named(rig: Rig) -> None:
    """No token and no pods are configuration errors with the variable's name."""
    base = {"api_key": SecretStr("rpa_123456789"), "pods_url": "http://127.0.0.1:9"}
    for fields, words in [
        ({"pod_ids": ("p1",), "pod_token": None}, "HYBRID_VIDEO_RUNPOD_POD_TOKEN"),
        ({"pod_ids": (), "pod_token": SecretStr(TOKEN)}, "HYBRID_VIDEO_RUNPOD_POD_IDS"),
    ]:
        settings = Settings(runpod=RunPodSettings(**base, **fields))  # type: ignore[arg-type]
        backend = PodBackend(BackendContext(settings, Quoter(PRICES, ServiceTimes())))
        with pytest.raises(ConfigurationError, match=words):
            await backend.start()


async def test_a_gpu_without_a_price_is_refused_not_guessed(rig: Rig) -> None:
    """Nothing is bought at an unknown price."""
    settings = RunPodSettings(api_key=SecretStr("rpa_123456789"), gpu="NVIDIA Unheard Of", pod_token=SecretStr(TOKEN))
    backend = PodBackend(BackendContext(Settings(runpod=settings), Quoter(PRICES, ServiceTimes())))
    refusal = backend.quote(JOB)
    assert isinstance(refusal, Refusal)
    assert "no price" in refusal.reason
