"""The simulated management API and the pod proxy, one fact of the vendor's documentation per test."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from typing import Any

import httpx
import pytest
import websockets
from runpod_rig import RTX_4090, Rig, eventually, graph, rig

from hybrid_video.emulators.faults import FaultRule
from hybrid_video.emulators.runpod import BootTimes, StaticPod

QUICK = BootTimes(provisioning_s=0, starting_s=0, service_s=0)
SLOW = BootTimes(provisioning_s=20, starting_s=40, service_s=60)
TOKEN = "pod-secret"
TOKEN_ENV = {"HYBRID_VIDEO_POD_TOKEN": TOKEN}
WITH_TOKEN = {"Authorization": f"Bearer {TOKEN}"}


def fault(operation: str, action: str, **fields: Any) -> FaultRule:
    return FaultRule.model_validate({"server": "runpod", "operation": operation, "action": action, **fields})


async def created(runpod: Rig, **fields: Any) -> str:
    answer = await runpod.create_pod(**fields)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


async def finished_prompt(runpod: Rig, base: str) -> dict[str, Any]:
    """Runs a graph on a pod's ComfyUI and returns its history entry."""
    answer = await runpod.http.post(f"{base}/prompt", json={"prompt": graph()}, headers=WITH_TOKEN)
    prompt_id = answer.json()["prompt_id"]

    async def entry() -> dict[str, Any] | None:
        history = (await runpod.http.get(f"{base}/history/{prompt_id}", headers=WITH_TOKEN)).json()
        return dict(history[prompt_id]) if history else None

    return await eventually(entry)


async def test_create_answers_201_in_provisioning() -> None:
    """A new pod has no runtime, no start time and no place yet, but a price."""
    async with rig(boot=SLOW) as runpod:
        answer = await runpod.create_pod()
        pod = answer.json()
        assert answer.status_code == 201
        assert pod["status"] == "PROVISIONING"
        assert pod["runtime"] is pod["startedAt"] is pod["dataCenterId"] is None
        assert pod["cost"] == 0.6901
        assert pod["actions"] == ["stop", "terminate"]


async def test_pod_passes_through_starting_to_running() -> None:
    """RUNNING has a runtime, a start time and the actions of a running pod."""
    async with rig(boot=SLOW, scale=400) as runpod:
        pod_id = await created(runpod)
        await runpod.pod_in(pod_id, "STARTING")
        pod = await runpod.pod_in(pod_id, "RUNNING")
        assert pod["runtime"]["uptime"] >= 0
        assert pod["startedAt"].endswith("Z")
        assert pod["dataCenterId"]
        assert pod["actions"] == ["stop", "restart", "terminate"]


async def test_proxy_answers_502_until_the_service_is_up() -> None:
    """RUNNING means the container, not ComfyUI."""
    async with rig(boot=SLOW, scale=400) as runpod:
        pod_id = await created(runpod, env=TOKEN_ENV)
        path = f"/_proxy/{pod_id}-8188/system_stats"
        assert (await runpod.http.get(path, headers=WITH_TOKEN)).status_code == 502
        await runpod.pod_in(pod_id, "RUNNING")
        assert (await runpod.http.get(path, headers=WITH_TOKEN)).status_code == 502

        async def up() -> httpx.Response | None:
            answer = await runpod.http.get(path, headers=WITH_TOKEN)
            return answer if answer.status_code == 200 else None

        stats = (await eventually(up)).json()
        assert RTX_4090 in stats["devices"][0]["name"]


@pytest.mark.parametrize("headers", [{"Authorization": ""}, {"Authorization": "Bearer wrong"}])
async def test_pod_with_a_token_refuses_calls_without_it(headers: dict[str, str]) -> None:
    """The gate in the pod asks for the token of the pod's environment; the account's key is no good."""
    async with rig(static_pods=[StaticPod("abc", TOKEN)]) as runpod:
        for path in ("/system_stats", "/prompt", "/view?filename=a.mp4"):
            assert (await runpod.http.get(f"/_proxy/abc-8188{path}", headers=headers)).status_code == 401


async def test_pod_without_a_token_is_open_to_anyone() -> None:
    """ComfyUI has no authentication of its own; that such a pod is dangerous is for the client to notice."""
    async with rig(boot=QUICK) as runpod:
        pod_id = await created(runpod)
        async with httpx.AsyncClient() as anyone:
            answer = await anyone.get(f"{runpod.url}/_proxy/{pod_id}-8188/system_stats")
            assert answer.status_code == 200


async def test_prompt_runs_on_a_pod_and_its_file_comes_through_the_proxy() -> None:
    """Prompt, history and view work behind the proxy."""
    async with rig(static_pods=[StaticPod("abc", TOKEN)]) as runpod:
        entry = await finished_prompt(runpod, "/_proxy/abc-8188")
        file = entry["outputs"]["3"]["images"][0]
        view = await runpod.http.get("/_proxy/abc-8188/view", params=file, headers=WITH_TOKEN)
        assert view.content[4:8] == b"ftyp"
        part = await runpod.http.get("/_proxy/abc-8188/view", params=file, headers={**WITH_TOKEN, "Range": "bytes=4-7"})
        assert (part.status_code, part.content) == (206, b"ftyp")


async def test_prompt_on_a_pod_is_charged_its_seconds_at_the_pods_price() -> None:
    """A row like any other: seconds between the history's timestamps, rounded up, at the pod's GPU price."""
    async with rig(static_pods=[StaticPod("abc", TOKEN)], service_s=9.5) as runpod:
        entry = await finished_prompt(runpod, "/_proxy/abc-8188")
        times = {name: data["timestamp"] for name, data in entry["status"]["messages"]}
        seconds = -(-(times["execution_success"] - times["execution_start"]) // 1000)
        row = (await runpod.charges())[0]
        assert (row["job"], row["state"]) == ("demo/shot-1", "done")
        assert Decimal(row["usd"]) == seconds * Decimal("0.0001917")
        assert seconds == 10


async def test_faults_for_runpod_reach_comfyui_in_a_pod() -> None:
    """A rule for the server `comfyui` means the local one and leaves pods alone."""
    local = FaultRule.model_validate({"server": "comfyui", "operation": "execute", "action": "oom", "times": None})
    rules = [local, fault("execute", "fail")]
    async with rig(*rules, static_pods=[StaticPod("abc", TOKEN)]) as runpod:
        entry = await finished_prompt(runpod, "/_proxy/abc-8188")
        assert entry["status"]["messages"][-1][1]["exception_type"] == "ValueError"


async def test_undeclared_port_and_unknown_pod_are_404() -> None:
    """Only ports declared as `<port>/http` are forwarded."""
    async with rig(static_pods=[StaticPod("abc", TOKEN)]) as runpod:
        assert (await runpod.http.get("/_proxy/abc-9999/system_stats", headers=WITH_TOKEN)).status_code == 404
        assert (await runpod.http.get("/_proxy/nope-8188/system_stats", headers=WITH_TOKEN)).status_code == 404


async def test_controls_of_the_emulator_are_not_behind_the_proxy() -> None:
    """`/_emulator/...` belongs to whoever runs the emulator."""
    async with rig(static_pods=[StaticPod("abc", TOKEN)]) as runpod:
        answer = await runpod.http.post("/_proxy/abc-8188/_emulator/reset", headers=WITH_TOKEN)
        assert answer.status_code == 404


async def test_proxy_gives_up_after_a_hundred_seconds() -> None:
    """An answer that does not begin within 100 s is 524."""
    hang = fault("health", "hang")
    async with rig(hang, static_pods=[StaticPod("abc", TOKEN)], scale=1_000) as runpod:
        answer = await runpod.http.get("/_proxy/abc-8188/system_stats", headers=WITH_TOKEN)
        assert answer.status_code == 524


async def test_stopped_pod_costs_nothing_and_answers_nothing() -> None:
    """EXITED: cost 0, no runtime, 502 at the proxy, `start` is possible."""
    async with rig(boot=QUICK) as runpod:
        pod_id = await created(runpod)
        answer = await runpod.http.post(f"/v2/pods/{pod_id}/action", json={"action": "stop"})
        pod = answer.json()
        assert (answer.status_code, pod["status"], pod["cost"], pod["runtime"]) == (200, "EXITED", 0.0, None)
        assert pod["actions"] == ["start", "terminate"]
        assert (await runpod.http.get(f"/_proxy/{pod_id}-8188/prompt")).status_code == 502


async def test_restart_loses_comfyuis_queue_and_history() -> None:
    """The container starts anew; nothing in ComfyUI survives."""
    async with rig(boot=QUICK) as runpod:
        pod_id = await created(runpod, env=TOKEN_ENV)
        await finished_prompt(runpod, f"/_proxy/{pod_id}-8188")
        answer = await runpod.http.post(f"/v2/pods/{pod_id}/action", json={"action": "restart"})
        assert answer.status_code == 200
        history = await runpod.http.get(f"/_proxy/{pod_id}-8188/history", headers=WITH_TOKEN)
        assert history.json() == {}


@pytest.mark.parametrize(("state", "action"), [("RUNNING", "start"), ("EXITED", "stop"), ("EXITED", "restart")])
async def test_action_in_the_wrong_state_is_409(state: str, action: str) -> None:
    """Only the actions a pod lists are valid."""
    async with rig(boot=QUICK) as runpod:
        pod_id = await created(runpod)
        if state == "EXITED":
            await runpod.http.post(f"/v2/pods/{pod_id}/action", json={"action": "stop"})
        answer = await runpod.http.post(f"/v2/pods/{pod_id}/action", json={"action": action})
        assert answer.status_code == 409
        assert answer.headers["Content-Type"] == "application/problem+json"


async def test_delete_is_204_then_terminated_then_404() -> None:
    """A deleted pod leaves the list at once; its record stays for a minute."""
    async with rig(boot=SLOW) as runpod:
        pod_id = await created(runpod)
        answer = await runpod.http.delete(f"/v2/pods/{pod_id}")
        assert (answer.status_code, answer.content) == (204, b"")
        assert (await runpod.http.get("/v2/pods")).json() == {"pods": []}
        assert (await runpod.pod(pod_id))["status"] == "TERMINATED"

        async def forgotten() -> bool | None:
            return None if await runpod.pod(pod_id) else True

        assert await eventually(forgotten)


async def test_terminate_action_is_204() -> None:
    """`terminate` works in every state before TERMINATED, PROVISIONING too."""
    async with rig(boot=SLOW) as runpod:
        pod_id = await created(runpod)
        answer = await runpod.http.post(f"/v2/pods/{pod_id}/action", json={"action": "terminate"})
        assert answer.status_code == 204


async def test_list_wraps_and_shows_leaked_pods() -> None:
    """A pod nobody remembers is found in the list by its name."""
    async with rig(fault("create", "drop_after")) as runpod:
        with pytest.raises(httpx.TransportError):
            await runpod.create_pod(name="hv-lost")
        pods = (await runpod.http.get("/v2/pods")).json()["pods"]
        assert [pod["name"] for pod in pods] == ["hv-lost"]


async def test_create_is_not_idempotent() -> None:
    """The same body twice is two machines."""
    async with rig() as runpod:
        assert await created(runpod) != await created(runpod)


@pytest.mark.parametrize(
    "change",
    [
        {"gpuTypeIds": [RTX_4090]},
        {"interruptible": True},
        {"gpu": {"id": RTX_4090, "spot": True}},
        {"gpu": {"count": 1}},
        {"name": ""},
        {"image": ""},
        {"cloud": "CHEAP"},
        {"mounts": {"persistent": {"size": 5, "path": "/w"}}},
        {"env": {"A": 1}},
    ],
)
async def test_body_against_the_schema_is_422(change: dict[str, Any]) -> None:
    """Unknown fields, also those of the older API, and wrong values are refused with the list of errors."""
    async with rig() as runpod:
        answer = await runpod.create_pod(**change)
        assert answer.status_code == 422
        assert answer.json()["errors"]
        assert (await runpod.http.get("/v2/pods")).json() == {"pods": []}


@pytest.mark.parametrize(
    "change",
    [
        {"gpu": None},
        {"cpu": {"id": "cpu5c", "vcpuCount": 4}},
        {"mounts": {"persistent": {"size": 20, "path": "/a"}, "network": [{"volumeId": "v", "path": "/b"}]}},
        {"gpu": {"id": RTX_4090, "minCudaVersion": "12.4", "allowedCudaVersions": ["12.8"]}},
        {"gpu": {"id": "NVIDIA Unheard Of"}},
    ],
)
async def test_body_against_the_rules_is_400(change: dict[str, Any]) -> None:
    """Exactly one of gpu and cpu, one kind of mount, one kind of CUDA limit, a GPU that exists."""
    async with rig() as runpod:
        assert (await runpod.create_pod(**change)).status_code == 400


async def test_no_capacity_is_400_per_gpu() -> None:
    """One GPU type without stock, the next candidate works."""
    async with rig(stock={RTX_4090: "NONE"}) as runpod:
        refused = await runpod.create_pod()
        assert refused.status_code == 400
        assert "no capacity" in refused.json()["detail"]
        assert (await runpod.create_pod(gpu={"id": "NVIDIA L40S"})).status_code == 201


async def test_no_capacity_is_400_per_data_center() -> None:
    """Stock differs by place."""
    async with rig(stock={f"{RTX_4090}@EU-RO-1": "NONE"}) as runpod:
        assert (await runpod.create_pod(dataCenterIds=["EU-RO-1"])).status_code == 400
        assert (await runpod.create_pod(dataCenterIds=["EU-RO-1", "US-TX-3"])).status_code == 201


async def test_no_capacity_can_be_injected_for_one_gpu() -> None:
    """`fail` on create, matched by name or GPU."""
    async with rig(fault("create", "fail", match="RTX 4090")) as runpod:
        assert (await runpod.create_pod(gpu={"id": "NVIDIA L40S"})).status_code == 201
        assert (await runpod.create_pod()).status_code == 400


async def test_balance_below_an_hour_is_402() -> None:
    """Create and start need credit for one hour."""
    async with rig(balance_usd=Decimal("0.50")) as runpod:
        answer = await runpod.create_pod()
        assert answer.status_code == 402
        assert answer.json()["status"] == 402


@pytest.mark.parametrize(
    ("header", "detail"), [("", "missing bearer token"), ("Bearer invalid-key", "invalid bearer token")]
)
async def test_missing_key_is_a_problem_document(header: str, detail: str) -> None:
    """Errors are `application/problem+json`."""
    async with rig() as runpod:
        answer = await runpod.http.get("/v2/pods", headers={"Authorization": header})
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.json() == {"title": "Unauthorized", "status": 401, "detail": detail}


async def test_unknown_pod_is_a_problem_document() -> None:
    """404 `resource not found`."""
    async with rig() as runpod:
        answer = await runpod.http.get("/v2/pods/nothing")
        assert answer.json() == {"title": "Not Found", "status": 404, "detail": "resource not found"}


async def test_every_answer_carries_the_quota() -> None:
    """`RateLimit` counts down, `RateLimit-Policy` names the windows."""
    async with rig(management_per_minute=60) as runpod:
        first, second = [await runpod.http.get("/v2/pods") for _ in range(2)]
        assert first.headers["RateLimit"].startswith('"minute";r=59;t=60, "hour";')
        assert second.headers["RateLimit"].startswith('"minute";r=58;')
        assert first.headers["RateLimit-Policy"].startswith('"minute";q=60;w=60, "hour";q=3000;w=3600')


async def test_exhausted_quota_is_429_with_retry_after() -> None:
    """The answer says how long to wait; nothing was created."""
    async with rig(management_per_minute=1) as runpod:
        await runpod.http.get("/v2/pods")
        answer = await runpod.create_pod()
        assert answer.status_code == 429
        assert 1 <= int(answer.headers["Retry-After"]) <= 60


async def test_patch_resets_a_running_container() -> None:
    """A changed environment takes effect through a restart; unknown fields are 422."""
    async with rig(boot=BootTimes(0, 60, 0), scale=400) as runpod:
        pod_id = await created(runpod)
        await runpod.pod_in(pod_id, "RUNNING")
        answer = await runpod.http.patch(f"/v2/pods/{pod_id}", json={"env": {"A": "1"}})
        assert (answer.json()["status"], answer.json()["env"]) == ("STARTING", {"A": "1"})
        refused = await runpod.http.patch(f"/v2/pods/{pod_id}", json={"gpu": {"id": RTX_4090}})
        assert refused.status_code == 422


async def test_locked_pod_cannot_be_stopped() -> None:
    """`locked` prevents stop and restart."""
    async with rig(boot=QUICK) as runpod:
        pod_id = await created(runpod)
        await runpod.http.patch(f"/v2/pods/{pod_id}", json={"locked": True})
        answer = await runpod.http.post(f"/v2/pods/{pod_id}/action", json={"action": "stop"})
        assert answer.status_code == 409


async def test_start_after_stop_may_find_no_gpu() -> None:
    """A stop releases the GPU; the machine may have none left."""
    async with rig(boot=QUICK) as runpod:
        pod_id = await created(runpod)
        await runpod.http.post(f"/v2/pods/{pod_id}/action", json={"action": "stop"})
        runpod.emulator.catalog.stock[RTX_4090] = "NONE"
        answer = await runpod.http.post(f"/v2/pods/{pod_id}/action", json={"action": "start"})
        assert answer.status_code == 400
        assert (await runpod.pod(pod_id))["status"] == "EXITED"


async def test_logs_are_events_that_can_be_resumed() -> None:
    """Ids are times; `Last-Event-ID` continues after one."""
    async with rig(boot=QUICK) as runpod:
        pod_id = await created(runpod)

        async def events(headers: dict[str, str]) -> list[tuple[str, dict[str, str]]]:
            found: list[tuple[str, dict[str, str]]] = []
            async with runpod.http.stream("GET", f"/v2/pods/{pod_id}/logs", headers=headers) as stream:
                assert stream.headers["Content-Type"].startswith("text/event-stream")
                stamp = ""
                async for line in stream.aiter_lines():
                    if line.startswith("id: "):
                        stamp = line[4:]
                    elif line.startswith("data: "):
                        found.append((stamp, json.loads(line[6:])))
            return found

        async def terminate() -> None:
            await asyncio.sleep(0.1)
            await runpod.http.delete(f"/v2/pods/{pod_id}")

        ending = asyncio.create_task(terminate())
        lines = await events({})
        await ending
        assert {data["source"] for _, data in lines} == {"container", "system"}
        assert all(stamp == data["ts"] for stamp, data in lines)
        assert await events({"Last-Event-ID": lines[-1][0]}) == []


async def test_catalogue_shows_prices_and_stock() -> None:
    """Prices per hour and cloud; availability only together with `product`."""
    async with rig(stock={RTX_4090: "LOW", "NVIDIA L40S": "NONE"}) as runpod:
        plain = (await runpod.http.get("/v2/catalog/gpus")).json()["gpus"]
        assert all("availability" not in gpu for gpu in plain)
        answer = await runpod.http.get("/v2/catalog/gpus?include=AVAILABILITY&product=POD")
        gpus = {gpu["id"]: gpu for gpu in answer.json()["gpus"]}
        assert gpus[RTX_4090]["price"]["secure"] == 0.6901
        assert gpus[RTX_4090]["availability"] == "LOW"
        assert gpus["NVIDIA L40S"]["availability"] == "NONE"
        assert "dataCenters" not in gpus["NVIDIA L40S"]
        assert (await runpod.http.get("/v2/catalog/gpus?include=AVAILABILITY")).status_code == 400


async def test_data_centers_show_stock_where_asked() -> None:
    """`include=GPU_AVAILABILITY` adds the stock of each place."""
    async with rig(stock={f"{RTX_4090}@EU-RO-1": "NONE"}) as runpod:
        answer = await runpod.http.get("/v2/catalog/datacenters?include=GPU_AVAILABILITY")
        places = {place["id"]: place for place in answer.json()["dataCenters"]}
        stock = {gpu["id"]: gpu["availability"] for gpu in places["EU-RO-1"]["gpuAvailability"]}
        assert stock[RTX_4090] == "NONE"


async def test_billing_accrues_by_the_second_and_ends_with_the_pod() -> None:
    """Records per pod and bucket; a terminated pod stops costing."""
    async with rig(boot=QUICK, billing_lag_s=0, scale=1_000) as runpod:
        pod_id = await created(runpod)
        await runpod.clock.sleep(200)
        await runpod.http.delete(f"/v2/pods/{pod_id}")
        first = (await runpod.http.get(f"/v2/billing/pods?bucketSize=hour&lastN=2&podId={pod_id}")).json()
        await runpod.clock.sleep(100)
        second = (await runpod.http.get(f"/v2/billing/pods?bucketSize=hour&lastN=2&podId={pod_id}")).json()
        totals = first["metadata"]["totals"]
        assert set(first["records"][0]) == {
            "startTime",
            "endTime",
            "podId",
            "totalAmount",
            "gpuAmount",
            "cpuAmount",
            "diskAmount",
        }
        assert totals["gpuAmount"] >= 200 * 0.0001917
        assert totals["totalAmount"] == pytest.approx(totals["gpuAmount"] + totals["diskAmount"])
        assert second["metadata"]["totals"] == totals


async def test_billing_lags_behind() -> None:
    """What was spent in the last minutes is not reported yet."""
    async with rig(boot=QUICK, billing_lag_s=100_000) as runpod:
        await created(runpod)
        await runpod.clock.sleep(5)
        assert (await runpod.http.get("/v2/billing?bucketSize=day&lastN=3")).json()["records"] == []


async def test_stopped_pod_pays_for_its_persistent_disk_only() -> None:
    """Stopped disk costs, GPU does not."""
    async with rig(boot=QUICK, billing_lag_s=0, scale=2_000) as runpod:
        pod_id = await created(runpod, mounts={"persistent": {"size": 100, "path": "/workspace"}})
        await runpod.http.post(f"/v2/pods/{pod_id}/action", json={"action": "stop"})
        url = "/v2/billing/pods?bucketSize=hour&lastN=2"
        before = (await runpod.http.get(url)).json()["metadata"]["totals"]
        await runpod.clock.sleep(1_000)
        after = (await runpod.http.get(url)).json()["metadata"]["totals"]
        assert after["gpuAmount"] == before["gpuAmount"]
        assert after["diskAmount"] > before["diskAmount"]


async def test_static_pod_answers_from_the_start_and_survives_a_reset() -> None:
    """A pod given at construction is RUNNING and up; a reset brings it back, others are gone."""
    async with rig(static_pods=[StaticPod("abc", TOKEN)]) as runpod:
        await created(runpod)
        await finished_prompt(runpod, "/_proxy/abc-8188")
        await runpod.http.post("/_emulator/reset")
        assert [pod["id"] for pod in (await runpod.http.get("/v2/pods")).json()["pods"]] == ["abc"]
        history = await runpod.http.get("/_proxy/abc-8188/history", headers=WITH_TOKEN)
        assert history.json() == {}
        assert await runpod.charges() == []


@pytest.mark.parametrize(("operation", "call"), [("list", "/v2/pods"), ("get", "/v2/pods/abc")])
async def test_reads_of_the_management_api_can_fail(operation: str, call: str) -> None:
    """Rules for list and get."""
    async with rig(fault(operation, "status", status=500), static_pods=[StaticPod("abc", TOKEN)]) as runpod:
        assert (await runpod.http.get(call)).status_code == 500
        assert (await runpod.http.get(call)).status_code == 200


async def test_pod_can_vanish() -> None:
    """`lose` on get: the pod is 404 for a moment, as when the vendor has lost it."""
    async with rig(fault("get", "lose"), static_pods=[StaticPod("abc", TOKEN)]) as runpod:
        assert (await runpod.http.get("/v2/pods/abc")).status_code == 404


async def test_pods_are_terminated_when_the_balance_is_used_up() -> None:
    """At zero every pod stops; one without a network volume is lost with its data."""
    mounts = {"network": [{"volumeId": "v1", "path": "/workspace"}]}
    async with rig(boot=QUICK, balance_usd=Decimal("1.50"), scale=100_000) as runpod:
        kept, lost = await created(runpod, mounts=mounts), await created(runpod)
        await runpod.pod_in(kept, "EXITED")
        assert (await runpod.pod(lost)).get("status") in {"TERMINATED", None}


async def test_websocket_passes_the_proxy_and_is_closed_after_a_hundred_seconds() -> None:
    """The proxy carries websockets, but not for long."""
    async with rig(static_pods=[StaticPod("abc", TOKEN)], scale=1_000) as runpod:
        address = f"{runpod.url}/_proxy/abc-8188/ws?clientId=me".replace("http://", "ws://")
        async with websockets.connect(address, additional_headers=WITH_TOKEN) as socket:
            assert json.loads(await socket.recv())["type"] == "status"
            async with asyncio.timeout(5):
                await socket.wait_closed()


async def test_endpoint_record_has_ready_made_urls() -> None:
    """`requestUrls` need not be built by hand."""
    async with rig() as runpod:
        record = (await runpod.http.get("/v2/serverless/emulated")).json()
        assert record["requestUrls"]["runSync"] == f"{runpod.url}/v2/emulated/runsync"
        assert (await runpod.http.get(record["requestUrls"]["health"])).status_code == 200
        assert (await runpod.http.get("/v2/serverless/other")).status_code == 404
