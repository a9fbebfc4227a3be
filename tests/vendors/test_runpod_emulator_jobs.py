"""The simulated serverless job API, one fact of the vendor's documentation per test."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import httpx
import pytest
from aiohttp import web
from runpod_rig import eventually, graph, rig

from hybrid_video.emulators.faults import FaultRule
from hybrid_video.emulators.server import start_server


def fault(operation: str, action: str, **fields: Any) -> FaultRule:
    return FaultRule.model_validate({"server": "runpod", "operation": operation, "action": action, **fields})


async def test_run_answers_at_once_with_id_and_state_only() -> None:
    """`/run` answers IN_QUEUE and an id that ends in a region mark, nothing else."""
    async with rig() as runpod:
        answer = await runpod.http.post("/v2/emulated/run", json={"input": {"workflow": graph()}})
        body = answer.json()
        assert set(body) == {"id", "status"}
        assert body["status"] == "IN_QUEUE"
        assert body["id"].endswith("-u1")


async def test_two_posts_are_two_jobs() -> None:
    """Nothing is deduplicated: the same body twice is two jobs and two charges."""
    async with rig() as runpod:
        first, second = await runpod.submit(), await runpod.submit()
        assert first != second
        assert [row["id"] for row in await runpod.charges()] == [first, second]


@pytest.mark.parametrize("key", ["", "Bearer invalid-key"])
async def test_bad_key_is_401(key: str) -> None:
    """A missing or bad key is refused."""
    async with rig() as runpod:
        answer = await runpod.http.get("/v2/emulated/health", headers={"Authorization": key})
        assert answer.status_code == 401


async def test_only_the_configured_key_is_accepted() -> None:
    """With a key given, any other is refused."""
    async with rig(api_key="right") as runpod:
        assert (await runpod.http.get("/v2/emulated/health")).status_code == 401
        good = await runpod.http.get("/v2/emulated/health", headers={"Authorization": "Bearer right"})
        assert good.status_code == 200


async def test_bare_key_is_accepted_too() -> None:
    """The examples of the job API send the key without `Bearer`."""
    async with rig(api_key="right") as runpod:
        answer = await runpod.http.get("/v2/emulated/health", headers={"Authorization": "right"})
        assert answer.status_code == 200


async def test_unknown_endpoint_and_job_are_404() -> None:
    """Neither an endpoint nor a job that does not exist is answered with anything but 404."""
    async with rig() as runpod:
        assert (await runpod.http.get("/v2/elsewhere/health")).status_code == 404
        assert (await runpod.http.get("/v2/emulated/status/nothing-u1")).status_code == 404


@pytest.mark.parametrize(("form", "body"), [("empty", ""), ("html", "<html>"), ("json", '{"error"')])
async def test_error_bodies_have_the_chosen_form(form: str, body: str) -> None:
    """The vendor documents no error bodies, so their form can be chosen."""
    async with rig(error_bodies=form) as runpod:
        answer = await runpod.http.get("/v2/emulated/status/nothing-u1")
        assert answer.text.startswith(body)
        assert bool(answer.text) is bool(body)


async def test_delay_time_grows_while_queued() -> None:
    """IN_QUEUE shows a growing delayTime in simulated milliseconds, and no executionTime."""
    async with rig(cold_start_s=10_000) as runpod:
        job = await runpod.submit()
        first = await runpod.status(job)
        await asyncio.sleep(0.05)
        second = await runpod.status(job)
        assert second["delayTime"] >= first["delayTime"] + 5_000
        assert "executionTime" not in second


async def test_times_of_a_finished_job_are_simulated_milliseconds() -> None:
    """The cold start is delay, the work is executionTime; drawing the clip is neither."""
    async with rig(cold_start_s=30) as runpod:
        done = await runpod.run()
        assert done["status"] == "COMPLETED"
        assert 30_000 <= done["delayTime"] < 60_000
        assert done["executionTime"] == 10_000


async def test_output_in_progress_is_only_progress() -> None:
    """While IN_PROGRESS, `output` holds the worker's last update and never files."""
    async with rig(service_s=200) as runpod:
        running = await runpod.until(await runpod.submit(), "IN_PROGRESS")
        assert set(running["output"]) == {"progress"}


async def test_warm_worker_takes_the_next_job_without_a_cold_start() -> None:
    """A worker that is still idle serves at once."""
    async with rig(cold_start_s=60, idle_timeout_s=1_000) as runpod:
        await runpod.run()
        assert (await runpod.run())["delayTime"] < 30_000


async def test_idle_worker_stops_after_the_idle_timeout() -> None:
    """After the idle time-out there are no workers, and the next job starts cold again."""
    async with rig(cold_start_s=60, idle_timeout_s=5) as runpod:
        await runpod.run()

        async def stopped() -> bool | None:
            workers = (await runpod.http.get("/v2/emulated/health")).json()["workers"]
            return True if workers["idle"] == 0 else None

        assert await eventually(stopped)
        assert (await runpod.run())["delayTime"] >= 60_000


async def test_no_more_jobs_run_at_once_than_there_are_workers() -> None:
    """The rest waits IN_QUEUE."""
    async with rig(max_workers=2, service_s=2_000) as runpod:
        jobs = [await runpod.submit() for _ in range(4)]
        await runpod.until(jobs[1], "IN_PROGRESS")
        states = [(await runpod.status(job))["status"] for job in jobs]
        assert states == ["IN_PROGRESS", "IN_PROGRESS", "IN_QUEUE", "IN_QUEUE"]


async def test_throttled_endpoint_has_no_workers_and_keeps_jobs_queued() -> None:
    """Throttled: no worker starts until capacity comes back."""
    async with rig(throttled=True) as runpod:
        job = await runpod.submit()
        await asyncio.sleep(0.05)
        health = (await runpod.http.get("/v2/emulated/health")).json()
        assert health["workers"]["running"] == health["workers"]["idle"] == 0
        assert health["workers"]["throttled"] > 0
        assert (await runpod.status(job))["status"] == "IN_QUEUE"
        runpod.emulator.endpoint.throttled = False
        runpod.emulator.endpoint.dispatch()
        assert (await runpod.until(job))["status"] == "COMPLETED"


async def test_health_counts_jobs_and_workers() -> None:
    """Documented keys and those only the JavaScript SDK's types know."""
    async with rig() as runpod:
        await runpod.run()
        health = (await runpod.http.get("/v2/emulated/health")).json()
        assert set(health["jobs"]) == {"completed", "failed", "inProgress", "inQueue", "retried"}
        assert {"idle", "running", "initializing", "ready", "throttled"} <= set(health["workers"])
        assert health["jobs"]["completed"] == 1


async def test_low_priority_jobs_do_not_add_workers() -> None:
    """`policy.lowPriority` waits for the workers that are there."""
    async with rig(service_s=2_000) as runpod:
        first = await runpod.submit()
        await runpod.until(first, "IN_PROGRESS")
        low = await runpod.submit(policy={"lowPriority": True})
        await asyncio.sleep(0.05)
        assert (await runpod.status(low))["status"] == "IN_QUEUE"


async def test_cancel_removes_a_queued_job_for_free() -> None:
    """A job cancelled before its start is CANCELLED and costs nothing."""
    async with rig(cold_start_s=10_000) as runpod:
        job = await runpod.submit()
        answer = await runpod.http.post(f"/v2/emulated/cancel/{job}")
        assert answer.json() == {"id": job, "status": "CANCELLED"}
        assert [(row["state"], Decimal(row["usd"])) for row in await runpod.charges()] == [("cancelled", Decimal(0))]


async def test_cancel_stops_a_running_job_which_is_charged_for_its_time() -> None:
    """A running job stops, its late result is ignored, the seconds it ran are charged."""
    async with rig(service_s=2_000) as runpod:
        job = await runpod.submit()
        await runpod.until(job, "IN_PROGRESS")
        await asyncio.sleep(0.05)
        await runpod.http.post(f"/v2/emulated/cancel/{job}")
        body = await runpod.status(job)
        assert body["status"] == "CANCELLED"
        assert "output" not in body
        row = (await runpod.charges())[0]
        seconds = -(-body["executionTime"] // 1000)
        assert (row["state"], Decimal(row["usd"])) == ("cancelled", seconds * Decimal("0.00031"))
        assert seconds >= 10


async def test_cancel_of_a_finished_job_returns_its_state() -> None:
    """Unspecified by the vendor: nothing changes."""
    async with rig() as runpod:
        done = await runpod.run()
        answer = await runpod.http.post(f"/v2/emulated/cancel/{done['id']}")
        assert answer.json()["status"] == "COMPLETED"


async def test_purge_queue_leaves_running_jobs() -> None:
    """Only queued jobs are removed."""
    async with rig(max_workers=1, service_s=2_000) as runpod:
        running = await runpod.submit()
        await runpod.until(running, "IN_PROGRESS")
        await runpod.submit()
        await runpod.submit()
        answer = await runpod.http.post("/v2/emulated/purge-queue")
        assert answer.json() == {"removed": 2, "status": "completed"}
        assert (await runpod.status(running))["status"] == "IN_PROGRESS"


async def test_retry_runs_a_failed_job_again_under_its_id() -> None:
    """`/retry` clears the old result and keeps the id; both runs are charged on one row."""
    async with rig(fault("execute", "fail")) as runpod:
        job = await runpod.submit()
        assert (await runpod.until(job))["status"] == "FAILED"
        answer = await runpod.http.post(f"/v2/emulated/retry/{job}")
        assert answer.json() == {"id": job, "status": "IN_QUEUE"}
        assert (await runpod.until(job))["status"] == "COMPLETED"
        rows = await runpod.charges()
        assert [(row["state"], Decimal(row["usd"])) for row in rows] == [("done", 15 * Decimal("0.00031"))]


async def test_retry_of_a_completed_job_is_refused() -> None:
    """Only FAILED and TIMED_OUT can be retried."""
    async with rig() as runpod:
        done = await runpod.run()
        assert (await runpod.http.post(f"/v2/emulated/retry/{done['id']}")).status_code == 400


async def test_result_is_gone_after_thirty_minutes() -> None:
    """Half an hour after completion `/status` is 404."""
    async with rig(scale=20_000) as runpod:
        job = await runpod.submit()

        async def forgotten() -> bool | None:
            return None if await runpod.status(job) else True

        assert await eventually(forgotten)
        assert (await runpod.charges())[0]["state"] == "done"


async def test_result_can_be_kept_longer_for_fast_clocks() -> None:
    """With a clock a hundred thousand times faster, half an hour is 18 ms."""
    async with rig(scale=100_000, result_kept_s=10_000_000) as runpod:
        done = await runpod.run()
        await runpod.clock.sleep(3_600)
        assert (await runpod.status(done["id"]))["status"] == "COMPLETED"


async def test_status_ttl_shortens_the_retention() -> None:
    """`?ttl=ms` ends the retention earlier."""
    async with rig() as runpod:
        done = await runpod.run()
        await runpod.http.get(f"/v2/emulated/status/{done['id']}?ttl=1")
        assert await runpod.status(done["id"]) == {}


async def test_ttl_kills_a_running_job_and_makes_it_404() -> None:
    """The ttl covers queue and run; when it ends the job vanishes, but what it ran is charged."""
    async with rig(service_s=5_000) as runpod:
        job = await runpod.submit(policy={"ttl": 20_000})
        await runpod.until(job, "IN_PROGRESS")

        async def vanished() -> bool | None:
            return None if await runpod.status(job) else True

        assert await eventually(vanished)
        row = (await runpod.charges())[0]
        assert row["state"] == "failed"
        assert Decimal(row["usd"]) > 0


@pytest.mark.parametrize("state", ["TIMED_OUT", "FAILED"])
async def test_execution_timeout_ends_the_job(state: str) -> None:
    """A job over its execution time-out ends as TIMED_OUT or, by the other wording, FAILED; the time is charged."""
    async with rig(service_s=5_000, timeout_state=state) as runpod:
        ended = await runpod.run(policy={"executionTimeout": 20_000})
        assert ended["status"] == state
        assert ended["executionTime"] == 20_000
        assert Decimal((await runpod.charges())[0]["usd"]) == 20 * Decimal("0.00031")


async def test_default_execution_timeout_is_ten_minutes() -> None:
    """Without a policy a render of more than 600 s is killed."""
    async with rig(service_s=5_000, scale=4_000) as runpod:
        ended = await runpod.run()
        assert (ended["status"], ended["executionTime"]) == ("TIMED_OUT", 600_000)


@pytest.mark.parametrize("policy", [{"executionTimeout": 4_999}, {"ttl": 9_999}, {"ttl": "soon"}, "fast"])
async def test_policy_outside_the_documented_range_is_400(policy: object) -> None:
    """Time-outs below 5 s and ttls below 10 s are refused."""
    async with rig() as runpod:
        body = {"input": {"workflow": graph()}, "policy": policy}
        answer = await runpod.http.post("/v2/emulated/run", json=body)
        assert answer.status_code == 400
        assert await runpod.charges() == []


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"webhook": "x"}', b'{"input": null}'])
async def test_request_without_input_is_400(content: bytes) -> None:
    """A body that is no JSON object with an input is refused and costs nothing."""
    async with rig() as runpod:
        assert (await runpod.http.post("/v2/emulated/run", content=content)).status_code == 400
        assert await runpod.charges() == []


async def test_payload_over_ten_megabytes_is_413() -> None:
    """`/run` takes 10 MB; `/runsync` takes 20."""
    async with rig() as runpod:
        large = {"input": {"workflow": graph(), "images": [], "filler": "x" * 11_000_000}}
        assert (await runpod.http.post("/v2/emulated/run", json=large)).status_code == 413
        assert (await runpod.http.post("/v2/emulated/runsync", json=large)).status_code == 200


async def test_more_calls_than_the_rate_allows_are_429() -> None:
    """Calls over the quota of ten seconds are refused without being accepted."""
    async with rig(rates={"run": 2}) as runpod:
        codes = [
            (await runpod.http.post("/v2/emulated/run", json={"input": {"workflow": graph()}})).status_code
            for _ in range(3)
        ]
        assert codes == [200, 200, 429]
        assert len(await runpod.charges()) == 2


async def test_runsync_answers_with_the_result() -> None:
    """`/runsync` waits; its ids start with `sync-`."""
    async with rig() as runpod:
        answer = await runpod.http.post("/v2/emulated/runsync", json={"input": {"workflow": graph()}})
        assert answer.json()["status"] == "COMPLETED"
        assert answer.json()["id"].startswith("sync-")


async def test_runsync_answers_with_the_present_state_when_the_wait_is_over() -> None:
    """After `wait` milliseconds the job goes on and can be polled."""
    async with rig(service_s=300, scale=1_000) as runpod:
        answer = await runpod.http.post(
            "/v2/emulated/runsync?wait=1000",
            json={"input": {"workflow": graph()}, "policy": {"executionTimeout": 10_000_000}},
        )
        assert answer.json()["status"] in {"IN_QUEUE", "IN_PROGRESS"}
        assert (await runpod.until(answer.json()["id"]))["status"] == "COMPLETED"


async def test_stream_of_a_worker_that_yields_nothing_is_an_empty_list() -> None:
    """worker-comfyui returns once; the vendor's client reads `status` and `stream`."""
    async with rig() as runpod:
        done = await runpod.run()
        body = (await runpod.http.get(f"/v2/emulated/stream/{done['id']}")).json()
        assert body == {"status": "COMPLETED", "stream": []}


async def test_webhook_is_posted_until_it_is_answered_with_200() -> None:
    """Two more tries after a refusal."""
    seen: list[dict[str, Any]] = []

    async def hook(request: web.Request) -> web.Response:
        seen.append(await request.json())
        return web.Response(status=200 if len(seen) == 3 else 500)

    app = web.Application()
    app.router.add_post("/hook", hook)
    receiver = await start_server(app)
    try:
        async with rig() as runpod:
            job = await runpod.submit(webhook=f"{receiver.url}/hook")

            async def delivered() -> bool | None:
                return True if len(seen) == 3 else None

            assert await eventually(delivered)
            assert {body["id"] for body in seen} == {job}
            assert seen[0]["status"] == "COMPLETED"
    finally:
        await receiver.close()


async def test_lost_worker_puts_the_job_back_into_the_queue() -> None:
    """The state goes backwards under the same id, and the job still ends well."""
    async with rig(fault("execute", "restart"), cold_start_s=60, service_s=60) as runpod:
        job = await runpod.submit()
        await runpod.until(job, "IN_PROGRESS")
        await runpod.until(job, "IN_QUEUE")
        assert (await runpod.until(job))["status"] == "COMPLETED"


async def test_lost_answer_leaves_exactly_one_accepted_job() -> None:
    """`drop_after` on submit: the caller sees a broken connection, the vendor has the job and charges it."""
    async with rig(fault("submit", "drop_after")) as runpod:
        with pytest.raises(httpx.TransportError):
            await runpod.submit()
        rows = await runpod.charges()
        assert [row["job"] for row in rows] == ["demo/shot-1"]
        assert (await runpod.until(rows[0]["id"]))["status"] == "COMPLETED"


async def test_refused_submit_is_not_accepted() -> None:
    """`refuse` closes the connection and charges nothing."""
    async with rig(fault("submit", "refuse")) as runpod:
        with pytest.raises(httpx.TransportError):
            await runpod.submit()
        assert await runpod.charges() == []


async def test_injected_429_carries_retry_after() -> None:
    """A rule may add the header the vendor sometimes sends."""
    async with rig(fault("submit", "status", status=429, headers={"Retry-After": "2"})) as runpod:
        answer = await runpod.http.post("/v2/emulated/run", json={"input": {"workflow": graph()}})
        assert (answer.status_code, answer.headers["Retry-After"]) == (429, "2")


async def test_lost_result_is_404_after_completion() -> None:
    """`lose` on execute: the job completes, is charged, and its result cannot be read."""
    async with rig(fault("execute", "lose")) as runpod:
        job = await runpod.submit()

        async def vanished() -> bool | None:
            return None if await runpod.status(job) else True

        assert await eventually(vanished)
        assert (await runpod.charges())[0]["state"] == "done"


@pytest.mark.parametrize("operation", ["status", "cancel", "health"])
async def test_reads_can_fail_once(operation: str) -> None:
    """Rules reach each operation and hit as often as they say."""
    async with rig(fault(operation, "status", status=503)) as runpod:
        job = await runpod.submit()
        call = {
            "status": ("GET", f"/v2/emulated/status/{job}"),
            "cancel": ("POST", f"/v2/emulated/cancel/{job}"),
            "health": ("GET", "/v2/emulated/health"),
        }[operation]
        assert (await runpod.http.request(*call)).status_code == 503
        assert (await runpod.http.request(*call)).status_code == 200


async def test_charge_is_whole_seconds_of_execution() -> None:
    """10.2 s of work cost 11 s at the price of the endpoint's GPU."""
    async with rig(service_s=10.2) as runpod:
        done = await runpod.run()
        assert done["executionTime"] == 10_200
        row = (await runpod.charges())[0]
        assert (row["state"], Decimal(row["usd"])) == ("done", 11 * Decimal("0.00031"))


async def test_charge_is_open_until_the_job_has_ended() -> None:
    """An accepted job is a row from the first moment."""
    async with rig(cold_start_s=10_000) as runpod:
        job = await runpod.submit()
        assert await runpod.charges() == [{"id": job, "job": "demo/shot-1", "usd": "0", "state": "open"}]


async def test_flat_price_is_charged_for_completed_videos_only() -> None:
    """Profile seed: a price per video, nothing for failures."""
    async with rig(fault("execute", "fail"), prices="seed") as runpod:
        await runpod.run()
        await runpod.run()
        rows = [(row["state"], Decimal(row["usd"])) for row in await runpod.charges()]
        assert rows == [("failed", Decimal(0)), ("done", Decimal("0.007"))]


async def test_seed_prices_bring_their_own_service_time() -> None:
    """Without a figure of one's own, a job takes the 20 s that belong to the seed price."""
    async with rig(prices="seed", service_s=None) as runpod:
        assert (await runpod.run())["executionTime"] == 20_000


async def test_job_label_may_be_given_beside_the_workflow() -> None:
    """`input.hybrid_video.job` is a key the real worker ignores."""
    async with rig() as runpod:
        await runpod.http.post(
            "/v2/emulated/run", json={"input": {"workflow": graph("x"), "hybrid_video": {"job": "b/j.1"}}}
        )
        assert (await runpod.charges())[0]["job"] == "b/j.1"


async def test_billing_includes_cold_start_and_idle_time() -> None:
    """The endpoint pays for its workers from start to stop; per-job charges show execution only."""
    async with rig(cold_start_s=30, idle_timeout_s=20, service_s=10, billing_lag_s=0) as runpod:
        await runpod.run()

        async def stopped() -> bool | None:
            workers = (await runpod.http.get("/v2/emulated/health")).json()["workers"]
            return True if workers["idle"] == 0 else None

        await eventually(stopped)
        totals = (await runpod.http.get("/v2/billing/serverless?bucketSize=hour&lastN=3")).json()["metadata"]["totals"]
        assert totals["totalAmount"] >= 60 * 0.00031 * 0.999
        assert Decimal((await runpod.charges())[0]["usd"]) == 10 * Decimal("0.00031")


async def test_reset_forgets_everything() -> None:
    """`POST /_emulator/reset` starts over."""
    async with rig(service_s=2_000) as runpod:
        job = await runpod.submit()
        await runpod.until(job, "IN_PROGRESS")
        await runpod.http.post("/_emulator/reset")
        assert await runpod.charges() == []
        assert await runpod.status(job) == {}
        assert (await runpod.http.get("/v2/emulated/health")).json()["workers"]["running"] == 0
