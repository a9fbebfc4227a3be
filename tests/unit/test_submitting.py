"""Starting a batch for somebody else: by a Prefect server, or in a supervised process; never twice at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from hybrid_video import submitting
from hybrid_video.errors import ConfigurationError, InputError
from hybrid_video.models import VideoJob, utc_now
from hybrid_video.settings import Settings
from hybrid_video.submitting import Submission
from tests.unit.deciding_rig import job
from tests.unit.ledger_rig import make_batch


@dataclass
class FakePrefect:
    """The four addresses of Prefect's API that a submission needs."""

    deployed: bool = True
    pool: str = "READY"
    run_state: str = "SCHEDULED"
    message: str = ""
    calls: list[tuple[str, str, Any]] = field(default_factory=list)

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        """What the server would say."""
        self.calls.append((method, path, body))
        if path == "/api/health":
            return 200, True
        if path.startswith("/api/deployments/name/"):
            return (200, {"id": "dep-1"}) if self.deployed else (404, {"detail": "no"})
        if path.endswith("/create_flow_run"):
            return 201, {"id": "run-1"}
        if path.startswith("/api/work_pools/"):
            return 200, {"status": self.pool}
        if path.endswith("/set_state"):
            self.run_state = "CANCELLED"
            return 201, {}
        return 200, {"id": "run-1", "state_type": self.run_state, "state": {"message": self.message}}


@pytest.fixture
def prefect(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakePrefect]:
    """A server at PREFECT_API_URL."""
    fake = FakePrefect()

    class Handler(BaseHTTPRequestHandler):
        def handle_one(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            status, data = fake.answer(self.command, self.path, body)
            content = json.dumps(data).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self) -> None:
            self.handle_one()

        def do_POST(self) -> None:
            self.handle_one()

        def log_message(self, *_arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{server.server_port}/api")
    yield fake
    server.shutdown()
    server.server_close()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of an own home, without a Prefect server."""
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    return Settings.load()


def test_with_prefect_the_deployment_runs_the_batch(home: Settings, prefect: FakePrefect) -> None:
    """The batch travels as a parameter, its files by their folder; the answer links to the run."""
    made = submitting.submit(make_batch("film", 2), home, out_dir=Path("/clips"))
    assert (made.via, made.run_id, made.notices) == ("prefect", "run-1", ())
    assert made.run_url.endswith("/runs/flow-run/run-1")
    (body,) = [body for _, path, body in prefect.calls if path.endswith("/create_flow_run")]
    assert body["parameters"]["batch"]["name"] == "film"
    assert body["parameters"]["base_dir"] == made.folder
    assert body["parameters"]["out_dir"] == "/clips"
    assert submitting.find(home, "film") == made
    assert submitting.status(made).state == "starting"


def test_a_large_batch_travels_as_a_file(home: Settings, prefect: FakePrefect) -> None:
    """Prefect's database is no place for ten thousand prompts."""
    jobs = tuple(VideoJob(id=f"s{n}", prompt="x" * 1000) for n in range(300))
    made = submitting.submit(make_batch("film", jobs), home)
    (body,) = [body for _, path, body in prefect.calls if path.endswith("/create_flow_run")]
    assert "batch" not in body["parameters"]
    stored = json.loads(Path(body["parameters"]["batch_file"]).read_text())
    assert len(stored["jobs"]) == made.jobs == 300


def test_what_is_missing_at_prefect_is_said(home: Settings, prefect: FakePrefect) -> None:
    """No deployment: the command that makes it. No worker: the run waits, and why."""
    prefect.deployed = False
    with pytest.raises(ConfigurationError, match="hybrid-video deploy"):
        submitting.submit(make_batch("film", 1), home)
    prefect.deployed, prefect.pool = True, "NOT_READY"
    made = submitting.submit(make_batch("film", 1), home)
    assert "prefect worker start --pool local-gpu" in made.notices[0]


@pytest.mark.parametrize(
    ("state", "expected", "code"),
    [
        ("SCHEDULED", "starting", None),
        ("PENDING", "starting", None),
        ("RUNNING", "running", None),
        ("CANCELLING", "running", None),
        ("COMPLETED", "ended", 0),
        ("FAILED", "ended", 1),
        ("CRASHED", "ended", 1),
        ("CANCELLED", "ended", 1),
    ],
)
def test_prefects_states_are_ours(
    home: Settings, prefect: FakePrefect, state: str, expected: str, code: int | None
) -> None:
    """And the message of a failed run is kept."""
    made = submitting.submit(make_batch("film", 1), home)
    prefect.run_state, prefect.message = state, "no backend is configured"
    seen = submitting.status(made)
    assert (seen.state, seen.exit_code) == (expected, code)
    assert seen.error == ("no backend is configured" if code == 1 else "")


def test_a_run_that_is_under_way_is_not_started_again(home: Settings, prefect: FakePrefect) -> None:
    """The same name is refused until it has ended; then it resumes."""
    made = submitting.submit(make_batch("film", 1), home)
    with pytest.raises(InputError, match="is being run already"):
        submitting.submit(make_batch("film", 1), home)
    assert submitting.stop(made)
    assert not submitting.stop(made), "it has ended, so there is nothing to stop"
    assert submitting.submit(make_batch("film", 1), home).folder != made.folder


def test_many_submissions_of_one_name_at_once_start_one(home: Settings, prefect: FakePrefect) -> None:
    """Dashboard and API are different processes; a file lock decides between them."""
    outcomes: list[str] = []

    def submit() -> None:
        try:
            submitting.submit(make_batch("film", 1), home)
            outcomes.append("started")
        except InputError as error:
            outcomes.append("refused" if "being" in str(error) else str(error))

    threads = [threading.Thread(target=submit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["refused"] * 7 + ["started"]


def test_a_server_that_does_not_answer_leaves_the_batch_to_a_process(
    home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And asking for Prefect by name without one is an error with the variable."""
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    assert not submitting.uses_prefect()
    monkeypatch.delenv("PREFECT_API_URL")
    with pytest.raises(ConfigurationError, match="PREFECT_API_URL"):
        submitting.submit(make_batch("film", 1), home, via="prefect")


def test_files_of_the_jobs_are_copied_and_nothing_else(home: Settings, prefect: FakePrefect, tmp_path: Path) -> None:
    """The folder of the user may change or vanish afterwards."""
    source = tmp_path / "mine"
    (source / "faces").mkdir(parents=True)
    for name in ("faces/a.png", "own.json", "other.png"):
        (source / name).write_bytes(b"{}")
    jobs = (job("a", image="faces/a.png"), job("b", workflow="own.json"), job("c", image="https://x.example/y.png"))
    made = submitting.submit(make_batch("film", jobs), home, files_from=source)
    found = sorted(str(path.relative_to(made.folder)) for path in Path(made.folder).rglob("*") if path.is_file())
    assert found == ["batch.json", "faces/a.png", "own.json"]
    prefect.run_state = "COMPLETED"
    again = submitting.submit(make_batch("film", jobs), home)
    assert (Path(again.folder) / "faces/a.png").exists(), "a re-run has the files of the run before"
    assert not Path(made.folder).exists()


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ("missing.png", "was not sent along"),
        ("../secret.png", "leads outside"),
        ("/etc/passwd", "is not a path inside"),
        ("~/x.png", "is not a path inside"),
        ("C:\\x.png", "is not a path inside"),
        ("link.png", "leads outside"),
    ],
)
def test_a_file_that_is_not_the_batchs_is_refused(
    home: Settings, prefect: FakePrefect, tmp_path: Path, image: str, said: str
) -> None:
    """Missing, outside, absolute, or a link that leads out."""
    source = tmp_path / "mine"
    source.mkdir()
    (tmp_path / "secret.png").write_bytes(b"x")
    (source / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(InputError, match=said) as refused:
        submitting.submit(make_batch("film", (job("a", image=image),)), home, files_from=source)
    assert refused.value.problems[0].startswith("jobs[0] (a): image:")
    assert not [path for _, path, _ in prefect.calls if path.endswith("/create_flow_run")]


def test_a_process_that_cannot_run_the_batch_says_why(home: Settings) -> None:
    """Without a backend the run is refused; the reason is kept, and a new submission is possible."""
    made = submitting.submit(make_batch("film", 1), home)
    assert made.via == "process"
    for child in submitting._children:
        child.wait(60)
    seen = submitting.status(made)
    assert (seen.state, seen.exit_code) == ("ended", 2)
    assert "no backend is configured" in seen.error
    assert "no backend is configured" in submitting.log_tail(made)
    assert submitting.submissions(home) == [made]
    assert submitting.running_processes(home) == 0


def submission(folder: Path) -> Submission:
    """One that a process runs."""
    folder.mkdir(parents=True, exist_ok=True)
    return Submission(batch="film", jobs=1, via="process", submitted_at=utc_now(), folder=str(folder))


def test_a_process_that_vanished_is_lost_and_another_with_its_number_is_not_it(tmp_path: Path) -> None:
    """A process id alone may belong to somebody else by now."""
    made = submission(tmp_path / "run")
    assert submitting.status(made).state == "starting"
    me = psutil.Process()
    known = tmp_path / "run" / "process.json"
    known.write_text(json.dumps({"pid": me.pid, "created": me.create_time()}))
    assert submitting.status(made).state == "running"
    known.write_text(json.dumps({"pid": me.pid, "created": me.create_time() - 100}))
    assert submitting.status(made).state == "lost"
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    known.write_text(json.dumps({"pid": child.pid, "created": 1.0}))
    assert submitting.status(made).state == "lost"
    assert not submitting.stop(made)


def test_broken_records_count_as_none(home: Settings) -> None:
    """A half-written or foreign file must not end a page."""
    folder = home.storage.home / "submissions" / "film"
    folder.mkdir(parents=True)
    for text in ("", "{", "[]", '{"batch": 5}'):
        (folder / "submission.json").write_text(text)
        assert submitting.find(home, "film") is None
        assert submitting.submissions(home) == []
    os.utime(folder)
