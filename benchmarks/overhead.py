"""What a job costs us beside what it costs Prefect and a bare client: wall, CPU and memory of the batch process."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.measure import emulators, run_child, show
from benchmarks.scoreboard import Claim, Scoreboard
from hybrid_video.prefect_server import PrefectServer

JOBS = 100
ORCHESTRATION_MS = 2
LONGER = 4


def main(jobs: int = JOBS) -> int:
    """Every workload against the same emulators and the same Prefect server; returns how many targets are missed."""
    with tempfile.TemporaryDirectory() as folder, emulators("--comfyui", "0", "--service", "local=0.01") as backends:
        home = Path(folder)
        environment = {
            **backends,
            "HYBRID_VIDEO_HOME": str(home / "home"),
            "HYBRID_VIDEO_COMFYUI_POLL_INTERVAL_S": "0.05",
            "PREFECT_HOME": str(home / "prefect"),
        }
        bare = run_child(["-m", "benchmarks.workloads", "bare", str(jobs)], environment)
        engine = run_child(["-m", "benchmarks.workloads", "engine", str(jobs)], environment)
        longer = {
            kind: run_child(["-m", "benchmarks.workloads", kind, str(LONGER * jobs)], environment)
            for kind in ("bare", "engine")
        }
        with PrefectServer(home / "prefect") as server:
            environment["PREFECT_API_URL"] = server.url
            floor = run_child(["-m", "benchmarks.workloads", "floor", str(jobs)], environment)
            flow = run_child(["-m", "benchmarks.workloads", "flow", str(jobs)], environment)
    figures = {"bare client": bare, "engine": engine, "Prefect floor": floor, "flow": flow}
    for name, row in figures.items():
        show("overhead", what=name, per_job_ms=round(row["loop_s"] / jobs * 1e3, 1), **row)
    show(
        "overhead ratios",
        jobs=jobs,
        engine_to_bare_client=round(engine["loop_s"] / bare["loop_s"], 2),
        flow_to_prefect_floor=round(flow["loop_s"] / floor["loop_s"], 2),
        flow_to_bare_plus_floor=round(flow["loop_s"] / (bare["loop_s"] + floor["loop_s"]), 2),
        flow_peak_mb=flow["peak_mb"],
        all_done=all(row["jobs"] == jobs for row in figures.values()),
    )
    board = Scoreboard(name="overhead")
    more_ms = {
        kind: (longer[kind]["loop_cpu_s"] - short["loop_cpu_s"]) / ((LONGER - 1) * jobs) * 1e3
        for kind, short in (("bare", bare), ("engine", engine))
    }
    name = "CPU of one more job, beyond a bare client's"
    board.claim(Claim(name, more_ms["engine"] - more_ms["bare"], ORCHESTRATION_MS, unit=" ms"))
    return board.verdict()
