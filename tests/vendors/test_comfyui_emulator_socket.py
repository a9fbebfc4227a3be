"""The websocket of the ComfyUI emulator: order of messages and who gets them, as observed on ComfyUI 0.8.0."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Any

import pytest
import websockets

from tests.vendors.comfyui_rig import comfyui, graph, messages, sampled


def kinds(received: list[dict[str, Any]]) -> list[str]:
    """Types in order, `status` left out: it goes to everyone at any time."""
    return [message["type"] for message in received if message["type"] != "status"]


async def types_until_silent(socket: websockets.ClientConnection) -> set[str]:
    """Types of everything that still comes."""
    seen: set[str] = set()
    with suppress(TimeoutError):
        while True:
            seen.add(json.loads(await asyncio.wait_for(socket.recv(), 0.1))["type"])
    return seen


async def test_a_new_client_gets_the_queue_depth_and_its_id() -> None:
    """Without clientId the id is made up."""
    async with comfyui() as rig, rig.socket("me") as mine, rig.socket() as other:
        first, second = json.loads(await mine.recv()), json.loads(await other.recv())
    assert first == {"type": "status", "data": {"status": {"exec_info": {"queue_remaining": 0}}, "sid": "me"}}
    assert len(second["data"]["sid"]) == 32


async def test_the_messages_of_a_prompt_come_in_the_observed_order() -> None:
    """Success comes before the end marker, which comes after the history entry."""
    async with comfyui() as rig, rig.socket("me") as socket:
        pid = await rig.submit(graph(), client_id="me")
        received = await messages(socket)
        entry = (await rig.http.get(f"/history/{pid}")).json()
    per_node = ["progress_state", "executing", "progress_state"]
    last_node = ["progress_state", "executing", "executed", "progress_state"]
    start, end = ["execution_start", "execution_cached"], ["execution_success", "executing"]
    assert kinds(received) == start + per_node * 2 + last_node + end
    assert received[-1]["data"] == {"node": None, "prompt_id": pid}
    assert list(entry) == [pid]
    shown = next(message["data"] for message in received if message["type"] == "executed")
    assert shown["output"] == entry[pid]["outputs"]["save"]
    depths = [m["data"]["status"]["exec_info"]["queue_remaining"] for m in received if m["type"] == "status"]
    assert depths == [0, 1, 1, 0]


async def test_success_is_told_before_the_history_knows() -> None:
    """The first look after `execution_success` may still be `{}`."""
    async with comfyui() as rig, rig.socket("me") as socket:
        pid = await rig.submit(graph(), client_id="me")
        await messages(socket, "execution_success")
        early = (await rig.http.get(f"/history/{pid}")).json()
        await messages(socket)
        late = (await rig.http.get(f"/history/{pid}")).json()
    assert early == {}
    assert list(late) == [pid]


async def test_a_sampler_reports_each_step_twice() -> None:
    """As `progress` and in the cumulative `progress_state`; other nodes report no steps."""
    async with comfyui() as rig, rig.socket("me") as socket:
        await rig.submit(sampled(steps=5), client_id="me")
        received = await messages(socket)
    steps = [message["data"] for message in received if message["type"] == "progress"]
    assert [(step["value"], step["max"], step["node"]) for step in steps] == [(n, 5, "sampler") for n in range(1, 6)]
    states = [message["data"]["nodes"] for message in received if message["type"] == "progress_state"]
    values = [(nodes["sampler"]["value"], nodes["sampler"]["state"]) for nodes in states if "sampler" in nodes]
    assert values[:3] == [(0.0, "running"), (1.0, "running"), (2.0, "running")]
    assert {state["state"] for state in states[-1].values()} == {"finished"}
    assert len(states[-1]) == 10


async def test_other_clients_get_only_the_status() -> None:
    """Messages of a prompt go to the client that sent it."""
    async with comfyui() as rig, rig.socket("me") as mine, rig.socket("other") as other:
        await rig.submit(graph(), client_id="me")
        await messages(mine)
        seen = await types_until_silent(other)
    assert seen == {"status"}


async def test_without_client_id_everyone_gets_the_progress_and_nobody_the_rest() -> None:
    """So an anonymous prompt can be watched by all but not awaited by anyone."""
    async with comfyui() as rig, rig.socket("me") as socket:
        await rig.run(sampled())
        seen = await types_until_silent(socket)
    assert seen == {"status", "progress", "progress_state"}


async def test_an_error_is_told_to_its_owner_before_the_end_marker() -> None:
    """With the same body as in the history."""
    async with comfyui() as rig, rig.socket("me") as socket:
        pid = await rig.submit(graph(width=65), client_id="me")
        received = await messages(socket)
        entry = await rig.entry(pid)
    assert kinds(received)[-2:] == ["execution_error", "executing"]
    told = next(message["data"] for message in received if message["type"] == "execution_error")
    assert told == entry["status"]["messages"][-1][1]


async def test_an_interruption_of_an_anonymous_prompt_is_told_to_everyone() -> None:
    """Unlike an error."""
    async with comfyui(service_s=100) as rig, rig.socket("me") as socket:
        await rig.submit(sampled())
        await asyncio.sleep(0.1)
        await rig.http.post("/interrupt", json={})
        received = await messages(socket, "execution_interrupted")
    assert received[-1]["data"]["node_type"] == "KSampler"


async def test_a_client_that_comes_back_is_told_the_present_node_without_prompt_id() -> None:
    """Nothing else is replayed."""
    async with comfyui(service_s=100) as rig:
        await rig.submit(sampled(), client_id="me")
        await asyncio.sleep(0.2)
        async with rig.socket("me") as socket:
            await socket.recv()
            second = json.loads(await socket.recv())
    assert second == {"type": "executing", "data": {"node": "sampler"}}


async def test_a_second_socket_with_the_same_id_goes_deaf_when_the_first_ends() -> None:
    """Not even `status` reaches it any more."""
    async with comfyui() as rig, rig.socket("me") as old, rig.socket("me") as new:
        await new.recv()
        await old.close()
        await asyncio.sleep(0.05)
        await rig.run(graph(), client_id="me")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(new.recv(), 0.2)


async def test_feature_flags_are_answered_only_as_the_first_message_that_parses() -> None:
    """What is no JSON is ignored."""
    ask = json.dumps({"type": "feature_flags", "data": {"supports_preview_metadata": True}})
    async with comfyui() as rig, rig.socket("a") as first, rig.socket("b") as second:
        for socket in (first, second):
            await socket.recv()
        await first.send("nonsense")
        await first.send(ask)
        answer = json.loads(await first.recv())
        await second.send("{}")
        await second.send(ask)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(second.recv(), 0.1)
        listed = (await rig.http.get("/features")).json()
    assert answer == {"type": "feature_flags", "data": listed}


async def test_a_plain_get_is_a_400_and_the_api_prefix_works() -> None:
    """`/api/ws` is the same socket."""
    async with comfyui() as rig:
        assert (await rig.http.get("/ws")).status_code == 400
        assert (await rig.http.get("/api/ws")).status_code == 400
