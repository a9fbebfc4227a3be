"""Does anything grow? Thousands of batches, hours of virtual time, through the real engine, ledger and history.

    python -m benchmarks.soak --hours 6 --batches 3000 [--json] [--folder DIR]

This process makes batch after batch, most of them on backends that answer at once from memory, every twentieth through
the real clients against the emulators. Beside it the long-lived parts of `hybrid-video up` run as processes of their
own on the same home: the API, asked all the time, and the watcher. Old batches are pruned on the way, with the newest
under way. Every gauge is read at equal intervals and judged by its slope over the second half; exit 1 if one leaks.
Ctrl-C ends it early and judges what there is.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import httpx
import psutil

from benchmarks.measure import emulators
from benchmarks.soak_gauges import PROCESS, STATE, Verdict, judged, process_sample, state_sample
from hybrid_video.backends.base import CancelOutcome, ProgressCallback
from hybrid_video.emulators.render import render_clip
from hybrid_video.engine.fleet import Fleet
from hybrid_video.engine.prepare import prepare
from hybrid_video.engine.run import BatchRun
from hybrid_video.engine.session import opened, run_batch
from hybrid_video.errors import FailureKind, TransientError
from hybrid_video.ledger import Owner
from hybrid_video.ledger.copying import backup, backup_name, prune_backups
from hybrid_video.ledger.pruning import compact, prune
from hybrid_video.ledger.verify import verify
from hybrid_video.models import (
    Batch,
    Capabilities,
    CostEntry,
    Health,
    JobHandle,
    JobStatus,
    Lane,
    OutputSpec,
    Quote,
    Refusal,
    Tier,
    VideoJob,
    WorkOrder,
    utc_now,
)
from hybrid_video.settings import RoutingSettings, Settings, StorageSettings

JOBS = 2
AT_ONCE = 4
"""Batches under way at the same time, as runs of several users are."""
REAL_EVERY = 20
REAL_SERVICE = "local=2,cloud=3,gemini=2"
PRUNE_EVERY = 50
SAMPLES = 40
ASK_S = 1.5
FAILS_EVERY = 7
WARM_UP = 10
"""Batches before the first sample: imports, connection pools and caches fill once."""

Leak = Callable[[], None]
OLD_S = 30.0


@dataclass
class QueueBackend:
    """A backend in memory: so many lanes, a time for each clip, and every seventh attempt fails once."""

    key: str
    tier: Tier
    usd: Decimal
    lanes_n: int
    service_s: float
    clip: Path
    sent: dict[str, WorkOrder] = field(default_factory=dict)
    count: int = 0

    async def start(self) -> None:
        """Always up."""

    async def close(self) -> None:
        """Nothing is open."""

    def lanes(self) -> tuple[Lane, ...]:
        """So many at once."""
        return tuple(Lane(id=f"{self.key}/{n}", backend=self.key, tier=self.tier) for n in range(self.lanes_n))

    def capabilities(self) -> Capabilities:
        """Everything."""
        return Capabilities(workflows=True)

    def quote(self, job: VideoJob, *, workflow_path: Path | None = None) -> Quote | Refusal:
        """A fixed price and time."""
        del workflow_path
        output = OutputSpec(width=job.width, height=job.height, fps=job.fps, frames=job.frames)
        prices = {"amount_usd": self.usd, "reserve_usd": self.usd * 2}
        names = {"backend": self.key, "tier": self.tier, "model": "soak", "basis": "soak"}
        return Quote(**names, **prices, service_s=self.service_s, output=output)

    async def preflight(
        self, job: VideoJob, *, workflow_path: Path | None = None, image_path: Path | None = None
    ) -> Refusal | None:
        """Never refuses."""
        return None

    async def health(self) -> Health:
        """Always well."""
        return Health(backend=self.key, tier=self.tier, healthy=True, detail="soak", checked_at=utc_now())

    async def submit(self, order: WorkOrder) -> JobHandle:
        """Accepts it."""
        self.sent[order.attempt_id] = order
        return JobHandle(
            backend=self.key,
            attempt_id=order.attempt_id,
            remote_id=order.attempt_id,
            lane=order.lane,
            submitted_at=utc_now(),
        )

    async def find(self, order: WorkOrder) -> JobHandle | Literal["unknown"] | None:
        """Whatever was not sent is certainly not there."""
        return None

    async def status(self, handle: JobHandle) -> JobStatus:
        """Over."""
        return JobStatus(phase="succeeded", execution_s=self.service_s)

    async def watch(self, handle: JobHandle, on_progress: ProgressCallback | None = None) -> JobStatus:
        """Takes its time."""
        if on_progress is not None:
            on_progress(JobStatus(phase="running"))
        await asyncio.sleep(self.service_s)
        self.count += 1
        if self.count % FAILS_EVERY == 0:
            raise TransientError("the soak's own failure", kind=FailureKind.VENDOR_ERROR, backend=self.key)
        return await self.status(handle)

    async def collect(self, handle: JobHandle, status: JobStatus, folder: Path) -> Path:
        """A copy of the one clip there is."""
        self.sent.pop(handle.attempt_id)
        return Path(await asyncio.to_thread(shutil.copy, self.clip, folder / "clip.mp4"))

    async def cancel(self, handle: JobHandle) -> CancelOutcome:
        """Stops at once."""
        return "stopped"

    def charge(self, quote: Quote, status: JobStatus | None, failure: Any = None) -> CostEntry:
        """The quote for a clip, nothing for a failure."""
        amount = quote.amount_usd if failure is None else Decimal(0)
        return CostEntry(amount_usd=amount, basis="soak", source="metered")


@dataclass(frozen=True)
class Plan:
    """How long and how much. `leak` is called with every few batches: what the gauges must be able to see."""

    batches: int
    hours: float
    home: Path
    time_scale: float = 60.0
    real_every: int = REAL_EVERY
    beside: bool = True
    leak: Leak | None = None
    samples: int = SAMPLES


@dataclass
class Soaked:
    """The table, and what the run came to."""

    batches: int
    jobs: int
    real_s: float
    virtual_h: float
    rows: list[Verdict]
    pruned: int

    @property
    def leaks(self) -> list[str]:
        """Gauges that grow."""
        return [row.gauge for row in self.rows if row.leaks]


class Soak:
    """One run of it."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._home, self._clips = plan.home / "home", plan.home / "clips"
        self._temporary = plan.home / "tmp"
        self._clip = plan.home / "clip.mp4"
        self._at: list[int] = []
        self._series: dict[str, list[float]] = {}
        self._beside: dict[str, psutil.Process] = {}
        self._jobs = self._pruned = self._done = 0
        self._stopped = False
        self._settings = Settings(
            routing=RoutingSettings(retry_base_s=0.01, backend_patience_s=0.5, time_scale=plan.time_scale),
            storage=StorageSettings(home=self._home, out=self._clips, min_free_disk_mb=50),
        )

    async def run(self) -> Soaked:
        """Makes the batches and judges the gauges."""
        self._temporary.mkdir(parents=True)
        tempfile.tempdir = str(self._temporary)
        gc.freeze()  # each sample collects garbage first: what was there before need not be gone through every time
        render_clip(self._clip, prompt="soak", seed=1, width=64, height=64, fps=16, frames=8)
        async with self._emulators() as environment, self._processes(environment) as api:
            began_s = time.monotonic()
            asking = asyncio.create_task(self._ask(api)) if api else None
            try:
                await self._make_batches(began_s)
            finally:
                if asking is not None:
                    asking.cancel()
                    await asyncio.gather(asking, return_exceptions=True)
            real_s = time.monotonic() - began_s
        gc.unfreeze()
        tempfile.tempdir = None
        rows = self._rows()
        return Soaked(self._done, self._jobs, real_s, real_s * self._plan.time_scale / 3600, rows, self._pruned)

    async def _make_batches(self, began_s: float) -> None:
        plan = self._plan
        every = max(1, plan.batches // plan.samples)
        sampled = pruned = 0
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, self._stop)
        while not self._stopped and (
            self._done < plan.batches or (time.monotonic() - began_s) * plan.time_scale < plan.hours * 3600
        ):
            numbers = range(self._done, self._done + AT_ONCE)
            pruning = asyncio.create_task(self._prune_a_moment_later()) if self._done - pruned >= PRUNE_EVERY else None
            real = [plan.real_every and number % plan.real_every == plan.real_every - 1 for number in numbers]
            await asyncio.gather(*(self._real_batch() if each else self._quick_batch() for each in real))
            if pruning is not None:
                await pruning
                pruned = self._done
            self._done += AT_ONCE
            if plan.leak is not None:
                plan.leak()
            if self._done >= WARM_UP and self._done - sampled >= every:
                sampled = self._done
                await asyncio.to_thread(self._sample, len(asyncio.all_tasks()))

    def _stop(self) -> None:
        """Ctrl-C: judges what there is."""
        self._stopped = True

    async def _quick_batch(self) -> None:
        backends = (
            QueueBackend("comfyui", Tier.LOCAL, Decimal(0), 1, 0.01, self._clip),
            QueueBackend("runpod-serverless", Tier.CLOUD, Decimal("0.007"), 2, 0.015, self._clip),
            QueueBackend("gemini", Tier.GEMINI, Decimal("0.08"), 2, 0.01, self._clip),
        )
        fleet, owner = Fleet({each.key: each for each in backends}), Owner(self._home)
        try:
            with opened(self._settings) as (ledger, history):
                batch = self._batch(deadline_s=5.0)
                prepared = await prepare(
                    batch, base_dir=self._home, out_dir=self._clips, settings=self._settings, fleet=fleet
                )
                run = BatchRun(prepared, settings=self._settings, ledger=ledger, history=history, owner=owner)
                report = await run.run()
                assert report.completed == JOBS, report.errors
        finally:
            await fleet.close()
            owner.close()

    async def _real_batch(self) -> None:
        settings = Settings.load()
        batch = self._batch(preferences={"max_cost_usd": "0.10"})
        report = await run_batch(batch, settings=settings, base_dir=self._home, out_dir=self._clips)
        assert report.completed == JOBS, report.errors

    def _batch(self, **fields: Any) -> Batch:
        name = f"soak-{self._jobs // JOBS:06d}"
        self._jobs += JOBS
        size = {"width": 64, "height": 64, "duration_s": 0.5, "fps": 16}
        jobs = tuple(VideoJob(id=f"s{n}", prompt=f"{name} shot {n}", **size) for n in range(JOBS))
        return Batch.model_validate({"name": name, "jobs": jobs, **fields})

    async def _prune_a_moment_later(self) -> None:
        """What is older than the last few batches goes, while the next ones are made; and a backup is taken."""
        await asyncio.sleep(0.02)
        await asyncio.to_thread(self._prune)

    def _prune(self) -> None:
        with opened(self._settings) as (ledger, history):
            history.update(ledger)
            gone = prune(ledger, utc_now() - timedelta(seconds=OLD_S))
            compact(ledger)
            self._pruned += len(gone.batches)
            folder = self._home / "backups"
            backup(ledger, folder / backup_name(utc_now()))
            prune_backups(folder, 3)
            report = verify(ledger)
            assert not [f for f in report.findings if f.serious and f.kind == "balance"], report.findings
        for folder in sorted(self._clips.glob("soak-*"))[:-20]:
            shutil.rmtree(folder, ignore_errors=True)

    # -- beside ----------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _emulators(self) -> AsyncIterator[Mapping[str, str]]:
        """In a process of their own: what they remember is none of the product's memory."""
        if not self._plan.real_every:
            yield {}
            return
        options = ("--time-scale", f"{self._plan.time_scale:g}", "--cold-start", "1", "--service", REAL_SERVICE)
        with emulators(*options) as addresses:
            environment = {
                **addresses,
                "HYBRID_VIDEO_HOME": str(self._home),
                "HYBRID_VIDEO_OUT": str(self._clips),
                "HYBRID_VIDEO_TIME_SCALE": f"{self._plan.time_scale:g}",
                "HYBRID_VIDEO_COMFYUI_POLL_INTERVAL_S": "0.05",
                "HYBRID_VIDEO_RUNPOD_POLL_INTERVAL_S": "0.05",
                "HYBRID_VIDEO_GEMINI_POLL_INTERVAL_S": "0.05",
                "HYBRID_VIDEO_MIN_FREE_DISK_MB": "50",
                "HYBRID_VIDEO_API_READS_PER_MINUTE": "100000",
            }
            kept = dict(os.environ)
            os.environ.update(environment)
            try:
                yield environment
            finally:
                os.environ.clear()
                os.environ.update(kept)

    @contextlib.asynccontextmanager
    async def _processes(self, environment: Mapping[str, str]) -> AsyncIterator[str]:
        """The API and the watcher; gives the API's address ("" where they are left out)."""
        if not self._plan.beside or not environment:
            yield ""
            return
        log = (self._plan.home / "beside.log").open("wb")
        port = _free_port()
        started = []
        for name, arguments in {"api": ["api", "--port", str(port)], "watcher": ["watch"]}.items():
            child = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "hybrid_video",
                *arguments,
                stdout=log,
                stderr=log,
                env={**os.environ, **environment},
            )
            started.append(child)
            self._beside[name] = psutil.Process(child.pid)
        try:
            await _answers(f"http://127.0.0.1:{port}/health")
            yield f"http://127.0.0.1:{port}"
        finally:
            for child in started:
                with contextlib.suppress(ProcessLookupError):
                    child.terminate()
            await asyncio.gather(*(child.wait() for child in started))
            log.close()

    async def _ask(self, api: str) -> None:
        """What a dashboard, Prometheus and scripts ask, over and over, as ever new callers."""
        paths = ("/health", "/metrics", "/api/loadbalancer/status", "/api/loadbalancer/backends", "/api/cloud/status")
        selection = {"job": {"id": "a", "prompt": "p", "width": 64, "height": 64, "duration_s": 0.5}}
        number = 0
        while True:
            async with httpx.AsyncClient(base_url=api, timeout=30) as client:
                for path in paths:
                    with contextlib.suppress(httpx.HTTPError):
                        await client.get(path)
                number += 1
                selection["job"]["prompt"] = f"prompt {number}"
                with contextlib.suppress(httpx.HTTPError):
                    await client.post("/api/loadbalancer/select", json=selection)
            await asyncio.sleep(ASK_S)

    # -- reading ---------------------------------------------------------------------------------------------------

    def _sample(self, tasks: int) -> None:
        gc.collect()
        found = state_sample(self._home, self._temporary, self._clips) | {"tasks": float(tasks)}
        for name, process in {"batches": psutil.Process(), **self._beside}.items():
            found |= {f"{name}: {gauge}": value for gauge, value in process_sample(process).items()}
        self._at.append(self._done)
        for name, value in found.items():
            self._series.setdefault(name, []).append(value)

    def _rows(self) -> list[Verdict]:
        gauges = {gauge.name: gauge for gauge in (*STATE, *PROCESS)}
        return [
            judged(gauges[name.rsplit(": ", 1)[-1]], name, self._at, values)
            for name, values in self._series.items()
            if len(values) == len(self._at)
        ]


async def _answers(url: str) -> None:
    end = time.monotonic() + 60
    async with httpx.AsyncClient(timeout=5) as client:
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if (await client.get(url)).status_code == 200:
                    return
            if time.monotonic() > end:
                raise SystemExit(f"no answer from {url} within a minute; see beside.log")
            await asyncio.sleep(0.2)


def _free_port() -> int:
    import socket  # noqa: PLC0415

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def table(soaked: Soaked) -> str:
    """The gauges as Markdown."""
    lines = ["| gauge | start | middle | end | per batch, second half | verdict |", "|---|---|---|---|---|---|"]
    for row in soaked.rows:
        verdict = "**leaks**" if row.leaks else f"kept: {row.kept}" if row.kept else "steady"
        numbers = " | ".join(f"{value:.1f}" for value in (row.first, row.middle, row.last))
        lines.append(f"| {row.gauge} ({row.unit}) | {numbers} | {row.per_batch:+.5f} | {verdict} |")
    return "\n".join(lines)


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=6.0, help="virtual hours at least (6)")
    parser.add_argument("--batches", type=int, default=3000, help="batches at least (3000)")
    parser.add_argument("--time-scale", type=float, default=60.0, help="virtual seconds in a real one (60)")
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder when left out")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON as well")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as scratch:
        home = (chosen.folder or Path(scratch)).resolve()
        soaked = asyncio.run(Soak(Plan(chosen.batches, chosen.hours, home, chosen.time_scale)).run())
    print(
        f"{soaked.batches} batches, {soaked.jobs} jobs, {soaked.virtual_h:.1f} virtual hours in {soaked.real_s:.0f} s; "
        f"{soaked.pruned} batches pruned on the way"
    )
    print(table(soaked))
    if chosen.json:
        print(json.dumps({"leaks": soaked.leaks, "rows": [asdict(row) for row in soaked.rows]}))
    return 1 if soaked.leaks else 0


if __name__ == "__main__":
    sys.exit(main())
