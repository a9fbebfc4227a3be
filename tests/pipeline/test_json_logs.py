"""HYBRID_VIDEO_LOG_FORMAT=json in real processes: whatever comes out on standard error is one JSON object a line."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pipeline_rig import Deployed, Process, Project, Servers, until

from hybrid_video import logs
from hybrid_video.prefect_api import call
from hybrid_video.prefect_server import PrefectServer
from hybrid_video.prefect_worker import PrefectWorker
from tests.unit.observing_rig import Receiver, receiving

pytestmark = pytest.mark.slow

SECRETS = {
    "RUNPOD_API_KEY": "sentinel-runpod-5a1c77d203be",
    "GEMINI_API_KEY": "sentinel-gemini-e1740ab95f33",
    "HYBRID_VIDEO_API_READ_TOKEN": "sentinel-read-token-77ab01",
    "HYBRID_VIDEO_SENTRY_DSN": "http://sentinelpublickey9a@127.0.0.1:1/1",
}
PROMPT = "a violet submarine under the opera house"


@pytest.fixture
def logging_project(project: Project, farm: Servers) -> Iterator[Project]:
    """A project whose commands write JSON, with every backend and planted secrets."""
    project.use(farm)
    project.set(**SECRETS, HYBRID_VIDEO_LOG_FORMAT="json")
    yield project
    logs.configure(logs.LogSettings(format="off"))


def lines_of(text: str) -> list[dict[str, Any]]:
    """Every line as an object; a line that is none is shown."""
    found = []
    for line in filter(None, text.splitlines()):
        assert line.startswith("{"), f"no JSON: {line!r}"
        document = json.loads(line)
        assert {"time", "level", "logger", "message"} <= set(document)
        found.append(document)
    for name, value in SECRETS.items():
        assert value not in text, name
    return found


def shots(project: Project) -> Path:
    """Three shots, one of which fails once."""
    return project.batch([{"prompt": PROMPT}, {"preferences": {"backend": "cloud"}}, {}], name="night")


def check_story(lines: list[dict[str, Any]]) -> None:
    """Each attempt is told of with its ids, the failed one as well."""
    told = [line for line in lines if line["logger"].startswith("hybrid_video.engine")]
    assert {line["batch"] for line in told} == {"night"}
    about_jobs = [line for line in told if "job" in line]
    assert {line["job"] for line in about_jobs} == {"s1", "s2", "s3"}
    started = [line for line in told if line.get("event") == "started"]
    assert all(isinstance(line["attempt"], int) and line["backend"] for line in started)
    assert max(line["attempt"] for line in started) == 2
    assert any(line.get("event") == "retry" for line in told)


def test_a_run_without_prefect(logging_project: Project, farm: Servers) -> None:
    """The command's own words, the engine's events and the report; standard output holds the result alone."""
    farm.fault(server="comfyui", operation="execute", action="oom", times=1)
    ended = logging_project.start_run(shots(logging_project)).wait()
    assert ended.code == 0, ended
    assert ended.json["completed"] == 3
    check_story(lines_of(ended.err))


def test_refusals_and_defects_are_lines_too(logging_project: Project) -> None:
    """A wrong file, a wrong option, and an error that nobody caught, with its traceback inside the object."""
    for arguments in (["run", "missing.yaml"], ["run", "--nonsense"], ["nonsense"]):
        ended = logging_project.start(*arguments).wait()
        assert ended.code == 2
        assert lines_of(ended.err)
    program = (
        "import threading, warnings; from hybrid_video import logs; logs.configure();"
        "warnings.warn('careful'); t = threading.Thread(target=lambda: 1 / 0); t.start(); t.join();"
        "raise RuntimeError('the end')"
    )
    process = Process([], logging_project.folder, program=program)
    warned, in_thread, last = lines_of(process.wait().err)
    assert "careful" in warned["message"]
    assert in_thread["error"] == "ZeroDivisionError: division by zero"
    assert "raise RuntimeError" not in last["message"]
    assert last["error"] == "RuntimeError: the end"
    assert "Traceback" in last["traceback"]


def test_api_and_watcher(logging_project: Project) -> None:
    """From start to end, with requests that fail and a watcher that finds a sick backend."""
    logging_project.set(HYBRID_VIDEO_COMFYUI_URLS="http://127.0.0.1:1")
    api = logging_project.start("api", "--port", "0")
    watch = logging_project.start("watch", "--verbose")
    try:
        until("the API says where it is", lambda: "API: http" in api.outcome(0).err)
        message = next(line["message"] for line in lines_of(api.outcome(0).err) if "API: http" in line["message"])
        url = message.split()[1]
        assert httpx.get(f"{url}/metrics").status_code == 401
        assert httpx.post(f"{url}/api/batches", content=b"{").status_code in (400, 401, 422)
        until("the watcher has looked", lambda: "comfyui is ill" in watch.outcome(0).err)
    finally:
        for process in (api, watch):
            process.signal(signal.SIGTERM)
        ended = [process.wait(60) for process in (api, watch)]
    assert [outcome.code for outcome in ended] == [0, 0]
    assert lines_of(ended[0].err)
    assert any(line["logger"].startswith("hybrid_video.watcher") for line in lines_of(ended[1].err))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, deployed: Deployed) -> Iterator[PrefectServer]:
    """A lean Prefect server with our deployments."""
    with deployed.server(tmp_path_factory.mktemp("logs") / "prefect", lean=True) as running:
        yield running


@pytest.fixture
def collector() -> Iterator[Receiver]:
    """An OpenTelemetry collector."""
    with receiving() as receiver:
        yield receiver


@pytest.mark.xdist_group("prefect")
@pytest.mark.timeout(240)
def test_a_worker_writes_lines_and_one_trace_leads_from_its_flow_to_the_vendor(
    logging_project: Project, farm: Servers, collector: Receiver, server: PrefectServer
) -> None:
    """Prefect's server, worker and flow run as `hybrid-video up` starts them; the prompt is in no line and no span."""
    farm.fault(server="comfyui", operation="execute", action="oom", times=1)
    logging_project.set(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)
    logs.configure()
    batch = json.loads(shots(logging_project).read_text())
    home, folder = server.home, logging_project.folder
    with PrefectWorker("local-gpu", server.url, folder, home=home, environment=dict(os.environ)):
        deployment = call(server.url, "GET", "/deployments/name/generate-batch/local-gpu")
        body = {"parameters": {"batch": batch, "out_dir": str(logging_project.out)}}
        run = call(server.url, "POST", f"/deployments/{deployment['id']}/create_flow_run", body)

        def ended() -> bool:
            state = call(server.url, "GET", f"/flow_runs/{run['id']}")["state"]
            return state is not None and state["type"] in ("COMPLETED", "FAILED", "CRASHED")

        until("the flow run is over", ended, 120, every_s=0.2)
        assert call(server.url, "GET", f"/flow_runs/{run['id']}")["state"]["type"] == "COMPLETED"
        check_trace(collector)  # before the worker ends: it would end the flow's process, which sends as its last act
    text = (home / "worker-local-gpu.log").read_text()
    # Prefect's worker prints two or three sentences of its own past all logging; every log line is an object.
    spoken = [line for line in text.splitlines() if line and not line.startswith("{")]
    assert len(spoken) <= 5, spoken
    assert not [line for line in spoken if "|" in line], spoken
    lines = lines_of("\n".join(line for line in text.splitlines() if line.startswith("{")))
    check_story(lines)
    assert {"prefect.flow_runs", "prefect.task_runs"} <= {line["logger"] for line in lines}
    assert PROMPT not in text


DEFECT = """
import os, sys
if os.environ.get("PLANT_A_DEFECT") and "generate_batch" in " ".join(sys.orig_argv):
    from hybrid_video.engine import attempts

    def check_clip(*_, **__):
        raise RuntimeError("no idea what to do with 'it'")

    attempts.check_clip = check_clip
"""


@pytest.mark.xdist_group("prefect")
@pytest.mark.timeout(240)
def test_a_defect_in_a_flow_is_reported_with_its_attempt(
    logging_project: Project, collector: Receiver, server: PrefectServer
) -> None:
    """From the flow's process, before it ends, with part, batch, job, attempt and backend, and nothing private."""
    project, sentry = logging_project, collector
    project.write("planted/sitecustomize.py", DEFECT)
    project.set(HYBRID_VIDEO_SENTRY_DSN=sentry.dsn, PREFECT_API_URL=server.url, PREFECT_HOME=project.folder / "p")
    project.set(PLANT_A_DEFECT="1", PYTHONPATH=project.folder / "planted")
    batch = project.batch([{"prompt": PROMPT, "preferences": {"backend": "local"}}], name="night")
    ended = project.start_run(batch, "--prefect").wait()
    assert ended.code == 1, ended
    lines_of(ended.err)
    (event,) = sentry.events()
    assert event["exception"]["values"][-1]["value"] == "no idea what to do with [withheld]"
    about = {"batch": "night", "job": "s1", "attempt": "1", "backend": "comfyui"}
    assert event["tags"] == {"part": "generate-batch", **about}
    frames = event["exception"]["values"][-1]["stacktrace"]["frames"]
    assert any(frame["in_app"] and frame["module"] == "hybrid_video.engine.attempts" for frame in frames)
    for private in (PROMPT.encode(), str(project.folder).encode(), *(v.encode() for v in SECRETS.values())):
        assert private not in sentry.everything


def check_trace(collector: Receiver) -> None:
    """The flow run at the top; below it Prefect's task runs and our steps, each where it belongs."""
    collector.until(lambda: any(span.attributes.get("prefect.run.type") == "flow" for span in collector.spans()))
    spans = {span.id: span for span in collector.spans()}

    def path(span: Any) -> list[str]:
        above = spans.get(span.parent)
        return [*(path(above) if above else []), span.attributes.get("prefect.run.type") or span.name]

    paths = {tuple(path(span)) for span in spans.values()}
    attempt = ("flow", "batch", "attempt")
    assert {
        (*attempt, "reserve"),
        (*attempt, "task", "decide"),
        (*attempt, "task", "submit"),
        (*attempt, "task", "wait"),
        (*attempt, "task", "fetch"),
        (*attempt, "task", "settle"),
    } <= paths
    assert len({span.trace for span in spans.values()}) == 1
    assert PROMPT.encode() not in collector.everything
    for value in SECRETS.values():
        assert value.encode() not in collector.everything
