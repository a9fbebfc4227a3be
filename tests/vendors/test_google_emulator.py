"""The wire facts of Google's video services that the emulator keeps, seen with a plain HTTP client."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import httpx
import pytest
from google_rig import Rig, rig

from hybrid_video.emulators.google.clips import crc32c

VIDEO = {"type": "video", "delivery": "uri", "duration": "3s", "resolution": "360p", "aspect_ratio": "16:9"}
OMNI = {"model": "gemini-omni-1.2-flash", "input": "a lighthouse", "background": True, "response_format": VIDEO}
PREVIEW = "veo-3.1-lite-generate-preview"
CLOUD = "/v1/projects/p/locations/us-central1/publishers/google/models/veo-3.1-lite-generate-001"


@pytest.fixture
async def google() -> AsyncIterator[Rig]:
    async with rig() as running:
        yield running


@pytest.fixture
async def http(google: Rig) -> AsyncIterator[httpx.AsyncClient]:
    async with client(google) as opened:
        yield opened


def client(google: Rig) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=google.url, headers={"x-goog-api-key": "some-key"})


async def create(http: httpx.AsyncClient, **changes: Any) -> httpx.Response:
    return await http.post("/v1beta/interactions", json={**OMNI, **changes})


async def ended(http: httpx.AsyncClient, path: str) -> dict[str, Any]:
    while True:
        body: dict[str, Any] = (await http.get(path)).json()
        if body.get("status", "queued") not in ("queued", "in_progress") or body.get("done"):
            return body
        await asyncio.sleep(0.02)


async def test_an_invalid_key_is_400_with_its_reason(google: Rig) -> None:
    """Recorded on the real API: 400 and API_KEY_INVALID, in the header or the query alike."""
    async with httpx.AsyncClient(base_url=google.url) as http:
        by_header = await http.get("/v1beta/models", headers={"x-goog-api-key": "invalid"})
        by_query = await http.get("/v1beta/models", params={"key": "invalid"})
        none = await http.get("/v1beta/models")
    for answer in (by_header, by_query):
        assert answer.status_code == 400
        assert answer.json()["error"]["status"] == "INVALID_ARGUMENT"
        assert answer.json()["error"]["details"][0]["reason"] == "API_KEY_INVALID"
    assert none.status_code == 403


async def test_only_the_configured_key_is_accepted() -> None:
    """With a key given, every other one is invalid."""
    async with rig(api_key="right") as google, httpx.AsyncClient(base_url=google.url) as http:
        assert (await http.get("/v1beta/models", params={"key": "right"})).status_code == 200
        assert (await http.get("/v1beta/models", params={"key": "other"})).status_code == 400


async def test_the_model_list_has_omni_and_no_veo(http: httpx.AsyncClient) -> None:
    """Since 2026-10-22 no model of the Gemini API supports predictLongRunning."""
    models = (await http.get("/v1beta/models")).json()["models"]
    assert {"models/gemini-omni-1.1-flash", "models/gemini-omni-1.2-flash"} <= {each["name"] for each in models}
    assert not any("predictLongRunning" in each["supportedGenerationMethods"] for each in models)


async def test_a_retired_model_is_404_no_longer_available(http: httpx.AsyncClient) -> None:
    """Veo on the API-key road, and the retired preview of Omni."""
    body = {"instances": [{"prompt": "x"}]}
    veo = await http.post(f"/v1beta/models/{PREVIEW}:predictLongRunning", json=body)
    omni = await create(http, model="gemini-omni-flash-preview")
    for answer in (veo, omni):
        assert answer.status_code == 404
        assert "is no longer available" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "changes",
    [
        {"response_format": {**VIDEO, "duration": 3}},
        {"response_format": {**VIDEO, "duration": "2s"}},
        {"response_format": {**VIDEO, "duration": "16s"}},
        {"model": "gemini-omni-1.1-flash", "response_format": {**VIDEO, "duration": "11s"}},
        {"response_format": {**VIDEO, "resolution": "480p"}},
        {"response_format": {**VIDEO, "resolution": "4k"}},
        {"response_format": {**VIDEO, "aspect_ratio": "1:1"}},
        {"response_format": {**VIDEO, "negative_prompt": "text"}},
        {"model": "gemini-omni-1.1-flash", "generation_config": {"seed": 3}},
        {"input": ""},
        {"input": [{"type": "image", "data": "***", "mime_type": "image/png"}, {"type": "text", "text": "x"}]},
        {"prompt": "x"},
    ],
)
async def test_omni_refuses_what_the_original_refuses(
    google: Rig, http: httpx.AsyncClient, changes: dict[str, Any]
) -> None:
    """A number for a duration, lengths out of range, unknown names: 400 INVALID_ARGUMENT, nothing charged."""
    answer = await create(http, **changes)
    assert (answer.status_code, answer.json()["error"]["status"]) == (400, "INVALID_ARGUMENT")
    assert google.charges == []


async def test_an_interaction_runs_from_queued_to_a_video(http: httpx.AsyncClient) -> None:
    """The finished interaction holds a thought, a video with its address, and tokens by the second."""
    started = (await create(http)).json()
    assert started["status"] == "queued"
    body = await ended(http, f"/v1beta/interactions/{started['id']}")
    assert body["status"] == "completed"
    assert [step["type"] for step in body["steps"]] == ["thought", "model_output"]
    assert body["steps"][1]["content"][0]["uri"].endswith(":download?alt=media")
    assert body["usage"]["total_output_tokens"] == 3 * 5792


async def test_without_background_the_call_blocks_and_can_deliver_inline(http: httpx.AsyncClient) -> None:
    """The answer of a blocking create is the finished interaction."""
    body = (await create(http, background=False, response_format={**VIDEO, "delivery": "inline"})).json()
    assert body["status"] == "completed"
    assert base64.b64decode(body["steps"][1]["content"][0]["data"])[4:8] == b"ftyp"


async def test_a_declined_prompt_completes_with_text_only(google: Rig, http: httpx.AsyncClient) -> None:
    """No video and no charge."""
    google.fault("execute", "filter")
    started = (await create(http)).json()
    body = await ended(http, f"/v1beta/interactions/{started['id']}")
    assert body["status"] == "completed"
    assert [part["type"] for step in body["steps"] for part in step["content"]] == ["text"]
    assert google.charges == [("a lighthouse", Decimal(0), "failed")]


async def test_an_unknown_interaction_is_400_in_a_list(http: httpx.AsyncClient) -> None:
    """`[{"error": …}]`, not 404; a deleted interaction is unknown too."""
    started = (await create(http)).json()
    assert (await http.delete(f"/v1beta/interactions/{started['id']}")).json() == {}
    for name in ("nonesuch", started["id"]):
        answer = await http.get(f"/v1beta/interactions/{name}")
        assert answer.status_code == 400
        assert answer.json()[0]["error"]["message"] == "Invalid interaction name"


async def test_the_same_request_twice_is_two_paid_clips(google: Rig, http: httpx.AsyncClient) -> None:
    """There is no idempotency key in the contract; the job header only names the row."""
    for _ in range(2):
        started = (await http.post("/v1beta/interactions", json=OMNI, headers={"x-hybrid-video-job": "b/j"})).json()
        await ended(http, f"/v1beta/interactions/{started['id']}")
    assert google.charges == [("b/j", Decimal("0.069"), "done")] * 2
    rows = (await http.get("/_emulator/charges")).json()
    assert [row["usd"] for row in rows] == ["0.069", "0.069"]


async def test_the_quota_is_429_with_retry_info() -> None:
    """QuotaFailure names the limit, RetryInfo and the text say when to come back."""
    async with rig(scale=1.0, max_concurrent=1) as google, client(google) as http:
        await create(http)
        answer = await create(http)
    error = answer.json()["error"]
    assert (answer.status_code, error["status"]) == (429, "RESOURCE_EXHAUSTED")
    assert error["details"][0]["violations"][0]["quotaValue"] == "1"
    assert error["details"][1]["retryDelay"] == "5s"


async def test_a_download_is_redirected_and_needs_the_key_on_both_hops(google: Rig, http: httpx.AsyncClient) -> None:
    """302 with a JSON body to /download/ on the same host; then the file with checksum and C2PA-like box."""
    started = (await create(http)).json()
    body = await ended(http, f"/v1beta/interactions/{started['id']}")
    uri = body["steps"][1]["content"][0]["uri"]
    first = await http.get(uri)
    assert first.status_code == first.json()["error"]["code"] == 302
    target = first.headers["location"]
    assert target.startswith(f"{google.url}/download/v1beta/files/")
    async with httpx.AsyncClient() as anonymous:
        assert [(await anonymous.get(each)).status_code for each in (uri, target)] == [403, 403]
    file = await http.get(target)
    assert file.headers["content-type"] == "video/mp4"
    assert file.headers["x-goog-hash"] == f"crc32c={crc32c(file.content)}"
    assert file.content.find(b"uuid") < file.content.find(b"moov")


def test_the_checksum_is_crc32c() -> None:
    """The check value of CRC-32C for "123456789" is E3069283."""
    assert base64.b64decode(crc32c(b"123456789")).hex() == "e3069283"


async def test_veo_can_be_switched_on_again_on_the_key_road() -> None:
    """Pending is `{"name"}` without `done`, now and then `{}`; done holds the address of the sample."""
    async with rig(retired=frozenset()) as google, client(google) as http:
        body = {"instances": [{"prompt": "x"}], "parameters": {"durationSeconds": 4, "sampleCount": 1}}
        name = (await http.post(f"/v1beta/models/{PREVIEW}:predictLongRunning", json=body)).json()["name"]
        assert name.startswith(f"models/{PREVIEW}/operations/")
        assert len(name.rpartition("/")[2]) == 12
        polls = [(await http.get(f"/v1beta/{name}")).json() for _ in range(5)]
        assert {} in polls
        assert {"name": name} in polls
        done = await ended(http, f"/v1beta/{name}")
    samples = done["response"]["generateVideoResponse"]["generatedSamples"]
    assert samples[0]["video"]["uri"].endswith(":download?alt=media")
    assert google.charges == [("x", Decimal("0.20"), "done")]


@pytest.mark.parametrize(
    "parameters",
    [
        {"durationSeconds": 5},
        {"durationSeconds": 4, "resolution": "1080p"},
        {"durationSeconds": 8, "resolution": "4k"},
        {"sampleCount": 2},
        {"aspectRatio": "4:3"},
        {"length": 4},
        {"seed": -1},
    ],
)
async def test_veo_refuses_what_the_original_refuses(
    google: Rig, http: httpx.AsyncClient, parameters: dict[str, Any]
) -> None:
    """Lengths other than 4, 6, 8; 1080p in less than 8 s; unknown names."""
    http.headers["authorization"] = "Bearer t"
    body = {"instances": [{"prompt": "x"}], "parameters": parameters}
    answer = await http.post(f"{CLOUD}:predictLongRunning", json=body)
    assert (answer.status_code, answer.json()["error"]["status"]) == (400, "INVALID_ARGUMENT")
    assert google.charges == []


async def test_google_cloud_wants_a_bearer_token(http: httpx.AsyncClient) -> None:
    """An API key alone is 401 there."""
    answer = await http.post(f"{CLOUD}:predictLongRunning", json={"instances": [{"prompt": "x"}]})
    assert (answer.status_code, answer.json()["error"]["status"]) == (401, "UNAUTHENTICATED")


async def test_reset_forgets_everything(google: Rig, http: httpx.AsyncClient) -> None:
    """Charges, operations and faults are gone."""
    started = (await create(http)).json()
    assert (await http.post("/_emulator/reset")).json() == {"reset": True}
    assert google.charges == []
    assert (await http.get(f"/v1beta/interactions/{started['id']}")).status_code == 400
