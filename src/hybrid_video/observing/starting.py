"""Turns reports and traces on where the environment gives an address, once in a process."""

from __future__ import annotations

import atexit
import logging
import os
import threading

from pydantic import ValidationError

from hybrid_video.errors import ConfigurationError
from hybrid_video.observing import privacy, sentry, traces
from hybrid_video.settings import ObservingSettings, problems_of

log = logging.getLogger("hybrid_video.observing")

SPOKEN = "http/protobuf"

_lock = threading.Lock()
_started = False


def start(part: str, settings: ObservingSettings | None = None, *, strict: bool = True) -> None:
    """Starts what is configured; does nothing when called again. Without an address nothing is even imported.

    Args:
        part: what this process is: a command's name, a flow's, `dashboard`. Reports and traces carry it.
        settings: read from the environment when not given.
        strict: False where a wrong setting is somebody else's to tell (a module that is only being imported).

    Raises:
        ConfigurationError: an address is none; not with `strict=False`.
    """
    global _started  # noqa: PLW0603 - once in a process
    with _lock:
        if _started:
            return
        try:
            _start(part, settings or _settings())
            _started = True
        except ConfigurationError:
            if strict:
                raise


def stop() -> None:
    """Sends what is left, within seconds, and turns everything off."""
    global _started  # noqa: PLW0603
    with _lock:
        _started = False
        sentry.close()
        traces.close()
        privacy.keep(False)


def _settings() -> ObservingSettings:
    try:
        return ObservingSettings()
    except ValidationError as error:
        raise ConfigurationError("\n".join(problems_of(ObservingSettings, error))) from None


def _start(part: str, settings: ObservingSettings) -> None:
    on = False
    if settings.sentry_dsn is not None:
        try:
            sentry.configure(settings.sentry_dsn.get_secret_value(), settings.sentry_environment, part)
            on = True
        except ImportError:
            _missing("HYBRID_VIDEO_SENTRY_DSN", "errors are not reported to Sentry")
    if settings.traces_url and _traces_wanted():
        try:
            traces.configure(settings.traces_url, settings.header_pairs, part)
            on = True
        except ImportError:
            _missing("OTEL_EXPORTER_OTLP_ENDPOINT", "no traces are sent")
    if on:
        privacy.keep(True)
        atexit.register(stop)


def _traces_wanted() -> bool:
    """Whether the specification's other variables leave traces on; tells of a protocol that is not spoken here."""
    if os.environ.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp" or os.environ.get("OTEL_SDK_DISABLED") == "true":
        return False
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    if protocol not in (None, "", SPOKEN):
        log.warning(
            "OTEL_EXPORTER_OTLP_PROTOCOL is %r, and traces are sent as %s: give the collector's port for that, usually "
            "4318, and set the protocol to it",
            protocol,
            SPOKEN,
        )
    return True


def _missing(variable: str, what: str) -> None:
    log.warning("%s is set, but %s: run pip install 'hybrid-video[observability]', or unset it", variable, what)
