"""A burst of jobs on one own GPU and rented pods, end to end on emulators: `python -m benchmarks.burst [--quick]`.

The real run, the real watcher, the real pool and clients; only GPUs, vendors and the pace of time are emulated. Prints
one JSON object for each workload and exits 1 when a target is missed:

    opened_after_s     emulated seconds from the start of the run to the decision that opened pods      <= 20
    decisions_to_open  decisions that opened pods: the burst is seen at once, not pod by pod               1
    most_pods          pods alive at once by the vendor's own record                              <= maximum
    left               pods alive at the end                                                               0
    idle_percent       money for ready pods without a job, of the whole pod bill                         <= 3
    ledger_off_percent ledger against the vendor's bill, as the run leaves it                            <= 1
    reconciled_off_usd the same after the bill was read                                                  0.00

An emulated second lasts 1/20 s and our own work is not quickened, so that every delay of ours counts twenty times.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measure import show
from hybrid_video.cli.demo import running_farm
from hybrid_video.emulators.farm import Farm, FarmOptions
from hybrid_video.emulators.faults import FaultPlan
from hybrid_video.emulators.runpod.metering import Usage
from hybrid_video.engine.report import BatchReport, money
from hybrid_video.engine.session import open_ledger, run_batch
from hybrid_video.ledger import Ledger
from hybrid_video.ledger.verify import verify
from hybrid_video.models import Batch, Preferences, Tier, VideoJob
from hybrid_video.pods.pool import PodPool
from hybrid_video.settings import Settings

SCALE = 20.0
OPENED_WITHIN_S = 20.0
IDLE_PERCENT = 3.0
OFF_PERCENT = 1.0
LONG_AFTER_S = 1e9
KNOWN = 6

QUICK = {
    "HYBRID_VIDEO_COMFYUI_POLL_INTERVAL_S": "0.05",
    "HYBRID_VIDEO_RUNPOD_POLL_INTERVAL_S": "0.05",
    "HYBRID_VIDEO_RETRY_BASE_S": "0.05",
    "HYBRID_VIDEO_MIN_FREE_DISK_MB": "50",
    "HYBRID_VIDEO_PODS_IMAGE": "hybrid-video/comfyui-pod",
    "HYBRID_VIDEO_SIMULATED": "true",
}


@dataclass(frozen=True)
class Burst:
    """One workload: `jobs` clips of `clip_s` emulated seconds on `own` GPUs and rented ones."""

    name: str
    jobs: int
    clip_s: float
    own: int = 1
    most: int = 5
    scale: float = SCALE
    billing_lag_s: float = 300.0
    environment: Mapping[str, str] = field(default_factory=dict)
    faults: FaultPlan = field(default_factory=FaultPlan)

    def batch(self) -> Batch:
        """Clips as small as they get."""
        return _batch(self.name, self.jobs)

    def earlier(self) -> Burst:
        """A few clips made before on own GPUs: an installation that rents GPUs knows what its clips take. Each on a GPU
        of its own, for it does not matter on which of them it was learned."""
        return replace(self, own=KNOWN, faults=FaultPlan())


def _batch(name: str, count: int, preferences: Preferences | None = None) -> Batch:
    jobs = (
        VideoJob(id=f"s{n}", prompt=f"shot {n}", duration_s=0.5, width=64, height=64, fps=8, seed=n)
        for n in range(count)
    )
    return Batch(name=name, jobs=tuple(jobs), preferences=preferences)


BURSTS = (Burst("burst-60", 60, 170.0), Burst("burst-120-two-own", 120, 90.0, own=2))
SHORT = (Burst("burst-60", 60, 60.0),)


@dataclass(frozen=True)
class Ran:
    """A workload that has been run, before its folder is removed."""

    report: BatchReport
    figures: dict[str, Any]


@contextmanager
def installation(burst: Burst, home: Path) -> Iterator[tuple[Farm, Settings]]:
    """Emulators in a thread, and settings that point at them and keep their state in `home`."""
    options = FarmOptions(
        comfyui_ports=(0,) * burst.own,
        gemini_port=None,
        time_scale=burst.scale,
        service_s={Tier.LOCAL: burst.clip_s, Tier.CLOUD: burst.clip_s},
        billing_lag_s=burst.billing_lag_s,
        faults=burst.faults,
    )
    with running_farm(options) as farm:
        variables = {name: value for name, value in farm.environment().items() if not name.endswith("_JOBS_URL")}
        variables |= {
            **QUICK,
            "HYBRID_VIDEO_HOME": str(home),
            "HYBRID_VIDEO_TIME_SCALE": str(burst.scale),
            "HYBRID_VIDEO_VALUE_OF_TIME_USD_PER_H": str(10 * burst.scale),  # its hours are real ones
            "HYBRID_VIDEO_PODS_MAX_PODS": str(burst.most),
            **burst.environment,
        }
        yield farm, _settings(variables)


def _settings(variables: Mapping[str, str]) -> Settings:
    """What these variables say. They are gone again at once: installations may stand beside one another."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        return Settings.load()
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)


def learn(burst: Burst, home: Path) -> None:
    """Makes what the installation in `home` has made before."""
    clips = _batch("earlier", KNOWN, Preferences(backend="local", allow_cloud_fallback=False))
    with installation(burst.earlier(), home) as (_, settings):
        asyncio.run(run_batch(clips, settings=settings, base_dir=home, out_dir=home / "clips"))


def run(burst: Burst, home: Path) -> Ran:
    """Runs a workload to its end and measures it."""
    learn(burst, home)
    with installation(burst, home) as (farm, settings):
        return asyncio.run(_run(burst, home, farm, settings))


async def _run(burst: Burst, home: Path, farm: Farm, settings: Settings) -> Ran:
    began = time.perf_counter()
    report = await run_batch(burst.batch(), settings=settings, base_dir=home, out_dir=home / "clips")
    took_s = time.perf_counter() - began
    ledger = open_ledger(settings)
    try:
        booked = ledger.balance("all")
        before = pod_bill(farm)
        pool = PodPool(settings, ledger, bill_final_after_s=0.0)
        try:
            figures = _figures(burst, ledger, farm, pool)
            await asyncio.sleep((burst.billing_lag_s + 100) / burst.scale)  # so far the bill runs behind
            for _ in range(2):
                await pool.reconcile()
        finally:
            await pool.aclose()
        after = ledger.balance("all")
        problems = [str(finding) for finding in verify(ledger).findings]
    finally:
        ledger.close()
    off = abs(booked.settled_usd + booked.reserved_usd - before)
    figures |= {
        "jobs": report.jobs,
        "completed": report.completed,
        "failovers": report.failovers,
        "duration_s": round(report.duration_s * burst.scale, 1),
        "alone_s": round(burst.jobs * burst.clip_s / burst.own, 1),
        "wall_s": round(took_s, 2),
        "bill_usd": money(before),
        "ledger_usd": money(booked.settled_usd),
        "report_usd": money(report.cost_usd),
        "ledger_off_percent": round(float(100 * off / before), 3) if before else 0.0,
        "reconciled_off_usd": money(abs(after.settled_usd - pod_bill(farm))),
        "reserved_usd": money(after.reserved_usd),
        "ledger_problems": problems,
    }
    figures["misses"] = misses(burst, figures)
    return Ran(report, figures)


def _figures(burst: Burst, ledger: Ledger, farm: Farm, pool: PodPool) -> dict[str, Any]:
    pods = pool.store.all()
    attempts = ledger.attempts(burst.name)
    started = min(attempt.created_at for attempt in attempts)
    ready_s = sum(
        (pod.closed_at - pod.ready_at).total_seconds() * burst.scale for pod in pods if pod.closed_at and pod.ready_at
    )
    busy_s = sum(a.execution_s or 0.0 for a in attempts if a.lane.startswith("runpod-pod/"))
    lived_s = sum(usage.seconds_within(0.0, LONG_AFTER_S * 10) for usage in usages(farm))
    decided = sorted({pod.opened_because for pod in pods})
    opened_s = min(((pod.intended_at - started).total_seconds() for pod in pods), default=0.0) * burst.scale
    return {
        "pods": len(pods),
        "opened_after_s": round(max(0.0, opened_s), 1),
        "decisions_to_open": len(decided),
        "because": decided[:3],
        "most_pods": most_at_once(farm),
        "left": len(pool.store.alive()) + sum(usage.ended_at is None for usage in usages(farm)),
        "pod_jobs": sum(a.lane.startswith("runpod-pod/") for a in attempts),
        "pod_s": round(lived_s, 1),
        "pod_busy_s": round(busy_s, 1),
        "idle_percent": round(100 * max(0.0, ready_s - busy_s) / lived_s, 2) if lived_s else 0.0,
    }


def usages(farm: Farm) -> list[Usage]:
    """The vendor's own record of every pod."""
    assert farm.runpod is not None
    return farm.runpod[0].fleet.usages()


def pod_bill(farm: Farm) -> Decimal:
    """What the vendor asks for all pods, to the last second."""
    return sum(
        (
            Decimal(str(round(usage.seconds_within(0.0, LONG_AFTER_S * 10), 6)))
            * (usage.usd_per_s + usage.disk_usd_per_s)
            for usage in usages(farm)
        ),
        Decimal(0),
    )


def most_at_once(farm: Farm) -> int:
    """The most pods alive at one moment by the vendor's record."""
    moments = [(usage.started_at, 1) for usage in usages(farm)]
    moments += [(usage.ended_at, -1) for usage in usages(farm) if usage.ended_at is not None]
    most = alive = 0
    for _, change in sorted(moments):
        alive += change
        most = max(most, alive)
    return most


def misses(burst: Burst, figures: Mapping[str, Any]) -> list[str]:
    """Targets that were not met."""
    held = {
        "completed": figures["completed"] == burst.jobs,
        "opened_after_s": figures["pods"] > 0 and figures["opened_after_s"] <= OPENED_WITHIN_S,
        "decisions_to_open": figures["decisions_to_open"] == 1,
        "most_pods": figures["most_pods"] <= burst.most,
        "left": figures["left"] == 0,
        "idle_percent": figures["idle_percent"] <= IDLE_PERCENT,
        "ledger_off_percent": figures["ledger_off_percent"] <= OFF_PERCENT,
        "reconciled_off_usd": Decimal(figures["reconciled_off_usd"]) < Decimal("0.005"),
        "ledger_problems": not figures["ledger_problems"],
    }
    return [name for name, met in held.items() if not met]


def main(arguments: list[str]) -> int:
    """Runs the workloads; 1 if a target was missed."""
    missed = False
    for burst in SHORT if "--quick" in arguments else BURSTS:
        with tempfile.TemporaryDirectory(prefix="hv-burst-") as folder:
            figures = run(burst, Path(folder)).figures
        missed = missed or bool(figures["misses"])
        show(burst.name, **figures)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
