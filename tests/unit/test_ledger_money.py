"""Money invariants of the ledger under random interleavings, and between real processes."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_video.errors import LedgerError, LimitError
from hybrid_video.ledger import Balance, Caps, JobTakenError, Ledger, Owner
from hybrid_video.ledger.verify import verify
from hybrid_video.models import AttemptState, JobState, WorkOrder
from tests.unit.deciding_rig import job
from tests.unit.ledger_rig import advance, cost, fail, finish, make_batch, make_decision, make_order

JOBS = 3
ROOT = Path(__file__).resolve().parents[2]

amounts = st.decimals(0, Decimal("0.2"), places=7)
actions = st.tuples(
    st.sampled_from(["reserve", "extend", "settle", "fail", "cancel", "uncertain", "settle again"]),
    st.integers(0, JOBS - 1),
    amounts,
    st.decimals(0, 1, places=2),
)


class Model:
    """What the ledger should hold, kept the simple way."""

    def __init__(self, caps: Caps) -> None:
        self.caps = caps
        self.open: dict[int, tuple[WorkOrder, Decimal]] = {}
        self.last: dict[int, WorkOrder] = {}
        self.over: set[int] = set()
        self.spent = dict.fromkeys(range(JOBS), Decimal(0))
        self.number = dict.fromkeys(range(JOBS), 0)

    def held(self, number: int) -> Decimal:
        """Money a job has reserved."""
        return self.open[number][1] if number in self.open else Decimal(0)

    def fits(self, number: int, more: Decimal) -> bool:
        """Whether every cap leaves room for more on this job."""
        batch = sum(self.spent.values()) + sum(amount for _, amount in self.open.values()) + more
        alone = self.spent[number] + self.held(number) + more
        within = self.caps.batch_usd is None or batch <= self.caps.batch_usd
        return not more or (within and (self.caps.job_usd is None or alone <= self.caps.job_usd))


def act_reserve(ledger: Ledger, owner: Owner, model: Model, number: int, order: WorkOrder) -> None:
    """Passes the spend gate, or is refused as the model says."""
    amount = order.quote.reserve_usd
    if number in model.over:  # done or cancelled: only a changed batch makes it wait again
        with pytest.raises(JobTakenError):
            ledger.reserve(order, make_decision(order), model.caps, owner)
        ledger.set_job_state(order.batch, order.job.id, JobState.PENDING)
        model.over.remove(number)
    if number in model.open or not model.fits(number, amount):
        with pytest.raises(LedgerError if number in model.open else LimitError):
            ledger.reserve(order, make_decision(order), model.caps, owner)
        return
    ledger.reserve(order, make_decision(order), model.caps, owner)
    model.number[number] += 1
    model.open[number] = (order, amount)


def act(ledger: Ledger, owner: Owner, model: Model, batch: str, action: tuple[str, int, Decimal, Decimal]) -> None:
    """Does one thing to the ledger and to the model; what the model forbids must be refused."""
    verb, number, amount, share = action
    if verb == "reserve":
        usd = str(amount * share)
        order = make_order(
            batch, job(f"shot-{number}"), number=model.number[number] + 1, usd=usd, reserve_usd=str(amount)
        )
        act_reserve(ledger, owner, model, number, order)
        return
    if verb == "settle again":
        if number in model.last:
            ledger.settle(
                model.last[number].attempt_id, cost("9"), state=AttemptState.FAILED, job_state=JobState.FAILED
            )
        return
    if number not in model.open:
        return
    order, held = model.open[number]
    if verb == "extend":
        more = max(Decimal(0), amount - held)
        if model.fits(number, more):
            ledger.extend(order.attempt_id, amount, model.caps)
            model.open[number] = (order, held + more)
        else:
            with pytest.raises(LimitError):
                ledger.extend(order.attempt_id, amount, model.caps)
        return
    if verb == "uncertain":
        advance(ledger, order, AttemptState.UNCERTAIN)
        return
    usd = str((held * share).quantize(Decimal("0.0000001")))
    if verb == "settle":
        advance(ledger, order, AttemptState.COLLECTED)
        finish(ledger, order, usd)
    elif verb == "fail":
        fail(ledger, order, usd)
    else:
        ledger.settle(order.attempt_id, cost(usd), state=AttemptState.CANCELLED, job_state=JobState.CANCELLED)
    if verb != "fail":
        model.over.add(number)
    model.spent[number] += Decimal(usd)
    model.last[number] = order
    del model.open[number]


def check(ledger: Ledger, model: Model, batch: str) -> None:
    """Balances equal the model's, and no cap is crossed."""
    for number in range(JOBS):
        balance = ledger.balance(f"job:{batch}/shot-{number}")
        assert balance == Balance(model.spent[number], model.held(number))
        if model.caps.job_usd is not None:
            assert balance.settled_usd + balance.reserved_usd <= model.caps.job_usd
    balance = ledger.balance(f"batch:{batch}")
    assert balance.settled_usd == sum(model.spent.values())
    assert balance.reserved_usd == sum(model.held(number) for number in range(JOBS))
    if model.caps.batch_usd is not None:
        assert balance.settled_usd + balance.reserved_usd <= model.caps.batch_usd


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Ledger, Owner]]:
    """One ledger of each kind for all examples; each example has a batch of its own."""
    folder = tmp_path_factory.mktemp("money")
    server = request.getfixturevalue("postgres") if request.param == "postgresql" else None
    ledger, owner = Ledger.open(server or folder / "ledger.sqlite3"), Owner(folder)
    yield ledger, owner
    ledger.close()
    owner.close()


@given(st.lists(actions, min_size=1, max_size=14), st.none() | amounts, st.none() | amounts)
@settings(max_examples=80, deadline=None)
def test_no_interleaving_crosses_a_cap_or_loses_a_cent(
    opened: tuple[Ledger, Owner],
    sequence: list[tuple[str, int, Decimal, Decimal]],
    job_cap: Decimal | None,
    batch_cap: Decimal | None,
) -> None:
    """After every step settled + reserved is within each cap, and every balance is what the steps come to."""
    ledger, owner = opened
    batch = f"b-{uuid.uuid4().hex}"
    ledger.register(make_batch(batch, JOBS), out_dir=Path("out"))
    model = Model(Caps(job_usd=job_cap, batch_usd=batch_cap))
    for action in sequence:
        act(ledger, owner, model, batch, action)
        check(ledger, model, batch)


def test_the_balances_equal_their_recomputation(opened: tuple[Ledger, Owner]) -> None:
    """`verify` finds no contradiction after everything the other tests of this file did."""
    ledger, owner = opened
    ledger.register(make_batch("last", JOBS), out_dir=Path("out"))
    model = Model(Caps())
    for number, verb in enumerate(("settle", "fail", "uncertain")):
        act(ledger, owner, model, "last", ("reserve", number, Decimal("0.05"), Decimal(1)))
        act(ledger, owner, model, "last", (verb, number, Decimal(0), Decimal("0.5")))
    report = verify(ledger)
    assert [finding for finding in report.findings if finding.kind == "balance"] == []
    assert report.settled_usd == ledger.balance("all").settled_usd
    assert report.reserved_usd == ledger.balance("all").reserved_usd


SPENDER = """
import sys
from decimal import Decimal
from pathlib import Path
from hybrid_video.errors import LimitError
from hybrid_video.ledger import Caps, Ledger, Owner
from tests.unit.deciding_rig import job
from tests.unit.ledger_rig import fail, make_order, reserve
home, first, url = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
ledger, owner, bought = Ledger.open(url if "://" in url else Path(url)), Owner(home), 0
print("ready", flush=True)
sys.stdin.readline()
for number in range(first, 40, 2):
    order = make_order("shared", job(f"shot-{number}"), usd="0.01")
    try:
        reserve(ledger, order, owner, batch_usd=Decimal("0.15"), day_usd=Decimal("0.15"))
        bought += 1
    except LimitError:
        pass
print(bought)
"""


def test_two_processes_with_one_budget_never_overspend(ledger_url: str | Path, tmp_path: Path) -> None:
    """Each tries to buy 20 clips of one cent; with fifteen cents they buy fifteen together."""
    ledger = Ledger.open(ledger_url)
    ledger.register(make_batch("shared", 40), out_dir=tmp_path)
    children = [
        subprocess.Popen(
            [sys.executable, "-c", SPENDER, str(tmp_path), str(first), str(ledger_url)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for first in (0, 1)
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    answers = [child.communicate(timeout=60)[0] for child in children]
    bought = [int(answer) for answer in answers]
    assert sum(bought) == 15
    assert ledger.balance("batch:shared") == Balance(Decimal(0), Decimal("0.15"))
    assert verify(ledger).ok
    ledger.close()
