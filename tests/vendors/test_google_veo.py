"""Veo 3.1 on Google Cloud: the client against the emulator, over real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import av
import httpx
import pytest
from google.oauth2.credentials import Credentials
from google_rig import Rig, aged, context, job, order, rig

from hybrid_video.backends.google import VeoBackend
from hybrid_video.errors import ConfigurationError, FailureKind, SubmitUncertain, TerminalError, TransientError
from hybrid_video.models import JobHandle, JobStatus, RemoteFile, utc_now

PNG = bytes.fromhex("89504e470d0a1a0a") + b"0" * 64


@pytest.fixture
async def google() -> AsyncIterator[Rig]:
    async with rig() as running:
        yield running


async def test_a_clip_is_made_fetched_and_charged_once(google: Rig, tmp_path: Path) -> None:
    """A 3 s job becomes Veo's shortest clip, 4 s of 720p by the cheapest model; it comes inline."""
    backend = google.veo()
    await backend.start()
    work = order(backend)
    handle = await backend.submit(work)
    status = await backend.watch(handle)
    path = await backend.collect(handle, status, tmp_path)
    with av.open(str(path)) as clip:
        video = clip.streams.video[0]
        assert (video.width, video.height) == (1280, 720)
        assert sum(1 for _ in clip.decode(video=0)) == work.quote.output.frames == 96
    assert google.charges == [("reel/shot-01", Decimal("0.20"), "done")]
    assert backend.charge(work.quote, status).amount_usd == work.quote.amount_usd == Decimal("0.2")
    assert work.quote.model == "veo-3.1-lite-generate-001"


@pytest.mark.parametrize("action", ["drop_after", "drop", "garbage"])
async def test_a_lost_answer_leaves_the_submit_uncertain_and_sends_it_once(google: Rig, action: str) -> None:
    """The SDK repeats a dropped connection over aiohttp; over our httpx client it does not."""
    google.fault("submit", action, times=None)
    backend = google.veo()
    with pytest.raises(SubmitUncertain):
        await backend.submit(order(backend))
    assert google.emulator.requests["submit"] == 1
    assert len(google.charges) == (1 if action == "drop_after" else 0)


async def test_a_submit_answered_503_is_not_sent_again(google: Rig) -> None:
    """503 says that nothing was accepted."""
    google.fault("submit", "status", status=503, times=None)
    backend = google.veo()
    with pytest.raises(TransientError):
        await backend.submit(order(backend))
    assert google.emulator.requests["submit"] == 1


async def test_a_filtered_result_is_terminal_and_free(google: Rig) -> None:
    """No samples, a count and reasons: Google itself says that the attempt is not charged."""
    google.fault("execute", "filter")
    backend = google.veo()
    work = order(backend)
    handle = await backend.submit(work)
    with pytest.raises(TerminalError, match="not been charged") as caught:
        await backend.watch(handle)
    assert caught.value.kind is FailureKind.CONTENT_BLOCKED
    assert backend.charge(work.quote, None, caught.value).amount_usd == 0
    assert google.charges == [("reel/shot-01", Decimal(0), "failed")]


async def test_an_operation_that_ends_in_an_error_may_be_tried_again(google: Rig) -> None:
    """`done` with `error` instead of `response`."""
    google.fault("execute", "fail")
    backend = google.veo()
    handle = await backend.submit(order(backend))
    with pytest.raises(TransientError, match="internal server issue") as caught:
        await backend.watch(handle)
    assert caught.value.kind is FailureKind.VENDOR_ERROR


async def test_a_fresh_backend_re_attaches_from_the_stored_handle(google: Rig, tmp_path: Path) -> None:
    """The operation's full name is the handle; no second submit is made."""
    before = google.veo()
    stored = (await before.submit(order(before))).model_dump_json()
    await before.close()
    after = google.veo()
    handle = JobHandle.model_validate_json(stored)
    assert (await after.collect(handle, await after.watch(handle), tmp_path)).exists()
    assert google.emulator.requests["submit"] == 1


async def test_an_old_unknown_operation_has_expired(google: Rig) -> None:
    """404 for an operation of three days ago."""
    backend = google.veo()
    handle = await backend.submit(order(backend))
    old = aged(handle.model_copy(update={"remote_id": handle.remote_id[:-4] + "none"}), timedelta(days=3))
    with pytest.raises(TransientError) as caught:
        await backend.status(old)
    assert caught.value.kind is FailureKind.EXPIRED


async def test_cancel_cannot_stop_a_running_operation(google: Rig) -> None:
    """Google documents no cancel: unknown while it runs, finished afterwards."""
    google.fault("execute", "wedge")
    google.fault("execute", "filter")
    backend = google.veo()
    running, over = await backend.submit(order(backend)), await backend.submit(order(backend))
    with pytest.raises(TerminalError):
        await backend.watch(over)
    assert [await backend.cancel(each) for each in (running, over)] == ["unknown", "finished"]


async def test_seed_and_negative_prompt_are_sent(google: Rig) -> None:
    """Veo on Cloud takes both; the emulator refuses what it does not know, so they arrive under the right names."""
    google.fault("execute", "filter")
    backend = google.veo()
    handle = await backend.submit(order(backend, job(negative_prompt="text, watermark"), seed=2**40))
    wanted = google.emulator._operations.get(handle.remote_id.rpartition("/")[2]).wanted  # type: ignore[union-attr]
    assert (wanted.seed, wanted.negative_prompt) == (2**40 % 2**32, "text, watermark")


async def test_an_image_is_sent_as_the_first_frame(google: Rig, tmp_path: Path) -> None:
    """Image-to-video sends base64 with its media type."""
    google.fault("execute", "filter")
    image = tmp_path / "frame.png"
    image.write_bytes(PNG)
    backend = google.veo()
    handle = await backend.submit(order(backend, job(image="frame.png"), image_path=str(image)))
    assert google.emulator._operations.get(handle.remote_id.rpartition("/")[2]).wanted.image  # type: ignore[union-attr]


async def test_a_refused_token_stops_the_start_with_the_remedy(google: Rig) -> None:
    """401 becomes a configuration error that names the login command."""
    backend = VeoBackend(context(google.url), credentials=Credentials("invalid-token"))
    with pytest.raises(ConfigurationError, match="gcloud auth application-default login"):
        await backend.start()
    assert not (await backend.health()).healthy
    await backend.close()


async def test_a_preview_model_is_refused_with_the_models_of_google_cloud(google: Rig) -> None:
    """The ids of the Gemini API do not exist on Google Cloud."""
    with pytest.raises(ConfigurationError, match=r"veo-3\.1-lite-generate-001"):
        await google.veo(model="veo-3.1-lite-generate-preview").start()


async def test_a_missing_project_is_named() -> None:
    """Without a project nothing is asked of Google."""
    with pytest.raises(ConfigurationError, match="HYBRID_VIDEO_GEMINI_PROJECT is not set"):
        await VeoBackend(context(project="")).start()


async def test_health_names_the_models(google: Rig) -> None:
    """The check asks Google for each model."""
    health = await google.veo().health()
    assert health.healthy
    assert "veo-3.1-generate-001" in health.detail


async def test_a_clip_in_a_bucket_is_fetched_with_the_token(google: Rig, tmp_path: Path) -> None:
    """Where Google answers with a gs:// address, the object is downloaded through the storage API."""
    path = "/v1/projects/p/locations/us-central1/publishers/google/models/veo-3.1-lite-generate-001"
    async with httpx.AsyncClient(base_url=google.url, headers={"Authorization": "Bearer token"}) as http:
        body = {
            "instances": [{"prompt": "dunes"}],
            "parameters": {"durationSeconds": 4, "storageUri": "gs://shots/today"},
        }
        name = (await http.post(f"{path}:predictLongRunning", json=body)).json()["name"]
        answer: dict[str, object] = {}
        while not answer.get("done"):
            answer = (await http.post(f"{path}:fetchPredictOperation", json={"operationName": name})).json()
    videos = answer["response"]["videos"]  # type: ignore[index]
    assert videos[0]["gcsUri"].startswith("gs://shots/today/")
    backend = google.veo()
    handle = JobHandle(backend="veo", attempt_id="a-1", remote_id=name, lane="veo/1", submitted_at=utc_now())
    status = JobStatus(phase="succeeded", files=(RemoteFile(name="clip.mp4", url=videos[0]["gcsUri"]),))
    assert (await backend.collect(handle, status, tmp_path)).stat().st_size > 1000
