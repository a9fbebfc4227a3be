"""What dashboard and API show: every figure is the ledger's, sums agree to the last nano-dollar, pages lose nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hybrid_video import views
from hybrid_video.errors import InputError, NotFoundError
from hybrid_video.ledger import Ledger, Owner
from hybrid_video.ledger import schema as t
from hybrid_video.ledger.forecasts import Forecast
from hybrid_video.models import AttemptState, Health, JobState, Preferences, Tier, utc_now
from hybrid_video.settings import RoutingSettings, Settings, StorageSettings
from hybrid_video.views.figures import Page, decode_cursor, encode_cursor
from hybrid_video.watcher.health_store import HealthStore
from tests.unit.deciding_rig import job
from tests.unit.ledger_rig import advance, fail, finish, make_batch, make_done, make_order, reserve

NANO = Decimal("0.000000001")
BACKENDS = ("comfyui", "runpod-serverless", "gemini")


@dataclass
class Filled:
    """A ledger with an owner and settings for it."""

    ledger: Ledger
    owner: Owner
    settings: Settings
    folder: Path

    def done(self, batch: str, shot: int, backend: str = "gemini", usd: str = "0.08", number: int = 1) -> None:
        """One finished clip."""
        order = make_order(batch, job(f"shot-{shot}"), backend=backend, usd=usd, number=number)
        make_done(self.ledger, order, self.owner, usd)


@pytest.fixture
def filled(tmp_path: Path, ledger_url: str | Path) -> Iterator[Filled]:
    """Empty, with its files in a temporary folder; on both databases."""
    ledger, owner = Ledger.open(ledger_url), Owner(tmp_path)
    yield Filled(ledger, owner, Settings(storage=StorageSettings(home=tmp_path)), tmp_path)
    owner.close()
    ledger.close()


def pod_share(ledger: Ledger, batch: str, job_id: str, usd: Decimal, day: str) -> None:
    """What a pod cost beside its jobs, booked the way the pool does: a share and the balances together."""
    from hybrid_video.ledger import money

    with ledger.writing() as connection:
        connection.execute(
            sa.insert(t.pod_shares).values(
                pod=f"pod-{batch}-{job_id}", batch=batch, job=job_id, day=day, amount_usd=usd, booked_at=utc_now()
            )
        )
        money.move(connection, money.scopes(batch, job_id, day, "cloud"), settled=usd)


amounts = st.integers(0, 10**12).map(lambda nano: nano * NANO)
steps = st.lists(
    st.tuples(
        st.integers(0, 2),  # batch
        st.integers(0, 3),  # job
        st.sampled_from(BACKENDS),
        st.sampled_from(["done", "failed", "open", "uncertain"]),
        amounts,
        st.one_of(st.none(), amounts),  # pod share
    ),
    max_size=14,
)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps)
def test_every_breakdown_comes_to_exactly_what_the_balances_hold(plan: list[tuple]) -> None:  # type: ignore[type-arg]
    """By day, tier, backend, batch or workflow, of batches, jobs and the overview: one truth, to the nano-dollar."""
    with tempfile.TemporaryDirectory() as made:
        home = Path(made)
        ledger, owner = Ledger.open(home / "ledger.sqlite3"), Owner(home)
        config = Settings(storage=StorageSettings(home=home))
        for name in ("a", "b", "c"):
            ledger.register(make_batch(name, 4), out_dir=home)
        attempts: dict[tuple[str, str], int] = {}
        blocked: set[tuple[str, str]] = set()
        for which, shot, backend, outcome, usd, share in plan:
            batch, job_id = "abc"[which], f"shot-{shot}"
            if (batch, job_id) in blocked:
                continue
            number = attempts.get((batch, job_id), 0) + 1
            attempts[batch, job_id] = number
            ledger.set_job_state(batch, job_id, JobState.PENDING)  # as a changed batch does with a finished one
            order = make_order(batch, job(job_id), number=number, usd=f"{usd:f}", backend=backend)
            reserve(ledger, order, owner)
            if outcome == "done":
                advance(ledger, order, AttemptState.COLLECTED)
                finish(ledger, order, f"{usd:f}")
            elif outcome == "failed":
                fail(ledger, order, f"{usd:f}")
            else:
                blocked.add((batch, job_id))
                advance(ledger, order, AttemptState.RUNNING if outcome == "open" else AttemptState.UNCERTAIN)
            if share is not None and number == 1:
                pod_share(ledger, batch, job_id, share, utc_now().date().isoformat())
        total = ledger.balance("all")
        for by in ("day", "tier", "backend", "batch", "workflow"):
            found = views.spend(ledger, by)  # type: ignore[arg-type]
            assert found.cost_usd == total.settled_usd
            assert found.reserved_usd == total.reserved_usd
            assert sum((line.cost_usd for line in found.lines), Decimal(0)) == total.settled_usd
        assert views.spend(ledger, "day", "tier", "backend", "batch", "workflow").cost_usd == total.settled_usd
        seen = views.overview(ledger, config).spend
        assert seen.total_usd == seen.today_usd == seen.month_usd == total.settled_usd
        assert sum((line.today_usd for line in seen.by_tier), Decimal(0)) == total.settled_usd
        assert sum((line.month_usd for line in seen.by_tier), Decimal(0)) == total.settled_usd
        assert sum((line.reserved_usd for line in seen.by_tier), Decimal(0)) == total.reserved_usd
        listed = views.backends(ledger, config)
        assert sum((view.spent_today_usd for view in listed), Decimal(0)) == total.settled_usd
        lines = views.batches(ledger).items
        assert sum((line.settled_usd for line in lines), Decimal(0)) == total.settled_usd
        assert sum((line.reserved_usd for line in lines), Decimal(0)) == total.reserved_usd
        for line in lines:
            view = views.batch(ledger, line.name)
            assert sum((tier.cost_usd for tier in view.by_tier), Decimal(0)) == line.settled_usd
            jobs = views.jobs(ledger, line.name, limit=500).items
            assert sum((one.cost_usd for one in jobs), Decimal(0)) == line.settled_usd
            assert sum((one.reserved_usd for one in jobs), Decimal(0)) == line.reserved_usd
        owner.close()
        ledger.close()


def test_the_overview_follows_the_ledger(filled: Filled) -> None:
    """Nothing is a constant: each change of the data changes the figure that shows it."""
    before = views.overview(filled.ledger, filled.settings)
    assert (before.active_jobs, before.queued_jobs, before.completed_today, before.average_s) == (0, 0, 0, None)
    filled.ledger.register(make_batch("night", 4), out_dir=filled.folder)
    assert views.overview(filled.ledger, filled.settings).queued_jobs == 4
    filled.done("night", 0)
    order = make_order(shot=job("shot-1"), backend="comfyui", usd="0")
    reserve(filled.ledger, order, filled.owner)
    seen = views.overview(filled.ledger, filled.settings)
    assert (seen.active_jobs, seen.queued_jobs, seen.completed_today) == (1, 2, 1)
    assert seen.active_by_backend == {"comfyui": 1}
    assert seen.running_batches == ("night",)
    assert seen.average_s is not None
    assert seen.average_execution_s == 19.5
    filled.ledger.finish_batch("night")
    later = views.overview(filled.ledger, filled.settings)
    assert later.running_batches == ()
    assert later.queued_jobs == 0, "what an ended batch left over does not wait"


def test_limits_in_force_stand_beside_the_money(tmp_path: Path) -> None:
    """The caps shown are those of the settings that were given."""
    caps = RoutingSettings(daily_budget_usd=Decimal(5), monthly_tier_budgets_usd={Tier.CLOUD: Decimal("7.5")})
    ledger = Ledger.open(tmp_path / "ledger.sqlite3")
    spend = views.overview(ledger, Settings(routing=caps, storage=StorageSettings(home=tmp_path))).spend
    ledger.close()
    assert (spend.day_cap_usd, spend.month_cap_usd) == (Decimal(5), None)
    assert [line.month_cap_usd for line in spend.by_tier] == [None, Decimal("7.5"), None]


def test_yesterday_does_not_count_as_today(filled: Filled) -> None:
    """Days are UTC: seen from tomorrow, today's clips and dollars are history."""
    filled.ledger.register(make_batch("night", 1), out_dir=filled.folder)
    filled.done("night", 0)
    tomorrow = views.overview(filled.ledger, filled.settings, now=utc_now() + timedelta(days=1))
    assert (tomorrow.completed_today, tomorrow.spend.today_usd) == (0, 0)
    assert tomorrow.spend.total_usd == Decimal("0.08")


def test_the_state_of_a_batch_says_what_became_of_it(filled: Filled) -> None:
    """Running, interrupted, done, failed, cancelled, stopped and uncertain."""
    ledger = filled.ledger

    def state(name: str, after: timedelta = timedelta()) -> str:
        return views.batch(ledger, name, now=utc_now() + after).batch.state

    for name in ("done", "failed", "stopped", "cancelled", "uncertain", "live"):
        ledger.register(make_batch(name, 2), out_dir=filled.folder)
    for name in ("done", "failed", "cancelled"):
        filled.done(name, 0)
    filled.done("done", 1)
    ledger.set_job_state("failed", "shot-1", JobState.FAILED, error_kind="limit")
    ledger.request_cancel("cancelled")
    order = make_order("uncertain")
    reserve(ledger, order, filled.owner)
    advance(ledger, order, AttemptState.UNCERTAIN)
    for name in ("done", "failed", "stopped", "cancelled", "uncertain"):
        ledger.finish_batch(name)
        assert state(name) == name
    assert state("live") == "running"
    assert state("live", timedelta(minutes=5)) == "interrupted", "nobody has been heard of it for minutes"
    assert views.batch(ledger, "failed").progress == 1.0
    assert views.batch(ledger, "stopped").progress == 0.0


def test_what_is_expected_of_a_batch_comes_from_its_plan_and_its_pace(filled: Filled) -> None:
    """First the plan, then the pace of what is finished; at the end what it came to."""
    ledger = filled.ledger
    ledger.register(make_batch("night", 8), out_dir=filled.folder)
    nothing = views.batch(ledger, "night").outlook
    assert (nothing.planned_usd, nothing.remaining_s) == (None, None)
    start = utc_now()
    plan = Forecast(
        batch="night",
        planned_at=start,
        jobs=8,
        planned_usd=Decimal("0.64"),
        planned_s=80,
        split={"gemini": 8},
        pool=(),
        deadline_s=100,
    )
    number = ledger.record_plan(plan)
    early = views.batch(ledger, "night", now=start + timedelta(seconds=20)).outlook
    assert early.remaining_s == pytest.approx(60)
    assert early.deadline_in_s == pytest.approx(80)
    assert early.expected_usd == Decimal("0.64")
    for shot in range(4):
        filled.done("night", shot, usd="0.10")
    later = views.batch(ledger, "night", now=start + timedelta(seconds=50)).outlook
    assert later.remaining_s == pytest.approx(50), "four of eight in 50 s: as long again"
    assert later.expected_usd == Decimal("0.72")
    assert "pace" in later.basis
    ledger.record_outcome(number, duration_s=97, made=4)
    ledger.finish_batch("night")
    over = views.batch(ledger, "night").outlook
    assert (over.actual_s, over.actual_usd, over.remaining_s) == (97, Decimal("0.40"), None)


def test_pages_show_everything_once_and_in_order(filled: Filled) -> None:
    """Batches, jobs, clips and events, whatever the size of the page."""
    ledger = filled.ledger
    for number in range(7):
        ledger.register(make_batch(f"batch-{number}", 5), out_dir=filled.folder)
    for shot in range(5):
        filled.done("batch-0", shot)

    def walk(ask, size: int) -> list:  # type: ignore[no-untyped-def, type-arg]
        found, cursor = [], None
        while True:
            page: Page[object] = ask(cursor, size)
            found += page.items
            assert len(page.items) <= size
            cursor = page.next_cursor
            if cursor is None:
                return found

    for size in (1, 2, 3, 7, 500):
        names = [line.name for line in walk(lambda c, n: views.batches(ledger, cursor=c, limit=n), size)]
        assert names == [f"batch-{number}" for number in reversed(range(7))]
        ids = [line.job for line in walk(lambda c, n: views.jobs(ledger, "batch-0", cursor=c, limit=n), size)]
        assert ids == [f"shot-{shot}" for shot in range(5)]
        clips = [line.job for line in walk(lambda c, n: views.clips(ledger, cursor=c, limit=n), size)]
        assert clips == [f"shot-{shot}" for shot in reversed(range(5))]
        events, cursor = [], None
        while True:
            page = views.events(ledger, "batch-0", cursor=cursor, limit=size)
            events += page.items
            cursor = page.cursor
            if not page.more:
                break
        assert len({event.id for event in events}) == len(events) == 1 + 3 * 5
        assert [event.at for event in events] == sorted(event.at for event in events)


def test_events_go_on_where_they_ended(filled: Filled) -> None:
    """A watcher keeps the cursor, sees nothing twice and misses nothing."""
    filled.ledger.register(make_batch("night", 2), out_dir=filled.folder)
    first = views.events(filled.ledger, "night")
    assert [event.kind for event in first.items] == ["started"]
    assert views.events(filled.ledger, "night", cursor=first.cursor).items == ()
    filled.done("night", 0)
    order = make_order(shot=job("shot-1"))
    reserve(filled.ledger, order, filled.owner)
    fail(filled.ledger, order, "0.002")
    more = views.events(filled.ledger, "night", cursor=first.cursor)
    assert [event.kind for event in more.items] == ["decided", "submitted", "done", "decided", "failed"]
    assert "CUDA out of memory" in more.items[-1].message
    assert "$0.002" in more.items[-1].message


def test_the_decision_card_holds_every_candidate_with_its_reason(filled: Filled) -> None:
    """Why this backend, and why not that one; the attempts and the clip beside it."""
    filled.ledger.register(make_batch("night", 1), out_dir=filled.folder)
    order = make_order()
    reserve(filled.ledger, order, filled.owner)
    fail(filled.ledger, order)
    filled.done("night", 0, backend="gemini", number=2)
    card = views.job(filled.ledger, "night", "shot-0")
    assert [decision.attempt for decision in card.decisions] == [1, 2]
    chosen, loser = card.decisions[0].candidates
    assert (chosen.backend, chosen.chosen, chosen.price_usd) == ("runpod-serverless", True, Decimal("0.02"))
    assert (loser.backend, loser.lost_because) == ("gemini", "scores 30 points less")
    assert [attempt.state.value for attempt in card.attempts] == ["failed", "settled"]
    assert card.clip is not None
    assert card.job.cost_usd == sum((attempt.cost_usd or 0 for attempt in card.attempts), Decimal(0))
    assert views.batch(filled.ledger, "night").failovers == 1


def test_a_stored_batch_is_the_one_that_was_asked_for(filled: Filled) -> None:
    """What a re-run starts from: budget, deadline, preferences and jobs."""
    wishes = Preferences(backend="local", max_cost_usd=Decimal("0.5"))
    batch = make_batch("night", 3, budget_usd=Decimal("2.5"), deadline_s=60, preferences=wishes)
    filled.ledger.register(batch, out_dir=filled.folder)
    assert views.stored_batch(filled.ledger, "night") == batch


def test_a_clip_is_only_found_in_the_folder_of_its_batch(filled: Filled) -> None:
    """Neither a path elsewhere nor a link out of the folder is handed out."""
    ledger, folder = filled.ledger, filled.folder / "clips"
    ledger.register(make_batch("night", 4), out_dir=folder)
    inside, outside, link = folder / "night" / "a.mp4", filled.folder / "secret.mp4", folder / "night" / "b.mp4"
    inside.parent.mkdir(parents=True)
    for path in (inside, outside):
        path.write_bytes(b"clip")
    link.symlink_to(outside)
    for shot, path in enumerate((inside, outside, link)):
        order = make_order(shot=job(f"shot-{shot}"))
        reserve(ledger, order, filled.owner)
        advance(ledger, order, AttemptState.COLLECTED, path=path)
        finish(ledger, order)
    assert views.clip_file(ledger, "night", "shot-0").path == inside.resolve()
    for name, said in (("shot-1", "does not lie"), ("shot-2", "does not lie"), ("shot-3", "no clip yet")):
        with pytest.raises(NotFoundError, match=said):
            views.clip_file(ledger, "night", name)
    inside.unlink()
    with pytest.raises(NotFoundError, match="is gone"):
        views.clip_file(ledger, "night", "shot-0")


def test_health_is_shown_with_its_age(filled: Filled) -> None:
    """Fresh, the backend is what the check found; after two minutes nobody knows; a newer direct check counts."""
    config = Settings(storage=StorageSettings(home=filled.folder))
    config.comfyui = config.comfyui.model_copy(update={"urls": ("http://127.0.0.1:8188",)})
    now = datetime(2026, 5, 1, 12, tzinfo=UTC)

    def check(healthy: bool, at: datetime) -> Health:
        return Health(backend="comfyui", tier=Tier.LOCAL, healthy=healthy, detail="looked", checked_at=at)

    def seen(after_s: float, **more: object) -> views.BackendView:
        found = views.backends(filled.ledger, config, now=now + timedelta(seconds=after_s), **more)  # type: ignore[arg-type]
        return next(view for view in found if view.backend == "comfyui")

    assert seen(0).state == "unknown"
    HealthStore(filled.ledger).save([check(True, now)])
    assert seen(10).state == "healthy"
    health = seen(10).health
    assert health is not None
    assert health.age_s == 10
    assert seen(300).state == "unknown"
    assert seen(20, checked={"comfyui": check(False, now + timedelta(seconds=15))}).state == "unhealthy"
    off = next(v for v in views.backends(filled.ledger, config) if v.backend == "gemini")
    assert (off.state, off.configured) == ("off", False)
    assert "GEMINI_API_KEY" in off.setup


def test_a_breaker_is_seen_from_the_attempts_of_the_last_hour(filled: Filled) -> None:
    """Three failures in a row through the backend's fault open it; a clip closes it."""
    ledger = filled.ledger
    ledger.register(make_batch("night", 5), out_dir=filled.folder)

    def breakers() -> tuple[views.BreakerLine, ...]:
        found = views.backends(ledger, filled.settings)
        return next(view.breakers for view in found if view.backend == "gemini")

    for shot in range(3):
        order = make_order(shot=job(f"shot-{shot}"), backend="gemini")
        reserve(ledger, order, filled.owner)
        from tests.unit.ledger_rig import cost

        ledger.settle(
            order.attempt_id,
            cost("0"),
            state=AttemptState.FAILED,
            job_state=JobState.PENDING,
            error_kind="unreachable",
            error_message="refused",
        )
        (line,) = breakers()
        assert (line.state, line.last_error) == ("open" if shot == 2 else "closed", "refused")
    assert 0 < breakers()[0].rests_s <= 30
    filled.done("night", 3)
    assert breakers() == ()


@pytest.mark.parametrize("cursor", ["zzz", "", "WzFd", "bnVsbA", "é", "=" * 300, "W10", "WyJhIiwgImIiXQ"])
def test_a_foreign_cursor_is_refused_with_a_sentence(filled: Filled, cursor: str) -> None:
    """Whatever somebody writes there."""
    with pytest.raises(InputError, match="is not one of ours"):
        views.batches(filled.ledger, cursor=cursor)


@given(st.text(max_size=40), st.integers())
def test_cursors_survive_their_way(name: str, number: int) -> None:
    """Any name and any number, in both directions."""
    assert decode_cursor(encode_cursor(number, name), int, str) == (number, name)


def test_unknown_names_are_answered_with_the_nearest(filled: Filled) -> None:
    """A typing error should not cost a search."""
    filled.ledger.register(make_batch("night", 2), out_dir=filled.folder)
    with pytest.raises(NotFoundError, match="did you mean 'night'"):
        views.batch(filled.ledger, "nigth")
    with pytest.raises(NotFoundError, match="did you mean 'shot-1'"):
        views.job(filled.ledger, "night", "shot_1")
    with pytest.raises(NotFoundError):
        views.pod(filled.ledger, "pod-1")
