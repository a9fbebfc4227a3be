"""`make bench`: every benchmark, one JSON object a line."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import autoscale, burst, busy, core, dispatch, honesty, overhead, watching

if __name__ == "__main__":
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "ERROR")
    core.main()
    dispatch.run(quick=True)
    autoscale.run(quick=True)
    honesty.run(quick=True)
    busy.main()
    burst.main(["--quick"])
    watching.main([])
    overhead.main()
