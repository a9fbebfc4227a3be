"""Shared by the benchmarks: percentiles, a measured child process, the emulators in a process of their own."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which this share of the sorted values lies (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def wilson(hits: int, tried: int, z: float = 1.96) -> tuple[float, float]:
    """The interval in which a share lies with 95 % confidence."""
    share, square = hits / tried, z * z / tried
    middle = (share + square / 2) / (1 + square)
    half = z * math.sqrt(share * (1 - share) / tried + square / (4 * tried)) / (1 + square)
    return middle - half, middle + half


def run_child(arguments: Sequence[str], environment: dict[str, str]) -> dict[str, Any]:
    """Runs `python ARGUMENTS`; its last line of output is JSON. Adds wall and CPU seconds and peak memory."""
    began = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, *arguments], env={**os.environ, **environment}, stdout=subprocess.PIPE, cwd=ROOT
    )
    assert child.stdout is not None
    output = child.stdout.read()
    _pid, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - began
    if child.returncode not in (0, 1):
        raise SystemExit(f"{arguments} ended with {child.returncode}")
    data: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    data |= {"wall_s": round(wall, 3), "cpu_s": round(usage.ru_utime + usage.ru_stime, 3)}
    data["peak_mb"] = round(usage.ru_maxrss / 1024, 1)
    return data


def cpu_of(process: psutil.Process) -> float:
    """CPU seconds that a process and those it started have used."""
    family = [process, *process.children(recursive=True)]
    times = [each.cpu_times() for each in family]
    return float(sum(each.user + each.system for each in times))


@contextmanager
def emulators(*options: str) -> Iterator[dict[str, str]]:
    """Emulators in a process of their own; gives the environment that points at them."""
    child = subprocess.Popen(
        [sys.executable, "-m", "hybrid_video", "emulate", "--json", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
    )
    try:
        assert child.stdout is not None
        yield json.loads(child.stdout.readline())["environment"]
    finally:
        child.terminate()
        child.wait(20)


def show(name: str, **figures: Any) -> None:
    """Prints one measurement."""
    print(json.dumps({"benchmark": name, **figures}), flush=True)
