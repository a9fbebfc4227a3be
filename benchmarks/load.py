"""`make load`: 100, 300 and 1,000 jobs at once through the whole path, beside Prefect's floor and a bare client.

Every job is ready at the start, on all three tiers together; the emulators render with short service times, so what is
measured is what we and Prefect add. For each size one JSON line, and a Markdown table at the end. "Floor" is a flow
with the same number of task runs that do nothing, on the same server in the same run.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

from benchmarks.measure import emulators, percentile, run_child, show
from hybrid_video.ledger import Ledger
from hybrid_video.ledger.verify import verify
from hybrid_video.models import Attempt, AttemptState
from hybrid_video.prefect_server import PrefectServer

SIZES = (100, 300, 1000)
TIME_SCALE = 20
LOCAL_GPUS = 4
OPTIONS = (
    *(["--comfyui", "0"] * LOCAL_GPUS),
    *("--runpod", "0", "--gemini", "0", "--time-scale", str(TIME_SCALE), "--cold-start", "2"),
    *("--service", "local=4,cloud=6,gemini=3"),
)
SETTINGS = {
    "HYBRID_VIDEO_COMFYUI_POLL_INTERVAL_S": "0.1",
    "HYBRID_VIDEO_RUNPOD_POLL_INTERVAL_S": "0.2",
    "HYBRID_VIDEO_GEMINI_POLL_INTERVAL_S": "0.2",
    "HYBRID_VIDEO_GEMINI_RESOLUTION": "360p",
    "HYBRID_VIDEO_GEMINI_MAX_CONCURRENT": "20",
    "HYBRID_VIDEO_RUNPOD_MAX_WORKERS": "10",
    "HYBRID_VIDEO_TIME_SCALE": str(TIME_SCALE),
    "PREFECT_LOGGING_LEVEL": "ERROR",
}


def latencies(attempts: list[Attempt]) -> dict[str, float]:
    """Seconds from the reservation of a job's last attempt to its clip, and what of it the vendor did not take."""
    made = [a for a in attempts if a.state is AttemptState.SETTLED and a.finished_at is not None]
    total = [(a.finished_at - a.created_at).total_seconds() for a in made if a.finished_at]
    added = [
        seconds - ((a.execution_s or 0.0) + (a.queue_s or 0.0)) / TIME_SCALE
        for a, seconds in zip(made, total, strict=True)
    ]
    return {
        f"{name}_{label}_s": round(percentile(values, share), 3)
        for name, values in (("latency", total), ("added", added))
        for label, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
    }


def outcome(home: Path, batch: str) -> dict[str, Any]:
    """What the ledger says of the batch: split, cost, errors, and whether anything is lost or doubled."""
    with contextlib.closing(Ledger.open(home / "ledger.sqlite3")) as ledger:
        attempts, report = ledger.attempts(batch), verify(ledger)
        states = Counter(row.state.value for row in ledger.job_rows(batch))
    settled = [a for a in attempts if a.state is AttemptState.SETTLED]
    clips = Counter(a.job for a in settled)
    return {
        "states": dict(states),
        "split": dict(Counter(a.tier.value for a in settled)),
        "cost_usd": str(sum((a.cost_usd or Decimal(0) for a in attempts), Decimal(0))),
        "errors": dict(Counter(a.error_kind for a in attempts if a.error_kind)),
        "doubled": sum(count > 1 for count in clips.values()),
        "ledger_ok": report.ok,
        **latencies(attempts),
    }


def measure(jobs: int) -> dict[str, Any]:
    """One size: floor, flow and bare client, each in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="hv-load-") as folder, emulators(*OPTIONS) as backends:
        home = Path(folder)
        environment = {
            **SETTINGS,
            **backends,
            "HYBRID_VIDEO_HOME": str(home / "home"),
            "PREFECT_HOME": str(home / "prefect"),
        }
        bare = run_child(["-m", "benchmarks.workloads", "bare", str(min(jobs, 100))], environment)
        with PrefectServer(home / "prefect") as server:
            environment["PREFECT_API_URL"] = server.url
            floor = run_child(["-m", "benchmarks.workloads", "floor", str(jobs)], environment)
            flow = run_child(["-m", "benchmarks.workloads", "flow", str(jobs)], environment)
        found = outcome(home / "home", "flow")
    rate = jobs / flow["loop_s"]
    return {
        "jobs": jobs,
        "done": flow["jobs"],
        "lost": jobs - sum(found["states"].values()),
        "jobs_per_s": round(rate, 2),
        "throughput_to_prefect_floor": round(floor["loop_s"] / flow["loop_s"], 2),
        "jobs_per_s_bare_one_gpu": round(bare["jobs"] / bare["loop_s"], 2),
        "cpu_s": flow["cpu_s"],
        "cpu_per_job_ms": round(flow["cpu_s"] / jobs * 1e3, 1),
        "peak_mb": flow["peak_mb"],
        **found,
    }


def main() -> None:
    """Prints a JSON line for each size, then the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, nargs="+", default=list(SIZES))
    rows = []
    for jobs in parser.parse_args().jobs:
        rows.append(measure(jobs))
        show("load", **rows[-1])
    print("\n| jobs | done | lost | doubled | jobs/s | of Prefect's floor | P50 s | P95 s | P99 s | CPU s | MB | $ |")
    print("|---" * 12 + "|")
    for row in rows:
        print(
            f"| {row['jobs']} | {row['done']} | {row['lost']} | {row['doubled']} | {row['jobs_per_s']} "
            f"| {row['throughput_to_prefect_floor']} | {row['latency_p50_s']} | {row['latency_p95_s']} "
            f"| {row['latency_p99_s']} | {row['cpu_s']} | {row['peak_mb']} | {row['cost_usd']} |"
        )


if __name__ == "__main__":
    main()
