"""What a batch came to: the answer of `run --json`, the table in the terminal and the artifact in Prefect."""

from __future__ import annotations

from collections import defaultdict
from decimal import Decimal
from itertools import pairwise
from typing import Any

from pydantic import Field

from hybrid_video.engine.honesty import PlanLine, QuoteErrors, quote_errors
from hybrid_video.ledger import JobRow, Ledger
from hybrid_video.ledger.resolving import advice
from hybrid_video.models import Attempt, AttemptState, JobState, Model, Tier, Usd
from hybrid_video.pods.accounting import batch_overhead

NO_MESSAGE = {
    JobState.PENDING: "not started: the run was stopped before; run the batch again to make it",
    JobState.ACTIVE: "still being made; run the batch again to collect it",
    JobState.DONE: "made, but its clip is not in the ledger; run `hybrid-video ledger verify`",
    JobState.FAILED: "failed",
    JobState.CANCELLED: "cancelled",
    JobState.UNCERTAIN: "nobody can say yet whether it was made; run `hybrid-video reconcile`",
}


class ClipLine(Model):
    """One finished clip. `backend` is the tier, `provider` the registry key of the backend that made it."""

    job: str
    path: str
    backend: Tier
    provider: str
    cost_usd: Usd
    sha256: str
    attempts: int


class ErrorLine(Model):
    """One job that did not become a clip."""

    job: str
    kind: str
    message: str


class TierLine(Model):
    """Clips and money of one tier; the money includes its failed attempts."""

    jobs: int = 0
    cost_usd: Usd = Decimal(0)
    attempts: int = 0


class BatchReport(Model):
    """The whole outcome. `cost_usd` counts every attempt; `quoted_usd` what the finished clips were quoted at."""

    batch: str
    jobs: int
    completed: int
    failed: int
    cost_usd: Usd
    quoted_usd: Usd
    duration_s: float
    failovers: int
    by_backend: dict[str, TierLine]
    clips: tuple[ClipLine, ...]
    errors: tuple[ErrorLine, ...]
    simulated: bool = False
    notices: tuple[str, ...] = ()
    quote_errors: QuoteErrors | None = None
    plan: PlanLine | None = None
    pod_overhead_usd: Usd = Field(
        Decimal(0), description="What rented pods cost beyond the seconds of its jobs; part of the cost of its tier."
    )

    @property
    def exit_code(self) -> int:
        """0 all done, 1 some failed, 3 everything that failed was refused by a limit."""
        if not self.errors:
            return 0
        return 3 if all(line.kind == "limit" for line in self.errors) else 1

    def to_json(self) -> dict[str, Any]:
        """The contract's form: money as plain strings."""
        data = self.model_dump(mode="json")
        data["cost_usd"], data["quoted_usd"] = money(self.cost_usd), money(self.quoted_usd)
        data["pod_overhead_usd"] = money(self.pod_overhead_usd)
        for tier, line in self.by_backend.items():
            data["by_backend"][tier]["cost_usd"] = money(line.cost_usd)
        for row, clip in zip(data["clips"], self.clips, strict=True):
            row["cost_usd"] = money(clip.cost_usd)
        if self.plan is not None:
            actual = self.plan.actual_usd
            data["plan"] |= {
                "planned_usd": money(self.plan.planned_usd),
                "planned_start_usd": money(self.plan.planned_start_usd),
                "actual_usd": None if actual is None else money(actual),
                "time_error": self.plan.time_error,
                "cost_error": self.plan.cost_error,
            }
        data["duration_s"] = round(self.duration_s, 3)
        return data


def money(amount: Decimal) -> str:
    """An exact amount as text without exponent or trailing zeros, at least two decimals."""
    text = f"{amount:f}"
    whole, _, fraction = text.partition(".")
    return f"{whole}.{fraction.rstrip('0').ljust(2, '0')}"


def build_report(
    ledger: Ledger,
    batch: str,
    *,
    duration_s: float,
    simulated: bool,
    notices: tuple[str, ...] = (),
    jobs: tuple[str, ...],
    planned: bool = False,
) -> BatchReport:
    """Reads the outcome of a batch from the ledger; counts the jobs the batch has now.

    Args:
        planned: this run stored a plan, so the newest one is its own.
    """
    wanted = set(jobs)
    rows = [row for row in ledger.job_rows(batch) if row.job in wanted]
    by_job: dict[str, list[Attempt]] = defaultdict(list)
    for attempt in ledger.attempts(batch):
        if attempt.job in wanted:
            by_job[attempt.job].append(attempt)
    tiers: dict[str, TierLine] = {}
    clips, errors, quoted, failovers = [], [], Decimal(0), 0
    for row in rows:
        attempts = by_job[row.job]
        failovers += sum(1 for a, b in pairwise(attempts) if a.backend != b.backend)
        settled = next((a for a in reversed(attempts) if a.state is AttemptState.SETTLED), None)
        done = row.state is JobState.DONE and settled is not None and settled.clip is not None
        for attempt in attempts:
            old = tiers.get(attempt.tier.value, TierLine())
            tiers[attempt.tier.value] = TierLine(
                jobs=old.jobs + (done and attempt is settled),
                cost_usd=old.cost_usd + (attempt.cost_usd or Decimal(0)),
                attempts=old.attempts + 1,
            )
        if done and settled is not None and settled.clip is not None:
            quoted += settled.quoted_usd
            clips.append(
                ClipLine(
                    job=row.job,
                    path=settled.clip.path,
                    backend=settled.tier,
                    provider=settled.backend,
                    cost_usd=settled.cost_usd or Decimal(0),
                    sha256=settled.clip.sha256,
                    attempts=len(attempts),
                )
            )
        else:
            kind = row.error_kind or row.state.value
            errors.append(ErrorLine(job=row.job, kind=kind, message=_message(row, attempts)))
    overhead_usd = batch_overhead(ledger, batch)
    if overhead_usd:
        cloud = tiers.get(Tier.CLOUD.value, TierLine())
        tiers[Tier.CLOUD.value] = cloud.model_copy(update={"cost_usd": cloud.cost_usd + overhead_usd})
    return BatchReport(
        batch=batch,
        jobs=len(rows),
        completed=len(clips),
        failed=len(errors),
        cost_usd=sum((line.cost_usd for line in tiers.values()), Decimal(0)),
        quoted_usd=quoted,
        duration_s=duration_s,
        failovers=failovers,
        by_backend=tiers,
        clips=tuple(clips),
        errors=tuple(errors),
        simulated=simulated,
        notices=notices,
        pod_overhead_usd=overhead_usd,
        quote_errors=quote_errors(attempt for attempts in by_job.values() for attempt in attempts),
        plan=PlanLine.of(ledger.forecasts(batch)[-1]) if planned else None,
    )


def _message(row: JobRow, attempts: list[Attempt]) -> str:
    """Why a job did not become a clip; for an uncertain one, with the command that settles it."""
    message = row.error_message or NO_MESSAGE[row.state]
    unknown = [attempt for attempt in attempts if attempt.state is AttemptState.UNCERTAIN]
    return f"{message}; {advice(unknown[-1])}" if unknown and row.state is JobState.UNCERTAIN else message
