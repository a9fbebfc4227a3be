"""The install page's one click in a real browser: a whole installation, followed by the page to its end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from test_dashboard_browser import CHROMIUM, FLAGS, PATIENCE_MS, Served, keep
from test_dashboard_browser import pytestmark as in_a_browser

from hybrid_video.installer.installation import Installation
from tests.install.install_rig import FileServer, Rig

pytestmark = [*in_a_browser, pytest.mark.xdist_group("installation")]

VARIABLES = {"folder": "DIR"}
"""Options whose variable has another name."""


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    """A machine on which nothing is installed; what to install and from where stands in the environment."""
    server, root = FileServer(), tmp_path / "machine"
    root.mkdir()
    rig = Rig(root, server)
    rig.enter(monkeypatch)
    for name, value in rig.options().items():
        monkeypatch.setenv(f"HYBRID_VIDEO_INSTALL_{VARIABLES.get(name, name).upper()}", str(value))
    yield rig
    rig.close()
    server.close()


@pytest.fixture
def page(rig: Rig, tmp_path: Path) -> Iterator[Any]:
    """The install page in a browser."""
    playwright = pytest.importorskip("playwright.sync_api")
    dashboard = Served({}, tmp_path)
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        opened = browser.new_context(viewport={"width": 1360, "height": 1200}).new_page()
        opened.set_default_timeout(PATIENCE_MS)
        opened.goto(f"{dashboard.url}/install")
        yield opened
        keep(opened, "one-click-end")
        browser.close()
    dashboard.stop()


def test_one_click_installs_a_comfyui_that_answers(page: Any, rig: Rig) -> None:
    """Plan, confirmation, the steps of the installer's own process as they go, and in the end its address."""
    page.get_by_role("button", name="Install ComfyUI").click()
    page.get_by_role("dialog").get_by_text(str(rig.folder)).first.wait_for()
    keep(page, "one-click-plan")
    page.get_by_role("dialog").get_by_role("button", name="Do it").click()
    page.get_by_text("Fetch ComfyUI").first.wait_for()
    keep(page, "one-click-running")
    page.get_by_text(f"ComfyUI is ready at http://127.0.0.1:{rig.port}").first.wait_for()
    status = Installation().status()
    assert (status.installed, status.answers, status.version) == (True, True, "1.0.0")
    assert httpx.get(f"{status.url}/prompt").status_code == 200
    assert {step.status for step in Installation().state().steps} <= {"done", "skipped"}
