"""How the dashboard is started: the command, and what is refused before it. Imports no Streamlit."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

from hybrid_video.errors import ConfigurationError
from hybrid_video.project import project_dir
from hybrid_video.settings import LOOPBACK, DashboardSettings

QUIET = {"STREAMLIT_BROWSER_GATHER_USAGE_STATS": "false"}


def dashboard_dir() -> Path:
    """The folder of `app.py`, its pages and its theme: of the checkout, or of the copy inside the wheel.

    Raises:
        ConfigurationError: the installation is incomplete.
    """
    folder = project_dir() / "dashboard"
    if not (folder / "app.py").is_file():
        raise ConfigurationError(
            "the dashboard is missing from this installation; reinstall hybrid-video, or run from a checkout"
        )
    return folder


def dashboard_command(settings: DashboardSettings, *, host: str | None = None, port: int | None = None) -> list[str]:
    """The command that serves the dashboard in the foreground.

    Raises:
        ConfigurationError: it would be open to others without a password, or the port is taken.
    """
    where = host or settings.host
    if where not in LOOPBACK and settings.password is None:
        raise ConfigurationError(
            f"the dashboard is not served at {where!r} without a password: whoever reaches it can spend money; set "
            "HYBRID_VIDEO_DASHBOARD_PASSWORD, or leave the host at 127.0.0.1"
        )
    app = dashboard_dir() / "app.py"
    options = ["--server.address", where, "--server.port", str(free_port(where, port, settings.port))]
    return [sys.executable, "-m", "streamlit", "run", str(app), "--server.headless", "true", *options]


def dashboard_environment() -> dict[str, str]:
    """The environment of that command: this one's, without telling anybody."""
    return {**os.environ, **QUIET}


def free_port(host: str, wanted: int | None, usual: int) -> int:
    """A port to listen on. One that was asked for must be free; 0 and a usual one that is taken become any free one.

    Raises:
        ConfigurationError: the port that was asked for is taken, or the address is not this machine's.
    """
    for port in (usual, 0) if wanted is None else (wanted,):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            with socket.socket(family) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, port))
                return int(probe.getsockname()[1])
        except OSError as error:
            reason = error.strerror or str(error)
    raise ConfigurationError(
        f"the dashboard cannot listen at {host!r} on port {wanted!r}: {reason}; give another --port, or 0 for a "
        "free one"
    )
