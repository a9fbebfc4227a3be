"""System-wide preferences: stored above the environment's, checked field by field, and used by the next decision."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from hybrid_video import preferences
from hybrid_video.engine.fleet import Fleet
from hybrid_video.engine.prepare import prepare
from hybrid_video.engine.selection import SelectionRequest, decide
from hybrid_video.errors import InputError
from hybrid_video.ledger import Ledger
from hybrid_video.models import Batch, Tier
from hybrid_video.settings import Settings
from tests.unit.engine_rig import ScriptedBackend, small


@pytest.fixture
def ledger(tmp_path: Path):
    """An empty ledger."""
    ledger = Ledger.open(tmp_path / "ledger.sqlite3")
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
