"""Several machines: the set-up of `compose.yaml` with two workers, one of them and one API replica killed in mid-batch.

The two machines have a home folder each and share the ledger on PostgreSQL, the clips folder and the vendors.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pipeline_rig import QUICK, SMALL, TIME_SCALE, Project, Servers, until
from scale_out_rig import Studio, missing_programs, over_tls, studio, tls_certificate

from hybrid_video.errors import ConfigurationError
from hybrid_video.ledger import Ledger
from hybrid_video.ledger.verify import verify
from hybrid_video.models import AttemptState, JobState
from hybrid_video.prefect_api import call
from hybrid_video.prefect_deploy import create_pools, deploy
from hybrid_video.prefect_worker import PrefectWorker
from hybrid_video.project import project_dir

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("prefect"), pytest.mark.timeout(420)]

JOBS = 18
FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
SECOND_POOL = "second-machine"


@pytest.fixture
def place(tmp_path: Path, postgres: str) -> Iterator[Studio]:
    """The machine in the middle."""
    missing = missing_programs()
    if missing:
        assert "CI" not in os.environ, f"CI must have {missing}; .ci/run installs them"
        pytest.skip(f"not installed here: {', '.join(missing)}")
    with studio(tmp_path / "studio", postgres, tls_certificate(tmp_path)) as found:
        yield found


def shots(letter: str) -> list[dict[str, Any]]:
    """Jobs for all three tiers."""
    kinds = ({}, {"preferences": {"backend": "cloud"}}, {"preferences": {"backend": "gemini"}})
    return [{"id": f"{letter}{n}", "prompt": f"shot {letter}{n}", **SMALL, **kinds[n % 3]} for n in range(JOBS)]


def machine(place: Studio, project: Project, farm: Servers, name: str, pool: str) -> PrefectWorker:
    """The worker of one machine: a home of its own, the shared ledger."""
    home = project.folder / name
    home.mkdir()
    variables = {
        **{key: value for key, value in farm.environment.items() if "KEY" in key or key.endswith(("URL", "URLS"))},
        **QUICK,
        "HYBRID_VIDEO_HOME": str(home / "state"),
        "HYBRID_VIDEO_LEDGER_URL": place.ledger_url,
        "HYBRID_VIDEO_TIME_SCALE": str(TIME_SCALE),
    }
    worker = PrefectWorker(pool, place.prefect_url, project.folder, home=home / "prefect", environment=variables)
    worker.start()
    return worker


def second_deployment(place: Studio) -> None:
    """The same flow on the other machine's pool."""
    template = call(place.prefect_url, "GET", "/work_pools/local-gpu")["base_job_template"]
    pool = {"name": SECOND_POOL, "type": "process", "base_job_template": template}
    call(place.prefect_url, "POST", "/work_pools/", pool)
    known = call(place.prefect_url, "GET", "/deployments/name/generate-batch/local-gpu")
    fields = ("flow_id", "entrypoint", "pull_steps", "path", "parameter_openapi_schema", "parameters")
    body = {name: known[name] for name in fields} | {"name": SECOND_POOL, "work_pool_name": SECOND_POOL}
    call(place.prefect_url, "POST", "/deployments/", body)


def submit(place: Studio, project: Project, deployment: str, batch: str) -> str:
    """Starts a batch as a user of the UI would."""
    found = call(place.prefect_url, "GET", f"/deployments/name/generate-batch/{deployment}")
    body = {"parameters": {"batch": {"name": batch, "jobs": shots(batch[-1])}, "out_dir": str(project.out)}}
    return str(call(place.prefect_url, "POST", f"/deployments/{found['id']}/create_flow_run", body)["id"])


def processes_with(text: str) -> list[int]:
    """Our processes whose environment holds a text."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            if int(entry.name) != os.getpid() and text.encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
    return found


def state(place: Studio, run: str) -> str:
    """The state of a flow run; empty while a killed replica is still being noticed."""
    try:
        return str(call(place.prefect_url, "GET", f"/flow_runs/{run}")["state"]["type"])
    except ConfigurationError:
        return ""


def paid(farm: Servers, letter: str) -> Counter[str]:
    """Charges for clips per job of a batch, without the local ones."""
    rows = [row for row in farm.charges() if row["usd"] not in ("0", "0.00") and row["state"] == "done"]
    return Counter(row["job"] for row in rows if letter in row["job"].rpartition("/")[2])


def test_a_machine_and_an_api_replica_die_in_mid_batch_and_nothing_is_lost_or_doubled(
    project: Project, farm: Servers, place: Studio
) -> None:
    """The other replica and the other machine go on; the dead machine's batch is finished by the other one.

    People reach Prefect through nginx's TLS port, before and after the kill.
    """
    assert over_tls(place, "/api/health").json() is True
    assert "Prefect" in over_tls(place, "/").text
    create_pools(place.prefect_url)
    deploy(place.prefect_url, project_dir(), home=project.folder / "deploying")
    second_deployment(place)
    first = machine(place, project, farm, "machine-1", "local-gpu")
    second = machine(place, project, farm, "machine-2", SECOND_POOL)
    try:
        runs = {
            "film-a": submit(place, project, "local-gpu", "film-a"),
            "film-b": submit(place, project, SECOND_POOL, "film-b"),
        }
        until("both batches are under way", lambda: len(paid(farm, "a")) >= 2 and len(paid(farm, "b")) >= 2, 90)
        place.kill("api-1")
        for pid in processes_with(f"HYBRID_VIDEO_HOME={project.folder / 'machine-1' / 'state'}"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        until("the other machine finishes its batch", lambda: state(place, runs["film-b"]) in FINAL, 120)
        assert state(place, runs["film-b"]) == "COMPLETED"
        assert [over_tls(place, "/api/health").status_code for _ in range(4)] == [200] * 4
        again = submit(place, project, SECOND_POOL, "film-a")
        until("the other machine finishes the dead one's batch", lambda: state(place, again) in FINAL, 180)
    finally:
        second.stop(cancel_runs=False)
        first.stop(cancel_runs=False)
    ledger = Ledger.open(place.ledger_url)
    try:
        found, attempts = verify(ledger), ledger.attempts()
        rows = {batch: ledger.job_rows(batch) for batch in runs}
    finally:
        ledger.close()
    uncertain = {(a.batch, a.job) for a in attempts if a.state is AttemptState.UNCERTAIN}
    assert all(row.state is JobState.DONE for row in rows["film-b"])
    unfinished = {("film-a", row.job) for row in rows["film-a"] if row.state is not JobState.DONE}
    assert unfinished <= uncertain
    assert len(uncertain) <= 4, "a kill can catch only the submits under way at that moment"
    assert len(rows["film-a"]) == len(rows["film-b"]) == JOBS
    for letter in ("a", "b"):
        assert set(paid(farm, letter).values()) == {1}, paid(farm, letter)
    assert found.ok, found
