"""A pod as the ledger knows it, and the life of a pod as one table (docs/pods.md shows it for people)."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any, Literal, get_args

import sqlalchemy as sa

from hybrid_video.errors import LedgerError
from hybrid_video.models import Model, Usd

PodState = Literal["intended", "creating", "starting", "ready", "draining", "closing", "closed", "failed"]
"""`creating` also holds creates whose answer was lost: the pod may exist."""

STATES: tuple[PodState, ...] = get_args(PodState)

MOVES: dict[PodState, frozenset[PodState]] = {
    "intended": frozenset({"creating", "failed"}),
    "creating": frozenset({"starting", "closing", "failed"}),
    "starting": frozenset({"ready", "draining", "closing", "closed"}),
    "ready": frozenset({"draining", "closing", "closed"}),
    "draining": frozenset({"ready", "closing", "closed"}),
    "closing": frozenset({"closed", "failed"}),
    "closed": frozenset({"closing"}),  # it was listed although it counted as gone
    "failed": frozenset({"closing"}),  # it exists although it never seemed to
}

ALIVE: frozenset[PodState] = frozenset(STATES) - {"closed", "failed"}
"""States that may cost money, and so count toward the maximum."""


class PodIntent(Model):
    """What is about to be opened, and where."""

    name: str
    gpu: str
    cloud: str
    data_center: str = ""
    price_usd_per_h: Usd
    storage_usd_per_h: Usd = Decimal(0)
    reserve_usd: Usd
    reason: str = ""
    batch: str = ""


class PodRecord(Model):
    """Every column of a pod's row.

    `batch` is the one it was opened for ("" for none in particular); `day` (UTC) is where its reservation counts;
    `booked_usd` what has been booked beyond its jobs' own charges; `cost_usd` what the whole pod cost by our clock,
    known once it is closed; `billed_usd` what RunPod's bill says.
    """

    name: str
    pod_id: str | None = None
    state: PodState
    gpu: str
    cloud: str
    data_center: str = ""
    price_usd_per_h: Usd
    storage_usd_per_h: Usd = Decimal(0)
    batch: str = ""
    day: str
    owner: str | None = None
    opened_because: str = ""
    closed_because: str = ""
    intended_at: datetime
    created_at: datetime | None = None
    ready_at: datetime | None = None
    busy_at: datetime | None = None
    lease_until: datetime | None = None
    closed_at: datetime | None = None
    reserved_usd: Usd = Decimal(0)
    booked_usd: Usd = Decimal(0)
    cost_usd: Usd | None = None
    billed_usd: Usd | None = None
    reconciled_at: datetime | None = None
    error: str = ""

    @property
    def alive(self) -> bool:
        """Whether it may cost money."""
        return self.state in ALIVE

    @property
    def lane(self) -> str:
        """Its lane's id in the backend `runpod-pod`; "" before RunPod has named it."""
        return f"runpod-pod/{self.pod_id}" if self.pod_id else ""

    @property
    def usd_per_h(self) -> Decimal:
        """GPU and container disk together."""
        return self.price_usd_per_h + self.storage_usd_per_h

    @property
    def billed_from(self) -> datetime:
        """When RunPod began to count: the answer to the create, or the call itself while there is none."""
        return self.created_at or self.intended_at


class PodEvent(Model):
    """One thing that happened to a pod."""

    pod: str
    at: datetime
    event: str
    detail: str = ""


def record(row: sa.Row[Any]) -> PodRecord:
    """A row of `pods`."""
    return PodRecord.model_validate(row._asdict())


def check_move(name: str, old: PodState, new: PodState) -> None:
    """Raises LedgerError unless the table allows the move (or it is no move at all)."""
    if new != old and new not in MOVES[old]:
        raise LedgerError(f"pod {name!r} cannot go from {old!r} to {new!r}; `hybrid-video pods list` shows its state")
