"""The process that is killed: one that has imported everything forks a batch run at each request.

Run as a program it forks a run for each request (`chaos_fork`): a new batch process costs a fork and not seconds of
imports. The request on its command line, a batch of its own, is run in the parent itself: it loads what is loaded on
first use. No Python thread is left when it forks.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.chaos_fork import serve

MID_TRANSACTION = "money.move"
LEDGER_POINTS = (
    "store.Ledger.register",
    "store.Ledger.reserve",
    "store.Ledger.mark_submitted",
    "store.Ledger.mark_running",
    "store.Ledger.mark_collected",
    "store.Ledger.settle",
    MID_TRANSACTION,
    "store.Ledger.mark_uncertain",
    "store.Ledger.mark_recorded",
    "store.Ledger.release",
    "store.Ledger.finish_batch",
)
"""Functions of `hybrid_video.ledger` at which a child can be told to kill itself, before or after their n-th call."""


def main() -> None:
    """Warms up and serves requests until standard input ends."""
    began = time.monotonic()
    warming = json.loads(sys.argv[2])
    kept = dict(os.environ)
    os.environ.update(warming["env"])
    code, _report = asyncio.run(_run(warming))
    os.environ.clear()
    os.environ.update(kept)
    gc.freeze()
    print(json.dumps({"exit": code, "cold_s": round(time.monotonic() - began, 3)}), flush=True)
    serve(sys.argv[1], _become_run)


def _become_run(request: dict[str, Any]) -> NoReturn:
    """The forked process: runs the batch and ends with the report's exit code (70: it raised)."""
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(request["env"])
    code = 70
    try:
        if request.get("crash"):
            _arm(**request["crash"])
        code, report = asyncio.run(_run(request))
        print(json.dumps(report))
    except BaseException as error:  # the harness reads the code and the log; nothing else may run in this copy
        traceback.print_exc()
        code = getattr(error, "exit_code", 70)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _arm(point: str, when: str, nth: int) -> None:
    """Makes the n-th call of a function of the ledger the last thing this process does."""
    module, *owners, name = point.split(".")
    holder: Any = importlib.import_module(f"hybrid_video.ledger.{module}")
    for owner in owners:
        holder = getattr(holder, owner)
    original, calls = getattr(holder, name), 0

    def deadly(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        mine = calls == nth
        if mine and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*arguments, **options)
        if mine:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(holder, name, deadly)


async def _run(request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    from hybrid_video.engine.events import Event  # noqa: PLC0415
    from hybrid_video.engine.session import run_batch  # noqa: PLC0415
    from hybrid_video.models import Batch  # noqa: PLC0415
    from hybrid_video.settings import Settings  # noqa: PLC0415

    events = os.open(request["events"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def observe(event: Event) -> None:
        if event.kind != "progress":
            row = {"at": time.monotonic(), "kind": event.kind, "job": event.job, "message": event.message}
            os.write(events, (json.dumps(row) + "\n").encode())

    batch = Batch.model_validate_json(Path(request["batch"]).read_text(encoding="utf-8"))
    report = await run_batch(
        batch,
        settings=Settings.load(),
        base_dir=Path(request["batch"]).parent,
        out_dir=Path(request["out"]),
        observer=observe,
    )
    os.close(events)
    return report.exit_code, report.to_json()


if __name__ == "__main__":
    main()
