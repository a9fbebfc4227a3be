"""Figures beside their bounds and targets: a table for people, one JSON object a line for programs."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Claim:
    """One target and what was measured."""

    name: str
    measured: float
    limit: float
    sense: Literal["at most", "at least"] = "at most"
    unit: str = ""

    @property
    def passed(self) -> bool:
        """Whether the target is met."""
        if self.sense == "at most":
            return self.measured <= self.limit + 1e-9
        return self.measured >= self.limit - 1e-9

    @property
    def ratio(self) -> float | None:
        """Measured over limit; None where the limit is 0."""
        return round(self.measured / self.limit, 3) if self.limit else None


@dataclass(frozen=True)
class Measured:
    """One policy on one workload, beside what no policy can beat."""

    workload: str
    policy: str
    jobs: int
    runs: int
    duration_s: float
    p95_s: float
    cost_usd: float
    bound_usd: float
    time_ratio: float | None
    """Duration over the least possible for the same cost; None where that bound does not apply (sizes differ)."""
    all_gemini_usd: float = 0.0

    @property
    def cost_ratio(self) -> float | None:
        """Cost over the least possible for the same duration; None where that is nothing."""
        return self.cost_usd / self.bound_usd if self.bound_usd > 1e-6 else None


def savings_sentence(cost_usd: float, dearest_usd: float, duration_s: float | None, dearest_s: float | None) -> str:
    """What was saved against everything on the dearest tier, never without what it took.

    Raises:
        ValueError: a duration is missing: money saved says nothing without the time it cost.
    """
    if duration_s is None or dearest_s is None:
        raise ValueError("savings are not shown without both makespans; measure duration_s and dearest_s first")
    saved = 100 * (1 - cost_usd / dearest_usd)
    return (
        f"${cost_usd:.3f} in {duration_s:.0f} s, against ${dearest_usd:.2f} in {dearest_s:.0f} s with everything on "
        f"the dearest tier: {saved:.1f} % cheaper and {duration_s / dearest_s:.1f} times as long"
    )


@dataclass
class Scoreboard:
    """Collects claims and rows, prints them as they come."""

    claims: list[Claim] = field(default_factory=list)
    name: str = "dispatch"
    _headed: bool = False

    def claim(self, claim: Claim) -> None:
        """Notes a target and prints it."""
        self.claims.append(claim)
        verdict = "pass" if claim.passed else "FAIL"
        print(f"  {verdict}  {claim.name}: {claim.measured:.4g}{claim.unit}, {claim.sense} {claim.limit:g}{claim.unit}")
        record = {"benchmark": self.name, "claim": claim.name, "measured": round(claim.measured, 6)}
        emit(**record, limit=claim.limit, sense=claim.sense, ratio=claim.ratio, passed=claim.passed)

    def row(self, row: Measured) -> None:
        """Prints one line of the table."""
        if not self._headed:
            self._headed = True
            heads = ("N", 5), ("T s", 9), ("p95", 9), ("$", 10), ("LB $", 9), ("$/LB", 7), ("T/T*", 7)
            print(f"  {'workload':<22}{'policy':<26}" + "".join(f"{name:>{width}}" for name, width in heads))
        ratio = f"{row.time_ratio:7.3f}" if row.time_ratio is not None else "      -"
        over = f"{row.cost_ratio:7.3f}" if row.cost_ratio is not None else "      -"
        print(
            f"  {row.workload:<22}{row.policy:<26}{row.jobs:>5}{row.duration_s:>9.1f}{row.p95_s:>9.1f}"
            f"{row.cost_usd:>10.3f}{row.bound_usd:>9.3f}{over}{ratio}"
        )
        emit(
            benchmark=self.name,
            workload=row.workload,
            policy=row.policy,
            jobs=row.jobs,
            runs=row.runs,
            duration_s=round(row.duration_s, 2),
            p95_s=round(row.p95_s, 2),
            cost_usd=round(row.cost_usd, 6),
            bound_usd=round(row.bound_usd, 6),
            time_ratio=None if row.time_ratio is None else round(row.time_ratio, 4),
        )

    def title(self, text: str) -> None:
        """Starts a section."""
        self._headed = False
        print(f"\n{text}", flush=True)

    def verdict(self) -> int:
        """Prints how many targets are met; returns the number missed."""
        missed = [claim.name for claim in self.claims if not claim.passed]
        print(
            f"\n{len(self.claims) - len(missed)} of {len(self.claims)} targets met"
            + "".join(f"\n  FAIL  {m}" for m in missed)
        )
        emit(benchmark=self.name, targets=len(self.claims), missed=missed)
        return len(missed)


def emit(**record: object) -> None:
    """One JSON object on a line of its own."""
    print(json.dumps(record), flush=True)
