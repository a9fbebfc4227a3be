"""The serverless backend against a small server that answers as RunPod's job API is documented to, and as it fails."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from pydantic import SecretStr

from hybrid_video.backends.base import BackendContext
from hybrid_video.backends.runpod.serverless import ServerlessBackend
from hybrid_video.emulators.server import cut, start_server
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
from hybrid_video.settings import RunPodSettings, Settings

KEY = "rpa_0123456789abcdef"
VIDEO = b"\x00\x00\x00\x18ftypmp42 not a real clip, but bytes to bring home"
JOB_ID = "11f0c0de-u1"
ATTEMPT = "0f8fad5b-d9cb-469f-a165-70867728950e"

Answer = Callable[[web.Request], Any]


@dataclass
class JobApi:
    """Answers each call with the next prepared answer; the last one stays. Keeps what it was asked."""

    url: str = ""
    run: list[Any] = field(default_factory=lambda: [{"id": JOB_ID, "status": "IN_QUEUE"}])
    status: list[Any] = field(default_factory=list)
    cancel: list[Any] = field(default_factory=list)
    health: list[Any] = field(default_factory=lambda: [{"jobs": {"inQueue": 0}, "workers": {"idle": 1, "running": 0}}])
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        operation = request.match_info["operation"]
        self.calls.append(f"{request.method} {request.path}")
        self.keys.append(request.headers.get("Authorization", ""))
        if operation == "run":
            self.bodies.append(await request.json())
        answers = getattr(self, operation)
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if answer == "cut":
            cut(request)
            return web.Response()
        if isinstance(answer, web.Response):
            return web.Response(status=answer.status, body=answer.body, headers=answer.headers)
        return web.json_response(answer)

    def count(self, operation: str) -> int:
        return sum(f"/{operation}" in call for call in self.calls)


@pytest.fixture
async def api() -> AsyncIterator[JobApi]:
    jobs = JobApi()
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_route("*", "/v2/{endpoint}/{operation}", jobs.handle)
    app.router.add_route("*", "/v2/{endpoint}/{operation}/{id}", jobs.handle)
    server = await start_server(app)
    jobs.url = server.url
    yield jobs
    await server.close()


def settings_for(url: str, **changes: Any) -> Settings:
    fields: dict[str, Any] = {
        "api_key": SecretStr(KEY),
        "jobs_url": f"{url}/v2",
        "endpoint_id": "ep1",
        "poll_interval_s": 0.02,
    }
    return Settings(runpod=RunPodSettings(**(fields | changes)))


def backend_for(url: str, *, patience_s: float = 900.0, **changes: Any) -> ServerlessBackend:
    quoter = Quoter(PriceBook.load("current"), ServiceTimes())
    return ServerlessBackend(BackendContext(settings_for(url, **changes), quoter), outage_patience_s=patience_s)


@pytest.fixture
async def backend(api: JobApi) -> AsyncIterator[ServerlessBackend]:
    made = backend_for(api.url)
    yield made
    await made.close()


def job(**changes: Any) -> VideoJob:
    fields: dict[str, Any] = {"id": "shot-01", "prompt": "a red fox in snow", "duration_s": 2}
    return VideoJob(**(fields | changes))


def quoted(backend: ServerlessBackend, video: VideoJob | None = None) -> Quote:
    quote = backend.quote(video or job())
    assert isinstance(quote, Quote)
    return quote


def order(backend: ServerlessBackend, video: VideoJob | None = None, **changes: Any) -> WorkOrder:
    video = video or job()
    fields: dict[str, Any] = {
        "attempt_id": ATTEMPT,
        "batch": "reel",
        "job": video,
        "number": 1,
        "seed": 7,
        "lane": "runpod-serverless/1",
        "quote": quoted(backend, video if not video.image else None),
    }
    return WorkOrder(**(fields | changes))


def completed(output: Any, **times: Any) -> dict[str, Any]:
    return {"id": JOB_ID, "status": "COMPLETED", "delayTime": 1500, "executionTime": 42_100, "output": output, **times}


def clip(
    data: str = "https://bucket.example/clip?X-Amz-Signature=secretsecret", kind: str = "s3_url"
) -> dict[str, Any]:
    return {"images": [{"filename": "shot-01-0f8fad5b_00001_.mp4", "type": kind, "data": data}]}


# --- submit -----------------------------------------------------------------------------------------------------------


async def test_submit_sends_workflow_policy_and_our_label(api: JobApi, backend: ServerlessBackend) -> None:
    """The worker's input, the execution time-out and the time to live go out together with the attempt's label."""
    handle = await backend.submit(order(backend))
    body = api.bodies[0]
    assert body["policy"] == {"executionTimeout": 1_800_000, "ttl": 86_400_000}
    assert body["input"]["hybrid_video"] == {"job": "reel/shot-01", "attempt": ATTEMPT}
    assert "hv/reel/shot-01-0f8fad5b" in json.dumps(body["input"]["workflow"])
    assert "images" not in body["input"]
    assert api.keys == [f"Bearer {KEY}"]
    assert handle.remote_id == JOB_ID
    assert handle.expires_at == handle.submitted_at + timedelta(days=1)
    assert KEY not in handle.model_dump_json()


async def test_submit_sends_the_image_as_base64_under_its_content_name(
    api: JobApi, backend: ServerlessBackend, tmp_path: Path
) -> None:
    """The graph refers to the very name under which the image travels, and the name follows from its bytes."""
    image = tmp_path / "Frame.PNG"
    image.write_bytes(b"\x89PNG\r\n\x1a\n0123")
    video = job(image="Frame.PNG")
    await backend.submit(order(backend, video, image_path=str(image)))
    sent = api.bodies[0]["input"]
    assert sent["images"][0]["image"] == "iVBORw0KGgowMTIz"
    name = sent["images"][0]["name"]
    assert name.startswith("hv-")
    assert name.endswith(".png")
    assert name in json.dumps(sent["workflow"])


async def test_two_megabytes_over_the_limit_are_refused_before_anything_is_sent(
    api: JobApi, backend: ServerlessBackend, tmp_path: Path
) -> None:
    """A request over 10 MB never leaves: preflight refuses it and submit raises, both with a remedy."""
    image = tmp_path / "huge.png"
    image.write_bytes(b"\x89PNG" + b"x" * 9_000_000)
    video = job(image="huge.png")
    refusal = await backend.preflight(video, image_path=image)
    assert refusal is not None
    assert refusal.code == "limit"
    assert "JPEG" in refusal.reason
    with pytest.raises(TerminalError, match="10 MB") as caught:
        await backend.submit(order(backend, video, image_path=str(image)))
    assert caught.value.kind is FailureKind.INVALID_REQUEST
    assert api.calls == []


@pytest.mark.parametrize(
    ("answer", "error", "kind"),
    [
        (web.Response(status=429, headers={"Retry-After": "7"}), TransientError, FailureKind.RATE_LIMITED),
        (web.Response(status=401, text="<html>no</html>"), TerminalError, FailureKind.AUTHENTICATION),
        (web.Response(status=403), TerminalError, FailureKind.AUTHENTICATION),
        (web.Response(status=402), TerminalError, FailureKind.INSUFFICIENT_FUNDS),
        (web.Response(status=404), TerminalError, FailureKind.UNREACHABLE),
        (web.Response(status=400, text='{"error":"bad"}'), TerminalError, FailureKind.INVALID_REQUEST),
        (web.Response(status=413), TerminalError, FailureKind.INVALID_REQUEST),
        (web.Response(status=500), SubmitUncertain, FailureKind.UNCERTAIN),
        (web.Response(status=502, text="Bad Gateway"), SubmitUncertain, FailureKind.UNCERTAIN),
        (web.Response(status=408), SubmitUncertain, FailureKind.UNCERTAIN),
        (web.Response(text="<html>it works!</html>"), SubmitUncertain, FailureKind.UNCERTAIN),
        ({"status": "IN_QUEUE"}, SubmitUncertain, FailureKind.UNCERTAIN),
        ("cut", SubmitUncertain, FailureKind.UNCERTAIN),
    ],
)
async def test_a_submit_is_sent_once_whatever_the_answer(
    api: JobApi, backend: ServerlessBackend, answer: Any, error: type[BackendError], kind: FailureKind
) -> None:
    """Every refusal has its kind, everything that may hide an accepted job is uncertain, and nothing is sent twice."""
    api.run = [answer]
    with pytest.raises(error) as caught:
        await backend.submit(order(backend))
    assert caught.value.kind is kind
    assert api.count("run") == 1
    assert KEY not in f"{caught.value} {caught.value.detail}"


async def test_429_carries_the_time_to_wait(api: JobApi, backend: ServerlessBackend) -> None:
    """Retry-After of a refused submit reaches the caller, and such a submit cost nothing."""
    api.run = [web.Response(status=429, headers={"Retry-After": "7"})]
    with pytest.raises(TransientError) as caught:
        await backend.submit(order(backend))
    assert caught.value.retry_after_s == 7
    assert backend.charge(quoted(backend), None, caught.value).amount_usd == 0


async def test_no_connection_is_a_certain_failure() -> None:
    """A refused connection is transient, not uncertain: nothing was sent."""
    backend = backend_for("http://127.0.0.1:9")
    with pytest.raises(TransientError) as caught:
        await backend.submit(order(backend))
    assert caught.value.kind is FailureKind.UNREACHABLE


async def test_find_cannot_know(backend: ServerlessBackend) -> None:
    """RunPod has no look-up by an id of ours."""
    assert await backend.find(order(backend)) == "unknown"


# --- status and watch -------------------------------------------------------------------------------------------------


async def test_watch_follows_a_job_that_goes_back_to_the_queue(api: JobApi, backend: ServerlessBackend) -> None:
    """Progress output is never taken for a result, RUNNING counts as running, and a lost worker requeues the job."""
    api.status = [
        {"id": JOB_ID, "status": "IN_QUEUE", "delayTime": 10},
        {"id": JOB_ID, "status": "IN_PROGRESS", "output": clip()},
        {"id": JOB_ID, "status": "IN_QUEUE"},
        {"id": JOB_ID, "status": "RUNNING", "output": "step 3"},
        completed(clip()),
    ]
    seen: list[JobStatus] = []
    status = await backend.watch(await backend.submit(order(backend)), seen.append)
    assert [s.phase for s in seen] == ["queued", "running", "queued", "running", "succeeded"]
    assert seen[1].files == ()
    assert seen[3].message == "step 3"
    assert status.execution_s == 42.1
    assert status.queue_s == 1.5
    assert status.gpu == "NVIDIA GeForce RTX 4090"


async def test_a_status_outage_is_waited_out(api: JobApi, backend: ServerlessBackend) -> None:
    """Lost and failed looks do not end the watch while patience lasts."""
    api.status = ["cut", web.Response(status=503), web.Response(text="<html>"), completed(clip())]
    status = await backend.watch(await backend.submit(order(backend)))
    assert status.phase == "succeeded"


async def test_lost_contact_is_uncertain_and_never_a_failure(api: JobApi) -> None:
    """A job that was accepted and cannot be looked at any more must not be sent again by anyone."""
    backend = backend_for(api.url, patience_s=0.0)
    api.status = [web.Response(status=429, headers={"Retry-After": "60"})]
    with pytest.raises(SubmitUncertain, match="reconcile"):
        await backend.watch(await backend.submit(order(backend)))
    await backend.close()


async def test_a_key_revoked_during_a_job_leaves_it_uncertain(api: JobApi, backend: ServerlessBackend) -> None:
    """The job goes on on RunPod although we may no longer look."""
    api.status = [web.Response(status=401)]
    with pytest.raises(SubmitUncertain, match="RUNPOD_API_KEY"):
        await backend.watch(await backend.submit(order(backend)))


async def test_a_single_404_is_not_believed(api: JobApi, backend: ServerlessBackend) -> None:
    """A paid job is given up only when RunPod says twice that it does not know it."""
    api.status = [web.Response(status=404), completed(clip())]
    assert (await backend.status(await backend.submit(order(backend)))).phase == "succeeded"


async def test_a_vanished_job_is_expired_and_says_what_is_known(api: JobApi, backend: ServerlessBackend) -> None:
    """The reason follows from the receipt: time to live over, result deleted, or too young for both."""
    api.status = [web.Response(status=404)]
    handle = await backend.submit(order(backend))
    ages = {0: "too young", 3600: "30 minutes after completion", 100_000: "time to live ended"}
    for age_s, words in ages.items():
        older = handle.model_copy(
            update={
                "submitted_at": handle.submitted_at - timedelta(seconds=age_s),
                "expires_at": (handle.expires_at or handle.submitted_at) - timedelta(seconds=age_s),
            }
        )
        with pytest.raises(TransientError, match=words) as caught:
            await backend.status(older)
        assert caught.value.kind is FailureKind.EXPIRED
    assert backend.charge(quoted(backend), None, caught.value).amount_usd == quoted(backend).reserve_usd


async def test_a_handle_of_another_endpoint_is_looked_up_there(api: JobApi, backend: ServerlessBackend) -> None:
    """Changing the endpoint in the settings does not orphan the jobs of the old one."""
    handle = await backend.submit(order(backend))
    api.status = [completed(clip())]
    other = backend_for(api.url, endpoint_id="ep2")
    await other.status(handle)
    await other.close()
    assert api.calls[-1] == f"GET /v2/ep1/status/{JOB_ID}"


async def test_a_job_that_no_worker_took_is_no_capacity(api: JobApi, backend: ServerlessBackend) -> None:
    """TIMED_OUT after the whole time to live in the queue cost nothing and is no fault of the clip's length."""
    handle = await backend.submit(order(backend))
    api.status = [{"id": JOB_ID, "status": "TIMED_OUT", "delayTime": 86_400_000}]
    with pytest.raises(TransientError) as caught:
        await backend.status(handle)
    assert caught.value.kind is FailureKind.NO_CAPACITY
    assert backend.charge(quoted(backend), None, caught.value).amount_usd == 0


async def test_an_execution_timeout_costs_its_seconds(api: JobApi, backend: ServerlessBackend) -> None:
    """What ran until the limit is billed until the limit, also when RunPod reports no time."""
    handle = await backend.submit(order(backend))
    api.status = [{"id": JOB_ID, "status": "TIMED_OUT", "delayTime": 900}]
    with pytest.raises(TransientError, match="1800 s") as caught:
        await backend.status(handle)
    assert caught.value.kind is FailureKind.TIMED_OUT
    assert backend.charge(quoted(backend), None, caught.value).amount_usd == Decimal("0.558")


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ({"status": "success_no_images", "images": []}, "SaveVideo"),
        ({"images": [{"filename": "a.png", "type": "base64", "data": "AA=="}]}, "'a.png'"),
        ({"images": [], "errors": ["something odd"]}, "something odd"),
        (clip("simulated_uploaded/abc.mp4"), "BUCKET_ACCESS_KEY_ID"),
        (None, "no file"),
        ("done", "no file"),
        ({"message": "AAAA"}, "no file"),
    ],
)
async def test_completed_without_a_clip_is_a_bad_clip(
    api: JobApi, backend: ServerlessBackend, output: Any, words: str
) -> None:
    """COMPLETED alone is no success; the seconds are billed all the same."""
    handle = await backend.submit(order(backend))
    api.status = [completed(output)]
    with pytest.raises(TerminalError, match=words) as caught:
        await backend.status(handle)
    assert caught.value.kind is FailureKind.BAD_CLIP
    assert backend.charge(quoted(backend), None, caught.value).amount_usd == Decimal("0.01333")


async def test_errors_beside_our_clip_do_not_waste_it(api: JobApi, backend: ServerlessBackend) -> None:
    """A paid clip of ours is taken although another file failed to upload."""
    handle = await backend.submit(order(backend))
    api.status = [completed({**clip(), "errors": ["Error uploading preview.png to S3: timeout"]})]
    assert (await backend.status(handle)).files[0].name == "shot-01-0f8fad5b_00001_.mp4"


async def test_among_several_files_ours_and_the_video_win(api: JobApi, backend: ServerlessBackend) -> None:
    """The clip is chosen by name and extension, not by order."""
    handle = await backend.submit(order(backend))
    files = ["still_00001_.png", "other_00001_.mp4", "shot-01-0f8fad5b_00001_.webp", "shot-01-0f8fad5b_00001_.mp4"]
    images = [{"filename": name, "type": "s3_url", "data": f"https://s3.example/{name}"} for name in files]
    api.status = [completed({"images": images})]
    assert (await backend.status(handle)).files[0].name == files[-1]


# --- cancel, health, quote --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ({"id": JOB_ID, "status": "CANCELLED"}, "stopped"),
        ({"id": JOB_ID, "status": "COMPLETED"}, "finished"),
        (web.Response(status=404), "finished"),
        (web.Response(status=400), "unknown"),
    ],
)
async def test_cancel_says_what_became_of_the_job(
    api: JobApi, backend: ServerlessBackend, answer: Any, outcome: str
) -> None:
    """Only this job is named in the call, and the answer is taken at its word."""
    handle = await backend.submit(order(backend))
    api.cancel = [answer]
    assert await backend.cancel(handle) == outcome
    assert api.calls[-1] == f"POST /v2/ep1/cancel/{JOB_ID}"


async def test_cancel_looks_when_the_answer_says_nothing(api: JobApi, backend: ServerlessBackend) -> None:
    """An empty answer to a cancel is followed by a look at the job."""
    handle = await backend.submit(order(backend))
    api.cancel = [web.Response()]
    api.status = [{"id": JOB_ID, "status": "CANCELLED"}]
    assert await backend.cancel(handle) == "stopped"


async def test_a_job_cancelled_before_any_worker_touched_it_costs_nothing(
    api: JobApi, backend: ServerlessBackend
) -> None:
    """Without a delay, a time and a worker in the answer nothing ran; with a worker the reservation stands."""
    handle = await backend.submit(order(backend))
    api.status = [{"id": JOB_ID, "status": "CANCELLED"}, {"id": JOB_ID, "status": "CANCELLED", "workerId": "w1"}]
    amounts = []
    for _ in range(2):
        with pytest.raises(TerminalError) as caught:
            await backend.status(handle)
        assert caught.value.kind is FailureKind.CANCELLED
        amounts.append(backend.charge(quoted(backend), None, caught.value).amount_usd)
    assert amounts == [Decimal(0), quoted(backend).reserve_usd]


@pytest.mark.parametrize(
    ("health", "healthy"),
    [
        ({"jobs": {"inQueue": 3}, "workers": {"idle": 0, "running": 2}}, True),
        ({"jobs": {"inQueue": 0}, "workers": {"idle": 0, "running": 0}}, True),
        ({"jobs": {"inQueue": 4}, "workers": {"idle": 0, "running": 0, "throttled": 3, "initializing": 0}}, False),
        ({"jobs": {"inQueue": 4}, "workers": {"idle": 0, "running": 0, "throttled": 1, "initializing": 1}}, True),
    ],
)
async def test_health_tells_throttled_from_scaled_to_zero(
    api: JobApi, backend: ServerlessBackend, health: dict[str, Any], healthy: bool
) -> None:
    """Zero workers are normal while nothing waits; only throttled ones are not."""
    api.health = [health]
    report = await backend.health()
    assert report.healthy is healthy
    assert report.queued == health["jobs"]["inQueue"]
    assert bool(report.remedy) is not healthy


@pytest.mark.parametrize("answer", [web.Response(status=401), web.Response(status=404), web.Response(text="<html>")])
async def test_health_never_raises(api: JobApi, backend: ServerlessBackend, answer: web.Response) -> None:
    """A bad key, a wrong endpoint and nonsense are reports, not exceptions."""
    api.health = [answer]
    report = await backend.health()
    assert not report.healthy
    assert report.remedy


async def test_start_names_the_setting_that_is_wrong(api: JobApi) -> None:
    """Missing or refused key, unknown endpoint and unpriced GPU each name their variable."""
    api.health = [web.Response(status=401), web.Response(status=404)]
    for changes, words in [
        ({}, "RUNPOD_API_KEY"),
        ({}, "HYBRID_VIDEO_RUNPOD_ENDPOINT_ID"),
        ({"api_key": None}, "RUNPOD_API_KEY is not set"),
        ({"api_key": SecretStr("two words")}, "copy it again"),
        ({"gpu": "NVIDIA Unheard Of"}, "no price"),
    ]:
        backend = backend_for(api.url, **changes)
        with pytest.raises(ConfigurationError, match=words):
            await backend.start()
        await backend.close()


async def test_the_quote_holds_a_cold_start_until_a_worker_is_up(api: JobApi, backend: ServerlessBackend) -> None:
    """Unknown and scaled to zero cost a cold start, on a line of its own; idle or running workers do not."""
    cold = quoted(backend)
    await backend.start()
    warm = quoted(backend)
    assert cold.service_s == warm.service_s + 60
    assert cold.amount_usd == warm.amount_usd
    assert cold.start_usd == 60 * Decimal("0.00031")
    assert warm.start_usd == 0
    assert warm.reserve_usd <= Decimal("0.00031") * 1800
    api.health = [{"jobs": {}, "workers": {"idle": 0, "running": 0, "initializing": 1}}]
    await backend.health()
    assert quoted(backend).service_s == warm.service_s + 30


async def test_a_workflow_whose_clip_would_be_dropped_is_refused(backend: ServerlessBackend, tmp_path: Path) -> None:
    """VHS_VideoCombine's files do not come back from worker-comfyui, so nothing is paid for them."""
    graph = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 8, "color": 0}},
        "2": {
            "class_type": "VHS_VideoCombine",
            "inputs": {"images": ["1", 0], "frame_rate": 8, "filename_prefix": "x", "format": "video/h264-mp4"},
        },
    }
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(graph))
    refusal = backend.quote(job(workflow=str(path)), workflow_path=path)
    assert isinstance(refusal, Refusal)
    assert "VHS_VideoCombine" in refusal.reason


def test_lanes_are_the_workers_the_endpoint_may_start() -> None:
    """So many jobs run at once as the endpoint has workers; none waits behind another on a lane."""
    lanes = backend_for("http://127.0.0.1:9", max_workers=4).lanes()
    assert [lane.id for lane in lanes] == [f"runpod-serverless/{n}" for n in range(1, 5)]
    assert {lane.ahead for lane in lanes} == {0}


async def test_concurrent_submits_and_looks_share_a_backend(api: JobApi, backend: ServerlessBackend) -> None:
    """Ten jobs at once make ten submits and no more."""
    api.status = [completed(clip())]
    handles = await asyncio.gather(*(backend.submit(order(backend)) for _ in range(10)))
    await asyncio.gather(*(backend.watch(handle) for handle in handles))
    assert api.count("run") == 10


@pytest.mark.parametrize(
    ("seen", "p90_s", "limit_ms"),
    [(4, 100.0, 1_800_000), (5, 100.0, 400_000), (5, 10.0, 300_000), (5, 900.0, 1_800_000)],
)
async def test_known_times_shorten_the_execution_timeout(
    api: JobApi, backend: ServerlessBackend, seen: int, p90_s: float, limit_ms: int
) -> None:
    """Four times what nine of ten took, from five clips on, never under five minutes and never over the setting."""
    quote = quoted(backend).model_copy(update={"observed": seen, "service_p90_s": p90_s})
    handle = await backend.submit(order(backend, quote=quote))
    assert api.bodies[0]["policy"]["executionTimeout"] == limit_ms
    assert handle.details["execution_timeout_s"] == f"{limit_ms / 1000:g}"


async def test_a_running_job_makes_the_next_quote_warm(api: JobApi, backend: ServerlessBackend) -> None:
    """The endpoint was scaled to zero at the last look; a job that runs since then says that a worker is up."""
    api.health = [{"jobs": {"inQueue": 0}, "workers": {"idle": 0, "running": 0}}]
    await backend.start()
    cold = quoted(backend)
    api.status = [{"id": JOB_ID, "status": "IN_PROGRESS"}, {"id": JOB_ID, "status": "FAILED", "error": "x"}]
    handle = await backend.submit(order(backend))
    with pytest.raises(BackendError):
        await backend.watch(handle)
    warm = quoted(backend)
    assert cold.cold_start_s == 60
    assert warm.cold_start_s == 0
    assert warm.caused_usd < cold.caused_usd
