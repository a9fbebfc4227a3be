"""Keeps one program running without any service manager. Only the standard library: it runs on ComfyUI's own Python.

`python supervisor.py FOLDER` reads FOLDER/launch.json, writes FOLDER/supervisor.json, appends to the log, starts the
program again when it dies, gives up when it dies five times within five minutes, and ends it on SIGTERM.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

TRIES = 5
WINDOW_S = 300.0
GRACE_S = 20.0
LOG_KEPT_BYTES = 5_000_000


class Supervisor:
    """One program and the folder that describes it."""

    def __init__(self, folder: Path) -> None:
        launch = json.loads((folder / "launch.json").read_text(encoding="utf-8"))
        self._command: list[str] = launch["command"]
        self._folder: str = launch["folder"]
        self._environment: dict[str, str] = {**os.environ, **launch["environment"]}
        self._log = Path(launch["log"])
        self._state = folder / "supervisor.json"
        self._stop = threading.Event()

    def stop(self, *_: object) -> None:
        """Ends the program and then this one; a signal handler."""
        self._stop.set()

    def run(self) -> int:
        """Runs until it is told to stop or the program cannot be kept running; returns the exit code."""
        deaths: list[float] = []
        try:
            while True:
                code = self._once(len(deaths))
                if self._stop.is_set():
                    return 0
                now = time.monotonic()
                deaths = [*(at for at in deaths if now - at < WINDOW_S), now]
                if len(deaths) >= TRIES:
                    self._say(f"it ended {len(deaths)} times within {WINDOW_S:.0f} s; given up")
                    return 1
                pause = min(2.0 ** len(deaths), 30.0)
                self._say(f"ended with exit code {code}; starting again in {pause:.0f} s")
                if self._stop.wait(pause):
                    return 0
        finally:
            self._state.unlink(missing_ok=True)

    def _once(self, deaths: int) -> int:
        """Runs the program once, to its end or until it is told to stop."""
        if self._log.exists() and self._log.stat().st_size > LOG_KEPT_BYTES:
            self._log.replace(self._log.with_name(f"{self._log.name}.1"))
        with self._log.open("ab") as log:
            child = subprocess.Popen(
                self._command,
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._remember(child.pid, deaths)
        while child.poll() is None and not self._stop.is_set():
            self._stop.wait(0.2)
        if child.poll() is None:
            child.terminate()
            try:
                child.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        return int(child.returncode)

    def _remember(self, child: int, deaths: int) -> None:
        partial = self._state.with_name(f"{self._state.name}.part")
        partial.write_text(json.dumps({"pid": os.getpid(), "child": child, "deaths": deaths}), encoding="utf-8")
        partial.replace(self._state)

    def _say(self, text: str) -> None:
        with self._log.open("a", encoding="utf-8") as log:
            log.write(f"[supervisor] {text}\n")


def main(folder: Path) -> int:
    """Supervises what `folder` describes."""
    supervisor = Supervisor(folder)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, supervisor.stop)
    return supervisor.run()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
