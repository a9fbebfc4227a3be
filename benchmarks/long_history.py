"""Pages and questions over a million attempts, beside the targets: `python -m benchmarks.long_history [--rows N]`.

The ledger holds so many jobs and attempts (copies of one that was really made), the history so many attempts of every
kind. Pages are read as the dashboard and the API read them. Questions are asked within one opening of the history, as
a page asks them; what opening it takes is printed beside them. Other programs lengthen the wall time, and DuckDB's
threads the CPU time: the lesser P99 of both counts, since an idle machine meets it.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta

from benchmarks.dashboard_data import JOBS_PER_BATCH, make_history
from benchmarks.measure import percentile
from benchmarks.scoreboard import Claim, Scoreboard, emit
from hybrid_video import views
from hybrid_video.engine.session import open_ledger
from hybrid_video.history import History
from hybrid_video.history.analytics import Selection, analysis
from hybrid_video.ledger import Ledger, Owner
from hybrid_video.models import JobState
from hybrid_video.settings import Settings
from tests.unit.ledger_rig import make_batch, make_done, make_order

ROWS = 1_000_000
TIMES = 100
PAGE_MS, MONTH_MS, TOTALS_MS, PERCENTILES_MS = 5, 5, 10, 75
PERCENTILES = """
select tier, model, count(*), quantile_cont(execution_s, 0.5), quantile_cont(execution_s, 0.95)
from attempts where state = 'settled' group by tier, model
"""


def many_jobs(settings: Settings, count: int) -> Ledger:
    """A ledger with so many finished jobs in batches of 250, copied inside SQLite from one that was made."""
    ledger = open_ledger(settings)
    with closing(Owner(settings.storage.home)) as owner:
        made = make_batch("one", 1)
        ledger.register(made, out_dir=settings.storage.clips_dir)
        make_done(ledger, make_order("one", made.jobs[0]), owner)
    with closing(sqlite3.connect(settings.storage.ledger_path)) as connection:
        batch = f"printf('batch-%05d', i / {JOBS_PER_BATCH})"
        job = f"printf('shot-%03d', i % {JOBS_PER_BATCH})"
        _copy(connection, "batches", {"name": "printf('batch-%05d', n.i)"}, -(-count // JOBS_PER_BATCH), "name")
        _copy(connection, "jobs", {"batch": batch, "job": job, "ordinal": f"i % {JOBS_PER_BATCH}"}, count, "batch")
        changed = {"attempt_id": "printf('%032d', i)", "batch": batch, "job": job}
        _copy(connection, "attempts", changed, count, "batch")
        connection.commit()
        connection.execute("analyze")
    return ledger


def _copy(connection: sqlite3.Connection, table: str, changed: dict[str, str], count: int, key: str) -> None:
    """Copies the row of the batch `one` so many times, with these columns made from the number `i`."""
    columns = [str(row[1]) for row in connection.execute(f"pragma table_info({table})")]
    values = ", ".join(changed.get(column, column) for column in columns)
    head = f"insert into {table} ({', '.join(columns)})"
    copy = f"{head} select {values} from {table}, n where {table}.{key} = 'one'"  # noqa: S608 - our own names
    numbers = "with recursive n(i) as (select 0 union all select i + 1 from n where i < ? - 1)"
    connection.execute(f"{numbers} {copy}", [count])


def run(rows: int = ROWS) -> int:
    """Every figure; returns how many targets are missed."""
    board = Scoreboard(name="history")
    board.title(f"A history of {rows:,} attempts")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HYBRID_VIDEO_HOME"] = folder
        settings = Settings.load()
        began_s = time.perf_counter()
        with closing(many_jobs(settings, rows)) as ledger:
            emit(benchmark="history", made="ledger", rows=rows, seconds=round(time.perf_counter() - began_s, 1))
            pages(board, ledger, rows)
        questions(board, make_history(settings.storage.history_path, rows))
    return board.verdict()


def pages(board: Scoreboard, ledger: Ledger, rows: int) -> None:
    """Fifty at a time: jobs of a batch, and batches, from the beginning and from far inside."""
    middle = f"batch-{rows // JOBS_PER_BATCH // 2:05d}"
    jobs, lines = views.jobs(ledger, middle), views.batches(ledger, limit=50)
    for _ in range(20):
        lines = views.batches(ledger, limit=50, cursor=lines.next_cursor) if lines.next_cursor else lines
    asked: dict[str, Callable[[], object]] = {
        "page of 50 jobs": lambda: views.jobs(ledger, middle),
        "its next page": lambda: views.jobs(ledger, middle, cursor=jobs.next_cursor),
        "50 jobs by state": lambda: views.jobs(ledger, middle, state=JobState.DONE),
    }
    for name, ask in asked.items():
        _claim(board, name, ask, PAGE_MS)
    _told("page of 50 batches, with sums over their jobs", lambda: views.batches(ledger, limit=50))
    _told("the 21st of those", lambda: views.batches(ledger, limit=50, cursor=lines.next_cursor))


def questions(board: Scoreboard, history: History) -> None:
    """What the analytics page asks first, and exact percentiles over everything."""
    month = Selection(since=datetime.now(UTC).date() - timedelta(days=29))
    with analysis(history, month) as asked:
        _claim(board, "cost of 30 days by tier", asked.spend_by_day, MONTH_MS)
    with analysis(history, Selection()) as asked:
        _claim(board, "totals of all time", asked.totals, TOTALS_MS)
    with history.reading() as ask:
        _claim(board, "exact p50 and p95 by tier and workflow", lambda: ask(PERCENTILES), PERCENTILES_MS)
    _told("open the history, ask, close", lambda: history.query("select 1"))


def _claim(board: Scoreboard, name: str, ask: Callable[[], object], limit_ms: float) -> None:
    board.claim(Claim(f"{name}, p99", _told(name, ask), limit_ms, unit=" ms"))


def _told(name: str, ask: Callable[[], object]) -> float:
    """Prints what many answers take, after two that warm up; the lesser P99 of wall and CPU time, in milliseconds."""
    ask(), ask()
    wall_ms, cpu_ms = [], []
    for _ in range(TIMES):
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        ask()
        wall_ms.append((time.perf_counter() - began_s) * 1e3)
        cpu_ms.append((time.process_time() - began_cpu_s) * 1e3)
    wall, cpu = percentile(wall_ms, 0.99), percentile(cpu_ms, 0.99)
    p50 = percentile(wall_ms, 0.5)
    emit(benchmark="history", what=name, p50_ms=round(p50, 2), p99_ms=round(wall, 2), cpu_p99_ms=round(cpu, 2))
    return min(wall, cpu)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=ROWS)
    sys.exit(1 if run(parser.parse_args().rows) else 0)


if __name__ == "__main__":
    main()
