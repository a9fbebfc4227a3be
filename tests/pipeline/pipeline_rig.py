"""What the whole-path tests are written with: emulators in a thread, and the command line, in this process or as a real
one."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
from filelock import FileLock

from hybrid_video.cli import app
from hybrid_video.cli.output import guarded
from hybrid_video.emulators.farm import Farm, FarmOptions
from hybrid_video.ledger import Ledger
from hybrid_video.ledger.verify import VerifyReport, verify
from hybrid_video.models import Attempt, AttemptState, Tier
from hybrid_video.prefect_deploy import create_pools, deploy
from hybrid_video.prefect_server import PrefectServer
from hybrid_video.project import project_dir

T = TypeVar("T")

TIME_SCALE = 40.0
SERVICE_S = {Tier.LOCAL: 8.0, Tier.CLOUD: 12.0, Tier.GEMINI: 6.0}
"""Simulated seconds per clip; with the time scale a local clip takes 0.2 s."""

SMALL = {"duration_s": 1, "width": 128, "height": 72, "fps": 8}
"""A clip that is drawn in a few milliseconds."""

QUICK = {
    "HYBRID_VIDEO_COMFYUI_POLL_INTERVAL_S": "0.05",
    "HYBRID_VIDEO_COMFYUI_OUTAGE_PATIENCE_S": "1",
    "HYBRID_VIDEO_RUNPOD_POLL_INTERVAL_S": "0.05",
    "HYBRID_VIDEO_GEMINI_POLL_INTERVAL_S": "0.05",
    "HYBRID_VIDEO_GEMINI_RESOLUTION": "360p",
    "HYBRID_VIDEO_RETRY_BASE_S": "0.1",
    "HYBRID_VIDEO_BACKEND_PATIENCE_S": "2",
    "HYBRID_VIDEO_MIN_FREE_DISK_MB": "50",
}

PAUSES = 5
LONGEST_PAUSE_S = 0.15
"""How long `until` waits before it asks again: so many times what the question took, and no longer than this."""

COMMAND = "from hybrid_video.cli import main; main()"

TIERS = {
    "local": ("HYBRID_VIDEO_COMFYUI_URLS",),
    "cloud": ("HYBRID_VIDEO_RUNPOD_JOBS_URL", "HYBRID_VIDEO_RUNPOD_PODS_URL", "RUNPOD_API_KEY"),
    "gemini": ("HYBRID_VIDEO_GEMINI_URL", "GEMINI_API_KEY"),
}


class EmulatorThread:
    """An event loop in a thread of its own, for servers that outlive single calls."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="emulators", daemon=True)
        self._thread.start()

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine there and waits for its result."""
        return self.start(work).result(60)

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Starts a coroutine there."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def close(self) -> None:
        """Ends the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


@dataclass(frozen=True)
class Servers:
    """Running emulators as the outside sees them."""

    environment: Mapping[str, str]
    urls: tuple[str, ...]

    def charges(self) -> list[dict[str, str]]:
        """Every submission any of them ever accepted."""
        return [row for url in self.urls for row in httpx.get(f"{url}/_emulator/charges").json()]

    def charged_jobs(self) -> Counter[str]:
        """How many submissions each job came to."""
        return Counter(row["job"] for row in self.charges())

    def billed_usd(self) -> Decimal:
        """What all of it cost."""
        return sum((Decimal(row["usd"]) for row in self.charges()), Decimal(0))

    def fault(self, **rule: object) -> None:
        """Adds a fault to the plan that they share; give `server` to hit one kind."""
        httpx.post(f"{self.urls[0]}/_emulator/faults", json=rule).raise_for_status()

    def reset(self) -> None:
        """Forgets jobs, charges and faults."""
        for url in self.urls:
            httpx.post(f"{url}/_emulator/reset").raise_for_status()


@dataclass(frozen=True, repr=False)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The object on standard output, which must be all that is there."""
        lines = self.out.splitlines()
        assert len(lines) == 1, f"standard output holds more than one line: {self.out!r}"
        found = json.loads(lines[0])
        assert isinstance(found, dict)
        return found

    def __repr__(self) -> str:
        return f"exit {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


class Project:
    """A user's folder with batch files, the environment of the commands, and the state they leave behind."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.home = folder / "state"
        self.out = folder / "clips"
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        self.set(HYBRID_VIDEO_HOME=self.home, **QUICK)

    def set(self, **variables: object) -> None:
        """Sets environment variables for every later command."""
        for name, value in variables.items():
            self._monkeypatch.setenv(name, str(value))

    def use(self, servers: Servers, *tiers: str) -> None:
        """Points the commands at the emulators of these tiers (all when none is named)."""
        for tier in tiers or TIERS:
            self.set(**{name: servers.environment[name] for name in TIERS[tier]})

    def batch(self, jobs: Sequence[Mapping[str, object]], name: str = "film", **fields: object) -> Path:
        """Writes `<name>.json`; every job gets a prompt and a small size unless it says otherwise."""
        full = [{"id": f"s{n}", "prompt": f"shot number {n}", **SMALL, **job} for n, job in enumerate(jobs, 1)]
        return self.write(f"{name}.json", {"name": name, "jobs": full, **fields})

    def write(self, name: str, content: object) -> Path:
        """Writes a file of the project; anything but text and bytes becomes JSON."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path

    def command(self, *arguments: object) -> Outcome:
        """Runs a command in this process."""
        self._capsys.readouterr()
        code = guarded(app, [str(argument) for argument in arguments])
        captured = self._capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    def run(self, file: Path, *options: object) -> Outcome:
        """`hybrid-video run FILE --out clips --json`."""
        return self.command("run", file, "--out", self.out, "--json", *options)

    def start(self, *arguments: object) -> Process:
        """Starts a command as a process of its own."""
        return Process([str(argument) for argument in arguments], self.folder)

    def start_run(self, file: Path, *options: object) -> Process:
        """`run` as a process of its own."""
        return self.start("run", file, "--out", self.out, "--json", *options)

    def attempts(self) -> list[Attempt]:
        """What the ledger knows; nothing if no ledger was made."""
        if not (self.home / "ledger.sqlite3").exists():
            return []
        ledger = Ledger.open(self.home / "ledger.sqlite3")
        try:
            return ledger.attempts()
        finally:
            ledger.close()

    def attempts_in(self, state: AttemptState) -> int:
        """How many attempts are in a state; reads only, so that it also works beside a stopped process."""
        with closing(sqlite3.connect(f"file:{self.home / 'ledger.sqlite3'}?mode=ro", uri=True)) as connection:
            query = "select count(*) from attempts where state = ?"
            return int(connection.execute(query, (state.value,)).fetchone()[0])

    def verify(self) -> VerifyReport:
        """The ledger recomputed."""
        ledger = Ledger.open(self.home / "ledger.sqlite3")
        try:
            return verify(ledger)
        finally:
            ledger.close()

    def clip_files(self) -> list[Path]:
        """Video files in the output folder, unfinished ones included."""
        return sorted(p for p in self.out.rglob("*") if p.suffix in {".mp4", ".webm", ".webp", ".part"})


class Process:
    """A command as a real process; its output goes to files, so that nothing can block it."""

    def __init__(self, arguments: Sequence[str], folder: Path, *, program: str = COMMAND) -> None:
        self._out = folder / f"process-{time.monotonic_ns()}.out"
        self._err = self._out.with_suffix(".err")
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.popen = subprocess.Popen(
                [sys.executable, "-c", program, *arguments],
                stdout=out,
                stderr=err,
                stdin=subprocess.DEVNULL,
                cwd=folder,
                env=dict(os.environ),
            )

    def wait(self, timeout_s: float = 120) -> Outcome:
        """Waits for its end."""
        try:
            code = self.popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
            raise AssertionError(f"did not end within {timeout_s} s: {self.outcome(-1)}") from None
        return self.outcome(code)

    def outcome(self, code: int) -> Outcome:
        """What it has written so far."""
        return Outcome(code, self._out.read_text(encoding="utf-8"), self._err.read_text(encoding="utf-8"))

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        self.popen.send_signal(number)

    def end(self) -> None:
        """Makes sure that it is gone."""
        if self.popen.poll() is None:
            self.popen.kill()
            self.popen.wait()


@dataclass(frozen=True)
class Deployed:
    """Prefect's folder as a stopped server left it that had been given our pools and deployments; made once."""

    home: Path
    pools: list[str]
    deployments: list[str]

    @classmethod
    def made_in(cls, folder: Path) -> Deployed:
        """Makes it in this folder, which every worker of the session shares, unless another has."""
        done = folder / "deployed.json"
        with FileLock(folder / "deployed.lock"):
            if not done.exists():
                shutil.rmtree(folder / "deployed", ignore_errors=True)
                with PrefectServer(folder / "deployed") as server:
                    pools = create_pools(server.url)
                    deployments = deploy(server.url, project_dir(), home=server.home)
                done.write_text(json.dumps({"pools": pools, "deployments": deployments}), encoding="utf-8")
        return cls(folder / "deployed", **json.loads(done.read_text(encoding="utf-8")))

    def server(self, home: Path, *, lean: bool = False) -> PrefectServer:
        """A server of its own on a copy of that folder, not started: it has the deployments as soon as it answers."""
        shutil.copytree(self.home, home, ignore=shutil.ignore_patterns("*.lock", "*.log"))
        return PrefectServer(home, lean=lean)


def until(what: str, true: Callable[[], object], timeout_s: float = 90, every_s: float = 0.02) -> None:
    """Waits until something is true.

    Args:
        every_s: pause between two looks; longer where a look is dear, for it takes CPU from what is waited for. One
            that takes long is followed by a longer pause by itself.
    """
    end = time.monotonic() + timeout_s
    while True:
        began = time.monotonic()
        if true():
            return
        asked = time.monotonic()
        assert asked < end, f"not within {timeout_s} s: {what}"
        time.sleep(max(every_s, min(LONGEST_PAUSE_S, PAUSES * (asked - began))))


def servers_of(farm: Farm) -> Servers:
    """A farm as the outside sees it."""
    running = [server for _, server in farm.comfyui]
    running += [pair[1] for pair in (farm.runpod, farm.gemini) if pair]
    return Servers(farm.environment(), tuple(server.url for server in running))


FarmMaker = Callable[[FarmOptions], Servers]
