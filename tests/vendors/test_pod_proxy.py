"""The gate of the pod image as a real process, in front of a ComfyUI emulator and of misbehaving servers."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from aiohttp import web
from pod_image_rig import BEARER, IMAGE, POD_KEY, TOKEN, Pod, eventually, gate, pod, started
from runpod_rig import graph

from hybrid_video.emulators.server import start_server

pytestmark = pytest.mark.timeout(90)

PATHS = (
    "/prompt",
    "/queue",
    "/history",
    "/view?filename=x",
    "/system_stats",
    "/lease",
    "/health",
    "/internal/logs",
    "/ws",
)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    """Keeper, gate and emulator, shared by the tests of this file."""
    folder = tmp_path_factory.mktemp("pod")
    with pod(folder, RUNPOD_POD_ID="p1", HYBRID_VIDEO_POD_LEASE_S="600") as made:
        made.until_ready()
        yield made


def raw(url: str, request: bytes) -> bytes:
    """Sends bytes and reads the answer until the other side closes."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=10) as connection:
        connection.sendall(request)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
        return answer


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH"])
def test_nothing_is_reached_without_the_token(running: Pod, method: str) -> None:
    """Every path and method without the token, or with a wrong one, is 401; ComfyUI keeps no trace of any of them."""
    before = httpx.get(f"{running.comfyui_url}/queue").json(), httpx.get(f"{running.comfyui_url}/history").json()
    wrong = [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Bearer {TOKEN},{TOKEN}"},
        {"Authorization": f"Bearer {TOKEN[:-1]}"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": TOKEN},
        {"Cookie": f"token={TOKEN}"},
        {"X-Api-Key": TOKEN},
    ]
    with httpx.Client(base_url=running.url, timeout=10) as stranger:
        for path in PATHS:
            for headers in wrong if method == "GET" else wrong[:3]:
                answer = stranger.request(method, path, headers=headers, content=b"" if method == "GET" else b"{}")
                assert answer.status_code == 401, (method, path, headers)
                assert answer.headers["WWW-Authenticate"] == "Bearer"
        query = stranger.get("/queue", params={"token": TOKEN})
        assert query.status_code == 401
    after = httpx.get(f"{running.comfyui_url}/queue").json(), httpx.get(f"{running.comfyui_url}/history").json()
    assert after == before


def test_two_authorizations_are_none(running: Pod) -> None:
    """A request with the right token beside another one is refused: nobody can say which of them counts."""
    headers = [("Authorization", "Bearer wrong-wrong-wrong-wrong"), ("Authorization", f"Bearer {TOKEN}")]
    assert httpx.get(f"{running.url}/queue", headers=headers).status_code == 401


def test_a_job_goes_through_from_prompt_to_clip(running: Pod) -> None:
    """Submit, queue, history, view with a range, HEAD and an image upload behave as without the gate."""
    http = running.http
    upload = http.post("/upload/image", files={"image": ("a.png", b"\x89PNG" + b"x" * 50_000)}, data={"type": "input"})
    assert upload.json()["name"] == "a.png"
    posted = http.post("/prompt", json={"prompt": graph("t/gate"), "client_id": "c", "prompt_id": "gate-1"})
    assert posted.status_code == 200, posted.text
    entry = eventually(lambda: http.get("/history/gate-1").json().get("gate-1"), running.program)
    (file,) = entry["outputs"]["3"]["images"]
    query = {key: file[key] for key in ("filename", "subfolder", "type")}
    whole = http.get("/view", params=query)
    assert whole.status_code == 200
    assert whole.content[4:8] == b"ftyp"
    assert int(whole.headers["Content-Length"]) == len(whole.content)
    part = http.get("/view", params=query, headers={"Range": "bytes=10-"})
    assert (part.status_code, part.content) == (206, whole.content[10:])
    assert part.headers["Content-Range"] == f"bytes 10-{len(whole.content) - 1}/{len(whole.content)}"
    assert http.head("/view", params=query).headers["Content-Length"] == str(len(whole.content))
    assert http.get("/prompt").json()["exec_info"]["queue_remaining"] == 0
    assert http.get("/object_info/SaveVideo").json()["SaveVideo"]["output_node"]
    for answer in (whole, part, posted):
        assert answer.headers["Cache-Control"] == "private, no-store"


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/ws?clientId=1", 404),
        ("GET", "/internal/logs", 404),
        ("GET", "/_emulator/charges", 404),
        ("POST", "/_emulator/reset", 404),
        ("GET", "/userdata/x", 404),
        ("DELETE", "/prompt", 405),
        ("POST", "/history", 405),
        ("GET", "/history/%2e%2e%2finternal%2flogs", 400),
        ("GET", "/history/../internal/logs", 400),
        ("GET", "//internal/logs", 400),
        ("GET", "/view?filename=..%2F..%2Fetc%2Fpasswd", 400),
        ("GET", "/view?filename=a&subfolder=..%2F..", 400),
        ("GET", "/view?filename=x.mp4%00.png", 400),
    ],
)
def test_the_bearer_of_the_token_gets_no_further_than_the_list(
    running: Pod, method: str, target: str, status: int
) -> None:
    """Sent byte for byte, so that no client library tidies the path up: refused, in words."""
    request = f"{method} {target} HTTP/1.1\r\nHost: pod\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 0\r\n\r\n"
    answer = raw(running.url, request.encode())
    assert answer.startswith(f"HTTP/1.1 {status} ".encode()), answer[:200]
    assert b'{"error": "' in answer


def test_a_websocket_is_not_offered(running: Pod) -> None:
    """An upgrade on an allowed path is refused as well, with what to do instead."""
    headers = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    answer = running.http.get("/prompt", headers=headers)
    assert answer.status_code == 400
    assert "poll /history" in answer.json()["error"]


def test_neither_logs_nor_command_lines_nor_comfyuis_environment_hold_a_secret(running: Pod) -> None:
    """After use and misuse: no token and no key in what was printed, in any command line, or where ComfyUI can look."""
    running.http.get("/view", params={"filename": "x", "token": TOKEN})
    httpx.get(f"{running.url}/{TOKEN}", headers=BEARER)
    httpx.get(f"{running.url}/queue?key={TOKEN}")
    eventually(lambda: running.program.events("unauthorized"), running.program)
    pids = {line["program"]: line["pid"] for line in running.program.events("started")}
    assert set(pids) == {"gate", "comfyui"}
    for secret in (TOKEN, POD_KEY):
        assert secret not in running.program.text
        for pid in (*pids.values(), running.program.process.pid):
            assert secret.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
        for pid in pids.values():
            assert secret.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
    comfyui = Path(f"/proc/{pids['comfyui']}/environ").read_bytes()
    assert b"HYBRID_VIDEO" not in comfyui
    assert b"RUNPOD" not in comfyui


def test_the_log_says_what_was_done_without_saying_with_what(running: Pod) -> None:
    """Submits and refusals are lines with route, status and time; reads that went well are not worth one."""
    before = len(running.program.events("request"))
    running.http.get("/queue")
    running.http.post("/interrupt", json={})
    running.http.get("/nothing/here?secret=1")
    lines = eventually(
        lambda: lines if len(lines := running.program.events("request")[before:]) >= 2 else None, running.program
    )
    assert [(line["method"], line["route"], line["status"]) for line in lines] == [
        ("POST", "interrupt", 200),
        ("GET", "-", 404),
    ]
    assert "secret" not in json.dumps(lines)


@asynccontextmanager
async def upstream(handler: object) -> AsyncIterator[str]:
    """A server that answers everything with one handler."""
    app = web.Application(client_max_size=200 * 1024 * 1024)
    app.router.add_route("*", "/{tail:.*}", handler)  # type: ignore[arg-type]
    server = await start_server(app)
    try:
        yield server.url
    finally:
        await server.close()


async def test_a_chunked_upload_is_passed_on_while_it_arrives() -> None:
    """No copy of the body is kept: ComfyUI has the beginning before the end has been sent."""
    first = asyncio.Event()
    received: list[int] = []

    async def take(request: web.Request) -> web.Response:
        total = 0
        async for chunk in request.content.iter_any():
            total += len(chunk)
            first.set()
        received.append(total)
        return web.json_response({"name": "x"})

    async def body() -> AsyncIterator[bytes]:
        yield b"a" * 100_000
        await asyncio.wait_for(first.wait(), 10)
        yield b"b" * 100_000

    async with upstream(take) as url:
        with gate(url) as (_, address):
            async with httpx.AsyncClient(base_url=address, headers=BEARER, timeout=20) as http:
                answer = await http.post("/upload/image", content=body())
    assert (answer.status_code, received) == (200, [200_000])


async def test_a_body_over_the_limit_is_cut_off_whether_or_not_it_says_so() -> None:
    """Declared: refused unread. Chunked: cut at the limit, and ComfyUI never gets a whole request."""
    whole: list[int] = []

    async def take(request: web.Request) -> web.Response:
        whole.append(len(await request.read()))
        return web.Response()

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b"x" * 4096

    async with upstream(take) as url:
        with gate(url) as (_, address):
            async with httpx.AsyncClient(base_url=address, headers=BEARER, timeout=20) as http:
                declared = await http.post("/queue", content=b"x" * 70_000)
                chunked = await http.post("/queue", content=endless())
                squeezed = await http.post("/queue", content=b"{}", headers={"Content-Encoding": "gzip"})
    assert (declared.status_code, chunked.status_code, squeezed.status_code) == (413, 413, 415)
    assert whole == []


async def test_only_harmless_headers_cross_the_gate() -> None:
    """The token, cookies, origins and forwarded addresses stay outside; ComfyUI's own odd headers stay inside."""
    seen: list[dict[str, str]] = []

    async def take(request: web.Request) -> web.Response:
        seen.append({name.lower(): value for name, value in request.headers.items()})
        answer = web.json_response({}, headers={"Set-Cookie": "a=b", "Access-Control-Allow-Origin": "*", "Server": "x"})
        answer.headers["ETag"] = '"1"'
        return answer

    sent = {"Cookie": "a=b", "Origin": "https://evil.example", "X-Forwarded-For": "1.2.3.4", "Range": "bytes=0-"}
    async with upstream(take) as url:
        with gate(url) as (_, address):
            answer = await asyncio.to_thread(httpx.get, f"{address}/queue", headers={**BEARER, **sent})
    assert not {"authorization", "cookie", "origin", "x-forwarded-for"} & set(seen[0])
    assert seen[0]["range"] == "bytes=0-"
    assert urlsplit(url).netloc == seen[0]["host"]
    assert answer.headers["ETag"] == '"1"'
    assert "Set-Cookie" not in answer.headers
    assert "Access-Control-Allow-Origin" not in answer.headers


async def test_a_comfyui_that_does_not_answer_is_told_of_before_runpods_proxy_gives_up() -> None:
    """504 with words after the limit, which by default is below the proxy's 100 s; the gate stays usable."""

    async def sleep(request: web.Request) -> web.Response:
        if request.path == "/queue":
            return web.json_response({})
        await asyncio.sleep(60)
        return web.Response()

    async with upstream(sleep) as url:
        with gate(url, "--answer-within", "0.5") as (_, address):
            async with httpx.AsyncClient(base_url=address, headers=BEARER, timeout=20) as http:
                slow = await http.post("/prompt", json={})
                after = await http.get("/queue")
    assert slow.status_code == 504
    assert "look again before you repeat" in slow.json()["error"]
    assert after.status_code == 200
    assert "ANSWER_WITHIN_S = 90.0" in (IMAGE / "pod_gate.py").read_text()


async def test_a_slow_download_goes_on_as_long_as_bytes_come() -> None:
    """The limit is for the beginning of an answer, not for its whole length."""

    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "8"})
        await response.prepare(request)
        for _ in range(8):
            await asyncio.sleep(0.1)
            await response.write(b"x")
        return response

    async with upstream(drip) as url:
        with gate(url, "--answer-within", "0.4") as (_, address):
            async with httpx.AsyncClient(base_url=address, headers=BEARER, timeout=20) as http:
                answer = await http.get("/view", params={"filename": "a.mp4"})
    assert answer.content == b"x" * 8


async def test_half_a_clip_never_looks_whole() -> None:
    """ComfyUI breaks off in the middle: so does the gate, also where no length was promised."""

    async def half(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(b"x" * 1000)
        await asyncio.sleep(0.1)
        assert request.transport is not None
        request.transport.abort()
        return response

    async with upstream(half) as url:
        with gate(url) as (_, address):
            async with httpx.AsyncClient(base_url=address, headers=BEARER, timeout=20) as http:
                with pytest.raises(httpx.TransportError):
                    await http.get("/view", params={"filename": "a.mp4"})


def test_what_never_reached_comfyui_says_so() -> None:
    """Nothing listens behind the gate: a read is 503; a submit is 409, because a 5xx could hide an accepted one."""
    with gate("http://127.0.0.1:9") as (_, address), httpx.Client(base_url=address, headers=BEARER) as http:
        read, submit = http.get("/queue"), http.post("/prompt", json={})
        assert (read.status_code, submit.status_code) == (503, 409)
        assert "nothing was sent" in submit.json()["error"]
        assert submit.headers["Retry-After"] == "5"
        assert http.get("/health").status_code == 503
        assert http.get("/lease").status_code == 404


@pytest.mark.parametrize("token", ["", "too-short-token", "has a space in the middle", "ünicode-token-ünicode"])
def test_a_gate_without_a_good_token_does_not_open(token: str) -> None:
    """Exit 78 and a sentence; there is no way to run it open."""
    with started(sys.executable, str(IMAGE / "pod_gate.py"), HYBRID_VIDEO_POD_TOKEN=token) as program:
        assert program.ended() == 78
    assert "openssl rand -hex 32" in program.text
    assert not token or token not in program.text


def test_a_gate_before_something_that_is_not_on_loopback_does_not_open() -> None:
    """ComfyUI on another address could be reached around the gate."""
    command = (sys.executable, str(IMAGE / "pod_gate.py"), "--upstream", "http://10.0.0.7:8188")
    with started(*command, HYBRID_VIDEO_POD_TOKEN=TOKEN) as program:
        assert program.ended() == 78
    assert "loopback" in program.text
