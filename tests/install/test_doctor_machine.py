"""What the doctor says of machine, clock, versions, pods, watcher and an installed ComfyUI, with a remedy for each."""

from __future__ import annotations

import asyncio
import http.server
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from email.utils import format_datetime

import pytest
from install_rig import Rig

from hybrid_video.doctor import Finding, examine
from hybrid_video.doctor import machine as machines
from hybrid_video.doctor.clock import look_at_clock
from hybrid_video.doctor.watching import look_at_pods, look_at_watcher
from hybrid_video.emulators.comfyui import ComfyUIEmulator
from hybrid_video.emulators.faults import FaultPlan, FaultRule
from hybrid_video.emulators.server import ScaledClock, start_server
from hybrid_video.engine.session import open_ledger
from hybrid_video.ledger import Caps
from hybrid_video.pods.records import PodIntent
from hybrid_video.pods.store import PodStore
from hybrid_video.settings import Settings

pytestmark = pytest.mark.xdist_group("installation")


def found(render: str = "none") -> dict[str, Finding]:
    """What the doctor finds, by subject."""
    findings = asyncio.run(examine(Settings.load(), render=render))  # type: ignore[arg-type]
    for finding in findings:
        assert finding.level in ("ok", "off") or finding.remedy, f"no remedy: {finding}"
    return {finding.subject: finding for finding in findings}


def test_an_installed_comfyui_is_rendered_on_and_its_troubles_are_told_apart(rig: Rig) -> None:
    """Running and rendering; stopped; broken off half-way: each with its own remedy."""
    assert found()["comfyui installation"].level == "off"
    installation = rig.installation(folder=rig.home / "comfyui")
    rig.folder = rig.home / "comfyui"
    installation.run()
    healthy = found("installed")
    assert healthy["comfyui installation"].level == "ok"
    assert "4 frames" in healthy["rendering"].detail
    assert not any((rig.folder / "data/output").rglob("*.mp4")), "the doctor left its clip behind"
    installation.stop_service()
    stopped = found("installed")
    assert stopped["comfyui installation"].level == "error"
    assert "install-comfyui start" in stopped["comfyui installation"].remedy
    assert stopped["comfyui"].level == "error"
    assert "rendering" not in stopped
    state = rig.folder / "progress/state.json"
    state.write_text(state.read_text().replace('"status": "done"', '"status": "running"', 1), encoding="utf-8")
    receipt = rig.folder / "receipt.json"
    receipt.write_text(receipt.read_text().replace('"complete": true', '"complete": false'), encoding="utf-8")
    assert "resume" in found()["comfyui installation"].remedy


def test_a_comfyui_that_answers_but_cannot_render_is_an_error(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answering is not yet working: here its first run fails."""

    async def look() -> dict[str, Finding]:
        faults = FaultPlan()
        faults.add(FaultRule(server="comfyui", operation="execute", action="fail"))
        running = await start_server(ComfyUIEmulator(clock=ScaledClock(50), faults=faults, service_s=1.0).app())
        monkeypatch.setenv("HYBRID_VIDEO_COMFYUI_URLS", running.url)
        try:
            findings = await examine(Settings.load(), render="all")
        finally:
            await running.close()
        return {finding.subject: finding for finding in findings}

    result = asyncio.run(look())
    assert result["comfyui"].level == "ok"
    assert result["rendering"].level == "error"
    assert "could not render" in result["rendering"].detail


class Skewed(http.server.BaseHTTPRequestHandler):
    """Answers with a Date header of its own."""

    skew_s = 0.0

    def do_HEAD(self) -> None:
        self.send_response_only(200)
        self.send_header("Date", format_datetime(datetime.now(UTC) + timedelta(seconds=self.skew_s), usegmt=True))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def skewed() -> Iterator[str]:
    """A server whose clock can be set."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Skewed)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(("skew_s", "level"), [(0, "ok"), (60, "warning"), (-900, "error")])
def test_a_clock_that_is_off_is_seen_by_a_servers_date(
    skewed: str, skew_s: float, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leases and sign-in fail on a machine whose clock is wrong."""
    Skewed.skew_s = skew_s
    monkeypatch.setenv("RUNPOD_API_KEY", "a-key-of-the-test")
    monkeypatch.setenv("HYBRID_VIDEO_RUNPOD_PODS_URL", skewed)
    finding = asyncio.run(look_at_clock(Settings.load()))
    assert finding.level == level
    assert (level == "ok") == (finding.remedy == "")
    if skew_s:
        assert str(abs(round(skew_s)))[:-1] in finding.detail


def test_the_pins_are_compared_with_what_is_installed() -> None:
    """The real environment fits; a requirement that does not is named with both versions."""
    assert machines.look_at_versions().level == "ok"
    assert machines._mismatch("duckdb==2.0.0") == "duckdb is 1.5.5, but ==2.0.0 is needed"
    assert machines._mismatch("no-such-package-anywhere>=1") == "no-such-package-anywhere is missing"
    assert machines._mismatch("duckdb==2.0.0 ; python_version < '3'") is None


def test_a_port_of_the_product_that_a_stranger_has_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """With who has it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setenv("HYBRID_VIDEO_API_PORT", str(taken.getsockname()[1]))
        monkeypatch.setattr(machines, "OURS", ("nobody-is-called-this",))
        finding = machines.look_at_ports(Settings.load())
    assert finding.level == "warning"
    assert "(API) by" in finding.detail


def test_open_pods_that_nobody_watches_are_an_error() -> None:
    """They cost money; the remedy says how to watch or end them."""
    settings = Settings.load()
    ledger = open_ledger(settings)
    try:
        assert look_at_pods(ledger, settings).level == "off"
        assert look_at_watcher(ledger, settings).level == "off"
        price = Decimal("0.69")
        intent = PodIntent(name="pod-1", gpu="g", cloud="SECURE", price_usd_per_h=price, reserve_usd=price, reason="")
        PodStore(ledger).intend(intent, caps=Caps(), max_pods=5)
        finding = look_at_pods(ledger, settings)
    finally:
        ledger.close()
    assert finding.level == "error"
    assert "$0.69 an hour" in finding.detail
    assert "stop-all" in finding.remedy
