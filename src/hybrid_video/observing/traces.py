"""Traces to an OpenTelemetry collector; the only module that imports opentelemetry.

Prefect makes spans of flow and task runs by itself as soon as a tracer provider is there (`prefect.telemetry`, seen in
3.8.8); ours stand inside them, so that one trace leads from the flow to the vendor's answer: batch, attempt, and within
an attempt decide, reserve, submit, wait, fetch and settle. Switched off, a traced function costs a microsecond.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

from hybrid_video import __version__, logs
from hybrid_video.errors import BackendError
from hybrid_video.models import WorkOrder
from hybrid_video.observing.privacy import scrubbed
from hybrid_video.redaction import redact

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Tracer

log = logging.getLogger(__name__)

TAGS: Final = ("batch", "job", "attempt", "backend")
FREE_TEXT: Final = frozenset({"prefect.state.message", "exception.message", "exception.stacktrace"})
"""Attributes of others that may quote a vendor, a prompt or a path."""

SEND_S = 5.0
END_S = 3.0
"""A process that ends waits so long for its last spans."""

Given = ParamSpec("Given")
Result = TypeVar("Result")

_NOTHING: Final = contextlib.nullcontext()
_tracer: Tracer | None = None
_closer: Callable[[], None] = lambda: None  # noqa: E731


def configure(url: str, headers: Mapping[str, str], part: str) -> None:
    """Sends spans to `url` from now on. Where another program has set a tracer provider up already, that one is used.

    Raises:
        ImportError: the SDK or its exporter is not installed.
    """
    global _tracer, _closer  # noqa: PLW0603 - one provider in a process
    from opentelemetry import trace  # noqa: PLC0415 - tens of milliseconds that nobody pays for who has no collector
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    if not isinstance(trace.get_tracer_provider(), TracerProvider):
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # it complains at every failure; we say it once
        resource = Resource.create(
            {
                "service.name": os.environ.get("OTEL_SERVICE_NAME") or "hybrid-video",
                "service.version": __version__,
                "hybrid_video.part": part,
            }
        )
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        exporter = OTLPSpanExporter(endpoint=url, headers=dict(headers) or None, timeout=SEND_S)
        provider.add_span_processor(BatchSpanProcessor(scrubbing(exporter, url)))
        trace.set_tracer_provider(provider)
        _closer = _bounded_end(provider)
    _tracer = trace.get_tracer("hybrid_video", __version__)


def close() -> None:
    """Sends what is still waiting, for END_S at most."""
    global _tracer  # noqa: PLW0603
    _tracer = None
    _closer()


def about(order: WorkOrder) -> dict[str, str | int]:
    """What log lines, reports and spans of an attempt say they are about."""
    return {"batch": order.batch, "job": order.job.id, "attempt": order.number, "backend": order.quote.backend}


def traced(
    name: str, about: Callable[..., Mapping[str, str | int]] | None = None
) -> Callable[[Callable[Given, Result]], Callable[Given, Result]]:
    """Makes a span of each call of a function or coroutine function, about whatever `logs.bound` says it is about.

    Args:
        about: from the arguments of a call, what else it is about; log lines below it say so too.
    """

    def decorated(function: Callable[Given, Result]) -> Callable[Given, Result]:
        def inside(args: tuple[Any, ...]) -> contextlib.AbstractContextManager[None]:
            if about is None:
                return _NOTHING if _tracer is None else _span(name)
            return _spanned(name, about(*args))

        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def waited(*args: Given.args, **kwargs: Given.kwargs) -> Any:
                with inside(args):
                    return await function(*args, **kwargs)

            return waited  # type: ignore[return-value]

        @functools.wraps(function)
        def called(*args: Given.args, **kwargs: Given.kwargs) -> Result:
            with inside(args):
                return function(*args, **kwargs)

        return called

    return decorated


@contextlib.contextmanager
def _spanned(name: str, fields: Mapping[str, str | int]) -> Iterator[None]:
    with logs.bound(**fields), _NOTHING if _tracer is None else _span(name):
        yield


@contextlib.contextmanager
def _span(name: str) -> Iterator[None]:
    """A span whose failure is told by kind and type: messages may quote anybody."""
    from opentelemetry.trace import Status, StatusCode  # noqa: PLC0415

    tracer = _tracer
    if tracer is None:  # switched off in between
        yield
        return
    about = {f"hybrid_video.{key}": value for key, value in logs.fields_now().items() if key in TAGS}
    with tracer.start_as_current_span(
        name, attributes=about, record_exception=False, set_status_on_exception=False
    ) as span:
        try:
            yield
        except BaseException as error:
            kind = error.kind.value if isinstance(error, BackendError) else type(error).__name__
            span.set_attribute("error.type", kind)
            if isinstance(error, Exception):  # a cancellation is no failure
                span.set_status(Status(StatusCode.ERROR, kind))
            raise


def scrubbing(exporter: SpanExporter, url: str) -> SpanExporter:
    """An exporter that takes out of every span, Prefect's included, what must not leave; and that says it once when
    nothing can be delivered."""
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult  # noqa: PLC0415

    class Scrubbing(SpanExporter):
        def __init__(self) -> None:
            self._told = False

        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            result = exporter.export([_scrubbed_span(span) for span in spans])
            if result is not SpanExportResult.SUCCESS and not self._told:
                self._told = True
                log.warning("no traces can be delivered to %s; they are dropped, the work goes on", redact(url))
            return result

        def shutdown(self) -> None:
            exporter.shutdown()

    return Scrubbing()


def _scrubbed_span(span: ReadableSpan) -> ReadableSpan:
    from opentelemetry.sdk.trace import Event, ReadableSpan  # noqa: PLC0415
    from opentelemetry.trace import Status  # noqa: PLC0415

    status = span.status
    if status.description:
        status = Status(status.status_code, scrubbed(status.description))
    return ReadableSpan(
        name=redact(span.name, 200),
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes=_scrubbed_attributes(span.attributes),
        events=[Event(redact(e.name, 200), _scrubbed_attributes(e.attributes), e.timestamp) for e in span.events],
        links=span.links,
        kind=span.kind,
        status=status,
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def _scrubbed_attributes(attributes: Mapping[str, Any] | None) -> dict[str, Any]:
    return {
        name: (scrubbed(value) if name in FREE_TEXT else redact(value, 500)) if isinstance(value, str) else value
        for name, value in (attributes or {}).items()
    }


def _bounded_end(provider: TracerProvider) -> Callable[[], None]:
    """What ends a provider within END_S. Its own end waits for a collector that does not answer, and Python 3.12 starts
    no thread any more while a process ends: so the thread that waits for it is started now."""
    asked, done = threading.Event(), threading.Event()

    def wait_and_end() -> None:
        asked.wait()
        with contextlib.suppress(Exception):
            provider.shutdown()
        done.set()

    threading.Thread(target=wait_and_end, name="traces-end", daemon=True).start()

    def end() -> None:
        asked.set()
        done.wait(END_S)

    return end
