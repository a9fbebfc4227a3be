"""Recomputes every balance from the attempts and the pods, and reports every contradiction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from pydantic import Field

from hybrid_video.ledger import schema as t
from hybrid_video.ledger.findings import Finding
from hybrid_video.ledger.gaps import Gap, open_gap
from hybrid_video.ledger.pod_checks import POD_ENDS, pod_bills, pod_findings, pod_scopes
from hybrid_video.ledger.states import OPEN
from hybrid_video.ledger.store import Ledger
from hybrid_video.models import AttemptState, Clip, JobState, Model, Usd

Row = sa.Row[Any]


class VerifyReport(Model):
    """Outcome of `ledger verify`. `ok` is False if any finding is serious."""

    ok: bool
    batches: int
    jobs: int
    attempts: int
    settled_usd: Usd
    reserved_usd: Usd
    uncertain: int
    orphans: int = Field(description="Open attempts whose job is finished, or whose job is not known.")
    duplicates: int = Field(description="Jobs with more than one settled attempt since their text last changed.")
    pods: int = 0
    pods_alive: int = Field(0, description="Pods that may cost money now.")
    pod_overhead_usd: Usd = Field(
        Decimal(0), description="What pods cost beyond the jobs on them: part of settled_usd."
    )
    pod_billed_usd: Usd = Field(Decimal(0), description="RunPod's bill for the pods that are reconciled with it.")
    pod_difference_usd: Usd = Field(
        Decimal(0), description="That bill minus what jobs and overhead of these pods came to; 0 to the cent."
    )
    findings: tuple[Finding, ...]


def verify(ledger: Ledger) -> VerifyReport:
    """Checks the whole ledger in one consistent read."""
    with ledger.raw().connect() as connection:
        attempts = list(connection.execute(sa.select(t.attempts)))
        jobs = {(row.batch, row.job): row for row in connection.execute(sa.select(t.jobs))}
        batches = {row.name: row for row in connection.execute(sa.select(t.batches))}
        balances = {row.scope: row for row in connection.execute(sa.select(t.balances))}
        pods = list(connection.execute(sa.select(t.pods).order_by(t.pods.c.intended_at)))
        shares = list(connection.execute(sa.select(t.pod_shares)))
        pruned = {row.scope: row.settled_usd for row in connection.execute(sa.select(t.pruned))}
        gap = open_gap(connection)
    overhead = sum((row.amount_usd for row in shares), Decimal(0))
    billed, difference = pod_bills(pods, shares, attempts, pruned)
    findings = [
        *_balances(attempts, pods, shares, balances, pruned),
        *pod_findings(pods, shares, attempts, pruned),
        *_orphans(attempts, jobs),
        *_duplicates(attempts),
        *_uncertain(attempts),
        *_missing_clips(attempts, jobs),
        *_caps(balances, batches),
        *_gap(gap),
    ]
    kinds = [finding.kind for finding in findings]
    return VerifyReport(
        ok=not any(finding.serious for finding in findings),
        batches=len(batches),
        jobs=len(jobs),
        attempts=len(attempts),
        settled_usd=sum((row.cost_usd or Decimal(0) for row in attempts), overhead) + pruned.get("all", Decimal(0)),
        reserved_usd=sum((row.reserved_usd for row in (*attempts, *pods)), Decimal(0)),
        uncertain=kinds.count("uncertain"),
        orphans=kinds.count("orphan"),
        duplicates=kinds.count("duplicate"),
        pods=len(pods),
        pods_alive=sum(row.state not in POD_ENDS for row in pods),
        pod_overhead_usd=overhead,
        pod_billed_usd=billed,
        pod_difference_usd=difference,
        findings=tuple(findings),
    )


def _balances(
    attempts: list[Row], pods: list[Row], shares: list[Row], balances: dict[str, Row], pruned: Mapping[str, Decimal]
) -> list[Finding]:
    expected: dict[str, list[Decimal]] = defaultdict(lambda: [Decimal(0), Decimal(0)])
    for scope, amount in pruned.items():
        if not scope.startswith("lane:"):
            expected[scope][0] += amount
    for row in attempts:
        for scope in (
            f"job:{row.batch}/{row.job}",
            f"batch:{row.batch}",
            f"day:{row.day}",
            f"month:{row.day[:7]}",
            f"tier:{row.tier}:{row.day[:7]}",
            "all",
        ):
            expected[scope][0] += row.cost_usd or Decimal(0)
            expected[scope][1] += row.reserved_usd
    for row in pods:
        for scope in pod_scopes(row.day, row.batch):
            expected[scope][1] += row.reserved_usd
    for row in shares:
        for scope in pod_scopes(row.day, row.batch):
            expected[scope][0] += row.amount_usd
    findings = []
    for scope in sorted(expected.keys() | balances.keys()):
        kept = balances.get(scope)
        stored = [kept.settled_usd, kept.reserved_usd] if kept is not None else [Decimal(0), Decimal(0)]
        if stored != expected[scope]:
            findings.append(
                Finding(
                    kind="balance",
                    subject=scope,
                    message=f"stored ${stored[0]} settled and ${stored[1]} reserved, attempts and pods come to "
                    f"${expected[scope][0]} and ${expected[scope][1]}",
                )
            )
    return findings


def _orphans(attempts: list[Row], jobs: dict[tuple[str, str], Row]) -> list[Finding]:
    findings = []
    for row in attempts:
        job = jobs.get((row.batch, row.job))
        is_open = AttemptState(row.state) in OPEN
        if is_open and (job is None or JobState(job.state) in (JobState.DONE, JobState.FAILED, JobState.CANCELLED)):
            findings.append(
                Finding(
                    kind="orphan",
                    subject=row.attempt_id,
                    message=f"attempt {row.number} of {row.batch}/{row.job} holds ${row.reserved_usd} in state "
                    f"{row.state!r} though its job is over; run `hybrid-video reconcile`",
                )
            )
        if not is_open and row.reserved_usd:
            findings.append(
                Finding(
                    kind="orphan", subject=row.attempt_id, message=f"finished, but still reserves ${row.reserved_usd}"
                )
            )
    return findings


def _duplicates(attempts: list[Row]) -> list[Finding]:
    """Jobs finished twice with no change of text between; an earlier text that is asked for again is none."""
    runs: dict[tuple[str, str], tuple[str, int]] = {}
    most: dict[tuple[str, str], int] = defaultdict(int)
    for row in sorted(attempts, key=lambda row: (row.batch, row.job, row.number)):
        key = (row.batch, row.job)
        text, count = runs.get(key, (row.spec_sha, 0))
        count = (count if text == row.spec_sha else 0) + (row.state == AttemptState.SETTLED.value)
        runs[key] = (row.spec_sha, count)
        most[key] = max(most[key], count)
    return [
        Finding(kind="duplicate", subject=f"{batch}/{job}", message=f"{count} attempts were settled as finished clips")
        for (batch, job), count in most.items()
        if count > 1
    ]


def _uncertain(attempts: list[Row]) -> list[Finding]:
    return [
        Finding(
            kind="uncertain",
            subject=row.attempt_id,
            message=f"{row.batch}/{row.job} on {row.backend}: {row.error_message}; ${row.reserved_usd} stays reserved",
            serious=False,
        )
        for row in attempts
        if row.state == AttemptState.UNCERTAIN.value
    ]


def _missing_clips(attempts: list[Row], jobs: dict[tuple[str, str], Row]) -> list[Finding]:
    newest = {(row.batch, row.job): row for row in attempts if row.state == AttemptState.SETTLED.value and row.clip}
    findings = []
    for key, row in newest.items():
        clip = Clip.model_validate_json(row.clip)
        job = jobs.get(key)
        if job is not None and job.state == JobState.DONE.value and not Path(clip.path).exists():
            findings.append(
                Finding(
                    kind="missing_clip",
                    subject="/".join(key),
                    message=f"{clip.path!r} is gone from disk",
                    serious=False,
                )
            )
    return findings


def _gap(gap: Gap | None) -> list[Finding]:
    if gap is None:
        return []
    message = (
        f"comes from a backup of {gap.taken_at:%Y-%m-%d %H:%M:%S} UTC, and what was bought since is not known yet; "
        "run `hybrid-video reconcile`"
    )
    return [Finding(kind="gap", subject="ledger", message=message, serious=False)]


def _caps(balances: dict[str, Row], batches: dict[str, Row]) -> list[Finding]:
    findings = []
    for name, batch in batches.items():
        row = balances.get(f"batch:{name}")
        if row is None or batch.budget_usd is None:
            continue
        total = row.settled_usd + row.reserved_usd
        if total > batch.budget_usd:
            findings.append(
                Finding(
                    kind="cap", subject=f"batch:{name}", message=f"${total} is over the budget of ${batch.budget_usd}"
                )
            )
    return findings
