"""What is done to a batch: its jobs, the faults of its vendors, and when its process is killed. All from one seed."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.chaos_child import LEDGER_POINTS, MID_TRANSACTION
from benchmarks.chaos_farm import SMALL, Listener, Vendors
from hybrid_video.emulators.faults import FaultRule
from hybrid_video.models import Batch, Preferences, Tier, VideoJob

USUAL_RUN_S = 1.0
"""Most of a run, start included, on a quiet machine."""
ONCE = tuple(
    f"store.Ledger.{name}" for name in ("register", "release", "finish_batch", "mark_uncertain", "mark_recorded")
)
"""Functions of the ledger of which a run seldom makes a second call."""
KINDS = ("random", "wire", "ledger")
WIRE_CALLS = (
    ("comfyui", "submit"),
    ("comfyui", "status"),
    ("comfyui", "download"),
    ("runpod", "submit"),
    ("runpod", "status"),
    ("runpod", "download"),
    ("gemini", "submit"),
    ("gemini", "status"),
    ("gemini", "download"),
)

PASSING_FAULTS: tuple[dict[str, Any], ...] = (
    {"operation": "submit", "action": "drop_after"},
    {"operation": "submit", "action": "refuse"},
    {"operation": "submit", "action": "status", "status": 429, "headers": {"Retry-After": "0.1"}, "times": 3},
    {"operation": "status", "action": "status", "status": 429, "headers": {"Retry-After": "0.1"}, "times": 4},
    {"operation": "status", "action": "status", "status": 503, "times": 3},
    {"operation": "status", "action": "garbage", "times": 2},
    {"operation": "status", "action": "drop", "times": 2},
    {"operation": "download", "action": "truncate"},
    {"operation": "download", "action": "drop", "times": 2},
    {"operation": "download", "action": "status", "status": 503, "times": 2},
)
"""Faults after which every clip can still be had for its one price."""


def make_batch(number: int, rng: random.Random, *, tiers: tuple[Tier, ...] = tuple(Tier)) -> Batch:
    """A batch of small clips over the tiers."""
    jobs = tuple(
        VideoJob(
            id=f"s{index}",
            prompt=f"shot {index} of film {number}",
            preferences=Preferences(backend=rng.choice(tiers).value),
            **SMALL,
        )
        for index in range(rng.randint(6, 10))
    )
    return Batch(name=f"film{number:05}", jobs=jobs)


def make_faults(rng: random.Random) -> list[FaultRule]:
    """None, one or two faults."""
    servers = ("comfyui", "runpod", "gemini")
    count = rng.choice((0, 0, 1, 1, 2))
    return [
        FaultRule(server=rng.choice(servers), after=rng.randint(0, 2), **rng.choice(PASSING_FAULTS))
        for _ in range(count)
    ]


@dataclass(frozen=True)
class KillPlan:
    """When one process dies. `random`: after `delay_s`; `wire`: `delay_s` after the n-th call of a kind has reached a
    vendor; `ledger`: before or after the n-th call of a ledger method."""

    kind: str
    delay_s: float = 0.0
    call: tuple[str, str] = ("", "")
    nth: int = 1
    crash: dict[str, Any] | None = None

    @classmethod
    def draw(cls, rng: random.Random) -> KillPlan:
        """A plan from the generator."""
        kind = rng.choices(KINDS, (3, 4, 3))[0]
        if kind == "random":
            return cls(kind, delay_s=rng.uniform(0.01, USUAL_RUN_S))
        if kind == "wire":
            call, nth = rng.choice(WIRE_CALLS), rng.choice((1, 1, 2, 3))
            longest = 0.15 if call[1] == "download" else 0.02
            return cls(kind, delay_s=rng.choice((0.0, rng.uniform(0, longest))), call=call, nth=nth)
        point = rng.choice(LEDGER_POINTS)
        nth = rng.randint(1, 8) if point == MID_TRANSACTION else rng.choice((1, 1, 2, 3))
        nth = 1 if point in ONCE else nth
        return cls(kind, crash={"point": point, "when": rng.choice(("before", "after")), "nth": nth})

    def arm(self, vendors: Vendors, kill: Callable[[], None]) -> None:
        """Sets the trap for a process that has just started."""
        if self.kind == "random":
            vendors.call_later(self.delay_s, kill)
        elif self.kind == "wire":
            vendors.faults.listener = self._listener(vendors, kill)

    def _listener(self, vendors: Vendors, kill: Callable[[], None]) -> Listener:
        seen = 0

        def heard(server: str, operation: str, _job: str) -> None:
            nonlocal seen
            seen += (server, operation) == self.call
            if seen == self.nth and (server, operation) == self.call:
                if self.delay_s:
                    vendors.call_later(self.delay_s, kill)
                else:
                    kill()

        return heard
