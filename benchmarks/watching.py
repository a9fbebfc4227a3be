"""What an idle watcher costs: `python -m benchmarks.watching [SECONDS]`.

`hybrid-video watch` as its own process beside emulators of every tier, with pods configured and nothing to do. After it
has settled, its CPU time and memory are read for a minute: below 1 % of a core is the target, health of all tiers
every 30 s included.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import psutil

from benchmarks.measure import ROOT, emulators, show
from hybrid_video.ledger import Ledger
from hybrid_video.watcher.health_store import HealthStore

SETTLE_S = 12.0
SECONDS = 60.0
TARGET_PERCENT = 1.0


def measure(seconds: float) -> dict[str, object]:
    """CPU and memory of an idle watcher over so many seconds."""
    with tempfile.TemporaryDirectory(prefix="hv-watching-") as folder, emulators() as servers:
        home = Path(folder) / "home"
        variables = {**os.environ, **servers, "HYBRID_VIDEO_HOME": str(home)}
        variables["HYBRID_VIDEO_PODS_IMAGE"] = "hybrid-video/comfyui-pod"
        child = subprocess.Popen(
            [sys.executable, "-m", "hybrid_video", "watch"], env=variables, cwd=ROOT, stderr=subprocess.DEVNULL
        )
        try:
            time.sleep(SETTLE_S)
            process = psutil.Process(child.pid)
            before, began = process.cpu_times(), time.perf_counter()
            time.sleep(seconds)
            after, took_s = process.cpu_times(), time.perf_counter() - began
            memory_mb = process.memory_info().rss / 2**20
        finally:
            child.terminate()
            code = child.wait(30)
        ledger = Ledger.open(home / "ledger.sqlite3")
        try:
            seen = HealthStore(ledger).latest()
        finally:
            ledger.close()
    cpu_s = after.user + after.system - before.user - before.system
    return {
        "seconds": round(took_s, 1),
        "cpu_s": round(cpu_s, 3),
        "cpu_percent": round(100 * cpu_s / took_s, 3),
        "memory_mb": round(memory_mb, 1),
        "backends": len(seen),
        "looks": sum(len(found.history) for found in seen.values()),
        "healthy": sum(found.health.healthy for found in seen.values()),
        "exit": code,
    }


def main(arguments: list[str]) -> int:
    """Prints the figures; 1 if the target was missed."""
    figures = measure(float(arguments[0]) if arguments else SECONDS)
    show("watching", **figures, target_percent=TARGET_PERCENT)
    percent = figures["cpu_percent"]
    assert isinstance(percent, float)
    return int(percent >= TARGET_PERCENT or figures["exit"] != 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
