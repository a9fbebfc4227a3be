"""Planted secrets are searched for in everything a run writes: files, database pages, standard output and error."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from pipeline_rig import Project, Servers

SECRETS = {
    "RUNPOD_API_KEY": "sentinel-runpod-7f3a9c1e55d2",
    "GEMINI_API_KEY": "sentinel-gemini-0b8e44f7a913",
    "HYBRID_VIDEO_RUNPOD_POD_TOKEN": "sentinel-podtoken-91cc02ab67",
}


def leaks(folder: Path) -> list[str]:
    """Files below a folder that hold any of the secrets, in plain text or UTF-16."""
    needles = [value.encode(code) for value in SECRETS.values() for code in ("utf-8", "utf-16-le")]
    return [str(f) for f in folder.rglob("*") if f.is_file() and any(n in f.read_bytes() for n in needles)]


def plant(project: Project, farm: Servers) -> None:
    """Configures every backend with the sentinels as keys; the emulators take any."""
    project.use(farm)
    project.set(**SECRETS)


def test_a_successful_run_writes_no_secret_anywhere(
    project: Project, farm: Servers, caplog: pytest.LogCaptureFixture
) -> None:
    """Ledger, history, sidecars, clips, report and log lines at every level hold none of the keys."""
    caplog.set_level(logging.DEBUG)
    plant(project, farm)
    jobs = [{}, {"preferences": {"backend": "cloud"}}, {"preferences": {"backend": "gemini"}}]
    outcome = project.run(project.batch(jobs))
    assert outcome.code == 0, outcome
    assert {clip["backend"] for clip in outcome.json["clips"]} == {"local", "cloud", "gemini"}
    assert not leaks(project.folder)
    shown = outcome.out + outcome.err + caplog.text
    assert not [name for name, value in SECRETS.items() if value in shown]


def test_a_vendor_that_echoes_the_key_in_its_errors_does_not_leak_it(project: Project, farm: Servers) -> None:
    """Vendor texts are redacted before they become messages, rows or output."""
    plant(project, farm)
    for server, key in (("runpod", SECRETS["RUNPOD_API_KEY"]), ("gemini", SECRETS["GEMINI_API_KEY"])):
        body = f'{{"error": {{"code": 400, "message": "bad key {key} in Authorization: Bearer {key}"}}}}'
        farm.fault(server=server, operation="submit", action="status", status=400, body=body, times=None)
    jobs = [{"preferences": {"backend": backend, "allow_cloud_fallback": False}} for backend in ("cloud", "gemini")]
    outcome = project.run(project.batch([*jobs, {"preferences": {"backend": "cloud"}}]))
    assert outcome.code in (0, 1), outcome
    assert [attempt for attempt in project.attempts() if attempt.error_message], "the faults were not hit"
    assert not leaks(project.folder)
    assert not [name for name, value in SECRETS.items() if value in outcome.out + outcome.err]


def test_a_refused_key_is_named_by_its_variable_not_by_its_value(project: Project, farm: Servers) -> None:
    """The user learns which key is wrong without the key being printed."""
    project.use(farm, "cloud")
    project.set(RUNPOD_API_KEY="invalid-sentinel-5512")
    outcome = project.run(project.batch([{}]))
    assert outcome.code == 2, outcome
    assert "RUNPOD_API_KEY" in outcome.err
    assert "invalid-sentinel-5512" not in outcome.out + outcome.err
    assert "invalid-sentinel-5512" not in "".join(
        f.read_text(errors="replace") for f in project.folder.rglob("*") if f.is_file()
    )


def test_doctor_and_emulated_addresses_show_no_key(project: Project, farm: Servers) -> None:
    """Doctor reports on keys without showing them."""
    plant(project, farm)
    outcome = project.command("doctor", "--json")
    assert "runpod-serverless" in outcome.out
    assert not [name for name, value in SECRETS.items() if value in outcome.out + outcome.err]
    assert not leaks(project.folder)
