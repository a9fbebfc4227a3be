"""`make load`: 100, 300 and 1,000 jobs at once through the whole path, beside Prefect's floor and a bare client.

Every job is ready at the start, with a wish for one of the three tiers, and the emulators work faster than we can ask:
what is measured is what we and Prefect add. For each size one JSON line, and a Markdown table at the end.

"Floor" is a flow with the same number of task runs that do nothing, on the same server in the same run, once before
and once after; the server is let work off its events in between. It has no vendor, no ledger and no clip. The bare
client is the other half of what cannot be saved: it submits, waits and downloads, and does nothing else. So the
throughput is shown beside the floor alone and beside the floor and the bare client together, and the same of CPU
seconds, which mean something on a busy machine too. "Kept up" is what can go on for hours: a run counts as over when
Prefect's server has recorded its last task run, and not when the flow has handed it over.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.measure import cpu_of, emulators, percentile, run_child, show
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
    *("--service", "local=0.5,cloud=1,gemini=1"),
)
SETTINGS = {
    "HYBRID_VIDEO_COMFYUI_POLL_INTERVAL_S": "0.5",
    "HYBRID_VIDEO_RUNPOD_POLL_INTERVAL_S": "0.2",
    "HYBRID_VIDEO_GEMINI_POLL_INTERVAL_S": "0.2",
    "HYBRID_VIDEO_GEMINI_RESOLUTION": "360p",
    "HYBRID_VIDEO_GEMINI_MAX_CONCURRENT": "5",
    "HYBRID_VIDEO_RUNPOD_MAX_WORKERS": "20",
    "HYBRID_VIDEO_TIME_SCALE": str(TIME_SCALE),
    "PREFECT_LOGGING_LEVEL": "ERROR",
}
QUIET_CPU_S = 0.1
LONGEST_DRAIN_S = 300.0
MOST_MB = 500
FLOOR = ("loop_s", "kept_up_s", "loop_cpu_s", "server_cpu_s")


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


def drained(process: psutil.Process) -> float:
    """Waits until Prefect's server has worked off the events of the run before; the seconds that took."""
    began, before = time.monotonic(), cpu_of(process)
    while (quiet_s := time.monotonic() - began) < LONGEST_DRAIN_S:
        time.sleep(1)
        now = cpu_of(process)
        if now - before < QUIET_CPU_S:
            break
        before = now
    return quiet_s


def task_runs(url: str, flow: str) -> int:
    """How many task runs of a flow Prefect's server knows."""
    body = {"flows": {"name": {"any_": [flow]}}}
    return int(httpx.post(f"{url}/task_runs/count", json=body, timeout=60).raise_for_status().json())


def measure(jobs: int, compiled: Path) -> dict[str, Any]:
    """One size: floor, flow, floor and bare client, each in a process of its own.

    Args:
        compiled: where the children keep compiled modules, so that none of them measures the compiler.
    """
    with tempfile.TemporaryDirectory(prefix="hv-load-") as folder, emulators(*OPTIONS) as backends:
        home = Path(folder)
        environment = {
            **SETTINGS,
            **backends,
            "HYBRID_VIDEO_HOME": str(home / "home"),
            "PREFECT_HOME": str(home / "prefect"),
            "PYTHONDONTWRITEBYTECODE": "",
            "PYTHONPYCACHEPREFIX": str(compiled),
        }
        vendors = psutil.Process().children()
        with PrefectServer(home / "prefect") as server:
            environment["PREFECT_API_URL"] = server.url
            (prefect,) = [child for child in psutil.Process().children() if child not in vendors]

            def ran(what: str, count: int = jobs) -> dict[str, Any]:
                drained(prefect)
                spent = {"server": cpu_of(prefect), "vendors": sum(map(cpu_of, vendors))}
                data = run_child(["-m", "benchmarks.workloads", what, str(count)], environment)
                data["kept_up_s"] = data["loop_s"] + drained(prefect)
                data["server_cpu_s"] = cpu_of(prefect) - spent["server"]
                data["vendors_cpu_s"] = sum(map(cpu_of, vendors)) - spent["vendors"]
                return data

            ran("floor", 1), ran("warm", 1)
            known = task_runs(server.url, "floor")
            floors = [ran("floor")]
            known = task_runs(server.url, "floor") - known
            warm = task_runs(server.url, "generate-batch")
            flow = ran("mixed")
            made = task_runs(server.url, "generate-batch") - warm
            floors.append(ran("floor"))
            bare = ran("bare", jobs)
        found = outcome(home / "home", "flow")
    floor = {key: sum(each[key] for each in floors) / len(floors) for key in FLOOR}
    return {
        "jobs": jobs,
        "done": flow["jobs"],
        "lost": jobs - sum(found["states"].values()),
        "task_runs": made,
        "task_runs_floor": known,
        "jobs_per_s": round(jobs / flow["loop_s"], 2),
        "jobs_per_s_floor": round(jobs / floor["loop_s"], 2),
        "jobs_per_s_bare": round(jobs / bare["loop_s"], 2),
        "jobs_per_s_kept_up": round(jobs / flow["kept_up_s"], 2),
        "jobs_per_s_kept_up_floor": round(jobs / floor["kept_up_s"], 2),
        "of_floor": round(floor["loop_s"] / flow["loop_s"], 2),
        "of_floor_kept_up": round(floor["kept_up_s"] / flow["kept_up_s"], 2),
        "of_floor_and_bare": round((floor["loop_s"] + bare["loop_s"]) / flow["loop_s"], 2),
        "cpu_of_floor": round(floor["loop_cpu_s"] / flow["loop_cpu_s"], 2),
        "cpu_of_floor_and_bare": round((floor["loop_cpu_s"] + bare["loop_cpu_s"]) / flow["loop_cpu_s"], 2),
        "cpu_s": flow["cpu_s"],
        "cpu_per_job_ms": round(flow["loop_cpu_s"] / jobs * 1e3, 1),
        "cpu_per_job_ms_floor": round(floor["loop_cpu_s"] / jobs * 1e3, 1),
        "cpu_per_job_ms_bare": round(bare["loop_cpu_s"] / jobs * 1e3, 1),
        "cpu_per_job_ms_prefect_server": round(flow["server_cpu_s"] / jobs * 1e3, 1),
        "cpu_per_job_ms_prefect_server_floor": round(floor["server_cpu_s"] / jobs * 1e3, 1),
        "cpu_per_job_ms_emulators": round(flow["vendors_cpu_s"] / jobs * 1e3, 1),
        "peak_mb": flow["peak_mb"],
        "load_average": round(psutil.getloadavg()[0], 1),
        **found,
    }


def main() -> int:
    """Prints a JSON line for each size, then the table; returns how many sizes lost or doubled anything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, nargs="+", default=list(SIZES))
    rows = []
    with tempfile.TemporaryDirectory(prefix="hv-load-") as compiled:
        for jobs in parser.parse_args().jobs:
            rows.append(measure(jobs, Path(compiled)))
            show("load", **rows[-1])
    columns = {
        "jobs": "jobs",
        "done": "done",
        "lost": "lost",
        "doubled": "doubled",
        "jobs/s": "jobs_per_s",
        "of Prefect's floor": "of_floor",
        "of the floor kept up": "of_floor_kept_up",
        "of floor + bare client": "of_floor_and_bare",
        "CPU ms a job": "cpu_per_job_ms",
        "floor": "cpu_per_job_ms_floor",
        "bare": "cpu_per_job_ms_bare",
        "P50 s": "latency_p50_s",
        "P95 s": "latency_p95_s",
        "P99 s": "latency_p99_s",
        "MB": "peak_mb",
        "$": "cost_usd",
    }
    print(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for row in rows:
        print(f"| {' | '.join(str(row[key]) for key in columns.values())} |")
    return sum(not _sound(row) for row in rows)


def _sound(row: dict[str, Any]) -> bool:
    """Nothing lost, nothing doubled, the books right, the comparison fair, and the process small enough."""
    whole = row["done"] == row["jobs"] and not row["lost"] and not row["doubled"] and row["ledger_ok"]
    return bool(whole and row["task_runs"] >= row["task_runs_floor"] and row["peak_mb"] < MOST_MB)


if __name__ == "__main__":
    raise SystemExit(main())
