"""A long-running program as a child: its log file, its readiness, and an end that leaves nothing behind.

Run as a module it is the launcher inside the child: it makes Ctrl-C work again where the parent ignored it, and ends
the program when the parent is gone, so that a killed parent leaves no server behind.
"""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

from hybrid_video.errors import ConfigurationError
from hybrid_video.redaction import redact

POLL_S = 0.1
PARENT_CHECK_S = 1.0
LOG_LINES = 12
LOG_KEPT_BYTES = 5_000_000
"""A longer log of earlier starts is moved aside to `<name>.1` before the next start."""

POSIX = os.name == "posix"


class ChildProcess:
    """One Python module run as a child process in a process group of its own.

    Args:
        name: what to call it in messages, for example "the Prefect server".
        module: Python module to run, with its arguments.
        log_file: receives standard output and error, appended.
        environment: the complete environment of the child.
    """

    def __init__(
        self,
        name: str,
        module: Sequence[str],
        *,
        log_file: Path,
        environment: Mapping[str, str],
        cwd: Path | None = None,
    ) -> None:
        self.name = name
        self.log_file = log_file
        self._module = list(module)
        self._environment = dict(environment)
        self._cwd = cwd
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @property
    def pid(self) -> int | None:
        """Process id while it was started and not yet stopped."""
        return self._process.pid if self._process else None

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Starts it and returns at once.

        Raises:
            ConfigurationError: the log file cannot be written or the folder to start in is missing.
        """
        command = [sys.executable, "-m", __name__, str(os.getpid()), *self._module]
        try:
            with self._open_log() as log:
                self._log_start = log.tell()
                self._process = subprocess.Popen(
                    command,
                    cwd=self._cwd,
                    env=self._environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=POSIX,
                    creationflags=0 if POSIX else getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
                )
        except OSError as error:
            raise ConfigurationError(
                f"{self.name} cannot be started: {error.strerror} ({str(error.filename)!r}); "
                "check the folder and its permissions"
            ) from None

    def wait_until(self, ready: Callable[[], bool], *, timeout_s: float) -> None:
        """Waits until `ready` says so.

        Raises:
            ConfigurationError: it ended first, or took longer; the message holds the end of its log.
        """
        deadline = time.monotonic() + timeout_s
        while self.running:
            if ready():
                return
            if time.monotonic() > deadline:
                self.stop()
                raise ConfigurationError(f"{self.name} was not ready after {timeout_s:.0f} s; {self._log_hint()}")
            time.sleep(POLL_S)
        code = self._process.poll() if self._process else None
        raise ConfigurationError(f"{self.name} ended while starting (exit {code}); {self._log_hint()}")

    def stop(self, *, grace_s: float = 10.0) -> None:
        """Ends it and whatever it started: politely, and by force after `grace_s`. Safe to call again."""
        process, self._process = self._process, None
        if process is None:
            return
        try:
            self._send(process, forced=False)
            process.wait(grace_s)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self._send(process, forced=True)
            process.wait()

    def log_tail(self) -> str:
        """The last lines this start has written, redacted."""
        try:
            with self.log_file.open("rb") as log:
                log.seek(self._log_start)
                lines = deque((line for line in log if line.strip()), maxlen=LOG_LINES)
        except OSError:
            return ""
        return redact(b"".join(lines).decode(errors="replace").rstrip())

    def _log_hint(self) -> str:
        tail = self.log_tail()
        return f"the end of its log {str(self.log_file)!r}:\n{tail}" if tail else f"its log is {str(self.log_file)!r}"

    def _open_log(self) -> IO[bytes]:
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        if self.log_file.exists() and self.log_file.stat().st_size > LOG_KEPT_BYTES:
            self.log_file.replace(self.log_file.with_name(self.log_file.name + ".1"))
        log = self.log_file.open("ab")
        log.seek(0, os.SEEK_END)
        return log

    @staticmethod
    def _send(process: subprocess.Popen[bytes], *, forced: bool) -> None:
        """Signals the whole group. The forced one also goes out when the leader has ended: others may be left."""
        try:
            if POSIX:
                os.killpg(process.pid, signal.SIGKILL if forced else signal.SIGTERM)
            elif process.poll() is None and forced:
                process.kill()
            elif process.poll() is None:
                process.send_signal(getattr(signal, "CTRL_BREAK_EVENT", signal.SIGTERM))
        except (ProcessLookupError, PermissionError):
            pass  # nobody left; macOS says EPERM for a group of which only a zombie is left


def _end_with(parent: int) -> None:
    """Ends this process when its parent is another one than it was."""
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK_S)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(10)
    os._exit(1)


def _launch(parent: int, module: str, arguments: Sequence[str]) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if POSIX:
        threading.Thread(target=_end_with, args=(parent,), daemon=True, name="parent-watch").start()
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _launch(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
