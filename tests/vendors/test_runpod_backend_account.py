"""The account's balance, through the runpod package's GraphQL call."""

from __future__ import annotations

from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest
from aiohttp import web
from pydantic import SecretStr

from hybrid_video.backends.runpod import account
from hybrid_video.emulators.server import start_server
from hybrid_video.settings import RunPodSettings

SETTINGS = RunPodSettings(api_key=SecretStr("rpa_123456789"))


@pytest.fixture
async def graphql(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[dict[str, Any]]:
    """A GraphQL endpoint; `seen` is what it was asked, `answer` and `status` what it says."""
    state: dict[str, Any] = {
        "status": 200,
        "answer": {"data": {"myself": {"clientBalance": 12.5, "currentSpendPerHr": 2.5}}},
    }

    async def handle(request: web.Request) -> web.Response:
        state["key"] = request.headers.get("Authorization")
        state["query"] = (await request.json())["query"]
        return web.json_response(state["answer"], status=state["status"])

    app = web.Application()
    app.router.add_post("/graphql", handle)
    server = await start_server(app)
    monkeypatch.setenv("RUNPOD_API_BASE_URL", server.url)
    yield state
    await server.close()


async def test_the_balance_and_how_long_it_lasts(graphql: dict[str, Any]) -> None:
    """GraphQL is the only place that tells the balance."""
    found = await account.balance(SETTINGS)
    assert found is not None
    assert (found.balance_usd, found.spend_usd_per_hour, found.hours_left) == (Decimal("12.5"), Decimal("2.5"), 5.0)
    assert graphql["key"] == "Bearer rpa_123456789"


@pytest.mark.parametrize(
    ("status", "answer"), [(401, {}), (200, {"errors": [{"message": "x"}]}), (200, {"data": None}), (200, [])]
)
async def test_no_balance_is_no_obstacle(graphql: dict[str, Any], status: int, answer: Any) -> None:
    """Refusals and odd answers mean "not known", because GraphQL is going away."""
    graphql |= {"status": status, "answer": answer}
    assert await account.balance(SETTINGS) is None


async def test_an_emulator_and_a_missing_key_are_not_asked(graphql: dict[str, Any]) -> None:
    """Only RunPod itself is asked."""
    assert await account.balance(RunPodSettings(api_key=None)) is None
    local = RunPodSettings(api_key=SecretStr("rpa_123456789"), pods_url="http://127.0.0.1:9/v2")
    assert await account.balance(local) is None
    assert "query" not in graphql
