"""The ledger is deleted in the middle of a batch on all three tiers: restored, it comes to equal the vendors' charges
to the last cent, and nothing is ever bought twice; where something cannot be known, nothing is sent without a word."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest
import sqlalchemy as sa
from pipeline_rig import TIME_SCALE, FarmMaker, Outcome, Process, Project, Servers, until

from hybrid_video.emulators.farm import FarmOptions
from hybrid_video.engine.session import open_ledger
from hybrid_video.ledger import money
from hybrid_video.ledger import schema as t
from hybrid_video.ledger.verify import VerifyReport, verify
from hybrid_video.models import Attempt, Tier
from hybrid_video.settings import Settings

SHOTS = 15
SLOW_S = {Tier.LOCAL: 24.0, Tier.CLOUD: 36.0, Tier.GEMINI: 24.0}
GOOGLE_SIZE = {"duration_s": 3, "width": 640, "height": 360}
EACH = [{"preferences": {"backend": tier}} for tier in ("local", "cloud", "gemini")]


@pytest.fixture
def slow_farm(start_farm: FarmMaker) -> Servers:
    """Emulators on which a clip takes the better part of a second."""
    return start_farm(FarmOptions(time_scale=TIME_SCALE, service_s=SLOW_S, cold_start_s=8.0))


def attempts() -> list[Attempt]:
    """What the ledger in the settings knows."""
    with closing(open_ledger(Settings.load())) as ledger:
        return ledger.attempts()


def verified() -> VerifyReport:
    """The ledger recomputed."""
    with closing(open_ledger(Settings.load())) as ledger:
        return verify(ledger)


def lose_ledger_file(project: Project) -> None:
    """The database is gone, with its log."""
    for path in project.home.glob("ledger.sqlite3*"):
        path.unlink()


def lose_journal(project: Project) -> None:
    """The home folder was on the same disk."""
    shutil.rmtree(project.home / "journal")


def begun(project: Project, farm: Servers, *, name: str = "film", shots: int = SHOTS) -> Path:
    """A batch with every tier in it."""
    project.use(farm)
    project.set(HYBRID_VIDEO_GEMINI_MAX_CONCURRENT=2, HYBRID_VIDEO_RUNPOD_MAX_WORKERS=2)
    jobs = [{**GOOGLE_SIZE, **EACH[number % 3]} for number in range(shots)]
    return project.batch(jobs, name=name)


def backed_up_then_killed(project: Project, film: Path, *, before: int, after: int) -> Path:
    """Runs a batch as a process, backs the ledger up after so many clips, and kills the run when so many are there
    whose attempts were made after that."""
    process = project.start_run(film)
    copy = project.folder / "copy.sqlite3"
    try:
        until(f"{before} clips are there", lambda: len(list(project.out.glob("film/*.json"))) >= before)
        taken = project.command("ledger", "backup", copy, "--json")
        assert taken.code == 0, taken
        until(f"{after} clips of attempts that the backup does not know", lambda: strangers(project, copy) >= after)
        until("no submit is under way", lambda: stopped_between_submits(process))
        process.signal(signal.SIGKILL)
        process.popen.wait(10)
    finally:
        process.end()
    return copy


def strangers(project: Project, copy: Path) -> int:
    """How many clips are there whose attempts a backup does not know."""
    with closing(sqlite3.connect(copy)) as connection:
        known = {attempt_id for (attempt_id,) in connection.execute("select attempt_id from attempts")}
    return len(made(project) - known)


def sent_to_google(copy: Path) -> set[str]:
    """Attempts whose submit to Google was under way when a backup was taken: it cannot be asked what became of them."""
    with closing(sqlite3.connect(copy)) as connection:
        rows = connection.execute("select attempt_id from attempts where state = 'intent' and tier = 'gemini'")
        return {attempt_id for (attempt_id,) in rows}


def made(project: Project) -> set[str]:
    """The attempts whose clips are on disk, by the records beside these."""
    return {json.loads(path.read_text(encoding="utf-8"))["attempt_id"] for path in project.out.glob("[!.]*/*.json")}


def stopped_between_submits(process: Process) -> bool:
    """Stops the process; lets it go on, and returns False, if it was waiting for the answer to a submit."""
    process.signal(signal.SIGSTOP)
    time.sleep(0.05)
    url = Settings.load().storage.ledger_url
    address = url.get_secret_value() if url else f"sqlite:///{Settings.load().storage.ledger_path}"
    engine = sa.create_engine(address.replace("postgresql://", "postgresql+psycopg://"))
    with closing(engine.connect()) as connection:
        waiting = connection.execute(sa.text("select count(*) from attempts where state = 'intent'")).scalar_one()
    engine.dispose()
    if waiting:
        process.signal(signal.SIGCONT)
        time.sleep(0.05)
    return not waiting


def restored(project: Project, copy: Path) -> Outcome:
    """`ledger restore`."""
    outcome = project.command("ledger", "restore", copy, "--json")
    assert outcome.code == 0, outcome
    return outcome


def refused(project: Project, film: Path) -> None:
    """Nothing is sent before the gap is closed."""
    outcome = project.run(film)
    assert outcome.code == 2, outcome
    assert "hybrid-video reconcile" in outcome.json["error"]


def balanced(farm: Servers) -> None:
    """Nothing is held, every balance agrees, and the ledger has what the vendors billed, to the last cent."""
    report = verified()
    assert report.ok, report.findings
    assert report.findings == ()
    assert report.reserved_usd == 0
    assert report.settled_usd == farm.billed_usd()


def bought_once(farm: Servers, jobs: int = SHOTS) -> None:
    """Every job is there, and none was sent a second time."""
    counted = farm.charged_jobs()
    assert len(counted) == jobs
    assert set(counted.values()) == {1}, counted


# -- the journal is there ----------------------------------------------------------------------------------------------


def test_a_lost_ledger_is_brought_up_to_the_vendors_bills_and_nothing_is_bought_twice(
    project: Project, slow_farm: Servers
) -> None:
    """Backup in mid-batch, more clips, kill, delete, restore, reconcile, run again: each job was charged once."""
    film = begun(project, slow_farm)
    copy = backed_up_then_killed(project, film, before=2, after=2)
    known = len(attempts())
    lose_ledger_file(project)
    restored(project, copy)
    assert len(attempts()) < known
    refused(project, film)
    outcome = project.command("reconcile", "--json")
    gap = outcome.json["gap"]
    assert outcome.code == 0, outcome
    assert gap["attempts_added"] + gap["attempts_brought_on"] > 0
    assert (gap["from_clips"], gap["waits_for"], gap["not_whole"]) == (0, [], [])
    assert len(attempts()) == known
    balanced(slow_farm)
    charged = slow_farm.charges()
    finished = project.run(film)
    assert finished.code == 0, finished
    assert finished.json["completed"] == SHOTS
    assert slow_farm.charges()[: len(charged)] or charged == []
    bought_once(slow_farm)
    balanced(slow_farm)
    again = project.command("reconcile", "--json")
    assert (again.code, again.json["gap"], again.json["clean"]) == (0, None, True)


def test_a_batch_begun_after_the_backup_is_known_again(project: Project, slow_farm: Servers) -> None:
    """The backup does not even hold its name; running its file again finds every clip made."""
    first = begun(project, slow_farm, name="first", shots=3)
    assert project.run(first).code == 0
    copy = project.folder / "copy.sqlite3"
    assert project.command("ledger", "backup", copy).code == 0
    second = begun(project, slow_farm, name="second", shots=6)
    assert project.run(second).code == 0
    lose_ledger_file(project)
    restored(project, copy)
    assert project.command("reconcile", "--json").code == 0
    balanced(slow_farm)
    outcome = project.run(second)
    assert (outcome.code, outcome.json["completed"]) == (0, 6), outcome
    bought_once(slow_farm, jobs=9)


def test_a_backup_put_in_place_by_hand_is_recognised(project: Project, farm: Servers) -> None:
    """No command need be used for the ledger to know that it comes from a backup."""
    film = begun(project, farm, shots=3)
    copy = project.folder / "copy.sqlite3"
    assert project.command("ledger", "show").code == 0
    assert project.command("ledger", "backup", copy).code == 0
    assert project.run(film).code == 0
    lose_ledger_file(project)
    shutil.copy(copy, project.home / "ledger.sqlite3")
    refused(project, film)
    assert project.command("reconcile", "--json").code == 0
    balanced(farm)
    assert project.run(film).json["completed"] == 3
    bought_once(farm, jobs=3)


def test_a_restored_ledger_lives_on_postgresql_too(
    project: Project, slow_farm: Servers, postgres_databases: Callable[[], str]
) -> None:
    """The same drill: the database is dropped, and the backup restored into a new one."""
    project.set(HYBRID_VIDEO_LEDGER_URL=postgres_databases())
    film = begun(project, slow_farm)
    copy = backed_up_then_killed(project, film, before=2, after=2)
    known = len(attempts())
    project.set(HYBRID_VIDEO_LEDGER_URL=postgres_databases())
    restored(project, copy)
    refused(project, film)
    outcome = project.command("reconcile", "--json")
    assert outcome.code == 0, outcome
    assert len(attempts()) == known
    balanced(slow_farm)
    assert project.run(film).code == 0
    bought_once(slow_farm)
    balanced(slow_farm)


def test_an_answer_lost_after_the_backup_stays_uncertain_and_is_not_sent_again(project: Project, farm: Servers) -> None:
    """Google has no list of operations: the restored ledger holds the reservation, and a person has the last word."""
    project.use(farm, "gemini")
    film = project.batch([GOOGLE_SIZE, GOOGLE_SIZE])
    copy = project.folder / "copy.sqlite3"
    assert project.command("ledger", "backup", copy).code == 0
    farm.fault(server="gemini", operation="submit", action="drop_after", times=1)
    assert project.run(film).code == 1
    lose_ledger_file(project)
    restored(project, copy)
    outcome = project.command("reconcile", "--json")
    assert (outcome.code, outcome.json["uncertain"], outcome.json["gap"]["attempts_added"]) == (1, 1, 2), outcome
    assert project.run(film).code == 1
    assert sum(farm.charged_jobs().values()) == 2
    report = verified()
    assert report.settled_usd + report.reserved_usd == farm.billed_usd()
    (unclear,) = [attempt for attempt in attempts() if not attempt.finished]
    assert project.command("ledger", "resolve", unclear.attempt_id, "--as", "charged").code == 0
    balanced(farm)


def test_a_clip_on_disk_counts_although_its_vendor_has_forgotten_the_job(project: Project, farm: Servers) -> None:
    """Known to the backup as sent, finished since, and gone at RunPod: it would be called lost, and made again."""
    project.use(farm, "cloud")
    film = project.batch([{}, {}])
    assert project.run(film).code == 0
    billed = farm.billed_usd()
    with closing(open_ledger(Settings.load())) as ledger, ledger.writing() as connection:
        for attempt in ledger.attempts():  # as a backup taken at that moment shows it
            gone_back = {"state": "submitted", "clip": None, "cost_usd": None, "reserved_usd": attempt.quoted_usd}
            this = t.attempts.c.attempt_id == attempt.attempt_id
            connection.execute(sa.update(t.attempts).where(this).values(**gone_back))
        connection.execute(sa.update(t.jobs).values(state="active"))
        connection.execute(sa.update(t.balances).values(settled_usd=Decimal(0), reserved_usd=Decimal(0)))
        for attempt in ledger.attempts():
            scopes = money.scopes(attempt.batch, attempt.job, f"{attempt.created_at:%Y-%m-%d}", attempt.tier)
            money.move(connection, scopes, reserved=attempt.quoted_usd)
    farm.reset()
    outcome = project.command("reconcile", "--json")
    assert (outcome.code, outcome.json["collected"]) == (0, 2), outcome
    assert verified().settled_usd == billed
    assert project.run(film).json["completed"] == 2
    assert farm.charges() == []


# -- the journal is gone as well ---------------------------------------------------------------------------------------


def test_without_the_journal_clips_are_found_and_nothing_more_is_bought_without_a_word(
    project: Project, slow_farm: Servers
) -> None:
    """The clips on disk tell what made them. What had no clip yet cannot be known: the system waits for a person."""
    film = begun(project, slow_farm)
    copy = backed_up_then_killed(project, film, before=2, after=2)
    on_disk = made(project)
    lose_ledger_file(project)
    lose_journal(project)
    restored(project, copy)
    outcome = project.command("reconcile", "--json")
    gap = outcome.json["gap"]
    assert outcome.code == 1, outcome
    assert gap["from_clips"] > 0
    assert gap["not_whole"] != []
    assert "ledger close-gap" in outcome.err
    assert on_disk <= {attempt.attempt_id for attempt in attempts() if attempt.finished}
    until("the vendors are done with what they had", lambda: all(r["state"] != "open" for r in slow_farm.charges()))
    charged = slow_farm.charges()
    refused(project, film)
    assert len(slow_farm.charges()) == len(charged)
    report = verified()
    assert report.ok, report.findings
    unknown = slow_farm.billed_usd() - report.settled_usd - report.reserved_usd
    assert unknown > 0
    word = project.command("ledger", "close-gap")
    assert word.code == 2, word
    assert "--yes" in word.err
    assert project.command("ledger", "close-gap", "--charged", f"gemini={unknown}", "--yes").code == 0
    report = verified()
    assert report.ok, report.findings
    assert report.settled_usd + report.reserved_usd == slow_farm.billed_usd()
    rest = project.run(film)
    uncertain = [error for error in rest.json["errors"] if error["kind"] == "uncertain"]
    assert len(uncertain) == len(sent_to_google(copy) - on_disk), rest
    assert rest.json["completed"] == SHOTS - len(uncertain), rest
    paid = {row["job"]: 0 for row in charged} | dict(slow_farm.charged_jobs())
    of_clips = {attempt.job for attempt in attempts() if attempt.attempt_id in on_disk}
    assert {paid[f"film/{job}"] for job in of_clips} == {1}


def test_a_machine_whose_journal_was_not_read_is_waited_for(
    project: Project, farm: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two home folders share a ledger: the gap is closed when both have told what they sent."""
    shared = f"sqlite:///{project.folder / 'shared.sqlite3'}"
    project.set(HYBRID_VIDEO_LEDGER_URL=shared)
    one = begun(project, farm, name="one", shots=3)
    assert project.run(one).code == 0
    other_home = project.folder / "other"
    project.set(HYBRID_VIDEO_HOME=other_home)
    two = begun(project, farm, name="two", shots=3)
    assert project.run(two).code == 0
    copy = project.folder / "copy.sqlite3"
    assert project.command("ledger", "backup", copy).code == 0
    three = begun(project, farm, name="three", shots=3)
    assert project.run(three).code == 0
    for path in project.folder.glob("shared.sqlite3*"):
        path.unlink()
    project.set(HYBRID_VIDEO_HOME=project.home)
    restored(project, copy)
    first = project.command("reconcile", "--json")
    assert first.code == 1, first
    assert len(first.json["gap"]["waits_for"]) == 1
    refused(project, three)
    project.set(HYBRID_VIDEO_HOME=other_home)
    second = project.command("reconcile", "--json")
    assert second.code == 0, second
    assert second.json["gap"]["attempts_added"] == 3
    balanced(farm)
    assert project.run(three).json["completed"] == 3
    bought_once(farm, jobs=9)


def test_a_gap_shows_in_verify_and_is_no_contradiction(project: Project, farm: Servers) -> None:
    """`ledger verify` names it and what to do."""
    film = begun(project, farm, shots=3)
    assert project.run(film).code == 0
    copy = project.folder / "copy.sqlite3"
    assert project.command("ledger", "backup", copy).code == 0
    lose_ledger_file(project)
    restored(project, copy)
    outcome = project.command("ledger", "verify", "--json")
    assert outcome.code == 0, outcome
    assert [finding["kind"] for finding in outcome.json["findings"]] == ["gap"]


def test_a_gap_cannot_be_closed_where_there_is_none(project: Project, farm: Servers) -> None:
    """A person's word is only taken when it is needed; amounts name a tier that bills."""
    project.use(farm, "local")
    assert project.run(project.batch([{}])).code == 0
    assert project.command("ledger", "close-gap", "--yes").code == 2
    wrong = project.command("ledger", "close-gap", "--charged", "local=1", "--yes")
    assert "cloud=USD or gemini=USD" in wrong.err
    assert verified().settled_usd == Decimal(0)


@pytest.fixture
def postgres_databases(postgres: str) -> Callable[[], str]:
    """Makes a new database of the private server on each call."""
    made: list[str] = []

    def make() -> str:
        name = f"drill_{time.monotonic_ns()}"
        server = sa.make_url(postgres).set(drivername="postgresql+psycopg")
        with sa.create_engine(server, isolation_level="AUTOCOMMIT").connect() as connection:
            connection.execute(sa.text(f'CREATE DATABASE "{name}"'))
        made.append(name)
        return sa.make_url(postgres).set(database=name).render_as_string(hide_password=False)

    return make
