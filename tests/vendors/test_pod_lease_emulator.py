"""The emulated pod keeps the lease of docs/pods.md: it ends itself at the very second, and is billed until then."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import httpx
import pytest
from runpod_rig import Rig, rig

from hybrid_video.emulators.faults import FaultRule
from hybrid_video.emulators.runpod import BootTimes

TOKEN = "pod-token-0123456789"
BOOT = BootTimes(provisioning_s=5.0, starting_s=5.0, service_s=10.0)


@pytest.fixture
async def api() -> AsyncIterator[Rig]:
    async with rig(scale=100.0, boot=BOOT, billing_lag_s=0.0) as running:
        yield running


async def leased(api: Rig, lease_s: str = "100", **env: str) -> str:
    """A pod with a keeper; returns its id."""
    fields = {"HYBRID_VIDEO_POD_TOKEN": TOKEN, "HYBRID_VIDEO_POD_LEASE_S": lease_s, **env}
    answer = await api.create_pod(env=fields)
    return str(answer.raise_for_status().json()["id"])


async def lease(api: Rig, pod_id: str, body: Any = None, *, token: str = TOKEN) -> httpx.Response:
    """`POST /lease` with a body, else `GET`."""
    headers = {"Authorization": f"Bearer {token}"}
    url = f"/_proxy/{pod_id}-8188/lease"
    if body is None:
        return await api.http.get(url, headers=headers)
    return await api.http.post(url, json=body, headers=headers)


async def test_a_pod_nobody_renews_ends_itself_and_is_billed_until_then(api: Rig) -> None:
    """The lease begins when the container starts: 5 + 5 + 100 seconds are billed, not one more."""
    pod_id = await leased(api)
    await api.pod_in(pod_id, "TERMINATED")
    assert (await api.http.get("/v2/pods")).json() == {"pods": []}
    bill = (await api.http.get("/v2/billing/pods", params={"podId": pod_id, "lastN": "2"})).json()
    gpu = api.emulator.catalog.usd_per_s("NVIDIA GeForce RTX 4090") or Decimal(0)
    assert bill["metadata"]["totals"]["gpuAmount"] == pytest.approx(float(gpu * 110), rel=1e-6)


async def test_a_renewal_begins_a_new_lease_from_now(api: Rig) -> None:
    """Longer or shorter than what was left; GET tells without renewing."""
    pod_id = await leased(api)
    await api.pod_in(pod_id, "RUNNING")
    answer = (await lease(api, pod_id, {"lease_s": 500})).json()
    assert answer["lease_s"] == answer["ends_in_s"] == 500
    assert answer["name"] == "worker-1"
    assert (await lease(api, pod_id)).json()["ends_in_s"] < 500
    await lease(api, pod_id, {"lease_s": 20})
    await api.pod_in(pod_id, "TERMINATED")


async def test_the_keeper_answers_before_comfyui_does(api: Rig) -> None:
    """The proxy's other routes are 502 until the program is up."""
    pod_id = await leased(api)
    assert (await lease(api, pod_id)).status_code == 502
    await api.pod_in(pod_id, "RUNNING")
    assert (await lease(api, pod_id)).status_code == 200
    assert (await api.http.get(f"/_proxy/{pod_id}-8188/prompt")).status_code == 502


async def test_without_the_token_or_with_nonsense_nothing_is_renewed(api: Rig) -> None:
    """401 and 400; a pod without a keeper is 404."""
    pod_id = await leased(api)
    await api.pod_in(pod_id, "RUNNING")
    assert (await lease(api, pod_id, {"lease_s": 5000}, token="wrong")).status_code == 401
    for nonsense in ({}, {"lease_s": 0}, {"lease_s": "600"}, {"lease_s": 1e6}, [600]):
        assert (await lease(api, pod_id, nonsense)).status_code == 400
    assert (await lease(api, pod_id)).json()["ends_in_s"] <= 100
    bare = await api.create_pod(name="bare", env={"HYBRID_VIDEO_POD_TOKEN": TOKEN})
    await api.pod_in(bare.json()["id"], "RUNNING")
    assert (await lease(api, bare.json()["id"], {"lease_s": 100})).status_code == 404


async def test_a_prompt_that_runs_when_the_lease_ends_is_cut(api: Rig) -> None:
    """The machine is gone, and with it queue and history; the proxy knows the pod no more."""
    pod_id = await leased(api, "30")
    await api.pod_in(pod_id, "TERMINATED")
    headers = {"Authorization": f"Bearer {TOKEN}"}
    assert (await api.http.get(f"/_proxy/{pod_id}-8188/queue", headers=headers)).status_code in (404, 502)


async def test_a_container_that_is_reset_begins_its_lease_anew(api: Rig) -> None:
    """As the keeper starts anew with it."""
    pod_id = await leased(api)
    await api.pod_in(pod_id, "RUNNING")
    await asyncio.sleep(0.5)
    await api.http.post(f"/v2/pods/{pod_id}/action", json={"action": "restart"})
    await api.pod_in(pod_id, "RUNNING")
    assert (await lease(api, pod_id)).json()["ends_in_s"] > 80


async def test_a_renewal_can_be_lost_before_or_after_it_counts() -> None:
    """Fault rules for the operation `lease`."""
    rules = (
        FaultRule(server="runpod", operation="lease", action="drop"),
        FaultRule(server="runpod", operation="lease", action="drop_after"),
    )
    async with rig(*rules, scale=100.0, boot=BOOT) as api:
        pod_id = await leased(api)
        await api.pod_in(pod_id, "RUNNING")
        for counts in (False, True):
            with pytest.raises(httpx.TransportError):
                await lease(api, pod_id, {"lease_s": 5000})
            assert ((await lease(api, pod_id)).json()["ends_in_s"] > 1000) is counts


async def test_a_community_pod_is_billed_at_its_own_price(api: Rig) -> None:
    """The catalogue's community price is what `cost` and the bill say; some GPUs exist in the secure cloud only."""
    secure = (await api.create_pod()).json()["cost"]
    community = (await api.create_pod(cloud="COMMUNITY")).json()["cost"]
    assert community == pytest.approx(secure * 0.8, abs=0.001)
    answer = await api.create_pod(cloud="COMMUNITY", gpu={"id": "NVIDIA H100 80GB HBM3"})
    assert answer.status_code == 400


async def test_a_probe_is_no_job_of_anybodys() -> None:
    """It takes a second whatever clips take, and is on the pod's bill only."""
    async with rig(scale=100.0, boot=BOOT, service_s=500.0) as api:
        pod_id = await leased(api, "5000")
        await api.pod_in(pod_id, "RUNNING")
        graph = {
            "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 4, "color": 0}},
            "2": {"class_type": "CreateVideo", "inputs": {"images": ["1", 0], "fps": 8}},
            "3": {
                "class_type": "SaveVideo",
                "inputs": {"video": ["2", 0], "filename_prefix": "hv-probe/x", "format": "mp4", "codec": "h264"},
            },
        }
        headers = {"Authorization": f"Bearer {TOKEN}"}
        url = f"/_proxy/{pod_id}-8188"
        while (
            answer := await api.http.post(f"{url}/prompt", json={"prompt": graph}, headers=headers)
        ).status_code != 200:
            await asyncio.sleep(0.02)
        prompt_id = answer.json()["prompt_id"]
        for _ in range(100):
            history = (await api.http.get(f"{url}/history/{prompt_id}", headers=headers)).json()
            if history:
                break
            await asyncio.sleep(0.02)
        assert history[prompt_id]["status"]["status_str"] == "success"
        assert await api.charges() == []
