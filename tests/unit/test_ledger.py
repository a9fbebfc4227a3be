"""The way of an attempt through the ledger: states, money, registration, and what is stored."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path

import pytest
import sqlalchemy as sa

from hybrid_video import redaction
from hybrid_video.errors import InputError, LedgerError, LimitError
from hybrid_video.ledger import Balance, Caps, Ledger, Owner
from hybrid_video.ledger import schema as t
from hybrid_video.ledger.states import MOVES, OPEN, check_move
from hybrid_video.ledger.verify import verify
from hybrid_video.models import AttemptState, JobState
from tests.unit.deciding_rig import job
from tests.unit.ledger_rig import (
    advance,
    cost,
    fail,
    finish,
    make_batch,
    make_clip,
    make_decision,
    make_done,
    make_handle,
    make_order,
    reserve,
)

S = AttemptState
ENDS = (S.SETTLED, S.FAILED, S.CANCELLED)


@pytest.fixture
def ledger(ledger_url: str | Path, tmp_path: Path) -> Iterator[Ledger]:
    """An empty ledger with the batch `night` of three shots."""
    ledger = Ledger.open(ledger_url)
    ledger.register(make_batch(), out_dir=tmp_path / "out")
    yield ledger
    ledger.close()


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Owner]:
    """This process as an owner."""
    owner = Owner(tmp_path)
    yield owner
    owner.close()


def state_of(ledger: Ledger, shot: str = "shot-0", batch: str = "night") -> JobState:
    """The state of one job."""
    return ledger.job_rows(batch, only=[shot])[0].state


# -- states --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("old", list(S))
@pytest.mark.parametrize("new", list(S))
def test_the_table_of_moves_is_what_is_enforced(old: AttemptState, new: AttemptState) -> None:
    """Every allowed move passes, every other one is an error naming both states; staying is no move."""
    if new is old or new in MOVES[old]:
        check_move("a-1", old, new)
    else:
        with pytest.raises(LedgerError, match=f"'a-1' cannot go from '{old.value}' to '{new.value}'"):
            check_move("a-1", old, new)


def test_the_finished_states_have_no_way_out() -> None:
    """Settled, failed and cancelled are final; every other state can still end."""
    assert {state for state in S if not MOVES[state]} == set(ENDS)
    assert frozenset(S) - frozenset(ENDS) == OPEN
    for state in OPEN:
        reachable, todo = {state}, [state]
        while todo:
            fresh = MOVES[todo.pop()] - reachable
            reachable |= fresh
            todo += fresh
        assert reachable & set(ENDS)


def test_only_a_collected_attempt_can_be_settled_as_a_clip() -> None:
    """Nothing counts as a success before its clip is on disk and checked."""
    assert {state for state in S if S.SETTLED in MOVES[state]} == {S.COLLECTED}


@pytest.mark.parametrize("state", sorted(OPEN))
def test_a_forbidden_move_changes_nothing(ledger: Ledger, owner: Owner, state: AttemptState) -> None:
    """From every open state each forbidden mark raises and leaves attempt and money as they were."""
    order = make_order()
    reserve(ledger, order, owner)
    advance(ledger, order, state)
    before = ledger.attempt(order.attempt_id)
    marks: dict[AttemptState, Callable[[], None]] = {
        S.SUBMITTED: lambda: ledger.mark_submitted(make_handle(order)),
        S.RUNNING: lambda: ledger.mark_running(order.attempt_id),
        S.COLLECTED: lambda: ledger.mark_collected(
            order.attempt_id, make_clip(order), execution_s=None, queue_s=None, gpu=""
        ),
        S.UNCERTAIN: lambda: ledger.mark_uncertain(order.attempt_id, "lost"),
        S.SETTLED: lambda: finish(ledger, order),
    }
    for new, mark in marks.items():
        if new is not state and new not in MOVES[state]:
            with pytest.raises(LedgerError, match="cannot go from"):
                mark()
    assert ledger.attempt(order.attempt_id) == before
    assert ledger.balance("batch:night") == Balance(Decimal(0), Decimal("0.02"))


# -- money ---------------------------------------------------------------------------------------------------------


def test_a_reservation_is_held_in_every_scope_and_becomes_the_true_cost(ledger: Ledger, owner: Owner) -> None:
    """Reserved: the pessimistic amount; settled: the truth; nothing stays reserved."""
    order = make_order(usd="0.02", reserve_usd="0.05")
    reserve(ledger, order, owner)
    day = ledger.attempt(order.attempt_id).created_at.date().isoformat()
    scopes = ("job:night/shot-0", "batch:night", f"day:{day}", f"month:{day[:7]}", "all")
    assert {ledger.balance(scope) for scope in scopes} == {Balance(Decimal(0), Decimal("0.05"))}
    advance(ledger, order, S.COLLECTED)
    finish(ledger, order, "0.0123456")
    assert {ledger.balance(scope) for scope in scopes} == {Balance(Decimal("0.0123456"), Decimal(0))}
    attempt = ledger.attempt(order.attempt_id)
    assert (attempt.state, attempt.cost_usd, attempt.reserved_usd) == (S.SETTLED, Decimal("0.0123456"), Decimal(0))
    assert attempt.cost_basis == "metered: 20 GPU-seconds"
    assert state_of(ledger) is JobState.DONE


def test_settling_twice_changes_nothing(ledger: Ledger, owner: Owner) -> None:
    """A second booking of the same attempt, by whomever and as whatever, is ignored."""
    order = make_order()
    make_done(ledger, order, owner, "0.01")
    before = ledger.attempt(order.attempt_id), ledger.balance("all"), state_of(ledger)
    finish(ledger, order, "0.99")
    fail(ledger, order, "0.99")
    assert (ledger.attempt(order.attempt_id), ledger.balance("all"), state_of(ledger)) == before


@pytest.mark.parametrize(
    ("cap", "sentence"),
    [
        ("job_usd", "the limit per job"),
        ("batch_usd", "the batch budget"),
        ("day_usd", "the daily budget"),
        ("month_usd", "the monthly budget"),
    ],
)
def test_a_cap_refuses_and_leaves_nothing_behind(ledger: Ledger, owner: Owner, cap: str, sentence: str) -> None:
    """The refusal names the cap and the amounts; no attempt, decision or reservation is left."""
    make_done(ledger, make_order(), owner, "0.01")
    ledger.set_job_state("night", "shot-0", JobState.PENDING)
    second = make_order(number=2, usd="0.02", reserve_usd="0.05")
    with pytest.raises(LimitError, match=sentence) as caught:
        reserve(ledger, second, owner, **{cap: Decimal("0.0599")})
    for part in ("$0.0599", "$0.05 ", "runpod-serverless", "'shot-0'", "$0.01 is spent", "raise the limit"):
        assert part in caught.value.message
    assert len(ledger.attempts("night")) == 1
    assert len(ledger.decisions("night")) == 1
    assert ledger.balance("batch:night") == Balance(Decimal("0.01"), Decimal(0))
    assert state_of(ledger) is JobState.PENDING
    reserve(ledger, second, owner, **{cap: Decimal("0.06")})


def test_a_cap_counts_reservations_like_money_spent(ledger: Ledger, owner: Owner) -> None:
    """Two attempts under way hold their worst case; a third has to wait until one is settled below it."""
    cap = Decimal("0.10")
    orders = [make_order(shot=job(f"shot-{n}"), usd="0.01", reserve_usd="0.05") for n in range(3)]
    reserve(ledger, orders[0], owner, batch_usd=cap)
    reserve(ledger, orders[1], owner, batch_usd=cap)
    with pytest.raises(LimitError):
        reserve(ledger, orders[2], owner, batch_usd=cap)
    advance(ledger, orders[0], S.COLLECTED)
    finish(ledger, orders[0], "0")
    reserve(ledger, orders[2], owner, batch_usd=cap)
    assert ledger.balance("batch:night").reserved_usd == cap


def test_an_uncertain_attempt_keeps_its_reservation(ledger: Ledger, owner: Owner) -> None:
    """Nobody knows whether it is paid for, so the money stays held and the job waits."""
    order = make_order()
    reserve(ledger, order, owner)
    advance(ledger, order, S.UNCERTAIN)
    assert ledger.balance("batch:night").reserved_usd == Decimal("0.02")
    assert state_of(ledger) is JobState.UNCERTAIN
    assert ledger.open_attempts("night")[0].error_message == "the answer was lost"
    report = verify(ledger)
    assert (report.ok, report.uncertain) == (True, 1)


def test_a_job_with_an_open_attempt_is_not_sent_again(ledger: Ledger, owner: Owner) -> None:
    """Whatever state the open attempt is in, a second one is refused."""
    order = make_order()
    reserve(ledger, order, owner)
    for state in (None, S.UNCERTAIN):
        if state is not None:
            advance(ledger, order, state)
        with pytest.raises(LedgerError, match="still open; it is not sent twice"):
            reserve(ledger, make_order(number=2), owner)
    assert len(ledger.attempts("night")) == 1


def test_amounts_are_exact_to_the_nano_dollar(ledger: Ledger, owner: Owner) -> None:
    """Three thousand thirds of a cent come to exactly what they come to."""
    order = make_order(usd="0.000000001", reserve_usd="0.000000001")
    make_done(ledger, order, owner, "0.000000001")
    assert ledger.balance("all").settled_usd == Decimal("0.000000001")


def test_an_amount_finer_than_a_nano_dollar_is_refused(ledger: Ledger, owner: Owner) -> None:
    """Nothing is rounded silently on its way into the books."""
    with pytest.raises(LedgerError, match="finer than a nano-dollar"):
        reserve(ledger, make_order(usd="0.0000000001"), owner)
    assert ledger.attempts("night") == []


@pytest.mark.parametrize("state", sorted(OPEN))
def test_settling_as_something_that_is_no_end_is_refused(ledger: Ledger, owner: Owner, state: AttemptState) -> None:
    """Money is booked only with the end of an attempt."""
    order = make_order()
    reserve(ledger, order, owner)
    with pytest.raises(LedgerError, match="is not an end"):
        ledger.settle(order.attempt_id, cost("0.01"), state=state, job_state=JobState.PENDING)
    assert ledger.balance("all") == Balance(Decimal(0), Decimal("0.02"))


def test_concurrent_threads_never_pass_a_cap(ledger: Ledger, owner: Owner) -> None:
    """Twelve threads reserve against room for five; five get in."""
    shots = tuple(job(f"many-{n}") for n in range(12))
    ledger.register(make_batch("many", shots), out_dir=Path("out"))
    refused = []

    def one(number: int) -> None:
        order = make_order("many", shots[number], usd="0.01")
        try:
            reserve(ledger, order, owner, batch_usd=Decimal("0.05"))
        except LimitError as error:
            refused.append(error)

    threads = [threading.Thread(target=one, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 7
    assert ledger.balance("batch:many") == Balance(Decimal(0), Decimal("0.05"))
    assert verify(ledger).ok


# -- what is stored ------------------------------------------------------------------------------------------------


def test_decisions_come_back_as_they_were(ledger: Ledger, owner: Owner) -> None:
    """Every candidate, score and reason survives; decisions without an attempt too."""
    order = make_order()
    decision = make_decision(order)
    ledger.reserve(order, decision, Caps(), owner)
    refused = decision.model_copy(update={"attempt": 2, "chosen": None, "tier": None, "reason": "nobody can"})
    ledger.record_decision("night", refused)
    assert ledger.decisions("night") == [decision, refused]
    assert ledger.decisions("night", "shot-0") == [decision, refused]
    assert ledger.decisions("night", "shot-1") == []


def test_attempts_come_back_with_handle_clip_and_times(ledger: Ledger, owner: Owner) -> None:
    """What is needed to re-attach after a crash, and what the history learns from."""
    order = make_order()
    reserve(ledger, order, owner)
    handle = make_handle(order, server="http://127.0.0.1:8188")
    ledger.mark_submitted(handle)
    ledger.mark_running(order.attempt_id, gpu="RTX 4090")
    ledger.mark_collected(order.attempt_id, make_clip(order), execution_s=19.5, queue_s=2.0, gpu="RTX 4090")
    attempt = ledger.attempt(order.attempt_id)
    assert attempt.handle == handle
    assert attempt.clip == make_clip(order)
    assert attempt.quote == order.quote
    assert (attempt.execution_s, attempt.queue_s, attempt.gpu) == (19.5, 2.0, "RTX 4090")
    assert attempt.submitted_at == handle.submitted_at
    assert ledger.open_attempts() == [attempt]
    assert ledger.attempts(states=[S.SETTLED]) == []


def test_no_secret_reaches_the_database(ledger: Ledger, owner: Owner) -> None:
    """Messages of vendors are redacted on their way in, whoever forgot to do it before."""
    secret = "rpa-very-secret-4711"
    redaction.register(secret)
    order, other = make_order(), make_order(shot=job("shot-1"))
    for item in (order, other):
        reserve(ledger, item, owner)
    ledger.mark_uncertain(order.attempt_id, f"Authorization: Bearer {secret}")
    ledger.settle(
        other.attempt_id,
        cost("0"),
        state=S.FAILED,
        job_state=JobState.FAILED,
        error_kind="authentication",
        error_message=f"key={secret} was refused",
    )
    ledger.set_job_state("night", "shot-2", JobState.FAILED, error_kind="x", error_message=f"token {secret}")
    with ledger.raw().connect() as connection:
        written = repr([connection.execute(sa.select(table)).all() for table in t.metadata.sorted_tables])
    assert "was refused" in written
    assert secret not in written


def test_an_unknown_attempt_is_an_error(ledger: Ledger) -> None:
    """Asking for what is not there says so."""
    with pytest.raises(LedgerError, match="no attempt 'nope' is known"):
        ledger.attempt("nope")
    with pytest.raises(InputError, match="no batch is named 'nope'"):
        ledger.batch_out_dir("nope")


# -- registration --------------------------------------------------------------------------------------------------


def test_registering_the_same_batch_again_changes_nothing(ledger: Ledger, owner: Owner, tmp_path: Path) -> None:
    """Done jobs stay done, pending ones pending, open ones open."""
    make_done(ledger, make_order(), owner)
    reserve(ledger, make_order(shot=job("shot-1")), owner)
    before = ledger.job_rows("night")
    assert ledger.register(make_batch(), out_dir=tmp_path / "out") == []
    assert ledger.job_rows("night") == before
    assert ledger.batch_out_dir("night") == tmp_path / "out"


def test_new_jobs_join_and_the_order_follows_the_file(ledger: Ledger, tmp_path: Path) -> None:
    """Jobs added in front come first; a job left out of the file stays in the books."""
    shots = (job("opening"), job("shot-2"), job("shot-0"))
    ledger.register(make_batch("night", shots), out_dir=tmp_path)
    rows = [row.job for row in ledger.job_rows("night", only=["opening", "shot-2", "shot-0"])]
    assert rows == ["opening", "shot-2", "shot-0"]
    assert "shot-1" in {row.job for row in ledger.job_rows("night")}


@pytest.mark.parametrize("state", [JobState.FAILED, JobState.CANCELLED])
def test_failed_and_cancelled_jobs_wait_again(ledger: Ledger, tmp_path: Path, state: JobState) -> None:
    """Running the batch again is how they are tried again; their old error is gone."""
    ledger.set_job_state("night", "shot-0", state, error_kind="x", error_message="y")
    ledger.register(make_batch(), out_dir=tmp_path)
    row = ledger.job_rows("night", only=["shot-0"])[0]
    assert (row.state, row.error_kind, row.error_message) == (JobState.PENDING, "", "")


def test_a_changed_job_is_made_again_and_reported(ledger: Ledger, owner: Owner, tmp_path: Path) -> None:
    """Done with another text: it waits again under the new one, and the caller is told."""
    make_done(ledger, make_order(), owner)
    changed = job("shot-0", duration_s=3)
    shots = (changed, job("shot-1"), job("shot-2"))
    assert ledger.register(make_batch("night", shots), out_dir=tmp_path) == ["shot-0"]
    row = ledger.job_rows("night", only=["shot-0"])[0]
    assert (row.state, row.spec) == (JobState.PENDING, changed)
    make_done(ledger, make_order(shot=changed, number=2), owner)
    assert verify(ledger).ok


def test_a_failed_job_that_was_changed_forgets_its_old_error(ledger: Ledger, tmp_path: Path) -> None:
    """The new text has not failed yet."""
    ledger.set_job_state("night", "shot-0", JobState.FAILED, error_kind="content_blocked", error_message="blocked")
    ledger.register(make_batch("night", (job("shot-0", duration_s=3),)), out_dir=tmp_path)
    row = ledger.job_rows("night", only=["shot-0"])[0]
    assert (row.state, row.error_kind, row.error_message) == (JobState.PENDING, "", "")


def test_changing_a_text_back_does_not_pay_for_its_clip_again(ledger: Ledger, owner: Owner, tmp_path: Path) -> None:
    """The newest clip of the job was made from exactly this text, so the job is done."""
    make_done(ledger, make_order(), owner)
    others = (job("shot-1"), job("shot-2"))
    ledger.register(make_batch("night", (job("shot-0", duration_s=3), *others)), out_dir=tmp_path)
    assert state_of(ledger) is JobState.PENDING
    assert ledger.register(make_batch("night", (job("shot-0"), *others)), out_dir=tmp_path) == []
    assert state_of(ledger) is JobState.DONE


def test_making_an_earlier_text_again_is_no_duplicate(ledger: Ledger, owner: Owner, tmp_path: Path) -> None:
    """A, then B, then A again are three clips that were each asked for."""
    texts = (job("shot-0"), job("shot-0", duration_s=3), job("shot-0"))
    for number, text in enumerate(texts, start=1):
        ledger.register(make_batch("night", (text,)), out_dir=tmp_path)
        make_done(ledger, make_order(shot=text, number=number), owner)
    report = verify(ledger)
    assert (report.ok, report.duplicates) == (True, 0)


@pytest.mark.parametrize("state", [S.INTENT, S.RUNNING, S.UNCERTAIN])
def test_a_job_that_is_being_made_cannot_be_changed(
    ledger: Ledger, owner: Owner, tmp_path: Path, state: AttemptState
) -> None:
    """The refusal says what to do, and the whole registration is undone."""
    order = make_order()
    reserve(ledger, order, owner)
    advance(ledger, order, state)
    shots = (job("new"), job("shot-0", duration_s=3))
    with pytest.raises(InputError, match=r"'shot-0' was changed while .* or give the batch another name"):
        ledger.register(make_batch("night", shots), out_dir=tmp_path)
    assert "new" not in {row.job for row in ledger.job_rows("night")}


def test_a_text_written_by_another_version_is_the_same_text(ledger: Ledger, owner: Owner, tmp_path: Path) -> None:
    """Fields in another order, or defaults left out, are no change that would be paid for."""
    make_done(ledger, make_order(), owner)
    with ledger.raw().begin() as connection:
        short = '{"prompt": "a harbour at dawn", "id": "shot-0"}'
        connection.execute(sa.update(t.jobs).where(t.jobs.c.job == "shot-0").values(spec=short))
    assert ledger.register(make_batch(), out_dir=tmp_path) == []
    assert state_of(ledger) is JobState.DONE


# -- opening -------------------------------------------------------------------------------------------------------


def test_opening_again_keeps_everything_and_migrates_once(ledger: Ledger, owner: Owner, ledger_url: str | Path) -> None:
    """Migrations are numbered and applied once, however often the file is opened."""
    make_done(ledger, make_order(), owner)
    again = Ledger.open(ledger_url)
    with again.raw().connect() as connection:
        numbers = list(connection.execute(sa.select(t.migrations.c.number)).scalars())
    assert numbers == list(range(1, len(t.MIGRATIONS) + 1))
    assert again.job_rows("night") == ledger.job_rows("night")
    again.close()


def test_a_ledger_of_a_newer_version_is_left_alone(ledger: Ledger, ledger_url: str | Path) -> None:
    """An older program does not write into what it does not understand."""
    with ledger.raw().begin() as connection:
        connection.execute(t.migrations.insert().values(number=999, applied_at=make_handle(make_order()).submitted_at))
    with pytest.raises(LedgerError, match="newer version of hybrid-video"):
        Ledger.open(ledger_url)


def test_writes_are_durable_and_readers_do_not_wait(tmp_path: Path) -> None:
    """SQLite: write-ahead log, full synchronisation, foreign keys on."""
    ledger = Ledger.open(tmp_path / "ledger.sqlite3")
    with ledger.raw().connect() as connection:
        values = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    assert values == ["wal", 2, 1]


@pytest.mark.parametrize("kind", ["the folder is a file", "the ledger is a folder", "the file is something else"])
def test_a_ledger_that_cannot_be_opened_says_where_why_and_what_to_do(tmp_path: Path, kind: str) -> None:
    """The path, the system's reason and the remedy; never a traceback of the database library."""
    path = tmp_path / "home" / "ledger.sqlite3"
    if kind == "the folder is a file":
        path.parent.write_text("not a folder")
    elif kind == "the ledger is a folder":
        path.mkdir(parents=True)
    else:
        path.parent.mkdir()
        path.write_text("a text that is certainly not a database, and long enough to be read as one" * 20)
    with pytest.raises(LedgerError) as caught:
        Ledger.open(path)
    assert repr(str(path)) in caught.value.message
    assert "cannot be opened" in caught.value.message
    assert "HYBRID_VIDEO_HOME" in caught.value.message


def test_an_unknown_ledger_address_does_not_show_its_password() -> None:
    """The configured URL is named, never quoted."""
    with pytest.raises(LedgerError) as caught:
        Ledger.open("nosuchdb://user:hunter2secret@db.example/ledger")
    assert "hunter2secret" not in caught.value.message


# -- verify --------------------------------------------------------------------------------------------------------


def test_verify_finds_a_balance_that_was_tampered_with(ledger: Ledger, owner: Owner) -> None:
    """The stored sum and the sum of the attempts are both shown."""
    make_done(ledger, make_order(), owner, "0.01")
    assert verify(ledger).ok
    with ledger.raw().begin() as connection:
        connection.execute(
            sa.update(t.balances).where(t.balances.c.scope == "batch:night").values(settled_usd=Decimal(5))
        )
    report = verify(ledger)
    assert not report.ok
    assert [(finding.kind, finding.subject) for finding in report.findings if finding.serious] == [
        ("balance", "batch:night")
    ]


def test_verify_finds_an_open_attempt_of_a_finished_job(ledger: Ledger, owner: Owner) -> None:
    """Its money would be held for ever."""
    order = make_order()
    reserve(ledger, order, owner)
    ledger.set_job_state("night", "shot-0", JobState.FAILED)
    report = verify(ledger)
    assert (report.ok, report.orphans) == (False, 1)
    assert "hybrid-video reconcile" in report.findings[0].message


def test_verify_finds_a_clip_that_was_paid_for_twice(ledger: Ledger, owner: Owner) -> None:
    """Two settled attempts of one job and one text."""
    make_done(ledger, make_order(), owner)
    ledger.set_job_state("night", "shot-0", JobState.PENDING)  # as a fault of ours would
    make_done(ledger, make_order(number=2), owner)
    report = verify(ledger)
    assert (report.ok, report.duplicates) == (False, 1)


def test_verify_finds_a_budget_that_was_crossed(ledger: Ledger, owner: Owner, tmp_path: Path) -> None:
    """A vendor that charged more than the worst case is reported."""
    ledger.register(make_batch(budget_usd=Decimal("0.03")), out_dir=tmp_path)
    make_done(ledger, make_order(), owner, "0.04")
    assert [finding.kind for finding in verify(ledger).findings if finding.serious] == ["cap"]


def test_verify_mentions_a_clip_that_is_gone_from_disk(ledger: Ledger, owner: Owner, tmp_path: Path) -> None:
    """Nothing is wrong with the books, so it is a remark."""
    kept = tmp_path / "kept.mp4"
    kept.write_bytes(b"clip")
    first, second = make_order(), make_order(shot=job("shot-1"))
    for order, path in ((first, kept), (second, tmp_path / "gone.mp4")):
        reserve(ledger, order, owner)
        advance(ledger, order, S.COLLECTED, path)
        finish(ledger, order)
    report = verify(ledger)
    assert report.ok
    assert [(finding.kind, finding.subject) for finding in report.findings] == [("missing_clip", "night/shot-1")]
