"""System-wide preferences: stored above the environment's, checked field by field, and used by the next decision."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from hybrid_video import preferences
from hybrid_video.engine.fleet import Fleet
from hybrid_video.engine.prepare import prepare
from hybrid_video.engine.run import BatchRun
from hybrid_video.engine.selection import SelectionRequest, decide
from hybrid_video.engine.session import batch_run, opened
from hybrid_video.errors import InputError
from hybrid_video.history import History
from hybrid_video.ledger import Ledger, Owner
from hybrid_video.models import Batch, JobHandle, Tier, WorkOrder
from hybrid_video.settings import RoutingSettings, Settings, StorageSettings
from tests.unit.engine_rig import ScriptedBackend, small


@pytest.fixture
def ledger(ledger_url: str | Path):
    """An empty ledger."""
    ledger = Ledger.open(ledger_url)
    yield ledger
    ledger.close()


def test_without_changes_the_settings_are_the_environments_own(ledger: Ledger) -> None:
    """Nothing stored: the very same object comes back."""
    settings = Settings.load()
    assert preferences.applied(settings, ledger) is settings


def test_a_change_stands_above_the_environment_and_a_reset_returns_to_it(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each field stands for itself; null and reset give the environment's value back."""
    monkeypatch.setenv("HYBRID_VIDEO_BACKEND", "gemini")
    monkeypatch.setenv("HYBRID_VIDEO_DAILY_BUDGET_USD", "5")
    settings = Settings.load()
    preferences.change(ledger, settings, {"backend": "local", "monthly_cloud_budget_usd": "12.5", "max_pods": 2})
    applied = preferences.applied(settings, ledger)
    assert applied.routing.backend == "local"
    assert applied.routing.daily_budget_usd == Decimal(5)
    assert applied.routing.monthly_tier_budgets_usd == {Tier.CLOUD: Decimal("12.5")}
    assert applied.pods.max_pods == 2
    stored = preferences.change(ledger, settings, {"backend": None})
    assert set(stored.changed) == {"monthly_cloud_budget_usd", "max_pods"}
    assert preferences.applied(settings, ledger).routing.backend == "gemini"
    preferences.reset(ledger)
    assert preferences.applied(settings, ledger) is settings


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"backend": "mars"}, "backend: 'mars'"),
        ({"max_cost_per_job_usd": "-1"}, "greater than or equal to 0"),
        ({"max_cost_per_job_usd": "NaN"}, "max_cost_per_job_usd"),
        ({"max_pods": 101}, "max_pods: 101"),
        ({"prioritise_speed": True}, "did you mean 'prioritize_speed'?"),
        ({"daily_budget_usd": "a lot"}, "daily_budget_usd: 'a lot'"),
    ],
)
def test_a_wrong_field_is_refused_with_a_sentence_and_nothing_is_stored(
    ledger: Ledger, changes: dict[str, object], said: str
) -> None:
    """All or nothing: the right field beside the wrong one is not stored either."""
    with pytest.raises(InputError) as refused:
        preferences.change(ledger, Settings.load(), {"allow_cloud_fallback": False, **changes})
    assert said in str(refused.value)
    assert not preferences.load(ledger).changed


def test_weights_that_are_all_zero_together_with_stored_ones_are_refused(ledger: Ledger) -> None:
    """The check sees old changes and new ones as one."""
    settings = Settings.load()
    preferences.change(ledger, settings, {"weight_priority": 0, "weight_cost": 0})
    with pytest.raises(InputError, match="all 0"):
        preferences.change(ledger, settings, {"weight_speed": 0, "weight_queue": 0})
    assert set(preferences.load(ledger).changed) == {"weight_priority", "weight_cost"}


async def test_a_changed_preference_changes_the_next_decision(ledger: Ledger, tmp_path: Path) -> None:
    """The same job on the same backends: free and local first, Google once it is preferred, nothing above a limit."""

    async def chosen(settings: Settings) -> str | None:
        fleet = Fleet({"comfyui": ScriptedBackend("comfyui"), "gemini": ScriptedBackend("gemini", usd="0.08")})
        batch = Batch(name="film", jobs=(small(),))
        prepared = await prepare(batch, base_dir=tmp_path, out_dir=tmp_path / "out", settings=settings, fleet=fleet)
        return decide(SelectionRequest(shot=prepared.shots[0], attempt=1)).chosen

    settings = Settings.load()
    assert await chosen(preferences.applied(settings, ledger)) == "comfyui"
    preferences.change(ledger, settings, {"backend": "gemini"})
    assert await chosen(preferences.applied(settings, ledger)) == "gemini"
    preferences.change(ledger, settings, {"max_cost_per_job_usd": "0.01"})
    assert await chosen(preferences.applied(settings, ledger)) == "comfyui"


def test_a_value_that_a_newer_version_stored_is_left_out(ledger: Ledger) -> None:
    """A downgrade must not end every run."""
    settings = Settings.load()
    preferences.change(ledger, settings, {"backend": "local"})
    with ledger.writing() as connection:
        connection.exec_driver_sql("update preferences set document = '\"moon\"'")
    assert preferences.applied(settings, ledger) is settings


def test_settings_follow_later_changes(ledger: Ledger) -> None:
    """What was applied once can be applied again: a change and a reset are both seen."""
    settings = Settings.load()
    preferences.change(ledger, settings, {"daily_budget_usd": "3"})
    first = preferences.applied(settings, ledger)
    preferences.change(ledger, settings, {"daily_budget_usd": "2"})
    second = preferences.applied(first, ledger)
    assert (first.routing.daily_budget_usd, second.routing.daily_budget_usd) == (Decimal(3), Decimal(2))
    preferences.reset(ledger)
    assert preferences.applied(second, ledger) is settings


async def test_a_limit_that_is_lowered_holds_for_a_batch_that_is_running(tmp_path: Path) -> None:
    """The engine asks before each attempt: after the second clip of four the day's budget is full."""
    settings = Settings(
        routing=RoutingSettings(retry_base_s=0.01, backend_patience_s=0.2), storage=StorageSettings(home=tmp_path)
    )
    ledger, owner = Ledger.open(settings.storage.ledger_path), Owner(tmp_path)

    class Changing(ScriptedBackend):
        async def submit(self, order: WorkOrder) -> JobHandle:
            if len(self.sent) == 1:
                preferences.change(ledger, settings, {"daily_budget_usd": "0.20"})
            return await super().submit(order)

    fleet = Fleet({"gemini": Changing("gemini", usd="0.10")})
    batch = Batch(name="film", jobs=tuple(small(f"shot-{number}") for number in range(4)))
    prepared = await prepare(batch, base_dir=tmp_path, out_dir=tmp_path / "out", settings=settings, fleet=fleet)
    history = History(settings.storage.history_path)
    report = await BatchRun(prepared, settings=settings, ledger=ledger, history=history, owner=owner).run()
    assert (report.completed, report.cost_usd) == (2, Decimal("0.20"))
    assert {line.kind for line in report.errors} == {"limit"}
    assert "daily budget" in report.errors[0].message
    await fleet.close()
    owner.close()
    ledger.close()


async def test_every_run_uses_what_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way that the command line and the flow go, from the ledger to the first refusal."""
    monkeypatch.setenv("GEMINI_API_KEY", "a-key-that-is-never-used")
    monkeypatch.setenv("HYBRID_VIDEO_GEMINI_URL", "http://127.0.0.1:9")
    settings = Settings.load()
    with opened(settings) as (ledger, _history):
        preferences.change(ledger, settings, {"max_cost_per_job_usd": "0"})
    shot = small(width=1280, height=720, duration_s=3)
    with pytest.raises(InputError, match=r"over the limit of \$0"):
        async with batch_run(Batch(name="film", jobs=(shot,)), settings=settings, base_dir=tmp_path):
            pass
