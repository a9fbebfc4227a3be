"""`make chaos`: kills batch runs at random and at dangerous instants, and looks for clips paid twice or lost.

    KILLS=1000 SEED=1 make chaos        # about 25 minutes; go on after an interruption by the same command

Each batch is run in a process of its own against emulators in this one. The process is killed (SIGKILL) at a random
moment, or when a call reaches a vendor, or at a commit of the ledger; it is started again on the same home until the
batch is finished, and then ledger, clips and the vendors' charge lists must agree. What a seed repeats are batches,
faults and the plan of kills; the operating system decides how far a process has come by then.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.chaos_audit import Audit, Person, audit
from benchmarks.chaos_farm import Vendors
from benchmarks.chaos_plans import KillPlan, make_batch, make_faults
from benchmarks.chaos_process import Ended, Nursery, forking_parent, write_batch
from benchmarks.measure import percentile
from benchmarks.scoreboard import Claim, Scoreboard
from hybrid_video.ledger import Ledger
from hybrid_video.models import Batch, JobState, Tier

MOST_KILLS_PER_BATCH = 12
MOST_FINISHING_RUNS = 8
RIVAL_SHARE = 0.12
RESTART_SHARE = 0.15
QUICK_KILLS = 40
RESUMED_S = 2


@dataclass
class Tally:
    """Everything counted so far; what the state file keeps."""

    seed: int
    kills: int = 0
    kills_by_kind: dict[str, int] = field(default_factory=dict)
    rounds: int = 0
    rivals: int = 0
    batches: int = 0
    jobs: int = 0
    duplicates: list[str] = field(default_factory=list)
    lost_clips: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    leaked_reservations_usd: str = "0"
    ledger_minus_charges_usd: str = "0"
    charged_usd: str = "0"
    uncertain_accepted: int = 0
    uncertain_never_accepted: int = 0
    failed_then_made: dict[str, int] = field(default_factory=dict)
    reattach_s: list[float] = field(default_factory=list)
    elapsed_s: float = 0.0

    @property
    def clean(self) -> bool:
        """Whether every invariant has held."""
        exact = not Decimal(self.leaked_reservations_usd) and not Decimal(self.ledger_minus_charges_usd)
        return exact and not (self.duplicates or self.lost_clips or self.findings)

    def report(self) -> dict[str, Any]:
        """The figures as printed."""
        times = self.reattach_s
        data = asdict(self) | {
            "duplicates": len(self.duplicates),
            "lost_clips": len(self.lost_clips),
            "uncertain": self.uncertain_accepted + self.uncertain_never_accepted,
            "reattach": len(times),
            "reattach_p50_s": round(percentile(times, 0.5), 3) if times else None,
            "reattach_p99_s": round(percentile(times, 0.99), 3) if times else None,
            "reattach_max_s": round(max(times), 3) if times else None,
            "elapsed_s": round(self.elapsed_s, 1),
            "clean": self.clean,
        }
        del data["reattach_s"]
        return data


class Chaos:
    """One session: vendors, a home and the processes that die on it. Totals go to the tally."""

    def __init__(self, tally: Tally, vendors: Vendors, nurseries: tuple[Nursery, Nursery], folder: Path) -> None:
        self._tally, self._vendors, self._folder = tally, vendors, folder
        self._nursery, self._rival = nurseries
        self._ledger = Ledger.open(folder / "home" / "ledger.sqlite3")
        self._home, self._out = folder / "home", folder / "clips"
        self._person = Person(self._ledger, self._home)

    def close(self) -> None:
        """Closes the ledger."""
        self._person.close()
        self._ledger.close()

    def batch(self, number: int, *, most_kills: int, tiers: tuple[Tier, ...] = tuple(Tier)) -> Audit:
        """Makes one batch, killing its process up to `most_kills` times, and audits it."""
        rng = random.Random(f"{self._tally.seed}/{number}")
        batch = make_batch(number, rng, tiers=tiers)
        path = write_batch(batch, self._folder)
        for rule in make_faults(rng):
            self._vendors.faults.add(rule)
        ended: Ended | None = None
        for _ in range(min(most_kills, rng.randint(4, MOST_KILLS_PER_BATCH))):
            ended = self._round(path, KillPlan.draw(rng), rival=rng.random() < RIVAL_SHARE)
            if not ended.killed:
                break
            if rng.random() < RESTART_SHARE:
                self._vendors.restart_comfyui()
        self._vendors.faults.clear()
        self._finish(batch, path, ended)
        found = audit(self._ledger, self._vendors.final_charges(), batch.name, self._person)
        self._count(batch, found)
        return found

    def _round(self, path: Path, plan: KillPlan | None, *, rival: bool = False) -> Ended:
        """One life of the process; a rival runs the same batch at the same time and is left alone."""
        waiting = {attempt.job for attempt in self._ledger.open_attempts(path.stem)}
        run = self._nursery.start(path, home=self._home, out=self._out, crash=plan.crash if plan else None)
        if plan is not None:
            plan.arm(self._vendors, run.kill)
        second = self._rival.start(path, home=self._home, out=self._out) if rival else None
        ended = self._nursery.wait(run)
        self._vendors.faults.listener = None
        if second is not None:
            self._check(path, self._rival.wait(second))
        self._check(path, ended)
        tally = self._tally
        tally.rounds += 1
        tally.rivals += rival
        if ended.killed and plan is not None:
            tally.kills += 1
            tally.kills_by_kind[plan.kind] = tally.kills_by_kind.get(plan.kind, 0) + 1
        self._trace(path.stem, plan, ended)
        first = ended.first_event_s(waiting) if waiting and not rival else None
        if first is not None:
            tally.reattach_s.append(round(first, 4))
        return ended

    def _trace(self, batch: str, plan: KillPlan | None, ended: Ended) -> None:
        row = {"batch": batch, "plan": asdict(plan) if plan else None, "code": ended.code, "took_s": ended.took_s}
        with (self._folder / "trace.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def _check(self, path: Path, ended: Ended) -> None:
        if not ended.killed and ended.code not in (0, 1):
            tail = (self._folder / f"{path.stem}.log").read_text(encoding="utf-8")[-1500:]
            self._tally.findings.append(f"{path.stem} ended with {ended.code}: {tail}")

    def _finish(self, batch: Batch, path: Path, ended: Ended | None) -> None:
        """Runs it to its end; in between the person frees what no vendor has."""
        tally = self._tally
        if ended is None or ended.killed:
            ended = self._round(path, None)
        for _ in range(MOST_FINISHING_RUNS):
            rows = self._ledger.job_rows(batch.name)
            failed = Counter(row.error_kind for row in rows if row.state is JobState.FAILED)
            for kind, count in failed.items():
                tally.failed_then_made[kind] = tally.failed_then_made.get(kind, 0) + count
            freed = self._person.release_never_accepted(batch.name, self._vendors.charges())
            tally.uncertain_never_accepted += freed
            if not freed and not failed and ended.code in (0, 1) and not self._out_of_sight(batch):
                break
            ended = self._round(path, None)
        tally.uncertain_accepted += self._person.book_accepted(batch.name, self._vendors.final_charges())

    def _out_of_sight(self, batch: Batch) -> bool:
        """Whether attempts with a receipt are still open: another run takes them up."""
        return any(attempt.handle is not None for attempt in self._ledger.open_attempts(batch.name))

    def _count(self, batch: Batch, found: Audit) -> None:
        tally = self._tally
        tally.batches += 1
        tally.jobs += len(batch.jobs)
        tally.duplicates += found.duplicates
        tally.lost_clips += found.lost_clips
        tally.findings += [f"{batch.name}: {text}" for text in found.findings]
        if found.leaked_usd:
            tally.leaked_reservations_usd = str(found.leaked_usd)
        if found.difference_usd:
            tally.ledger_minus_charges_usd = str(found.difference_usd)


def run(tally: Tally, kills: int, *, state: Path | None, keep: Path | None = None) -> Tally:
    """Goes on until so many kills are done or an invariant has failed; writes the state after every batch."""
    folder = keep or Path(tempfile.mkdtemp(prefix="hybrid-video-chaos-"))
    began, before = time.monotonic(), tally.elapsed_s
    charged_before = Decimal(tally.charged_usd)
    with (
        Vendors(seed=tally.seed) as vendors,
        forking_parent(folder, vendors.environment) as parent,
    ):
        first, second = (Nursery(parent, folder, vendors.environment) for _ in range(2))
        chaos = Chaos(tally, vendors, (first, second), folder)
        try:
            while tally.kills < kills and tally.clean:
                chaos.batch(tally.batches + 1, most_kills=kills - tally.kills)
                tally.elapsed_s = before + time.monotonic() - began
                tally.charged_usd = str(charged_before + vendors.billed_usd())
                if state is not None:
                    state.write_text(json.dumps(asdict(tally)), encoding="utf-8")
                    print(f"{tally.kills} kills, {tally.batches} batches, {tally.elapsed_s:.0f} s", file=sys.stderr)
        finally:
            chaos.close()
    if keep is None and tally.clean:
        shutil.rmtree(folder, ignore_errors=True)
    elif not tally.clean:
        print(f"the evidence is in {folder}", file=sys.stderr)
    return tally


def quick(kills: int = QUICK_KILLS, seed: int = 1) -> int:
    """W9 in short, part of `make bench`: prints every target and returns how many are missed."""
    board = Scoreboard(name="killed")
    board.title(f"W9: a batch killed and taken up again, {kills} kills")
    found = run(Tally(seed=seed), kills, state=None).report()
    board.claim(Claim("jobs lost", found["lost_clips"], 0))
    board.claim(Claim("clips paid twice", found["duplicates"], 0))
    board.claim(Claim("other findings of the audit", len(found["findings"]), 0))
    board.claim(Claim("ledger less charges", abs(float(found["ledger_minus_charges_usd"])), 0, unit=" $"))
    board.claim(Claim("reservations leaked", abs(float(found["leaked_reservations_usd"])), 0, unit=" $"))
    board.claim(Claim("taken up again after, p99", found["reattach_p99_s"] or math.inf, RESUMED_S, unit=" s"))
    return board.verdict()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=None, help="a new one is drawn and printed when left out")
    parser.add_argument("--state", type=Path, default=Path(".chaos-state.json"), help="where to go on from")
    parser.add_argument("--keep", type=Path, default=None, help="folder for home, clips and logs, kept")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    tally = Tally(seed=seed)
    if options.state.exists():
        earlier = Tally(**json.loads(options.state.read_text(encoding="utf-8")))
        if options.seed in (None, earlier.seed) and earlier.kills < options.kills and earlier.clean:
            tally = earlier
            print(f"going on after {tally.kills} kills with seed {tally.seed}", file=sys.stderr)
    print(f"seed {tally.seed}", file=sys.stderr)
    tally = run(tally, options.kills, state=options.state, keep=options.keep)
    print(json.dumps(tally.report(), indent=2))
    raise SystemExit(0 if tally.clean else 1)


if __name__ == "__main__":
    main()
