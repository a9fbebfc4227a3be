"""The part of `ledger verify` that concerns rented pods: reservations, shares, and RunPod's bill.

Worked out from the rows alone and not by the code that booked them, so that an error there shows here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any

import sqlalchemy as sa

from hybrid_video.ledger.findings import Finding
from hybrid_video.models import Tier, utc_now

Row = sa.Row[Any]

POD_ENDS = frozenset({"closed", "failed"})
UNRESOLVED_FOR = timedelta(minutes=10)
CENT = Decimal("0.01")


def pod_scopes(day: str, batch: str) -> tuple[str, ...]:
    """Every balance that pod money counts in."""
    every = (f"day:{day}", f"month:{day[:7]}", f"tier:{Tier.CLOUD.value}:{day[:7]}", "all")
    return (*every, f"batch:{batch}") if batch else every


def pod_findings(
    pods: Sequence[Row], shares: Sequence[Row], attempts: Sequence[Row], pruned: Mapping[str, Decimal]
) -> list[Finding]:
    """Contradictions about pods, and those that nobody has looked after for long."""
    booked: dict[str, Decimal] = defaultdict(Decimal)
    for share in shares:
        booked[share.pod] += share.amount_usd
    jobs_usd = _jobs_usd(attempts, pruned)
    findings = []
    for pod in pods:
        if booked[pod.name] != pod.booked_usd:
            message = f"its shares come to ${booked[pod.name]}, its record says ${pod.booked_usd}"
            findings.append(Finding(kind="pod", subject=pod.name, message=message))
        if pod.state in POD_ENDS and pod.reserved_usd:
            message = f"is {pod.state}, but still reserves ${pod.reserved_usd}; run `hybrid-video reconcile`"
            findings.append(Finding(kind="orphan", subject=pod.name, message=message))
        if pod.state in ("intended", "creating", "closing") and utc_now() - pod.intended_at > UNRESOLVED_FOR:
            message = f"is {pod.state!r} since {pod.intended_at:%Y-%m-%d %H:%M} UTC; run `hybrid-video reconcile`"
            findings.append(Finding(kind="pod", subject=pod.name, message=message, serious=False))
        if pod.reconciled_at is None or pod.billed_usd is None:
            continue
        difference = pod.billed_usd - jobs_usd[_lane(pod)] - booked[pod.name]
        if abs(difference) >= CENT:
            message = f"RunPod bills ${pod.billed_usd}, which is ${difference} more than jobs and overhead come to"
            findings.append(Finding(kind="bill", subject=pod.name, message=f"{message}; run `hybrid-video reconcile`"))
    known = {pod.name for pod in pods}
    findings += [
        Finding(kind="pod", subject=name, message=f"${amount} is booked for a pod that nobody knows")
        for name, amount in booked.items()
        if name not in known
    ]
    return findings


def pod_bills(
    pods: Sequence[Row], shares: Sequence[Row], attempts: Sequence[Row], pruned: Mapping[str, Decimal]
) -> tuple[Decimal, Decimal]:
    """RunPod's bill for reconciled pods, and by how much it exceeds what the ledger has for them."""
    jobs_usd = _jobs_usd(attempts, pruned)
    billed = held = Decimal(0)
    reconciled = {pod.name: pod for pod in pods if pod.reconciled_at is not None and pod.billed_usd is not None}
    for pod in reconciled.values():
        billed += pod.billed_usd
        held += jobs_usd[_lane(pod)]
    held += sum((share.amount_usd for share in shares if share.pod in reconciled), Decimal(0))
    return billed, billed - held


def _jobs_usd(attempts: Sequence[Row], pruned: Mapping[str, Decimal]) -> dict[str, Decimal]:
    """Per lane: attempts that are here, and those that were deleted for their age."""
    amounts: dict[str, Decimal] = defaultdict(Decimal)
    for scope, amount in pruned.items():
        if scope.startswith("lane:"):
            amounts[scope.removeprefix("lane:")] += amount
    for row in attempts:
        amounts[row.lane] += row.cost_usd or Decimal(0)
    return amounts


def _lane(pod: Row) -> str:
    return f"runpod-pod/{pod.pod_id}"
