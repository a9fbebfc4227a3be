"""The scheduled flows on a real Prefect server with a real worker: nightly batch, daily report with its message,
prices, pruning; and switching schedules on and off."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from pipeline_rig import QUICK, SMALL, TIERS, TIME_SCALE, Deployed, EmulatorThread, Project, Servers, servers_of, until

from hybrid_video.emulators.farm import Farm, FarmOptions
from hybrid_video.errors import InputError, NotFoundError
from hybrid_video.ledger import Ledger
from hybrid_video.ledger.verify import verify
from hybrid_video.models import Tier
from hybrid_video.prefect_api import call
from hybrid_video.prefect_deploy import deploy, set_schedule
from hybrid_video.prefect_server import PrefectServer
from hybrid_video.prefect_worker import PrefectWorker
from hybrid_video.project import project_dir
from hybrid_video.schedules import KNOWN, list_schedules, switch

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("schedules"), pytest.mark.timeout(420)]

BATCH = "generate-batch/local-gpu"
FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
ZONE = ZoneInfo("Asia/Bangkok")
LONG = 36
"""Jobs of a night that is still at work when it is cancelled; one at a time they take 7 s."""

HOOK_SECRET = "T0SENTINEL-hook-8f1c"
"""Part of the webhook's address, which is its only protection."""


class Webhook:
    """A local server that keeps what is posted to it."""

    def __init__(self) -> None:
        self.posts: list[tuple[str, dict[str, Any]]] = []
        self.refuse = False
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hook.posts.append((self.path, json.loads(body)))
                self.send_response(500 if hook.refuse else 200)
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, *_arguments: object) -> None:
                """Says nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """Where to post."""
        return f"http://127.0.0.1:{self._server.server_port}/services/{HOOK_SECRET}"

    def close(self) -> None:
        """Ends it."""
        self._server.shutdown()
        self._server.server_close()


@dataclass
class Site:
    """A server with our deployments, one worker, emulated backends, and a home."""

    server: PrefectServer
    folder: Path
    farm: Servers
    hook: Webhook

    @property
    def home(self) -> Path:
        """HYBRID_VIDEO_HOME of the worker."""
        return self.folder / "state"

    @property
    def inbox(self) -> Path:
        """The watched folder."""
        return self.folder / "inbox"

    @property
    def environment(self) -> dict[str, str]:
        """What the worker's flows see."""
        found = {name: self.farm.environment[name] for tier in TIERS.values() for name in tier}
        return {
            **QUICK,
            **found,
            "HYBRID_VIDEO_HOME": str(self.home),
            "HYBRID_VIDEO_TIME_SCALE": str(TIME_SCALE),
            "HYBRID_VIDEO_INBOX": str(self.inbox),
            "HYBRID_VIDEO_INBOX_SETTLE_S": "0.2",
            "HYBRID_VIDEO_TIME_ZONE": ZONE.key,
            "HYBRID_VIDEO_MONTHLY_BUDGET_USD": "50",
        }

    def drop(self, name: str, jobs: int, **fields: Any) -> None:
        """Puts a batch file into the inbox."""
        self.inbox.mkdir(exist_ok=True)
        shots = [{"id": f"s{n}", "prompt": f"shot {n} of {name}", **SMALL} for n in range(1, jobs + 1)]
        (self.inbox / f"{name}.json").write_text(json.dumps({"jobs": shots, **fields}), encoding="utf-8")

    def run(self, deployment: str, **parameters: Any) -> dict[str, Any]:
        """Runs a deployment to its end; the flow run."""
        return self.ended(self.start(deployment, **parameters))

    def start(self, deployment: str, **parameters: Any) -> str:
        """Creates a run of a deployment; its id."""
        found = call(self.server.url, "GET", f"/deployments/name/{deployment}")
        body = {"parameters": parameters}
        run: str = call(self.server.url, "POST", f"/deployments/{found['id']}/create_flow_run", body)["id"]
        return run

    def ended(self, run: str) -> dict[str, Any]:
        """A flow run at its end, waited for."""
        until(f"flow run {run} ends", lambda: self.flow_run(run)["state_type"] in FINAL, 120, every_s=0.2)
        return self.flow_run(run)

    def flow_run(self, run: str) -> dict[str, Any]:
        """A flow run."""
        found: dict[str, Any] = call(self.server.url, "GET", f"/flow_runs/{run}")
        return found

    def artifact(self, key: str) -> str:
        """The newest artifact of a key: its text, or its figure."""
        query = {"artifacts": {"key": {"any_": [key]}}}
        found = call(self.server.url, "POST", "/artifacts/latest/filter", query)
        assert found, f"no artifact {key!r}"
        return str(found[0]["data"])

    def logs(self, run: str) -> str:
        """Every log line of a flow run."""
        query = {"logs": {"flow_run_id": {"any_": [run]}}, "limit": 200}
        return "\n".join(line["message"] for line in call(self.server.url, "POST", "/logs/filter", query))

    def python(self, code: str) -> str:
        """Runs a program that talks to the server, and returns what it prints."""
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=project_dir(),
            env=self.server.environment,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def hook() -> Iterator[Webhook]:
    """Somebody to tell."""
    hook = Webhook()
    yield hook
    hook.close()


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, emulator_thread: EmulatorThread, hook: Webhook, deployed: Deployed
) -> Iterator[Site]:
    """Everything, with a worker that serves the pool."""
    folder = tmp_path_factory.mktemp("schedules")
    service_s = {Tier.LOCAL: 8.0, Tier.CLOUD: 12.0, Tier.GEMINI: 6.0}
    farm = emulator_thread.do(Farm.start(FarmOptions(time_scale=TIME_SCALE, service_s=service_s, cold_start_s=4.0)))
    try:
        with deployed.server(folder / "prefect", lean=True) as server:
            site = Site(server, folder, servers_of(farm), hook)
            worker = PrefectWorker("local-gpu", server.url, folder, home=server.home, environment=site.environment)
            with worker:
                yield site
    finally:
        emulator_thread.do(farm.close())


@pytest.fixture(scope="module")
def first_night(site: Site) -> dict[str, Any]:
    """The run of a night with two good files of five clips together, and a wrong one."""
    site.drop("harbour", 3)
    site.drop("urgent", 2, defaults={"priority": 90})
    (site.inbox / "wrong.yaml").write_text("jobs:\n  - prompt: x\n    fps: many\n", encoding="utf-8")
    return site.run("nightly-batch/every-night", out_dir=str(site.folder / "clips"))


def test_a_night_makes_the_batches_of_the_folder_and_leaves_a_page(site: Site, first_night: dict[str, Any]) -> None:
    """Two good files and a wrong one: each is made as a run of its own, put away, and told of in one table."""
    run = first_night
    assert run["state_type"] == "FAILED", run["state"]
    assert "wrong" in run["state"]["message"]
    made = {"harbour": 3, "urgent": 2}
    assert site.farm.charged_jobs() == {f"{name}/s{n}": 1 for name, last in made.items() for n in range(1, last + 1)}
    put_away = {path.parent.parent.name: path.name for path in site.inbox.glob("*/*/*") if path.is_dir()}
    assert set(put_away) == {"done", "failed"}
    assert sorted(path.name for path in site.inbox.glob("done/*/*")) == ["harbour", "urgent"]
    [report] = site.inbox.glob("failed/*/wrong/report.md")
    assert "wrong.yaml:3" in report.read_text(encoding="utf-8")
    page = site.artifact("nightly-batch")
    assert page.index("urgent | done") < page.index("harbour | done")
    assert float(site.artifact("nightly-batch-progress")) == 100
    assert {"harbour-report", "urgent-report", "harbour-progress"} <= artifact_keys(site)
    below = call(site.server.url, "POST", "/flow_runs/filter", {"flows": {"name": {"any_": ["generate-batch"]}}})
    assert sorted(found["name"].split()[0] for found in below) == ["harbour", "urgent"]
    books_are_whole(site)


def test_a_night_without_anything_to_do_ends_well(site: Site) -> None:
    """An empty folder is no failure."""
    run = site.run("nightly-batch/every-night", folder=str(site.folder / "empty"))
    assert (run["state_type"], run["state"]["message"]) == ("COMPLETED", "nothing was waiting")


@pytest.mark.usefixtures("first_night")
def test_the_daily_report_is_a_page_files_and_a_message(site: Site) -> None:
    """The figures are the ledger's; the webhook is told; its address is in no log."""
    site.python(
        "from prefect.blocks.notifications import CustomWebhookNotificationBlock as B\n"
        f"B(name='studio', url={site.hook.url!r}, json_data={{'text': '{{{{subject}}}}', 'more': '{{{{body}}}}'}})"
        ".save('studio', overwrite=True)"
    )
    run = site.run("daily-report/every-morning", day="today", notify="custom-webhook/studio")
    assert run["state_type"] == "COMPLETED", run["state"]
    today = datetime.now(UTC).astimezone(ZONE).date().isoformat()
    report = json.loads((site.home / "reports" / f"{today}.json").read_text(encoding="utf-8"))
    ledger = Ledger.open(site.home / "ledger.sqlite3")
    booked = verify(ledger).settled_usd
    ledger.close()
    assert report["clips"] == 5
    assert report["cost_usd"] == f"{booked:.2f}" or float(report["cost_usd"]) == float(booked)
    assert {"md", "csv", "json", "svg"} == {path.suffix[1:] for path in (site.home / "reports").glob(f"{today}.*")}
    page = site.artifact("daily-report")
    assert page.startswith(f"# {today}: 5 clips")
    assert "Beside Google alone" in page
    assert "for 2026-" in page or "UTC month" in page
    path, told = site.hook.posts[-1]
    assert HOOK_SECRET in path
    assert "5 clips" in told["text"]
    assert "By backend" in told["more"]
    assert HOOK_SECRET not in site.logs(run["id"])
    worker_log = (site.server.home / "worker-local-gpu.log").read_text(encoding="utf-8", errors="replace")
    assert HOOK_SECRET not in worker_log


def test_a_message_that_cannot_be_sent_fails_the_run_without_telling_the_address(site: Site) -> None:
    """The report is made all the same; the reason names the block and nothing secret."""
    site.hook.refuse = True
    try:
        refused = site.start("daily-report/every-morning", day="today", notify="custom-webhook/studio")
        unknown = site.start("daily-report/every-morning", day="today", notify="slack-webhook/nobody")
        run, missing = site.ended(refused), site.ended(unknown)
    finally:
        site.hook.refuse = False
    assert run["state_type"] == "FAILED"
    assert "custom-webhook/studio" in run["state"]["message"]
    assert HOOK_SECRET not in json.dumps(run["state"]) + site.logs(run["id"])
    assert missing["state_type"] == "FAILED"
    assert "slack-webhook/nobody" in missing["state"]["message"]


def test_slack_and_mail_blocks_reach_their_servers(site: Site) -> None:
    """Prefect's Slack block takes any webhook address; our mail block speaks SMTP."""
    mails: list[str] = []
    port, stop = mail_server(mails)
    json_hook = site.hook.url.replace("http://", "json://")
    code = (
        "import asyncio, sys\n"
        "from prefect.blocks.notifications import SlackWebhook\n"
        "from tasks.notifications import Mail, notify\n"
        f"SlackWebhook(url={json_hook!r}).save('studio', overwrite=True)\n"
        f"Mail(url='mailto://sender:secret-pass@127.0.0.1:{port}?from=a@example.com&to=b@example.com&mode=insecure')"
        ".save('studio', overwrite=True)\n"
        "asyncio.run(notify('slack-webhook/studio', 'the subject', 'the body'))\n"
        "asyncio.run(notify('hybrid-video-mail/studio', 'the subject', 'the body'))\n"
        "print('sent')"
    )
    try:
        assert "sent" in site.python(code)
    finally:
        stop()
    _path, told = site.hook.posts[-1]
    assert (told["title"], told["message"]) == ("the subject", "the body")
    assert "Subject: the subject" in mails[0]


def test_prices_are_fetched_and_shown(site: Site) -> None:
    """The emulated catalogue's prices are in a file of their own, and the run says how many have changed."""
    run = site.run("refresh-prices/every-week")
    assert run["state_type"] in ("COMPLETED", "FAILED"), run["state"]
    assert "prices," in run["state"]["message"]
    assert list((site.home / "prices").glob("runpod-*.toml"))
    assert "prices of RunPod" in site.artifact("prices")


def test_pruning_backs_up_first_and_leaves_what_is_young(site: Site) -> None:
    """Nothing is a year old; the backup is there."""
    pruning = site.start("prune/every-month")
    trying = site.start("prune/every-month", older_than_days=1, dry_run=True)
    run, would = site.ended(pruning), site.ended(trying)
    assert run["state_type"] == "COMPLETED", run["state"]
    assert run["state"]["message"].startswith("pruned 0 batches")
    assert list((site.home / "backups").iterdir())
    assert would["state"]["message"].startswith("would prune 0 batches")
    books_are_whole(site)


def test_every_form_explains_its_parameters(site: Site) -> None:
    """Every field in the Prefect UI has a description, none is required."""
    for known in KNOWN:
        schema = call(site.server.url, "GET", f"/deployments/name/{known.path}")["parameter_openapi_schema"]
        assert schema.get("required", []) == []
        assert [name for name, field in schema["properties"].items() if not field.get("description")] == []


@pytest.mark.usefixtures("first_night")
def test_schedules_are_switched_on_in_the_studios_time_zone_and_survive_a_deployment(
    site: Site, monkeypatch: pytest.MonkeyPatch, project: Project
) -> None:
    """All are off at first; on: all but the watcher's, at the studio's clock; deploying again leaves them so.

    The same holds for the schedule of a batch, which is nobody's until it is given one.
    """
    url = site.server.url
    assert not [line for line in list_schedules(url) if line.active]
    schedules = call(url, "GET", f"/deployments/name/{BATCH}")["schedules"]
    assert [(found["slug"], found["active"]) for found in schedules] == [("nightly", False)]
    parameters = {"batch_file": "/shots/tonight.yaml"}
    set_schedule(url, BATCH, "nightly", active=True, parameters=parameters)
    on = {line.name: line for line in switch(url, (), active=True, zone=ZONE, notify="custom-webhook/studio")}
    assert [name for name, line in on.items() if not line.active] == ["watch-backends"]
    assert {line.zone for line in on.values() if line.active} == {"Asia/Bangkok"}
    assert (on["nightly-batch"].notify, on["prune"].notify) == ("custom-webhook/studio", "")
    switch(url, ["nightly-batch"], active=True, zone=ZONE, at="23:15")
    deploy(url, project_dir(), home=site.server.home)
    [batch] = call(url, "GET", f"/deployments/name/{BATCH}")["schedules"]
    assert (batch["active"], batch["parameters"]) == (True, parameters)
    set_schedule(url, BATCH, "nightly", active=False, parameters={})
    kept = {line.name: line for line in list_schedules(url)}
    night = kept["nightly-batch"]
    assert (night.active, night.cron, night.zone) == (True, "15 23 * * *", "Asia/Bangkok")
    assert night.notify == "custom-webhook/studio"
    assert night.last_state in ("Completed", "Failed")
    until("the server plans the next night", lambda: list_schedules(url)[0].next_at is not None, 120, every_s=0.2)
    planned = list_schedules(url)[0].next_at
    assert planned is not None
    assert planned.astimezone(ZONE).strftime("%H:%M") == "23:15"
    monkeypatch.setenv("PREFECT_API_URL", url)
    project.set(HYBRID_VIDEO_TIME_ZONE="Asia/Bangkok")
    shown = project.command("schedules", "--json").json["schedules"]
    assert [line["name"] for line in shown if line["active"]] == [known.name for known in KNOWN if known.by_default]
    off = project.command("schedules", "off", "--json")
    assert off.code == 0, off
    assert not [line for line in off.json["schedules"] if line["active"]]


def test_wrong_names_and_times_of_schedules_are_told(site: Site) -> None:
    """Each with what to write instead; nothing is switched."""
    url = site.server.url
    with pytest.raises(NotFoundError, match="did you mean 'nightly-batch'"):
        switch(url, ["nightly"], active=True, zone=ZONE)
    with pytest.raises(InputError, match="'25:00' is no time of day"):
        switch(url, ["nightly-batch"], active=True, zone=ZONE, at="25:00")
    with pytest.raises(InputError, match="reconcile runs by"):
        switch(url, ["reconcile"], active=True, zone=ZONE, at="08:00")
    assert not [line for line in list_schedules(url) if line.active]


def test_the_report_command_sends_through_a_block(
    site: Site, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`report --notify` runs the flow against the server and ends with its exit code."""
    for name, value in site.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    with_nobody = project.command("report", "--notify", "custom-webhook/studio")
    assert with_nobody.code == 2
    assert "PREFECT_API_URL" in with_nobody.err
    monkeypatch.setenv("PREFECT_API_URL", site.server.url)
    monkeypatch.setenv("PREFECT_HOME", str(site.server.home))
    before = len(site.hook.posts)
    sent = project.start("report", "--day", "today", "--notify", "custom-webhook/studio").wait()
    assert sent.code == 0, sent
    assert len(site.hook.posts) == before + 1
    assert HOOK_SECRET not in sent.out + sent.err


def test_a_cancelled_night_puts_its_batch_back_and_a_second_night_goes_on(site: Site) -> None:
    """Cancelled in Prefect: remote work is stopped, the file waits again; the next run makes only what is missing."""
    site.farm.reset()
    site.drop("long", LONG)
    run = site.start("nightly-batch/every-night")
    until("clips are being made", lambda: len(site.farm.charges()) > 4, 120)
    call(site.server.url, "POST", f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
    until("the night ends", lambda: site.flow_run(run)["state_type"] in FINAL, 120, every_s=0.2)
    assert site.flow_run(run)["state_type"] == "CANCELLED", site.flow_run(run)["state"]
    until("the file waits again", (site.inbox / "long.json").exists, 30)
    assert not [path for path in (site.inbox / "running").iterdir() if path.is_dir()]
    books_are_whole(site)
    batch = json.loads((site.inbox / "long.json").read_text(encoding="utf-8"))
    made = len([row for row in site.farm.charges() if row["state"] == "done"])
    assert made < len(batch["jobs"])
    again = site.run("nightly-batch/every-night")
    assert again["state_type"] == "COMPLETED", again["state"]
    done = [row["job"] for row in site.farm.charges() if row["state"] == "done"]
    assert sorted(done) == sorted(f"long/s{n}" for n in range(1, LONG + 1))
    books_are_whole(site)


def artifact_keys(site: Site) -> set[str]:
    """Keys of every artifact there is."""
    return {found["key"] for found in call(site.server.url, "POST", "/artifacts/latest/filter", {})}


def books_are_whole(site: Site) -> None:
    """The ledger contradicts nothing and holds no money back."""
    ledger = Ledger.open(site.home / "ledger.sqlite3")
    try:
        found = verify(ledger)
    finally:
        ledger.close()
    assert found.ok, found
    assert found.reserved_usd == 0


def mail_server(mails: list[str]) -> tuple[int, Any]:
    """A mail server that accepts everything; its port, and what ends it."""
    loop = asyncio.new_event_loop()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def say(line: str) -> None:
            writer.write(f"{line}\r\n".encode())
            await writer.drain()

        await say("220 studio ESMTP")
        while line := (await reader.readline()).decode().strip():
            word = line.split()[0].upper()
            if word == "EHLO":
                await say("250-studio\r\n250 AUTH PLAIN LOGIN")
            elif word == "AUTH":
                await say("235 welcome")
            elif word == "DATA":
                await say("354 go on")
                body = await reader.readuntil(b"\r\n.\r\n")
                mails.append(body.decode(errors="replace"))
                await say("250 taken")
            elif word == "QUIT":
                await say("221 bye")
                break
            else:
                await say("250 ok")
        writer.close()

    server = loop.run_until_complete(asyncio.start_server(serve, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def stop() -> None:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        server.close()

    return int(server.sockets[0].getsockname()[1]), stop
