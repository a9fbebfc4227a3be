"""The figures of a day, as they are shown, stored and sent."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal

from pydantic import Field

from hybrid_video.models import Model
from hybrid_video.views.figures import Money


class SpendLine(Model):
    """One backend, batch or workflow. The cost counts failed attempts and rented pods too."""

    name: str
    attempts: int = 0
    clips: int = 0
    failed: int = 0
    cost_usd: Money = Decimal(0)
    quoted_usd: Money = Field(Decimal(0), description="What its finished clips were quoted at.")

    @property
    def usd_per_clip(self) -> Decimal | None:
        """Everything it cost, by clip; None without one."""
        return self.cost_usd / self.clips if self.clips else None


class GoogleLine(Model):
    """What the same clips would have come to on Google alone, in money and time."""

    model: str
    clips: int
    cost_usd: Money
    duration_s: float
    saved_usd: Money = Field(description="Negative where the day cost more than Google alone.")
    longer_s: float = Field(description="How much longer the clips took than on Google alone.")

    @property
    def saved_share(self) -> float | None:
        """The saving as a share of Google's price."""
        return float(self.saved_usd / self.cost_usd) if self.cost_usd else None


class ErrorLine(Model):
    """Attempts that ended without a clip, for one reason on one backend."""

    kind: str
    backend: str
    attempts: int
    cost_usd: Money


class FailoverLine(Model):
    """Jobs that went from one backend to another."""

    away_from: str
    went_to: str
    jobs: int


class BreakerLine(Model):
    """A backend that was left alone for a while after failures."""

    backend: str
    model: str
    openings: int
    open_now: bool
    last_error: str


class UncertainLine(Model):
    """An attempt that may have been paid for; nobody can say yet."""

    batch: str
    job: str
    backend: str
    reserved_usd: Money
    since: datetime
    what_to_do: str


class BudgetLine(Model):
    """A limit and what is left of it."""

    name: str
    cap_usd: Money
    settled_usd: Money
    reserved_usd: Money

    @property
    def left_usd(self) -> Decimal:
        """What may still be reserved."""
        return self.cap_usd - self.settled_usd - self.reserved_usd


class BillLine(Model):
    """A vendor's bill beside our own figure."""

    what: str
    billed_usd: Money
    ledger_usd: Money

    @property
    def difference_usd(self) -> Decimal:
        """What the vendor bills beyond it."""
        return self.billed_usd - self.ledger_usd


class PodDay(Model):
    """Rented pods on the day, and now."""

    opened: int = 0
    closed: int = 0
    overhead_usd: Money = Field(
        Decimal(0), description="Start-up, idle time and storage: beyond the jobs' own seconds."
    )
    open_now: int = 0
    usd_per_h_now: Money = Decimal(0)


class Hour(Model):
    """One hour of the day, by the studio's clock; an hour that the clock shows twice is one line."""

    hour: int
    clips: int
    cost_usd: Money


class DayLine(Model):
    """One of the days before, for comparison."""

    day: date
    clips: int
    cost_usd: Money


class DailyReport(Model):
    """The whole day."""

    day: date
    zone: str
    since: datetime
    until: datetime
    made_at: datetime
    simulated: bool = False
    cost_usd: Money
    attempts: int
    clips: int
    failed: int = Field(description="Attempts that ended without a clip.")
    jobs_failed: int = Field(description="Jobs given up on the day and not made since.")
    jobs_cancelled: int
    quoted_usd: Money = Field(description="What the finished clips were quoted at.")
    clips_usd: Money = Field(description="What the attempts that made them cost.")
    elapsed_s: float = Field(description="Time in which at least one clip was being made.")
    by_backend: tuple[SpendLine, ...]
    by_batch: tuple[SpendLine, ...]
    by_workflow: tuple[SpendLine, ...]
    google: GoogleLine | None
    errors: tuple[ErrorLine, ...]
    failovers: tuple[FailoverLine, ...]
    breakers: tuple[BreakerLine, ...]
    open_attempts: int
    reserved_usd: Money
    uncertain: tuple[UncertainLine, ...]
    budgets: tuple[BudgetLine, ...]
    pods: PodDay
    bills: tuple[BillLine, ...]
    hours: tuple[Hour, ...]
    days: tuple[DayLine, ...]
    notices: tuple[str, ...] = ()

    @property
    def over(self) -> bool:
        """Whether the day has ended; else the figures are those so far."""
        return self.made_at >= self.until

    @property
    def usd_per_clip(self) -> Decimal | None:
        """Everything the day cost, by finished clip."""
        return self.cost_usd / self.clips if self.clips else None
