"""Log lines: off by default, JSON or text by a variable, with batch, job and attempt, and never with a secret."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hybrid_video import logs, redaction
from hybrid_video.errors import ConfigurationError, FailureKind, TransientError
from hybrid_video.logs import bound
from hybrid_video.settings import LogSettings
from tests.unit.engine_rig import ScriptedBackend, ran, small

SENTINEL = "rpa_SENTINEL_in_a_log_line_0001"
log = logging.getLogger("hybrid_video.tests")


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """JSON lines of this process; logging is as before afterwards."""
    stream = io.StringIO()
    logs.configure(LogSettings(format="json", level="INFO"), stream=stream)
    yield stream
    logs.configure(LogSettings(format="off"))
    logging.getLogger("hybrid_video").setLevel(logging.NOTSET)


def read(stream: io.StringIO) -> list[dict[str, Any]]:
    """Every line as an object."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The real program with these variables."""
    return subprocess.run(
        [sys.executable, "-m", "hybrid_video", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_a_line_says_when_how_severe_from_where_and_about_what(lines: io.StringIO) -> None:
    """One object a line, UTC time with milliseconds, numbers as numbers, only fields that are known."""
    with bound(batch="night", job="shot-1", attempt=2):
        log.warning("no answer after %d s", 30, extra={"event": "retry", "odd": "left out"})
    log.debug("too fine")
    (line,) = read(lines)
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "warning",
        "logger": "hybrid_video.tests",
        "message": "no answer after 30 s",
        "batch": "night",
        "job": "shot-1",
        "attempt": 2,
        "event": "retry",
    }


def test_what_a_line_is_about_ends_with_its_block(lines: io.StringIO) -> None:
    """Inner ids add to outer ones; outside there are none; what comes with the line stands above."""
    with bound(batch="night"):
        with bound(job="shot-1"):
            log.info("inner", extra={"job": "shot-9"})
        log.info("outer")
    log.info("none")
    inner, outer, none = read(lines)
    assert (inner["batch"], inner["job"]) == ("night", "shot-9")
    assert outer["batch"] == "night"
    assert "job" not in outer
    assert "batch" not in none


async def test_tasks_and_threads_keep_their_own_ids(lines: io.StringIO) -> None:
    """Attempts run beside each other: none takes another's id, in tasks as in threads started from them."""

    async def attempt(number: int) -> None:
        with bound(job=f"shot-{number}"):
            await asyncio.sleep(0.01 * (5 - number))
            await asyncio.to_thread(log.info, "n%d", number)

    await asyncio.gather(*(attempt(number) for number in range(5)))
    assert {(line["message"], line["job"]) for line in read(lines)} == {(f"n{n}", f"shot-{n}") for n in range(5)}
    assert threading.active_count() < 50


def test_secrets_never_come_out(lines: io.StringIO) -> None:
    """Not in messages, arguments, fields, exceptions or tracebacks, whether registered or only looking like one."""
    redaction.register(SENTINEL)
    log.warning("key %s", SENTINEL, extra={"backend": SENTINEL})
    log.warning("Authorization: Bearer abcdef0123456789")
    try:
        raise ValueError(f"refused {SENTINEL}")
    except ValueError:
        log.exception("failed")
    text = lines.getvalue()
    assert SENTINEL not in text
    assert "abcdef0123456789" not in text
    assert read(lines)[2]["error"] == "ValueError: refused [redacted]"
    assert "Traceback" in read(lines)[2]["traceback"]


def test_a_message_of_many_lines_stays_one_line(lines: io.StringIO) -> None:
    """Nobody can forge a line with a line break in a name."""
    log.info('a\n{"level": "error", "message": "forged"}')
    (line,) = read(lines)
    assert line["level"] == "info"


async def test_a_run_tells_its_story_with_ids(lines: io.StringIO, tmp_path: Path) -> None:
    """Every line of a batch names it; the failed first attempt and the second one can be told apart."""
    broken = TransientError("gone", kind=FailureKind.UNREACHABLE, backend="comfyui", execution_s=0.0)
    async with ran([ScriptedBackend("comfyui", fail_watch=[broken])], tmp_path, (small("s1"),)) as outcome:
        assert outcome.report.completed == 1
    told = [line for line in read(lines) if line["logger"].startswith("hybrid_video.engine")]
    assert told
    assert {line["batch"] for line in told} == {"film"}
    about_job = [line for line in told if line.get("job") == "s1"]
    assert {line["attempt"] for line in about_job if "attempt" in line} == {1, 2}
    assert len({line["event"] for line in told if "event" in line}) > 2


def test_configuring_twice_writes_once_and_off_gives_everything_back(lines: io.StringIO) -> None:
    """No line is doubled, and other handlers are left alone."""
    logs.configure(LogSettings(format="json"), stream=lines)
    log.info("once")
    assert len(read(lines)) == 1
    assert logs.is_configured()
    logs.configure(LogSettings(format="off"))
    assert not logs.is_configured()
    assert logging.getLogger("hybrid_video").propagate


def test_text_is_for_people(lines: io.StringIO) -> None:
    """Time, level, message, and in brackets what it is about."""
    logs.configure(LogSettings(format="text"), stream=lines)
    with bound(batch="night", job="shot-1", attempt=2):
        log.error("no answer")
    assert lines.getvalue()[8:] == " error no answer (batch night, job shot-1, attempt 2)\n"


def test_the_command_line_reads_the_variable_and_keeps_results_apart(tmp_path: Path) -> None:
    """Standard output is the same with and without; a wrong form is a sentence and exit 2."""
    plain = command("plan", "--jobs", "10", "--json")
    logged = command("plan", "--jobs", "10", "--json", HYBRID_VIDEO_LOG_FORMAT="json", HYBRID_VIDEO_LOG_LEVEL="DEBUG")
    assert plain.returncode == logged.returncode == 0
    assert json.loads(logged.stdout)["split"] == json.loads(plain.stdout)["split"]
    wrong = command("plan", "--jobs", "10", HYBRID_VIDEO_LOG_FORMAT="yaml")
    assert wrong.returncode == 2
    assert "HYBRID_VIDEO_LOG_FORMAT is 'yaml'" in wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_prefect_that_was_there_first_writes_our_lines() -> None:
    """A flow run under somebody's own worker: Prefect's handlers for the console give way, at every logger."""
    code = (
        "import logging, prefect; from hybrid_video import logs; logs.configure();"
        "logging.getLogger('prefect.engine').warning('of prefect');"
        "logging.getLogger('hybrid_video.x').warning('of ours');"
        "logging.getLogger('uvicorn').warning('of uvicorn')"
    )
    environment = {**os.environ, "HYBRID_VIDEO_LOG_FORMAT": "json", "PREFECT_LOGGING_LEVEL": "INFO"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["message"] for line in done.stderr.splitlines()] == ["of prefect", "of ours", "of uvicorn"]


def test_prefects_configuration_with_our_lines_is_prefects_own_otherwise() -> None:
    """A new Prefect may bring loggers of its own: then the shipped file must follow."""
    from prefect.logging.configuration import DEFAULT_LOGGING_SETTINGS_PATH

    theirs, ours = (yaml.safe_load(Path(p).read_text()) for p in (DEFAULT_LOGGING_SETTINGS_PATH, logs.PREFECT_FILE))
    for name, logger in theirs["loggers"].items():
        handlers = ["console" if handler == "debug" else handler for handler in logger.get("handlers", [])]
        assert ours["loggers"][name] == {**logger, **({"handlers": handlers} if handlers else {})}, name
    assert ours["root"] == theirs["root"]
    assert ours["handlers"]["console"]["formatter"] == "json"


def test_what_is_said_to_people_becomes_lines(lines: io.StringIO) -> None:
    """Whole lines only, without the frames of tables; pieces are put together."""
    stream = logs.LineStream(logging.getLogger("hybrid_video.console"))
    for piece in ("half a ", "line\n", "\n", "┏━━━┓\n", "┃ job ┃ cost ┃\n│ s1  │ $0.1 │\n", "rest"):
        assert stream.write(piece) == len(piece)
    assert [line["message"] for line in read(lines)] == ["half a line", "job cost", "s1 $0.1"]
    assert not stream.isatty()


def test_hooks_of_others_are_left_alone(lines: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    """Uncaught errors are ours with JSON only, and given back afterwards."""
    assert sys.excepthook is not sys.__excepthook__
    logs.configure(LogSettings(format="off"))
    assert sys.excepthook is sys.__excepthook__
    monkeypatch.setattr(sys, "excepthook", print)
    logs.configure(LogSettings(format="off"))
    assert sys.excepthook is print


def test_a_wrong_level_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the variable, its value and the remedy."""
    monkeypatch.setenv("HYBRID_VIDEO_LOG_LEVEL", "LOUD")
    with pytest.raises(ConfigurationError, match="HYBRID_VIDEO_LOG_LEVEL is 'LOUD'"):
        logs.configure()
