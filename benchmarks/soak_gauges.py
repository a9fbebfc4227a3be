"""What the soak reads at equal intervals, and how it tells a leak from noise and from what is kept by policy."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import psutil

MB = 1_000_000
NOISE = 3
"""A count may be so much higher in the one half than in the other without being called growth."""


@dataclass(frozen=True)
class Gauge:
    """One thing that must not grow with the number of batches.

    `allowed` is what the second half of a run may add per batch, in the gauge's own unit; `noise` what it may add in
    all without being looked at. `kept` says by what policy it grows, where it does: then its size per batch is judged,
    which must not grow from the first half to the second.
    """

    name: str
    unit: str
    allowed: float = 0.0
    noise: float = NOISE
    kept: str = ""


PROCESS = (
    Gauge("memory", "MB", allowed=0.002, noise=6.0),
    Gauge("files", "open"),
    Gauge("threads", "threads"),
    Gauge("connections", "open"),
)
"""Read for each process. 2 kB a batch: some libraries keep a little for every new name, such as compiled patterns."""

STATE = (
    Gauge("ledger", "MB", noise=1.0, kept="name and sums of every batch, jobs and attempts of the newest"),
    Gauge("ledger log", "MB", noise=6.0),
    Gauge("history", "MB", kept="every attempt stays for the charts"),
    Gauge("journal", "MB", kept="days back to the oldest backup"),
    Gauge("files of the home", "files"),
    Gauge("temporary files", "files"),
    Gauge("tasks", "asyncio tasks"),
)


@dataclass(frozen=True)
class Verdict:
    """What became of one gauge."""

    gauge: str
    unit: str
    first: float
    middle: float
    last: float
    per_batch: float
    leaks: bool
    kept: str = ""


Sample = Mapping[str, float]


def judged(gauge: Gauge, name: str, batches: Sequence[int], values: Sequence[float]) -> Verdict:
    """The verdict by the slope over the second half: the median of all pairwise slopes, which outliers do not bend."""
    half = len(values) // 2
    late_x, late_y = batches[half:], values[half:]
    slope = theil_sen(late_x, late_y)
    grown = slope * (late_x[-1] - late_x[0])
    if gauge.kept:
        early = theil_sen(batches[: half + 1], values[: half + 1])
        leaks = slope > 1.3 * early + gauge.allowed and grown > gauge.noise
    else:
        leaks = slope > gauge.allowed and grown > gauge.noise
    return Verdict(name, gauge.unit, values[0], values[half], values[-1], slope, leaks, gauge.kept)


def theil_sen(x: Sequence[float], y: Sequence[float]) -> float:
    """The median slope between any two points."""
    pairs = combinations(range(len(x)), 2)
    slopes = [(y[b] - y[a]) / (x[b] - x[a]) for a, b in pairs if x[b] != x[a]]
    return statistics.median(slopes) if slopes else 0.0


def process_sample(process: psutil.Process) -> dict[str, float]:
    """Memory of its own (USS where the system tells: shared pages would hide growth), files, threads, sockets."""
    with process.oneshot():
        memory = process.memory_full_info().uss if hasattr(psutil.Process, "memory_full_info") else 0
        return {
            "memory": memory / MB,
            "files": float(process.num_fds()),
            "threads": float(process.num_threads()),
            "connections": float(len(process.net_connections(kind="inet"))),
        }


def state_sample(home: Path, temporary: Path, clips: Path) -> dict[str, float]:
    """Sizes of what is stored."""
    kept = [home / "journal", home / "backups", clips]
    return {
        "ledger": _size(home / "ledger.sqlite3") / MB,
        "ledger log": _size(home / "ledger.sqlite3-wal") / MB,
        "history": _size(home / "history.duckdb") / MB,
        "journal": sum(_size(path) for path in (home / "journal").glob("*")) / MB,
        "files of the home": float(sum(1 for path in _files(home) if not any(k in path.parents for k in kept))),
        "temporary files": float(sum(1 for _ in _files(temporary)) + sum(1 for _ in _files(clips / ".staging"))),
    }


def _size(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_size
    return 0


def _files(folder: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return list(folder.rglob("*"))
    return []
