"""Log lines for people or for machines, with the batch, job and attempt they are about, and without secrets.

Off unless `HYBRID_VIDEO_LOG_FORMAT` says `text` or `json`: commands speak for themselves (`cli.output`). Lines go to
standard error; standard output stays for results. Whoever drives an attempt says so once with `bound`, and every line
written below it, in tasks and threads too, carries the ids. In JSON everything on standard error is such a line: what
commands say to people (`LineStream`), warnings, uncaught errors, and Prefect's own lines (`prefect_environment`).
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import sys
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TextIO

from pydantic import ValidationError

from hybrid_video.errors import ConfigurationError
from hybrid_video.redaction import redact
from hybrid_video.settings import LogSettings, problems_of

ABOUT: Final = ("batch", "job", "attempt", "backend", "pod", "event", "flow_run_name", "task_run_name")
"""Fields a line may carry: from `bound`, or given with the line as `extra`, which stands above."""

PREFECT_FILE: Final = Path(__file__).with_name("prefect_logging.yml")
LONGEST: Final = 20_000
_NAME = "hybrid-video"
_hooked = False
_MARK = "_hybrid_video_about"
_bound: ContextVar[dict[str, Any] | None] = ContextVar("hybrid_video_log_fields", default=None)


@contextlib.contextmanager
def bound(**fields: str | int) -> Iterator[None]:
    """Every log line written inside, here and in tasks and threads started here, is about these.

    Args:
        fields: some of ABOUT.
    """
    token = _bound.set({**(_bound.get() or {}), **fields})
    try:
        yield
    except Exception as error:
        if not hasattr(error, _MARK):  # the innermost block knows best
            with contextlib.suppress(AttributeError):
                setattr(error, _MARK, _bound.get())
        raise
    finally:
        _bound.reset(token)


def fields_now() -> dict[str, Any]:
    """What a line written here would be about."""
    return dict(_bound.get() or {})


def about_of(error: BaseException) -> dict[str, Any]:
    """What the work was about that an exception came out of; nothing if it came out of no `bound` block."""
    return dict(getattr(error, _MARK, None) or {})


def configure(settings: LogSettings | None = None, *, stream: TextIO | None = None) -> None:
    """Sets the handlers up as the environment says; may be called again, and then replaces what it did before.

    Where another program has set up logging (Prefect in a flow run), only our own lines are taken over.

    Args:
        settings: read from the environment when not given.
        stream: where lines go; standard error when not given.

    Raises:
        ConfigurationError: the format or level is none.
    """
    if settings is None:
        try:
            settings = LogSettings()
        except ValidationError as error:
            raise ConfigurationError("\n".join(problems_of(LogSettings, error))) from None
    ours, root = logging.getLogger("hybrid_video"), logging.getLogger()
    for logger in (ours, root):
        for handler in [handler for handler in logger.handlers if handler.name == _NAME]:
            logger.removeHandler(handler)
    ours.propagate = True
    _uncaught(None)
    if settings.format == "off":
        return
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.name = _NAME
    handler.setFormatter(JsonFormatter() if settings.format == "json" else TextFormatter())
    ours.addHandler(handler)
    ours.setLevel(settings.level)
    ours.propagate = False
    if not root.handlers:
        root.addHandler(handler)  # warnings of libraries come out in the same form
    if settings.format == "json":
        _take_over_consoles(handler)
        _uncaught(ours)


def is_configured() -> bool:
    """Whether `configure` has taken our lines over, so that a command leaves the levels alone."""
    return any(handler.name == _NAME for handler in logging.getLogger("hybrid_video").handlers)


def is_json() -> bool:
    """Whether everything on standard error is to be one JSON object a line."""
    handlers = logging.getLogger("hybrid_video").handlers
    return any(handler.name == _NAME and isinstance(handler.formatter, JsonFormatter) for handler in handlers)


def prefect_environment() -> dict[str, str]:
    """What a Prefect process is to be started with, so that its lines have the form of ours."""
    return {"PREFECT_LOGGING_SETTINGS_PATH": str(PREFECT_FILE)} if is_json() else {}


def _take_over_consoles(handler: logging.Handler) -> None:
    """Puts our handler in the place of Prefect's for the console, where Prefect was there first (in a flow run)."""
    known = (logging.getLogger(name) for name in list(logging.Logger.manager.loggerDict))
    for logger in (logging.getLogger(), *known):
        for other in [other for other in logger.handlers if type(other).__name__ == "PrefectConsoleHandler"]:
            logger.removeHandler(other)
            if handler not in logger.handlers:
                logger.addHandler(handler)


def _uncaught(logger: logging.Logger | None) -> None:
    """What nobody caught, and warnings, become lines as well; None gives both back."""
    global _hooked  # noqa: PLW0603 - there is one such hook in a process
    if logger is None:
        if _hooked:  # another's hooks are left alone
            sys.excepthook, threading.excepthook = sys.__excepthook__, threading.__excepthook__
            logging.captureWarnings(False)
        _hooked = False
        return

    def uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        level = logging.INFO if issubclass(kind, KeyboardInterrupt) else logging.CRITICAL
        logger.log(level, "ended by an uncaught error", exc_info=(kind, error, trace))

    def in_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None:
            uncaught(args.exc_type, args.exc_value, args.exc_traceback)

    sys.excepthook, threading.excepthook = uncaught, in_thread
    logging.captureWarnings(True)
    _hooked = True


class LineStream(io.TextIOBase):
    """A file for people's lines, each of which becomes a log line; empty ones and rules of tables are left out."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._rest = ""

    def write(self, text: str) -> int:
        """Takes some text; a line is written when it is whole."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if any(character.isalnum() for character in line):
                self._logger.info("%s", " ".join(line.replace("│", " ").replace("┃", " ").split()))
        return len(text)

    def isatty(self) -> bool:
        """Never: nothing is drawn."""
        return False

    def writable(self) -> bool:
        """Always."""
        return True


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """What a line is about."""
    given = {name: getattr(record, name) for name in ABOUT if getattr(record, name, None) not in (None, "")}
    return {**(_bound.get() or {}), **given}


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, what it is about, and an exception with its traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        document: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redact(record.getMessage(), limit=LONGEST),
            **{name: value if isinstance(value, int) else redact(value, 500) for name, value in _sorted(record)},
        }
        if record.exc_info and record.exc_info[1] is not None:
            document["error"] = redact(f"{type(record.exc_info[1]).__name__}: {record.exc_info[1]}", limit=2000)
            document["traceback"] = redact(self.formatException(record.exc_info), limit=LONGEST)
        return json.dumps(document, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """For people: `14:02:11 warning message (batch night, job shot-1, attempt 2)`."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        about = ", ".join(f"{name} {value}" for name, value in _sorted(record))
        moment = datetime.fromtimestamp(record.created, UTC)
        line = f"{moment:%H:%M:%S} {record.levelname.lower()} {record.getMessage()}" + (f" ({about})" if about else "")
        if record.exc_info and record.exc_info[1] is not None:
            line += f"\n{self.formatException(record.exc_info)}"
        return redact(line, limit=LONGEST)


def _sorted(record: logging.LogRecord) -> list[tuple[str, Any]]:
    fields = fields_of(record)
    return [(name, fields[name]) for name in ABOUT if name in fields]
