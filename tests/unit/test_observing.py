"""What leaves for Sentry and for a collector: what is wanted, nothing private, and never at the cost of the work."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import ClientDisconnect

from hybrid_video import logs, observing, redaction
from hybrid_video.cli.output import guarded
from hybrid_video.errors import ConfigurationError, FailureKind, InputError, TransientError
from hybrid_video.ledger import Ledger, Owner
from hybrid_video.logs import bound
from hybrid_video.models import Batch
from hybrid_video.observing import privacy, sentry, traces
from hybrid_video.settings import ObservingSettings, Settings, StorageSettings
from hybrid_video.watcher.loop import Duty, Watcher
from tests.unit.api_rig import serving
from tests.unit.engine_rig import ScriptedBackend, ran, small
from tests.unit.observing_rig import Receiver, Span, receiving

PROMPT = "A copper zeppelin drifts over the frozen harbour of Tallinn"
UNSPACED = ("静かな夜の海を渡る船、月明かり", "เรือข้ามทะเลในคืนที่เงียบสงบ")
KEY = "rpa_SENTINEL_for_observers_0001"
WHERE = "/srv/clients/acme-secret-film/shots"
PRIVATE = (b"zeppelin", b"harbour", b"SENTINEL", b"acme-secret", WHERE.encode(), str(Path.home()).encode())


@pytest.fixture(autouse=True)
def _off_before_and_afterwards() -> Iterator[None]:
    """Nothing stays switched on; and what earlier tests of this process started or silenced is as at its start."""
    observing.stop()
    logs.configure(logs.LogSettings(format="off"))
    for name, logger in logging.root.manager.loggerDict.items():
        if name.startswith("hybrid_video") and isinstance(logger, logging.Logger):
            logger.disabled = False  # Prefect's logging configuration disables what it does not know
    yield
    observing.stop()


@pytest.fixture
def server() -> Iterator[Receiver]:
    """A Sentry and a collector in one."""
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def reports(server: Receiver) -> Receiver:
    """A Sentry that this process reports to."""
    observing.start("test", ObservingSettings(sentry_dsn=server.dsn))
    return server


def raised(error: BaseException, **about: str | int) -> BaseException:
    """The error with a traceback, out of work that was about something, with private things in local variables."""
    prompt, key, path = PROMPT, KEY, WHERE  # noqa: F841 - what must not go along
    try:
        with bound(**about):
            raise error
    except BaseException as caught:
        return caught


def test_off_means_that_nothing_is_imported() -> None:
    """Whoever observes nothing pays for nothing: not even the libraries are loaded."""
    code = (
        "import sys; from hybrid_video.cli import app; from hybrid_video.cli.output import guarded;"
        "guarded(app, ['prices', '--json']);"
        "assert not {'sentry_sdk', 'opentelemetry.sdk'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_report_says_where_and_about_what_and_nothing_else(reports: Receiver) -> None:
    """Type, scrubbed message, lines of code, tags; no variables, arguments, host, user, paths, prompts or keys."""
    redaction.register(KEY)
    observing.keep_batch_private(Batch.model_validate({"name": "night", "jobs": [{"id": "s1", "prompt": PROMPT}]}))
    error = raised(
        RuntimeError(f"drifts over the frozen harbour {KEY} in {WHERE}/a.mp4 and 'a copper zeppelin'"),
        batch="night",
        job="s1",
        attempt=2,
        backend="comfyui",
    )
    assert observing.report(error)
    reports.until(reports.events)
    (event,) = reports.events()
    assert event["tags"] == {"part": "test", "batch": "night", "job": "s1", "attempt": "2", "backend": "comfyui"}
    (told,) = event["exception"]["values"]
    assert (told["type"], told["value"]) == ("RuntimeError", "[text] [redacted] in [path] and [withheld]")
    frame = told["stacktrace"]["frames"][-1]
    assert (frame["function"], frame["module"]) == ("raised", __name__)
    assert set(frame) == {"module", "function", "filename", "lineno", "in_app"}
    assert set(event) <= sentry.KEPT
    assert event["release"].startswith("hybrid-video@")
    for private in (*PRIVATE, socket.gethostname().encode()):
        assert private not in reports.everything, private


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (KeyError(PROMPT), "[withheld]"),
        (ValueError(f"vendor said: {PROMPT}"), "vendor said: [text]"),
        (ValueError(f"can't use 'x' in {WHERE}"), "can't use [withheld]"),
        (ValueError(f"first\n{PROMPT}"), "first[withheld]"),
        (ValueError(f"bad {{'prompt': {PROMPT!r}}}"), "bad [withheld]"),
        (
            ValueError("see https://u@host/film?x=1 or C:\\films\\a.mov or c.mp4"),
            "see [path] or [path] or [path]",
        ),
        (FileNotFoundError(2, "No such file or directory", f"{WHERE}/a.mp4"), "(Errno 2) No such file or directory"),
        (AttributeError("'NoneType' object has no attribute 'path'"), "‹NoneType› object has no attribute ‹path›"),
        (TypeError(f"cannot join {PROMPT!r}"), "cannot join [withheld]"),
        (UnicodeDecodeError("utf-8", PROMPT.encode(), 0, 1, "bad"), "[withheld]"),
        (ZeroDivisionError("division by zero"), "division by zero"),
        (ValueError("vendor said: 夜の海を渡る船 again"), "vendor said: [text] again"),
        (ValueError("vendor said: เรือข้ามทะเล again"), "vendor said: [text] again"),
    ],
)
def test_only_the_harmless_part_of_a_message_leaves(error: Exception, told: str) -> None:
    """Messages quote whatever they like; what stands in quotation marks, brackets and paths stays here."""
    privacy.keep_private((PROMPT, *UNSPACED))
    assert privacy.of_error(error) == told or (told == "[withheld]" and privacy.of_error(error).endswith(told))
    for private in PRIVATE[:4]:
        assert private.decode() not in privacy.of_error(error)


def test_prompts_are_remembered_only_where_something_may_leave(server: Receiver) -> None:
    """A studio without Sentry keeps no second copy of its prompts in memory; and with it only so many."""
    batch = Batch.model_validate({"name": "night", "jobs": [{"id": "s1", "prompt": PROMPT}]})
    observing.keep_batch_private(batch)
    assert not privacy._groups
    observing.start("test", ObservingSettings(sentry_dsn=server.dsn))
    observing.keep_batch_private(batch)
    assert len(privacy._groups) == len(PROMPT.split()) - privacy.TOGETHER + 1
    privacy.keep_private([" ".join(f"w{n}" for n in range(2 * privacy.MOST_KEPT))])
    assert len(privacy._groups) == privacy.MOST_KEPT
    observing.stop()
    assert not privacy._groups


def test_what_people_did_wrong_and_failed_attempts_are_no_defects(reports: Receiver) -> None:
    """Input errors, limits, vendors' failures, Ctrl-C, cancellations, callers who hang up: the daily work."""
    broken = TransientError("gone", kind=FailureKind.UNREACHABLE, backend="comfyui")
    ended = (KeyboardInterrupt(), asyncio.CancelledError(), BrokenPipeError(), TimeoutError(), ClientDisconnect())
    for error in (InputError("bad batch"), ConfigurationError("no key"), broken, *ended):
        assert not observing.report(raised(error))
    observing.stop()
    assert reports.requests == []


def test_the_same_error_again_and_again_is_reported_once(reports: Receiver) -> None:
    """A watcher meets a defect every five seconds; and of different ones only so many leave in an hour."""
    assert [observing.report(raised(ValueError(f"number {n}"))) for n in range(5)] == [True, False, False, False, False]
    kinds = [type(f"Kind{n}", (Exception,), {}) for n in range(40)]
    assert sum(observing.report(raised(kind("x"))) for kind in kinds) == sentry.MOST_AN_HOUR - 1
    observing.stop()
    assert len(reports.events()) == sentry.MOST_AN_HOUR


def test_causes_go_along_scrubbed(reports: Receiver) -> None:
    """What an error came from, the oldest first, as Sentry wants it."""
    try:
        try:
            raise KeyError(PROMPT)
        except KeyError as error:
            raise RuntimeError("the second") from error
    except RuntimeError as error:
        observing.report(error)
    observing.stop()
    (event,) = reports.events()
    assert [value["type"] for value in event["exception"]["values"]] == ["KeyError", "RuntimeError"]
    assert b"zeppelin" not in reports.everything


@pytest.mark.parametrize("how", ["refuses", "hangs", "answers 500", "answers 429"])
def test_a_sentry_that_is_down_costs_nothing(how: str) -> None:
    """Reporting returns at once, and the end of the process waits two seconds at most."""
    with socket.socket() as taken, receiving(int(how[-3:]) if how.startswith("answers") else 200) as server:
        taken.bind(("127.0.0.1", 0))
        if how == "hangs":
            taken.listen(5)
        dsn = server.dsn if how.startswith("answers") else f"http://key@127.0.0.1:{taken.getsockname()[1]}/1"
        observing.start("test", ObservingSettings(sentry_dsn=dsn))
        error = raised(ValueError("x"))
        began_s = time.monotonic()
        assert observing.report(error)
        assert time.monotonic() - began_s < sentry.END_S
        began_s = time.monotonic()
        observing.stop()
        assert time.monotonic() - began_s < sentry.END_S + 5


def test_a_missing_package_is_one_clear_sentence(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With the command that installs it; the work goes on."""
    for name in ("sentry_sdk", "opentelemetry.exporter.otlp.proto.http.trace_exporter"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setenv("SENTRY_DSN", "http://key@127.0.0.1:1/1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    with caplog.at_level(logging.WARNING, "hybrid_video"):
        observing.start("test")
        observing.start("test")
    remedy = "run pip install 'hybrid-video[observability]', or unset it"
    assert [record.getMessage() for record in caplog.records] == [
        f"HYBRID_VIDEO_SENTRY_DSN is set, but errors are not reported to Sentry: {remedy}",
        f"OTEL_EXPORTER_OTLP_ENDPOINT is set, but no traces are sent: {remedy}",
    ]
    assert not observing.report(raised(ValueError("x")))


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("SENTRY_DSN", "no-dsn-SENTINEL", "is no DSN"),
        ("HYBRID_VIDEO_SENTRY_DSN", "http://host/1?SENTINEL", "is no DSN"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318", "is not an http"),
    ],
)
def test_a_wrong_address_is_a_sentence_without_the_secret(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, says: str
) -> None:
    """With the variable; where a module is only being imported it is left to whoever starts the work."""
    monkeypatch.setenv(variable, value)
    observing.start("test", strict=False)
    with pytest.raises(ConfigurationError, match=says) as caught:
        observing.start("test")
    assert variable in str(caught.value)
    assert "SENTINEL" not in str(caught.value)


def test_empty_variables_mean_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose files hand every variable on, set or not."""
    for name in ("HYBRID_VIDEO_SENTRY_DSN", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_HEADERS"):
        monkeypatch.setenv(name, "")
    found = ObservingSettings()
    assert (found.sentry_dsn, found.traces_url, found.header_pairs) == (None, "", {})


def test_what_the_specification_switches_off_is_off(
    server: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """OTEL_TRACES_EXPORTER=none and OTEL_SDK_DISABLED; and a protocol that is not spoken here is told."""
    for variable, value in (("OTEL_TRACES_EXPORTER", "none"), ("OTEL_SDK_DISABLED", "true")):
        with monkeypatch.context() as patch:
            patch.setenv(variable, value)
            observing.start("test", ObservingSettings(otlp_endpoint=server.url))
            assert traces._tracer is None
            observing.stop()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    monkeypatch.setattr(traces, "configure", lambda *_: None)
    with caplog.at_level(logging.WARNING, "hybrid_video"):
        observing.start("test", ObservingSettings(otlp_endpoint=server.url))
    assert "is 'grpc', and traces are sent as http/protobuf" in caplog.text


# -- from every part of the product ------------------------------------------------------------------------------------


def test_the_command_line_reports_a_defect(reports: Receiver, capsys: pytest.CaptureFixture[str]) -> None:
    """As people see it: a sentence and exit 1; nothing is reported of a wrong file."""

    def broken(*_: Any, **__: Any) -> int:
        raise RuntimeError("the moon is full")

    assert guarded(broken, ["run", WHERE]) == 1  # type: ignore[arg-type]
    assert "the moon is full" in capsys.readouterr().err
    observing.stop()
    (event,) = reports.events()
    assert event["exception"]["values"][-1]["value"] == "the moon is full"
    assert WHERE.encode() not in reports.everything


def test_the_api_reports_a_defect_but_not_the_request(
    reports: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """500 for the caller with a reference; Sentry gets neither path nor body nor token."""
    monkeypatch.setenv("HYBRID_VIDEO_COMFYUI_URLS", "http://127.0.0.1:1")
    with serving(tmp_path, roles=True) as api:
        body = {"job": {"id": "s1", "prompt": PROMPT}, "preferences": {"backend": "local"}}

        def boom(*_: Any) -> None:
            raise RuntimeError(f"cannot decide {PROMPT!r}")

        monkeypatch.setattr("hybrid_video.api.loadbalancer.decision_line", boom)
        answer = api.post("/api/loadbalancer/select", json=body)
    assert answer.status_code == 500
    observing.stop()
    assert "cannot decide [withheld]" in {e["exception"]["values"][-1]["value"] for e in reports.events()}
    for private in (b"zeppelin", b"loadbalancer/select", b"token-of-the-tests"):
        assert private not in reports.everything


async def test_a_defect_in_a_run_names_its_attempt(
    reports: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends the run; the report knows batch, job, attempt and backend, and not the prompt."""

    def defect(*_: Any, **__: Any) -> Any:
        raise RuntimeError(f"no idea what to do with {PROMPT}")

    monkeypatch.setattr("hybrid_video.engine.attempts.check_clip", defect)
    job = small("s1", prompt=PROMPT)
    observing.keep_batch_private(Batch(name="film", jobs=(job,)))
    with pytest.raises(RuntimeError) as caught:
        async with ran([ScriptedBackend("comfyui")], tmp_path, (job,)):
            pass
    assert observing.report(caught.value)
    observing.stop()
    (event,) = reports.events()
    assert event["tags"] | {"part": ""} == {
        "part": "",
        "batch": "film",
        "job": "s1",
        "attempt": "1",
        "backend": "comfyui",
    }
    assert b"zeppelin" not in reports.everything
    assert str(tmp_path).encode() not in reports.everything


def test_what_ends_a_flow_run_is_reported_however_it_is_written(reports: Receiver) -> None:
    """Prefect catches it and logs it; a warning, and an error of our own tree, are not defects."""
    logger = logging.getLogger(sentry.FLOWS)
    for error in (RuntimeError("the end"), InputError("no batch")):
        logger.error("Encountered exception during execution: %r", error, exc_info=raised(error))
    logger.warning("slow", exc_info=raised(ValueError("x")))
    logger.error("without any")
    observing.stop()
    logger.error("later", exc_info=raised(KeyError("x")))
    assert [event["exception"]["values"][-1]["value"] for event in reports.events()] == ["the end"]


async def test_the_watcher_reports_a_defect_of_a_duty_and_not_a_vendor_that_is_down(
    reports: Receiver, tmp_path: Path
) -> None:
    """It goes on either way; Sentry learns of the defect alone."""
    settings = Settings(storage=StorageSettings(home=tmp_path))
    ledger, owner = Ledger.open(settings.storage.ledger_path), Owner(tmp_path)
    errors: list[Exception] = [RuntimeError("a defect"), TransientError("x", kind=FailureKind.UNREACHABLE, backend="b")]

    async def work() -> None:
        raise errors.pop(0)

    try:
        watcher, duty = Watcher(settings, ledger, owner), Duty("health", 30.0, work)
        for _ in range(2):
            await watcher._do(duty)
    finally:
        owner.close()
        ledger.close()
    assert duty.failures == 2
    observing.stop()
    assert [event["exception"]["values"][-1]["value"] for event in reports.events()] == ["a defect"]


def test_the_dashboard_reports_a_page_that_fails(reports: Receiver, tmp_path: Path) -> None:
    """The visitor sees a sentence with a reference; Sentry the defect, without what the page was about."""
    from streamlit.testing.v1 import AppTest

    page = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[2] / "dashboard")!r})
from dashboard_parts.states import guarded

@guarded
def page():
    [][len({PROMPT!r})]

page()
"""
    shown = AppTest.from_string(page, default_timeout=30).run()
    assert not shown.exception
    observing.stop()
    (event,) = reports.events()
    assert event["exception"]["values"][-1]["value"] == "list index out of range"
    assert b"zeppelin" not in reports.everything


# -- traces ------------------------------------------------------------------------------------------------------------

TRACED_RUN = """
import asyncio, sys, time
from pathlib import Path
from hybrid_video import observing
from hybrid_video.errors import FailureKind, TransientError
from tests.unit.engine_rig import ScriptedBackend, ran, small

async def main():
    broken = TransientError("gone: {prompt}", kind=FailureKind.UNREACHABLE, backend="comfyui", execution_s=0.0)
    backends = [ScriptedBackend("comfyui", fail_watch=[broken])]
    async with ran(backends, Path(sys.argv[1]), (small("s1", prompt="{prompt}"), small("s2"))) as outcome:
        assert outcome.report.completed == 2

observing.start("run")
began_s = time.monotonic()
asyncio.run(main())
ran_s = time.monotonic()
observing.stop()
print(ran_s - began_s, time.monotonic() - ran_s)
"""


def traced_run(url: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A whole batch in a process of its own: a tracer provider can be set only once in one."""
    return subprocess.run(
        [sys.executable, "-c", TRACED_RUN.replace("{prompt}", PROMPT), str(folder)],
        env={**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": url, "PYTHONPATH": str(Path.cwd()), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def below(spans: list[Span], top: Span) -> set[str]:
    """Names of a span's children."""
    return {span.name for span in spans if span.parent == top.id}


def test_a_batch_is_one_trace_with_every_step_of_every_attempt(server: Receiver, tmp_path: Path) -> None:
    """Received as OTLP protobuf: batch over attempts over their steps, in time, with their ids; nothing private."""
    done = traced_run(server.url, tmp_path, OTEL_EXPORTER_OTLP_HEADERS="authorization=Bearer%20collector-token")
    assert done.returncode == 0, done.stderr
    spans = server.spans()
    (batch,) = [span for span in spans if span.name == "batch"]
    assert {span.trace for span in spans} == {batch.trace}
    assert batch.resource["service.name"] == "hybrid-video"
    assert batch.attributes["hybrid_video.batch"] == "film"
    attempts = [span for span in spans if span.name == "attempt"]
    assert {span.parent for span in attempts} == {batch.id}
    assert sorted((s.attributes["hybrid_video.job"], s.attributes["hybrid_video.attempt"]) for s in attempts) == [
        ("s1", 1),
        ("s1", 2),
        ("s2", 1),
    ]
    failed = next(s for s in attempts if below(spans, s) == {"decide", "reserve", "submit", "wait", "settle"})
    (wait,) = [span for span in spans if span.parent == failed.id and span.name == "wait"]
    assert (wait.failed, wait.why, wait.attributes["error.type"]) == (True, "unreachable", "unreachable")
    for attempt in attempts:
        if attempt is not failed:
            assert below(spans, attempt) == {"decide", "reserve", "submit", "wait", "fetch", "settle"}
            steps = sorted((s for s in spans if s.parent == attempt.id), key=lambda s: s.begin_ns)
            assert [s.name for s in steps] == ["decide", "reserve", "submit", "wait", "fetch", "settle"]
            assert attempt.begin_ns <= steps[0].begin_ns <= steps[-1].end_ns <= attempt.end_ns
    assert server.requests[0][1]["authorization"] == "Bearer collector-token"
    for private in (b"zeppelin", str(tmp_path).encode()):
        assert private not in server.everything


def test_spans_of_prefect_lose_what_they_quote(server: Receiver) -> None:
    """Its messages, exceptions and tracebacks hold vendors' texts, paths and keys; names and numbers stay."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.trace import Status, StatusCode

    redaction.register(KEY)
    url = f"{server.url}/v1/traces"
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(traces.scrubbing(OTLPSpanExporter(endpoint=url), url)))
    with provider.get_tracer("prefect").start_as_current_span("night (12 jobs)") as span:
        span.set_attribute("prefect.run.name", "night (12 jobs)")
        span.set_attribute("prefect.tags", ("a", "b"))
        span.set_attribute("odd", f"Authorization: Bearer {KEY}")
        span.add_event(
            "Failed", {"prefect.state.message": f"blocked: '{PROMPT}' at {WHERE}", "prefect.state.type": "FAILED"}
        )
        span.record_exception(RuntimeError(f"no {PROMPT!r} in {WHERE}"))
        span.set_status(Status(StatusCode.ERROR, f"blocked: '{PROMPT}'"))
    provider.shutdown()
    (sent,) = server.spans()
    assert sent.attributes["prefect.run.name"] == sent.name == "night (12 jobs)"
    assert (sent.failed, sent.why) == (True, "blocked: [withheld]")
    for private in PRIVATE[:5]:
        assert private not in server.everything, private


@pytest.mark.slow
def test_a_collector_that_is_down_is_one_warning_and_no_delay(tmp_path: Path) -> None:
    """The clips are made, the end waits three seconds at most, and nobody reads pages of errors."""
    with socket.socket() as hanging:
        hanging.bind(("127.0.0.1", 0))
        hanging.listen(5)
        plain = traced_run("", tmp_path / "plain")
        plain_s, nothing_s = map(float, plain.stdout.split())
        assert nothing_s < 1
        urls = (f"http://127.0.0.1:{hanging.getsockname()[1]}", "http://127.0.0.1:1")
        with ThreadPoolExecutor(len(urls)) as pool:
            both = list(pool.map(traced_run, urls, (tmp_path / "hangs", tmp_path / "refuses")))
        for done in both:
            assert done.returncode == 0, done.stderr
            took_s, end_s = map(float, done.stdout.split())
            assert took_s < 3 * plain_s + 5
            assert end_s < traces.END_S + 3
            assert len(done.stderr.splitlines()) <= 1, done.stderr
            assert "Traceback" not in done.stderr


def test_only_the_adapters_import_the_libraries() -> None:
    """Another vendor of the same would cost one module."""
    source = Path(observing.__file__).parents[1]
    found = {
        path.relative_to(source).as_posix()
        for path in source.rglob("*.py")
        if any(
            line.split()[1].split(".")[0] in ("opentelemetry", "sentry_sdk")
            for line in path.read_text().splitlines()
            if line.strip().startswith(("import ", "from ")) and len(line.split()) > 1
        )
    }
    assert found == {"observing/sentry.py", "observing/traces.py"}
