"""Files, uploads, information routes and the transport of the ComfyUI emulator, as observed on ComfyUI 0.8.0."""

from __future__ import annotations

from typing import Any

import pytest

from tests.vendors.comfyui_rig import Rig, comfyui, graph

FILE = b"0123456789"


async def put(rig: Rig, name: str, content: bytes, **fields: str) -> Any:
    """An upload that must be accepted."""
    response = await rig.http.post("/upload/image", files={"image": (name, content)}, data=fields)
    assert response.status_code == 200, response.text
    return response.json()


async def test_view_streams_with_length_etag_and_type() -> None:
    """HEAD works too; the disposition has no `attachment`."""
    async with comfyui() as rig:
        await put(rig, "v.mp4", FILE, type="output")
        got = await rig.http.get("/view?filename=v.mp4")
        head = await rig.http.head("/api/view?filename=v.mp4")
    assert got.content == FILE
    assert got.headers["content-type"] == "video/mp4"
    assert got.headers["content-disposition"] == 'filename="v.mp4"'
    assert got.headers["accept-ranges"] == "bytes"
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "10")
    assert head.headers["etag"] == got.headers["etag"]


@pytest.mark.parametrize(
    ("asked", "status", "body", "content_range"),
    [
        ("bytes=0-3", 206, b"0123", "bytes 0-3/10"),
        ("bytes=6-", 206, b"6789", "bytes 6-9/10"),
        ("bytes=-2", 206, b"89", "bytes 8-9/10"),
        ("bytes=10-", 416, None, "bytes */10"),
        ("bytes=5-2", 416, None, "bytes */10"),
        ("bytes=0-1,3-4", 416, None, "bytes */10"),
        ("lines=0-1", 416, None, "bytes */10"),
    ],
)
async def test_a_single_range_is_served_and_any_other_refused(
    asked: str, status: int, body: bytes | None, content_range: str
) -> None:
    """206 or 416."""
    async with comfyui() as rig:
        await put(rig, "v.mp4", FILE, type="output")
        got = await rig.http.get("/view?filename=v.mp4", headers={"Range": asked})
    assert (got.status_code, got.headers["content-range"]) == (status, content_range)
    assert body is None or got.content == body


async def test_if_range_with_a_foreign_etag_is_ignored() -> None:
    """206 although the file is another: a client must compare the ETag itself."""
    async with comfyui() as rig:
        await put(rig, "v.mp4", FILE, type="output")
        headers = {"Range": "bytes=4-", "If-Range": '"something-else"'}
        got = await rig.http.get("/view?filename=v.mp4", headers=headers)
    assert (got.status_code, got.content) == (206, b"456789")


async def test_a_known_etag_is_answered_with_304() -> None:
    """`If-None-Match`."""
    async with comfyui() as rig:
        await put(rig, "v.mp4", FILE, type="output")
        etag = (await rig.http.get("/view?filename=v.mp4")).headers["etag"]
        assert (await rig.http.get("/view?filename=v.mp4", headers={"If-None-Match": etag})).status_code == 304


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("", 404),
        ("?filename=", 400),
        ("?filename=/v.mp4", 400),
        ("?filename=a..b.mp4", 400),
        ("?filename=v.mp4&type=nope", 400),
        ("?filename=v.mp4&subfolder=../..", 403),
        ("?filename=nope.mp4", 404),
        ("?filename=any/where/v.mp4", 200),
        ("?filename=v.mp4%20[output]&type=input", 200),
        ("?filename=v.mp4&preview=webp;90", 500),
    ],
)
async def test_what_view_refuses(query: str, status: int) -> None:
    """Refusals have no body; only the last part of the name counts; a suffix overrides the type."""
    async with comfyui() as rig:
        await put(rig, "v.mp4", FILE, type="output")
        got = await rig.http.get(f"/view{query}")
    assert got.status_code == status
    assert status in (200, 500) or got.content == b""


async def test_uploading_other_bytes_under_a_taken_name_renames_and_the_same_bytes_do_not() -> None:
    """So the returned name must be used."""
    async with comfyui() as rig:
        assert (await put(rig, "a.png", b"one")) == {"name": "a.png", "subfolder": "", "type": "input"}
        assert (await put(rig, "a.png", b"one"))["name"] == "a.png"
        assert (await put(rig, "a.png", b"two"))["name"] == "a (1).png"
        assert (await put(rig, "a.png", b"two"))["name"] == "a (1).png"
        assert (await put(rig, "a.png", b"new", overwrite="true"))["name"] == "a.png"
        assert (await rig.http.get("/view?filename=a.png&type=input")).content == b"new"


async def test_an_uploaded_image_can_be_loaded_and_is_listed() -> None:
    """`sub/name.png` for one in a folder; lists show only the folder itself."""
    prompt = graph() | {"load": {"class_type": "LoadImage", "inputs": {"image": "sub/b.png"}}}
    prompt["video"]["inputs"]["images"] = ["load", 0]
    async with comfyui() as rig:
        assert (await rig.post(prompt)).status_code == 400
        await put(rig, "a.png", b"one")
        await put(rig, "b.png", b"two", subfolder="sub")
        assert (await rig.post(prompt)).status_code == 200
        info = (await rig.http.get("/object_info/LoadImage")).json()["LoadImage"]
    assert info["input"]["required"]["image"][0] == ["a.png"]


@pytest.mark.parametrize(
    ("name", "fields", "status"),
    [
        ("a.png", {"subfolder": "../.."}, 400),
        ("../a.png", {}, 400),
        ("a.png", {"type": "nope"}, 500),
        ("a.png", {"type": ""}, 500),
        ("sub/a.png", {}, 500),
    ],
)
async def test_what_an_upload_refuses(name: str, fields: dict[str, str], status: int) -> None:
    """Leaving the folder is a 400, what the code did not expect a 500."""
    async with comfyui() as rig:
        response = await rig.http.post("/upload/image", files={"image": (name, b"x")}, data=fields)
    assert response.status_code == status


async def test_a_mask_for_a_missing_original_is_accepted_and_not_written() -> None:
    """Without `original_ref` it is a 500."""
    files = {"image": ("m.png", b"x")}
    async with comfyui() as rig:
        bare = await rig.http.post("/upload/mask", files=files)
        accepted = await rig.http.post("/upload/mask", files=files, data={"original_ref": '{"filename": "no.png"}'})
        seen = await rig.http.get("/view?filename=m.png&type=input")
    assert (bare.status_code, accepted.status_code, seen.status_code) == (500, 200, 404)


async def test_routes_exist_with_and_without_the_api_prefix_but_internals_only_without() -> None:
    """`/internal/*` has no prefixed twin."""
    async with comfyui() as rig:
        for path in ("/prompt", "/queue", "/history", "/system_stats", "/object_info", "/models", "/features"):
            assert (await rig.http.get(path)).json() == (await rig.http.get(f"/api{path}")).json()
        assert (await rig.http.get("/internal/logs")).status_code == 200
        assert (await rig.http.get("/api/internal/logs")).status_code == 404


async def test_an_unknown_path_is_an_empty_404_and_a_wrong_method_a_405_in_text() -> None:
    """Never JSON."""
    async with comfyui() as rig:
        unknown, wrong = await rig.http.get("/nope"), await rig.http.delete("/system_stats")
    assert (unknown.status_code, unknown.content) == (404, b"")
    assert unknown.headers["content-type"] == "application/octet-stream"
    assert wrong.status_code == 405
    assert wrong.headers["content-type"].startswith("text/plain")
    assert "GET" in wrong.headers["allow"]


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("127.0.0.1:8188", "http://evil.example", 403),
        ("127.0.0.1:8188", "http://localhost:8188", 403),
        ("127.0.0.1:8188", "http://127.0.0.1:9999", 403),
        ("127.0.0.1:8188", "http://127.0.0.1:8188", 200),
        ("127.0.0.1:8188", "null", 200),
        ("example.com", "http://evil.example", 200),
        ("127.0.0.1:8188", None, 200),
    ],
)
async def test_a_foreign_origin_is_refused_on_loopback_hosts_only(host: str, origin: str | None, status: int) -> None:
    """403 with an empty body, before anything else."""
    headers = {"Host": host} | ({"Origin": origin} if origin else {})
    async with comfyui() as rig:
        for method in ("GET", "OPTIONS"):
            response = await rig.http.request(method, "/prompt", headers=headers)
            assert response.status_code == status
            assert status == 200 or response.content == b""


async def test_a_body_over_100_mb_is_a_413() -> None:
    """The limit counts for every body, also that of a prompt."""
    async with comfyui() as rig:
        response = await rig.http.post("/prompt", content=b" " * (104_857_600 + 1))
    assert response.status_code == 413
    assert "104857600" in response.text


async def test_system_stats_show_the_gpu_and_that_it_is_simulated() -> None:
    """The device name has index and allocator around it; nothing tells the uptime."""
    async with comfyui(gpu="NVIDIA L4") as rig:
        stats = (await rig.http.get("/system_stats")).json()
    assert stats["devices"][0]["name"] == "cuda:0 NVIDIA L4 : cudaMallocAsync"
    assert stats["system"]["comfyui_version"] == "0.8.0"
    assert "--simulated-by-hybrid-video" in stats["system"]["argv"]


async def test_object_info_has_both_styles_of_lists() -> None:
    """A list as the type, and COMBO with options."""
    async with comfyui() as rig:
        info = (await rig.http.get("/object_info")).json()
        unknown = await rig.http.get("/models/nope")
    assert "wan_2.1_vae.safetensors" in info["VAELoader"]["input"]["required"]["vae_name"][0]
    codec = info["SaveVideo"]["input"]["required"]["codec"]
    assert (codec[0], "h264" in codec[1]["options"]) == ("COMBO", True)
    assert info["SaveVideo"]["output_node"] is True
    assert (unknown.status_code, unknown.content) == (404, b"")
