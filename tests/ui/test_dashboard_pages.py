"""Every page in every state: what it says with nothing there, with everything locked, and with wrong settings."""

from __future__ import annotations

from decimal import Decimal

import duckdb
import pytest
from filelock import FileLock
from ui_rig import PAGES, World, figures, opened, text_of

from hybrid_video import preferences
from hybrid_video.models import JobState
from hybrid_video.settings import Settings
from hybrid_video.wording import Words

pytestmark = pytest.mark.timeout(120)


@pytest.mark.parametrize("page", PAGES)
def test_a_fresh_installation_shows_every_page(page: str) -> None:
    """No ledger, no backend, no batch: a sentence with the next step, never an error."""
    app = opened(page)
    assert not app.exception
    assert not app.error
    assert app.title[0].value == Words()(f"{page}.title")


def test_without_any_backend_the_overview_says_what_to_set_up() -> None:
    """Not configured is a designed state with a way out."""
    said = text_of(opened())
    assert "No backend is configured yet" in said
    assert "hybrid-video demo" in said


@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize("page", ["overview", "batches", "jobs", "analytics"])
def test_with_backends_and_no_batch_a_page_invites_to_make_one(page: str) -> None:
    """Nothing yet is a designed state with the way to the first batch."""
    assert "Nothing made yet" in text_of(opened(page))


@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize("page", PAGES)
def test_with_batches_every_page_is_whole(page: str, world: World) -> None:
    """Clips, failures, money under way: no page fails on any of it."""
    world.batch(jobs=4)
    world.failure("shot-0", "0.001")
    world.clip("shot-1", "0.02")
    world.clip("shot-2", "0.35", backend="gemini")
    world.under_way("shot-3", "0.05")
    app = opened(page)
    assert not app.exception
    assert not app.error
    assert "could not be shown" not in text_of(app)


@pytest.mark.parametrize("page", PAGES)
def test_every_page_speaks_thai(page: str, world: World) -> None:
    """The language is part of the address, and no English title is left."""
    world.batch()
    world.clip("shot-0", "0.02")
    app = opened(page, lang="th")
    assert not app.exception
    assert app.title[0].value == Words("th")(f"{page}.title")
    assert app.title[0].value != Words("en")(f"{page}.title")


@pytest.mark.parametrize("page", ["overview", "analytics"])
def test_a_locked_history_is_said_and_not_a_traceback(page: str, world: World) -> None:
    """Another process holds the history: a designed state with a way to try again."""
    world.batch()
    world.clip("shot-0", "0.02")
    path = Settings.load().storage.history_path
    with FileLock(path.with_suffix(".lock")):
        app = opened(page)
    assert not app.exception
    said = text_of(app)
    assert "Somebody else is writing just now" in said
    assert "Try again" in said


def test_a_history_that_another_program_holds_open_is_said(world: World) -> None:
    """DuckDB refuses a second process; whoever looks is told, and sees the rest of the page."""
    world.batch()
    world.clip("shot-0", "0.02")
    path = Settings.load().storage.history_path
    path.write_bytes(b"this is no database")
    app = opened()
    assert not app.exception
    said = text_of(app)
    assert "Somebody else is writing" in said
    assert "ledger rebuild-history" in said
    assert figures(app)["Done today"] == "1"
    with pytest.raises(duckdb.Error):
        duckdb.connect(str(path))


@pytest.mark.parametrize("page", PAGES)
def test_a_wrong_setting_is_a_sentence_on_every_page(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It names the variable and its value, and nothing else is shown."""
    monkeypatch.setenv("HYBRID_VIDEO_MAX_ATTEMPTS", "many")
    app = opened("overview")
    assert not app.exception
    said = text_of(app)
    assert "HYBRID_VIDEO_MAX_ATTEMPTS" in said
    assert "'many'" in said
    assert page  # every address ends here: the router refuses before any page


def test_filters_that_leave_nothing_say_so(world: World) -> None:
    """No rows is a designed state of its own."""
    world.batch()
    world.clip("shot-0", "0.02", backend="runpod-serverless")
    app = opened("analytics", tiers="gemini")
    assert "Nothing matches" in text_of(app)


def test_an_unknown_batch_in_the_address_is_said(world: World) -> None:
    """An old link does not end in a traceback, and the nearest name is offered."""
    world.batch("night")
    app = opened("batches", batch="nihgt")
    assert not app.exception
    assert "did you mean 'night'" in text_of(app)


def test_markup_and_secrets_in_a_ledger_are_shown_as_text(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What vendors and users wrote cannot become markup or a leak."""
    monkeypatch.setenv("GEMINI_API_KEY", "AIzaSySECRETSECRETSECRET")
    world.batch()
    world.failure("shot-0", "0")
    world.ledger.set_job_state(
        "night",
        "shot-0",
        JobState.FAILED,
        error_kind="vendor_error",
        error_message="<script>alert(1)</script> **bold** key=AIzaSySECRETSECRETSECRET",
    )
    app = opened("jobs", batch="night", job="shot-0")
    assert not app.exception
    errors = " ".join(error.value for error in app.error)
    assert "AIzaSySECRET" not in errors
    assert "<script>" not in errors
    assert "**bold**" not in errors
    assert r"\<script\>" in errors


def test_a_password_hides_everything_until_it_is_given(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    """Nobody sees a figure or a page name before signing in; a wrong word is a sentence."""
    monkeypatch.setenv("HYBRID_VIDEO_DASHBOARD_PASSWORD", "a-long-password")
    world.batch("secret-film")
    world.clip("shot-0", "0.02", batch="secret-film")
    app = opened()
    assert "secret-film" not in text_of(app)
    assert not figures(app)
    app.text_input[0].input("guess")
    app.button[0].click().run()
    assert "That is not the password" in app.error[0].value
    assert not figures(app)
    app.text_input[0].input("a-long-password")
    app.button[0].click().run()
    assert figures(app)["Done today"] == "1"


def test_guessing_passwords_costs_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """After three wrong ones even the right one has to wait."""
    monkeypatch.setenv("HYBRID_VIDEO_DASHBOARD_PASSWORD", "a-long-password")
    app = opened()
    for guess in ("one", "two", "three", "a-long-password"):
        app.text_input[0].input(guess)
        app.button[0].click().run()
    assert "Too many wrong passwords" in app.error[0].value
    assert not app.title or app.title[0].value != "Overview"


@pytest.mark.usefixtures("configured")
def test_a_preference_is_saved_shown_and_reset(world: World) -> None:
    """The page writes what every run reads, says what was changed, and gives it back."""
    app = opened("backends", tab="preferences")
    app.text_input(key="pref_daily_budget_usd_0").input("7.50").run()
    app.button(key="hv_save").click().run()
    assert not app.exception
    assert preferences.load(world.ledger).routing.daily_budget_usd == Decimal("7.5")
    assert "Per day" in " ".join(caption.value for caption in app.caption)
    app.button(key="hv_reset").click().run()
    assert preferences.load(world.ledger).routing.daily_budget_usd is None


@pytest.mark.usefixtures("configured", "world")
@pytest.mark.parametrize("text", ["cheap", "-1", "1e99", "NaN", "4.60 euro"])
def test_a_wrong_amount_gets_a_sentence_beside_its_field(text: str, world: World) -> None:
    """It names what was typed, nothing is saved, and the button waits."""
    app = opened("backends", tab="preferences")
    app.text_input(key="pref_monthly_budget_usd_0").input(text).run()
    assert not app.exception
    assert repr(text) in app.error[0].value
    assert app.button(key="hv_save").disabled
    assert preferences.load(world.ledger).routing.monthly_budget_usd is None


@pytest.mark.usefixtures("configured", "world")
def test_weights_of_zero_are_refused_beside_the_sliders() -> None:
    """Nothing would decide any more."""
    app = opened("backends", tab="preferences")
    for name in ("priority", "cost", "speed", "queue"):
        app.slider(key=f"pref_weight_{name}_0").set_value(0.0)
    app.run()
    assert "nothing would decide" in app.error[0].value
    assert app.button(key="hv_save").disabled
