"""`hybrid-video dashboard`: what it refuses, where it listens, and that it also works from the wheel."""

from __future__ import annotations

import socket
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from pydantic import SecretStr
from ui_rig import DASHBOARD, PAGES, ROOT

from hybrid_video.dashboard_server import dashboard_command, dashboard_dir, free_port
from hybrid_video.errors import ConfigurationError
from hybrid_video.settings import DashboardSettings


def test_it_listens_on_loopback_at_the_usual_port() -> None:
    """Nobody else reaches it unless somebody decides so."""
    command = dashboard_command(DashboardSettings(port=0))
    assert command[command.index("--server.address") + 1] == "127.0.0.1"
    assert str(DASHBOARD / "app.py") in command


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "gpu-box"])
def test_beyond_this_machine_it_needs_a_password(host: str) -> None:
    """Whoever reaches it can spend money; the sentence names the variable."""
    with pytest.raises(ConfigurationError, match="HYBRID_VIDEO_DASHBOARD_PASSWORD"):
        dashboard_command(DashboardSettings(), host=host, port=0)
    if host == "0.0.0.0":
        command = dashboard_command(DashboardSettings(password=SecretStr("a-long-password")), host=host, port=0)
        assert not any("a-long-password" in part for part in command)


def test_a_taken_port_is_said_and_a_taken_usual_one_is_changed() -> None:
    """A port that was asked for is meant; the usual one is only usual."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"port {port}"):
            free_port("127.0.0.1", port, 8501)
        assert free_port("127.0.0.1", None, port) != port


def test_the_command_says_what_is_wrong_in_one_sentence() -> None:
    """Exit 2, no traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "hybrid_video", "dashboard", "--host", "0.0.0.0"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "HYBRID_VIDEO_DASHBOARD_PASSWORD" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_folder_is_complete() -> None:
    """Router, pages, parts and theme stand together, so that one copy of the folder is the whole dashboard."""
    folder = dashboard_dir()
    assert {path.stem for path in (folder / "app_pages").glob("*.py")} == set(PAGES)
    theme = tomllib.loads((folder / ".streamlit" / "config.toml").read_text(encoding="utf-8"))
    assert {"light", "dark"} <= set(theme["theme"])
    assert theme["client"]["showErrorDetails"] == "none"
    assert theme["browser"]["gatherUsageStats"] is False


def test_the_dashboard_travels_in_the_wheel(tmp_path: Path) -> None:
    """An installation without a checkout has pages, theme and pictures, and finds them."""
    build = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    built = subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    with zipfile.ZipFile(tmp_path / built.stdout.split()[-1]) as archive:
        archive.extractall(tmp_path / "site")
    package = tmp_path / "site" / "hybrid_video"
    inside = package / "_project" / "dashboard"
    wanted = {
        path.relative_to(DASHBOARD)
        for path in DASHBOARD.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {path.relative_to(inside) for path in inside.rglob("*") if path.is_file()} == wanted
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from hybrid_video.dashboard_server import dashboard_dir; "
        "print(dashboard_dir())"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "site")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert Path(found.stdout.strip()) == inside
    assert (package / "wording" / "th.toml").is_file()
