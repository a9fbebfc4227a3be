"""Puts this project's work pools and deployments on a Prefect server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from hybrid_video.errors import ConfigurationError
from hybrid_video.prefect_api import call, client_environment
from hybrid_video.redaction import redact

DEPLOY_TIMEOUT_S = 180.0
POOLS: Final = {
    "local-gpu": ("process", "Runs batches on this machine, beside its GPU."),
    "cloud-gpu": ("docker", "Runs batches in containers, for machines that only reach rented GPUs and Google."),
}
"""The work pools of this project: type and description."""


def create_pools(url: str) -> list[str]:
    """Creates the work pools that are missing and returns their names; existing ones keep their settings.

    A pool that still has the plain template of its worker type, as an earlier version made it, gets ours.

    Raises:
        ConfigurationError: the server does not answer, or has a pool of that name and another type.
    """
    made = []
    for name, (kind, description) in POOLS.items():
        existing = call(url, "GET", f"/work_pools/{name}", allow=(404,))
        if existing is None:
            template = job_template(name) or _plain_template(url, kind)
            body = {"name": name, "type": kind, "description": description, "base_job_template": template}
            call(url, "POST", "/work_pools/", body)
            made.append(name)
        elif existing["type"] != kind:
            raise ConfigurationError(
                f"the Prefect server has a work pool {name!r} of type {existing['type']!r}, but {kind!r} is needed; "
                f"delete it with `prefect work-pool delete {name}` and try again"
            )
        elif (ours := job_template(name)) and existing["base_job_template"] == _plain_template(url, kind):
            call(url, "PATCH", f"/work_pools/{name}", {"base_job_template": ours})
    return made


def job_template(pool: str) -> dict[str, Any] | None:
    """The base job template this project ships for a pool; None where the worker type's own is right."""
    file = Path(__file__).with_name("work_pools") / f"{pool}.json"
    if not file.is_file():
        return None
    template: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return template


def deploy(url: str, project_dir: Path, *, home: Path) -> list[str]:
    """Creates or updates every deployment of `prefect.yaml` and returns their names.

    Prefect sets every schedule back to what the file says; those that somebody switched on, with their times and
    parameters, are put back as they were.

    Args:
        project_dir: folder of `prefect.yaml` and `flows`. A worker of the process pool runs the flows from there.
        home: Prefect's folder (PREFECT_HOME) for the command that does it.

    Raises:
        ConfigurationError: a flow cannot be imported, a pool is missing, or the server does not answer.
    """
    before = {found["id"]: found["schedules"] for found in _deployments(url)}
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", "prefect.yaml"]
    try:
        done = subprocess.run(
            command,
            cwd=project_dir,
            env=client_environment(url, home),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=DEPLOY_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ConfigurationError(
            f"`prefect deploy` in {str(project_dir)!r} did not end within {DEPLOY_TIMEOUT_S:.0f} s; "
            f"is the server at {url!r} overloaded?"
        ) from None
    if done.returncode != 0:
        tail = "\n".join(line for line in (done.stdout + done.stderr).splitlines() if line.strip())[-1500:]
        raise ConfigurationError(f"`prefect deploy` in {str(project_dir)!r} failed:\n{redact(tail)}")
    after = _deployments(url)
    for found in after:
        _restore_schedules(url, found, before.get(found["id"], []))
    return sorted(found["name"] for found in after)


def set_schedule(url: str, deployment: str, slug: str, *, active: bool, parameters: dict[str, Any]) -> None:
    """Switches a schedule of a deployment (`flow/deployment`) on or off, with the parameters of its runs.

    Raises:
        ConfigurationError: there is no such deployment or schedule.
    """
    found = call(url, "GET", f"/deployments/name/{deployment}", allow=(404,))
    schedules = found["schedules"] if found else []
    wanted = next((schedule for schedule in schedules if schedule["slug"] == slug), None)
    if wanted is None:
        raise ConfigurationError(f"the Prefect server has no schedule {slug!r} of {deployment!r}; deploy first")
    patch_schedule(url, found["id"], wanted["id"], active=active, parameters=parameters)


def _deployments(url: str) -> list[dict[str, Any]]:
    query = {"work_pools": {"name": {"any_": list(POOLS)}}}
    found: list[dict[str, Any]] = call(url, "POST", "/deployments/filter", query)
    return found


def _restore_schedules(url: str, deployment: dict[str, Any], before: list[dict[str, Any]]) -> None:
    known = {schedule["slug"]: schedule for schedule in before if schedule["slug"]}
    for schedule in deployment["schedules"]:
        earlier = known.get(schedule["slug"])
        if earlier is None:
            continue
        times = earlier["schedule"] if earlier["active"] else schedule["schedule"]
        kept = (earlier["active"], earlier["parameters"], times)
        if kept != (schedule["active"], schedule["parameters"], schedule["schedule"]):
            active, parameters, _ = kept
            patch_schedule(url, deployment["id"], schedule["id"], active=active, parameters=parameters, schedule=times)


def patch_schedule(
    url: str,
    deployment: str,
    schedule_id: str,
    *,
    active: bool,
    parameters: dict[str, Any],
    schedule: dict[str, Any] | None = None,
) -> None:
    """Switches a schedule, known by the ids, on or off.

    Args:
        schedule: when it runs, as Prefect writes it; unchanged when None.
    """
    body = {"active": active, "parameters": parameters, **({} if schedule is None else {"schedule": schedule})}
    call(url, "PATCH", f"/deployments/{deployment}/schedules/{schedule_id}", body)


def _plain_template(url: str, kind: str) -> dict[str, Any]:
    """The default job template of a worker type, from the server's own catalogue."""
    catalogue = call(url, "GET", "/collections/views/aggregate-worker-metadata")
    for workers in catalogue.values():
        if kind in workers:
            template: dict[str, Any] = workers[kind]["default_base_job_configuration"]
            return template
    raise ConfigurationError(f"the Prefect server at {url!r} does not know workers of type {kind!r}; update it")
