"""`make bench`: every benchmark, one JSON object a line; at the end the targets that were missed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import api, autoscale, burst, busy, chaos, core, dispatch, honesty, long_history, overhead, watching
from benchmarks.scoreboard import emit


def main() -> None:
    """All of them, the statistical ones with fewer runs."""
    missed = {
        "core": core.main(),
        "dispatch": dispatch.run(quick=True),
        "autoscale": autoscale.run(quick=True),
        "honesty": honesty.run(quick=True),
        "busy": busy.main(),
        "burst": burst.main(["--quick"]),
        "watching": watching.main([]),
        "overhead": overhead.main(),
        "killed": chaos.quick(),
        "history": long_history.run(),
        "api": api.quick(),
    }
    emit(benchmark="all", targets_missed={name: count for name, count in missed.items() if count})


if __name__ == "__main__":
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "ERROR")
    main()
