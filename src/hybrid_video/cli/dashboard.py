"""`hybrid-video dashboard`."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
import webbrowser
from typing import Annotated

import httpx
import typer

from hybrid_video.cli.app import app
from hybrid_video.cli.output import console
from hybrid_video.dashboard_server import dashboard_command, dashboard_environment
from hybrid_video.settings import Settings

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0


@app.command()
def dashboard(
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on; 127.0.0.1 by default.")] = None,
    port: Annotated[
        int | None, typer.Option("--port", help="Port to listen on, 8501 by default; 0: any free one.")
    ] = None,
    browser: Annotated[bool, typer.Option("--open/--no-open", help="Open it in the browser.")] = False,
) -> int:
    """Serve the dashboard: submit batches, watch them, calculate, analyse. Ctrl-C ends it; batches go on."""
    settings = Settings.load()
    command = dashboard_command(settings.dashboard, host=host, port=port)
    where = command[command.index("--server.address") + 1]
    shown = f"[{where}]" if ":" in where else "127.0.0.1" if where == "0.0.0.0" else where  # noqa: S104  # nosec B104 - only compared
    url = f"http://{shown}:{command[-1]}"
    child = subprocess.Popen(command, env=dashboard_environment(), stdout=2, start_new_session=os.name == "posix")
    threading.Thread(target=_announce, args=(url, child, browser), daemon=True).start()
    return _until_end(child)


def _announce(url: str, child: subprocess.Popen[bytes], browser: bool) -> None:
    """Says the address once it answers."""
    end_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < end_s and child.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/_stcore/health", timeout=2.0).status_code == httpx.codes.OK:
                console.print(f"[bold]dashboard: {url}[/]  (Ctrl-C ends it; running batches go on)")
                if browser:
                    webbrowser.open(url)
                return
        time.sleep(0.2)


def _until_end(child: subprocess.Popen[bytes]) -> int:
    """Waits; Ctrl-C and SIGTERM end the server the ordinary way, and that is no failure."""
    asked = threading.Event()

    def end(_number: int, _frame: object) -> None:
        asked.set()
        child.terminate()

    with contextlib.suppress(ValueError):  # not the main thread
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, end)
    while True:
        try:
            code = child.wait(0.5)
            return 0 if asked.is_set() else code
        except subprocess.TimeoutExpired:
            if asked.is_set():
                try:
                    child.wait(STOP_TIMEOUT_S)
                except subprocess.TimeoutExpired:
                    child.kill()
