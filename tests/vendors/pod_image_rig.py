"""The programs of the pod image as real processes: the gate alone, or keeper, gate and a ComfyUI emulator."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

IMAGE = Path(__file__).parents[2] / "docker" / "comfyui-pod"
TOKEN = "pod-token-0123456789-abcdefghij"
POD_KEY = "rpa_POD_SCOPED_KEY_0123456789"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Program:
    """A started process; its output is read all the time, so it can never block on it."""

    process: subprocess.Popen[bytes]
    lines: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """Everything it has said so far."""
        return "\n".join(self.lines)

    def events(self, name: str) -> list[dict[str, Any]]:
        """Its JSON log lines of one kind."""
        found = [json.loads(line) for line in list(self.lines) if line.startswith('{"who"')]
        return [line for line in found if line["event"] == name]

    def event(self, name: str, patience_s: float = 20.0) -> dict[str, Any]:
        """The first log line of a kind, waited for."""
        return eventually(lambda: next(iter(self.events(name)), None), self, patience_s)

    def ended(self, patience_s: float = 20.0) -> int:
        """Its exit code, waited for."""
        return self.process.wait(patience_s)


def eventually(look: Any, program: Program, patience_s: float = 20.0) -> Any:
    """The first answer that is not None or False."""
    until = time.monotonic() + patience_s
    while time.monotonic() < until:
        with contextlib.suppress(httpx.HTTPError):
            found = look()
            if found is not None and found is not False:
                return found
        time.sleep(0.02)
    raise AssertionError(f"waited {patience_s:g} s in vain; the program said:\n{program.text}")


@contextlib.contextmanager
def started(*command: str, **environment: str) -> Iterator[Program]:
    """A program with a bare environment; it and its children are gone at the end."""
    basic = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, env={**basic, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    program = Program(process)
    reader = threading.Thread(target=_read, args=(program,), daemon=True)
    reader.start()
    try:
        yield program
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(5)
        reader.join(5)
        if process.stdout is not None:
            process.stdout.close()


def _read(program: Program) -> None:
    assert program.process.stdout is not None
    for line in program.process.stdout:
        program.lines.append(line.decode("utf-8", "replace").rstrip())


@contextlib.contextmanager
def gate(upstream: str, *options: str, token: str = TOKEN) -> Iterator[tuple[Program, str]]:
    """The gate alone, in front of an address; yields it and its own address."""
    command = (sys.executable, str(IMAGE / "pod_gate.py"), "--host", "127.0.0.1", "--port", "0", "--upstream", upstream)
    with started(*command, *options, HYBRID_VIDEO_POD_TOKEN=token) as program:
        yield program, f"http://127.0.0.1:{program.event('listening')['port']}"


@dataclass
class Pod:
    """A keeper with its gate and ComfyUI."""

    program: Program
    url: str
    comfyui_url: str
    http: httpx.Client
    state: Path

    def lease(self, seconds: float) -> httpx.Response:
        """`POST /lease`."""
        return self.http.post("/lease", json={"lease_s": seconds})

    def health(self) -> dict[str, Any]:
        """`GET /health`."""
        return dict(self.http.get("/health").json())

    def until_ready(self) -> None:
        """Waits for ComfyUI behind the gate."""
        eventually(lambda: self.http.get("/health").status_code == 200, self.program)


_EMULATOR = """
import asyncio, sys
from hybrid_video.emulators.comfyui import ComfyUIEmulator
from hybrid_video.emulators.faults import FaultPlan
from hybrid_video.emulators.server import ScaledClock, start_server

async def main():
    emulator = ComfyUIEmulator(clock=ScaledClock(20), faults=FaultPlan(), service_s=10.0, jitter=0.0)
    await start_server(emulator.app(), int(sys.argv[1]))
    await asyncio.Event().wait()

asyncio.run(main())
"""


def emulator_command(port: int) -> tuple[str, ...]:
    """A ComfyUI emulator as a program of its own, twenty times faster than real."""
    return (sys.executable, "-c", _EMULATOR, str(port))


@contextlib.contextmanager
def pod(
    folder: Path,
    *options: str,
    command: tuple[str, ...] | None = None,
    wait: bool = True,
    gate_port: int | None = None,
    **environment: str,
) -> Iterator[Pod]:
    """The keeper as the image starts it; `environment` comes on top of what the pool and RunPod set."""
    gate_port, comfyui_port = gate_port or free_port(), free_port()
    (folder / "run").mkdir(parents=True, exist_ok=True)
    where = ("--run-dir", str(folder / "run"), "--state-dir", str(folder / "state"))
    ports = ("--gate-host", "127.0.0.1", "--gate-port", str(gate_port), "--comfyui-port", str(comfyui_port))
    variables = {
        "HYBRID_VIDEO_POD_TOKEN": TOKEN,
        "HYBRID_VIDEO_POD_NAME": "hybrid-video-0123abcd-1",
        "RUNPOD_API_KEY": POD_KEY,
        **environment,
    }
    arguments = (*where, *ports, *options, "--", *(command or emulator_command(comfyui_port)))
    with started(sys.executable, str(IMAGE / "lease_keeper.py"), *arguments, **variables) as program:
        url = f"http://127.0.0.1:{gate_port}"
        with httpx.Client(base_url=url, headers=BEARER, timeout=10) as http:
            made = Pod(program, url, f"http://127.0.0.1:{comfyui_port}", http, folder / "state" / "lease.json")
            if wait:
                eventually(lambda: httpx.get(url).status_code == 401, program)
            yield made
