"""The keeper of the pod image as a real process: leases, endings at the RunPod emulator, and supervision."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
from aiohttp import web
from pod_image_rig import IMAGE, POD_KEY, TOKEN, Pod, eventually, pod, started
from runpod_rig import Rig, rig

from hybrid_video.emulators.server import start_server

pytestmark = [pytest.mark.timeout(90), pytest.mark.slow]

T = TypeVar("T")
SLEEPER = ("sleep", "600")
"""Stands for a ComfyUI where nothing is asked of it."""


@asynccontextmanager
async def runpod() -> AsyncIterator[tuple[Rig, str]]:
    """A RunPod emulator whose only key is the pod's, with one pod; yields it and the pod's id."""
    async with rig(api_key=POD_KEY, scale=1.0) as made:
        made.http.headers["Authorization"] = f"Bearer {POD_KEY}"
        created = await made.create_pod(name="hybrid-video-0123abcd-1")
        assert created.status_code == 201, created.text
        yield made, created.json()["id"]


def variables(runpod_rig: Rig, pod_id: str, lease_s: float) -> dict[str, str]:
    """What the pool and RunPod put into the pod's environment."""
    return {
        "RUNPOD_POD_ID": pod_id,
        "HYBRID_VIDEO_POD_LEASE_S": f"{lease_s:g}",
        "HYBRID_VIDEO_POD_API_URL": f"{runpod_rig.url}/v2",
    }


def living(group: int) -> list[int]:
    """Processes of a group that still run; ended ones that nobody has waited for do not count."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it may end while we look
            state, _, its_group, *_ = path.read_text().rpartition(")")[2].split()
            if int(its_group) == group and state != "Z":
                found.append(int(path.parent.name))
    return found


async def status_of(runpod_rig: Rig, pod_id: str) -> str:
    """The pod's status at RunPod; GONE for a 404."""
    return str((await runpod_rig.pod(pod_id)).get("status", "GONE"))


async def test_a_lease_that_nobody_renews_ends_the_pod(tmp_path: Path) -> None:
    """With ComfyUI up: at the end it is killed, RunPod terminates the pod on the pod's own key, the keeper exits 0."""

    def live(made: Pod) -> tuple[int, int]:
        made.until_ready()
        comfyui = next(line["pid"] for line in made.program.events("started") if line["program"] == "comfyui")
        return comfyui, made.program.ended()

    async with runpod() as (api, pod_id):
        with pod(tmp_path, wait=False, **variables(api, pod_id, 6)) as made:
            comfyui, code = await asyncio.to_thread(live, made)
        assert code == 0
        assert await status_of(api, pod_id) in ("TERMINATED", "GONE")
        assert not Path(f"/proc/{comfyui}").exists()
        assert made.program.event("ending")["why"] == "nobody has renewed the lease of 6 s"
        assert POD_KEY not in made.program.text
        assert TOKEN not in made.program.text


async def test_a_renewed_lease_lasts_from_the_renewal(tmp_path: Path) -> None:
    """Each POST /lease begins a new one, longer or shorter; GET shows it; when renewals stop, the pod ends."""

    def renew(made: Pod) -> None:
        first = made.http.get("/lease").json()
        assert first["name"] == "hybrid-video-0123abcd-1"
        assert (first["lease_s"], 0 < first["ends_in_s"] <= 3) == (3, True)
        longer = made.lease(60)
        assert (longer.status_code, longer.json()["lease_s"]) == (200, 60)
        assert 58 < made.http.get("/lease").json()["ends_in_s"] <= 60
        eventually(lambda: made.health()["up_s"] > 3.5, made.program)  # past the first lease, and still there
        assert made.lease(1).json()["ends_in_s"] <= 1
        assert made.program.ended() == 0

    async with runpod() as (api, pod_id):
        with pod(tmp_path, command=SLEEPER, wait=False, **variables(api, pod_id, 3)) as made:
            await asyncio.to_thread(made.program.event, "listening")
            await asyncio.to_thread(renew, made)
        assert await status_of(api, pod_id) in ("TERMINATED", "GONE")


@pytest.mark.parametrize(
    "body",
    [
        '{"lease_s": 0}',
        '{"lease_s": 86401}',
        '{"lease_s": "60"}',
        '{"lease_s": true}',
        "{}",
        "[]",
        "no",
        '{"lease_s": NaN}',
    ],
)
def test_what_is_no_lease_is_refused_and_changes_nothing(tmp_path: Path, body: str) -> None:
    """400 with what to send; without the token 401; the lease runs on as it was."""
    with pod(tmp_path, command=SLEEPER, RUNPOD_POD_ID="p1", HYBRID_VIDEO_POD_LEASE_S="500") as made:
        refused = made.http.post("/lease", content=body)
        assert refused.status_code == 400
        assert "lease_s" in refused.json()["error"]
        assert httpx.post(f"{made.url}/lease", json={"lease_s": 60}).status_code == 401
        assert 490 < made.http.get("/lease").json()["ends_in_s"] <= 500


async def test_while_runpod_refuses_to_end_it_the_pod_does_nothing_and_goes_on_asking(tmp_path: Path) -> None:
    """RunPod is down for a while: 503 to everything, renewals 410, ComfyUI dead; ended as soon as RunPod is back."""
    calls: list[tuple[str, str, str]] = []
    down = True

    async def api(request: web.Request) -> web.Response:
        calls.append((request.method, request.path, request.headers["Authorization"]))
        return web.Response(status=503 if down else 204, headers={"Retry-After": "0.2"})

    def ending(made: Pod) -> list[int]:
        made.program.event("terminate")
        answers = [made.http.get("/queue"), made.http.get("/health"), made.lease(600)]
        return [answer.status_code for answer in answers]

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", api)
    server = await start_server(app)
    try:
        environment = {
            "RUNPOD_POD_ID": "p1",
            "HYBRID_VIDEO_POD_LEASE_S": "2",
            "HYBRID_VIDEO_POD_API_URL": f"{server.url}/v2",
        }
        with pod(tmp_path, command=SLEEPER, wait=False, **environment) as made:
            await asyncio.to_thread(made.program.event, "listening")
            assert await asyncio.to_thread(ending, made) == [503, 503, 410]
            comfyui = next(line["pid"] for line in made.program.events("started") if line["program"] == "comfyui")
            assert living(comfyui) == []
            down = False
            assert await asyncio.to_thread(made.program.ended) == 0
    finally:
        await server.close()
    assert len(calls) >= 2
    assert set(calls) == {("DELETE", "/v2/pods/p1", f"Bearer {POD_KEY}")}


async def test_where_deleting_is_refused_other_roads_are_tried(tmp_path: Path) -> None:
    """A key that may not delete over REST: GraphQL is asked, and at last stopping, which releases the GPU."""
    calls: list[tuple[str, str, Any]] = []

    async def api(request: web.Request) -> web.Response:
        calls.append((request.method, request.path, await request.json() if request.body_exists else None))
        if request.path == "/graphql":
            return web.json_response({"errors": [{"message": "not authorized"}]})
        return web.Response(status=200 if request.method == "POST" else 403)

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", api)
    server = await start_server(app)
    try:
        environment = {
            "RUNPOD_POD_ID": "p1",
            "HYBRID_VIDEO_POD_LEASE_S": "1",
            "HYBRID_VIDEO_POD_API_URL": f"{server.url}/v2",
            "HYBRID_VIDEO_POD_GRAPHQL_URL": f"{server.url}/graphql",
        }
        with pod(tmp_path, command=SLEEPER, wait=False, **environment) as made:
            assert await asyncio.to_thread(made.program.ended) == 0
    finally:
        await server.close()
    assert [call[:2] for call in calls] == [
        ("DELETE", "/v2/pods/p1"),
        ("POST", "/graphql"),
        ("POST", "/v2/pods/p1/action"),
    ]
    assert calls[1][2]["variables"] == {"id": "p1"}
    assert calls[2][2] == {"action": "stop"}


def test_a_pod_that_cannot_end_itself_stops_working_and_says_so(tmp_path: Path) -> None:
    """Without RunPod's key: ComfyUI and the gate end, exit 70, and a sentence about the console."""
    with pod(
        tmp_path, command=SLEEPER, wait=False, RUNPOD_API_KEY="", RUNPOD_POD_ID="p1", HYBRID_VIDEO_POD_LEASE_S="1"
    ) as made:
        assert made.program.ended() == 70
    assert "RunPod console" in made.program.event("cannot-end")["why"]
    for line in made.program.events("started"):
        assert not Path(f"/proc/{line['pid']}").exists()


async def test_a_container_that_is_started_again_gets_no_fresh_lease(tmp_path: Path) -> None:
    """After the end: straight back to ending. Killed in the middle: what was left goes on. Another pod: a new lease."""
    state = tmp_path / "state" / "lease.json"
    with pod(tmp_path, command=SLEEPER, RUNPOD_POD_ID="p1", HYBRID_VIDEO_POD_LEASE_S="500") as made:
        assert made.lease(300).status_code == 200
        made.program.process.kill()
        made.program.ended()
        for line in made.program.events("started"):
            os.killpg(line["pid"], signal.SIGKILL)
    with pod(tmp_path, command=SLEEPER, RUNPOD_POD_ID="p1", HYBRID_VIDEO_POD_LEASE_S="500") as made:
        assert 250 < made.http.get("/lease").json()["ends_in_s"] <= 300
    with pod(tmp_path, command=SLEEPER, RUNPOD_POD_ID="p2", HYBRID_VIDEO_POD_LEASE_S="500") as made:
        assert made.http.get("/lease").json()["ends_in_s"] > 490
    state.write_text(json.dumps({"pod": "p1", "ends_at": 0, "ended": "nobody has renewed it"}))
    with pod(
        tmp_path, command=SLEEPER, wait=False, RUNPOD_API_KEY="", RUNPOD_POD_ID="p1", HYBRID_VIDEO_POD_LEASE_S="500"
    ) as made:
        assert made.program.ended() == 70
    assert made.program.event("ending")["why"] == "nobody has renewed it"
    assert [line["program"] for line in made.program.events("started")] == []


def test_a_crashed_comfyui_is_started_again(tmp_path: Path) -> None:
    """SIGKILL under load: the gate says 'nothing was sent' for a moment, then a new ComfyUI answers."""
    with pod(tmp_path, RUNPOD_POD_ID="p1", HYBRID_VIDEO_POD_LEASE_S="500") as made:
        made.until_ready()
        first = next(line["pid"] for line in made.program.events("started") if line["program"] == "comfyui")
        os.kill(first, signal.SIGKILL)
        made.program.event("crashed")
        assert made.http.post("/prompt", json={}).status_code == 409
        made.until_ready()
        assert made.health()["restarts"] == 1
        assert made.http.get("/system_stats").status_code == 200


async def test_a_comfyui_that_crashes_again_and_again_ends_the_pod(tmp_path: Path) -> None:
    """Five crashes within ten minutes: a pod that can make nothing must not cost money."""
    async with runpod() as (api, pod_id):
        command = (sys.executable, "-c", "raise SystemExit(3)")
        with pod(
            tmp_path, "--crash-pause-s", "0.1", command=command, wait=False, **variables(api, pod_id, 600)
        ) as made:
            assert await asyncio.to_thread(made.program.ended) == 0
        assert await status_of(api, pod_id) in ("TERMINATED", "GONE")
    assert "crashed 5 times" in made.program.event("ending")["why"]
    assert [line["again_in_s"] for line in made.program.events("crashed")] == [0.1, 0.2, 0.4, 0.8, 1.6]


def test_a_pod_started_by_hand_without_a_lease_is_never_ended(tmp_path: Path) -> None:
    """No HYBRID_VIDEO_POD_LEASE_S: /lease is 404, and not even a hopeless ComfyUI makes the keeper end the pod."""
    with pod(tmp_path, command=SLEEPER, RUNPOD_POD_ID="p1") as made:
        assert made.http.get("/lease").status_code == 404
        assert made.lease(60).status_code == 404
        assert made.health()["ends_in_s"] is None
    assert made.program.events("terminate") == []


def test_a_pod_that_lives_long_does_not_fill_its_disk(tmp_path: Path) -> None:
    """The running keeper deletes what nobody has fetched or written to for longer than it keeps files."""
    clip = tmp_path / "data" / "output" / "hv" / "clip.mp4"
    clip.parent.mkdir(parents=True)
    clip.write_bytes(b"x")
    options = ("--data-dir", str(tmp_path / "data"), "--keep-s", "1", "--sweep-s", "0.2")
    with pod(tmp_path, *options, command=SLEEPER, RUNPOD_POD_ID="p1", HYBRID_VIDEO_POD_LEASE_S="500") as made:
        eventually(lambda: not clip.exists(), made.program)
        assert made.program.event("swept")["files"] == 1


def test_a_stopped_container_leaves_no_process_behind(tmp_path: Path) -> None:
    """SIGTERM ends gate and ComfyUI with everything they started, without ending the pod at RunPod."""
    shell = ("sh", "-c", "sleep 600 & sleep 600")
    with pod(tmp_path, command=shell, RUNPOD_POD_ID="p1", HYBRID_VIDEO_POD_LEASE_S="500") as made:
        group = next(line["pid"] for line in made.program.events("started") if line["program"] == "comfyui")
        made.program.process.send_signal(signal.SIGTERM)
        assert made.program.ended() == 0
    assert living(group) == []
    assert made.program.events("terminate") == []


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("HYBRID_VIDEO_POD_TOKEN", "", "openssl rand"),
        ("HYBRID_VIDEO_POD_TOKEN", "short", "openssl rand"),
        ("HYBRID_VIDEO_POD_LEASE_S", "soon", "'soon'"),
        ("HYBRID_VIDEO_POD_LEASE_S", "0", "between 1 and 86400"),
    ],
)
async def test_a_pod_that_can_never_be_used_ends_at_once(tmp_path: Path, variable: str, value: str, words: str) -> None:
    """Wrong settings are said in a sentence, nothing is started, and a pod of the pool does not go on costing."""
    async with runpod() as (api, pod_id):
        environment = {**variables(api, pod_id, 600), variable: value}
        with pod(tmp_path, command=SLEEPER, wait=False, **environment) as made:
            assert await asyncio.to_thread(made.program.ended) == 78
        assert await status_of(api, pod_id) in ("TERMINATED", "GONE")
    assert words in made.program.event("refused")["error"]
    assert made.program.events("started") == []


def test_the_health_check_of_the_container_asks_the_keeper(tmp_path: Path) -> None:
    """`--health` exits 1 while ComfyUI does not answer, also when there is no keeper at all, and 0 when it does."""

    def health() -> int:
        with started(
            sys.executable, str(IMAGE / "lease_keeper.py"), "--health", "--run-dir", str(tmp_path / "run")
        ) as p:
            return p.ended()

    assert health() == 1
    with pod(tmp_path, RUNPOD_POD_ID="p1", HYBRID_VIDEO_POD_LEASE_S="500") as made:
        assert health() == 1
        made.until_ready()
        assert health() == 0
        assert (tmp_path / "run" / "keeper.sock").stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give its children another user")
def test_comfyui_runs_as_a_user_that_can_read_none_of_the_secrets(tmp_path: Path) -> None:
    """What a workflow could make ComfyUI do, it does as another user: keeper, gate and socket are closed to it."""
    tmp_path.chmod(0o755)
    look = (
        "import os, pathlib, time\n"
        "for place in [f'/proc/{os.getppid()}/environ', os.environ['COMFYUI_TARGET']]:\n"
        "    try:\n"
        "        print('READ', len(pathlib.Path(place).read_bytes()), flush=True)\n"
        "    except PermissionError:\n"
        "        print('DENIED', flush=True)\n"
        "    except OSError as error:\n"
        "        print('OTHER', error.errno, flush=True)\n"
        "print('USER', os.getuid(), flush=True)\n"
        "time.sleep(600)\n"
    )
    secret = tmp_path / "secret"
    secret.write_text("x")
    secret.chmod(0o600)
    command = ("/usr/bin/env", "python3", "-c", look)
    environment = {"RUNPOD_POD_ID": "p1", "HYBRID_VIDEO_POD_LEASE_S": "500", "COMFYUI_TARGET": str(secret)}
    with pod(tmp_path, "--comfyui-user", "nobody", command=command, **environment) as made:
        eventually(lambda: any(line.startswith("USER") for line in made.program.lines), made.program)
    said = [line for line in made.program.lines if not line.startswith("{")]
    assert said[:3] == ["DENIED", "DENIED", "USER 65534"]
