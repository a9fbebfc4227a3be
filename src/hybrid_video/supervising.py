"""Runs a submitted batch to its end in a process of its own: starts it again after a crash, and writes how it ended.

`python -m hybrid_video.supervising FOLDER BATCH_FILE [--out DIR]`, started by `submitting`. The run itself is the
ordinary `hybrid-video run`, which resumes what a killed one left behind and never pays for a clip twice. SIGTERM is
passed on, so that remote work is stopped before it ends.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from hybrid_video.redaction import redact

PROCESS_FILE = "process.json"
OUTCOME_FILE = "outcome.json"
MOST_RESTARTS = 3
PAUSE_S = 2.0
KNOWN_EXITS = frozenset({0, 1, 2, 3, 130})
"""What `hybrid-video run` answers; anything else is a crash: a signal, or the machine out of memory."""


class Supervisor:
    """One batch in one folder."""

    def __init__(self, folder: Path, arguments: list[str]) -> None:
        self._folder = folder
        self._arguments = arguments
        self._child: subprocess.Popen[bytes] | None = None
        self._stopped = False

    def run(self) -> int:
        """Runs it and returns its exit code; leaves `outcome.json`."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        me = psutil.Process()
        self._write(PROCESS_FILE, {"pid": me.pid, "created": me.create_time()})
        restarts = 0
        while True:
            code, answer = self._once()
            if code in KNOWN_EXITS or self._stopped or restarts == MOST_RESTARTS:
                self._write(OUTCOME_FILE, {"exit_code": code, "restarts": restarts, **_told(code, answer)})
                return code
            restarts += 1
            print(f"the run ended with {code}; it is started again ({restarts} of {MOST_RESTARTS})", flush=True)
            time.sleep(PAUSE_S * restarts)

    def _once(self) -> tuple[int, dict[str, Any]]:
        command = [sys.executable, "-m", "hybrid_video", "run", *self._arguments, "--no-prefect", "--json"]
        with (self._folder / "answer.json").open("w+b") as answer:
            self._child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=answer, stderr=2)
            if self._stopped:
                self._child.terminate()
            code = self._child.wait()
            answer.seek(0)
            lines = answer.read().decode(errors="replace").splitlines()
        try:
            found = json.loads(lines[-1]) if lines else {}
        except ValueError:
            found = {}
        return code, found if isinstance(found, dict) else {}

    def _stop(self, _number: int, _frame: object) -> None:
        self._stopped = True
        if self._child is not None and self._child.poll() is None:
            self._child.terminate()

    def _write(self, name: str, data: dict[str, Any]) -> None:
        part = self._folder / f"{name}.part"
        part.write_text(json.dumps(data), encoding="utf-8")
        part.replace(self._folder / name)


def _told(code: int, answer: dict[str, Any]) -> dict[str, Any]:
    """What it was refused or stopped by; nothing where it left a report, which the ledger knows better."""
    if "error" in answer:
        problems = [redact(problem) for problem in answer.get("problems", ())]
        return {"error": redact(answer["error"]), "problems": problems}
    if code in KNOWN_EXITS:
        return {}
    return {"error": f"the run crashed (exit {code}); its log has the details. Submit the batch again to go on"}


def main() -> None:
    """Entry point of the process."""
    folder, batch_file, *options = sys.argv[1:]
    sys.exit(Supervisor(Path(folder), [str(Path(folder, batch_file)), *options]).run() % 256)


if __name__ == "__main__":
    main()
