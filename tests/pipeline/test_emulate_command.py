"""`hybrid-video emulate` as scripts use it: a real process with ports, charges, reset, faults and an orderly end."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator

import httpx
import pytest
from pipeline_rig import Process, Project, Servers, until

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")


@pytest.fixture
def emulate(project: Project) -> Iterator[list[Process]]:
    """Processes that are ended with the test."""
    started: list[Process] = []
    yield started
    for process in started:
        process.end()


def started(project: Project, running: list[Process], *options: object) -> tuple[Process, Servers]:
    """A running `emulate --json` and what it says of itself."""
    process = project.start("emulate", "--json", *options)
    running.append(process)
    until("the emulators to start", lambda: process.outcome(0).out.endswith("\n") or process.popen.poll() is not None)
    environment = json.loads(process.outcome(0).out)["environment"]
    urls = {value.split("/v2")[0] for name, value in environment.items() if "URL" in name for value in value.split(",")}
    return process, Servers(environment, tuple(sorted(urls)))


def test_all_three_serve_a_batch_and_end_on_sigterm(project: Project, emulate: list[Process]) -> None:
    """Charges list every submission, reset empties them, and SIGTERM ends the process with exit 0."""
    process, servers = started(project, emulate, "--time-scale", 40)
    assert len(servers.urls) == 3
    assert servers.charges() == []
    project.use(servers)
    outcome = project.run(project.batch([{}, {"preferences": {"backend": "gemini"}}]))
    assert outcome.code == 0, str(outcome)
    rows = servers.charges()
    assert sorted(row["job"] for row in rows) == ["film/s1", "film/s2"]
    assert {frozenset(row) for row in rows} == {frozenset({"id", "job", "usd", "state"})}
    servers.reset()
    assert servers.charges() == []
    process.signal(signal.SIGTERM)
    ended = process.wait()
    assert ended.code == 0, str(ended)
    assert "Traceback" not in ended.err
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{servers.urls[0]}/_emulator/charges")


def test_only_the_named_ports_are_served_and_faults_come_from_a_file(project: Project, emulate: list[Process]) -> None:
    """One ComfyUI on the port asked for, whose first health check fails as the file says; Ctrl-C ends it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    faults = project.write(
        "faults.yaml", "rules:\n  - {server: comfyui, operation: health, action: status, status: 500}\n"
    )
    process, servers = started(project, emulate, "--comfyui", port, "--faults", faults)
    assert servers.environment == {"HYBRID_VIDEO_COMFYUI_URLS": f"http://127.0.0.1:{port}"}
    answers = [httpx.get(f"http://127.0.0.1:{port}/system_stats").status_code for _ in range(2)]
    assert answers == [500, 200]
    process.signal(signal.SIGINT)
    assert process.wait().code == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--time-scale", 0), ("--time-scale", "0")),
        (("--prices", "sed"), ("--prices", "sed")),
        (("--service", "locl=3"), ("--service", "locl=3")),
        (("--faults", "gone.yaml"), ("gone.yaml",)),
        (("--comfyui", "many"), ("--comfyui",)),
    ],
)
def test_wrong_options_are_refused(project: Project, options: tuple[object, ...], words: tuple[str, ...]) -> None:
    """Exit 2 before any server is started."""
    outcome = project.command("emulate", *options)
    assert outcome.code == 2, str(outcome)
    for word in words:
        assert word in outcome.err
    assert "Traceback" not in outcome.err


def test_a_taken_port_is_refused(project: Project) -> None:
    """With what to do instead."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        outcome = project.command("emulate", "--comfyui", taken.getsockname()[1])
    assert outcome.code == 2, str(outcome)
    assert "another port" in outcome.err
