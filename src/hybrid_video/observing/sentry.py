"""Unexpected errors to Sentry: a type, a scrubbed message, our own lines of code, and which attempt it was.

An event is built here from nothing, instead of cleaning what the SDK collects: no local variables, request bodies,
arguments, host names or users are ever put in. The client is one of our own, so that another program's Sentry (a user's
script around this package) is not touched. It sends from a thread of its own and drops what cannot be delivered.
"""

from __future__ import annotations

import contextlib
import logging
import platform
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Final

import hybrid_video
from hybrid_video import logs
from hybrid_video.errors import ConfigurationError, HybridVideoError
from hybrid_video.observing import privacy
from hybrid_video.redaction import redact

if TYPE_CHECKING:
    from sentry_sdk import Client
    from sentry_sdk.types import Event

log = logging.getLogger(__name__)

TAGS: Final = ("batch", "job", "attempt", "backend")
KEPT: Final = frozenset(
    {"event_id", "timestamp", "level", "platform", "release", "environment", "exception", "tags", "contexts", "sdk"}
)
"""What an event may hold; whatever else the SDK adds is taken out again."""

SAME_AGAIN_S = 3600.0
"""The same error at the same place is reported once in an hour: a watcher may meet it every five seconds."""
MOST_AN_HOUR = 20
FLOWS: Final = "prefect.flow_runs"
"""The logger that Prefect 3.8.8 tells of an error in a flow's body with (`Encountered exception during execution`)."""
END_S = 2.0
"""A process that ends waits so long for its last reports."""
DEEPEST = 60
LONGEST_CHAIN = 5

_lock = threading.Lock()
_client: Client | None = None
_part = ""
_reported: deque[tuple[float, tuple[object, ...]]] = deque(maxlen=MOST_AN_HOUR)


def configure(dsn: str, environment: str, part: str) -> None:
    """Makes the client; `part` is the command or flow this process is.

    Raises:
        ImportError: sentry_sdk is not installed.
        ConfigurationError: the DSN is none.
    """
    global _client, _part
    from sentry_sdk import Client  # noqa: PLC0415 - an optional extra
    from sentry_sdk.utils import BadDsn  # noqa: PLC0415

    try:
        made = Client(
            dsn=dsn,
            release=f"hybrid-video@{hybrid_video.__version__}",
            environment=environment,
            default_integrations=False,
            auto_enabling_integrations=False,
            include_local_variables=False,
            include_source_context=False,
            max_request_body_size="never",
            max_breadcrumbs=0,
            auto_session_tracking=False,
            send_client_reports=False,
            propagate_traces=False,
            server_name="",
            shutdown_timeout=END_S,
            before_send=_only_what_is_kept,
        )
    except BadDsn:
        raise ConfigurationError(
            "HYBRID_VIDEO_SENTRY_DSN (or SENTRY_DSN) is no DSN; copy it from the project's settings in Sentry, Client "
            "Keys, or unset it"
        ) from None
    with _lock:
        _client, _part = made, part
        _reported.clear()
    logging.getLogger(FLOWS).addHandler(_flows)


def report(error: BaseException, **about: str | int) -> bool:
    """Reports an error nobody expected; True if it was handed to the sender. Never raises, never waits.

    Errors of our own tree are answers to people, not defects, and one failed attempt is the engine's daily work:
    neither is reported.

    Args:
        about: batch, job, attempt, backend, where the caller knows them better than the error's own way up.
    """
    client = _client
    if client is None or not is_unexpected(error):
        return False
    try:
        if not _first_of_its_kind(error):
            return False
        client.capture_event(_event(error, about))
        return True
    except Exception:
        log.debug("an error could not be reported", exc_info=True)
        return False


def close() -> None:
    """Sends what is still waiting, for END_S at most, and forgets the client."""
    global _client
    logging.getLogger(FLOWS).removeHandler(_flows)
    with _lock:
        client, _client = _client, None
    if client is not None:
        with contextlib.suppress(Exception):
            client.close(timeout=END_S)


class _OfFlows(logging.Handler):
    """Reports what ended a flow run: Prefect logs it with its traceback and lets nobody else see it."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            report(record.exc_info[1])


_flows = _OfFlows(logging.ERROR)


def is_unexpected(error: BaseException) -> bool:
    """Whether it is a defect: not our own tree, not a connection that broke or was too slow, not Prefect's control."""
    if not isinstance(error, Exception) or isinstance(error, (HybridVideoError, TimeoutError, ConnectionError)):
        return False
    package = type(error).__module__.partition(".")[0]
    return package != "prefect" and type(error).__name__ != "ClientDisconnect"  # Starlette's, of a caller who has gone


def _first_of_its_kind(error: BaseException) -> bool:
    """Whether this error at this place is new within the hour, and there have not been too many of any kind."""
    kind = (type(error), *_innermost(error.__traceback__))
    now = time.monotonic()
    with _lock:
        while _reported and now - _reported[0][0] >= SAME_AGAIN_S:
            _reported.popleft()
        if len(_reported) == MOST_AN_HOUR or any(known == kind for _, known in _reported):
            return False
        _reported.append((now, kind))
    return True


def _innermost(trace: TracebackType | None) -> tuple[object, ...]:
    last = None
    for frame, line in _frames(trace):
        last = (frame.f_code.co_filename, frame.f_code.co_name, line)
    return last or ()


def _event(error: BaseException, about: Mapping[str, str | int]) -> Event:
    known = {**logs.fields_now(), **logs.about_of(error), **about}
    tags = {name: redact(known[name], 200) for name in TAGS if known.get(name) not in (None, "")}
    return {
        "level": "error",
        "platform": "python",
        "tags": {"part": _part, **tags},
        "exception": {"values": [_told(one) for one in reversed(list(_chain(error)))]},
        "contexts": {
            "runtime": {"name": platform.python_implementation(), "version": platform.python_version()},
            "os": {"name": platform.system()},
        },
    }


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it came from, the newest first."""
    one: BaseException | None = error
    for _ in range(LONGEST_CHAIN):
        if one is None:
            return
        yield one
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)


def _told(error: BaseException) -> dict[str, Any]:
    frames = [_frame(frame, line) for frame, line in list(_frames(error.__traceback__))[-DEEPEST:]]
    return {
        "type": type(error).__name__,
        "module": type(error).__module__,
        "value": privacy.of_error(error),
        "mechanism": {"type": "hybrid-video", "handled": True},
        "stacktrace": {"frames": frames},
    }


def _frames(trace: TracebackType | None) -> Iterator[tuple[FrameType, int]]:
    while trace is not None:
        yield trace.tb_frame, trace.tb_lineno
        trace = trace.tb_next


def _frame(frame: FrameType, line: int) -> dict[str, Any]:
    """Which line of which function; the file by its module, because paths say whose machine it is."""
    module = str(frame.f_globals.get("__name__") or "?")
    return {
        "module": module,
        "function": frame.f_code.co_qualname,
        "filename": f"{module.replace('.', '/')}.py",
        "lineno": line,
        "in_app": _is_ours(frame.f_code.co_filename),
    }


def _is_ours(file: str) -> bool:
    from hybrid_video.project import project_dir  # noqa: PLC0415 - only asked when something went wrong

    folders = [Path(hybrid_video.__file__).parent]
    with contextlib.suppress(HybridVideoError):
        folders += [project_dir() / name for name in ("flows", "tasks", "dashboard")]
    return any(Path(file).is_relative_to(folder) for folder in folders)


def _only_what_is_kept(event: Event, _hint: dict[str, Any]) -> Event:
    for name in set(event) - KEPT:
        event.pop(name)  # type: ignore[misc]
    return event
