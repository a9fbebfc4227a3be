"""The real dashboard in a real browser: from the form to a playing clip, and a preference that changes a decision.

Servers are the emulators and `hybrid-video dashboard`, each a process or thread of its own; nothing is patched.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest
from ui_rig import ROOT, World, find_chromium

from hybrid_video.cli.demo import running_farm
from hybrid_video.emulators.farm import FarmOptions
from hybrid_video.models import JobState, Tier
from hybrid_video.views import batch as batch_view
from hybrid_video.views import job as job_view
from hybrid_video.views import jobs as jobs_view
from hybrid_video.views import pods as pods_view

CHROMIUM = find_chromium()
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SHOTS = ROOT / "test-output" / "dashboard"
PATIENCE_MS = 60_000
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(CHROMIUM is None and not os.environ.get("CI"), reason="no Chromium on this machine"),
]


class Served:
    """A running dashboard."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self._log = folder / "dashboard.log"
        command = [sys.executable, "-m", "hybrid_video", "dashboard", "--port", "0"]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                command, env={**os.environ, **environment}, stdout=log, stderr=log, cwd=folder, start_new_session=True
            )
        self.url = self._address()

    def _address(self) -> str:
        end_s = time.monotonic() + 60
        while time.monotonic() < end_s:
            found = re.search(r"dashboard: (http://[\d.:]+)", self.said())
            if found:
                return found[1]
            assert self.process.poll() is None, self.said()
            time.sleep(0.1)
        raise AssertionError(f"the dashboard did not start: {self.said()}")

    def said(self) -> str:
        """Its log."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def stop(self) -> int:
        """Ends it as Ctrl-C does."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Emulators of all three tiers, and the variables that point at them."""
    options = FarmOptions(time_scale=20, service_s={Tier.LOCAL: 10, Tier.CLOUD: 16, Tier.GEMINI: 10}, cold_start_s=4.0)
    with running_farm(options) as farm:
        yield {
            **farm.environment(),
            "HYBRID_VIDEO_SIMULATED": "true",
            "HYBRID_VIDEO_TIME_SCALE": "20",
            "HYBRID_VIDEO_COMFYUI_POLL_INTERVAL_S": "0.1",
            "HYBRID_VIDEO_RUNPOD_POLL_INTERVAL_S": "0.1",
            "HYBRID_VIDEO_GEMINI_POLL_INTERVAL_S": "0.1",
            "HYBRID_VIDEO_GEMINI_RESOLUTION": "360p",
            "HYBRID_VIDEO_MIN_FREE_DISK_MB": "50",
            "HYBRID_VIDEO_PODS_IMAGE": "example/comfyui-pod:1",  # pods can be opened; their emulator serves any image
            "HYBRID_VIDEO_HOME": str(tmp_path_factory.mktemp("home")),
        }


@pytest.fixture(scope="module")
def dashboard(emulated: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One dashboard for all of them, on one home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PREFECT_API_URL", raising=False)
        started = Served(emulated, tmp_path_factory.mktemp("dashboard"))
    yield started
    if started.process.poll() is None:
        started.stop()


@pytest.fixture
def served(dashboard: Served, emulated: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Served:
    """The dashboard, with its settings in the environment of the test too."""
    for name, value in emulated.items():
        monkeypatch.setenv(name, value)
    return dashboard


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One browser for all of them."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def page(served: Served, browser: Any) -> Iterator[Any]:
    """A page without cookies of another; a picture of it is kept when the test ends."""
    context = browser.new_context(viewport={"width": 1360, "height": 1000}, locale="en-GB")
    opened = context.new_page()
    opened.set_default_timeout(PATIENCE_MS)
    yield opened
    keep(opened, "at-the-end")
    context.close()


@pytest.fixture
def world(served: Served) -> Iterator[World]:
    """The ledger beside it."""
    made = World.open()
    yield made
    made.close()


def keep(page: Any, name: str) -> None:
    """Keeps a picture as an output of the run."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=str(SHOTS / f"{name}.png"), full_page=True)


def write_batch(page: Any, served: Served, name: str, prompts: str) -> None:
    """Fills in the form and waits for the button that spends."""
    page.goto(f"{served.url}/batches?new=1")
    page.get_by_role("textbox", name="Name", exact=True).wait_for()
    page.get_by_role("textbox", name="Name", exact=True).fill(name)
    page.get_by_role("textbox", name="Prompts, one per line").fill(prompts)
    page.keyboard.press("Control+Enter")
    page.get_by_role("button", name=re.compile(r"Make \d+ clips")).wait_for()


def submit(page: Any) -> None:
    """Presses it."""
    page.get_by_role("button", name=re.compile(r"Make \d+ clips")).click()


def finished(world: World, name: str) -> bool:
    """Whether the ledger says that every clip is made."""
    try:
        return batch_view(world.ledger, name).batch.jobs.done == batch_view(world.ledger, name).batch.jobs.total
    except Exception:
        return False


def wait_until_finished(page: Any, world: World, name: str) -> None:
    """Waits while the page goes on living."""
    end_s = time.monotonic() + 120
    while not finished(world, name):
        assert time.monotonic() < end_s, "the batch did not finish"
        page.wait_for_timeout(300)


def test_a_batch_goes_from_the_form_to_a_playing_clip(page: Any, served: Served, world: World) -> None:
    """Submitted in the browser; the page follows by itself to playable clips, spend and charts, without a reload."""
    write_batch(page, served, "browser-film", "a harbour at dawn\na red kite above wheat\na paper boat")
    keep(page, "1-estimate")
    submit(page)
    page.get_by_text("Progress, money and clips of this batch").wait_for()
    wait_until_finished(page, world, "browser-film")
    page.get_by_text("3 / 3", exact=True).wait_for()
    page.get_by_role("button", name="Play").first.wait_for()
    keep(page, "2-finished")
    with page.expect_download() as fetched:
        page.get_by_role("button", name="All clips (ZIP)").click()
    with zipfile.ZipFile(fetched.value.path()) as archive:
        assert len(archive.namelist()) == 3
        assert archive.testzip() is None
    page.get_by_role("button", name="Play").first.click()
    video = page.locator("video").first
    video.wait_for()
    page.wait_for_function("() => document.querySelector('video')?.duration > 0")
    assert video.evaluate("v => v.videoWidth") > 0
    page.wait_for_function("() => document.querySelector('video').currentTime > 0")
    keep(page, "3-playing")
    view = batch_view(world.ledger, "browser-film")
    page.goto(served.url)
    page.get_by_text("Done today").wait_for()
    card = page.locator(".hv-stat", has_text="Done today").locator("b")
    assert card.inner_text() == str(view.batch.jobs.done)
    page.locator("[data-testid='stVegaLiteChart'] canvas, [data-testid='stVegaLiteChart'] svg").first.wait_for()
    keep(page, "4-overview")
    page.goto(f"{served.url}/analytics?by=backend")
    with page.expect_download() as fetched:
        page.get_by_role("button", name="Parquet").click()
    exported = pd.read_parquet(fetched.value.path())
    assert sorted(exported["job"]) == ["shot-001", "shot-002", "shot-003"]
    keep(page, "4-analytics")
    assert "Traceback" not in served.said()


def test_a_changed_preference_changes_the_next_decision(page: Any, served: Served, world: World) -> None:
    """Google preferred on the settings page: the next batch is made there, and its card says why."""
    if not finished(world, "browser-film"):  # the test above was not run
        write_batch(page, served, "browser-film", "a harbour at dawn")
        submit(page)
        wait_until_finished(page, world, "browser-film")
    first = jobs_view(world.ledger, "browser-film").items[0]
    assert first.tier is Tier.LOCAL
    page.goto(f"{served.url}/backends?tab=preferences")
    page.get_by_role("radio", name="Google").or_(page.get_by_role("button", name="Google", exact=True)).first.click()
    page.wait_for_timeout(1000)
    page.get_by_role("button", name="Save").click()
    page.get_by_text("Saved. The next run follows it.").wait_for()
    write_batch(page, served, "after", "a harbour at dawn")
    submit(page)
    wait_until_finished(page, world, "after")
    second = jobs_view(world.ledger, "after").items[0]
    assert second.state is JobState.DONE
    assert second.tier is Tier.GEMINI
    card = job_view(world.ledger, "after", second.job)
    page.goto(f"{served.url}/jobs?batch=after&job={second.job}")
    page.get_by_text("Decision 1").wait_for()
    page.get_by_text(card.decisions[0].reason).first.wait_for()
    keep(page, "5-decision")


def test_a_batch_is_cancelled_after_a_question(page: Any, served: Served, world: World) -> None:
    """What waits is cancelled once the question is answered; finished clips stay."""
    world.batch("doomed", jobs=3)
    world.clip("shot-0", "0.02", batch="doomed")
    page.goto(f"{served.url}/batches?batch=doomed")
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_role("button", name="Yes, cancel it").click()
    page.get_by_text("2 clips cancelled, 0 were finished already.").wait_for()
    counts = batch_view(world.ledger, "doomed").batch.jobs
    assert (counts.done, counts.cancelled, counts.pending) == (1, 2, 0)


def test_a_pod_is_rented_after_a_question_and_stopped(page: Any, served: Served, world: World) -> None:
    """The page, the ledger and the provider's own list agree at each step."""
    listed = f"{os.environ['HYBRID_VIDEO_RUNPOD_PODS_URL']}/pods"
    page.goto(f"{served.url}/backends?tab=pods")
    page.get_by_role("button", name="Start a pod").click()
    assert not pods_view(world.ledger).items, "nothing is rented before the question is answered"
    page.get_by_role("button", name="Rent it").click()
    page.get_by_text("1 / 5", exact=True).wait_for()
    (pod,) = pods_view(world.ledger).items
    headers = {"Authorization": f"Bearer {os.environ['RUNPOD_API_KEY']}"}
    assert pod.pod_id is not None
    assert pod.pod_id in httpx.get(listed, headers=headers).text
    page.get_by_role("button", name="Stop all").click()
    page.get_by_text("0 / 5", exact=True).wait_for()
    assert not pods_view(world.ledger).items


def test_the_server_answers_ends_quietly_and_keeps_its_secrets(served: Served) -> None:
    """Health over HTTP, and Ctrl-C is no failure."""
    assert httpx.get(f"{served.url}/_stcore/health").text == "ok"
    assert served.stop() == 0
    assert "emulator-accepts-any-key" not in served.said()
