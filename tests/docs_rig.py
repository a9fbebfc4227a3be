"""Reads the code blocks of the documentation, and types their commands into a shell.

How a block is to be taken is written where readers see it too:

    ```console                  commands after `$ `, and under them what they print (`...` stands for anything)
    ```sh                       commands only, one a line; each must end well
    ```console title="…"        the same in a terminal of its own, left running while the rest of the page is typed
    ```{ .console exit=3 }      the last command ends with this code
    ```{ .console .not-run }    shown, but not run: it needs root, another machine or an account
    ```ini, yaml, …             written to the file that a first line `# name` names
    ```text                     how a command is called in general, or other text; nothing to type
"""

from __future__ import annotations

import os
import queue
import re
import shlex
import signal
import subprocess
import textwrap
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

FENCE = re.compile(r"^(?P<indent> *)(?P<fence>```+|~~~+) *(?P<info>.*)$")
NAMED_FILE = re.compile(r"^# ((?:~/)?[\w./-]+)$")
CONSOLE, SHELLS = "console", {"sh", "bash", "shell", "console"}
BOX = re.compile(r"[\s─━┄┌┐└┘├┤┬┴┼┏┓┗┛┡┩╇╈┳┻╋┣┫┠┨╞╡╪═╒╕╘╛┃│]+")
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    page: Path
    line: int
    language: str
    info: str
    text: str

    @property
    def where(self) -> str:
        """`docs/tutorial.md:12`."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def shell(self) -> bool:
        """Whether it is meant to be typed."""
        return self.language in SHELLS

    @property
    def runs(self) -> bool:
        """Whether the tests type it."""
        return self.shell and "not-run" not in self.info

    @property
    def stays(self) -> bool:
        """Whether it is left running in a terminal of its own."""
        return "title=" in self.info

    @property
    def exit_code(self) -> int:
        """How its last command is to end."""
        found = re.search(r"\bexit=(\d+)", self.info)
        return int(found[1]) if found else 0

    @property
    def file(self) -> str | None:
        """The file that the reader is told to write."""
        found = NAMED_FILE.match(self.text.splitlines()[0]) if self.text and not self.shell else None
        return found[1] if found else None

    def steps(self) -> list[Step]:
        """Its commands, each with what the page shows below it."""
        if self.language != CONSOLE:
            joined = self.text.replace("\\\n", " ")
            return [Step(line, None) for line in joined.splitlines() if line.strip() and not line.startswith("#")]
        steps: list[tuple[list[str], list[str]]] = []
        for line in self.text.splitlines():
            if line.startswith("$ "):
                steps.append(([line[2:]], []))
            elif steps and steps[-1][0][-1].endswith("\\") and not steps[-1][1]:
                steps[-1][0].append(line)
            elif steps:
                steps[-1][1].append(line)
            else:
                raise ValueError(f"{self.where}: a console block begins with `$ ` and a command, not with {line!r}")
        return [Step("\n".join(command), shown) for command, shown in steps]


@dataclass(frozen=True)
class Step:
    """One command, and what the page shows below it (None: nothing is said about it)."""

    command: str
    shown: list[str] | None


def pages() -> list[Path]:
    """README and every page of the documentation."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    lines = page.read_text(encoding="utf-8").splitlines()
    at = 0
    while at < len(lines):
        opened = FENCE.match(lines[at])
        if opened is None:
            at += 1
            continue
        begin = at + 1
        at = next(n for n in range(begin, len(lines)) if lines[n].strip() == opened["fence"])
        info = opened["info"].strip()
        language = re.sub(r"^[{\s]*\.?", "", info).split(" ")[0].rstrip("}")
        yield Block(page, begin, language, info, textwrap.dedent("\n".join(lines[begin:at])))
        at += 1


def plain(text: str) -> str:
    """A line without colours, frames of tables and double spaces."""
    return BOX.sub(" ", ANSI.sub("", text)).strip()


def mismatch(shown: Sequence[str], printed: str) -> str | None:
    """What a page shows and a command did not print; None if it did. `...` is any text, alone on a line any lines."""
    have = [line for line in map(plain, printed.splitlines()) if line]
    wanted = [line for line in map(plain, shown) if line]
    at, anywhere = 0, False
    for line in wanted:
        if line == "...":
            anywhere = True
            continue
        pattern = re.compile(".*".join(re.escape(part.strip()) for part in line.split("...")).replace(r"\ ", r"\s+"))
        places = range(at, len(have)) if anywhere else range(at, min(at + 1, len(have)))
        found = next((n for n in places if pattern.fullmatch(have[n])), None)
        if found is None:
            return f"{line!r} was not printed{'' if anywhere else ' there'}"
        at, anywhere = found + 1, False
    return None if anywhere or at == len(have) else f"{have[at]!r} is printed, and the page does not show it"


class Terminal:
    """A bash that commands are typed into, one after the other, as a reader would."""

    MARK = "__typed__"

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=dict(environment),
            text=True,
            encoding="utf-8",
            errors="replace",
            bufsize=1,
            start_new_session=True,
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def type(self, command: str, timeout_s: float = 60.0) -> tuple[int, str]:
        """Runs a command to its end; its exit code, and everything it printed."""
        self._send(f"{{ {command}\n}} </dev/null\nprintf '\\n{self.MARK} %d\\n' $?\n")
        printed: list[str] = []
        end_s = time.monotonic() + timeout_s
        while True:
            line = self._next(end_s)
            if line is None:
                raise AssertionError(f"{command!r} did not end within {timeout_s:.0f} s:\n{''.join(printed)}")
            if line.startswith(self.MARK):
                return int(line.split()[1]), "".join(printed)
            printed.append(line)

    def leave(self, command: str, shown: Sequence[str], timeout_s: float = 90.0) -> str:
        """Starts a command that stays, and waits until it has printed what the page shows."""
        self._send(f"exec {command} </dev/null\n")
        printed = ""
        end_s = time.monotonic() + timeout_s
        while mismatch(shown, printed) is not None:
            line = self._next(end_s)
            if line is None:
                ended = self._process.poll()
                raise AssertionError(f"{command!r}: {mismatch(shown, printed)} (ended: {ended}):\n{printed}")
            printed += line
        return printed

    def interrupt(self, timeout_s: float = 40.0) -> int:
        """Ctrl-C, and how it ended."""
        self._process.send_signal(signal.SIGINT)
        return self._process.wait(timeout_s)

    def close(self) -> None:
        """Ends it and whatever it started, the hard way."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(10)

    def _send(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text)
        self._process.stdin.flush()

    def _next(self, end_s: float) -> str | None:
        try:
            return self._lines.get(timeout=max(0.0, end_s - time.monotonic()))
        except queue.Empty:
            return None

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)


def quoted(path: Path | str) -> str:
    """For a shell."""
    return shlex.quote(str(path))
