"""Planted secrets are searched for in everything that `up`, the API and the dashboard leave behind and answer."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
from pipeline_rig import COMMAND, SMALL, Project, Servers, until

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("studio"), pytest.mark.timeout(300)]

VENDORS = {
    "RUNPOD_API_KEY": "sentinel-runpod-7f3a9c1e55d2",
    "GEMINI_API_KEY": "sentinel-gemini-0b8e44f7a913",
    "HYBRID_VIDEO_RUNPOD_POD_TOKEN": "sentinel-podtoken-91cc02ab67",
}
OURS = {
    "HYBRID_VIDEO_API_ADMIN_TOKEN": "sentinel-admin-token-aa61c0b2",
    "HYBRID_VIDEO_API_TOKENS": "read:sentinel-read-token-19cd77e0",
    "HYBRID_VIDEO_DASHBOARD_PASSWORD": "sentinel-password-5de0",
}
GUESSED = "sentinel-guessed-token-0e4f1a"
"""A wrong token may be a right one somewhere else."""

NEEDLES = [*VENDORS.values(), *(value.rpartition(":")[2] for value in OURS.values()), GUESSED]
ADMIN = {"Authorization": f"Bearer {OURS['HYBRID_VIDEO_API_ADMIN_TOKEN']}"}
LOUD = {"HYBRID_VIDEO_LOG_FORMAT": "json", "HYBRID_VIDEO_LOG_LEVEL": "DEBUG", "PREFECT_LOGGING_LEVEL": "DEBUG"}


@dataclass
class Running:
    """`up` with everything planted."""

    api: str
    dashboard: str
    prefect: str
    folder: Path
    said: Path


@pytest.fixture
def running(project: Project, farm: Servers) -> Iterator[Running]:
    """Everything up, as loud as it can be."""
    project.use(farm)
    project.set(**VENDORS, **OURS, **LOUD)
    said = project.folder / "up.err"
    ports = ("--prefect-port", "0", "--api-port", "0", "--dashboard-port", "0")
    with said.open("w", encoding="utf-8") as writing:
        up = subprocess.Popen(
            [sys.executable, "-c", COMMAND, "up", "--json", *ports],
            cwd=project.folder,
            stdout=subprocess.PIPE,
            stderr=writing,
            text=True,
            env=dict(os.environ),
        )
    try:
        assert up.stdout is not None
        line = up.stdout.readline()
        assert line, said.read_text(encoding="utf-8")
        found = json.loads(line)
        yield Running(found["api"], found["dashboard"], found["prefect"], project.folder, said)
        up.send_signal(signal.SIGINT)
        assert up.wait(60) == 0
        assert not leaks(project.folder), "after the end"
    finally:
        if up.poll() is None:
            for child in psutil.Process(up.pid).children(recursive=True):
                child.kill()
            up.kill()
            up.wait()


def leaks(folder: Path) -> list[str]:
    """Files below a folder that hold any of the secrets; databases with what is still in their logs."""
    for path in folder.rglob("*.db"):
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA wal_checkpoint")
    return [
        str(path)
        for path in folder.rglob("*")
        if path.is_file() and any(needle.encode() in path.read_bytes() for needle in NEEDLES)
    ]


def test_the_long_running_processes_write_and_answer_no_secret(running: Running, farm: Servers) -> None:
    """Logs at every level, Prefect's database, the ledger, metrics and every page of the API, through errors too."""
    for server, key in (("runpod", VENDORS["RUNPOD_API_KEY"]), ("gemini", VENDORS["GEMINI_API_KEY"])):
        body = f'{{"error": {{"code": 400, "message": "bad key {key} in Authorization: Bearer {key}"}}}}'
        farm.fault(server=server, operation="submit", action="status", status=400, body=body, times=1)
    shots = [{"id": "own", "prompt": "a kite", **SMALL}]
    shots += [
        {"id": tier, "prompt": "a boat", **SMALL, "preferences": {"backend": tier}} for tier in ("cloud", "gemini")
    ]
    answers = [httpx.post(f"{running.api}/api/batches", json={"name": "film", "jobs": shots}, headers=ADMIN)]
    assert answers[0].is_success, answers[0].text
    until("the batch ends", lambda: ended(running), 120, 0.25)
    for headers in ({"Authorization": f"Bearer {GUESSED}"}, {"Authorization": f"Basic {GUESSED}"}, {}):
        answers.append(httpx.get(f"{running.api}/api/loadbalancer/status", headers=headers))
        assert answers[-1].status_code == 401
    answers.append(httpx.get(f"{running.api}/api/nowhere?token={GUESSED}", headers=ADMIN))
    broken = {**ADMIN, "Content-Type": "application/json"}
    answers.append(httpx.post(f"{running.api}/api/batches", content=f'{{"name": "{GUESSED[:5]}', headers=broken))
    document = httpx.get(f"{running.api}/openapi.json").json()
    for path, methods in document["paths"].items():
        if "get" in methods and not path.endswith("/clip"):
            full = path.format_map(_Names())
            answers.append(httpx.get(f"{running.api}{full}", headers=ADMIN))
    assert sum(answer.is_success for answer in answers) > 10
    answers.append(httpx.get(running.dashboard))
    runs = httpx.post(f"{running.prefect}/api/flow_runs/filter", json={})
    logs = httpx.post(f"{running.prefect}/api/logs/filter", json={})
    assert runs.json()
    assert logs.json()
    for answer in (*answers, runs, logs):
        found = [needle for needle in NEEDLES if needle in answer.text]
        assert not found, (str(answer.url), found)
    names = {path.name for path in (running.folder / "state").rglob("*.log")}
    assert {"api.log", "dashboard.log", "watcher.log", "server.log"} <= names
    assert not leaks(running.folder)


def ended(running: Running) -> bool:
    """Whether the batch is over, as the API sees it."""
    view = httpx.get(f"{running.api}/api/batches/film", headers=ADMIN).json()["view"]
    return bool(view and view["batch"]["state"] not in {"running", "interrupted"})


class _Names(dict[str, str]):
    """A value for every part of a path."""

    def __missing__(self, name: str) -> str:
        return {"name": "film", "batch": "film", "job": "own"}.get(name, "none")
