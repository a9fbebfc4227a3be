"""A run takes over what a process that has died was driving, each attempt exactly once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Literal

import pytest
import sqlalchemy as sa

from hybrid_video.backends.base import ProgressCallback
from hybrid_video.engine.attempts import STAGING
from hybrid_video.engine.selection import SelectionRequest, Shot, decide
from hybrid_video.ledger import Caps, JobTakenError, Ledger, Owner, schema
from hybrid_video.ledger.store import LEASE
from hybrid_video.ledger.verify import verify
from hybrid_video.models import (
    Attempt,
    AttemptState,
    Batch,
    Candidate,
    EffectivePreferences,
    JobHandle,
    JobStatus,
    Quote,
    VideoJob,
    WorkOrder,
    utc_now,
)
from tests.unit.engine_rig import ScriptedBackend, ran, small
from tests.unit.ledger_rig import advance, finish

JOBS = tuple(small(f"s{n}") for n in range(6))


@dataclass
class WatchedBackend(ScriptedBackend):
    """Counts how often each attempt is watched; looking one up takes longer than a turn of the run's loop."""

    watched: Counter[str] = field(default_factory=Counter)

    async def find(self, order: WorkOrder) -> JobHandle | Literal["unknown"] | None:
        await asyncio.sleep(1.2)
        return handle_of(order)

    async def watch(self, handle: JobHandle, on_progress: ProgressCallback | None = None) -> JobStatus:
        self.watched[handle.attempt_id] += 1
        await asyncio.sleep(0.2)
        return await super().watch(handle, on_progress)


def handle_of(order: WorkOrder) -> JobHandle:
    """The receipt of an order."""
    return JobHandle(
        backend=order.quote.backend,
        attempt_id=order.attempt_id,
        remote_id=order.attempt_id,
        lane=order.lane,
        submitted_at=utc_now(),
    )


def accepted(ledger: Ledger, owner: Owner, backend: ScriptedBackend, job: VideoJob) -> WorkOrder:
    """An attempt that another process has sent, and whose receipt it has not stored yet."""
    quote = backend.quote(job)
    assert isinstance(quote, Quote)
    order = WorkOrder(
        attempt_id=f"00000000-0000-4000-8000-{int(job.id[1:]):012d}",
        batch="film",
        job=job,
        number=1,
        seed=1,
        lane="gemini-0",
        quote=quote,
    )
    offer = Candidate(backend=backend.key, tier=backend.tier, quote=quote)
    shot = Shot(job, 1, EffectivePreferences(), offers=(offer,))
    ledger.reserve(order, decide(SelectionRequest(shot, 1)), Caps(), owner)
    backend.sent.append(order)
    return order


class LedgerWithRival(Ledger):
    """Lets another process act once, between a run's reading of its jobs and of the attempts that are open."""

    rival: Callable[[], None] | None = None

    def open_attempts(self, batch: str | None = None) -> list[Attempt]:
        act, self.rival = self.rival, None
        if act is not None:
            act()
        return super().open_attempts(batch)


async def test_a_clip_that_is_settled_while_a_second_process_starts_is_not_bought_again(tmp_path: Path) -> None:
    """The second reads the job as active, and then finds no open attempt: the first has ended it, which is no failure.

    Two processes on one batch of `make chaos` did this; the clip was paid for twice.
    """
    backend = WatchedBackend("gemini", usd="0.1")
    theirs, other = Ledger.open(tmp_path / "ledger.sqlite3"), Owner(tmp_path)
    theirs.register(Batch(name="film", jobs=JOBS[:1]), out_dir=tmp_path / "out")
    order = accepted(theirs, other, backend, JOBS[0])

    def settled() -> None:
        advance(theirs, order, AttemptState.COLLECTED)
        finish(theirs, order, "0.1")
        theirs.release(other)

    def opening(path: Path) -> Ledger:
        ledger = LedgerWithRival.open(path)
        assert isinstance(ledger, LedgerWithRival)
        ledger.rival = settled
        return ledger

    async with ran([backend], tmp_path, JOBS[:1], opening=opening) as outcome:
        assert outcome.report.completed == 1, outcome.report.errors
        assert outcome.report.cost_usd == Decimal("0.1")
        assert verify(outcome.ledger).ok
    assert len(backend.sent) == 1
    theirs.close()
    other.close()


async def test_jobs_of_a_process_that_dies_are_taken_over_once_each(tmp_path: Path) -> None:
    """Six paid jobs under way elsewhere; that process dies while we look on: six clips, no second submit or watch."""
    backend = WatchedBackend("gemini", usd="0.1", slots=6)
    ledger, other = Ledger.open(tmp_path / "ledger.sqlite3"), Owner(tmp_path)
    ledger.register(Batch(name="film", jobs=JOBS), out_dir=tmp_path / "out")
    for job in JOBS:
        accepted(ledger, other, backend, job)

    async def die() -> None:
        await asyncio.sleep(0.7)
        other.close()

    dying = asyncio.create_task(die())
    async with ran([backend], tmp_path, JOBS) as outcome:
        assert outcome.report.completed == len(JOBS), outcome.report.errors
        assert verify(outcome.ledger).ok
        states = [attempt.state for attempt in outcome.ledger.attempts("film")]
    await dying
    ledger.close()
    assert states == [AttemptState.SETTLED] * len(JOBS)
    assert len(backend.sent) == len(JOBS)
    assert set(backend.watched.values()) == {1}, backend.watched


async def test_jobs_of_a_machine_that_died_are_taken_over_when_its_lease_ends(tmp_path: Path) -> None:
    """Nobody here can see that a process with another home folder is gone; its lease of 30 s says it in the end."""
    backend = WatchedBackend("gemini", usd="0.1", slots=6)
    ledger, distant = Ledger.open(tmp_path / "ledger.sqlite3"), Owner(tmp_path / "another machine")
    ledger.register(Batch(name="film", jobs=JOBS), out_dir=tmp_path / "out")
    for job in JOBS:
        accepted(ledger, distant, backend, job)
    with ledger.raw().begin() as connection:
        connection.execute(sa.update(schema.jobs).values(lease_until=utc_now() + timedelta(seconds=1)))
    async with ran([backend], tmp_path, JOBS) as outcome:
        assert outcome.report.completed == len(JOBS), outcome.report.errors
        assert verify(outcome.ledger).ok
    distant.close()
    ledger.close()
    assert len(backend.sent) == len(JOBS)
    assert set(backend.watched.values()) == {1}, backend.watched


async def test_a_process_that_was_taken_over_does_not_say_how_the_attempt_ended(tmp_path: Path) -> None:
    """Its lease is gone while it waits: it books nothing, follows the new owner, and goes on when that one dies."""
    backend = WatchedBackend("gemini", usd="0.1")
    rival_ledger, rival = Ledger.open(tmp_path / "ledger.sqlite3"), Owner(tmp_path)
    seen: list[AttemptState] = []
    staging = tmp_path / "out" / STAGING

    async def take_over_and_die() -> None:
        while not backend.watched:
            await asyncio.sleep(0.02)
        with rival_ledger.raw().begin() as connection:
            connection.execute(sa.update(schema.jobs).values(owner=rival.id, lease_until=utc_now() + LEASE))
        await asyncio.sleep(1.5)
        seen.extend(attempt.state for attempt in rival_ledger.attempts("film"))
        for attempt in rival_ledger.attempts("film"):  # as a process leaves it that is killed when the clip is stored
            (staging / attempt.attempt_id).mkdir(parents=True)
            (staging / attempt.attempt_id / "clip.mp4").write_bytes(b"left over")
        rival.close()

    taking = asyncio.create_task(take_over_and_die())
    async with ran([backend], tmp_path) as outcome:
        await taking
        assert outcome.report.completed == 1
        assert outcome.report.cost_usd == Decimal("0.1")
        assert verify(outcome.ledger).ok
    rival_ledger.close()
    assert seen == [AttemptState.RUNNING], "the fenced process wrote an end"
    assert len(backend.sent) == 1
    assert list(backend.watched.values()) == [1], "the clip had been stored before the refusal; nobody need be asked"
    assert not staging.exists(), "a download that a dead process left is thrown away with the attempt's end"


async def test_nothing_is_sent_for_a_job_that_was_taken_over_after_its_reservation(tmp_path: Path) -> None:
    """The fence is looked at once more right before the call."""
    ledger, mine, rival = Ledger.open(tmp_path / "ledger.sqlite3"), Owner(tmp_path), Owner(tmp_path)
    ledger.register(Batch(name="film", jobs=JOBS), out_dir=tmp_path / "out")
    backend = WatchedBackend("gemini", usd="0.1")
    accepted(ledger, mine, backend, JOBS[0])
    ledger.act_as(mine)
    ledger.check_owned("film", JOBS[0].id)
    with ledger.raw().begin() as connection:
        connection.execute(sa.update(schema.jobs).values(owner=rival.id))
    with pytest.raises(JobTakenError, match="taken over"):
        ledger.check_owned("film", JOBS[0].id)
    ledger.close()
    mine.close()
    rival.close()
