"""What worker-comfyui returns in the emulator: its output forms, its error texts, and the S3 downloads."""

from __future__ import annotations

import base64
import io
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import av
import httpx
import pytest
from PIL import Image
from runpod_rig import graph, rig

from hybrid_video.emulators.faults import FaultRule


def fault(operation: str, action: str, **fields: Any) -> FaultRule:
    return FaultRule.model_validate({"server": "runpod", "operation": operation, "action": action, **fields})


def vhs(prefix: str = "hv/demo/shot-1-0123abcd") -> dict[str, Any]:
    """A graph that saves with VideoHelperSuite instead of a core node."""
    return {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 4, "color": 0}},
        "9": {
            "class_type": "VHS_VideoCombine",
            "inputs": {
                "images": ["1", 0],
                "frame_rate": 8.0,
                "loop_count": 0,
                "filename_prefix": prefix,
                "format": "video/h264-mp4",
                "pingpong": False,
                "save_output": True,
            },
        },
    }


async def test_s3_delivery_gives_a_presigned_url_that_plays(tmp_path: Path) -> None:
    """One entry per file with `filename`, `type` and `data`; the URL serves a real MP4 without any key."""
    async with rig() as runpod:
        done = await runpod.run()
        assert set(done["output"]) == {"images"}
        entry = done["output"]["images"][0]
        assert (entry["filename"], entry["type"]) == ("shot-1-0123abcd_00001_.mp4", "s3_url")
        async with httpx.AsyncClient() as anyone:
            file = tmp_path / "clip.mp4"
            file.write_bytes((await anyone.get(entry["data"])).content)
        with av.open(str(file)) as container:
            assert sum(1 for _ in container.decode(video=0)) == 8


async def test_s3_serves_video_as_image() -> None:
    """The content type is always `image/<suffix>`."""
    async with rig() as runpod:
        url = (await runpod.run())["output"]["images"][0]["data"]
        async with httpx.AsyncClient() as anyone:
            assert (await anyone.get(url)).headers["Content-Type"] == "image/mp4"


async def test_s3_answers_ranges() -> None:
    """A cut download can be resumed."""
    async with rig() as runpod:
        url = (await runpod.run())["output"]["images"][0]["data"]
        async with httpx.AsyncClient() as anyone:
            whole = (await anyone.get(url)).content
            part = await anyone.get(url, headers={"Range": "bytes=100-"})
            assert part.status_code == 206
            assert part.content == whole[100:]


async def test_presigned_url_expires() -> None:
    """After its validity the URL is 403 with the reason in XML."""
    async with rig(url_valid_for_s=1) as runpod:
        url = (await runpod.run())["output"]["images"][0]["data"]
        async with httpx.AsyncClient() as anyone:
            answer = await anyone.get(url)
            if answer.status_code == 200:  # still within its second
                await runpod.clock.sleep(2)
                answer = await anyone.get(url)
            assert answer.status_code == 403
            assert "Request has expired" in answer.text


async def test_presigned_url_cannot_be_altered() -> None:
    """Another key, a longer life or another method break the signature."""
    async with rig() as runpod:
        url = (await runpod.run())["output"]["images"][0]["data"]
        async with httpx.AsyncClient() as anyone:
            for altered in (url.replace("Expires=604800", "Expires=999999"), url.replace(".mp4", ".mp3"), url[:-1]):
                assert (await anyone.get(altered)).status_code == 403
            assert (await anyone.head(url)).status_code == 403
            assert (await anyone.get(url.split("?")[0])).status_code == 403


async def test_base64_delivery_holds_the_file() -> None:
    """Without S3 the file is in the answer itself."""
    async with rig(delivery="base64") as runpod:
        entry = (await runpod.run())["output"]["images"][0]
        assert entry["type"] == "base64"
        assert base64.b64decode(entry["data"])[4:8] == b"ftyp"


async def test_graph_without_saved_images_is_a_success_without_images() -> None:
    """VHS_VideoCombine writes under `gifs`, which the handler ignores: COMPLETED, charged, and no file."""
    async with rig() as runpod:
        done = await runpod.run(vhs())
        assert done["status"] == "COMPLETED"
        assert done["output"] == {"status": "success_no_images", "images": []}
        row = (await runpod.charges())[0]
        assert (row["state"], row["job"]) == ("done", "demo/shot-1")
        assert Decimal(row["usd"]) > 0


async def test_failed_upload_is_an_error_beside_the_images() -> None:
    """One file of two could not be uploaded: COMPLETED with `errors`."""
    two = {
        **graph(),
        "4": {**graph("hv/demo/shot-1-0123abcd-b")["3"]},
    }
    async with rig(fault("execute", "truncate")) as runpod:
        done = await runpod.run(two)
        assert done["status"] == "COMPLETED"
        assert len(done["output"]["images"]) == 1
        assert done["output"]["errors"][0].startswith("Error uploading ")


async def test_failed_upload_of_the_only_file_fails_the_job() -> None:
    """No image and an error: FAILED with details in the output."""
    async with rig(fault("execute", "truncate")) as runpod:
        failed = await runpod.run()
        assert (failed["status"], failed["error"]) == ("FAILED", "Job processing failed")
        assert failed["output"]["details"][0].startswith("Error uploading ")


async def test_failing_node_is_named_in_the_details() -> None:
    """`fail`: the handler's text has node type, id and message; the time until then is charged."""
    async with rig(fault("execute", "fail", body="boom")) as runpod:
        failed = await runpod.run()
        assert (failed["status"], failed["error"]) == ("FAILED", "Job processing failed")
        text = "Workflow execution error: Node Type: SaveVideo, Node ID: 3, Message: boom"
        assert failed["output"] == {"details": [text]}
        row = (await runpod.charges())[0]
        assert (row["state"], Decimal(row["usd"])) == ("failed", 5 * Decimal("0.00031"))


async def test_out_of_memory_shows_in_the_message_only() -> None:
    """`oom`: the handler does not pass on the exception's type."""
    async with rig(fault("execute", "oom")) as runpod:
        failed = await runpod.run()
        assert "you ran out of memory on your GPU" in failed["output"]["details"][0]


@pytest.mark.parametrize(
    ("action", "text"),
    [
        ("refuse", "ComfyUI server (127.0.0.1:8188) not reachable after multiple retries."),
        ("drop", "WebSocket communication error: "),
    ],
)
async def test_sick_comfyui_inside_the_worker(action: str, text: str) -> None:
    """ComfyUI that does not start, or breaks its websocket."""
    async with rig(fault("execute", action)) as runpod:
        failed = await runpod.run()
        assert failed["status"] == "FAILED"
        assert failed["error"].startswith(text)


async def test_any_error_text_can_be_injected() -> None:
    """`status` on execute: `body` is the error, for example the JSON text of an uncaught exception."""
    error = json.dumps({"error_type": "<class 'MemoryError'>", "error_message": "x", "worker_id": "w"})
    async with rig(fault("execute", "status", body=error)) as runpod:
        assert (await runpod.run())["error"] == error


async def test_black_render_is_a_normal_success(tmp_path: Path) -> None:
    """`black`: COMPLETED with a playable file that shows nothing."""
    async with rig(fault("execute", "black"), delivery="base64") as runpod:
        data = base64.b64decode((await runpod.run())["output"]["images"][0]["data"])
        file = tmp_path / "clip.mp4"
        file.write_bytes(data)
        with av.open(str(file)) as container:
            frame = next(container.decode(video=0))
            assert max(frame.to_ndarray(format="gray").ravel()) < 24


async def test_garbage_is_a_success_without_images() -> None:
    """`garbage`: the worker finds no output."""
    async with rig(fault("execute", "garbage")) as runpod:
        assert (await runpod.run())["output"]["status"] == "success_no_images"


async def test_wedged_render_ends_by_the_execution_timeout() -> None:
    """The handler has no time-out of its own."""
    async with rig(fault("execute", "wedge")) as runpod:
        ended = await runpod.run(policy={"executionTimeout": 60_000})
        assert (ended["status"], ended["executionTime"]) == ("TIMED_OUT", 60_000)


async def test_truncated_download_is_cut_in_the_middle() -> None:
    """`truncate` on download: half the bytes, then the connection ends."""
    async with rig(fault("download", "truncate")) as runpod:
        url = (await runpod.run())["output"]["images"][0]["data"]
        async with httpx.AsyncClient() as anyone:
            with pytest.raises(httpx.TransportError):
                await anyone.get(url)
            assert (await anyone.get(url)).status_code == 200


async def test_lost_object_is_404_in_xml() -> None:
    """`lose` on download."""
    async with rig(fault("download", "lose")) as runpod:
        url = (await runpod.run())["output"]["images"][0]["data"]
        async with httpx.AsyncClient() as anyone:
            answer = await anyone.get(url)
            assert answer.status_code == 404
            assert "NoSuchKey" in answer.text


@pytest.mark.parametrize(
    ("job_input", "error"),
    [
        ({"prompt": "x"}, "Missing 'workflow' parameter"),
        ("{not json", "Invalid JSON format in input"),
        ({"workflow": {}, "images": ["x"]}, "'images' must be a list of objects with 'name' and 'image' keys"),
    ],
)
async def test_wrong_input_fails_with_the_handlers_words(job_input: object, error: str) -> None:
    """The handler refuses before ComfyUI sees anything; the job is FAILED, not the request."""
    async with rig() as runpod:
        answer = await runpod.http.post("/v2/emulated/run", json={"input": job_input})
        failed = await runpod.until(answer.json()["id"])
        assert (failed["status"], failed["error"]) == ("FAILED", error)


async def test_input_may_be_a_json_text() -> None:
    """`input` as a string is parsed."""
    async with rig() as runpod:
        answer = await runpod.http.post("/v2/emulated/run", json={"input": json.dumps({"workflow": graph()})})
        assert (await runpod.until(answer.json()["id"]))["status"] == "COMPLETED"


async def test_missing_node_class_is_refused_by_comfyui() -> None:
    """Unknown class: ComfyUI's message with the raw response, because there are no node errors."""
    async with rig(missing_nodes=frozenset({"CreateVideo"})) as runpod:
        failed = await runpod.run()
        assert failed["status"] == "FAILED"
        assert failed["error"].startswith("Cannot execute because node CreateVideo does not exist.. Raw response: ")


async def test_wrong_value_is_a_bullet_of_the_validation_text() -> None:
    """Each key of the node's errors is a bullet, printed as Python prints it."""
    wrong = graph()
    wrong["1"]["inputs"]["width"] = 0
    async with rig() as runpod:
        error = (await runpod.run(wrong))["error"]
        assert error.startswith("Workflow validation failed:\n• Node 1 (")
        assert "'type': 'value_smaller_than_min'" in error


async def test_refused_graph_costs_the_second_it_took() -> None:
    """A job that failed in validation ran, so it is charged: one second."""
    async with rig(missing_nodes=frozenset({"SaveVideo"})) as runpod:
        await runpod.run()
        assert Decimal((await runpod.charges())[0]["usd"]) == Decimal("0.00031")


async def test_ui_format_breaks_the_queueing() -> None:
    """A workflow as the editor saves it makes ComfyUI answer 500."""
    async with rig() as runpod:
        failed = await runpod.run({"last_node_id": 3, "nodes": [], "links": []})
        assert failed["error"].startswith("Error queuing workflow: 500 Server Error")


async def test_input_image_sets_the_size() -> None:
    """Images arrive as base64 or data URI and can be loaded by name."""
    picture = io.BytesIO()
    Image.new("RGB", (96, 64), "red").save(picture, "PNG")
    encoded = base64.b64encode(picture.getvalue()).decode()
    workflow = graph()
    workflow["1"] = {"class_type": "LoadImage", "inputs": {"image": "first.png"}}
    for image in (encoded, f"data:image/png;base64,{encoded}"):
        async with rig(delivery="base64") as runpod:
            job_input = {"workflow": workflow, "images": [{"name": "first.png", "image": image}]}
            answer = await runpod.http.post("/v2/emulated/run", json={"input": job_input})
            entry = (await runpod.until(answer.json()["id"]))["output"]["images"][0]
            with av.open(io.BytesIO(base64.b64decode(entry["data"]))) as container:
                assert (container.streams.video[0].width, container.streams.video[0].height) == (96, 64)


async def test_missing_input_image_fails_validation() -> None:
    """A graph that loads an image nobody sent."""
    workflow = graph()
    workflow["1"] = {"class_type": "LoadImage", "inputs": {"image": "nowhere.png"}}
    async with rig() as runpod:
        assert "Invalid image file: nowhere.png" in (await runpod.run(workflow))["error"]


async def test_undecodable_image_fails_the_upload() -> None:
    """Bad base64 never reaches ComfyUI."""
    async with rig() as runpod:
        job_input = {"workflow": graph(), "images": [{"name": "a.png", "image": "abc"}]}
        answer = await runpod.http.post("/v2/emulated/run", json={"input": job_input})
        failed = await runpod.until(answer.json()["id"])
        assert failed["error"] == "Failed to upload one or more input images"
        assert failed["output"]["details"][0].startswith("Error decoding base64 for a.png")


@pytest.mark.parametrize(("oversized", "status"), [("hang", "TIMED_OUT"), ("fail", "FAILED")])
async def test_base64_result_over_ten_megabytes_is_not_delivered(
    oversized: str, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The result is refused after the work: the job hangs until its time-out, or fails."""
    monkeypatch.setattr("hybrid_video.emulators.runpod.worker.MAX_RESULT_BYTES", 1_000)
    async with rig(delivery="base64", oversized=oversized) as runpod:
        ended = await runpod.run(policy={"executionTimeout": 60_000})
        assert ended["status"] == status
        assert Decimal((await runpod.charges())[0]["usd"]) > 0


async def test_fault_rules_match_the_job_label() -> None:
    """`match` chooses the jobs a rule hits."""
    async with rig(fault("execute", "fail", match="shot-2", times=None)) as runpod:
        assert (await runpod.run(graph("hv/demo/shot-1-0123abcd")))["status"] == "COMPLETED"
        assert (await runpod.run(graph("hv/demo/shot-2-0123abcd")))["status"] == "FAILED"


async def test_bucket_without_keys_gives_a_path_inside_the_worker() -> None:
    """With only the bucket's address set, `data` is no URL at all."""
    async with rig(delivery="simulated") as runpod:
        entry = (await runpod.run())["output"]["images"][0]
        assert (entry["type"], entry["data"][:19]) == ("s3_url", "simulated_uploaded/")
