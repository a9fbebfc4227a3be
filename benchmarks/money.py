"""Many processes spend against shared caps: `python -m benchmarks.money [PROCESSES] [JOBS] [SEED]`.

Every process reserves, extends, settles, fails and cancels random jobs of random prices against caps per job, batch,
day, month and tier, all too small for everything. A trigger inside the database writes down every balance ever
committed, so the two claims are checked against that record and not against the code that makes them:

* overspend: at no instant was settled plus reserved of a capped scope above its cap;
* false refusals: for every refusal there was an instant during the call at which the amount did not fit.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import sqlite3
import sys
import tempfile
import time
import uuid
from bisect import bisect_left, bisect_right
from collections import defaultdict
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from benchmarks.measure import show
from hybrid_video.errors import LimitError
from hybrid_video.ledger import Caps, Ledger, Owner
from hybrid_video.ledger.verify import verify
from hybrid_video.models import (
    AttemptState,
    Batch,
    CostEntry,
    Decision,
    JobHandle,
    JobState,
    OutputSpec,
    Quote,
    Tier,
    VideoJob,
    WorkOrder,
    utc_now,
)

BATCH = "money"
NANO = 10**9


def caps_for(jobs: int) -> Caps:
    """Caps that bind: some two thirds of what the jobs would come to, a little apart from each other."""
    share = Decimal(jobs) / 1000
    return Caps(
        job_usd=Decimal("0.9"), batch_usd=112 * share, day_usd=106 * share, month_usd=109 * share, tier_usd=38 * share
    )


AUDIT = """
create table audit (seq integer primary key, at real, scope text, total integer);
create trigger balances_new after insert on balances begin
  insert into audit (at, scope, total)
  values ((julianday('now') - 2440587.5) * 86400.0, new.scope, new.settled_usd + new.reserved_usd);
end;
create trigger balances_move after update on balances begin
  insert into audit (at, scope, total)
  values ((julianday('now') - 2440587.5) * 86400.0, new.scope, new.settled_usd + new.reserved_usd);
end;
"""


@dataclass(frozen=True)
class Refused:
    """One refusal: what did not fit, and when the call began and ended (wall seconds)."""

    job: str
    tier: str
    amount: int
    began: float
    ended: float


@dataclass(frozen=True)
class Outcome:
    """What a run of the load came to."""

    jobs: int
    refusals: int
    overspent_usd: Decimal
    false_refusals: int
    ledger_ok: bool
    left_reserved_usd: Decimal
    seconds: float


def load(home: Path, *, processes: int, jobs: int, seed: int) -> Outcome:
    """Runs the load and checks both claims."""
    ledger = Ledger.open(home / "ledger.sqlite3")
    ledger.register(Batch(name=BATCH, jobs=tuple(VideoJob(id=f"j{n}", prompt="p") for n in range(jobs))), out_dir=home)
    ledger.close()
    with sqlite3.connect(home / "ledger.sqlite3") as connection:
        connection.executescript(AUDIT)
    began = time.monotonic()
    context = multiprocessing.get_context("fork")
    with context.Pool(processes) as pool:
        shares = [
            (str(home), [f"j{n}" for n in range(i, jobs, processes)], seed * 1000 + i, caps_for(jobs))
            for i in range(processes)
        ]
        refused = [Refused(*row) for rows in pool.map(_spend, shares) for row in rows]
    seconds = time.monotonic() - began
    history, caps = _audit(home), caps_for(jobs)
    ledger = Ledger.open(home / "ledger.sqlite3")
    report = verify(ledger)
    ledger.close()
    return Outcome(
        jobs=jobs,
        refusals=len(refused),
        overspent_usd=_overspent(history, caps),
        false_refusals=sum(not _justified(refusal, history, caps) for refusal in refused),
        ledger_ok=report.ok,
        left_reserved_usd=report.reserved_usd,
        seconds=seconds,
    )


def _spend(share: tuple[str, list[str], int, Caps]) -> list[tuple[str, str, int, float, float]]:
    """One process: takes its jobs one after the other, twice each where the first attempt fails."""
    folder, names, seed, caps = share
    chance = random.Random(seed)
    ledger, owner, refused = Ledger.open(Path(folder) / "ledger.sqlite3"), Owner(Path(folder)), []
    for name in names:
        job = VideoJob(id=name, prompt="p")
        made = 0
        for _ in range(2):
            amount = Decimal(chance.randint(0, 600_000)) / 10**6
            tier = chance.choice(list(Tier))
            order = _order(job, made + 1, amount, tier)
            began = time.time()
            try:
                ledger.reserve(order, _decision(order), caps, owner)
            except LimitError:
                refused.append((name, tier.value, int(amount * NANO), began, time.time()))
                continue
            made += 1
            if not _finish(ledger, order, chance, caps):
                break
    ledger.release(owner)
    ledger.close()
    owner.close()
    return refused


def _finish(ledger: Ledger, order: WorkOrder, chance: random.Random, caps: Caps) -> bool:
    """Ends an attempt in one of the ways attempts end; True if another attempt follows."""
    roll = chance.random()
    if roll < 0.1:  # refused by the vendor before it was accepted
        _settle(ledger, order, Decimal(0), AttemptState.FAILED)
        return True
    ledger.mark_submitted(
        JobHandle(
            backend=order.quote.backend,
            attempt_id=order.attempt_id,
            remote_id="r",
            lane=order.lane,
            submitted_at=utc_now(),
        )
    )
    reserved = order.quote.reserve_usd
    if roll < 0.3:  # runs longer than expected
        try:
            ledger.extend(order.attempt_id, reserved * 2, caps)
            reserved *= 2
        except LimitError:
            _settle(ledger, order, reserved, AttemptState.FAILED)
            return False
    cost = (reserved * chance.randint(0, 100) / 100).quantize(Decimal("0.000001"))
    _settle(ledger, order, cost, AttemptState.CANCELLED if roll < 0.4 else AttemptState.FAILED)
    return roll > 0.8


def _settle(ledger: Ledger, order: WorkOrder, cost: Decimal, state: AttemptState) -> None:
    entry = CostEntry(amount_usd=cost, basis="load", source="metered")
    ledger.settle(order.attempt_id, entry, state=state, job_state=JobState.PENDING)


def _order(job: VideoJob, number: int, amount: Decimal, tier: Tier) -> WorkOrder:
    quote = Quote(
        backend="load",
        tier=tier,
        model="m",
        amount_usd=amount,
        reserve_usd=amount,
        service_s=1,
        output=OutputSpec(width=64, height=64, fps=8, frames=8),
        basis="random",
    )
    return WorkOrder(attempt_id=str(uuid.uuid4()), batch=BATCH, job=job, number=number, seed=1, lane="l", quote=quote)


def _decision(order: WorkOrder) -> Decision:
    return Decision(
        job=order.job.id,
        attempt=order.number,
        chosen="load",
        tier=order.quote.tier,
        reason="load",
        candidates=(),
        decided_at=utc_now(),
        elapsed_us=0,
    )


History = dict[str, tuple[list[float], list[int]]]


def _audit(home: Path) -> History:
    """For each scope the times and totals of every committed balance, in order."""
    found: History = defaultdict(lambda: ([], []))
    with sqlite3.connect(home / "ledger.sqlite3") as connection:
        for at, scope, total in connection.execute("select at, scope, total from audit order by seq"):
            found[scope][0].append(at)
            found[scope][1].append(total)
    return found


def _cap(scope: str, caps: Caps) -> int | None:
    kind = scope.split(":", maxsplit=1)[0]
    cap = {
        "job": caps.job_usd,
        "batch": caps.batch_usd,
        "day": caps.day_usd,
        "month": caps.month_usd,
        "tier": caps.tier_usd,
    }.get(kind)
    return None if cap is None else int(cap * NANO)


def _overspent(history: History, caps: Caps) -> Decimal:
    worst = 0
    for scope, (_, totals) in history.items():
        cap = _cap(scope, caps)
        if cap is not None:
            worst = max(worst, max(totals) - cap)
    return Decimal(worst) / NANO


def _justified(refusal: Refused, history: History, caps: Caps) -> bool:
    """Whether some scope was too full at some instant of the call. The record's clock has milliseconds."""
    for scope, (times, totals) in history.items():
        cap = _cap(scope, caps)
        mine = not scope.startswith("job:") or scope == f"job:{BATCH}/{refusal.job}"
        if cap is None or not mine or (scope.startswith("tier:") and f":{refusal.tier}:" not in scope):
            continue
        first = max(0, bisect_left(times, refusal.began - 0.002) - 1)
        last = bisect_right(times, refusal.ended + 0.002)
        if any(total + refusal.amount > cap for total in totals[first:last]):
            return True
    return False


def main(processes: int = 50, jobs: int = 10_000, seed: int = 1) -> None:
    """The whole load."""
    with tempfile.TemporaryDirectory() as folder:
        outcome = load(Path(folder), processes=processes, jobs=jobs, seed=seed)
    figures = json.loads(json.dumps(outcome.__dict__, default=str))
    show("money under load", processes=processes, seed=seed, **figures)
    if outcome.overspent_usd > 0 or outcome.false_refusals or not outcome.ledger_ok:
        raise SystemExit(1)


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
