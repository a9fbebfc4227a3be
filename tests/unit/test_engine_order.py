"""Which waiting job the engine takes first, and what it buys where nobody set a deadline."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest
import sqlalchemy as sa

from hybrid_video.ledger import Ledger
from hybrid_video.ledger import schema as t
from hybrid_video.models import Batch, VideoJob, utc_now
from tests.unit.engine_rig import ScriptedBackend, ran, small

URGENT = tuple(small(f"new-{number}", priority=50) for number in range(3))
OLD = small("old", priority=0)


def registered_before(home: Path, jobs: tuple[VideoJob, ...], waited_s: float) -> None:
    """A ledger that has known these jobs for so long, none of them made."""
    ledger = Ledger.open(home / "ledger.sqlite3")
    ledger.register(Batch(name="film", jobs=jobs), out_dir=home / "out")
    ledger.close()
    engine = sa.create_engine(f"sqlite:///{home / 'ledger.sqlite3'}")
    with engine.begin() as connection:
        connection.execute(sa.update(t.jobs).values(registered_at=utc_now() - timedelta(seconds=waited_s)))
    engine.dispose()


@pytest.mark.parametrize(("waited_s", "place"), [(3600.0, 0), (2400.0, 3)])
async def test_a_job_that_waited_long_goes_before_later_ones_of_higher_priority(
    tmp_path: Path, waited_s: float, place: int
) -> None:
    """Fifty steps of priority are worth fifty minutes of waiting: after an hour it is first, after forty minutes last.

    It stands before the new jobs in the first case although the new batch file names it last.
    """
    registered_before(tmp_path, (OLD,), waited_s)
    backend = ScriptedBackend("comfyui")
    async with ran([backend], tmp_path, (*URGENT, OLD)) as outcome:
        assert outcome.report.completed == 4
    assert [order.job.id for order in backend.sent].index("old") == place


async def test_jobs_that_came_together_are_taken_in_order_of_priority(tmp_path: Path) -> None:
    """However long all of them have waited."""
    jobs = tuple(small(f"p{priority}", priority=priority) for priority in (0, 30, 10, 50))
    registered_before(tmp_path, jobs, 7200.0)
    backend = ScriptedBackend("comfyui")
    async with ran([backend], tmp_path, jobs):
        assert [order.job.id for order in backend.sent] == ["p50", "p30", "p10", "p0"]


async def test_a_changed_job_waits_from_its_change_on(tmp_path: Path) -> None:
    """A clip that is asked for anew has not waited since its first version was."""
    registered_before(tmp_path, (OLD,), 0.0)
    backend = ScriptedBackend("comfyui")
    async with ran([backend], tmp_path, (OLD,)) as outcome:
        assert outcome.report.completed == 1
    registered_before(tmp_path, (OLD,), 36_000.0)
    backend.sent.clear()
    changed = OLD.model_copy(update={"prompt": "a harbour at dusk"})
    async with ran([backend], tmp_path, (changed, *URGENT)):
        assert [order.job.id for order in backend.sent][-1] == "old"


async def test_nothing_dear_is_bought_for_half_a_clip_that_nobody_is_waiting_for(tmp_path: Path) -> None:
    """Ten clips, three free slots of 2 s and five paid ones of 4.4 s: a budget buys one paid clip, a deadline four."""
    bought = {}
    for name, goal in {"budget": {"budget_usd": Decimal("0.05")}, "deadline": {"deadline_s": 5.0}}.items():
        own = ScriptedBackend("comfyui", service_s=2.0, slots=3)
        paid = ScriptedBackend("runpod-serverless", usd="0.007", service_s=4.4, slots=5)
        jobs = tuple(small(f"s{number}") for number in range(10))
        async with ran([own, paid], tmp_path / name, jobs, **goal) as outcome:
            assert outcome.report.completed == 10
        bought[name] = Counter(order.quote.backend for order in (*own.sent, *paid.sent))["runpod-serverless"]
    assert bought == {"budget": 1, "deadline": 4}


def test_a_ledger_of_an_earlier_version_knows_since_when_its_jobs_wait(tmp_path: Path) -> None:
    """The column is added and filled with the last change of each job, and opening it again changes nothing."""
    registered_before(tmp_path, (OLD,), 0.0)
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'ledger.sqlite3'}")
    with engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE jobs DROP COLUMN registered_at"))
        connection.execute(sa.delete(t.migrations).where(t.migrations.c.number >= 5))
        changed_at = connection.execute(sa.select(t.jobs.c.updated_at)).scalar_one()
    engine.dispose()
    for _ in range(2):
        ledger = Ledger.open(tmp_path / "ledger.sqlite3")
        assert [row.registered_at for row in ledger.job_rows("film")] == [changed_at]
        ledger.close()
