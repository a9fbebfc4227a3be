"""A pod's money: jobs and overhead together are the pod's cost, to the nano-dollar, whatever settles when."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from hybrid_video.errors import LimitError
from hybrid_video.ledger import Caps, Ledger, Owner
from hybrid_video.ledger import schema as t
from hybrid_video.ledger.verify import verify
from hybrid_video.models import AttemptState, JobState, WorkOrder, utc_now
from hybrid_video.pods import accounting
from hybrid_video.pods.accounting import NOBODY, Tariff, share_out, within
from hybrid_video.pods.records import PodIntent, PodRecord
from hybrid_video.pods.store import PodStore
from tests.unit.deciding_rig import job
from tests.unit.ledger_rig import advance, cost, make_batch, make_order, reserve

LANE = "runpod-pod/abc"


class Studio:
    """A ledger with a batch of three shots and one pod that is ready."""

    def __init__(
        self, folder: Path, *, url: str | Path | None = None, budget_usd: str | None = None, batch_of_pod: str = ""
    ) -> None:
        self.ledger = Ledger.open(url or folder / "ledger.sqlite3")
        self.owner = Owner(folder)
        self.ledger.register(make_batch(budget_usd=budget_usd), out_dir=folder)
        self.store = PodStore(self.ledger)
        intent = PodIntent(
            name="p0",
            gpu="NVIDIA GeForce RTX 4090",
            cloud="SECURE",
            price_usd_per_h=Decimal("0.72"),
            reserve_usd=Decimal("0.20"),
            batch=batch_of_pod,
        )
        self.store.intend(intent, caps=Caps(), max_pods=5)
        self.store.mark_creating("p0")
        self.store.mark_created("p0", "abc")
        self.store.mark_ready("p0")

    def begin(self, shot: str) -> WorkOrder:
        order = make_order(shot=job(shot), backend="runpod-pod").model_copy(update={"lane": LANE})
        reserve(self.ledger, order, self.owner)
        advance(self.ledger, order, AttemptState.COLLECTED)
        return order

    def finish(self, order: WorkOrder, usd: str, seconds: float) -> None:
        self.ledger.settle(
            order.attempt_id,
            cost(usd),
            state=AttemptState.SETTLED,
            job_state=JobState.DONE,
            execution_s=seconds,
        )

    def end(self, usd: str) -> PodRecord:
        self.store.mark_closing("p0", "idle")
        return self.store.mark_closed("p0", cost_usd=Decimal(usd))

    def settled(self, scope: str) -> Decimal:
        return self.ledger.balance(scope).settled_usd


def test_what_no_job_was_charged_is_shared_out_by_seconds(tmp_path: Path, ledger_url: str | Path) -> None:
    """A pod of $0.10 with jobs of $0.02 and $0.04: $0.04 of start-up and idle time go one third and two thirds."""
    studio = Studio(tmp_path, url=ledger_url)
    studio.finish(studio.begin("shot-0"), "0.02", 100)
    studio.finish(studio.begin("shot-1"), "0.04", 200)
    pod = studio.end("0.10")
    assert pod.booked_usd == Decimal("0.04")
    shares = accounting.job_overheads(studio.ledger, "night")
    assert shares == {"shot-0": Decimal("0.013333333"), "shot-1": Decimal("0.026666667")}
    assert studio.settled("all") == studio.settled("batch:night") == Decimal("0.10")
    report = verify(studio.ledger)
    assert (report.ok, report.settled_usd, report.reserved_usd) == (True, Decimal("0.10"), 0)
    assert report.pod_overhead_usd == Decimal("0.04")


def test_a_pod_that_served_nobody_is_carried_by_the_batch_it_was_opened_for(tmp_path: Path) -> None:
    """And by nobody when it was opened for none: the money is in the totals either way."""
    studio = Studio(tmp_path / "for", batch_of_pod="night")
    studio.end("0.05")
    assert studio.settled("batch:night") == studio.settled("all") == Decimal("0.05")
    assert verify(studio.ledger).ok
    studio = Studio(tmp_path / "alone")
    studio.end("0.05")
    assert (studio.settled("batch:night"), studio.settled("all")) == (0, Decimal("0.05"))
    assert verify(studio.ledger).ok


def test_a_job_that_settles_after_its_pod_corrects_the_shares(tmp_path: Path, ledger_url: str | Path) -> None:
    """Total stays the pod's cost: what was overhead becomes the job's own charge."""
    studio = Studio(tmp_path, url=ledger_url)
    late = studio.begin("shot-0")
    assert studio.end("0.10").booked_usd == Decimal("0.10")
    studio.finish(late, "0.03", 100)
    accounting.book(studio.ledger, "p0", Decimal("0.10"))
    assert studio.settled("all") == Decimal("0.10")
    assert accounting.batch_overhead(studio.ledger, "night") == Decimal("0.07")
    assert verify(studio.ledger).ok


def test_the_providers_bill_corrects_what_was_booked(tmp_path: Path) -> None:
    """Booked by our clock at $0.10, billed $0.103: the ledger comes to the bill exactly."""
    studio = Studio(tmp_path)
    studio.finish(studio.begin("shot-0"), "0.02", 100)
    studio.end("0.10")
    studio.store.billed("p0", Decimal("0.103000001"), final=True)
    report = verify(studio.ledger)
    assert (report.ok, report.settled_usd) == (True, Decimal("0.103000001"))
    assert (report.pod_billed_usd, report.pod_difference_usd) == (Decimal("0.103000001"), 0)


def test_a_living_pods_overhead_can_be_foreseen(tmp_path: Path) -> None:
    """As if it ended now: what no job was charged, by seconds; nothing of it is booked."""
    studio = Studio(tmp_path)
    studio.finish(studio.begin("shot-0"), "0.02", 100)
    pod = studio.store.alive()[0]
    tariff = Tariff(time_scale=3600)
    before = tariff.cost(pod)
    expected = accounting.expected_overhead(studio.ledger, "night", [pod], tariff)
    assert before <= expected + Decimal("0.02") <= tariff.cost(pod)
    assert accounting.expected_overhead(studio.ledger, "another", [pod], tariff) == 0
    assert accounting.batch_overhead(studio.ledger, "night") == 0


def test_jobs_whose_details_were_deleted_still_count(tmp_path: Path) -> None:
    """Pruning an old batch changes nothing about what its pod's overhead was."""
    studio = Studio(tmp_path)
    studio.finish(studio.begin("shot-0"), "0.02", 100)
    pod = studio.end("0.10")
    with studio.ledger.writing() as connection:
        connection.exec_driver_sql("DELETE FROM attempts")
        for scope in (f"lane:{LANE}", f"day:{pod.day}", f"month:{pod.day[:7]}", f"tier:cloud:{pod.day[:7]}", "all"):
            connection.execute(sa.insert(t.pruned).values(scope=scope, settled_usd=Decimal("0.02")))
    account = accounting.account(studio.ledger, pod, Decimal("0.10"))
    assert (account.jobs_usd, account.overhead_usd) == (Decimal("0.02"), pod.booked_usd)


def test_a_bill_that_the_ledger_does_not_come_to_is_a_serious_finding(tmp_path: Path) -> None:
    """To the cent; whatever wrote it there."""
    studio = Studio(tmp_path)
    studio.end("0.10")
    studio.store.billed("p0", Decimal("0.10"), final=True)
    with studio.ledger.writing() as connection:
        connection.execute(sa.update(t.pods).values(billed_usd=Decimal("0.15")))
    report = verify(studio.ledger)
    assert [finding.kind for finding in report.findings] == ["bill"]
    assert (report.ok, report.pod_difference_usd) == (False, Decimal("0.05"))


def test_no_share_carries_a_batch_over_its_budget(tmp_path: Path) -> None:
    """What its budget does not hold any more is nobody's, and still in the totals."""
    studio = Studio(tmp_path, budget_usd="0.03")
    studio.finish(studio.begin("shot-0"), "0.02", 100)
    studio.end("0.10")
    assert studio.settled("batch:night") == Decimal("0.03")
    assert studio.settled("all") == Decimal("0.10")
    report = verify(studio.ledger)
    assert report.ok, report.findings


def test_a_pod_that_lives_into_a_new_day_is_booked_on_both(tmp_path: Path, ledger_url: str | Path) -> None:
    """What it cost until midnight counts in the old day's budget, the rest is reserved in the new one's."""
    studio = Studio(tmp_path, url=ledger_url)
    yesterday = studio.store.alive()[0].day
    accounting.roll_over(
        studio.ledger, "p0", Decimal("0.08"), day="2099-01-01", reserve_usd=Decimal("0.12"), caps=Caps()
    )
    assert studio.ledger.balance(f"day:{yesterday}").settled_usd == Decimal("0.08")
    assert studio.ledger.balance(f"day:{yesterday}").reserved_usd == 0
    assert studio.ledger.balance("day:2099-01-01").reserved_usd == Decimal("0.12")
    studio.store.mark_closing("p0", "idle")
    studio.store.mark_closed("p0", cost_usd=Decimal("0.20"), now=datetime(2099, 1, 1, 12, tzinfo=UTC))
    assert studio.ledger.balance("day:2099-01-01").settled_usd == Decimal("0.12")
    assert verify(studio.ledger).ok


def test_a_new_day_that_cannot_carry_the_pod_refuses_it(tmp_path: Path) -> None:
    """Nothing is changed; the pool closes the pod."""
    studio = Studio(tmp_path)
    with pytest.raises(LimitError, match="daily budget"):
        accounting.roll_over(
            studio.ledger,
            "p0",
            Decimal("0.08"),
            day="2099-01-01",
            reserve_usd=Decimal("0.12"),
            caps=Caps(day_usd=Decimal("0.10")),
        )
    assert studio.settled("all") == 0
    assert verify(studio.ledger).ok


def test_a_wrong_share_and_a_kept_reservation_are_found(tmp_path: Path) -> None:
    """`ledger verify` works them out from the rows."""
    studio = Studio(tmp_path)
    studio.end("0.10")
    with studio.ledger.writing() as connection:
        connection.exec_driver_sql("UPDATE pods SET reserved_usd = 5")
        connection.exec_driver_sql("UPDATE pod_shares SET amount_usd = amount_usd + 1")
    kinds = {finding.kind for finding in verify(studio.ledger).findings}
    assert kinds == {"balance", "pod", "orphan"}


def test_seconds_become_money_by_the_second_or_the_started_hour() -> None:
    """The GPU's price by the way the provider bills, the disk by the second."""
    price, disk = Decimal("0.72"), Decimal("0.0055")
    assert Tariff().for_seconds(1800, price, disk) == Decimal("0.36275")
    assert Tariff(billing="hour").for_seconds(1800, price, disk) == Decimal("0.72275")
    assert Tariff(billing="hour").for_seconds(3601, price) == Decimal("1.44")
    assert Tariff().for_seconds(0, price) == 0


def test_beside_a_fast_emulator_a_real_second_is_billed_as_many(tmp_path: Path) -> None:
    """The time scale of the settings is the only difference to the real service."""
    pod = Studio(tmp_path).store.alive()[0]
    moment = pod.billed_from + timedelta(seconds=10)
    assert Tariff(time_scale=60).cost(pod, moment) == Decimal("0.12")


def test_a_pod_that_never_was_costs_nothing(tmp_path: Path) -> None:
    """Without an id of RunPod's nothing can be billed."""
    studio = Studio(tmp_path)
    pod = studio.store.alive()[0].model_copy(update={"pod_id": None})
    assert Tariff().cost(pod, utc_now() + timedelta(hours=1)) == 0


AMOUNTS = st.decimals(min_value="-5", max_value="500", places=9)
WEIGHTS = st.dictionaries(
    st.tuples(st.sampled_from(["night", "day"]), st.sampled_from(["a", "b", "c", "d"])),
    st.floats(min_value=0.001, max_value=1e6),
    max_size=8,
)


@given(AMOUNTS, WEIGHTS, st.dictionaries(st.sampled_from(["night", "day"]), AMOUNTS))
def test_shares_always_add_up_and_never_cross_a_budget(
    amount: Decimal, weights: dict[tuple[str, str], float], headroom: dict[str, Decimal]
) -> None:
    """To the nano-dollar, for any amounts, seconds and budgets."""
    shares = within(share_out(amount, weights, fallback=("night", "")), headroom)
    assert sum(shares.values(), Decimal(0)) == amount
    for batch, room in headroom.items():
        if batch:
            assert sum((usd for (name, _job), usd in shares.items() if name == batch), Decimal(0)) <= max(0, room)
    assert all(usd for usd in shares.values())
    assert NOBODY == ("", "")
