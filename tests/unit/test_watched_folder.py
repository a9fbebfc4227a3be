"""The watched folder: what is taken, in which order, with whose money, and where it lies afterwards."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from hybrid_video.engine.report import BatchReport
from hybrid_video.errors import ConfigurationError, NotFoundError, TerminalError
from hybrid_video.errors import FailureKind as Kind
from hybrid_video.ledger import Ledger, Owner
from hybrid_video.models import Batch
from hybrid_video.settings import RoutingSettings, ScheduleSettings, Settings, StorageSettings
from hybrid_video.watched_folder import Claims, Inbox, Listing, Night, NightReport, Ran, list_inbox, run_night
from hybrid_video.watched_folder.claiming import LEASE_S, REPORT_FILE
from hybrid_video.watched_folder.listing import retry
from tests.unit.engine_rig import ScriptedBackend, ran

NOW = datetime(2026, 11, 22, 22, 0, tzinfo=UTC)
SMALL = {"width": 64, "height": 64, "duration_s": 0.5, "fps": 16}
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108020000009077"
    "53de0000000c49444154789c63f8cfc0000003010100c9fe92ef0000000049454e44ae426082"
)


class Studio:
    """An inbox, a ledger, and backends with written prices."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.settings = Settings(
            storage=StorageSettings(home=home),
            routing=RoutingSettings(retry_base_s=0.01, backend_patience_s=0.2),
            schedule=ScheduleSettings(inbox_settle_s=0.05, time_zone="Europe/Berlin"),
        )
        self.inbox = Inbox.of(self.settings)
        self.backends: list[ScriptedBackend] = [ScriptedBackend("comfyui")]
        self.made: list[Batch] = []

    @property
    def folder(self) -> Path:
        """The watched folder."""
        return self.inbox.folder

    def drop(self, stem: str, jobs: int = 1, *, age_s: float = 60, into: str = "", **fields: Any) -> Path:
        """Puts a batch file into the inbox, as if it had come a while ago."""
        shots = [
            {"id": f"s{n}", "prompt": f"shot {n} of {stem}", **SMALL, **fields.pop("job", {})} for n in range(jobs)
        ]
        path = self.folder / into / f"{stem}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"jobs": shots, **fields}), encoding="utf-8")
        waits = self.folder / f".{(path if not into else path.parent).name}.waits.json"
        waits.write_text(json.dumps({"arrived_at": (NOW - timedelta(seconds=age_s)).isoformat()}), encoding="utf-8")
        return path

    async def run(self, batch: Batch, base_dir: Path) -> Ran:
        """Makes a batch with the real engine."""
        self.made.append(batch)
        goal = {"name": batch.name, "budget_usd": batch.budget_usd, "deadline_s": batch.deadline_s}
        async with ran(self.backends, self.home, batch.jobs, self.settings.routing, **goal) as made:
            return Ran(made.report)

    async def night(self, at: datetime = NOW, run: Any = None, **values: Any) -> NightReport:
        """One night."""
        values = {"settle_s": 0.05, **values}
        return await run_night(self.settings, run or self.run, night=Night(**values), now=lambda: at)

    def ended(self, outcome: str) -> list[str]:
        """Names of what was put away."""
        return sorted(path.name for path in (self.folder / outcome).glob("*/*"))

    def report(self, name: str) -> str:
        """The report beside a batch that was put away."""
        [path] = self.folder.glob(f"*/*/{name}/{REPORT_FILE}")
        return path.read_text(encoding="utf-8")

    def waiting(self) -> list[str]:
        """What waits in the inbox."""
        return [unit.entry.name for unit in self.inbox.units()]

    def outcomes(self, report: NightReport) -> dict[str, str]:
        """How each batch of a night ended."""
        return {line.unit: line.outcome for line in report.lines}


@pytest.fixture
def studio(tmp_path: Path) -> Studio:
    """A studio with one free GPU."""
    return Studio(tmp_path / "home")


def cloud(usd: str = "0.10") -> list[ScriptedBackend]:
    """Rented GPUs only, at a price a clip."""
    return [ScriptedBackend("runpod-serverless", usd=usd)]


async def test_batches_are_made_by_priority_and_then_by_arrival(studio: Studio) -> None:
    """The most urgent shot of a file decides; what is made lies in done with its report, and nothing waits."""
    studio.drop("late", age_s=10)
    studio.drop("early", 2, age_s=30)
    studio.drop("urgent", age_s=1, job={"priority": 90})
    report = await studio.night()
    assert [batch.name for batch in studio.made] == ["urgent", "early", "late"]
    assert (studio.ended("done"), studio.waiting(), report.exit_code) == (["early", "late", "urgent"], [], 0)
    assert "# early: 2 of 2 clips" in studio.report("early")
    assert (studio.folder / "done" / "2026-11-22" / "early" / "early.json").is_file()
    assert not list((studio.folder / "running").iterdir())


async def test_a_wrong_file_is_put_with_the_failed_ones_and_stops_no_other(studio: Studio) -> None:
    """Its report says which line is wrong and what to do; nothing was paid for it."""
    (studio.folder / "broken.yaml").write_text("jobs:\n  - prompt: a kite\n    duration_s: soon\n", encoding="utf-8")
    studio.drop("fine")
    report = await studio.night()
    assert studio.outcomes(report) == {"broken": "failed", "fine": "done"}
    text = studio.report("broken")
    assert "broken.yaml:3" in text
    assert "soon" in text
    assert "hybrid-video inbox retry broken" in text
    assert report.exit_code == 1


async def test_a_file_that_still_grows_is_left_until_it_stands_still(studio: Studio) -> None:
    """It is made whole, with the shots that were copied last."""
    path = studio.folder / "slow.csv"
    rows = ["id,prompt,width,height,duration_s,fps", *(f"s{n},shot {n},64,64,0.5,16" for n in range(12))]

    def copy() -> None:
        with path.open("w", encoding="utf-8") as file:
            for row in rows:
                file.write(row + "\n")
                file.flush()
                time.sleep(0.04)

    copying = threading.Thread(target=copy)
    copying.start()
    report = await studio.night(settle_s=0.3)
    copying.join()
    assert [line.jobs for line in report.lines] == [12]


async def test_pictures_come_along_and_one_that_is_missing_is_waited_for(studio: Studio) -> None:
    """A batch file that names a picture is not begun before the picture is there; both lie in done."""
    studio.drop("film", job={"image": "art/hero.png"})
    fresh = datetime.now(UTC)
    (studio.folder / ".film.json.waits.json").write_text(json.dumps({"arrived_at": fresh.isoformat()}))

    async def later() -> None:
        await asyncio.sleep(0.4)
        assert studio.made == []
        (studio.folder / "art").mkdir()
        (studio.folder / "art" / "hero.png").write_bytes(PNG)

    seen: list[bool] = []

    async def run(batch: Batch, base_dir: Path) -> Ran:
        seen.append((base_dir / "art" / "hero.png").is_file())
        return Ran(empty_report(batch))

    _, report = await asyncio.gather(later(), studio.night(run=run))
    assert seen == [True]
    assert (studio.folder / "done" / "2026-11-22" / "film" / "art" / "hero.png").is_file()
    assert report.exit_code == 0


async def test_a_picture_of_two_batches_stays_until_the_last_one_is_made(studio: Studio) -> None:
    """The first takes a copy."""
    for name in ("one", "two"):
        studio.drop(name, job={"image": "hero.png"})
    (studio.folder / "hero.png").write_bytes(PNG)
    report = await studio.night(run=pictures_there)
    assert studio.outcomes(report) == {"one": "done", "two": "done"}
    assert not (studio.folder / "hero.png").exists()
    assert len(list((studio.folder / "done").rglob("hero.png"))) == 2


async def test_a_workflow_beside_a_batch_is_not_a_batch(studio: Studio) -> None:
    """It goes with the batch that names it."""
    graph = {"3": {"class_type": "KSampler", "inputs": {}}}
    (studio.folder / "mine.json").write_text(json.dumps(graph), encoding="utf-8")
    studio.drop("film", job={"workflow": "mine.json"})
    await studio.night(run=pictures_there)
    assert studio.ended("failed") == []
    assert (studio.folder / "done" / "2026-11-22" / "film" / "mine.json").is_file()


async def test_a_folder_with_a_batch_file_is_one_batch(studio: Studio) -> None:
    """It is moved as a whole; one with two batch files is refused with both names."""
    studio.drop("shots", into="autumn")
    (studio.folder / "autumn" / "notes.txt").write_text("for the client", encoding="utf-8")
    studio.drop("first", into="muddle")
    (studio.folder / "muddle" / "second.csv").write_text("prompt\nx\n", encoding="utf-8")
    (studio.folder / "pictures").mkdir()
    report = await studio.night()
    assert studio.outcomes(report) == {"muddle": "failed", "autumn": "done"}
    assert [batch.name for batch in studio.made] == ["shots"]
    assert (studio.folder / "done" / "2026-11-22" / "autumn" / "notes.txt").is_file()
    assert "'first.json', 'second.csv'" in studio.report("muddle")
    assert (studio.folder / "pictures").is_dir()


async def test_two_batches_of_one_name_are_not_mixed(studio: Studio) -> None:
    """The second is refused: it would change the shots of the first."""
    studio.drop("a", name="film", age_s=30)
    studio.drop("b", name="film", age_s=10)
    report = await studio.night()
    assert studio.outcomes(report) == {"a": "done", "b": "failed"}
    assert "'film' waits already, as 'a.json'" in studio.report("b")


async def test_two_workers_never_make_the_same_batch(studio: Studio) -> None:
    """Ten files, two workers at once: each is made once."""
    for n in range(10):
        studio.drop(f"film-{n}")
    nights = await asyncio.gather(studio.night(), studio.night())
    assert sorted(batch.name for batch in studio.made) == sorted(f"film-{n}" for n in range(10))
    assert sum(len(night.lines) for night in nights) == 10
    assert len(studio.ended("done")) == 10


async def test_what_a_dead_worker_left_is_taken_up_and_not_paid_again(studio: Studio) -> None:
    """Two of three clips were made before the crash; the next worker makes the third."""
    studio.backends = cloud()
    studio.drop("film", 3)

    async def crash(batch: Batch, base_dir: Path) -> Ran:
        part = batch.model_copy(update={"jobs": batch.jobs[:2]})
        await studio.run(part, base_dir)
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await studio.night(run=crash)
    assert studio.waiting() == []
    report = await studio.night()
    assert studio.outcomes(report) == {"film": "done"}
    assert len(studio.backends[0].sent) == 3
    assert report.lines[0].cost_usd == Decimal("0.10")


async def test_a_batch_of_a_living_worker_is_left_alone_until_its_claim_is_old(studio: Studio, tmp_path: Path) -> None:
    """Another machine cannot be looked into, so its claim holds as long as it is renewed."""
    studio.drop("film")
    other = Owner(tmp_path / "other-home")
    claim = Claims(studio.inbox, other).take(studio.inbox.units()[0])
    assert claim is not None
    mine = Owner(studio.home)
    claims = Claims(studio.inbox, mine)
    assert claims.adopt() is None
    assert [holder.unit for holder in claims.held()] == ["film"]
    [file] = studio.folder.glob("running/*/.claim-*.json")
    old = time.time_ns() / 1e9 - LEASE_S - 5
    os.utime(file, (old, old))
    adopted = claims.adopt()
    assert adopted is not None
    assert adopted.name == "film"
    assert claims.adopt() is None
    claim.renew()  # the other wakes up again: its claim is the older one
    assert claims.adopt() is None
    mine.close()
    other.close()


async def test_the_budget_of_the_night_holds_over_all_batches(studio: Studio) -> None:
    """The third does not fit and waits; the next night makes it."""
    studio.backends = cloud("0.10")
    for n in range(3):
        studio.drop(f"film-{n}", 3, age_s=60 - n)
    night = {"budget_usd": Decimal("0.70")}
    first = await studio.night(**night)
    assert studio.outcomes(first) == {"film-0": "done", "film-1": "done", "film-2": "waits"}
    assert (first.spent_usd, first.exit_code) == (Decimal("0.60"), 3)
    assert studio.waiting() == ["film-2.json"]
    again = await studio.night(**night)
    assert studio.outcomes(again) == {"film-2": "waits"}, "the same night has no new money"
    second = await studio.night(NOW + timedelta(days=1), **night)
    assert studio.outcomes(second) == {"film-2": "done"}
    assert second.spent_usd == Decimal("0.30")


async def test_a_batch_that_the_whole_night_cannot_pay_is_put_with_the_failed_ones(studio: Studio) -> None:
    """Waiting would not help; the report names the setting."""
    studio.backends = cloud("1.00")
    studio.drop("dear", 3)
    report = await studio.night(budget_usd=Decimal(2))
    assert studio.outcomes(report) == {"dear": "failed"}
    assert "HYBRID_VIDEO_INBOX_BUDGET_USD" in studio.report("dear")
    assert studio.backends[0].sent == []


async def test_a_batch_that_costs_nothing_is_made_though_the_money_is_spent(studio: Studio) -> None:
    """The user's own GPU needs no budget."""
    studio.drop("free", 2)
    report = await studio.night(budget_usd=Decimal(0))
    assert studio.outcomes(report) == {"free": "done"}


async def test_two_workers_share_the_budget_of_the_night(studio: Studio) -> None:
    """What a running batch may still spend is not given to another worker."""
    studio.backends = cloud("0.10")
    for n in range(4):
        studio.drop(f"film-{n}", 3, age_s=60 - n)
    nights = await asyncio.gather(*(studio.night(budget_usd=Decimal("0.70")) for _ in range(2)))
    assert nights[0].spent_usd <= Decimal("0.70")
    ledger = Ledger.open(studio.settings.storage.ledger_path)
    assert ledger.balance("all").settled_usd <= Decimal("0.70")
    ledger.close()


async def test_a_batch_with_a_failed_clip_is_put_with_the_failed_ones_and_can_be_retried(studio: Studio) -> None:
    """The retry makes the missing clip and pays for no other."""
    studio.backends = cloud()
    studio.backends[0].fail_watch = [TerminalError("a node raised", kind=Kind.EXECUTION_FAILED, backend="x")]
    studio.drop("film", 2)
    report = await studio.night()
    assert studio.outcomes(report) == {"film": "failed"}
    assert "a node raised" in studio.report("film")
    failed = list_inbox(studio.settings, now=NOW).failed
    assert [(line.unit, "a node raised" in line.reason) for line in failed] == [("film", True)]
    sent = len(studio.backends[0].sent)
    assert retry(studio.settings, "film").name == "film"
    again = await studio.night()
    assert studio.outcomes(again) == {"film": "done"}
    made_before = report.lines[0].clips
    assert len(studio.backends[0].sent) == sent + 2 - made_before
    with pytest.raises(NotFoundError, match="'film'"):
        retry(studio.settings, "film")


async def test_a_stopped_batch_goes_back_to_its_place_and_ends_the_night(studio: Studio) -> None:
    """What came first is first again; nothing else is begun."""
    studio.drop("one", 2, age_s=50)
    studio.drop("two", age_s=40)

    async def stopped(batch: Batch, base_dir: Path) -> Ran:
        return Ran(empty_report(batch, done=0), stopped=True)

    report = await studio.night(run=stopped)
    assert studio.outcomes(report) == {"one": "stopped"}
    assert studio.waiting() == ["one.json", "two.json"]
    assert "stopped after 0 of 2 clips" in studio.inbox.units()[0].note.reason


async def test_a_missing_machine_makes_a_batch_wait_and_is_told(studio: Studio) -> None:
    """It is not the file's fault."""
    studio.drop("film")

    async def nothing_answers(batch: Batch, base_dir: Path) -> Ran:
        raise ConfigurationError("1 of 1 jobs cannot start: no backend that can make them answers")

    report = await studio.night(run=nothing_answers)
    assert studio.outcomes(report) == {"film": "waits"}
    [line] = list_inbox(studio.settings, now=NOW).waiting
    assert "no backend that can make them answers" in line.reason


async def test_an_error_of_our_own_does_not_end_the_night_for_the_others(studio: Studio) -> None:
    """The batch is put with the failed ones, the next is made."""
    studio.drop("bad", age_s=50)
    studio.drop("good", age_s=40)

    async def run(batch: Batch, base_dir: Path) -> Ran:
        if batch.name == "bad":
            raise RuntimeError("token=abcdef123456 broke")
        return await studio.run(batch, base_dir)

    report = await studio.night(run=run)
    assert studio.outcomes(report) == {"bad": "failed", "good": "done"}
    assert "abcdef123456" not in studio.report("bad")


async def test_a_batch_put_back_beside_a_newer_file_of_its_name_loses_nothing(studio: Studio) -> None:
    """It waits in a folder of its own, under the same name."""
    path = studio.drop("film")

    async def run(batch: Batch, base_dir: Path) -> Ran:
        path.write_text(json.dumps({"jobs": [{"prompt": "newer"}]}), encoding="utf-8")
        return Ran(empty_report(batch, done=0), stopped=True)

    await studio.night(run=run)
    assert sorted(studio.waiting()) == ["film", "film.json"]
    assert (studio.folder / "film" / "film.json").is_file()


async def test_the_time_until_the_morning_is_shared_by_the_work_that_waits(studio: Studio) -> None:
    """Eight hours for twelve clips: nine of them get three quarters; an own earlier deadline holds."""
    studio.drop("large", 9, age_s=30)
    studio.drop("small", 3, age_s=20)
    studio.drop("hasty", 4, age_s=10, deadline_s=60)
    await studio.night(ready_by="07:00")
    eight_h = 8 * 3600.0
    shares = {batch.name: batch.deadline_s for batch in studio.made}
    assert shares["large"] == pytest.approx(eight_h * 9 / 16)
    assert shares["small"] == pytest.approx(eight_h * 3 / 7)
    assert shares["hasty"] == 60


async def test_nothing_is_begun_when_the_morning_has_come(studio: Studio) -> None:
    """What is left waits for the next night, and the report says so."""
    studio.drop("one", age_s=50)
    studio.drop("two", age_s=40)
    clock = [NOW]

    async def run(batch: Batch, base_dir: Path) -> Ran:
        clock[0] = NOW + timedelta(hours=9)
        return await studio.run(batch, base_dir)

    night = Night(ready_by="07:00", settle_s=0.05)
    report = await run_night(studio.settings, run, night=night, now=lambda: clock[0])
    assert studio.outcomes(report) == {"one": "done"}
    assert studio.waiting() == ["two.json"]
    assert "the night was over" in report.notices[0]


def test_the_listing_says_what_is_left_and_what_it_would_cost(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clips that are made already cost nothing; a wrong file is shown with its reason; nothing is moved."""
    monkeypatch.setenv("HYBRID_VIDEO_GEMINI_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("GEMINI_API_KEY", "test-key-1234567")
    studio.settings = Settings(storage=studio.settings.storage, schedule=studio.settings.schedule)
    studio.drop("film", 4)
    (studio.folder / "bad.yaml").write_text("jobs: nothing\n", encoding="utf-8")
    (studio.folder / ".bad.yaml.waits.json").write_text(json.dumps({"arrived_at": NOW.isoformat()}))
    listing = list_inbox(studio.settings, now=NOW + timedelta(minutes=1))
    lines = {line.entry: line for line in listing.waiting}
    assert (lines["film.json"].left, lines["film.json"].jobs, lines["film.json"].split) == (4, 4, {"gemini": 4})
    assert lines["film.json"].cost_usd is not None
    assert lines["film.json"].cost_usd > 0
    assert lines["bad.yaml"].state == "wrong"
    assert "jobs" in lines["bad.yaml"].reason
    assert isinstance(listing, Listing)
    assert studio.waiting() == ["film.json", "bad.yaml"]


def empty_report(batch: Batch, done: int | None = None) -> BatchReport:
    """A report without clips."""
    completed = len(batch.jobs) if done is None else done
    return BatchReport(
        batch=batch.name,
        jobs=len(batch.jobs),
        completed=completed,
        failed=0,
        cost_usd=Decimal(0),
        quoted_usd=Decimal(0),
        duration_s=1.0,
        failovers=0,
        by_backend={},
        clips=(),
        errors=(),
    )


async def pictures_there(batch: Batch, base_dir: Path) -> Ran:
    """Done, if every file that the batch names is beside it."""
    for job in batch.jobs:
        for name in (job.image, job.workflow if job.workflow != "auto" else None):
            assert name is None or (base_dir / name).is_file()
    return Ran(empty_report(batch))
