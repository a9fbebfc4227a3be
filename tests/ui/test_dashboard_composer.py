"""Writing a batch: problems stand beside their field before anything is spent, and the estimate is the planner's."""

from __future__ import annotations

import tempfile

import pytest
from ui_rig import figures, opened, text_of

from hybrid_video.batchfile import parse_batch
from hybrid_video.calculating import estimate
from hybrid_video.pricing.quoting import Quoter
from hybrid_video.pricing.refresh import load_prices
from hybrid_video.pricing.timings import ServiceTimes
from hybrid_video.settings import Settings
from hybrid_video.wording import Words

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("configured", "world")]


def submit_shown(app: object) -> bool:
    """Whether the button that spends money is there."""
    return any(button.key == "hv_submit" for button in app.button)  # type: ignore[attr-defined]


def test_prompts_become_clips_with_an_estimate_and_a_button() -> None:
    """One line is one clip; cost and time are what the planner says for the configured tiers."""
    app = opened("batches")
    assert not submit_shown(app)
    app.text_area(key="hv_new_prompts").input("a harbour at dawn\n\na red kite\n").run()
    assert submit_shown(app)
    settings = Settings.load()
    shape = {"width": 832, "height": 480, "duration_s": 5.0, "workflow": "auto"}
    batch = parse_batch({"name": "x", "jobs": [{"id": f"s{n}", "prompt": "p", **shape} for n in (1, 2)]})
    expected = estimate(batch, settings, Quoter(load_prices("current", settings), ServiceTimes()))
    assert expected.plan is not None
    say = Words().amounts
    shown = figures(app)
    assert shown["Expected cost"] == say.usd(expected.plan.cost_usd)
    assert shown["Expected time"] == say.duration(expected.plan.duration_s)
    assert shown["All on Google"] == say.usd(expected.all_gemini.cost_usd)


@pytest.mark.parametrize("name", ["my batch", "../evil", "ä", "-x"])
def test_a_wrong_name_is_said_beside_it(name: str) -> None:
    """Names become files; what is wrong with one is said before anything is written."""
    app = opened("batches")
    app.text_area(key="hv_new_prompts").input("a harbour at dawn")
    app.text_input(key="hv_new_name").input(name).run()
    assert not app.exception
    assert "name" in app.error[0].value
    assert not submit_shown(app)


@pytest.mark.parametrize(
    ("key", "text"), [("hv_new_budget", "lots"), ("hv_new_deadline", "soon"), ("hv_new_deadline", "-3")]
)
def test_a_wrong_goal_is_said_beside_it(key: str, text: str) -> None:
    """Budget and deadline are checked as they are typed."""
    app = opened("batches")
    app.text_area(key="hv_new_prompts").input("a harbour at dawn")
    app.text_input(key=key).input(text).run()
    assert not app.exception
    assert repr(text) in app.error[0].value
    assert not submit_shown(app)


def test_a_deadline_that_cannot_be_kept_is_said_before_submitting() -> None:
    """The nearest plan is shown with a warning rather than a silent promise."""
    app = opened("batches")
    app.text_area(key="hv_new_prompts").input("\n".join(f"shot {n}" for n in range(200)))
    app.text_input(key="hv_new_deadline").input("0.2").run()
    assert "fastest plan" in app.warning[0].value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("jobs:\n  - id: a\n    promt: x\n", "promt"),
        ("name: x\njobs: []\n", "jobs"),
        ("[not yaml", "batch"),
        ("name: x\njobs:\n  - {id: a, prompt: ok, duration_s: 900}\n", "duration_s"),
    ],
)
def test_pasted_text_is_checked_like_a_file(text: str, said: str) -> None:
    """The same sentences as on the command line, with line and field, and without our folders."""
    app = opened("batches")
    app.segmented_control(key="hv_way").set_value("paste").run()
    app.text_area(key="hv_new_text").input(text).run()
    assert not app.exception
    errors = " ".join(error.value for error in app.error)
    assert said in errors
    assert tempfile.gettempdir() not in errors
    assert not submit_shown(app)


def test_pasted_text_without_a_problem_can_be_submitted() -> None:
    """YAML as in the examples."""
    app = opened("batches")
    app.segmented_control(key="hv_way").set_value("paste").run()
    app.text_area(key="hv_new_text").input("name: x\njobs:\n  - {id: a, prompt: ok}\n").run()
    assert submit_shown(app)


def test_without_a_permitted_backend_nothing_can_be_submitted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paid backends forbidden and no GPU: a warning with what to do, no button."""
    monkeypatch.delenv("HYBRID_VIDEO_COMFYUI_URLS")
    monkeypatch.setenv("HYBRID_VIDEO_ALLOW_CLOUD_FALLBACK", "false")
    app = opened("batches")
    app.text_area(key="hv_new_prompts").input("a harbour at dawn").run()
    assert "No configured backend" in app.warning[0].value
    assert not submit_shown(app)
    assert "Make 1 clips" not in text_of(app)
