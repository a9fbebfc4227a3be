"""The client of the management API v2 against a small server that answers with the documented shapes and codes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pytest
from aiohttp import web
from pydantic import SecretStr, ValidationError

from hybrid_video.backends.runpod import PodsClient, PodSpec
from hybrid_video.emulators.server import cut, start_server
from hybrid_video.errors import BackendError, FailureKind, SubmitUncertain, TerminalError, TransientError
from hybrid_video.settings import RunPodSettings

# The documented example of a created pod, with a field this program does not know.
POD: dict[str, Any] = {
    "id": "7h9k2m4n6p",
    "name": "hv-1",
    "image": "runpod/pytorch:1.0.2",
    "args": "",
    "disk": 50,
    "ports": ["8188/http"],
    "env": {"SECRET": "do-not-keep"},
    "registry": None,
    "status": "PROVISIONING",
    "actions": ["stop", "terminate"],
    "mounts": {"persistent": {"size": 20, "path": "/workspace"}},
    "gpu": {"id": "NVIDIA GeForce RTX 4090", "count": 1},
    "cloud": "SECURE",
    "dataCenterId": None,
    "cudaVersion": "12.8",
    "ssh": {"proxy": None, "direct": None},
    "template": None,
    "cost": 0.69,
    "locked": False,
    "globalNetworking": {"enabled": False},
    "runtime": {},
    "createdAt": "2026-06-01T12:00:00Z",
    "startedAt": None,
    "addedLater": {"x": 1},
}
SPEC = PodSpec(name="hv-1", image="comfy:1", gpu="NVIDIA GeForce RTX 4090", ports=("8188/http",), env={"TOKEN": "t"})


@dataclass
class Management:
    """Gives the prepared answers in order, the last one for ever, and keeps every call."""

    url: str = ""
    answers: list[Any] = field(default_factory=list)
    calls: list[tuple[str, str, Any]] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json() if request.can_read_body else None
        self.calls.append((request.method, request.path_qs, body))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer == "cut":
            cut(request)
            return web.Response()
        if isinstance(answer, tuple):
            code, detail, headers = answer
            data = {"title": "Problem", "status": code, "detail": detail, "errors": ["body.gpu: x"]}
            return web.json_response(data, status=code, headers=headers, content_type="application/problem+json")
        return web.json_response(answer) if answer is not None else web.Response(status=204)


@pytest.fixture
async def api() -> AsyncIterator[Management]:
    management = Management()
    app = web.Application()
    app.router.add_route("*", "/v2/{tail:.*}", management.handle)
    server = await start_server(app)
    management.url = server.url
    yield management
    await server.close()


@pytest.fixture
async def pods(api: Management) -> AsyncIterator[PodsClient]:
    client = PodsClient.from_settings(RunPodSettings(api_key=SecretStr("rpa_123456789"), pods_url=api.url))
    yield client
    await client.close()


async def test_create_sends_only_what_is_set(api: Management, pods: PodsClient) -> None:
    """The service answers an unknown or empty field with 422, so the body holds nothing superfluous."""
    api.answers = [POD]
    pod = await pods.create(SPEC)
    assert api.calls == [
        (
            "POST",
            "/v2/pods",
            {
                "name": "hv-1",
                "cloud": "SECURE",
                "gpu": {"id": "NVIDIA GeForce RTX 4090", "count": 1},
                "image": "comfy:1",
                "ports": ["8188/http"],
                "env": {"TOKEN": "t"},
            },
        )
    ]
    assert pod.cost == Decimal("0.69")
    assert pod.gpu_name == "NVIDIA GeForce RTX 4090"
    assert pod.costs_money
    assert "do-not-keep" not in pod.model_dump_json()


def test_a_network_volume_and_a_local_one_have_their_own_forms() -> None:
    """Mounts follow the documented shapes; the local volume has a floor of 10 GB."""
    network = SPEC.model_copy(update={"network_volume_id": "v1"}).body()["mounts"]
    local = SPEC.model_copy(update={"persistent_gb": 20}).body()["mounts"]
    assert network == {"network": [{"volumeId": "v1", "path": "/workspace"}]}
    assert local == {"persistent": {"size": 20, "path": "/workspace"}}
    with pytest.raises(ValidationError):
        PodSpec(name="a", gpu="b", persistent_gb=5)


@pytest.mark.parametrize(
    ("answer", "error", "kind"),
    [
        ((400, "There are no longer any instances available", {}), TransientError, FailureKind.NO_CAPACITY),
        ((402, "insufficient balance", {}), TerminalError, FailureKind.INSUFFICIENT_FUNDS),
        ((403, "access denied", {}), TerminalError, FailureKind.AUTHENTICATION),
        ((401, "missing bearer token", {}), TerminalError, FailureKind.AUTHENTICATION),
        ((422, "Request validation failed.", {}), TerminalError, FailureKind.INVALID_REQUEST),
        ((429, "slow down", {"Retry-After": "12"}), TransientError, FailureKind.RATE_LIMITED),
        ((500, "oops", {}), SubmitUncertain, FailureKind.UNCERTAIN),
        ((503, "oops", {}), SubmitUncertain, FailureKind.UNCERTAIN),
        ({"unexpected": True}, SubmitUncertain, FailureKind.UNCERTAIN),
        ("cut", SubmitUncertain, FailureKind.UNCERTAIN),
    ],
)
async def test_a_create_is_sent_once_whatever_the_answer(
    api: Management, pods: PodsClient, answer: Any, error: type[BackendError], kind: FailureKind
) -> None:
    """Each code of the create has its kind, and none leads to a second, perhaps second paid, pod."""
    api.answers = [answer]
    with pytest.raises(error) as caught:
        await pods.create(SPEC)
    assert caught.value.kind is kind
    assert len(api.calls) == 1
    assert getattr(caught.value, "retry_after_s", None) == (12 if kind is FailureKind.RATE_LIMITED else None)


async def test_the_vendors_words_are_in_the_message(api: Management, pods: PodsClient) -> None:
    """400 means no capacity or a broken rule; only `detail` tells which."""
    api.answers = [(400, "no instances available", {})]
    with pytest.raises(TransientError, match="no instances available"):
        await pods.create(SPEC)


async def test_a_pod_whose_create_answer_was_lost_is_found_by_name(api: Management, pods: PodsClient) -> None:
    """Names are ours and unique; a terminated namesake does not count."""
    api.answers = [{"pods": [{**POD, "id": "old", "status": "TERMINATED"}, POD]}]
    found = await pods.find("hv-1")
    assert found is not None
    assert found.id == "7h9k2m4n6p"
    assert await pods.find("hv-2") is None


async def test_reads_are_repeated_and_honour_retry_after(api: Management, pods: PodsClient) -> None:
    """A list survives a cut, a 500 and a 429."""
    api.answers = ["cut", (500, "x", {}), (429, "x", {"Retry-After": "0"}), {"pods": [POD]}]
    assert [pod.id for pod in await pods.list()] == ["7h9k2m4n6p"]
    assert len(api.calls) == 4


async def test_a_gone_pod_is_none_and_terminating_it_is_no_error(api: Management, pods: PodsClient) -> None:
    """404 is an answer, not a failure: nothing costs money any more."""
    api.answers = [(404, "resource not found", {})]
    assert await pods.get("gone") is None
    assert await pods.terminate("gone") is False
    api.answers = [None]
    assert await pods.terminate("there/../x") is True
    assert api.calls[-1][:2] == ("DELETE", "/v2/pods/there%2F..%2Fx")


async def test_an_action_whose_answer_was_lost_is_not_a_conflict(api: Management, pods: PodsClient) -> None:
    """The repeated stop meets 409, and the pod turns out to be stopped."""
    api.answers = ["cut", (409, "not valid", {}), {**POD, "status": "EXITED", "cost": 0}]
    pod = await pods.stop("p1")
    assert pod.status == "EXITED"
    assert not pod.costs_money


async def test_a_real_conflict_is_told(api: Management, pods: PodsClient) -> None:
    """A start of a pod in ERROR that is refused says so."""
    api.answers = [(409, "not valid now", {}), {**POD, "status": "ERROR"}]
    with pytest.raises(TerminalError, match="not valid now"):
        await pods.start("p1")
    assert api.calls[0] == ("POST", "/v2/pods/p1/action", {"action": "start"})


async def test_the_catalogue_tells_price_and_stock(api: Management, pods: PodsClient) -> None:
    """Stock needs `include` and `product`; prices are exact decimals, and a level nobody knows is UNKNOWN."""
    gpu = {
        "id": "NVIDIA GeForce RTX 4090",
        "name": "RTX 4090",
        "pool": "ADA_24",
        "memory": 24,
        "secure": True,
        "community": True,
        "price": {"secure": 0.69, "community": 0.34, "serverless": 1.1},
        "availability": "LOW",
    }
    api.answers = [{"gpus": [gpu, {**gpu, "id": "other", "availability": "SOLD_OUT", "price": {"secure": 1}}]}]
    first, second = await pods.catalogue()
    assert api.calls[0][1] == "/v2/catalog/gpus?include=AVAILABILITY&product=POD&cloud=SECURE&count=1"
    assert (first.price.secure, first.price.serverless, first.availability) == (Decimal("0.69"), Decimal("1.1"), "LOW")
    assert second.availability == "UNKNOWN"


async def test_bills_are_decimals_in_their_buckets(api: Management, pods: PodsClient) -> None:
    """The totals of pods and endpoints are read as booked."""
    bucket = {"startTime": "2026-06-01T12:00:00Z", "endTime": "2026-06-01T13:00:00Z", "totalAmount": 0.1234}
    api.answers = [{"records": [{**bucket, "podId": "p1", "gpuAmount": 0.1}], "metadata": {}}]
    (bill,) = await pods.pod_bills(pod_id="p1")
    assert (bill.pod_id, bill.total_amount) == ("p1", Decimal("0.1234"))
    api.answers = [{"records": [{**bucket, "serverlessId": "e1", "feeAmount": 0.01}], "metadata": {}}]
    (other,) = await pods.serverless_bills(endpoint_id="e1", bucket="day", last=2)
    assert other.fee_amount == Decimal("0.01")
    assert api.calls[-1][1] == "/v2/billing/serverless?bucketSize=day&lastN=2&serverlessId=e1"


@pytest.mark.parametrize("answer", [{"pods": "x"}, [], {"pods": [{"id": 1}]}])
async def test_nonsense_is_transient(api: Management, pods: PodsClient, answer: Any) -> None:
    """A list that is none never becomes an empty fleet."""
    api.answers = [answer]
    with pytest.raises(TransientError, match="makes no sense"):
        await pods.list()


async def test_an_unknown_status_still_costs_money(api: Management, pods: PodsClient) -> None:
    """A word the documentation does not have is never taken for "ended"."""
    api.answers = [{**POD, "status": "MIGRATING"}]
    pod = await pods.get("p1")
    assert pod is not None
    assert (pod.status, pod.costs_money) == ("UNKNOWN", True)
