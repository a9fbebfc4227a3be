"""Limits while a batch runs: reservations that grow with the clock, caps per tier, breakers that open and close."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

import pytest

from hybrid_video.backends.base import CancelOutcome, ProgressCallback
from hybrid_video.engine import attempts, breaker
from hybrid_video.errors import BackendError, FailureKind, TransientError
from hybrid_video.ledger import Ledger
from hybrid_video.ledger.verify import verify
from hybrid_video.models import CostEntry, JobHandle, JobStatus, Preferences, Quote, Refusal, VideoJob
from hybrid_video.settings import RoutingSettings
from tests.unit.engine_rig import ScriptedBackend, ran, small

QUICK = {"retry_base_s": 0.01, "backend_patience_s": 0.2}


@dataclass
class MeteredBackend(ScriptedBackend):
    """Bills a dollar a second, expects half a second, reserves a dollar, and really runs for `runs_s`."""

    runs_s: float = 0.0
    held: list[Decimal] = field(default_factory=list)
    cancelled: int = 0
    ledger_path: Path | None = None

    def quote(self, job: VideoJob, *, workflow_path: Path | None = None) -> Quote | Refusal:
        quote = super().quote(job)
        assert isinstance(quote, Quote)
        update = {"rate_usd_per_s": Decimal(1), "reserve_usd": Decimal(1), "amount_usd": Decimal("0.5")}
        return quote.model_copy(update=update)

    async def watch(self, handle: JobHandle, on_progress: ProgressCallback | None = None) -> JobStatus:
        status = await super().watch(handle, on_progress)
        assert self.ledger_path is not None
        ledger = Ledger.open(self.ledger_path)
        try:
            for _ in range(round(self.runs_s * 10)):
                await asyncio.sleep(0.1)
                self.held.append(ledger.balance("all").reserved_usd)
        finally:
            ledger.close()
        return status.model_copy(update={"execution_s": self.runs_s})

    async def cancel(self, handle: JobHandle) -> CancelOutcome:
        self.cancelled += 1
        return "stopped"

    def charge(self, quote: Quote, status: JobStatus | None, failure: BackendError | None = None) -> CostEntry:
        ran_s = failure.execution_s if failure is not None else status.execution_s if status is not None else None
        amount = Decimal(str(round(ran_s or 0.0, 3)))
        return CostEntry(amount_usd=amount, basis="metered", source="metered")


@pytest.fixture(autouse=True)
def _quick_meter(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look at the meter every 0.1 s instead of every second."""
    monkeypatch.setattr(attempts, "METER_S", 0.1)


async def test_the_reservation_stays_ahead_of_a_job_that_runs_longer_than_expected(tmp_path: Path) -> None:
    """A dollar is reserved, 2.5 s cost 2.50: what is held never falls behind what has been used up."""
    backend = MeteredBackend("runpod-serverless", runs_s=2.5, ledger_path=tmp_path / "ledger.sqlite3")
    async with ran([backend], tmp_path) as outcome:
        assert outcome.report.completed == 1
        assert outcome.report.cost_usd == Decimal("2.5")
        assert verify(outcome.ledger).ok
        assert outcome.ledger.balance("all").reserved_usd == 0
    assert backend.held[0] == 1
    assert all(held >= Decimal(number) / 10 for number, held in enumerate(backend.held))


async def test_a_job_that_would_cross_its_budget_is_stopped(tmp_path: Path) -> None:
    """With $1.60 a job that runs on is cancelled before the money is used up, and fails with kind limit."""
    backend = MeteredBackend("runpod-serverless", runs_s=5, ledger_path=tmp_path / "ledger.sqlite3")
    async with ran([backend], tmp_path, budget_usd=Decimal("1.6")) as outcome:
        [line] = outcome.report.errors
        assert line.kind == "limit"
        assert "budget" in line.message
        assert backend.cancelled == 1
        assert Decimal("0.8") < outcome.report.cost_usd <= Decimal("1.6")
        assert verify(outcome.ledger).ok
        assert outcome.report.exit_code == 3
    assert max(backend.held) <= Decimal("1.6")


async def test_a_tier_at_its_monthly_cap_leaves_the_rest_to_the_others(tmp_path: Path) -> None:
    """Two cents a month for the cloud are two jobs of a cent; the other four go to the local GPU, none fails."""
    cloud, local = ScriptedBackend("runpod-serverless", usd="0.01"), ScriptedBackend("comfyui")
    routing = RoutingSettings(monthly_tier_budgets_usd={"cloud": "0.02"}, **QUICK)
    jobs = tuple(small(f"s{n}", preferences=Preferences(backend="cloud")) for n in range(6))
    async with ran([cloud, local], tmp_path, jobs, routing) as outcome:
        made = {tier: line.jobs for tier, line in outcome.report.by_backend.items()}
        assert made == {"cloud": 2, "local": 4}
        assert outcome.report.cost_usd == Decimal("0.02")


async def test_a_tier_without_money_and_without_an_alternative_fails_by_the_limit(tmp_path: Path) -> None:
    """Exit 3 and the name of the cap, nothing sent."""
    cloud = ScriptedBackend("runpod-serverless", usd="0.01")
    routing = RoutingSettings(monthly_tier_budgets_usd={"cloud": 0}, **QUICK)
    async with ran([cloud], tmp_path, routing=routing) as outcome:
        assert outcome.report.exit_code == 3
        assert "monthly budget for cloud" in outcome.report.errors[0].message
    assert not cloud.sent


def unreachable(key: str) -> TransientError:
    """The backend's fault."""
    return TransientError("went away", kind=FailureKind.UNREACHABLE, backend=key)


async def test_a_broken_backend_is_left_within_one_job_after_its_breaker_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve jobs, a free backend that always fails: three failures open the breaker, one more job may follow."""
    monkeypatch.setattr(breaker, "OPEN_S", 4.0)  # the cheap backend's first rest is waited for, its second is not
    broken = ScriptedBackend("comfyui", fails_always=unreachable("comfyui"))
    sound = ScriptedBackend("runpod-serverless", usd="0.01", slots=2)
    async with ran([broken, sound], tmp_path, tuple(small(f"s{n}") for n in range(12))) as outcome:
        assert outcome.report.completed == 12
    assert len(broken.sent) <= breaker.FAILURES_TO_OPEN + 1


async def test_a_healed_backend_is_used_again_after_one_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After its rest one trial job goes there; when that succeeds, the others follow."""
    monkeypatch.setattr(breaker, "OPEN_S", 0.3)
    healed = ScriptedBackend("comfyui", fail_watch=[unreachable("comfyui") for _ in range(breaker.FAILURES_TO_OPEN)])
    dear = ScriptedBackend("runpod-serverless", usd="5", service_s=0.2)
    jobs = tuple(small(f"s{n}") for n in range(10))
    routing = RoutingSettings(value_of_time_usd_per_h=0, **QUICK)
    async with ran([healed, dear], tmp_path, jobs, routing) as outcome:
        assert outcome.report.completed == 10
        local = outcome.report.by_backend["local"]
    assert local.attempts - local.jobs == breaker.FAILURES_TO_OPEN, "the trial and all after it succeeded"
    assert local.jobs >= 5
