"""Several machines: the set-up of `compose.yaml` with two workers, one of them and one API replica killed in mid-batch.

The two machines have a home folder each and share the ledger on PostgreSQL, the clips folder and the vendors.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from pipeline_rig import QUICK, SMALL, TIME_SCALE, Project, Servers, until
from scale_out_rig import (
    PASSWORD,
    PREFECT_LOGIN,
    ROOT,
    TOKENS,
    Studio,
    missing_programs,
    over_tls,
    restart_postgres,
    studio,
    tls_certificate,
)

from hybrid_video.errors import ConfigurationError
from hybrid_video.ledger import Ledger
from hybrid_video.ledger.verify import VerifyReport, verify
from hybrid_video.models import AttemptState, JobState
from hybrid_video.prefect_api import call, client_environment
from hybrid_video.prefect_worker import PrefectWorker
from hybrid_video.project import project_dir

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("studio"), pytest.mark.timeout(420)]

JOBS = 18
FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
SECOND_POOL = "second-machine"
EVERY_S = 0.25
"""How often vendors, ledger and Prefect are asked while the machines work: each answer takes CPU from them."""

OUTPUT = ROOT / "test-output" / "scale-out"
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, postgres: str) -> Iterator[Studio]:
    """The machine in the middle."""
    missing = missing_programs()
    if missing:
        assert "CI" not in os.environ, f"CI must have {missing}; .ci/run installs them"
        pytest.skip(f"not installed here: {', '.join(missing)}")
    folder = tmp_path_factory.mktemp("studio")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PREFECT_API_AUTH_STRING", PREFECT_LOGIN)
        with studio(folder / "middle", postgres, tls_certificate(folder)) as found:
            second_deployment(found)
            yield found


@pytest.fixture(autouse=True)
def _known_to_prefect(place: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", PREFECT_LOGIN)
    monkeypatch.setenv("PREFECT_API_SSL_CERT_FILE", str(place.certificate))


def shots(letter: str) -> list[dict[str, Any]]:
    """Jobs for all three tiers."""
    kinds = ({}, {"preferences": {"backend": "cloud"}}, {"preferences": {"backend": "gemini"}})
    return [{"id": f"{letter}{n}", "prompt": f"shot {letter}{n}", **SMALL, **kinds[n % 3]} for n in range(JOBS)]


def machine(
    place: Studio, project: Project, farm: Servers, name: str, pool: str, *, over: str | None = None
) -> PrefectWorker:
    """The worker of one machine: a home of its own, the shared ledger.

    Args:
        over: address of Prefect as this machine sees it; the inner one when None.
    """
    home = project.folder / name
    home.mkdir()
    variables = {
        **vendors(farm),
        "HYBRID_VIDEO_HOME": str(home / "state"),
        "HYBRID_VIDEO_OUT": str(place.folder.parent / "clips"),
        "HYBRID_VIDEO_LEDGER_URL": place.ledger_url,
        "HYBRID_VIDEO_TIME_SCALE": str(TIME_SCALE),
    }
    address = over or place.prefect_url
    worker = PrefectWorker(pool, address, project.folder, home=home / "prefect", environment=variables)
    worker.start()
    return worker


def vendors(farm: Servers) -> dict[str, str]:
    """Where the emulated vendors are."""
    found = {key: value for key, value in farm.environment.items() if "KEY" in key or key.endswith(("URL", "URLS"))}
    return {**found, **QUICK}


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


def verified(place: Studio) -> VerifyReport:
    """The ledger recomputed."""
    with closing(Ledger.open(place.ledger_url)) as ledger:
        return verify(ledger)


def report_of(place: Studio, farm: Servers, killed: list[str], batches: dict[str, str]) -> dict[str, Any]:
    """What a drill came to; printed, and kept as an output of the run.

    Lost: jobs neither made nor known to be uncertain. Doubled: jobs paid for more than once.
    """
    with closing(Ledger.open(place.ledger_url)) as ledger:
        found = verify(ledger)
        uncertain = {(a.batch, a.job) for a in ledger.attempts() if a.state is AttemptState.UNCERTAIN}
        rows = {batch: ledger.job_rows(batch) for batch in batches}
    undone = {(batch, row.job) for batch, jobs in rows.items() for row in jobs if row.state is not JobState.DONE}
    doubled = [job for letter in batches.values() for job, count in paid(farm, letter).items() if count != 1]
    report = {
        "killed": killed,
        "jobs": sum(map(len, rows.values())),
        "done": sum(row.state is JobState.DONE for jobs in rows.values() for row in jobs),
        "uncertain": len(undone & uncertain),
        "lost": sorted(f"{batch}/{job}" for batch, job in undone - uncertain),
        "doubled": sorted(doubled),
        "ledger_ok": found.ok,
        "settled_usd": str(found.settled_usd),
    }
    print(json.dumps({"kill_drill": report}))
    OUTPUT.mkdir(parents=True, exist_ok=True)
    (OUTPUT / f"kill-drill-{'-'.join(batches)}.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    return report


def test_people_come_in_through_tls_with_token_and_password_only(
    project: Project, farm: Servers, place: Studio
) -> None:
    """Without a token, or Prefect's password, or with a certificate that is not believed, nobody gets anything."""
    place.serve("api", vendors(farm))
    status = f"{place.https_url}/api/loadbalancer/status"
    assert over_tls(place, status).status_code == 401
    assert over_tls(place, status, headers=bearer("read")).status_code == 200
    assert over_tls(place, f"{place.https_url}/health").json()["status"]
    assert over_tls(place, f"{place.https_url}/metrics").status_code != 200 or "streamlit" in (
        over_tls(place, f"{place.https_url}/metrics").text.lower()
    ), "the figures for Prometheus are not for the outside"
    spawn = f"{place.https_url}/api/cloud/shutdown-all"
    assert over_tls(place, spawn, method="POST", headers=bearer("read")).status_code == 403
    assert over_tls(place, f"{place.prefect_https_url}/api/health").json() is True
    flows = f"{place.prefect_https_url}/api/flows/filter"
    assert over_tls(place, flows, method="POST", json={}).status_code == 401
    user, _, password = PREFECT_LOGIN.partition(":")
    assert over_tls(place, flows, method="POST", json={}, auth=(user, password)).status_code == 200
    with pytest.raises(httpx.ConnectError, match=r"(?i)certificate"):
        httpx.get(status)


def test_a_batch_sent_over_tls_is_made_by_a_machine_that_comes_in_over_tls(
    project: Project, farm: Servers, place: Studio
) -> None:
    """API by token, flow run by Prefect, worker over HTTPS with a folder of its own, clip back in ranges over TLS."""
    place.serve("api", vendors(farm))
    batch = {"name": "by-api", "jobs": shots("d")[:3]}
    sent = over_tls(place, f"{place.https_url}/api/batches", method="POST", headers=bearer("submit"), json=batch)
    assert sent.status_code in (200, 201, 202), sent.text
    middle_only = place.folder / "data" / "submissions"
    middle_only.rename(middle_only.with_name("not-on-other-machines"))
    place.kill("api")
    worker = machine(place, project, farm, "machine-3", "local-gpu", over=f"{place.prefect_https_url}/api")
    try:
        until("the batch is made", lambda: done(place, "by-api") == 3, 120, EVERY_S)
    finally:
        worker.stop()
        middle_only.with_name("not-on-other-machines").rename(middle_only)
    place.serve("api", vendors(farm))
    clip = f"{place.https_url}/api/batches/by-api/jobs/d0/clip"
    part = over_tls(place, clip, headers={**bearer("read"), "Range": "bytes=0-99"})
    assert (part.status_code, len(part.content)) == (206, 100)
    assert verified(place).ok


def test_limits_count_by_the_address_that_the_proxy_saw(farm: Servers, place: Studio) -> None:
    """A guesser is stopped, whatever address it claims, and nobody else with it."""
    place.serve("api", vendors(farm))
    status = f"{place.https_url}/api/loadbalancer/status"

    def guess(source: str, claimed: str) -> int:
        headers = {"Authorization": "Bearer wrong", "X-Forwarded-For": claimed}
        return over_tls(place, status, source=source, headers=headers).status_code

    codes = [guess("127.0.0.2", f"10.0.0.{number}") for number in range(40)]
    assert codes.count(401) <= 32
    assert codes[-1] == 429
    assert guess("127.0.0.3", "127.0.0.2") == 401
    assert over_tls(place, status, source="127.0.0.2", headers=bearer("read")).status_code == 200
    # from another address than the proxy's nobody is believed either: all of these are one caller
    inner = f"http://{place.inner['api']}/api/loadbalancer/status"
    with httpx.Client(transport=httpx.HTTPTransport(local_address="127.0.0.9"), timeout=30) as client:
        for number in range(40):
            headers = {"Authorization": "Bearer wrong", "X-Forwarded-For": f"10.1.0.{number}"}
            last = client.get(inner, headers=headers).status_code
    assert last == 429


def test_the_dashboard_works_in_a_browser_over_tls_after_the_password(
    project: Project, farm: Servers, place: Studio
) -> None:
    """The page's websocket goes through nginx; nothing is shown before the password."""
    place.serve("dashboard", vendors(farm))
    with browser_page() as page:
        sockets: list[str] = []
        page.on("websocket", lambda socket: sockets.append(socket.url))
        page.goto(place.https_url)
        field = page.get_by_label("Password", exact=True)
        field.wait_for()
        assert not page.get_by_role("link", name="Calculator").count()
        field.fill("wrong")
        page.get_by_role("button", name="Enter").click()
        page.get_by_text("That is not the password").wait_for()
        field.fill(PASSWORD)
        page.get_by_role("button", name="Enter").click()
        page.get_by_role("link", name="Calculator").wait_for()
        field.wait_for(state="hidden")
        keep(page, "dashboard-over-tls")
    assert sockets
    assert all(url.startswith(place.https_url.replace("https", "wss")) for url in sockets), sockets


def test_prefects_pages_work_in_a_browser_over_tls_after_the_password(place: Studio) -> None:
    """They ask the address that they came from, and show nothing without the password."""
    with browser_page() as page:
        answers: list[tuple[str, int]] = []
        page.on("response", lambda answer: answers.append((answer.url, answer.status)))
        page.goto(f"{place.prefect_https_url}/")
        field = page.locator("input[type=password]")
        field.wait_for()
        keep(page, "prefect-login")
        assert not [url for url, code in answers if code == 200 and "/api/" in url and not url.endswith("ui-settings")]
        field.fill(PREFECT_LOGIN)
        with page.expect_response(lambda answer: answer.url.endswith("/api/health") and answer.ok):
            field.press("Enter")
        page.get_by_role("link", name="Deployments").click()
        page.get_by_text("generate-batch").first.wait_for()
        keep(page, "prefect-over-tls")
    asked = [url for url, _ in answers if "/api/" in url]
    assert asked
    assert all(url.startswith(place.prefect_https_url) for url in asked), asked


def test_a_kubernetes_pool_and_its_deployment_are_made_as_the_page_says(place: Studio) -> None:
    """The commands of docs/how-to/several-machines.md; no job runs, because there is no cluster."""
    page = (ROOT / "docs" / "how-to" / "several-machines.md").read_text(encoding="utf-8")
    commands = [line.removeprefix("$ ") for line in page.splitlines() if line.startswith("$ prefect ")]
    wanted = [command for command in commands if " kubernetes" in command and "worker start" not in command]
    assert len(wanted) == 2, wanted
    environment = client_environment(place.prefect_url, place.folder / "kubernetes")
    for command in wanted:
        done = subprocess.run(
            [sys.executable, "-m", *command.split()],
            cwd=project_dir(),
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    pool = call(place.prefect_url, "GET", "/work_pools/kubernetes")
    assert pool["type"] == "kubernetes"
    assert pool["base_job_template"]["variables"]["properties"]["image"]["default"] == "hybrid-video:latest"
    deployment = call(place.prefect_url, "GET", "/deployments/name/generate-batch/kubernetes")
    assert deployment["work_pool_name"] == "kubernetes"
    assert deployment["pull_steps"] == [{"hybrid_video.project.enter": {}}]


def test_the_database_dies_in_mid_batch_and_nothing_is_lost_or_doubled(
    project: Project, farm: Servers, place: Studio
) -> None:
    """PostgreSQL holds the ledger and Prefect's own tables; it is killed and comes back a moment later."""
    worker = machine(place, project, farm, "machine-4", SECOND_POOL)
    runs = 0
    try:
        submit(place, project, SECOND_POOL, "film-c")
        until("the batch is under way", lambda: len(paid(farm, "c")) >= 2, 90, EVERY_S)
        restart_postgres(place.postgres)
        until("Prefect is back", lambda: not place.revive() and prefect_answers(place), 90, EVERY_S)
        for _ in range(3):  # a run that lost a transaction ends; the same name resumes it
            runs += 1
            until("the batch or its run ends", lambda: finished(place, "film-c") or runs_over(place), 120, EVERY_S)
            if finished(place, "film-c"):
                break
            submit(place, project, SECOND_POOL, "film-c")
    finally:
        worker.stop(cancel_runs=False)
    report = report_of(place, farm, [f"postgresql (runs needed: {runs})"], {"film-c": "c"})
    assert report["lost"] == report["doubled"] == []
    assert report["jobs"] == JOBS
    assert report["uncertain"] <= 4, "a kill can catch only the submits under way at that moment"
    assert report["ledger_ok"]


def test_a_machine_and_an_api_replica_die_in_mid_batch_and_nothing_is_lost_or_doubled(
    project: Project, farm: Servers, place: Studio
) -> None:
    """The other replica and the other machine go on; the dead machine's batch is finished by the other one.

    People reach Prefect through nginx's TLS port, before and after the kill.
    """
    pools = {"machine-1": "local-gpu", "machine-2": SECOND_POOL}
    with ThreadPoolExecutor() as threads:
        first, second = threads.map(lambda name: machine(place, project, farm, name, pools[name]), pools)
    health = f"{place.prefect_https_url}/api/health"
    try:
        runs = {
            "film-a": submit(place, project, "local-gpu", "film-a"),
            "film-b": submit(place, project, SECOND_POOL, "film-b"),
        }
        until("both are under way", lambda: len(paid(farm, "a")) >= 2 and len(paid(farm, "b")) >= 2, 90, EVERY_S)
        place.kill("api-1")
        for pid in processes_with(f"HYBRID_VIDEO_HOME={project.folder / 'machine-1' / 'state'}"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        until("the other machine finishes its batch", lambda: state(place, runs["film-b"]) in FINAL, 120, EVERY_S)
        assert state(place, runs["film-b"]) == "COMPLETED"
        assert [over_tls(place, health).status_code for _ in range(4)] == [200] * 4
        again = submit(place, project, SECOND_POOL, "film-a")
        until("the other machine finishes the dead one's batch", lambda: state(place, again) in FINAL, 180, EVERY_S)
    finally:
        second.stop(cancel_runs=False)
        first.stop(cancel_runs=False)
    report = report_of(place, farm, ["worker machine-1", "prefect-api-1"], {"film-a": "a", "film-b": "b"})
    assert report["lost"] == report["doubled"] == []
    assert report["jobs"] == 2 * JOBS
    assert report["uncertain"] <= 4, "a kill can catch only the submits under way at that moment"
    assert report["ledger_ok"]


def test_no_secret_is_in_any_log_or_file_of_the_whole_set_up(place: Studio) -> None:
    """Logs of API, dashboard, nginx and Prefect, and every file they left, also after all the tests above."""
    place.revive()
    for service in ("api", "dashboard"):
        if service not in place.processes:
            place.serve(service, {})
    for headers in (bearer("admin"), {"Authorization": f"Basic {TOKENS['admin']}"}):
        over_tls(place, f"{place.https_url}/api/loadbalancer/status", headers=headers)
    needles = [word.encode() for word in (*TOKENS.values(), PASSWORD, PREFECT_LOGIN.partition(":")[2])]
    files = [path for path in place.folder.rglob("*") if path.is_file()]
    assert {"api.log", "dashboard.log", "nginx.log"} <= {path.name for path in files}
    assert not [str(path) for path in files if any(needle in path.read_bytes() for needle in needles)]


def bearer(role: str) -> dict[str, str]:
    """The header of a caller with this role."""
    return {"Authorization": f"Bearer {TOKENS[role]}"}


def done(place: Studio, batch: str) -> int:
    """How many jobs of a batch are done."""
    with closing(Ledger.open(place.ledger_url)) as ledger:
        return sum(row.state is JobState.DONE for row in ledger.job_rows(batch))


def finished(place: Studio, batch: str) -> bool:
    """Whether nothing of it can still be made."""
    with closing(Ledger.open(place.ledger_url)) as ledger:
        open_ends = {a.job for a in ledger.attempts(batch) if a.state is AttemptState.UNCERTAIN}
        return all(row.state is JobState.DONE or row.job in open_ends for row in ledger.job_rows(batch))


def runs_over(place: Studio) -> bool:
    """Whether no flow run is left that could still make something."""
    waiting = {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED", "PENDING", "RUNNING", "CANCELLING"]}}}}
    try:
        return not call(place.prefect_url, "POST", "/flow_runs/filter", waiting)
    except ConfigurationError:
        return False


def prefect_answers(place: Studio) -> bool:
    """Whether Prefect can read its database again."""
    try:
        return call(place.prefect_url, "POST", "/flows/filter", {}) is not None
    except ConfigurationError:
        return False


@contextlib.contextmanager
def browser_page() -> Iterator[Any]:
    """A page of this machine's Chromium. The certificate, signed by itself, is checked by the other tests."""
    chromium = shutil.which("chromium")
    if chromium is None:
        assert "CI" not in os.environ, "CI must have chromium; .ci/run installs it"
        pytest.skip("chromium is not installed here")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_context(ignore_https_errors=True, locale="en-GB").new_page()
        page.set_default_timeout(60_000)
        yield page
        browser.close()


def keep(page: Any, name: str) -> None:
    """Keeps a picture as an output of the run."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=str(OUTPUT / f"{name}.png"))
