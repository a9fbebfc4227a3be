"""The daily report: its sums are the ledger's, its days are the studio's, and it says what a person should look at."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hybrid_video.daily_report import DailyReport, csv_text, headline, make_report, markdown, save
from hybrid_video.daily_report.picture import bar, steps, svg
from hybrid_video.daily_report.reading import share_moment
from hybrid_video.history import History
from hybrid_video.ledger import Ledger, Owner
from hybrid_video.ledger import schema as t
from hybrid_video.ledger.pruning import prune
from hybrid_video.ledger.verify import verify
from hybrid_video.models import AttemptState, JobState
from hybrid_video.settings import RoutingSettings, ScheduleSettings, Settings, StorageSettings
from tests.unit.deciding_rig import job
from tests.unit.ledger_rig import advance, fail, finish, make_batch, make_order, reserve

BERLIN, BANGKOK, NEW_YORK = (ZoneInfo(name) for name in ("Europe/Berlin", "Asia/Bangkok", "America/New_York"))
DAY = date(2026, 11, 20)
NOON = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


class Studio:
    """A ledger whose attempts ended whenever a test says."""

    def __init__(self, folder: Path, **routing: Any) -> None:
        self.settings = Settings(
            storage=StorageSettings(home=folder), routing=RoutingSettings(**routing), schedule=ScheduleSettings()
        )
        self.ledger = Ledger.open(self.settings.storage.ledger_path)
        self.owner = Owner(folder)
        self.history = History(self.settings.storage.history_path)
        self._count = 0

    def attempt(
        self,
        usd: str,
        at: datetime = NOON,
        *,
        batch: str = "film",
        backend: str = "runpod-serverless",
        ends: str = "done",
        shot: str = "",
        number: int = 1,
        took_s: float = 60,
    ) -> None:
        """One attempt that ended at a moment."""
        self._count += 1
        shot = shot or f"shot-{self._count}"
        jobs = [row.spec for row in self.ledger.job_rows(batch)]
        known = {row.id for row in jobs}
        spec = (*jobs, job(shot)) if shot not in known else tuple(jobs)
        self.ledger.register(make_batch(batch, spec), out_dir=self.settings.storage.home)
        order = make_order(batch, job(shot), usd=usd, reserve_usd="5", backend=backend, number=number)
        reserve(self.ledger, order, self.owner)
        if ends == "done":
            advance(self.ledger, order, AttemptState.COLLECTED)
            finish(self.ledger, order, usd)
        elif ends == "failed":
            advance(self.ledger, order, AttemptState.RUNNING)
            fail(self.ledger, order, usd)
        elif ends == "uncertain":
            advance(self.ledger, order, AttemptState.UNCERTAIN)
            return
        began = at - timedelta(seconds=took_s)
        with self.ledger.writing() as connection:
            values = {"finished_at": at, "created_at": began}
            connection.execute(
                sa.update(t.attempts).where(t.attempts.c.attempt_id == order.attempt_id).values(**values)
            )

    def pod(self, name: str, usd: str, day: str, closed_at: datetime | None) -> None:
        """A pod with an overhead that was booked on a UTC day, as the pool books it."""
        money = {"price_usd_per_h": Decimal(1), "storage_usd_per_h": Decimal(0), "reserved_usd": Decimal(0)}
        with self.ledger.writing() as connection:
            connection.execute(
                sa.insert(t.pods).values(
                    name=name, pod_id=name, state="closed", gpu="x", cloud="SECURE", day=day, booked_usd=Decimal(usd),
                    intended_at=NOON, closed_at=closed_at, **money,
                )
            )  # fmt: skip
            connection.execute(
                sa.insert(t.pod_shares).values(
                    pod=name, batch="", job="", day=day, amount_usd=Decimal(usd), booked_at=NOON + timedelta(days=9)
                )
            )
            month = day[:7]
            for scope in (f"day:{day}", f"month:{month}", f"tier:cloud:{month}", "all"):
                held = connection.execute(sa.select(t.balances).where(t.balances.c.scope == scope)).one_or_none()
                before = held.settled_usd if held else Decimal(0)
                connection.execute(sa.delete(t.balances).where(t.balances.c.scope == scope))
                connection.execute(
                    sa.insert(t.balances).values(
                        scope=scope,
                        settled_usd=before + Decimal(usd),
                        reserved_usd=held.reserved_usd if held else Decimal(0),
                    )
                )

    async def report(self, day: date = DAY, zone: ZoneInfo = BERLIN, **values: Any) -> DailyReport:
        """The report of a day that has ended."""
        now = values.pop("now", datetime(2026, 11, 25, tzinfo=UTC))
        return await make_report(self.settings, self.ledger, day, zone, history=self.history, now=now, **values)

    def close(self) -> None:
        """Closes the ledger."""
        self.owner.close()
        self.ledger.close()


@pytest.fixture
def studio(tmp_path: Path) -> Any:
    """A studio without anything booked."""
    made = Studio(tmp_path)
    yield made
    made.close()


moments = st.integers(0, 6 * 24 * 60 - 1).map(
    lambda minute: datetime(2026, 10, 23, tzinfo=UTC) + timedelta(minutes=minute)
)
amounts = st.integers(0, 2_000_000_000).map(lambda nano: str(Decimal(nano) / 1_000_000_000))
booked = st.tuples(
    amounts,
    moments,
    st.sampled_from(["film", "advert"]),
    st.sampled_from(["comfyui", "runpod-serverless", "gemini"]),
    st.sampled_from(["done", "failed"]),
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(booked, max_size=8), pods=st.lists(st.tuples(amounts, moments), max_size=3))
async def test_the_days_together_are_the_ledgers_balance(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], pods: list[Any]
) -> None:
    """In any time zone, over a change of the clocks, to the nano-dollar; and each breakdown is the day's total."""
    studio = Studio(tmp_path_factory.mktemp("studio"))
    for usd, at, batch, backend, ends in rows:
        studio.attempt(usd, at, batch=batch, backend=backend, ends=ends)
    for number, (usd, at) in enumerate(pods):
        lives_on = number % 2 == 1
        studio.pod(f"pod-{number}", usd, at.date().isoformat(), at + timedelta(days=1) if lives_on else at)
    balance = studio.ledger.balance("all").settled_usd
    assert verify(studio.ledger).settled_usd == balance
    for zone in (BERLIN, BANGKOK, NEW_YORK):
        days = [await studio.report(date(2026, 10, 21) + timedelta(days=n), zone) for n in range(11)]
        assert sum((day.cost_usd for day in days), Decimal(0)) == balance
        assert sum(day.clips for day in days) == sum(row[4] == "done" for row in rows)
        for day in days:
            for lines in (day.by_backend, day.by_batch, day.by_workflow, day.hours):
                assert sum((line.cost_usd for line in lines), Decimal(0)) == day.cost_usd
            assert next(line.cost_usd for line in day.days if line.day == day.day) == day.cost_usd
    studio.close()


async def test_a_day_is_the_studios_and_not_utc(studio: Studio) -> None:
    """At 23:30 UTC it is the next day in Berlin, and still the same in New York."""
    studio.attempt("1.00", datetime(2026, 11, 20, 23, 30, tzinfo=UTC))
    assert (await studio.report(DAY, BERLIN)).cost_usd == 0
    assert (await studio.report(DAY + timedelta(days=1), BERLIN)).cost_usd == Decimal("1.00")
    assert (await studio.report(DAY, NEW_YORK)).cost_usd == Decimal("1.00")


async def test_failures_failovers_and_breakers_are_told(studio: Studio) -> None:
    """Three failures in a row open a breaker; the job that went elsewhere is a failover."""
    for n in range(3):
        studio.attempt("0.01", NOON + timedelta(seconds=n), ends="failed", shot=f"bad-{n}")
    with studio.ledger.writing() as connection:
        connection.execute(sa.update(t.attempts).values(error_kind="unreachable"))
    studio.attempt("0.30", NOON + timedelta(seconds=30), backend="gemini", shot="bad-0", number=2)
    report = await studio.report()
    assert (report.failed, report.clips) == (3, 1)
    assert [(line.kind, line.attempts) for line in report.errors] == [("unreachable", 3)]
    assert [(line.away_from, line.went_to, line.jobs) for line in report.failovers] == [
        ("runpod-serverless", "gemini", 1)
    ]
    assert [(line.backend, line.openings) for line in report.breakers] == [("runpod-serverless", 1)]
    text = markdown(report)
    assert "3 attempts on runpod-serverless: `unreachable`" in text
    assert "1 jobs went from runpod-serverless to gemini" in text


async def test_google_alone_is_compared_in_money_and_time(studio: Studio) -> None:
    """Ten clips of five seconds at Google's price; two that were made at once took their time only once."""
    for n in range(10):
        studio.attempt("0.01", NOON + timedelta(seconds=30 * n), took_s=60)
    report = await studio.report()
    assert report.google is not None
    assert report.google.clips == 10
    assert report.google.cost_usd > report.cost_usd
    assert report.google.saved_usd == report.google.cost_usd - report.cost_usd
    assert report.elapsed_s == 60 + 9 * 30
    assert report.google.duration_s > 0
    assert "Beside Google alone" in markdown(report)
    assert f"{report.google.saved_share:.0%} below Google alone" in headline(report)


async def test_what_is_open_and_what_is_left_is_told(tmp_path: Path) -> None:
    """An uncertain attempt with the command that settles it, and a budget that runs low."""
    studio = Studio(tmp_path, monthly_budget_usd=Decimal(6))
    studio.attempt("0.50", ends="uncertain")
    now = datetime.now(UTC)
    report = await studio.report(now.date(), ZoneInfo("UTC"), now=now)
    assert report.reserved_usd == Decimal(5)
    [line] = report.uncertain
    assert "hybrid-video ledger resolve" in line.what_to_do
    [budget] = report.budgets
    assert (budget.cap_usd, budget.left_usd) == (Decimal(6), Decimal(1))
    text = markdown(report)
    assert "1 attempts are uncertain and hold $5.00" in text
    assert "only $1.00 of $6.00 is left" in text
    assert "so far" in headline(report)
    studio.close()


async def test_details_that_were_pruned_are_still_counted(studio: Studio) -> None:
    """An old day reads the same before and after."""
    for n in range(3):
        studio.attempt("0.123456789", NOON, batch="old", ends="done" if n else "failed")
    with studio.ledger.writing() as connection:
        connection.execute(sa.update(t.jobs).values(state=JobState.DONE.value))
        connection.execute(sa.update(t.batches).values(finished_at=NOON))
    studio.history.update(studio.ledger)
    before = await studio.report()
    assert prune(studio.ledger, datetime(2026, 11, 22, tzinfo=UTC)).batches == ("old",)
    after = await studio.report()
    assert after.cost_usd == before.cost_usd == Decimal("0.370370367")
    assert (after.clips, after.failed, after.by_batch) == (before.clips, before.failed, before.by_batch)
    without = await make_report(studio.settings, studio.ledger, DAY, BERLIN, now=after.made_at)
    assert "were pruned" in without.notices[0]


async def test_the_files_hold_the_same_figures(studio: Studio) -> None:
    """Markdown, CSV, JSON and a picture in the reports folder; names cannot become formulas of a spreadsheet."""
    studio.attempt("0.25", batch="film")
    studio.attempt("0.125", batch="advert")
    report = await studio.report()
    paths = save(report, studio.settings)
    assert sorted(path.name for path in paths.values()) == [
        f"2026-11-20.{ending}" for ending in ("csv", "json", "md", "svg")
    ]
    assert json.loads(paths["json"].read_text(encoding="utf-8"))["cost_usd"] == "0.375"
    rows = list(csv.DictReader(io.StringIO(paths["csv"].read_text(encoding="utf-8"))))
    by_batch = {row["name"]: row["cost_usd"] for row in rows if row["section"] == "batch"}
    assert by_batch == {"film": "0.25", "advert": "0.125"}
    assert next(row for row in rows if row["section"] == "total")["cost_usd"] == "0.375"
    assert "(2026-11-20.svg)" in paths["md"].read_text(encoding="utf-8")
    assert paths["svg"].read_text(encoding="utf-8").startswith("<svg")
    odd = report.model_copy(update={"by_workflow": (report.by_workflow[0].model_copy(update={"name": "=cmd()"}),)})
    assert "'=cmd()" in csv_text(odd)
    assert "=cmd()" in markdown(odd)


async def test_a_day_without_anything_is_a_page_too(studio: Studio) -> None:
    """No division by nothing, and a picture all the same."""
    report = await studio.report()
    assert headline(report) == "2026-11-20: 0 clips for $0.00"
    assert "0 clips" in markdown(report)
    assert svg(report).endswith("</svg>\n")
    assert report.usd_per_clip is None


def test_a_share_of_a_pod_counts_where_the_pod_ended_or_its_utc_day_did() -> None:
    """A bill that corrects it days later does not move it to another day."""
    closed = datetime(2026, 11, 20, 10, 0, tzinfo=UTC)
    assert share_moment("2026-11-20", closed) == closed
    assert share_moment("2026-11-19", closed).date() == date(2026, 11, 19)
    assert share_moment("2026-11-20", None).date() == date(2026, 11, 20)


def test_bars_and_columns_show_small_amounts_too() -> None:
    """Nothing is a dot or an empty bar; little is the smallest sign; the most is full."""
    assert bar(0) == ""
    assert bar(0.0001) == "▏"
    assert bar(1, 4) == "████"
    assert bar(0.5, 4) == "██"
    assert steps([0, 1, 100]) == "·▁█"
    assert steps([0, 0]) == "··"
