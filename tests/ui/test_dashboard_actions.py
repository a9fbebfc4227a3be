"""What the buttons of a batch do: cancel asks first and stops everything, run again goes through a real submission."""

from __future__ import annotations

import time

import pytest
from ui_rig import World, opened, text_of

from hybrid_video import submitting
from hybrid_video.models import JobState
from hybrid_video.settings import Settings
from hybrid_video.views import batch

pytestmark = pytest.mark.timeout(120)


def test_cancel_asks_before_it_does_anything(world: World) -> None:
    """The first press only opens a question with what it would mean; the browser's test presses yes."""
    world.batch(jobs=3)
    world.clip("shot-0", "0.02")
    app = opened("batches", batch="night")
    app.button(key="hv_cancel").click().run()
    assert "2 clips of night are not finished" in text_of(app)
    assert app.button(key="hv_cancel_yes")
    assert batch(world.ledger, "night").batch.jobs.pending == 2


def test_run_again_starts_a_real_run_and_shows_what_stopped_it(world: World) -> None:
    """Nothing is configured, so the run ends with a sentence, which is on the page."""
    world.batch(jobs=1)
    world.ledger.set_job_state("night", "shot-0", JobState.FAILED, error_kind="unreachable", error_message="gone")
    world.ledger.finish_batch("night")
    app = opened("batches", batch="night")
    app.button(key="hv_again").click().run()
    assert not app.exception
    settings = Settings.load()
    made = submitting.find(settings, "night")
    assert made is not None
    end_s = time.monotonic() + 60
    while submitting.status(made).state != "ended":
        assert time.monotonic() < end_s, submitting.log_tail(made)
        time.sleep(0.2)
    said = text_of(opened("batches", batch="night"))
    assert "no backend" in said


def test_buttons_that_would_do_nothing_are_off(world: World) -> None:
    """A finished batch can be neither cancelled nor made again; one without clips has nothing to download."""
    world.batch("done", jobs=1)
    world.clip("shot-0", "0.02", batch="done")
    world.ledger.finish_batch("done")
    app = opened("batches", batch="done")
    assert app.button(key="hv_cancel").disabled
    assert app.button(key="hv_again").disabled
    world.batch("empty", jobs=1)
    app = opened("batches", batch="empty")
    assert not app.button(key="hv_cancel").disabled
    assert {b.proto.label: b.proto.disabled for b in app.get("download_button")}["All clips (ZIP)"]


def test_long_lists_are_leafed_through_there_and_back(world: World) -> None:
    """Fifty jobs on a page: each of 120 is on exactly one, and back leads to the page before."""
    world.batch(jobs=120)
    app, pages = opened("jobs", batch="night"), []
    assert app.button(key="hv_back").disabled
    while True:
        pages.append(list(app.dataframe[0].value["job"]))
        if app.button(key="hv_on").disabled:
            break
        app.button(key="hv_on").click().run()
        assert not app.exception
    assert [len(page) for page in pages] == [50, 50, 20]
    assert sorted(job for page in pages for job in page) == sorted(f"shot-{n}" for n in range(120))
    app.button(key="hv_back").click().run()
    assert list(app.dataframe[0].value["job"]) == pages[1]
