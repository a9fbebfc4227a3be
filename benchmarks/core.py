"""In-process figures: ledger commits, one decision, one plan, one assignment, the calculator, reading a batch file."""

from __future__ import annotations

import csv
import json
import sqlite3
import tempfile
import time
import uuid
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import yaml

from benchmarks.measure import percentile, show
from benchmarks.scoreboard import Claim, Scoreboard
from hybrid_video import observing, planner
from hybrid_video.batchfile import dump, load_batch
from hybrid_video.calculating import Inquiry, calculate
from hybrid_video.dispatcher import LaneState, PendingJob, assign, grouped
from hybrid_video.engine.selection import SelectionRequest, Shot, decide
from hybrid_video.estimates import tier_quote
from hybrid_video.ledger import Caps, Ledger, Owner
from hybrid_video.models import (
    AttemptState,
    Batch,
    Candidate,
    CostEntry,
    EffectivePreferences,
    JobHandle,
    JobState,
    Preferences,
    Tier,
    VideoJob,
    WorkOrder,
    utc_now,
)
from hybrid_video.planner import Resource
from hybrid_video.pricing.catalog import PriceBook
from hybrid_video.pricing.quoting import Quoter
from hybrid_video.pricing.refresh import load_prices
from hybrid_video.pricing.timings import ServiceTimes
from hybrid_video.settings import Settings

JOBS = 300
ROUNDS = 2000
FILE_JOBS = 10_000
CALCULATOR_MS = 100
TRACED_US = 20
COMMITS_MS = 2


def ledger_commits(board: Scoreboard) -> None:
    """Three durable commits of a job (reserve, receipt, settlement) beside three bare ones, both fully synchronised."""
    quoter = Quoter(PriceBook.load("seed"), ServiceTimes())
    batch = Batch(name="bench", jobs=tuple(VideoJob(id=f"j{n}", prompt="p") for n in range(JOBS)))
    quote = tier_quote(quoter, Settings(), Tier.CLOUD, batch.jobs[0])
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        bare = _bare_commits(home / "bare.sqlite3")
        ledger, owner = Ledger.open(home / "ledger.sqlite3"), Owner(home)
        ledger.register(batch, out_dir=home)
        times = []
        for job in batch.jobs:
            order = WorkOrder(
                attempt_id=str(uuid.uuid4()), batch="bench", job=job, number=1, seed=1, lane="l", quote=quote
            )
            offer = Candidate(backend=quote.backend, tier=quote.tier, quote=quote)
            decision = decide(SelectionRequest(Shot(job, 1, EffectivePreferences(), offers=(offer,)), 1))
            handle = JobHandle(
                backend=quote.backend, attempt_id=order.attempt_id, remote_id="r", lane="l", submitted_at=utc_now()
            )
            began = time.perf_counter()
            ledger.reserve(order, decision, Caps(batch_usd=Decimal(1000)), owner)
            ledger.mark_submitted(handle)
            ledger.settle(
                order.attempt_id,
                CostEntry(amount_usd=quote.amount_usd, basis="b", source="metered"),
                state=AttemptState.FAILED,
                job_state=JobState.FAILED,
            )
            times.append(time.perf_counter() - began)
        ledger.close()
        owner.close()
    p50 = percentile(times, 0.5)
    show(
        "ledger: three commits per job",
        p50_ms=round(p50 * 1e3, 3),
        p99_ms=round(percentile(times, 0.99) * 1e3, 3),
        bare_sqlite_three_commits_p50_ms=round(bare * 1e3, 3),
        ratio_to_bare=round(p50 / bare, 1),
    )
    board.claim(Claim("three durable commits of a job, p50", p50 * 1e3, COMMITS_MS, unit=" ms"))


def _bare_commits(path: Path) -> float:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("pragma journal_mode=wal")
    connection.execute("pragma synchronous=full")
    connection.execute("create table t (a text, b text, c int)")
    times = []
    for number in range(JOBS):
        began = time.perf_counter()
        for step in range(3):
            connection.execute("begin immediate")
            connection.execute("insert into t values (?, ?, ?)", (str(number), "x" * 500, step))
            connection.execute("commit")
        times.append(time.perf_counter() - began)
    connection.close()
    return percentile(times, 0.5)


def selection() -> None:
    """One decision among three tiers, with every term and reason."""
    quoter, settings, job = Quoter(PriceBook.load("seed"), ServiceTimes()), Settings(), VideoJob(id="a", prompt="p")
    offers = []
    for tier in Tier:
        quote = tier_quote(quoter, settings, tier, job)
        offers.append(Candidate(backend=quote.backend, tier=tier, quote=quote))
    shot = Shot(job, 1, EffectivePreferences(), offers=tuple(offers))
    times = []
    for number in range(ROUNDS):
        request = SelectionRequest(shot, 1, waits_s={"comfyui": number % 90})
        began = time.perf_counter()
        decide(request)
        times.append(time.perf_counter() - began)
    show("selection", p50_us=round(percentile(times, 0.5) * 1e6, 1), p99_us=round(percentile(times, 0.99) * 1e6, 1))


def planning() -> None:
    """The whole frontier of a batch, and one dispatch over everything that waits."""
    resources = [
        Resource("local", 3, 10, Decimal(0)),
        Resource("cloud", 5, 20, Decimal("0.007")),
        Resource("gemini", 10, 5, Decimal("0.08")),
    ]
    quoter, settings, job = Quoter(PriceBook.load("seed"), ServiceTimes()), Settings(), VideoJob(id="a", prompt="p")
    options = {tier.value: tier_quote(quoter, settings, tier, job) for tier in Tier}
    lanes = [LaneState(f"{r.key}/{n}", r.key) for r in resources for n in range(r.slots)]
    for count in (100, 1000, 10_000):
        began = time.perf_counter()
        planner.frontier(resources, count)
        planned = time.perf_counter() - began
        pending = [PendingJob(str(number), options) for number in range(count)]
        began = time.perf_counter()
        assign(grouped(pending), lanes, 1.9 * count)
        show(
            "planning",
            jobs=count,
            frontier_ms=round(planned * 1e3, 2),
            assign_ms=round((time.perf_counter() - began) * 1e3, 2),
        )


def calculator(board: Scoreboard) -> None:
    """What the dashboard's calculator page waits for, beside the bare frontier of the planner."""
    settings = Settings.load()
    for prices in ("seed", "current"):
        quoter = Quoter(load_prices(prices, settings), ServiceTimes())
        for count in (100, 10_000):
            inquiry = Inquiry(jobs=count, slots={Tier.LOCAL: 3, Tier.CLOUD: 5, Tier.GEMINI: 10})
            times = [_seconds(lambda: calculate(inquiry, settings, quoter)) for _ in range(20)]  # noqa: B023
            name = f"calculator, {count:,} clips at {prices} prices, p50"
            board.claim(Claim(name, percentile(times, 0.5) * 1e3, CALCULATOR_MS, unit=" ms"))


def loading() -> None:
    """Reading a file of 10,000 shots, with every check, beside a parser that checks nothing."""
    shots = tuple(
        VideoJob(id=f"s{n}", prompt=f"shot {n} in the rain", fps=24, seed=n, preferences=Preferences(max_cost_usd=1))
        for n in range(FILE_JOBS)
    )
    batch = Batch(name="big", jobs=shots)
    with tempfile.TemporaryDirectory() as folder:
        for form in ("yaml", "json", "csv"):
            path = Path(folder) / f"big.{form}"
            path.write_text(dump(batch, form), encoding="utf-8")
            ours = percentile([_seconds(lambda: load_batch(path)) for _ in range(3)], 0.5)  # noqa: B023
            bare = percentile([_seconds(lambda: _bare_read(path)) for _ in range(3)], 0.5)  # noqa: B023
            show(
                "loading", form=form, jobs=FILE_JOBS, seconds=round(ours, 3), ratio_to_bare_parser=round(ours / bare, 2)
            )


def tracing(board: Scoreboard) -> None:
    """What a traced function costs while nobody listens, beside the bare function."""

    def plain() -> int:
        return 1

    def often(function: Callable[[], int]) -> float:
        return _seconds(lambda: [function() for _ in range(ROUNDS)]) / ROUNDS * 1e6

    wrapped = observing.traced("x")(plain)
    bare, ours = (percentile([often(function) for _ in range(9)], 0.5) for function in (plain, wrapped))
    show("tracing off", call_us=round(ours, 2), bare_call_us=round(bare, 2))
    board.claim(Claim("a traced call while nobody listens", ours, TRACED_US, unit=" us"))


def _bare_read(path: Path) -> object:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".csv":
        return list(csv.DictReader(text.splitlines()))
    return json.loads(text) if path.suffix == ".json" else yaml.load(text, Loader=yaml.CSafeLoader)


def _seconds(task: Callable[[], object]) -> float:
    began = time.perf_counter()
    task()
    return time.perf_counter() - began


def main() -> int:
    """Every in-process figure; returns how many targets are missed."""
    board = Scoreboard(name="core")
    calculator(board)
    loading()
    tracing(board)
    ledger_commits(board)
    selection()
    planning()
    return board.verdict()


if __name__ == "__main__":
    main()
