"""Starts a batch on behalf of the API and the dashboard: as a Prefect flow run, or as a supervised process of its own.

The batch is written below HYBRID_VIDEO_HOME first, with the files its jobs name, so that it can be started again and
never depends on who asked for it. Where PREFECT_API_URL answers, the deployment runs it; else `supervising` runs
`hybrid-video run` detached from the caller. Nothing is decided or paid here.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path, PureWindowsPath
from typing import Any, Literal

import psutil
from filelock import FileLock, Timeout
from pydantic import Field, ValidationError

from hybrid_video import prefect_api
from hybrid_video.errors import ConfigurationError, InputError
from hybrid_video.models import Batch, Model, utc_now
from hybrid_video.observing import keep_batch_private
from hybrid_video.redaction import redact
from hybrid_video.settings import Settings
from hybrid_video.supervising import OUTCOME_FILE, PROCESS_FILE

DEPLOYMENT = "generate-batch/local-gpu"
POOL = "local-gpu"
BATCH_FILE = "batch.json"
RECORD_FILE = "submission.json"
LARGEST_PARAMETER = 200_000
"""A batch of more bytes goes to Prefect as the path of its file: its server keeps parameters in the database."""

LOCK_S = 10.0
STARTING_S = 30.0
"""A process that has not said its name within this has not started."""

_children: list[subprocess.Popen[bytes]] = []
"""Supervisors started here, kept so that the system can forget them when they end. They do not end with us."""

Via = Literal["prefect", "process"]
RunState = Literal["starting", "running", "ended", "lost"]
"""lost: its process has gone without saying how it ended."""


class Submission(Model):
    """One start of a batch."""

    batch: str
    jobs: int
    via: Via
    submitted_at: datetime
    folder: str = Field(description="Where the batch and its files are kept.")
    out_dir: str | None = None
    run_id: str = Field("", description="Flow run, where Prefect runs it.")
    run_url: str = Field("", description="Its page in the Prefect UI.")
    log_path: str = Field("", description="What the process has said, where one runs it.")
    notices: tuple[str, ...] = ()


class RunStatus(Model):
    """How a submission stands, beside what the ledger says of its jobs."""

    state: RunState
    exit_code: int | None = None
    error: str = Field("", description="What it was refused or stopped by.")
    problems: tuple[str, ...] = ()
    restarts: int = Field(0, description="How often the process was started again after a crash.")


def submit(
    batch: Batch,
    settings: Settings,
    *,
    files_from: Path | None = None,
    out_dir: Path | None = None,
    via: Via | None = None,
    environment: Mapping[str, str] | None = None,
) -> Submission:
    """Starts a batch and returns at once. The same name again resumes it.

    Args:
        files_from: folder that the images and workflows of the jobs are relative to; the files named are copied.
        via: how to run it; by Prefect if its server answers when None.
        environment: variables for the process beside this one's own.

    Raises:
        InputError: a file is missing or lies outside the folder; or the batch is being run already.
        ConfigurationError: neither Prefect nor a process can be started.
    """
    keep_batch_private(batch)
    home = _home(settings, batch.name)
    home.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(home / "lock", timeout=LOCK_S):
            known = find(settings, batch.name)
            if known is not None and status(known).state in ("starting", "running"):
                raise InputError(
                    f"batch {batch.name!r} is being run already (started {known.submitted_at:%Y-%m-%d %H:%M:%S} UTC); "
                    "wait for it, cancel it, or give the new one another name"
                )
            folder = _fresh_folder(home)
            copied = files_from or (Path(known.folder) if known is not None else None)
            _copy_files(batch, copied, folder)
            (folder / BATCH_FILE).write_text(batch.model_dump_json(exclude_none=True), encoding="utf-8")
            url = _prefect(via)
            if url:
                made = _by_prefect(batch, url, folder, out_dir)
            else:
                made = _by_process(batch, folder, out_dir, environment or {})
            _write(home / RECORD_FILE, made.model_dump_json())
            _prune(home, keep=folder)
    except Timeout:
        raise InputError(f"batch {batch.name!r} is being submitted by somebody else just now; look again") from None
    except OSError as error:
        raise ConfigurationError(
            f"the folder {str(home)!r} cannot be written: {error.strerror}; check its permissions and free space"
        ) from None
    return made


def find(settings: Settings, batch: str) -> Submission | None:
    """The newest submission of a batch from this installation; None if it was never submitted here."""
    try:
        return Submission.model_validate_json((_home(settings, batch) / RECORD_FILE).read_bytes())
    except (OSError, ValidationError):
        return None


def submissions(settings: Settings, *, limit: int = 100) -> list[Submission]:
    """The newest submissions, the latest first."""
    records = sorted(
        (settings.storage.home / "submissions").glob(f"*/{RECORD_FILE}"), key=lambda p: p.stat().st_mtime, reverse=True
    )
    found = (find(settings, record.parent.name) for record in records[:limit])
    return [submission for submission in found if submission is not None]


def status(submission: Submission) -> RunStatus:
    """How it stands: asked of Prefect's server, or read from what its supervisor wrote."""
    return _prefect_status(submission) if submission.via == "prefect" else _process_status(Path(submission.folder))


def stop(submission: Submission) -> bool:
    """Asks a run to stop, remote work included; True if there was something to ask.

    It ends by itself, with its report. Jobs that are under way are better stopped through the ledger (`engine.cancel`).
    """
    if status(submission).state not in ("starting", "running"):
        return False
    if submission.via == "prefect":
        url = os.environ.get("PREFECT_API_URL", "").rstrip("/")
        body = {"state": {"type": "CANCELLING", "name": "Cancelling"}, "force": False}
        prefect_api.call(url, "POST", f"/flow_runs/{submission.run_id}/set_state", body)
        return True
    process = _process(Path(submission.folder))
    if process is None:
        return False
    process.terminate()
    return True


def uses_prefect() -> bool:
    """Whether a batch submitted now would be run by a Prefect server."""
    return bool(_prefect(None))


def running_processes(settings: Settings) -> int:
    """How many batches are being run in processes of their own."""
    return sum(
        known.via == "process" and _process_status(Path(known.folder)).state in ("starting", "running")
        for known in submissions(settings)
    )


def log_tail(submission: Submission, *, lines: int = 40) -> str:
    """The end of what the process has said, redacted; "" where Prefect keeps the log."""
    if not submission.log_path:
        return ""
    try:
        with Path(submission.log_path).open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - 200 * lines))
            text = log.read().decode(errors="replace")
    except OSError:
        return ""
    return redact("\n".join(text.splitlines()[-lines:]), limit=20_000)


# -- Prefect -----------------------------------------------------------------------------------------------------------


def _prefect(via: Via | None) -> str:
    """The address of Prefect's API if the batch is to be run there, else ""."""
    url = os.environ.get("PREFECT_API_URL", "").rstrip("/")
    if via == "process" or (via is None and (not url or not prefect_api.answers(url))):
        return ""
    if not url:
        raise ConfigurationError("PREFECT_API_URL is not set, so there is no Prefect server to run the batch")
    return url


def _by_prefect(batch: Batch, url: str, folder: Path, out_dir: Path | None) -> Submission:
    deployment = prefect_api.call(url, "GET", f"/deployments/name/{DEPLOYMENT}", allow=(404,))
    if deployment is None:
        raise ConfigurationError(
            f"the Prefect server at {url!r} has no deployment {DEPLOYMENT!r}; create it with `hybrid-video deploy`"
        )
    document = batch.model_dump(mode="json", exclude_none=True)
    parameters: dict[str, Any] = {"base_dir": str(folder), "out_dir": str(out_dir) if out_dir else ""}
    if len(json.dumps(document)) <= LARGEST_PARAMETER:
        parameters["batch"] = document
    else:
        parameters["batch_file"] = str(folder / BATCH_FILE)
    body = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
    run = prefect_api.call(url, "POST", f"/deployments/{deployment['id']}/create_flow_run", body)
    return Submission(
        batch=batch.name,
        jobs=len(batch.jobs),
        via="prefect",
        submitted_at=utc_now(),
        folder=str(folder),
        out_dir=str(out_dir) if out_dir else None,
        run_id=run["id"],
        run_url=f"{url.removesuffix('/api')}/runs/flow-run/{run['id']}",
        notices=_worker_notices(url),
    )


def _worker_notices(url: str) -> tuple[str, ...]:
    """A sentence where nothing would pick the run up."""
    pool = prefect_api.call(url, "GET", f"/work_pools/{POOL}", allow=(404,))
    if pool is not None and pool.get("status") == "NOT_READY":
        hint = f"start one with `prefect worker start --pool {POOL}`"
        return (f"no worker serves the work pool {POOL!r}, so the run waits; {hint}",)
    return ()


def _prefect_status(submission: Submission) -> RunStatus:
    url = os.environ.get("PREFECT_API_URL", "").rstrip("/")
    if not url or not prefect_api.answers(url):
        return RunStatus(state="lost", error="the Prefect server that runs it does not answer")
    run = prefect_api.call(url, "GET", f"/flow_runs/{submission.run_id}", allow=(404,))
    if run is None:
        return RunStatus(state="lost", error="the Prefect server does not know its run any more")
    kind = run.get("state_type") or "SCHEDULED"
    if kind in ("SCHEDULED", "PENDING"):
        return RunStatus(state="starting")
    if kind in ("RUNNING", "CANCELLING", "PAUSED"):
        return RunStatus(state="running")
    message = redact((run.get("state") or {}).get("message") or "", limit=1000)
    done = kind == "COMPLETED"
    return RunStatus(state="ended", exit_code=0 if done else 1, error="" if done else message)


# -- a process of its own ----------------------------------------------------------------------------------------------


def _by_process(batch: Batch, folder: Path, out_dir: Path | None, environment: Mapping[str, str]) -> Submission:
    log = folder / "run.log"
    command = [sys.executable, "-m", "hybrid_video.supervising", str(folder), BATCH_FILE]
    if out_dir is not None:
        command += ["--out", str(out_dir)]
    with log.open("ab") as output:
        child = subprocess.Popen(
            command,
            cwd=Path.cwd(),
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=os.name == "posix",
            creationflags=0 if os.name == "posix" else getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
    _children[:] = [*(known for known in _children if known.poll() is None), child]
    return Submission(
        batch=batch.name,
        jobs=len(batch.jobs),
        via="process",
        submitted_at=utc_now(),
        folder=str(folder),
        out_dir=str(out_dir) if out_dir else None,
        log_path=str(log),
    )


def _process_status(folder: Path) -> RunStatus:
    for look_again in (True, False):  # it may end between the look at its outcome and the one at its process
        outcome = _json(folder / OUTCOME_FILE)
        if outcome is not None:
            return RunStatus(
                state="ended",
                exit_code=outcome.get("exit_code"),
                error=outcome.get("error", ""),
                problems=tuple(outcome.get("problems", ())),
                restarts=outcome.get("restarts", 0),
            )
        if _process(folder) is not None:
            return RunStatus(state="running")
        if look_again and not (folder / PROCESS_FILE).exists() and _age_s(folder) < STARTING_S:
            return RunStatus(state="starting")
    return RunStatus(state="lost", error="its process has gone without a report; submit the batch again to go on")


def _process(folder: Path) -> psutil.Process | None:
    """The supervisor, if it lives: a process id alone may belong to somebody else by now."""
    known = _json(folder / PROCESS_FILE)
    if known is None:
        return None
    try:
        process = psutil.Process(int(known["pid"]))
        same = abs(process.create_time() - float(known["created"])) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, KeyError, ValueError):
        return None
    return process if same else None


# -- files -------------------------------------------------------------------------------------------------------------


def _home(settings: Settings, batch: str) -> Path:
    return settings.storage.home / "submissions" / batch


def _fresh_folder(home: Path) -> Path:
    folder = home / f"{utc_now():%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
    folder.mkdir(mode=0o700)
    return folder


def _copy_files(batch: Batch, source: Path | None, folder: Path) -> None:
    """Copies what the jobs name; whether it is a picture or a workflow is checked when the batch is prepared.

    Raises:
        InputError: one sentence for each file that is missing or outside the folder.
    """
    problems: list[str] = []
    for index, job in enumerate(batch.jobs):
        named = {"image": job.image, "workflow": job.workflow if job.workflow.lower().endswith(".json") else None}
        for field, value in named.items():
            if value is None or value.lower().startswith(("http://", "https://")):
                continue
            problem = _copied(value, source, folder)
            if problem:
                problems.append(f"jobs[{index}] ({job.id}): {field}: {value!r} {problem}")
    if problems:
        raise InputError("\n".join(problems), tuple(problems))


def _copied(value: str, source: Path | None, folder: Path) -> str:
    """Copies one file; what is wrong with it, or ""."""
    if source is None:
        return "is a file that was not sent along; upload it with the batch, or give an https address"
    written = value.replace("\\", "/")
    if written.startswith(("/", "~")) or PureWindowsPath(value).drive:
        return "is not a path inside the batch's folder; give the path from there"
    try:
        root, path = source.resolve(), (source / written).resolve()
        target = (folder / written).resolve()
        if not path.is_relative_to(root) or not target.is_relative_to(folder.resolve()):
            return "leads outside the batch's folder; give a path inside it"
        if not path.is_file():
            return "is a file that was not sent along; upload it with the batch"
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    except (OSError, ValueError) as error:
        return f"cannot be read ({type(error).__name__}); correct the path"
    return ""


def _prune(home: Path, *, keep: Path) -> None:
    """Only the newest folder is needed: the ledger has everything else."""
    for folder in home.iterdir():
        if folder.is_dir() and folder != keep:
            shutil.rmtree(folder, ignore_errors=True)


def _write(path: Path, text: str) -> None:
    part = path.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def _json(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _age_s(folder: Path) -> float:
    try:
        written = datetime.fromtimestamp(folder.stat().st_mtime, tz=UTC)
    except OSError:
        return STARTING_S
    return (utc_now() - written).total_seconds()
