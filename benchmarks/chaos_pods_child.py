"""The controller that is killed: opens, tends and ends pods at random, and lets jobs run on them.

Run as a program it imports everything once and forks a controller for each request (`chaos_fork`).
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import os
import random
import signal
import sys
import time
import traceback
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any, NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.chaos_fork import serve
from hybrid_video.errors import HybridVideoError
from hybrid_video.ledger import Caps, Ledger, Owner
from hybrid_video.models import (
    AttemptState,
    CostEntry,
    Decision,
    JobState,
    OutputSpec,
    Quote,
    Tier,
    WorkOrder,
    utc_now,
)
from hybrid_video.pods.pool import PodPool
from hybrid_video.settings import Settings

STORE_POINTS = (
    "pods.store.PodStore.intend",
    "pods.store.PodStore.try_place",
    "pods.store.PodStore.mark_creating",
    "pods.store.PodStore.mark_created",
    "pods.store.PodStore.mark_ready",
    "pods.store.PodStore.renewed",
    "pods.store.PodStore.mark_draining",
    "pods.store.PodStore.mark_closing",
    "pods.store.PodStore.mark_closed",
    "pods.store.PodStore.mark_failed",
    "pods.store.PodStore.billed",
    "pods.accounting._book",
    "pods.accounting._add_share",
    "ledger.money.move",
)
"""Functions at whose n-th call a controller can be told to kill itself, before or after it."""

BATCH = "night"
JOBS = 6


def main() -> None:
    """Serves requests until standard input ends."""
    gc.freeze()
    serve(sys.argv[1], _become_controller)


def _become_controller(request: dict[str, Any]) -> NoReturn:
    """The forked process; ends with 0, or 70 when it raised."""
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(request["env"])
    code = 70
    try:
        if request.get("crash"):
            _arm(**request["crash"])
        asyncio.run(control(request["seed"], request["seconds"]))
        code = 0
    except BaseException:  # the harness reads the code and the log; nothing else may run in this copy
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _arm(point: str, when: str, nth: int) -> None:
    """Makes the n-th call of a function the last thing this process does."""
    package, module, *owners, name = point.split(".")
    holder: Any = importlib.import_module(f"hybrid_video.{package}.{module}")
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


async def control(seed: int, seconds: float) -> None:
    """A controller's life: ticks, and between them opens, closes, drains, reconciles and books jobs at random."""

    rng = random.Random(seed)
    settings = Settings.load()
    ledger = Ledger.open(settings.storage.ledger_path)
    owner = Owner(settings.storage.home)
    pool = PodPool(settings, ledger, bill_final_after_s=0.0)
    until = time.monotonic() + seconds
    opening: list[asyncio.Task[None]] = []
    while time.monotonic() < until:
        with contextlib.suppress(HybridVideoError):
            await pool.tick()
        pods = pool.store.alive()
        ready = [pod for pod in pods if pod.state == "ready"]
        dice = rng.random()
        try:
            if dice < 0.45:
                opening.append(asyncio.create_task(_open(pool, rng)))
            elif dice < 0.60 and ready:
                await pool.close(rng.choice(ready).name, "chaos")
            elif dice < 0.68 and ready:
                await pool.drain(rng.choice(ready).name, "chaos")
            elif dice < 0.72:
                await pool.reconcile()
            elif dice < 0.9 and ready:
                await asyncio.to_thread(_job, ledger, owner, rng.choice(ready).lane, rng)
        except HybridVideoError as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        await asyncio.sleep(rng.uniform(0.0, 0.05))
        for task in [task for task in opening if task.done()]:
            task.result()  # anything but an error of ours ends the controller, and is a finding
            opening.remove(task)


async def _open(pool: PodPool, rng: random.Random) -> None:

    try:
        await pool.open("chaos", batch=rng.choice(["", BATCH]))
    except HybridVideoError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)


def _job(ledger: Ledger, owner: Owner, lane: str, rng: random.Random) -> None:
    """A job that ran on a pod for some seconds, from reservation to settlement; a kill may come in between."""

    rows = [row for row in ledger.job_rows(BATCH) if row.state is not JobState.DONE] or ledger.job_rows(BATCH)
    row = rng.choice(rows)
    if any(attempt.job == row.job for attempt in ledger.open_attempts(BATCH)):
        return
    seconds = rng.uniform(1, 5)
    order = WorkOrder(
        attempt_id=str(uuid.uuid4()),
        batch=BATCH,
        job=row.spec,
        number=row.attempts + 1,
        seed=1,
        lane=lane,
        quote=_quote(),
    )
    decision = Decision(
        job=row.job,
        attempt=order.number,
        chosen="runpod-pod",
        tier=Tier.CLOUD,
        reason="chaos",
        candidates=(),
        decided_at=utc_now(),
        elapsed_us=1.0,
    )
    ledger.reserve(order, decision, Caps(), owner)
    cost = CostEntry(amount_usd=Decimal(str(round(seconds * 0.0001917, 7))), basis="chaos", source="metered")
    ledger.settle(
        order.attempt_id,
        cost,
        state=AttemptState.FAILED,
        job_state=JobState.PENDING,
        error_kind="vendor_error",
        execution_s=seconds,
    )


def _quote() -> Quote:

    return Quote(
        backend="runpod-pod",
        tier=Tier.CLOUD,
        model="wan",
        amount_usd=Decimal("0.001"),
        reserve_usd=Decimal("0.002"),
        service_s=5,
        output=OutputSpec(width=112, height=64, fps=16, frames=8),
        basis="chaos",
    )


if __name__ == "__main__":
    main()
