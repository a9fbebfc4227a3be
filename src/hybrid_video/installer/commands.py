"""Runs the programs an installation needs (git, uv, comfy-cli, systemctl), line by line and stoppable.

No shell is involved. Output is redacted before anybody sees it, and a cancelled program ends with everything it
started.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hybrid_video.errors import ConfigurationError
from hybrid_video.redaction import redact

TAIL_LINES = 12
POLL_S = 0.1
POSIX = os.name == "posix"


class Cancelled(Exception):
    """The user asked to stop."""


@dataclass(frozen=True)
class CommandResult:
    """How a program ended."""

    command: tuple[str, ...]
    code: int
    out: str

    @property
    def ok(self) -> bool:
        """Whether it ended well."""
        return self.code == 0

    @property
    def tail(self) -> str:
        """The last lines it said, redacted."""
        return redact("\n".join(self.out.strip().splitlines()[-TAIL_LINES:]))


def find_program(name: str, *more: Path) -> str | None:
    """Path of a program on PATH, else the first of `more` that exists."""
    found = shutil.which(name)
    return found or next((str(path) for path in more if path.is_file()), None)


def ask(command: Sequence[str], *, timeout_s: float = 20.0) -> CommandResult | None:
    """What a small program answers; None when there is no such program or it does not answer in time."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return CommandResult(tuple(command), done.returncode, done.stdout.decode(errors="replace"))


class Runner:
    """Runs programs for one installation.

    Args:
        on_line: receives every line of output, redacted.
        cancelled: asked often; True ends the program and raises `Cancelled`.
    """

    def __init__(self, on_line: Callable[[str], None], cancelled: Callable[[], bool]) -> None:
        self._on_line = on_line
        self._cancelled = cancelled

    def check_cancelled(self) -> None:
        """Raises Cancelled: when somebody asked to stop."""
        if self._cancelled():
            raise Cancelled

    def run(
        self,
        command: Sequence[str],
        *,
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
        timeout_s: float = 3600.0,
    ) -> CommandResult:
        """Runs a program to its end.

        Raises:
            Cancelled: somebody asked to stop; the program and its children are gone.
            ConfigurationError: it cannot be started, or took longer than `timeout_s`.
        """
        self.check_cancelled()
        try:
            process = subprocess.Popen(
                list(command),
                cwd=cwd,
                env={**os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=POSIX,
            )
        except OSError as error:
            raise ConfigurationError(
                f"{command[0]!r} cannot be started ({error.strerror}); install it, or put it on the PATH"
            ) from None
        lines: deque[str] = deque(maxlen=4000)
        reader = threading.Thread(target=self._read, args=(process, lines), daemon=True, name="command-output")
        reader.start()
        deadline = time.monotonic() + timeout_s
        try:
            while process.poll() is None:
                self.check_cancelled()
                if time.monotonic() > deadline:
                    raise ConfigurationError(
                        f"`{_shown(command)}` did not end within {timeout_s:.0f} s; look at the network, then run it "
                        "again: it goes on where it stopped"
                    )
                time.sleep(POLL_S)
        finally:
            _end(process)
            reader.join(5)
        return CommandResult(tuple(command), process.returncode, "\n".join(lines))

    def must(self, command: Sequence[str], remedy: str, **how: object) -> CommandResult:
        """Runs a program that has to succeed.

        Raises:
            ConfigurationError: it failed; the message holds its last lines and the remedy.
        """
        result = self.run(command, **how)  # type: ignore[arg-type]
        if not result.ok:
            said = f":\n{result.tail}\n" if result.tail else "; "
            raise ConfigurationError(f"`{_shown(command)}` failed with exit code {result.code}{said}{remedy}")
        return result

    def _read(self, process: subprocess.Popen[bytes], lines: deque[str]) -> None:
        assert process.stdout is not None  # noqa: S101
        for raw in process.stdout:
            line = raw.decode(errors="replace").rstrip().rpartition("\r")[2]  # of a progress line, how it ended
            if line:
                lines.append(line)
                self._on_line(redact(line, limit=400))


def _shown(command: Sequence[str]) -> str:
    """The command for people: the program's name instead of its path."""
    return redact(" ".join([Path(command[0]).name, *command[1:]]), limit=300)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a program and everything it started, where it has not ended by itself."""
    if process.poll() is None:
        _signal(process, forced=False)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            _signal(process, forced=True)
            process.wait()


def _signal(process: subprocess.Popen[bytes], *, forced: bool) -> None:
    try:
        if POSIX:
            os.killpg(process.pid, signal.SIGKILL if forced else signal.SIGTERM)
        elif forced:
            process.kill()
        else:
            process.terminate()
    except (ProcessLookupError, PermissionError):
        pass
