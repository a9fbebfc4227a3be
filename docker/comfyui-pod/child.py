"""A program of the pod that is started again when it ends, with growing pauses, not for ever. Standard library only."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import signal
import subprocess
import sys
import time
from collections import deque
from typing import Any

CRASHES, CRASHES_WITHIN_S = 5, 600.0
"""So many crashes in so long a time: it will not get better, and every further minute costs."""

LONGEST_PAUSE_S = 30.0
STOP_WITHIN_S = 8.0


def log(event: str, **facts: object) -> None:
    """One JSON line on standard output, in one piece: keeper, gate and ComfyUI write to the same place."""
    sys.stdout.write(json.dumps({"who": "keeper", "event": event, **facts}) + "\n")
    sys.stdout.flush()


class Child:
    """One program.

    Args:
        name: in the log.
        command: how it is started.
        environment: all of it.
        user: whom it runs as; empty: as this process.
        pause_s: first pause after a crash; it doubles with each.
    """

    def __init__(
        self, name: str, command: list[str], environment: dict[str, str], *, user: str, pause_s: float
    ) -> None:
        self.name = name
        self.process: subprocess.Popen[bytes] | None = None
        self.restarts = 0
        self._command, self._environment, self._user, self._pause_s = command, environment, user, pause_s
        self._crashes: deque[float] = deque(maxlen=CRASHES)
        self._start_at = 0.0

    @property
    def hopeless(self) -> bool:
        """Whether it has crashed too often."""
        return len(self._crashes) == CRASHES and self._crashes[-1] - self._crashes[0] <= CRASHES_WITHIN_S

    def look(self) -> None:
        """Starts it when it is due; notices when it has ended."""
        now = time.monotonic()
        if self.process is None:
            if now >= self._start_at:
                self._start()
            return
        code = self.process.poll()
        if code is None:
            return
        self.kill()  # whatever it has left behind in its group
        self._crashed(f"exit {code}")

    def kill(self, number: int = signal.SIGKILL) -> None:
        """A signal to the program and everything it started."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, number)

    def stop(self) -> None:
        """Asks it to end, then makes it."""
        if self.process is None:
            return
        self.kill(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_WITHIN_S)
        self.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_WITHIN_S)

    def _start(self) -> None:
        try:
            options, environment = self._as_user()
            self.process = subprocess.Popen(
                self._command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True, **options
            )
        except (OSError, subprocess.SubprocessError, LookupError) as error:
            self._crashed(f"cannot be started ({type(error).__name__})")
            return
        log("started", program=self.name, pid=self.process.pid)

    def _as_user(self) -> tuple[dict[str, Any], dict[str, str]]:
        if not self._user:
            return {}, self._environment
        who = pwd.getpwnam(self._user)
        environment = {**self._environment, "HOME": who.pw_dir, "USER": self._user}
        return {"user": who.pw_uid, "group": who.pw_gid, "extra_groups": []}, environment

    def _crashed(self, how: str) -> None:
        self.process = None
        self._crashes.append(time.monotonic())
        pause_s = min(LONGEST_PAUSE_S, self._pause_s * 2.0 ** (len(self._crashes) - 1))
        self._start_at = time.monotonic() + pause_s
        self.restarts += 1
        log("crashed", program=self.name, how=how, again_in_s=pause_s)
