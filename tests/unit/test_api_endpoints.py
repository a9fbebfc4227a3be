"""Every endpoint of the API over a filled ledger: what it answers is what the views say, field by field."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from hybrid_video import views
from hybrid_video.api.live import Load, UnderWay, expected_waits
from hybrid_video.api.snapshot import Snapshot
from hybrid_video.client import Client
from hybrid_video.client.calls import ApiError
from hybrid_video.errors import NotFoundError
from hybrid_video.ledger import schema as t
from hybrid_video.models import AttemptState, Lane, Tier, utc_now
from tests.unit.api_rig import Served, serving
from tests.unit.deciding_rig import job, quote
from tests.unit.ledger_rig import advance, fail, finish, make_batch, make_order, reserve


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A batch with finished, failed, running and uncertain jobs, and a pod."""
    home = tmp_path_factory.mktemp("api")
    with serving(home, writes_per_minute=100_000) as served:
        folder = home / "clips"
        batch = make_batch("film", 6, budget_usd=Decimal(5))
        served.ledger.register(batch, out_dir=folder)
        clip = folder / "film" / "shot-0.mp4"
        clip.parent.mkdir(parents=True)
        clip.write_bytes(bytes(range(256)) * 40)
        for shot, state in zip(batch.jobs, ("done", "done", "failed", "running", "uncertain"), strict=False):
            order = make_order("film", shot, usd="0.0123")
            reserve(served.ledger, order, served.owner)
            if state == "done":
                advance(served.ledger, order, AttemptState.COLLECTED, path=clip)
                finish(served.ledger, order, "0.0123")
            elif state == "failed":
                fail(served.ledger, order, "0.001")
            else:
                advance(served.ledger, order, AttemptState(state))
        with served.ledger.writing() as connection:
            values = {"gpu": "RTX 4090", "cloud": "SECURE", "price_usd_per_h": Decimal("0.69")}
            values |= {"storage_usd_per_h": Decimal("0.01"), "reserved_usd": Decimal(0), "booked_usd": Decimal(0)}
            for number, state in enumerate(("ready", "starting", "closed")):
                at = utc_now() + timedelta(seconds=number)
                row = {"name": f"pod-{number}", "pod_id": f"id{number}", "state": state, "day": "2026-01-01"}
                connection.execute(sa.insert(t.pods).values(intended_at=at, **row, **values))
            event = {"pod": "pod-0", "at": utc_now(), "event": "ready", "detail": "rendered its probe"}
            connection.execute(sa.insert(t.pod_events).values(event))
        yield served


def ok(answer: httpx.Response, status: int = 200) -> dict:  # type: ignore[type-arg]
    """The JSON of a success."""
    assert answer.status_code == status, answer.text
    return answer.json()  # type: ignore[no-any-return]


def test_status_is_the_overview_and_the_backends(served: Served) -> None:
    """The same figures as the views; money as exact text."""
    found = ok(served.get("/api/loadbalancer/status"))
    seen = views.overview(served.ledger, served.settings)
    assert found["overview"]["active_jobs"] == seen.active_jobs == 1
    assert found["overview"]["completed_today"] == 2
    assert found["overview"]["spend"]["today_usd"] == "0.0256"
    assert [view["backend"] for view in found["backends"]] == [
        view.backend for view in views.backends(served.ledger, served.settings)
    ]
    assert ok(served.get("/api/loadbalancer/backends")) == [
        {**view, "health": view["health"]} for view in found["backends"]
    ]


def test_status_follows_a_change_of_the_ledger_within_a_second(served: Served) -> None:
    """What is remembered for everybody is forgotten in time."""
    served.ledger.register(make_batch("late", 7), out_dir=Path("/tmp"))  # noqa: S108 - nothing is written there
    until = datetime.now(UTC) + timedelta(seconds=3)
    while ok(served.get("/api/loadbalancer/status"))["overview"]["queued_jobs"] < 7:
        assert datetime.now(UTC) < until
    served.ledger.finish_batch("late")


def test_lists_are_pages(served: Served) -> None:
    """With a cursor until there is none."""
    page = ok(served.get("/api/batches/film/jobs", params={"limit": 4}))
    rest = ok(served.get("/api/batches/film/jobs", params={"limit": 4, "cursor": page["next_cursor"]}))
    assert [line["job"] for line in page["items"] + rest["items"]] == [f"shot-{n}" for n in range(6)]
    assert rest["next_cursor"] is None
    done = ok(served.get("/api/batches/film/jobs", params={"state": "done"}))["items"]
    assert [line["job"] for line in done] == ["shot-0", "shot-1"]
    assert served.get("/api/batches", params={"cursor": "x"}).status_code == 422
    assert served.get("/api/batches", params={"limit": 501}).status_code == 422


def test_a_batch_and_a_job_are_shown_in_full(served: Served) -> None:
    """Progress, money by tier, decision card, attempts; nothing of a vendor's handle."""
    detail = ok(served.get("/api/batches/film"))
    assert detail["run"] is None
    assert detail["view"]["batch"]["budget_usd"] == "5.00"
    assert detail["view"]["by_tier"][0]["cost_usd"] == "0.0256"
    card = ok(served.get("/api/batches/film/jobs/shot-0"))
    assert card["decisions"][0]["candidates"][1]["lost_because"] == "scores 30 points less"
    assert card["attempts"][0]["cost_usd"] == "0.0123"
    assert "remote-" not in str(card)
    assert served.get("/api/batches/film/jobs/shot-9").status_code == 404
    assert served.get("/api/batches/nothing").status_code == 404


def test_a_clip_comes_whole_in_part_and_not_at_all(served: Served) -> None:
    """Ranges, ETag, attachment; never a path from outside."""
    url = "/api/batches/film/jobs/shot-0/clip"
    whole = served.get(url)
    assert (whole.status_code, len(whole.content)) == (200, 10_240)
    assert whole.headers["content-type"] == "video/mp4"
    part = served.get(url, headers={"Range": "bytes=256-511"})
    assert (part.status_code, part.content) == (206, bytes(range(256)))
    assert served.get(url, headers={"Range": "bytes=-5"}).content == whole.content[-5:]
    assert served.get(url, headers={"Range": "bytes=99999-"}).status_code == 416
    assert served.get(url, headers={"If-None-Match": whole.headers["etag"]}).status_code == 304
    assert served.get(url, params={"download": "true"}).headers["content-disposition"].startswith("attachment")
    assert served.http.head(url).headers["content-length"] == "10240"
    assert served.get("/api/batches/film/jobs/shot-5/clip").status_code == 404
    for path in ("../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%2e%2e", ".hidden", "a/b", "a%00b"):
        assert served.get(f"/api/batches/film/jobs/{path}/clip").status_code in (404, 422)
        assert served.get(f"/api/batches/{path}").status_code in (404, 422)


def test_events_wait_for_something_new(served: Served) -> None:
    """A long poll is answered when something happens, not when its time is over."""
    name = "watched"
    served.ledger.register(make_batch(name, 1), out_dir=Path("/tmp"))  # noqa: S108 - nothing is written there
    cursor = ok(served.get(f"/api/batches/{name}/events"))["cursor"]
    nothing = ok(served.get(f"/api/batches/{name}/events", params={"cursor": cursor, "wait_s": 0.2}))
    assert (nothing["items"], nothing["cursor"]) == ([], cursor)
    order = make_order(name, job("shot-0"))
    timer = threading.Timer(0.4, lambda: reserve(served.ledger, order, served.owner))
    timer.start()
    began = utc_now()
    found = ok(served.get(f"/api/batches/{name}/events", params={"cursor": cursor, "wait_s": 20}))
    assert [event["kind"] for event in found["items"]] == ["decided"]
    assert utc_now() - began < timedelta(seconds=10)
    timer.join()
    fail(served.ledger, order)
    served.ledger.finish_batch(name)


def test_spend_by_any_dimension(served: Served) -> None:
    """Several at once; days in the wrong order are a sentence."""
    found = ok(served.get("/api/spend", params={"by": ["tier", "batch"], "batch": "film"}))
    assert found["lines"][0]["key"] == {"tier": "cloud", "batch": "film"}
    assert found["cost_usd"] == "0.0256"
    assert served.get("/api/spend", params={"since": "2026-02-01", "until": "2026-01-01"}).status_code == 422
    assert served.get("/api/spend", params={"by": "colour"}).status_code == 422


def test_preferences_change_reset_and_refuse(served: Served) -> None:
    """Typed; all or nothing; null resets a field."""
    changed = ok(served.post("/api/loadbalancer/preferences", {"backend": "local", "max_pods": 2}))
    assert changed["effective"]["backend"] == "local"
    assert changed["environment"]["backend"] == "auto"
    assert set(changed["changed"]) == {"backend", "max_pods"}
    assert ok(served.get("/api/loadbalancer/status"))["overview"]["pods"]["max_pods"] == 2
    refused = served.post("/api/loadbalancer/preferences", {"backend": "auto", "max_pods": -1})
    assert refused.status_code == 422
    assert ok(served.get("/api/loadbalancer/preferences"))["effective"]["backend"] == "local"
    zero = {f"weight_{name}": 0 for name in ("priority", "cost", "speed", "queue")}
    assert "all 0" in served.post("/api/loadbalancer/preferences", zero).json()["detail"]
    assert set(ok(served.post("/api/loadbalancer/preferences", {"backend": None}))["changed"]) == {"max_pods"}
    assert ok(served.http.delete("/api/loadbalancer/preferences"))["changed"] == {}


def test_estimates_show_money_and_time_of_both(served: Served) -> None:
    """The seed's headline, computed: 45/38/17 costs $1.626, never $0.46."""
    body = {"jobs": 100, "prices": "seed", "slots": {"local": 3, "cloud": 5, "gemini": 10}, "deadline_s": 150}
    found = ok(served.post("/api/loadbalancer/estimate-cost", body))
    assert sum(found["split"].values()) == 100
    assert found["all_gemini_usd"] == "8.00"
    assert found["all_gemini_duration_s"] == 50
    split = found["split"]
    assert Decimal(found["cost_usd"]) == split["cloud"] * Decimal("0.007") + split["gemini"] * Decimal("0.08")
    assert found["feasible"]
    too_soon = ok(served.post("/api/loadbalancer/estimate-cost", {**body, "deadline_s": 1}))
    assert (too_soon["feasible"], too_soon["missed"]) == (False, "deadline")
    assert served.post("/api/loadbalancer/estimate-cost", {"jobs": 10_001}).status_code == 422
    assert found["pods"] is None
    rented = ok(served.post("/api/loadbalancer/estimate-cost", {**body, "deadline_s": 300, "pods": 5}))["pods"]
    assert Decimal(rented["plan"]["opening_usd"]) > 0 or rented["plan"]["pods"] == 0
    assert rented["plan"]["duration_s"] <= 300
    assert served.post("/api/loadbalancer/estimate-cost", {**body, "pods": 21}).status_code == 422


def test_without_a_backend_a_selection_says_what_to_set(served: Served) -> None:
    """409: nothing is wrong with the request, something is missing here."""
    refused = served.post("/api/loadbalancer/select", {})
    assert (refused.status_code, refused.json()["kind"]) == (409, "configuration")
    assert "HYBRID_VIDEO_COMFYUI_URLS" in refused.json()["detail"]
    items = ok(served.get("/api/loadbalancer/recommendations", params={"jobs": 5}))["items"]
    assert items[0]["kind"] == "setup"
    assert any(item["kind"] == "uncertain" for item in items)


def test_pods_are_listed_with_what_they_cost(served: Served) -> None:
    """Open ones, all of them, one with its story; by our name or the provider's id."""
    summary = ok(served.get("/api/cloud/status"))["pods"]
    assert (summary["open"], summary["ready"], summary["starting"], summary["usd_per_h"]) == (2, 1, 1, "1.40")
    assert len(ok(served.get("/api/cloud/pods"))["items"]) == 2
    every = ok(served.get("/api/cloud/pods", params={"include_closed": True, "limit": 2}))
    rest = ok(served.get("/api/cloud/pods", params={"include_closed": True, "cursor": every["next_cursor"]}))
    assert [pod["name"] for pod in every["items"] + rest["items"]] == ["pod-2", "pod-1", "pod-0"]
    assert ok(served.get("/api/cloud/pods/id0")) == ok(served.get("/api/cloud/pods/pod-0"))
    assert ok(served.get("/api/cloud/pods/pod-0"))["events"][0]["detail"] == "rendered its probe"
    assert served.get("/api/cloud/pods/pod-9").status_code == 404
    cost = ok(served.get("/api/cloud/cost"))
    assert (cost["serverless_usd"], cost["pods_usd"], cost["usd_per_h"]) == ("0.0256", "0.00", "1.40")


def test_pods_cannot_be_opened_where_they_are_not_configured(served: Served) -> None:
    """A sentence with the variable; ending what does not exist is 404; limits of pods are stored."""
    refused = served.post("/api/cloud/spawn")
    assert (refused.status_code, refused.json()["kind"]) == (409, "configuration")
    assert served.post("/api/cloud/terminate/pod-9").status_code == 404
    assert ok(served.post("/api/cloud/shutdown-all"))["pods"] == []
    assert ok(served.http.put("/api/cloud/config", json={"max_pods": 1}))["max_pods"] == 1
    assert ok(served.http.put("/api/cloud/config", json={"max_pods": None}))["max_pods"] == 5
    assert served.http.put("/api/cloud/config", json={"max_pod": 1}).status_code == 422


def test_metrics_are_prometheus_text(served: Served) -> None:
    """What they hold is tested where they are made; here, that they are served."""
    answer = served.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    assert "# TYPE hybrid_video_" in answer.text


def test_the_reference_lists_every_address_and_runs_no_script(served: Served) -> None:
    """One page; and the document has examples and the schema of a batch."""
    page = served.get("/docs").text
    schema = ok(served.get("/openapi.json"))
    assert all(path in page for path in schema["paths"])
    assert "<script" not in page
    assert schema["components"]["schemas"]["Batch"]["properties"]["jobs"]["maxItems"] == 10_000
    assert schema["components"]["schemas"]["EstimateRequest"]["examples"][0]["jobs"] == 100
    assert schema["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
    for path, methods in schema["paths"].items():
        for operation in methods.values():
            assert operation.get("description"), path
            if path.startswith("/api/"):
                assert {"401", "403", "422", "429"} <= operation["responses"].keys(), path


def test_the_client_raises_our_own_errors(served: Served) -> None:
    """Refusals become the errors of the product; a server that is no API, or is not there, an ApiError."""
    with Client(served.url) as client:
        assert client.health().status == "ok"
        with pytest.raises(NotFoundError, match="no batch is named"):
            client.batch("nothing")
        assert [line.name for line in client.every_batch(search="fil")] == ["film"]
        assert client.pod("id0").pod.name == "pod-0"
        assert client.cloud_cost().usd_per_h == Decimal("1.40")
        assert client.configure_cloud(max_pods=3).max_pods == 3
        assert client.configure_cloud(max_pods=None).max_pods == 5
    with Client("http://127.0.0.1:9") as nobody, pytest.raises(ApiError, match="does not answer"):
        nobody.shutdown_all()


def test_the_client_waits_out_a_busy_server_and_never_repeats_a_change() -> None:
    """A read is asked again after 503; a change only after 429, which says that nothing was done."""
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(f"{request.method} {request.url.path}")
        problem = {"kind": "ledger", "detail": "locked", "problems": []}
        if len(asked) % 2:
            status = 429 if request.url.path.endswith("shutdown-all") and len(asked) == 5 else 503
            return httpx.Response(status, json=problem, headers={"Retry-After": "0"})
        if request.method == "GET":
            return httpx.Response(200, json={"status": "ok", "version": "1", "ledger": "ok", "simulated": False})
        return httpx.Response(200, json={"pods": [], "message": "none"})

    with Client(transport=httpx.MockTransport(answer)) as client:
        client.health()
        assert asked == ["GET /health"] * 2
        with pytest.raises(Exception, match="locked"):
            client.shutdown_all()
        assert len(asked) == 3
        asked.append("")
        client.shutdown_all()
        assert asked[4:] == ["POST /api/cloud/shutdown-all"] * 2


async def test_a_snapshot_is_made_once_for_many_and_anew_after_a_change() -> None:
    """A hundred callers at once cost one computation; a change is seen by the next one; errors are not remembered."""
    made: list[int] = []

    def make() -> int:
        made.append(1)
        if len(made) == 3:
            raise OSError("once")
        return len(made)

    snapshot = Snapshot(make)
    assert await asyncio.gather(*(snapshot.get() for _ in range(100))) == [1] * 100
    assert await snapshot.get() == 1
    snapshot.drop()
    assert await snapshot.get() == 2
    snapshot.drop()
    with pytest.raises(OSError, match="once"):
        await snapshot.get()
    assert await snapshot.get() == 4


def test_a_new_job_waits_behind_those_that_wait_for_the_busy_backend() -> None:
    """Jobs that wait though Google stands idle wait for the GPU: a new one finds a queue there and none at Google."""
    lanes = [
        Lane(id=f"{key}-0", backend=key, tier=tier) for key, tier in (("comfyui", Tier.LOCAL), ("gemini", Tier.GEMINI))
    ]
    quotes = {"comfyui": quote("comfyui", "0", 10), "gemini": quote("gemini", "0.08", 5)}
    idle = expected_waits(lanes, quotes, Load((), 0, {}, {}))
    assert idle == {"comfyui": 0, "gemini": 0}
    running = (UnderWay("comfyui", "comfyui-0", 4, 10),)
    assert expected_waits(lanes, quotes, Load(running, 0, {}, {})) == {"comfyui": 6, "gemini": 0}
    queued = expected_waits(lanes, quotes, Load(running, 1000, {}, {}))
    assert queued["comfyui"] == pytest.approx(10_006)
    assert queued["gemini"] == 0
