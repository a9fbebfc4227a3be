"""The ComfyUI backend over the emulator: the life of a job, and what goes wrong in it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import av
import httpx
import pytest
from aiohttp import web
from PIL import Image

from hybrid_video.backends.base import BackendContext
from hybrid_video.backends.comfyui import ComfyUIBackend, ComfyUIServer, Patience
from hybrid_video.emulators.comfyui import ComfyUIEmulator
from hybrid_video.emulators.faults import FaultPlan, FaultRule
from hybrid_video.emulators.server import RunningServer, ScaledClock, start_server
from hybrid_video.errors import (
    BackendError,
    ConfigurationError,
    FailureKind,
    SubmitUncertain,
    TerminalError,
    TransientError,
)
from hybrid_video.models import JobStatus, Quote, Refusal, VideoJob, WorkOrder
from hybrid_video.pricing.catalog import PriceBook
from hybrid_video.pricing.quoting import Quoter
from hybrid_video.pricing.timings import ServiceTimes
from hybrid_video.settings import ComfyUISettings, Settings
from hybrid_video.workflows import plan as plan_workflow

SCALE = 50.0
QUICK = Patience(
    poll_interval_s=0.1,
    outage_s=5,
    job_timeout_s=20,
    wedge_after_s=0.6,
    cancel_s=3,
    lookup_pauses_s=(0.05, 0.1, 0.2),
)
PLASMA = {
    "seed": {"class_type": "EmptyImage", "inputs": {"width": 16, "height": 16, "batch_size": 8, "color": 8421504}},
    "noise": {"class_type": "ImageAddNoise", "inputs": {"image": ["seed", 0], "seed": 7, "strength": 1.0}},
    "big": {
        "class_type": "ImageScale",
        "inputs": {
            "image": ["noise", 0],
            "upscale_method": "bicubic",
            "width": 128,
            "height": 96,
            "crop": "disabled",
        },
    },
    "video": {"class_type": "CreateVideo", "inputs": {"images": ["big", 0], "fps": 8.0}},
    "save": {
        "class_type": "SaveVideo",
        "inputs": {"video": ["video", 0], "filename_prefix": "x", "format": "mp4", "codec": "h264"},
    },
}


@dataclass
class Place:
    """An emulator, its server, and a backend that uses it."""

    emulator: ComfyUIEmulator
    server: RunningServer
    faults: FaultPlan
    backend: ComfyUIBackend
    folder: Path
    workflow: Path
    extra: list[RunningServer] = field(default_factory=list)

    @property
    def lane(self) -> str:
        """The emulator's lane."""
        return f"comfyui/127.0.0.1:{self.server.port}"

    def order(self, job: VideoJob | None = None, **changes: Any) -> WorkOrder:
        """An attempt at a small job."""
        job = job or VideoJob(id="shot.1", prompt="a quiet harbour", workflow="plasma.json")
        path = str(self.workflow) if job.workflow.endswith(".json") else None
        quote = self.backend.quote(job, workflow_path=Path(path) if path else None)
        assert isinstance(quote, Quote)
        fields = {
            "attempt_id": str(uuid4()),
            "batch": "film",
            "job": job,
            "number": 1,
            "seed": 11,
            "lane": self.lane,
            "quote": quote,
            "workflow_path": path,
        }
        return WorkOrder(**(fields | changes))

    def fault(self, operation: str, action: str, **more: Any) -> None:
        """Adds a rule."""
        self.faults.add(FaultRule(server="comfyui", operation=operation, action=action, **more))

    def states(self) -> list[str]:
        """How every prompt that was ever accepted stands."""
        return [charge.state for charge in self.emulator.charges.rows]


def backend_for(*urls: str, patience: Patience = QUICK, **settings: Any) -> ComfyUIBackend:
    """A backend with current prices."""
    quoter = Quoter(PriceBook.load("current"), ServiceTimes())
    comfyui = ComfyUISettings(urls=urls, **settings)
    return ComfyUIBackend(BackendContext(Settings(comfyui=comfyui), quoter), patience=patience)


@pytest.fixture
def service_s() -> float:
    """Simulated seconds of one prompt; tests override it where they need time."""
    return 10.0


@pytest.fixture
async def place(tmp_path: Path, service_s: float) -> AsyncIterator[Place]:
    """A started emulator and a started backend."""
    faults = FaultPlan()
    emulator = ComfyUIEmulator(clock=ScaledClock(SCALE), faults=faults, service_s=service_s, jitter=0.0)
    server = await start_server(emulator.app())
    backend = backend_for(server.url)
    await backend.start()
    workflow = tmp_path / "plasma.json"
    workflow.write_text(json.dumps(PLASMA))
    made = Place(emulator, server, faults, backend, tmp_path / "clips", workflow)
    yield made
    await made.backend.close()
    for each in [server, *made.extra]:
        await each.close()


async def fails(awaitable: Any) -> BackendError:
    """The error a call ends in."""
    with pytest.raises(BackendError) as caught:
        await awaitable
    return caught.value


async def test_a_job_becomes_a_playable_clip(place: Place) -> None:
    """Submit, watch, collect: the file decodes, and the server ran exactly one prompt under the attempt's id."""
    order = place.order()
    handle = await place.backend.submit(order)
    status = await place.backend.watch(handle)
    path = await place.backend.collect(handle, status, place.folder)
    assert path.name == f"{order.attempt_id}.mp4"
    with av.open(str(path)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 8
    assert [(charge.id, charge.job) for charge in place.emulator.charges.rows] == [(order.attempt_id, "film/shot.1")]
    assert status.gpu == "NVIDIA GeForce RTX 4090"
    assert status.execution_s == pytest.approx(10, abs=1)


async def test_an_image_is_uploaded_under_a_name_made_from_its_content(place: Place, tmp_path: Path) -> None:
    """Two jobs with one picture share one file; the graph holds the name the server gave."""
    picture = tmp_path / "First Frame.PNG"
    Image.new("RGB", (64, 64), "teal").save(picture)
    job = VideoJob(id="i2v", prompt="it moves", image="f.png", workflow="wan2.2-ti2v-5b", duration_s=0.5)
    names = set()
    for _ in range(2):
        order = place.order(job, image_path=str(picture))
        handle = await place.backend.submit(order)
        async with httpx.AsyncClient(base_url=place.server.url) as http:
            queue = (await http.get("/queue")).json()
        graph = next(i[2] for i in queue["queue_running"] + queue["queue_pending"] if i[1] == order.attempt_id)
        names |= {node["inputs"]["image"] for node in graph.values() if node["class_type"] == "LoadImage"}
        await place.backend.cancel(handle)
    assert len(names) == 1
    assert names.pop().startswith("hv-")


async def test_progress_is_reported_step_by_step(place: Place) -> None:
    """The websocket's hints reach the callback while polling alone would only say: running."""
    job = VideoJob(id="t2v", prompt="waves", duration_s=0.5, width=128, height=128, workflow="wan2.2-ti2v-5b")
    handle = await place.backend.submit(place.order(job))
    seen: list[JobStatus] = []
    await place.backend.watch(handle, seen.append)
    shares = [status.progress for status in seen if status.phase == "running" and status.progress is not None]
    assert shares == sorted(shares)
    assert any(0.1 < share < 0.9 for share in shares)
    assert seen[-1].phase == "succeeded"


async def test_the_end_is_noticed_before_the_next_poll(place: Place) -> None:
    """With a poll interval of 30 s a prompt of 0.2 s is still over at once: the websocket wakes the poll."""
    backend = place.backend = backend_for(place.server.url, patience=replace(QUICK, poll_interval_s=30))
    await backend.start()
    handle = await backend.submit(place.order())
    began = time.monotonic()
    await backend.watch(handle)
    assert time.monotonic() - began < 5


async def test_a_clip_is_asked_for_as_seldom_as_can_be(place: Place) -> None:
    """One prompt, one look into the history, one file: what the websocket says already is not asked for."""
    asked: list[str] = []

    @web.middleware
    async def listed(request: web.Request, handler: Any) -> Any:
        asked.append(f"{request.method} {request.path.split('/')[1]}")
        return await handler(request)

    app = place.emulator.app()
    app.middlewares.append(listed)
    server = await start_server(app)
    place.extra.append(server)
    backend = backend_for(server.url, patience=replace(QUICK, poll_interval_s=30))
    await backend.start()
    (lane,) = backend.lanes()
    order = place.order(lane=lane.id)
    asked.clear()
    handle = await backend.submit(order)
    status = await backend.watch(handle)
    await backend.collect(handle, status, place.folder)
    await backend.close()
    assert sorted(asked) == ["GET history", "GET view", "GET ws", "POST prompt"]


@pytest.mark.parametrize("service_s", [50.0])
async def test_a_second_prompt_waits_behind_the_first(place: Place) -> None:
    """One prompt ahead keeps the GPU busy; it is `queued` until its turn."""
    first = await place.backend.submit(place.order())
    second = await place.backend.submit(place.order())
    await asyncio.sleep(0.1)
    status = await place.backend.status(second)
    assert (status.phase, status.message) == ("queued", "1 ahead in ComfyUI's queue")
    await asyncio.gather(place.backend.watch(first), place.backend.watch(second))
    assert place.states() == ["done", "done"]


async def test_a_fresh_process_re_attaches_from_the_stored_handle(place: Place) -> None:
    """The handle alone is enough, even when the address is no longer configured."""
    handle = await place.backend.submit(place.order())
    other = backend_for("http://127.0.0.1:9")
    try:
        status = await other.watch(handle)
        assert (await other.collect(handle, status, place.folder)).stat().st_size > 0
    finally:
        await other.close()
    assert place.states() == ["done"]


async def test_find_sees_a_prompt_wherever_it_is_and_nothing_else(place: Place) -> None:
    """Running, finished, never sent, unreachable."""
    order, never = place.order(), place.order()
    handle = await place.backend.submit(order)
    running = await place.backend.find(order)
    assert running not in (None, "unknown")
    await place.backend.watch(handle)
    found = await place.backend.find(order)
    assert found not in (None, "unknown")
    assert found.remote_id == order.attempt_id  # type: ignore[union-attr]
    assert await place.backend.find(never) is None
    place.fault("status", "status", times=None)
    assert await place.backend.find(order) == "unknown"


async def test_a_lost_answer_is_found_again_and_not_sent_twice(place: Place) -> None:
    """The prompt was accepted, the answer cut: the look-up returns its handle, and one prompt ran."""
    place.fault("submit", "drop_after")
    order = place.order()
    handle = await place.backend.submit(order)
    await place.backend.watch(handle)
    assert place.states() == ["done"]


@pytest.mark.parametrize("action", ["refuse", "status"])
async def test_a_submit_that_is_certainly_nowhere_may_be_tried_again(place: Place, action: str) -> None:
    """Cut before it was read, or a 503: queue and history are asked, and only then is it called not accepted."""
    place.fault("submit", action)
    error = await fails(place.backend.submit(place.order()))
    assert isinstance(error, TransientError)
    assert error.kind is FailureKind.UNREACHABLE
    assert place.states() == []


async def test_a_lost_answer_that_cannot_be_looked_up_is_uncertain(place: Place) -> None:
    """No look, no claim."""
    place.fault("submit", "drop_after")
    place.fault("status", "status", times=6)
    order = place.order()
    assert isinstance(await fails(place.backend.submit(order)), SubmitUncertain)
    assert await place.backend.find(order) == "unknown"
    assert len(place.states()) == 1


async def test_garbage_instead_of_an_answer_is_looked_up(place: Place) -> None:
    """A 200 that is no ComfyUI answer says nothing about the job."""
    place.fault("submit", "garbage")
    error = await fails(place.backend.submit(place.order()))
    assert (type(error), place.states()) == (TransientError, [])


async def test_half_accepted_workflows_are_withdrawn(place: Place) -> None:
    """A 200 with node_errors dropped an output: the rest is taken back and the workflow refused."""
    save = {"class_type": "SaveVideo", "inputs": {"video": ["video", 0], "filename_prefix": "y", "format": "cassette"}}
    save["inputs"]["codec"] = "h264"  # type: ignore[index]
    place.workflow.write_text(json.dumps(PLASMA | {"bad": save}))
    error = await fails(place.backend.submit(place.order()))
    assert isinstance(error, TerminalError)
    assert "does not know 'format' = 'cassette'" in error.message
    assert place.states() == ["cancelled"]


async def test_half_accepted_workflows_are_recognised_after_a_lost_answer(place: Place) -> None:
    """Without the answer there are no node_errors; the history shows which savers ran."""
    save = {"class_type": "SaveVideo", "inputs": {"video": ["video", 0], "filename_prefix": "y", "format": "cassette"}}
    save["inputs"]["codec"] = "h264"  # type: ignore[index]
    place.workflow.write_text(json.dumps(PLASMA | {"bad": save}))
    place.fault("submit", "drop_after")
    error = await fails(place.backend.watch(await place.backend.submit(place.order())))
    assert (error.kind, "node bad (SaveVideo)" in error.message) == (FailureKind.INVALID_WORKFLOW, True)


async def test_a_workflow_that_makes_the_handler_raise_is_not_sent_again(place: Place) -> None:
    """A plain-text 500 is ComfyUI's answer to a malformed request, and will be the next time."""
    place.fault("submit", "status", status=500, body="500 Internal Server Error\n\nServer got itself in trouble")
    error = await fails(place.backend.submit(place.order()))
    assert (type(error), error.kind) == (TerminalError, FailureKind.INVALID_REQUEST)


async def test_out_of_memory_in_a_node_is_reported_as_such(place: Place) -> None:
    """The kind chooses a larger GPU next time."""
    place.fault("execute", "oom")
    error = await fails(place.backend.watch(await place.backend.submit(place.order())))
    assert error.kind is FailureKind.OUT_OF_MEMORY


async def test_a_failing_node_is_named(place: Place) -> None:
    """Node id, class and message; never its inputs."""
    place.fault("execute", "fail", body="boom")
    error = await fails(place.backend.watch(await place.backend.submit(place.order())))
    assert error.kind is FailureKind.EXECUTION_FAILED
    assert "(CreateVideo) failed with ValueError 'boom'" in error.message
    assert "tensor" not in repr(error.__dict__)


async def test_a_restart_in_mid_run_loses_the_job_and_says_so(place: Place) -> None:
    """Queue and history are empty afterwards; the outage of the restart itself is waited out."""
    place.fault("execute", "restart")
    error = await fails(place.backend.watch(await place.backend.submit(place.order())))
    assert isinstance(error, TransientError)
    assert error.kind is FailureKind.RESTARTED


@pytest.mark.parametrize("service_s", [50.0])
async def test_a_prompt_somebody_deleted_is_cancelled_not_restarted(place: Place) -> None:
    """An earlier prompt still in the history proves that the server did not restart."""
    await place.backend.watch(await place.backend.submit(place.order()))
    await place.backend.submit(place.order())
    waiting = await place.backend.submit(place.order())
    async with httpx.AsyncClient(base_url=place.server.url) as http:
        await http.post("/queue", json={"clear": True})
    error = await fails(place.backend.watch(waiting))
    assert (error.kind, "deleted" in error.message) == (FailureKind.CANCELLED, True)


@pytest.mark.parametrize("service_s", [200.0])
async def test_a_prompt_somebody_interrupted_is_cancelled(place: Place) -> None:
    """The cross in ComfyUI's own window ends our job too."""
    job = VideoJob(id="t2v", prompt="waves", duration_s=0.5, width=128, height=128, workflow="wan2.2-ti2v-5b")
    handle = await place.backend.submit(place.order(job))
    await asyncio.sleep(0.3)
    async with httpx.AsyncClient(base_url=place.server.url) as http:
        await http.post("/interrupt", json={})
    assert (await fails(place.backend.watch(handle))).kind is FailureKind.CANCELLED


async def test_a_dead_worker_is_recognised_while_prompts_wait(place: Place) -> None:
    """HTTP stays healthy, nothing runs: WEDGED, and the prompt is taken out so that it never runs late."""
    place.fault("submit", "wedge")
    error = await fails(place.backend.watch(await place.backend.submit(place.order())))
    assert error.kind is FailureKind.WEDGED
    assert place.states() == ["cancelled"]
    await place.backend.submit(place.order())
    await place.backend.health()
    await asyncio.sleep(QUICK.wedge_after_s + 0.2)
    health = await place.backend.health()
    assert (health.healthy, health.remedy) == (False, "Restart that ComfyUI.")


async def test_a_worker_that_hangs_in_a_prompt_is_recognised(place: Place) -> None:
    """Running for longer than the limit and deaf to an interrupt."""
    patience = replace(QUICK, job_timeout_s=0.5, cancel_s=0.5)
    backend = place.backend = backend_for(place.server.url, patience=patience)
    await backend.start()
    place.fault("execute", "wedge")
    error = await fails(backend.watch(await backend.submit(place.order())))
    assert (error.kind, "cannot be interrupted" in error.message) == (FailureKind.WEDGED, True)
    assert not (await backend.health()).healthy


@pytest.mark.parametrize("service_s", [500.0])
async def test_a_clip_that_takes_too_long_is_interrupted(place: Place) -> None:
    """A live worker obeys: TIMED_OUT, which is no fault of the server's."""
    backend = place.backend = backend_for(place.server.url, patience=replace(QUICK, job_timeout_s=0.5))
    await backend.start()
    job = VideoJob(id="t2v", prompt="waves", duration_s=0.5, width=128, height=128, workflow="wan2.2-ti2v-5b")
    error = await fails(backend.watch(await backend.submit(place.order(job))))
    assert (error.kind, place.states()) == (FailureKind.TIMED_OUT, ["cancelled"])


@pytest.mark.parametrize("service_s", [60.0])
async def test_an_outage_shorter_than_the_patience_is_waited_out(place: Place) -> None:
    """Six bad answers in a row do not lose a running job."""
    handle = await place.backend.submit(place.order())
    place.fault("status", "status", times=3)
    place.fault("status", "drop", times=3)
    assert (await place.backend.watch(handle)).phase == "succeeded"


async def test_an_outage_longer_than_the_patience_ends_the_wait(place: Place) -> None:
    """Then the error says how long it was waited for."""
    backend = place.backend = backend_for(place.server.url, patience=replace(QUICK, outage_s=0.5))
    await backend.start()
    handle = await backend.submit(place.order())
    place.fault("status", "drop", times=None)
    error = await fails(backend.watch(handle))
    assert error.kind is FailureKind.UNREACHABLE
    assert "it was waited for" in error.message


async def test_a_truncated_download_is_completed(place: Place) -> None:
    """The second half comes with a second request."""
    handle = await place.backend.submit(place.order())
    status = await place.backend.watch(handle)
    place.fault("download", "truncate", times=2)
    path = await place.backend.collect(handle, status, place.folder)
    with av.open(str(path)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 8


async def test_a_result_that_is_gone_is_expired(place: Place) -> None:
    """Somebody emptied the output folder."""
    place.fault("execute", "lose")
    handle = await place.backend.submit(place.order())
    error = await fails(place.backend.collect(handle, await place.backend.watch(handle), place.folder))
    assert error.kind is FailureKind.EXPIRED


async def test_a_workflow_that_saves_no_video_gives_no_clip(place: Place) -> None:
    """An animated WEBP of a single frame is a picture."""
    still = PLASMA | {
        "seed": {"class_type": "EmptyImage", "inputs": {"width": 16, "height": 16, "batch_size": 1, "color": 7}},
        "save": {
            "class_type": "SaveAnimatedWEBP",
            "inputs": {
                "images": ["big", 0],
                "filename_prefix": "x",
                "fps": 8.0,
                "lossless": False,
                "quality": 80,
                "method": "default",
            },
        },
    }
    place.workflow.write_text(json.dumps({key: node for key, node in still.items() if key != "video"}))
    handle = await place.backend.submit(place.order())
    error = await fails(place.backend.collect(handle, await place.backend.watch(handle), place.folder))
    assert (error.kind, "saved no video" in error.message) == (FailureKind.BAD_CLIP, True)


@pytest.mark.parametrize("service_s", [60.0])
async def test_cancel_stops_the_one_that_runs_or_waits_and_no_other(place: Place) -> None:
    """The waiting one leaves the queue, the running one is interrupted, the third runs on."""
    job = VideoJob(id="t2v", prompt="waves", duration_s=0.5, width=128, height=128, workflow="wan2.2-ti2v-5b")
    running = await place.backend.submit(place.order(job))
    waiting = await place.backend.submit(place.order())
    third = await place.backend.submit(place.order())
    await asyncio.sleep(0.2)
    assert await place.backend.cancel(waiting) == "stopped"
    assert await place.backend.cancel(running) == "stopped"
    assert (await place.backend.watch(third)).phase == "succeeded"
    assert await place.backend.cancel(third) == "finished"
    assert place.states() == ["cancelled", "cancelled", "done"]


async def test_cancel_says_unknown_when_nobody_answers(place: Place) -> None:
    """Nothing is claimed about a server that is gone."""
    handle = await place.backend.submit(place.order())
    place.fault("status", "drop", times=None)
    assert await place.backend.cancel(handle) == "unknown"


async def test_preflight_accepts_every_job_the_server_can_make(place: Place) -> None:
    """The default template's nodes and models are all there."""
    assert await place.backend.preflight(VideoJob(id="a", prompt="x")) is None


async def test_preflight_names_the_missing_model_and_where_it_belongs(place: Place) -> None:
    """Refused for nothing, before anything is sent; the same holds for a missing node."""
    job = VideoJob(id="a", prompt="x", workflow="wan2.2-ti2v-5b")
    for missing, words in (
        ({"missing_models": frozenset({"wan2.2_vae.safetensors"})}, "download it to models/vae there"),
        ({"missing_nodes": frozenset({"VAELoader"})}, "it has no node 'VAELoader'"),
    ):
        poor = ComfyUIEmulator(clock=ScaledClock(SCALE), faults=FaultPlan(), **missing)  # type: ignore[arg-type]
        server = await start_server(poor.app())
        place.extra.append(server)
        backend = backend_for(server.url)
        await backend.start()
        refusal = await backend.preflight(job)
        await backend.close()
        assert refusal is not None
        assert (refusal.code, words in refusal.reason) == ("preflight", True)


async def test_preflight_asks_for_the_node_list_once_in_a_while(place: Place) -> None:
    """Hundreds of kilobytes for each of a hundred jobs would be waste."""
    for _ in range(5):
        await place.backend.preflight(VideoJob(id="a", prompt="x"))
    place.fault("*", "status", times=None)
    assert await place.backend.preflight(VideoJob(id="a", prompt="x")) is None


async def test_a_job_no_workflow_can_make_is_refused_with_the_reason(place: Place) -> None:
    """What `plan` refuses is a capability, not a failure."""
    refusal = place.backend.quote(VideoJob(id="a", prompt="x", workflow="no-such-template"))
    assert isinstance(refusal, Refusal)
    assert (refusal.code, "no-such-template" in refusal.reason) == ("capability", True)


async def test_local_clips_cost_nothing_and_the_basis_says_why(place: Place) -> None:
    """The seconds are kept for the timings; the price is 0."""
    order = place.order()
    status = await place.backend.watch(await place.backend.submit(order))
    entry = place.backend.charge(order.quote, status)
    assert (entry.amount_usd, entry.source) == (Decimal(0), "metered")
    assert "local-own-gpu" in entry.basis
    assert place.backend.charge(order.quote, None).amount_usd == 0


async def test_a_dead_server_loses_its_lane_and_gets_it_back(place: Place) -> None:
    """One of two is enough to start; `health` brings the other back when it answers."""
    spare = await start_server(ComfyUIEmulator(clock=ScaledClock(SCALE), faults=FaultPlan()).app())
    port = spare.port
    await spare.close()
    backend = place.backend = backend_for(place.server.url, f"http://127.0.0.1:{port}")
    await backend.start()
    assert [lane.id for lane in backend.lanes()] == [place.lane]
    health = await backend.health()
    assert (health.healthy, "1 of 2 answered well" in health.detail) == (True, True)
    app = ComfyUIEmulator(clock=ScaledClock(SCALE), faults=FaultPlan()).app()
    place.extra.append(await start_server(app, port))
    assert (await backend.health()).healthy
    assert [(lane.id, lane.ahead, lane.gpu) for lane in backend.lanes()] == [
        (place.lane, 1, "NVIDIA GeForce RTX 4090"),
        (f"comfyui/127.0.0.1:{port}", 1, "NVIDIA GeForce RTX 4090"),
    ]


async def test_a_server_that_dies_loses_its_lane_at_the_first_refusal(place: Place) -> None:
    """The next job goes to the other one, without waiting for a health check."""
    spare = await start_server(ComfyUIEmulator(clock=ScaledClock(SCALE), faults=FaultPlan()).app())
    backend = place.backend = backend_for(place.server.url, spare.url)
    await backend.start()
    assert len(backend.lanes()) == 2
    await spare.close()
    error = await fails(backend.submit(place.order(lane=f"comfyui/127.0.0.1:{spare.port}")))
    assert error.kind is FailureKind.UNREACHABLE
    assert [lane.id for lane in backend.lanes()] == [place.lane]


async def test_a_server_behind_a_token_checking_proxy_is_used_without_websocket(place: Place) -> None:
    """Every request carries the header, below the proxy's path; the token is in no handle, message or repr."""
    token = "s3cret-t0ken-of-the-pod"

    @web.middleware
    async def check(request: web.Request, handler: Any) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {token}" or request.path.endswith("/ws"):
            return web.Response(status=401)
        return await handler(request)  # type: ignore[no-any-return]

    proxy = web.Application(middlewares=[check])
    emulator = ComfyUIEmulator(clock=ScaledClock(SCALE), faults=FaultPlan(), service_s=5.0)
    proxy.add_subapp("/_proxy/pod-8188", emulator.app())
    running = await start_server(proxy)
    place.extra.append(running)
    order = place.order()
    plan = plan_workflow(order.job, workflow_path=place.workflow)
    url = f"{running.url}/_proxy/pod-8188"
    for bearer, lane in ((token, "runpod-pod/pod"), ("wrong-token", "x")):
        server = ComfyUIServer(
            url,
            backend="runpod-pod",
            lane=lane,
            headers={"Authorization": f"Bearer {bearer}"},
            websocket=False,
            patience=QUICK,
        )
        if bearer != token:
            error = await fails(server.submit(order, plan))
            assert (error.kind, error.backend) == (FailureKind.AUTHENTICATION, "runpod-pod")
        else:
            handle = await server.submit(order, plan)
            status = await server.watch(handle)
            assert (await server.collect(handle, status, place.folder)).stat().st_size > 0
            assert (handle.backend, handle.lane) == ("runpod-pod", "runpod-pod/pod")
            assert token not in handle.model_dump_json() + status.model_dump_json() + repr(server.client)
        await server.close()


async def test_start_needs_at_least_one_server() -> None:
    """All dead: may pass. None configured: the user must act."""
    dead = backend_for("http://127.0.0.1:9", "http://127.0.0.1:10")
    with pytest.raises(TransientError, match=r"no ComfyUI answers: .*127\.0\.0\.1:9.*127\.0\.0\.1:10"):
        await dead.start()
    assert not (await dead.health()).healthy
    await dead.close()
    with pytest.raises(ConfigurationError, match="HYBRID_VIDEO_COMFYUI_URLS"):
        await backend_for().start()


async def test_something_that_is_no_comfyui_is_not_taken_for_one(place: Place) -> None:
    """Another program on that port answers 200 with a page."""
    place.fault("health", "garbage", times=None)
    health = await place.backend.health()
    assert (health.healthy, "check the address" in health.detail) == (False, True)


async def test_health_counts_what_waits(place: Place) -> None:
    """Queue depth is part of the check, and so is the latency."""
    for _ in range(3):
        await place.backend.submit(place.order())
    health = await place.backend.health()
    assert health.healthy
    assert health.queued in (2, 3)
    assert health.latency_s is not None
