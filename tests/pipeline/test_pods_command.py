"""`hybrid-video pods …` as a person and a script use it, and what `reconcile` and `ledger verify` say of pods."""

from __future__ import annotations

import re
import time
from decimal import Decimal

import httpx
import pytest
from pipeline_rig import FarmMaker, Project, Servers, until

from hybrid_video.emulators.farm import FarmOptions
from hybrid_video.emulators.runpod import BootTimes
from hybrid_video.installation import installation_id

SCALE = 200.0
GPU = "NVIDIA GeForce RTX 4090"


@pytest.fixture
def farm(start_farm: FarmMaker) -> Servers:
    """A RunPod on which pods may be opened; they boot in a fraction of a second, and the bill has no lag."""
    options = FarmOptions(
        comfyui_ports=(),
        gemini_port=None,
        time_scale=SCALE,
        pods=True,
        pod_boot=BootTimes(provisioning_s=3.0, starting_s=5.0, service_s=5.0),
        billing_lag_s=0.0,
    )
    return start_farm(options)


@pytest.fixture(autouse=True)
def _pointed_at_the_farm(project: Project, farm: Servers) -> None:
    project.set(**farm.environment, HYBRID_VIDEO_PODS_LEASE_S="3000")


def create(farm: Servers, name: str) -> str:
    """A pod that somebody else opens on the account."""
    body = {"name": name, "image": "x", "gpu": {"id": GPU}, "ports": ["8188/http"]}
    headers = {"Authorization": f"Bearer {farm.environment['RUNPOD_API_KEY']}"}
    answer = httpx.post(f"{farm.environment['HYBRID_VIDEO_RUNPOD_PODS_URL']}/pods", json=body, headers=headers)
    return str(answer.raise_for_status().json()["id"])


def listed(farm: Servers) -> list[str]:
    """Names of the pods RunPod lists."""
    headers = {"Authorization": f"Bearer {farm.environment['RUNPOD_API_KEY']}"}
    answer = httpx.get(f"{farm.environment['HYBRID_VIDEO_RUNPOD_PODS_URL']}/pods", headers=headers)
    return sorted(pod["name"] for pod in answer.raise_for_status().json()["pods"])


@pytest.mark.slow
def test_a_pod_started_by_hand_is_listed_stopped_and_paid_for(project: Project, farm: Servers) -> None:
    """Start waits until it renders; the list shows lease and cost; the bill comes out to the cent."""
    started = project.command("pods", "start", "--gpu", GPU, "--json")
    assert started.code == 0, started
    pod = started.json
    assert (pod["state"], pod["gpu"], pod["opened_because"]) == ("ready", GPU, "started by hand")
    assert "is ready" in started.err
    shown = project.command("pods", "list", "--json")
    (line,) = shown.json["alive"]
    assert (line["name"], line["provider_status"]) == (pod["name"], "RUNNING")
    assert line["lease_left_s"] > 0
    assert Decimal(line["cost_usd"]) == Decimal(line["jobs_usd"]) + Decimal(line["overhead_usd"]) > 0
    assert Decimal(line["reserved_usd"]) > Decimal(line["cost_usd"])
    assert "1 of at most 5 pods" in shown.err
    stopped = project.command("pods", "stop", pod["pod_id"], "--json")
    assert (stopped.code, stopped.json["state"]) == (0, "closed"), stopped
    assert listed(farm) == []
    time.sleep(1000 / SCALE)
    assert project.command("reconcile", "--json").code == 0
    found = project.command("ledger", "verify", "--json").json
    assert (found["ok"], found["pods"], found["pods_alive"], found["reserved_usd"]) == (True, 1, 0, "0.00")
    assert abs(Decimal(found["pod_difference_usd"])) < Decimal("0.01")
    assert Decimal(found["pod_billed_usd"]) > 0
    (ended,) = project.command("pods", "list", "--json").json["ended"]
    assert ended["difference_usd"] is not None


def test_pods_of_others_are_shown_and_never_touched(project: Project, farm: Servers) -> None:
    """Not by name, not by id, not by stop-all; another installation's only when that is said and confirmed."""
    theirs = "hybrid-video-ffffffff-abcdefghij"
    their_id, foreign_id = create(farm, theirs), create(farm, "my-training-pod")
    shown = project.command("pods", "list", "--json").json
    assert [pod["name"] for pod in shown["other_installations"]] == [theirs]
    assert shown["foreign"] == 1
    for target in (their_id, theirs):
        outcome = project.command("pods", "stop", target)
        assert (outcome.code, "another installation" in outcome.err) == (2, True), outcome
    outcome = project.command("pods", "stop", foreign_id)
    assert (outcome.code, "never touched" in " ".join(outcome.err.split())) == (2, True), outcome
    everything = project.command("pods", "stop-all", "--json")
    assert (everything.code, everything.json["ended"]) == (0, [])
    assert listed(farm) == [theirs, "my-training-pod"]
    asked = project.command("pods", "stop-all", "--all-installations")
    assert (asked.code, "--yes" in asked.err) == (2, True)
    assert project.command("pods", "stop-all", "--all-installations", "--yes").code == 0
    assert listed(farm) == ["my-training-pod"]


def test_stop_all_works_with_nothing_but_the_key(project: Project, farm: Servers) -> None:
    """The ledger is gone, and so is every record; the names are enough."""
    name = f"hybrid-video-{installation_id(project.home)}-abcdefghij"
    create(farm, name)
    (project.home / "ledger.sqlite3").write_bytes(b"this is no database, and no record is left of any pod" * 100)
    outcome = project.command("pods", "stop-all", "--json")
    assert outcome.code == 0, outcome
    assert [pod["name"] for pod in outcome.json["ended"]] == [name]
    assert "the ledger is left out" in outcome.err
    assert listed(farm) == []


def test_a_pod_of_ours_without_a_record_is_ended_by_reconcile(project: Project, farm: Servers) -> None:
    """Found by its name, ended and written down; the second time everything agrees."""
    name = f"hybrid-video-{installation_id(project.home)}-abcdefghij"
    create(farm, name)
    shown = project.command("pods", "list", "--json")
    assert [pod["name"] for pod in shown.json["without_record"]] == [name]
    outcome = project.command("reconcile", "--json")
    assert outcome.json["pool"]["ended"] == [name], outcome
    assert listed(farm) == []
    again = project.command("reconcile", "--json")
    assert (again.code, again.json["pool"]["ended"]) == (0, []), again
    assert project.command("ledger", "verify").code == 0


@pytest.mark.parametrize(
    ("arguments", "variables", "code", "words"),
    [
        (("start",), {"HYBRID_VIDEO_PODS_IMAGE": ""}, 2, "HYBRID_VIDEO_PODS_IMAGE"),
        (("start", "--max-price", "0.05"), {}, 3, "HYBRID_VIDEO_PODS_MAX_PRICE_USD_PER_H"),
        (("start", "--max-price", "cheap"), {}, 2, "is not an amount"),
        (("start", "--cloud", "moon"), {}, 2, "MOON"),
        (("start", "--gpu", "Voodoo 3"), {}, 2, "Voodoo 3"),
        (("start",), {"HYBRID_VIDEO_PODS_MAX_PODS": "0"}, 3, "HYBRID_VIDEO_PODS_MAX_PODS"),
        (("start",), {"HYBRID_VIDEO_DAILY_BUDGET_USD": "0.01"}, 3, "daily budget"),
        (("start",), {"RUNPOD_API_KEY": "invalid-key-0"}, 1, "RUNPOD_API_KEY"),
        (("stop", "nothing"), {}, 2, "'nothing'"),
        (("list", "--days", "-1"), {}, 2, "--days"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(
    project: Project, farm: Servers, arguments: tuple[str, ...], variables: dict[str, str], code: int, words: str
) -> None:
    """What happened, the value, what to do; nothing is opened."""
    project.set(**variables)
    outcome = project.command("pods", *arguments)
    assert outcome.code == code, outcome
    assert words in outcome.err
    assert "Traceback" not in outcome.err
    project.set(RUNPOD_API_KEY=farm.environment["RUNPOD_API_KEY"])
    assert listed(farm) == []


def test_without_a_key_the_ledgers_pods_are_still_shown(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 0, and the sentence names the variable."""
    monkeypatch.delenv("RUNPOD_API_KEY")
    outcome = project.command("pods", "list", "--json")
    assert (outcome.code, outcome.json["alive"]) == (0, []), outcome
    assert "RUNPOD_API_KEY" in outcome.json["notice"]


@pytest.mark.slow
def test_an_interrupted_start_leaves_a_pod_that_ends_itself(project: Project, farm: Servers) -> None:
    """The process is killed while the pod boots; nobody renews its lease, and the next command books it."""
    project.set(HYBRID_VIDEO_PODS_LEASE_S="400")
    process = project.start("pods", "start")
    try:
        until("the pod is listed", lambda: listed(farm))
        process.popen.kill()
        process.popen.wait()
    finally:
        process.end()
    until("it has ended itself", lambda: not listed(farm), timeout_s=20)
    until("it is booked", lambda: project.command("reconcile", "--json").json["pool"]["unresolved"] == [])
    report = project.verify()
    assert report.ok, report.findings
    assert (report.pods, report.pods_alive, report.reserved_usd) == (1, 0, 0)
    assert report.settled_usd > 0


def test_the_key_and_the_token_are_in_no_output_and_no_database(project: Project, farm: Servers) -> None:
    """Not on the way from start to stop, and not in the ledger."""
    project.set(RUNPOD_API_KEY="rpa_sentinel_55aa55aa55aa")
    texts = [str(project.command("pods", *words)) for words in (("start",), ("list",), ("stop-all",))]
    token = (project.home / "secrets" / "pod-token").read_text()
    database = b"".join(path.read_bytes() for path in project.home.glob("ledger.sqlite3*"))
    for secret in (token, "rpa_sentinel_55aa55aa55aa"):
        assert secret.encode() not in database
        assert not any(secret in text for text in texts)
    assert re.search(r"hybrid-video-[0-9a-f]{8}-", texts[0])
