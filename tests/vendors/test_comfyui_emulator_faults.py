"""What the ComfyUI emulator does when it is told to fail."""

from __future__ import annotations

import asyncio
import io
from typing import Any, Literal

import av
import httpx
import pytest
import websockets

from hybrid_video.emulators.faults import Action, FaultRule
from tests.vendors.comfyui_rig import comfyui, graph, messages, sampled


def fault(operation: str, action: Action, **fields: Any) -> FaultRule:
    """A rule for this server that strikes once."""
    return FaultRule(server="comfyui", operation=operation, action=action, **fields)


async def read_into(parts: list[bytes], response: httpx.Response) -> None:
    """Keeps what came, also when the rest does not."""
    async for chunk in response.aiter_raw():
        parts.append(chunk)


async def test_a_lost_answer_leaves_the_prompt_in_the_queue() -> None:
    """`drop_after` on submit: accepted once, and it can be looked up by its id."""
    async with comfyui(fault("submit", "drop_after")) as rig:
        with pytest.raises(httpx.RemoteProtocolError):
            await rig.post(graph(), prompt_id="mine")
        assert (await rig.entry("mine"))["status"]["completed"] is True
        assert len(rig.emulator.charges.rows) == 1


@pytest.mark.parametrize("action", ["refuse", "drop"])
async def test_a_refused_submit_leaves_nothing(action: Action) -> None:
    """Neither in the queue nor among the charges."""
    async with comfyui(fault("submit", action)) as rig:
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            await rig.post(graph())
        assert rig.emulator.charges.rows == []
        assert (await rig.http.get("/prompt")).json()["exec_info"]["queue_remaining"] == 0


async def test_a_status_fault_answers_and_does_nothing() -> None:
    """With its own body and headers, once."""
    rule = fault("status", "status", status=502, body="bad gateway", headers={"Retry-After": "2"})
    async with comfyui(rule) as rig:
        first, second = await rig.http.get("/queue"), await rig.http.get("/queue")
    assert (first.status_code, first.text, first.headers["retry-after"]) == (502, "bad gateway", "2")
    assert second.status_code == 200


async def test_garbage_is_a_200_that_is_no_json() -> None:
    """As from a proxy in between."""
    async with comfyui(fault("health", "garbage")) as rig:
        response = await rig.http.get("/system_stats")
    assert (response.status_code, response.headers["content-type"][:9]) == (200, "text/html")


async def test_a_failing_node_is_an_ordinary_execution_error() -> None:
    """A ValueError in the sampler, in the middle of its steps."""
    async with comfyui(fault("execute", "fail", body="boom")) as rig, rig.socket("me") as socket:
        pid = await rig.submit(sampled(), client_id="me")
        steps = [m for m in await messages(socket) if m["type"] == "progress"]
        kind, data = (await rig.entry(pid))["status"]["messages"][-1]
        assert rig.emulator.charges.rows[0].state == "failed"
    assert (kind, data["exception_type"], data["exception_message"]) == ("execution_error", "ValueError", "boom\n")
    assert (data["node_type"], len(steps)) == ("KSampler", 5)


async def test_out_of_memory_has_torchs_type_and_the_tip_and_the_queue_goes_on() -> None:
    """The next prompt runs as if nothing had been."""
    async with comfyui(fault("execute", "oom")) as rig:
        _, data = (await rig.run(sampled()))["status"]["messages"][-1]
        after = await rig.run(sampled())
    assert data["exception_type"] == "torch.OutOfMemoryError"
    assert "This error means you ran out of memory on your GPU." in data["exception_message"]
    assert after["status"]["completed"] is True


async def test_a_black_clip_is_a_success() -> None:
    """Only looking at it tells."""
    async with comfyui(fault("execute", "black")) as rig:
        entry = await rig.run(graph())
        clip = await rig.view(entry["outputs"]["save"]["images"][0])
    with av.open(io.BytesIO(clip.content), "r") as container:
        assert max(frame.to_ndarray(format="rgb24").max() for frame in container.decode(video=0)) <= 2


async def test_a_lost_result_is_named_by_the_history_but_gone() -> None:
    """`/view` answers 404."""
    async with comfyui(fault("execute", "lose")) as rig:
        entry = await rig.run(graph())
        assert (await rig.view(entry["outputs"]["save"]["images"][0])).status_code == 404


async def test_a_restart_in_mid_run_forgets_everything_and_comes_back() -> None:
    """Connections are cut for 8 simulated seconds; then queue and history are empty and numbers start at 0."""
    rule = fault("execute", "restart", match="fox")
    async with comfyui(rule, service_s=50) as rig, rig.socket("me") as socket:
        await rig.run(graph("t/before"))
        await rig.submit(sampled(prompt="a red fox"), prompt_id="lost", client_id="me")
        with pytest.raises(websockets.ConnectionClosed):
            await messages(socket)
        with pytest.raises(httpx.HTTPError):
            await rig.http.get("/queue")
        await asyncio.sleep(0.15)
        assert (await rig.http.get("/queue")).json() == {"queue_running": [], "queue_pending": []}
        assert (await rig.http.get("/history")).json() == {}
        assert (await rig.post(graph())).json()["number"] == 0
        assert [charge.state for charge in rig.emulator.charges.rows] == ["done", "failed", "open"]
        assert (rig.emulator.output_dir / "t" / "before_00001_.mp4").is_file()


async def test_restart_can_be_called_from_outside() -> None:
    """Without down time it answers at once, and runs new prompts."""
    async with comfyui(service_s=20) as rig:
        await rig.submit(sampled())
        rig.emulator.restart()
        assert (await rig.http.get("/prompt")).json()["exec_info"]["queue_remaining"] == 0
        assert (await rig.run(graph()))["status"]["completed"] is True


async def test_a_wedged_worker_keeps_its_prompt_and_ignores_interrupts() -> None:
    """HTTP stays healthy, pending grows; only a restart helps."""
    async with comfyui(fault("execute", "wedge")) as rig:
        first = await rig.submit(graph())
        second = await rig.submit(graph())
        await asyncio.sleep(0.2)
        await rig.http.post("/interrupt", json={})
        await asyncio.sleep(0.1)
        queue = (await rig.http.get("/queue")).json()
        rig.emulator.restart()
        assert (await rig.run(graph()))["status"]["completed"] is True
    assert [item[1] for item in queue["queue_running"]] == [first]
    assert [item[1] for item in queue["queue_pending"]] == [second]


@pytest.mark.parametrize("start", [0, 100])
async def test_a_truncated_download_breaks_off_half_way_and_can_be_resumed(start: int) -> None:
    """The length promised is the whole; a range continues where it broke."""
    async with comfyui(fault("download", "truncate")) as rig:
        entry = await rig.run(graph())
        file = entry["outputs"]["save"]["images"][0]
        got: list[bytes] = []
        headers = {"Range": f"bytes={start}-"} if start else {}
        async with rig.http.stream("GET", "/view", params=file, headers=headers) as response:
            promised = int(response.headers["content-length"])
            etag = response.headers["etag"]
            with pytest.raises(httpx.RemoteProtocolError):
                await read_into(got, response)
        part = b"".join(got)
        rest = await rig.view(file, Range=f"bytes={start + len(part)}-")
        whole = await rig.view(file)
    assert response.status_code == (206 if start else 200)
    assert promised == len(whole.content) - start
    assert 0 < len(part) <= promised / 2 + 1
    assert part + rest.content == whole.content[start:]
    assert etag == rest.headers["etag"]


async def test_a_rule_with_match_hits_only_the_job_or_prompt_it_names() -> None:
    """By label, wherever the prompt is met."""
    rule = fault("execute", "fail", match="batch/shot-2", times=None)
    async with comfyui(rule) as rig:
        fine = await rig.run(graph(), extra_data={"hybrid_video": {"job": "batch/shot-1"}})
        hit = await rig.run(graph(color=1), extra_data={"hybrid_video": {"job": "batch/shot-2"}})
    assert (fine["status"]["completed"], hit["status"]["completed"]) == (True, False)


@pytest.mark.parametrize(
    ("operation", "method", "path"),
    [
        ("status", "GET", "/history/x"),
        ("status", "GET", "/api/jobs"),
        ("download", "GET", "/view?filename=x"),
        ("upload", "POST", "/upload/image"),
        ("health", "GET", "/system_stats"),
        ("list", "GET", "/object_info"),
        ("cancel", "POST", "/interrupt"),
    ],
)
async def test_every_operation_of_a_fault_plan_has_its_routes(
    operation: str, method: Literal["GET", "POST"], path: str
) -> None:
    """Each answers the status it was told to."""
    async with comfyui(fault(operation, "status", status=599)) as rig:
        files = {"image": ("a.png", b"x")} if operation == "upload" else None
        response = await rig.http.request(method, path, files=files)
    assert response.status_code == 599


async def test_reset_forgets_charges_and_state() -> None:
    """Through the control routes, which no fault touches."""
    async with comfyui(service_s=50) as rig:
        await rig.submit(graph())
        rule = {"operation": "*", "action": "refuse", "times": None}
        assert (await rig.http.post("/_emulator/faults", json=rule)).status_code == 200
        with pytest.raises(httpx.HTTPError):
            await rig.http.get("/queue")
        await rig.http.post("/_emulator/reset")
        assert (await rig.http.get("/_emulator/charges")).json() == []
        assert (await rig.http.get("/prompt")).json()["exec_info"]["queue_remaining"] == 0
