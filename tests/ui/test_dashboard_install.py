"""The install page: what it says of the machine is the installer's check, and progress is what the installer wrote."""

from __future__ import annotations

from pathlib import Path

import pytest
from ui_rig import figures, opened, text_of

from hybrid_video.installer.installation import Installation
from hybrid_video.installer.journal import FileState, InstallState, Journal, StepState

pytestmark = pytest.mark.timeout(120)


def write_state(state: InstallState) -> None:
    """What an installer of another process would have left."""
    folder = Installation().layout.progress
    folder.mkdir(parents=True, exist_ok=True)
    Path(folder, "state.json").write_text(state.model_dump_json(), encoding="utf-8")


def test_the_machine_is_what_the_installer_found() -> None:
    """Memory, disk and every bundle with its verdict, none of them made up by the page."""
    check = Installation().check()
    app = opened("install")
    assert not app.exception
    shown, said = figures(app), text_of(app)
    assert shown["Memory"] == f"{check.machine.memory_gb:g} GB"
    assert shown["Python"] == check.machine.python
    for verdict in check.verdicts:
        assert verdict.title in said
    assert app.selectbox(key="hv_bundle").value == check.recommended


def test_without_an_installation_no_progress_is_shown() -> None:
    """Nothing runs, so nothing moves."""
    said = text_of(opened("install"))
    assert "Installing" not in said
    assert "%" not in said


def test_a_running_installation_shows_its_own_bytes() -> None:
    """Share, steps and files of the installer's state; a page that is opened later sees the same."""
    state = InstallState(
        status="running",
        action="install",
        steps=(
            StepState(id="check", title="Look at the machine", status="done", seconds=1.5),
            StepState(id="models", title="Download models", status="running"),
        ),
        files=(FileState(file="wan.safetensors", status="running", bytes_done=250_000_000, bytes_total=1_000_000_000),),
    )
    log = Journal(Installation().layout.progress)
    with log.session("install", state.steps, {}):
        write_state(state)
        said = text_of(opened("install"))
        write_state(
            state.model_copy(update={"files": (state.files[0].model_copy(update={"bytes_done": 500_000_000}),)})
        )
        later = text_of(opened("install"))
    assert "250 MB / 1.0 GB" in said
    assert "62 %" in said  # one of two steps, and a quarter of the other
    assert "Look at the machine" in said
    assert "500 MB / 1.0 GB" in later
    assert "75 %" in later


def test_a_failed_installation_says_why_and_offers_to_go_on() -> None:
    """The installer's sentence and a button that resumes."""
    write_state(
        InstallState(
            status="failed",
            action="install",
            steps=(StepState(id="models", title="Download models", status="failed"),),
            message="wan.safetensors has the wrong hash",
            remedy="run it again",
        )
    )
    app = opened("install")
    assert "wan.safetensors has the wrong hash" in text_of(app)
    assert app.button(key="hv_resume")


def test_the_plan_is_shown_before_anything_is_done() -> None:
    """Pressing install opens the list of steps; nothing has been written."""
    app = opened("install")
    app.button(key="hv_install").click().run()
    assert not app.exception
    said = text_of(app)
    for step in Installation({"bundles": (app.selectbox(key="hv_bundle").value,)}).plan():
        assert step.title in said
    assert Installation().state().status == "none"
    assert Installation().receipt is None


@pytest.mark.usefixtures("configured")
def test_the_system_check_really_looks() -> None:
    """Backends that do not answer are found, each with a remedy."""
    app = opened("install")
    app.button(key="hv_examine").click().run(timeout=60)
    said = text_of(app)
    assert "ledger" in said
    assert "comfyui" in said
    assert "127.0.0.1" in said
