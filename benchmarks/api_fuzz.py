"""Schemathesis against the real API beside the emulators: every endpoint, valid and invalid requests, for some minutes.

    python -m benchmarks.api_fuzz --minutes 10 --json

Batches are checked as always and then remembered instead of run; everything else is the product. Counted is every
answer of 500 and above, by a layer of its own around the application, so that nothing depends on the fuzzer's words.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from hybrid_video.api import create_app
from hybrid_video.api.batches import LONGEST_WAIT_S
from hybrid_video.cli.demo import running_farm
from hybrid_video.emulators.farm import FarmOptions
from hybrid_video.ledger import Ledger, Owner
from hybrid_video.models import AttemptState
from hybrid_video.settings import Settings
from tests.unit.api_rig import Recorder, listening
from tests.unit.ledger_rig import advance, fail, finish, make_batch, make_order, reserve

CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance"
)
MOST_COMPLAINTS = 3
ALLOWED = {"HYBRID_VIDEO_API_READS_PER_MINUTE": "1000000", "HYBRID_VIDEO_API_WRITES_PER_MINUTE": "1000000"}


class Counting:
    """Counts answers by status and path."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.statuses: Counter[int] = Counter()
        self.errors: Counter[str] = Counter()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def counted(message: Any) -> None:
            if message["type"] == "http.response.start":
                self.statuses[message["status"]] += 1
                if message["status"] >= 500:
                    self.errors[f"{message['status']} {scope['method']} {scope['path']}"] += 1
            await send(message)

        await self._app(scope, receive, counted)


def fill(settings: Settings, folder: Path) -> None:
    """A batch with finished, failed, running and uncertain jobs, and a real file, so that ids and names exist."""
    ledger, owner = Ledger.open(settings.storage.ledger_path), Owner(settings.storage.home)
    batch = make_batch("film", 6)
    ledger.register(batch, out_dir=folder)
    clip = folder / "film" / "shot-0.mp4"
    clip.parent.mkdir(parents=True, exist_ok=True)
    clip.write_bytes(bytes(5000))
    states = (AttemptState.COLLECTED, AttemptState.COLLECTED, AttemptState.RUNNING, AttemptState.UNCERTAIN)
    for shot, state in zip(batch.jobs, states, strict=False):
        order = make_order("film", shot)
        reserve(ledger, order, owner)
        advance(ledger, order, state, path=clip)
        if state is AttemptState.COLLECTED:
            finish(ledger, order)
    order = make_order("film", batch.jobs[4])
    reserve(ledger, order, owner)
    fail(ledger, order)
    owner.close()
    ledger.close()


def load_settings(variables: dict[str, str]) -> Settings:
    """The settings of these variables; the environment is left as it was."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        return Settings.load()
    finally:
        os.environ.clear()
        os.environ.update(before)


def fuzz(url: str, seconds: float, folder: Path, *, examples: int, seed: int) -> tuple[int, list[str]]:
    """Rounds of schemathesis until the time is over; how many, and what it had to say against us."""
    until_s, rounds, said = time.monotonic() + seconds, 0, list[str]()
    while (left_s := until_s - time.monotonic()) > 5 and len(said) < MOST_COMPLAINTS:
        command = [sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json", "--checks", CHECKS]
        command += ["--mode", "all", "--max-examples", str(examples), "--seed", str(seed + rounds), "--no-color"]
        command += ["--request-timeout", str(LONGEST_WAIT_S + 10)]  # a long poll may take its time
        command += ["--suppress-health-check", "all", "--max-time", str(int(left_s)), "--warnings", "off"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
        rounds += 1
        if done.returncode:
            said.append((done.stdout + done.stderr)[-8000:])
    return rounds, said


def run(*, seconds: float, examples: int = 60, seed: int = 1) -> dict[str, Any]:
    """One fuzzing of a fresh API; the counts."""
    with tempfile.TemporaryDirectory() as made, running_farm(FarmOptions(time_scale=50)) as farm:
        folder = Path(made)
        settings = load_settings(
            farm.environment() | ALLOWED | {"HYBRID_VIDEO_HOME": str(folder / "home"), "HYBRID_VIDEO_TIME_SCALE": "50"}
        )
        fill(settings, folder / "clips")
        recorder = Recorder()
        app = Counting(create_app(settings, submitter=recorder))
        with listening(app) as url:
            began_s = time.monotonic()
            rounds, said = fuzz(url, seconds, folder, examples=examples, seed=seed)
            took_s = time.monotonic() - began_s
    statuses = {str(status): count for status, count in sorted(app.statuses.items())}
    return {
        "seconds": round(took_s, 1),
        "rounds": rounds,
        "requests": sum(app.statuses.values()),
        "statuses": statuses,
        "server_errors": sum(app.errors.values()),
        "errors": dict(app.errors.most_common(20)),
        "batches_accepted": len(recorder.batches),
        "complaints": said,
    }


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--examples", type=int, default=60, help="examples per endpoint and round")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    options = parser.parse_args()
    result = run(seconds=options.minutes * 60, examples=options.examples, seed=options.seed)
    complaints = result["complaints"]
    print(json.dumps(result) if options.json else json.dumps({**result, "complaints": len(complaints)}, indent=2))
    if not options.json:
        print(*complaints, sep="\n")
    return 1 if result["server_errors"] or complaints else 0


if __name__ == "__main__":
    sys.exit(main())
