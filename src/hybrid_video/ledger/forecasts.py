"""What a run was expected to cost and to take, beside what it came to."""

from __future__ import annotations

import json
from datetime import datetime
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from pydantic import Field

from hybrid_video.models import Model, Tier, Usd, utc_now


class PoolLine(Model):
    """One kind of slot as it was when a run began."""

    backend: str
    tier: Tier
    slots: int = Field(ge=0)
    service_s: float = Field(ge=0)
    price_usd: Usd = Field(ge=0)
    start_s: float = Field(0.0, ge=0, description="Before its first clip a slot takes so long to start.")
    up: int = Field(0, ge=0, description="Slots that need no start.")
    turn_s: float = Field(0.0, ge=0, description="Between two clips a slot waits so long to be seen free.")
    cv: float = Field(0.0, ge=0, description="How much a clip's time scatters (coefficient of variation).")
    start_usd: Usd = Field(
        Decimal(0), ge=0, description="What starting one slot is billed to the endpoint, beside the jobs."
    )


class Forecast(Model):
    """Plan and outcome of one run. `made` counts the clips it finished; the outcome is None until it has ended."""

    batch: str
    planned_at: datetime = Field(default_factory=utc_now)
    jobs: int = Field(ge=0)
    planned_usd: Usd
    planned_s: float
    split: dict[str, int]
    pool: tuple[PoolLine, ...]
    deadline_s: float | None = None
    budget_usd: Usd | None = None
    actual_usd: Usd | None = None
    actual_s: float | None = None
    made: int | None = None

    @property
    def starts(self) -> int:
        """Workers that have to be started for it."""
        return sum(self._starts(line) for line in self.pool if line.start_s)

    @property
    def start_usd(self) -> Decimal:
        """What those starts are expected to cost: on the vendor's bill, in no job's cost and not in `planned_usd`."""
        return sum((self._starts(line) * line.start_usd for line in self.pool), Decimal(0))

    def _starts(self, line: PoolLine) -> int:
        return max(0, min(line.slots, self.split.get(line.backend, 0)) - line.up)

    @property
    def complete(self) -> bool:
        """Whether the run made all it had planned, so that plan and outcome can be compared."""
        return self.made == self.jobs and self.jobs > 0


def values(forecast: Forecast, spent_before_usd: Decimal) -> dict[str, Any]:
    """A forecast as a row of `plans`."""
    return {
        "batch": forecast.batch,
        "planned_at": forecast.planned_at,
        "jobs": forecast.jobs,
        "planned_usd": forecast.planned_usd,
        "planned_s": forecast.planned_s,
        "split": json.dumps(forecast.split),
        "pool": json.dumps([line.model_dump(mode="json") for line in forecast.pool]),
        "deadline_s": forecast.deadline_s,
        "budget_usd": forecast.budget_usd,
        "spent_before_usd": spent_before_usd,
    }


def forecast(row: sa.Row[Any]) -> Forecast:
    """A row of `plans`."""
    return Forecast(
        batch=row.batch,
        planned_at=row.planned_at,
        jobs=row.jobs,
        planned_usd=row.planned_usd,
        planned_s=row.planned_s,
        split=json.loads(row.split),
        pool=tuple(PoolLine.model_validate(line) for line in json.loads(row.pool)),
        deadline_s=row.deadline_s,
        budget_usd=row.budget_usd,
        actual_usd=row.actual_usd,
        actual_s=row.actual_s,
        made=row.made,
    )
