"""Real processes for the price of a fork: one parent has imported everything and serves any number of lines.

On each line one process runs at a time: a request is answered with its pid, and then with its exit code. Not
responsible for what the processes do, nor for what is asked of them.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

Request = dict[str, Any]


def serve(path: str, become: Callable[[Request], NoReturn]) -> None:
    """The parent: accepts lines until its standard input ends. No Python thread may be left when it is called."""
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(path)
        door.listen()
        print(json.dumps({"threads": threading.active_count()}), flush=True)
        while True:
            ready, _, _ = select.select([door, sys.stdin], [], [])
            if sys.stdin in ready:
                return
            line, _ = door.accept()
            if os.fork() == 0:
                door.close()
                _serve_line(line, become)
            line.close()


def _serve_line(line: socket.socket, become: Callable[[Request], NoReturn]) -> NoReturn:
    """Answers for one line until it is closed. It leaves without the interpreter's end, which is the parent's."""
    with line.makefile("r", encoding="utf-8") as requests:
        for text in requests:
            pid = os.fork()
            if pid == 0:
                line.close()
                become(json.loads(text))
            _say(line, pid=pid)
            _pid, status = os.waitpid(pid, 0)
            _say(line, exit=os.waitstatus_to_exitcode(status))
    os._exit(0)


def _say(line: socket.socket, **fields: object) -> None:
    line.sendall(json.dumps(fields).encode() + b"\n")


class Line:
    """The harness's end of one line."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self._answers = self._socket.makefile("r", encoding="utf-8")

    def start(self, request: Mapping[str, Any]) -> int:
        """Forks a process; its pid."""
        self._socket.sendall(json.dumps(request).encode() + b"\n")
        return int(self._answer()["pid"])

    def wait(self) -> int:
        """The exit code of that process, -9 when it was killed."""
        return int(self._answer()["exit"])

    def close(self) -> None:
        """Gives the line up."""
        self._answers.close()
        self._socket.close()

    def _answer(self) -> dict[str, Any]:
        text = self._answers.readline()
        if not text:
            raise RuntimeError("the forking process has ended")
        found: dict[str, Any] = json.loads(text)
        return found


class ForkParent:
    """The harness's side of a program that calls `serve`. Use as a context manager.

    Args:
        program: gets the path of a socket to serve, and `argument` if there is one.

    Raises:
        RuntimeError: the program ended, or has threads, which a fork does not copy.
    """

    def __init__(self, program: Path, folder: Path, argument: Mapping[str, Any] | None = None) -> None:
        self._folder = tempfile.mkdtemp(prefix="hv-fork-")  # a socket's path must be short
        self._path = f"{self._folder}/door"
        command = [sys.executable, str(program), self._path, *([json.dumps(argument)] if argument else [])]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=folder, text=True, encoding="utf-8"
        )
        self._lines: list[Line] = []
        assert self._process.stdout is not None
        self.said: dict[str, Any] = {}
        while "threads" not in self.said:
            text = self._process.stdout.readline()
            if not text:
                raise RuntimeError(f"the forking process ended with {self._process.wait()}")
            self.said |= json.loads(text)
        if self.said["threads"] != 1:
            raise RuntimeError(f"the forking process is not ready: {self.said}")

    def line(self) -> Line:
        """One more line."""
        self._lines.append(Line(self._path))
        return self._lines[-1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for line in self._lines:
            line.close()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        shutil.rmtree(self._folder, ignore_errors=True)
