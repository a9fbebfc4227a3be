"""After a crash: what is running is collected, what nobody can know waits for a word, the disk is checked."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal

import httpx
import pytest
from pipeline_rig import TIME_SCALE, FarmMaker, Outcome, Project, Servers, until

from hybrid_video.emulators.farm import FarmOptions
from hybrid_video.ledger import Ledger
from hybrid_video.ledger.states import OPEN
from hybrid_video.models import AttemptState, JobState, Tier

SLOW_S = {Tier.LOCAL: 60.0, Tier.CLOUD: 60.0, Tier.GEMINI: 60.0}
"""With the time scale a clip takes 1.5 s: long enough to be killed in the middle."""

GOOGLE_SIZE = {"duration_s": 3, "width": 640, "height": 360}


@pytest.fixture
def slow_farm(start_farm: FarmMaker) -> Servers:
    """Emulators on which every clip takes a second and a half."""
    return start_farm(FarmOptions(time_scale=TIME_SCALE, service_s=SLOW_S, cold_start_s=1.0))


def job_states(project: Project, batch: str = "film") -> dict[str, JobState]:
    """State of each job in the ledger."""
    ledger = Ledger.open(project.home / "ledger.sqlite3")
    try:
        return {row.job: row.state for row in ledger.job_rows(batch)}
    finally:
        ledger.close()


def kill_in_the_middle(project: Project, *jobs: dict[str, object], running: int) -> None:
    """Starts a batch as a real process; kills it when so many attempts have their receipt and none waits for one."""
    process = project.start_run(project.batch(list(jobs)))

    def caught() -> bool:
        if sum(attempt.handle is not None for attempt in project.attempts()) < running:
            return False
        process.signal(signal.SIGSTOP)
        time.sleep(0.05)
        if project.attempts_in(AttemptState.INTENT) == 0:  # it may have been stopped while it holds the ledger
            return True
        process.signal(signal.SIGCONT)
        return False

    try:
        until(f"{running} attempts are accepted and no submit is under way", caught)
        process.signal(signal.SIGKILL)
        process.popen.wait(10)
    finally:
        process.end()


def lose_an_answer(project: Project, farm: Servers) -> str:
    """Runs a job on Google whose answer is lost after it was accepted; returns the id of the uncertain attempt."""
    project.use(farm, "gemini")
    farm.fault(server="gemini", operation="submit", action="drop_after")
    outcome = project.run(project.batch([GOOGLE_SIZE]))
    assert outcome.code == 1, outcome
    (attempt,) = project.attempts()
    assert attempt.state is AttemptState.UNCERTAIN
    assert f"ledger resolve {attempt.attempt_id}" in outcome.json["errors"][0]["message"]
    return attempt.attempt_id


def balanced(project: Project, farm: Servers) -> None:
    """Nothing is held, every balance agrees, and the ledger has what the vendors billed, to the last cent."""
    report = project.verify()
    assert report.ok, report.findings
    assert report.reserved_usd == 0
    assert report.settled_usd == farm.billed_usd()


# -- open attempts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tier", ["local", "cloud", "gemini"])
def test_what_ran_when_the_process_was_killed_is_collected_without_a_new_charge(
    tier: str, project: Project, slow_farm: Servers
) -> None:
    """reconcile follows the receipts to their clips and sends nothing; a second one finds nothing to do."""
    project.use(slow_farm, tier)
    size = GOOGLE_SIZE if tier == "gemini" else {}
    kill_in_the_middle(project, size, size, running=1)
    before = slow_farm.charged_jobs()
    outcome = project.command("reconcile", "--json")
    answer = outcome.json
    accepted = sum(before.values())
    assert answer["collected"] == accepted, outcome
    assert (answer["uncertain"], answer["running"], answer["differences"]) == (0, 0, 0), outcome
    assert outcome.code == 0
    assert slow_farm.charged_jobs() == before
    assert answer["clips_checked"] == accepted == len(project.clip_files())
    balanced(project, slow_farm)
    again = project.command("reconcile", "--json")
    assert again.code == 0
    assert (again.json["attempts"], again.json["history_rows"], again.json["clean"]) == ([], 0, True)


def test_an_attempt_the_server_lost_is_released_and_its_job_made_again_by_run(
    project: Project, slow_farm: Servers
) -> None:
    """A ComfyUI that was restarted has forgotten its queue: the job is pending, nothing is reserved."""
    project.use(slow_farm, "local")
    kill_in_the_middle(project, {}, running=1)
    slow_farm.reset()
    outcome = project.command("reconcile", "--json")
    assert outcome.json["failed"] == 1, outcome
    assert job_states(project) == {"s1": JobState.PENDING}
    balanced(project, slow_farm)
    assert project.run(project.folder / "film.json").code == 0


def test_waiting_ends_when_it_is_told_to_and_the_remote_work_goes_on(project: Project, slow_farm: Servers) -> None:
    """With --wait the attempt is reported as running, exit 1, and a later reconcile collects it."""
    project.use(slow_farm, "local")
    kill_in_the_middle(project, {}, running=1)
    first = project.command("reconcile", "--wait", "0.2", "--json")
    assert first.code == 1, first
    assert first.json["running"] == 1
    assert [row["state"] for row in slow_farm.charges()] == ["open"]
    assert project.command("reconcile", "--json").json["collected"] == 1
    balanced(project, slow_farm)


def test_what_a_live_process_drives_is_left_to_it(project: Project, slow_farm: Servers) -> None:
    """reconcile beside a run touches none of its jobs and calls that no difference."""
    project.use(slow_farm, "local")
    process = project.start_run(project.batch([{}]))
    try:
        until("an attempt is accepted", lambda: any(a.handle for a in project.attempts()))
        beside = project.command("reconcile", "--json")
        assert beside.json["elsewhere"] == 1, beside
        assert beside.code == 0
        assert process.wait(20).code == 0
    finally:
        process.end()
    balanced(project, slow_farm)


def test_only_the_named_batches_are_looked_at(project: Project, farm: Servers) -> None:
    """A name that is not known is refused with the nearest one."""
    project.use(farm, "local")
    assert project.run(project.batch([{}])).code == 0
    assert project.command("reconcile", "film", "--json").json["batches"] == ["film"]
    wrong = project.command("reconcile", "flim", "--json")
    assert wrong.code == 2
    assert "'film'" in wrong.json["error"]


# -- uncertain attempts ------------------------------------------------------------------------------------------------


def test_a_lost_answer_of_google_stays_uncertain_and_reserved(project: Project, farm: Servers) -> None:
    """Google lists no operations, so reconcile can only say so, name the command, and exit 1."""
    attempt_id = lose_an_answer(project, farm)
    outcome = project.command("reconcile", "--json")
    assert outcome.code == 1
    (line,) = outcome.json["attempts"]
    assert (line["outcome"], line["attempt_id"]) == ("uncertain", attempt_id)
    assert f"ledger resolve {attempt_id}" in line["message"]
    assert project.verify().reserved_usd > 0
    assert sum(farm.charged_jobs().values()) == 1


WORDS: dict[str, tuple[list[str], JobState, Callable[[Decimal], Decimal]]] = {
    "never-accepted": (["--as", "never-accepted"], JobState.PENDING, lambda _held: Decimal(0)),
    "charged": (["--as", "charged"], JobState.FAILED, lambda held: held),
    "charged with an amount": (["--as", "charged", "--usd", "0.12"], JobState.FAILED, lambda _held: Decimal("0.12")),
    "charged and tried again": (["--as", "charged", "--retry"], JobState.PENDING, lambda held: held),
    "free": (["--as", "free"], JobState.FAILED, lambda _held: Decimal(0)),
}


@pytest.mark.parametrize("case", WORDS)
def test_a_persons_word_settles_an_uncertain_attempt(case: str, project: Project, farm: Servers) -> None:
    """Each word books its amount, releases the reservation, and gives the job the state that follows from it."""
    options, job_state, booked = WORDS[case]
    attempt_id = lose_an_answer(project, farm)
    held = project.verify().reserved_usd
    outcome = project.command("ledger", "resolve", attempt_id[:8], *options, "--json")
    assert outcome.code == 0, outcome
    assert Decimal(outcome.json["cost_usd"]) == booked(held)
    assert outcome.json["job_state"] == job_state.value
    report = project.verify()
    assert report.ok, report.findings
    assert (report.reserved_usd, report.settled_usd) == (0, booked(held))
    assert job_states(project) == {"s1": job_state}
    assert project.command("reconcile", "--json").code == 0


def test_a_job_that_was_never_accepted_is_made_by_the_next_run(project: Project, farm: Servers) -> None:
    """The word frees the job: run makes it with exactly one further submission."""
    attempt_id = lose_an_answer(project, farm)
    assert project.command("ledger", "resolve", attempt_id, "--as", "never-accepted").code == 0
    assert project.run(project.folder / "film.json").code == 0
    assert sum(farm.charged_jobs().values()) == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["0000000", "--as", "free"], ("no attempt", "'0000000'")),
        (["ID", "--as", "perhaps"], ("'perhaps'", "never-accepted, charged or free")),
        (["ID", "--as", "free", "--usd", "1"], ("--usd", "'free'")),
        (["ID", "--as", "charged", "--usd", "-1"], ("--usd", "'-1'")),
        (["ID", "--as", "charged"], ("not uncertain", "settled at $")),
    ],
    ids=["unknown id", "unknown word", "a price for free", "a negative price", "a settled attempt"],
)
def test_a_word_that_makes_no_sense_changes_nothing(
    options: list[str], words: tuple[str, ...], project: Project, farm: Servers
) -> None:
    """Exit 2 with the value and the remedy; a settled attempt is never touched."""
    project.use(farm, "local")
    assert project.run(project.batch([{}])).code == 0
    before = project.attempts()
    outcome = project.command(
        "ledger", "resolve", *[before[0].attempt_id if part == "ID" else part for part in options], "--json"
    )
    assert outcome.code == 2, outcome
    for word in words:
        assert word in outcome.json["error"]
    assert project.attempts() == before


def test_the_rule_books_an_old_uncertain_attempt_as_charged(project: Project, farm: Servers) -> None:
    """HYBRID_VIDEO_UNCERTAIN_RULE=charge applies from the configured age on, and not before."""
    lose_an_answer(project, farm)
    held = project.verify().reserved_usd
    project.set(HYBRID_VIDEO_UNCERTAIN_RULE="charge")
    assert project.command("reconcile", "--json").json["uncertain"] == 1
    project.set(HYBRID_VIDEO_UNCERTAIN_AFTER_H=str(timedelta(milliseconds=1) / timedelta(hours=1)))
    outcome = project.command("reconcile", "--json")
    assert (outcome.code, outcome.json["charged"]) == (0, 1), outcome
    report = project.verify()
    assert (report.settled_usd, report.reserved_usd) == (held, 0)
    assert "UNCERTAIN_RULE" in project.attempts()[0].cost_basis


def test_doctor_names_the_commands_for_uncertain_attempts(project: Project, farm: Servers) -> None:
    """The ledger's line is a warning with both commands to type."""
    lose_an_answer(project, farm)
    findings = {f["subject"]: f for f in project.command("doctor", "--json").json["findings"]}
    assert findings["ledger"]["level"] == "warning"
    for command in ("hybrid-video reconcile", "hybrid-video ledger resolve"):
        assert command in findings["ledger"]["remedy"]


def test_ledger_show_lists_attempts_with_their_ids(project: Project, farm: Servers) -> None:
    """What an uncertain attempt holds and the command that settles it can be read off."""
    attempt_id = lose_an_answer(project, farm)
    outcome = project.command("ledger", "show", "film", "--json")
    (line,) = outcome.json["attempts"]
    assert (line["attempt_id"], line["state"]) == (attempt_id, "uncertain")
    assert Decimal(line["reserved_usd"]) > 0
    assert f"ledger resolve {attempt_id}" in " ".join(outcome.err.split())
    assert project.command("ledger", "show", "--json").json["batches"][0]["uncertain"] == 1


# -- the disk and the vendor -------------------------------------------------------------------------------------------


def finished(project: Project, farm: Servers) -> None:
    """Two finished clips."""
    project.use(farm, "local")
    assert project.run(project.batch([{}, {}])).code == 0


def clip_kinds(outcome: Outcome) -> dict[str, str]:
    """Kind of each finding about a clip, by file name."""
    return {row["path"].rsplit("/", 1)[-1]: row["kind"] for row in outcome.json["clips"]}


def test_clips_that_are_gone_changed_or_unknown_are_reported(project: Project, farm: Servers) -> None:
    """By their SHA-256, with exit 1; the records beside the clips are ours and no finding."""
    finished(project, farm)
    gone, changed = project.clip_files()
    gone.unlink()
    data = bytearray(changed.read_bytes())
    data[len(data) // 2] ^= 1
    changed.write_bytes(data)
    changed.with_name("holiday.mp4").write_bytes(b"not ours")
    outcome = project.command("reconcile", "--json")
    assert outcome.code == 1, outcome
    assert clip_kinds(outcome) == {gone.name: "missing", changed.name: "changed", "holiday.mp4": "unknown"}
    assert outcome.json["differences"] == 3
    assert changed.with_name("holiday.mp4").exists()


def test_an_earlier_clip_of_a_changed_job_is_known(project: Project, farm: Servers) -> None:
    """The first clip is kept as s1.1.mp4 when the job is made again with another text."""
    project.use(farm, "local")
    assert project.run(project.batch([{"prompt": "first"}])).code == 0
    assert project.run(project.batch([{"prompt": "second"}])).code == 0
    assert len(project.clip_files()) == 2
    outcome = project.command("reconcile", "--json")
    assert (outcome.code, outcome.json["clips"]) == (0, []), outcome


def test_runpods_bill_stands_beside_the_ledgers_sum(project: Project, farm: Servers) -> None:
    """The bill holds start-up and idle seconds, so it is higher; the difference is shown and not booked."""
    project.use(farm, "cloud")
    assert project.run(project.batch([{}])).code == 0
    settled = project.verify().settled_usd
    outcome = project.command("reconcile", "--json")
    assert outcome.code == 0, outcome
    (bill,) = outcome.json["bills"]
    assert Decimal(bill["ledger_usd"]) == settled
    assert Decimal(bill["billed_usd"]) - settled == Decimal(bill["difference_usd"])
    assert project.verify().settled_usd == settled


def test_a_pod_with_our_name_that_nobody_configured_is_a_difference(project: Project, farm: Servers) -> None:
    """It is listed with its price, and not touched."""
    project.use(farm, "cloud")
    url = farm.environment["HYBRID_VIDEO_RUNPOD_PODS_URL"]
    body = {"name": "hybrid-video-1", "image": "x", "gpu": {"id": "NVIDIA GeForce RTX 4090"}, "ports": ["8188/http"]}
    headers = {"Authorization": f"Bearer {farm.environment['RUNPOD_API_KEY']}"}
    httpx.post(f"{url}/pods", json=body, headers=headers).raise_for_status()
    httpx.post(f"{url}/pods", json={**body, "name": "somebody-else"}, headers=headers).raise_for_status()
    outcome = project.command("reconcile", "--json")
    assert outcome.code == 1, outcome
    assert [pod["name"] for pod in outcome.json["pods"]] == ["hybrid-video-1"]


def test_an_interrupted_reconcile_gives_its_jobs_up(project: Project, slow_farm: Servers) -> None:
    """A killed reconcile leaves nothing behind that a second one could not take over at once."""
    project.use(slow_farm, "local")
    kill_in_the_middle(project, {}, running=1)
    first = project.start("reconcile")
    try:
        until("it follows the attempt", lambda: "found again" in first.outcome(0).err)
    finally:
        first.end()
    assert project.command("reconcile", "--json").json["collected"] == 1
    assert all(attempt.state not in OPEN for attempt in project.attempts())
