"""The harness's side of `chaos_child`: starts a run, kills it when the plan says so, and tells how it ended."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.chaos_farm import SMALL, WARMING
from benchmarks.chaos_fork import ForkParent
from hybrid_video.models import Batch, Preferences, Tier, VideoJob

ROOT = Path(__file__).resolve().parents[1]
LONGEST_RUN_S = 90.0
"""A run that takes longer hangs: that is a finding, not patience."""


class HangError(Exception):
    """A batch process did not end by itself."""


@dataclass(frozen=True)
class Ended:
    """How one run ended. `code` is that of the process, -9 when it was killed; times are monotonic seconds."""

    code: int
    started_at: float
    took_s: float
    events: tuple[dict[str, Any], ...]

    @property
    def killed(self) -> bool:
        """Whether it died by SIGKILL."""
        return self.code == -signal.SIGKILL

    def first_event_s(self, jobs: set[str]) -> float | None:
        """Seconds from the start to the first word on one of these jobs."""
        times = [event["at"] for event in self.events if event["job"] in jobs]
        return min(times) - self.started_at if times else None


@dataclass
class RunningBatch:
    """A live batch process."""

    pid: int
    started_at: float
    _ended: bool = field(default=False)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def kill(self) -> None:
        """SIGKILL, unless it is known to have ended: its pid may belong to another by then."""
        with self._lock:
            if not self._ended:
                os.kill(self.pid, signal.SIGKILL)

    def over(self) -> None:
        """Notes its end."""
        with self._lock:
            self._ended = True


def forking_parent(folder: Path, environment: Mapping[str, str]) -> ForkParent:
    """What batch runs are forked from.

    Raises:
        RuntimeError: its own first run, of one job for each tier, did not succeed.
    """
    own = Path(tempfile.mkdtemp(prefix="warming-", dir=folder))
    request = {
        "batch": str(write_batch(warming_batch(), own)),
        "env": {**environment, "HYBRID_VIDEO_HOME": str(own / "home")},
        "out": str(own / "clips"),
        "events": str(own / "events.jsonl"),
    }
    parent = ForkParent(ROOT / "benchmarks" / "chaos_child.py", folder, request)
    if parent.said["exit"] != 0:
        raise RuntimeError(f"the forking process is not ready: {parent.said}")
    return parent


class Nursery:
    """Runs batches in processes forked from the parent, one at a time."""

    def __init__(self, parent: ForkParent, folder: Path, environment: Mapping[str, str]) -> None:
        self._line = parent.line()
        self._folder = Path(tempfile.mkdtemp(prefix="runs-", dir=folder))
        self._count = 0
        self._environment = dict(environment)

    def start(self, batch: Path, *, home: Path, out: Path, crash: Mapping[str, Any] | None = None) -> RunningBatch:
        """Forks a run of a batch file."""
        self._count += 1
        self._events = self._folder / f"events-{self._count}.jsonl"
        request = {
            "batch": str(batch),
            "env": {**self._environment, "HYBRID_VIDEO_HOME": str(home)},
            "out": str(out),
            "crash": crash,
            "events": str(self._events),
            "log": str(batch.with_suffix(".log")),
        }
        began = time.monotonic()
        return RunningBatch(self._line.start(request), began)

    def wait(self, run: RunningBatch) -> Ended:
        """Waits for its end.

        Raises:
            HangError: it had to be killed after `LONGEST_RUN_S`.
        """
        hung = threading.Event()

        def give_up() -> None:
            hung.set()
            run.kill()

        timer = threading.Timer(LONGEST_RUN_S, give_up)
        timer.start()
        code = self._line.wait()
        run.over()
        timer.cancel()
        if hung.is_set():
            raise HangError(f"a batch process had not ended after {LONGEST_RUN_S:g} s")
        took = time.monotonic() - run.started_at
        return Ended(code, run.started_at, took, tuple(_events(self._events)))


def write_batch(batch: Batch, folder: Path) -> Path:
    """Writes a batch as a file, which is how a run gets it."""
    path = folder / f"{batch.name}.json"
    path.write_text(batch.model_dump_json(), encoding="utf-8")
    return path


def warming_batch() -> Batch:
    """One small job for each tier."""
    jobs = [
        VideoJob(id=tier.value, prompt="warm", preferences=Preferences(backend=tier.value), **SMALL) for tier in Tier
    ]
    return Batch(name=WARMING, jobs=tuple(jobs))


def _events(path: Path) -> list[dict[str, Any]]:
    """Events written whole; the file goes away."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    path.unlink()
    return [json.loads(line) for line in lines]
