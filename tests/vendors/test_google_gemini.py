"""Gemini Omni: the client against the emulator, over real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import av
import pytest
from google_rig import KEY, Rig, aged, context, job, order, rig

from hybrid_video.backends.google import GeminiBackend
from hybrid_video.errors import ConfigurationError, FailureKind, SubmitUncertain, TerminalError, TransientError
from hybrid_video.models import JobHandle, JobStatus
from hybrid_video.pricing.catalog import PriceBook

PNG = bytes.fromhex("89504e470d0a1a0a") + b"0" * 64


@pytest.fixture
async def google() -> AsyncIterator[Rig]:
    async with rig() as running:
        yield running


async def finished(backend: GeminiBackend, **fields: object) -> tuple[JobHandle, JobStatus]:
    handle = await backend.submit(order(backend, job(**fields)))
    return handle, await backend.watch(handle)


async def test_a_clip_is_made_fetched_and_charged_once(google: Rig, tmp_path: Path) -> None:
    """What was quoted is what is made, downloaded and charged: 3 s of 360p with sound."""
    backend = google.gemini()
    await backend.start()
    work = order(backend)
    handle = await backend.submit(work)
    seen: list[JobStatus] = []
    status = await backend.watch(handle, seen.append)
    path = await backend.collect(handle, status, tmp_path / "clips")
    with av.open(str(path)) as clip:
        video = clip.streams.video[0]
        assert (video.width, video.height, video.average_rate) == (640, 360, 24)
        assert len(clip.streams.audio) == 1
        assert sum(1 for _ in clip.decode(video=0)) == work.quote.output.frames == 72
    assert google.charges == [("reel/shot-01", Decimal("0.069"), "done")]
    assert backend.charge(work.quote, status).amount_usd == Decimal("0.069") == work.quote.amount_usd
    assert google.emulator.requests["redirect"] == google.emulator.requests["download"] == 1
    assert seen[-1].phase == "succeeded"
    assert {each.phase for each in seen[:-1]} <= {"queued", "running"}


async def test_the_cheapest_model_the_key_offers_is_chosen(google: Rig) -> None:
    """1.2 Flash costs less than 1.1 Flash, so auto takes it."""
    backend = google.gemini()
    await backend.start()
    assert order(backend).quote.model == "gemini-omni-1.2-flash"


async def test_a_model_the_key_does_not_offer_is_not_quoted() -> None:
    """With 1.2 withdrawn the next cheapest is used."""
    async with rig(retired=frozenset({"gemini-omni-1.2-flash"})) as google:
        backend = google.gemini()
        await backend.start()
        assert order(backend).quote.model == "gemini-omni-1.1-flash"


async def test_an_invalid_key_stops_the_start_with_the_remedy(google: Rig) -> None:
    """Google answers an invalid key with 400; it is a configuration error and the key is not in it."""
    backend = google.gemini(api_key="invalid-key-9876")
    with pytest.raises(ConfigurationError, match=r"GEMINI_API_KEY cannot be used.*valid key") as caught:
        await backend.start()
    assert "invalid-key-9876" not in str(caught.value)
    health = await backend.health()
    assert not health.healthy
    assert "GEMINI_API_KEY" in health.remedy


async def test_a_missing_key_is_named() -> None:
    """Without a key nothing is asked of Google."""
    with pytest.raises(ConfigurationError, match="GEMINI_API_KEY is not set"):
        await GeminiBackend(context(api_key=None)).start()


async def test_a_veo_model_on_the_key_road_is_refused_with_both_ways_out(google: Rig) -> None:
    """Veo left the Gemini API on 2026-10-22; the message names what to set instead, and nothing is quoted."""
    backend = google.gemini(model="veo-3.1-lite-generate-preview")
    with pytest.raises(ConfigurationError, match=r"2026-10-22.*HYBRID_VIDEO_GEMINI_PROJECT"):
        await backend.start()
    assert not isinstance(backend.quote(job()), type(order(google.gemini()).quote))


async def test_an_unknown_model_is_refused_with_those_that_exist(google: Rig) -> None:
    """A misspelt model id shows the value and the usable ones."""
    with pytest.raises(ConfigurationError, match=r"'gemini-omni-9'.*gemini-omni-1\.2-flash"):
        await google.gemini(model="gemini-omni-9").start()


async def test_a_healthy_backend_says_what_it_saw(google: Rig) -> None:
    """The check lists models with the key."""
    health = await google.gemini().health()
    assert health.healthy
    assert "gemini-omni-1.2-flash" in health.detail


async def test_an_unreachable_google_is_unhealthy_and_does_not_raise() -> None:
    """A refused connection becomes a result, not an exception."""
    backend = GeminiBackend(context("http://127.0.0.1:9"))
    health = await backend.health()
    await backend.close()
    assert not health.healthy


@pytest.mark.parametrize("code", [500, 503])
async def test_a_submit_answered_5xx_is_not_sent_again(google: Rig, code: int) -> None:
    """500 and 503 say that nothing was accepted; the SDK's own five attempts are switched off."""
    google.fault("submit", "status", status=code, times=None)
    backend = google.gemini()
    with pytest.raises(TransientError) as caught:
        await backend.submit(order(backend))
    assert caught.value.kind is FailureKind.UNREACHABLE
    assert google.emulator.requests["submit"] == 1
    assert google.charges == []


@pytest.mark.parametrize("action", ["drop", "drop_after", "garbage"])
async def test_a_lost_answer_leaves_the_submit_uncertain_and_sends_it_once(google: Rig, action: str) -> None:
    """A connection cut after the request may have been a sale: one request, no second one, at most one charge."""
    google.fault("submit", action, times=None)
    backend = google.gemini()
    work = order(backend)
    with pytest.raises(SubmitUncertain, match="not sent again"):
        await backend.submit(work)
    assert google.emulator.requests["submit"] == 1
    assert len(google.charges) == (1 if action == "drop_after" else 0)
    assert await backend.find(work) == "unknown"


async def test_a_time_out_leaves_the_submit_uncertain(google: Rig) -> None:
    """A vendor that accepts and never answers has made exactly one charge."""
    google.fault("submit", "hang")
    backend = google.gemini(submit_timeout_s=0.5)
    with pytest.raises(SubmitUncertain):
        await backend.submit(order(backend))
    assert len(google.charges) == google.emulator.requests["submit"] == 1


async def test_a_gateway_error_leaves_the_submit_uncertain(google: Rig) -> None:
    """502 and 504 come from in front of the service, which may have accepted."""
    google.fault("submit", "status", status=504)
    backend = google.gemini()
    with pytest.raises(SubmitUncertain, match="504"):
        await backend.submit(order(backend))


async def test_a_refused_connection_is_certainly_not_accepted() -> None:
    """Nothing listens: transient, not uncertain."""
    backend = GeminiBackend(context("http://127.0.0.1:9"))
    with pytest.raises(TransientError) as caught:
        await backend.submit(order(backend))
    await backend.close()
    assert caught.value.kind is FailureKind.UNREACHABLE


async def test_a_submit_after_a_dropped_kept_alive_connection_is_still_sent(google: Rig) -> None:
    """Each submit opens its own connection, so an idle one that died cannot make it uncertain."""
    backend = google.gemini()
    first = await backend.submit(order(backend))
    second = await backend.submit(order(backend))
    assert first.remote_id != second.remote_id


async def test_the_quota_comes_with_the_vendors_advice() -> None:
    """One operation too many is 429 with RetryInfo, which reaches the caller in seconds."""
    async with rig(scale=1.0, max_concurrent=1) as google:
        backend = google.gemini()
        await backend.submit(order(backend))
        with pytest.raises(TransientError) as caught:
            await backend.submit(order(backend))
    assert caught.value.kind is FailureKind.RATE_LIMITED
    assert caught.value.retry_after_s == 5.0


async def test_a_retired_model_is_terminal(google: Rig) -> None:
    """A model that went away after the start is 404 and never charged."""
    backend = google.gemini()
    work = order(backend)
    gone = work.model_copy(update={"quote": work.quote.model_copy(update={"model": "gemini-omni-flash-preview"})})
    with pytest.raises(TerminalError) as caught:
        await backend.submit(gone)
    assert caught.value.kind is FailureKind.MODEL_RETIRED
    assert google.charges == []


async def test_a_text_only_answer_is_the_content_filter(google: Rig) -> None:
    """Omni declines by completing without a video; that is not charged unless the setting says so."""
    google.fault("execute", "filter")
    backend = google.gemini()
    work = order(backend)
    handle = await backend.submit(work)
    with pytest.raises(TerminalError) as caught:
        await backend.watch(handle)
    assert caught.value.kind is FailureKind.CONTENT_BLOCKED
    assert google.charges == [("reel/shot-01", Decimal(0), "failed")]
    assert backend.charge(work.quote, None, caught.value).amount_usd == 0
    assert google.gemini(charge_filtered=True).charge(work.quote, None, caught.value).amount_usd > 0


async def test_a_400_that_speaks_of_safety_is_the_content_filter(google: Rig) -> None:
    """The other way Omni declines."""
    body = '[{"error": {"code": 400, "message": "The prompt was blocked by safety settings."}}]'
    google.fault("submit", "status", status=400, body=body, headers={"content-type": "application/json"})
    backend = google.gemini()
    with pytest.raises(TerminalError) as caught:
        await backend.submit(order(backend))
    assert caught.value.kind is FailureKind.CONTENT_BLOCKED


async def test_a_failed_interaction_may_be_tried_again_and_costs_nothing(google: Rig) -> None:
    """`failed` gives no reason that would make it deterministic."""
    google.fault("execute", "fail")
    backend = google.gemini()
    work = order(backend)
    handle = await backend.submit(work)
    with pytest.raises(TransientError) as caught:
        await backend.watch(handle)
    assert caught.value.kind is FailureKind.VENDOR_ERROR
    assert backend.charge(work.quote, None, caught.value).amount_usd == 0


async def test_an_outage_while_waiting_is_waited_out(google: Rig) -> None:
    """A paid clip is not given up because a few looks failed."""
    backend = google.gemini()
    handle = await backend.submit(order(backend))
    google.fault("status", "status", status=503, times=4)
    google.fault("status", "drop", times=2)
    assert (await backend.watch(handle)).phase == "succeeded"
    assert len(google.charges) == 1


async def test_an_operation_that_never_ends_is_left_uncertain(google: Rig) -> None:
    """After the time limit nothing is started anew; the reservation stays."""
    google.fault("execute", "wedge")
    backend = google.gemini(operation_timeout_s=0.3)
    work = order(backend)
    handle = await backend.submit(work)
    with pytest.raises(SubmitUncertain, match="not over after") as caught:
        await backend.watch(handle)
    assert backend.charge(work.quote, None, caught.value).amount_usd == work.quote.reserve_usd


async def test_a_fresh_backend_re_attaches_from_the_stored_handle(google: Rig, tmp_path: Path) -> None:
    """The handle as JSON is enough to collect the clip after a crash, without a second submit."""
    before = google.gemini()
    stored = (await before.submit(order(before))).model_dump_json()
    await before.close()
    after = google.gemini()
    handle = JobHandle.model_validate_json(stored)
    status = await after.watch(handle)
    assert (await after.collect(handle, status, tmp_path)).stat().st_size > 1000
    assert google.emulator.requests["submit"] == len(google.charges) == 1
    assert KEY not in stored
    assert handle.expires_at == handle.submitted_at + timedelta(days=2)
    assert handle.details["model"] == "gemini-omni-1.2-flash"


async def test_a_truncated_download_is_repeated(google: Rig, tmp_path: Path) -> None:
    """A transfer that breaks off leaves no half file and is fetched again, not made again."""
    backend = google.gemini()
    handle, status = await finished(backend)
    google.fault("download", "truncate")
    path = await backend.collect(handle, status, tmp_path)
    with av.open(str(path)) as clip:
        assert sum(1 for _ in clip.decode(video=0)) == 72
    assert google.emulator.requests["download"] == 2
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


async def test_a_download_that_keeps_failing_is_reported_and_still_charged(google: Rig, tmp_path: Path) -> None:
    """Google delivered; that we could not fetch it does not make it free."""
    backend = google.gemini()
    work = order(backend)
    handle = await backend.submit(work)
    status = await backend.watch(handle)
    google.fault("download", "garbage", times=None)
    with pytest.raises(TransientError) as caught:
        await backend.collect(handle, status, tmp_path)
    assert caught.value.kind is FailureKind.DOWNLOAD_FAILED
    assert backend.charge(work.quote, status, caught.value).amount_usd == work.quote.amount_usd
    assert list(tmp_path.iterdir()) == []


async def test_a_file_older_than_two_days_has_expired(tmp_path: Path) -> None:
    """The emulator deletes as Google does; its clock is moved on by two days."""
    async with rig() as google:
        backend = google.gemini()
        handle, status = await finished(backend)
        google.emulator._operations.clock._start_wall += 2 * 86_400
        with pytest.raises(TransientError) as caught:
            await backend.collect(handle, status, tmp_path)
    assert caught.value.kind is FailureKind.EXPIRED


async def test_an_old_operation_google_does_not_know_has_expired(google: Rig) -> None:
    """Unknown interactions are 400, wrapped in a list."""
    backend = google.gemini()
    handle, _status = await finished(backend)
    unknown = aged(handle.model_copy(update={"remote_id": "nonesuch"}), timedelta(days=3))
    with pytest.raises(TransientError) as caught:
        await backend.status(unknown)
    assert caught.value.kind is FailureKind.EXPIRED


async def test_a_young_operation_google_does_not_show_yet_is_not_called_lost(google: Rig) -> None:
    """Calling it expired would make the clip again and pay for it twice."""
    backend = google.gemini()
    handle, _status = await finished(backend)
    with pytest.raises(TransientError) as caught:
        await backend.status(handle.model_copy(update={"remote_id": "nonesuch"}))
    assert caught.value.kind is FailureKind.UNREACHABLE


async def test_a_key_revoked_while_waiting_leaves_the_outcome_open(google: Rig) -> None:
    """The operation goes on at Google, so a refused look is uncertain, not failed."""
    before = google.gemini()
    handle = await before.submit(order(before))
    with pytest.raises(SubmitUncertain):
        await google.gemini(api_key="invalid-key-0000").watch(handle)


async def test_cancel_stops_what_runs_and_finds_what_is_over() -> None:
    """A cancelled interaction costs nothing; a finished one stays finished."""
    async with rig(scale=1.0) as google:
        backend = google.gemini()
        handle = await backend.submit(order(backend))
        assert await backend.cancel(handle) == "stopped"
        with pytest.raises(TerminalError) as caught:
            await backend.watch(handle)
        assert caught.value.kind is FailureKind.CANCELLED
        assert google.charges == [("reel/shot-01", Decimal(0), "cancelled")]
    async with rig() as google:
        backend = google.gemini()
        handle, _status = await finished(backend)
        assert await backend.cancel(handle) == "finished"


async def test_an_image_is_sent_as_the_first_frame(google: Rig, tmp_path: Path) -> None:
    """Image-to-video sends the file inline, in the documented form, which the emulator checks."""
    image = tmp_path / "frame.png"
    image.write_bytes(PNG)
    backend = google.gemini()
    wanted = job(image="frame.png")
    assert await backend.preflight(wanted, image_path=image) is None
    handle = await backend.submit(order(backend, wanted, image_path=str(image)))
    sent = google.emulator._operations.get(handle.remote_id).wanted  # type: ignore[union-attr]
    assert (sent.image, sent.prompt, sent.seed) == (True, wanted.prompt, 7)


async def test_an_image_in_another_format_is_refused_before_paying(google: Rig, tmp_path: Path) -> None:
    """Preflight and submit both refuse it; nothing is sent."""
    image = tmp_path / "frame.gif"
    image.write_bytes(b"GIF89a" + b"0" * 20)
    backend = google.gemini()
    wanted = job(image="frame.gif")
    refusal = await backend.preflight(wanted, image_path=image)
    assert refusal is not None
    assert "convert it" in refusal.reason
    with pytest.raises(TerminalError, match="not PNG, JPEG or WebP"):
        await backend.submit(order(backend, wanted, image_path=str(image)))
    assert google.emulator.requests["submit"] == 0


async def test_the_seed_profile_charges_its_flat_price() -> None:
    """In the profile `seed` client and emulator agree on $0.08 a video."""
    async with rig(prices=PriceBook.load("seed")) as google:
        backend = google.gemini(profile="seed")
        work = order(backend)
        status = await backend.watch(await backend.submit(work))
        assert backend.charge(work.quote, status).amount_usd == Decimal("0.08")
        assert google.charges == [("reel/shot-01", Decimal("0.08"), "done")]


async def test_lanes_follow_the_setting(google: Rig) -> None:
    """One lane for each operation under way at once."""
    assert [lane.id for lane in google.gemini(max_concurrent=2).lanes()] == ["gemini/1", "gemini/2"]
