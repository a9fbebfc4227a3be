"""When a batch will be done and what it will have cost, beside what was planned and what it came to. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from pydantic import Field

from hybrid_video.models import NANO_USD, Model
from hybrid_video.views.figures import Money

ENOUGH_JOBS = 3
"""From so many finished jobs on, their pace says more than the plan."""


class Outlook(Model):
    """The newest run of a batch: its plan, what it came to, and what is still to be expected of it."""

    planned_at: datetime | None = None
    planned_jobs: int | None = None
    planned_usd: Money | None = None
    planned_s: float | None = None
    planned_split: dict[str, int] = Field(default_factory=dict)
    actual_usd: Money | None = Field(None, description="What this run came to; None until it has ended.")
    actual_s: float | None = None
    made: int | None = None
    elapsed_s: float | None = None
    remaining_s: float | None = Field(None, description="Expected seconds from now; None when nothing runs.")
    expected_usd: Money | None = Field(None, description="What the whole batch is expected to have cost at its end.")
    basis: str = Field("", description="What the expectation rests on.")
    deadline_in_s: float | None = Field(None, description="Seconds left of the run's deadline; negative: it is past.")


def outlook(
    plan: sa.Row[Any] | None,
    *,
    live: bool,
    jobs: Mapping[str, int],
    settled_usd: Decimal,
    under_way_usd: Decimal,
    now: datetime,
) -> Outlook:
    """The expectation for a batch with these jobs.

    Args:
        plan: the newest row of `plans`, None where no run has stored one yet.
        live: a run drives the batch now.
        under_way_usd: what the open attempts were quoted at.
    """
    if plan is None:
        return Outlook()
    elapsed_s = max(0.0, (now - plan.planned_at).total_seconds())
    remaining_s, basis = _remaining(plan, jobs, elapsed_s) if live else (None, "")
    expected = None
    if live and plan.jobs:
        waiting = plan.planned_usd / plan.jobs * jobs["pending"]
        expected = (settled_usd + under_way_usd + waiting).quantize(NANO_USD)
    return Outlook(
        planned_at=plan.planned_at,
        planned_jobs=plan.jobs,
        planned_usd=plan.planned_usd,
        planned_s=plan.planned_s,
        planned_split=json.loads(plan.split),
        actual_usd=plan.actual_usd,
        actual_s=plan.actual_s,
        made=plan.made,
        elapsed_s=elapsed_s if live else plan.actual_s,
        remaining_s=remaining_s,
        expected_usd=expected,
        basis=basis,
        deadline_in_s=plan.deadline_s - elapsed_s if live and plan.deadline_s is not None else None,
    )


def _remaining(plan: sa.Row[Any], jobs: Mapping[str, int], elapsed_s: float) -> tuple[float, str]:
    left = jobs["pending"] + jobs["active"] + jobs["uncertain"]
    made = plan.jobs - left
    if not left:
        return 0.0, "every job is over"
    if made >= ENOUGH_JOBS and elapsed_s > 0:
        return left * elapsed_s / made, f"the pace of the {made} jobs that are over in this run"
    planned = max(0.0, plan.planned_s - elapsed_s)
    return planned, "the plan made at the start of the run"
