"""Records of pods: written before anything is sent, counted and paid for in one transaction, moved only as allowed."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from hybrid_video.backends.runpod.pod_records import Pod
from hybrid_video.errors import LedgerError, LimitError
from hybrid_video.ledger import Caps, Ledger
from hybrid_video.ledger.verify import verify
from hybrid_video.models import utc_now
from hybrid_video.pods.naming import is_well_formed, new_name, whose
from hybrid_video.pods.orphans import orphan_of
from hybrid_video.pods.records import ALIVE, MOVES, STATES, PodIntent
from hybrid_video.pods.store import PodStore
from tests.unit.ledger_rig import make_batch

NO_CAPS = Caps()


def intent(name: str = "hybrid-video-00000000-aaaaaaaaaa", *, usd: str = "0.15", batch: str = "") -> PodIntent:
    return PodIntent(
        name=name,
        gpu="NVIDIA GeForce RTX 4090",
        cloud="SECURE",
        price_usd_per_h=Decimal("0.69"),
        reserve_usd=Decimal(usd),
        reason="60 jobs wait",
        batch=batch,
    )


@pytest.fixture
def ledger(ledger_url: str | Path) -> Iterator[Ledger]:
    opened = Ledger.open(ledger_url)
    yield opened
    opened.close()


@pytest.fixture
def store(ledger: Ledger) -> PodStore:
    return PodStore(ledger)


def test_an_intent_is_written_and_its_money_reserved_before_anything_is_sent(ledger: Ledger, store: PodStore) -> None:
    """Day, month, tier and total hold the reservation from the first commit on."""
    pod = store.intend(intent(), caps=NO_CAPS, max_pods=5)
    assert (pod.state, pod.pod_id, pod.reserved_usd) == ("intended", None, Decimal("0.15"))
    for scope in (f"day:{pod.day}", f"month:{pod.day[:7]}", f"tier:cloud:{pod.day[:7]}", "all"):
        assert ledger.balance(scope).reserved_usd == Decimal("0.15"), scope
    assert [event.event for event in store.events(pod.name)] == ["intended"]
    assert verify(ledger).ok


def test_starting_pods_count_toward_the_maximum(store: PodStore) -> None:
    """The seed counted pods only when they were ready, and opened 12 for a maximum of 5."""
    for number in range(2):
        store.intend(intent(f"p{number}"), caps=NO_CAPS, max_pods=2)
    with pytest.raises(LimitError, match=r"at most 2 pods .*HYBRID_VIDEO_PODS_MAX_PODS"):
        store.intend(intent("p2"), caps=NO_CAPS, max_pods=2)
    store.mark_failed("p0", "no capacity")
    assert store.intend(intent("p2"), caps=NO_CAPS, max_pods=2).state == "intended"


def test_twelve_simultaneous_requests_open_five_pods(ledger_url: str | Path) -> None:
    """Twelve threads with ledgers of their own: the maximum is checked in the transaction that writes the record."""
    Ledger.open(ledger_url).close()
    opened: list[str] = []
    refused: list[str] = []
    gate = threading.Barrier(12)

    def request(number: int) -> None:
        ledger = Ledger.open(ledger_url)
        gate.wait()
        try:
            opened.append(PodStore(ledger).intend(intent(f"p{number}"), caps=NO_CAPS, max_pods=5).name)
        except LimitError as error:
            refused.append(str(error))
        finally:
            ledger.close()

    threads = [threading.Thread(target=request, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(opened), len(refused)) == (5, 7)


def _request(path: str | Path, number: int, results: multiprocessing.Queue[bool]) -> None:
    ledger = Ledger.open(path)
    try:
        PodStore(ledger).intend(intent(f"p{number}"), caps=NO_CAPS, max_pods=2)
        results.put(True)
    except LimitError:
        results.put(False)
    finally:
        ledger.close()


def test_two_processes_together_do_not_exceed_the_maximum(ledger_url: str | Path) -> None:
    """Real processes on one database: of four requests two open a pod."""
    Ledger.open(ledger_url).close()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # imported once, not by each of them
    results: multiprocessing.Queue[bool] = context.Queue()
    processes = [context.Process(target=_request, args=(ledger_url, number, results)) for number in range(4)]
    for process in processes:
        process.start()
    outcomes = sorted(results.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
    assert outcomes == [False, False, True, True]


@pytest.mark.parametrize(
    ("caps", "words"),
    [
        (Caps(day_usd=Decimal("0.20")), "daily budget"),
        (Caps(month_usd=Decimal("0.20")), "monthly budget"),
        (Caps(tier_usd=Decimal("0.20")), "monthly budget for cloud"),
    ],
)
def test_a_budget_refuses_a_pod_that_it_cannot_carry(ledger: Ledger, store: PodStore, caps: Caps, words: str) -> None:
    """Nothing is written, nothing is reserved."""
    store.intend(intent("p0"), caps=caps, max_pods=5)
    with pytest.raises(LimitError, match=words):
        store.intend(intent("p1"), caps=caps, max_pods=5)
    assert [pod.name for pod in store.alive()] == ["p0"]
    assert ledger.balance("all").reserved_usd == Decimal("0.15")


def test_a_pod_for_a_batch_counts_in_the_batchs_budget(ledger: Ledger, store: PodStore, tmp_path: Path) -> None:
    """What a batch may cost includes what its pod holds."""
    ledger.register(make_batch(budget_usd="0.20"), out_dir=tmp_path)
    store.intend(intent("p0", batch="night"), caps=NO_CAPS, max_pods=5)
    assert ledger.balance("batch:night").reserved_usd == Decimal("0.15")
    with pytest.raises(LimitError, match="the batch budget"):
        store.intend(intent("p1", batch="night"), caps=NO_CAPS, max_pods=5)
    assert verify(ledger).ok


def test_the_life_of_a_pod_is_checked_and_every_step_leaves_an_event(store: PodStore) -> None:
    """A step that the table of states does not allow is refused and changes nothing."""
    store.intend(intent("p0"), caps=NO_CAPS, max_pods=5)
    with pytest.raises(LedgerError, match="cannot go from 'intended' to 'ready'"):
        store.mark_ready("p0")
    store.mark_creating("p0")
    created = store.mark_created("p0", "abc", price_usd_per_h=Decimal("0.71"), data_center="EU-RO-1")
    assert (created.state, created.pod_id, created.price_usd_per_h, created.lane) == (
        "starting",
        "abc",
        Decimal("0.71"),
        "runpod-pod/abc",
    )
    store.mark_ready("p0")
    assert [pod.name for pod in store.ready()] == ["p0"]
    store.mark_draining("p0", "idle")
    store.mark_closing("p0", "later reason")
    closed = store.mark_closed("p0", cost_usd=Decimal("0.1"))
    assert (closed.state, closed.closed_because, closed.alive) == ("closed", "idle", False)
    events = [event.event for event in store.events("p0")]
    assert events == ["intended", "creating", "starting", "ready", "draining", "closing", "closed"]


def test_repeating_a_step_changes_nothing(store: PodStore) -> None:
    """Two processes that look after one pod may both store what they saw."""
    store.intend(intent("p0"), caps=NO_CAPS, max_pods=5)
    store.mark_creating("p0")
    first = store.mark_created("p0", "abc")
    assert store.mark_created("p0", "abc") == first
    store.mark_closing("p0", "idle")
    store.mark_closed("p0", cost_usd=Decimal(0))
    assert store.mark_closing("p0", "again").state == "closed"
    assert len(store.events("p0")) == 5


def test_a_pod_whose_end_was_asked_for_while_it_was_created_is_not_taken_into_use(store: PodStore) -> None:
    """The receipt is stored, and the pod is still to be ended."""
    store.intend(intent("p0"), caps=NO_CAPS, max_pods=5)
    store.mark_creating("p0")
    store.mark_closing("p0", "everything was stopped")
    pod = store.mark_created("p0", "abc")
    assert (pod.state, pod.pod_id) == ("closing", "abc")


def test_a_pod_given_up_as_never_created_that_appears_after_all_is_closing(store: PodStore) -> None:
    """Its reservation was given back; it counts again until it is gone."""
    store.intend(intent("p0"), caps=NO_CAPS, max_pods=5)
    store.mark_creating("p0")
    store.mark_failed("p0", "never appeared")
    assert store.alive() == ()
    assert store.found_again("p0", "abc").state == "closing"
    assert [pod.pod_id for pod in store.alive()] == ["abc"]


def test_a_list_that_is_older_than_a_pods_end_makes_it_no_orphan(store: PodStore) -> None:
    """A pod ended after the list was asked for stands in that list; one ended before it still exists, and is ended."""
    listed_at = utc_now()
    store.intend(intent(), caps=NO_CAPS, max_pods=5)
    name = intent().name
    store.mark_creating(name)
    store.mark_created(name, "abc")
    store.mark_closing(name, "idle")
    store.mark_closed(name, cost_usd=Decimal(0))
    pod = Pod(id="abc", name=name, status="RUNNING")
    assert orphan_of(pod, "00000000", store, listed_at) is None
    orphan = orphan_of(pod, "00000000", store, utc_now())
    assert orphan is not None
    assert (orphan.state, orphan.pod_id) == ("closing", "abc")


def test_a_pod_that_is_being_created_is_no_orphan(store: PodStore) -> None:
    """Its record is written before the call; only pods of this installation are orphans at all."""
    store.intend(intent(), caps=NO_CAPS, max_pods=5)
    store.mark_creating(intent().name)
    mine = Pod(id="abc", name=intent().name, status="PROVISIONING")
    assert orphan_of(mine, "00000000", store, utc_now()) is None
    for name in ("hybrid-video-ffffffff-aaaaaaaaaa", "hybrid-video-1", "somebody-else", ""):
        pod = Pod(id="xyz", name=name, status="RUNNING")
        assert orphan_of(pod, "00000000", store, utc_now()) is None


def test_a_failed_create_gives_its_reservation_back_once(ledger: Ledger, store: PodStore) -> None:
    """Also when two processes find out at the same time."""
    store.intend(intent("p0"), caps=NO_CAPS, max_pods=5)
    store.mark_failed("p0", "refused")
    store.mark_failed("p0", "refused")
    assert ledger.balance("all").reserved_usd == 0
    assert verify(ledger).ok


def test_a_reservation_grows_and_never_shrinks(ledger: Ledger, store: PodStore) -> None:
    """Every renewal reserves what the next lease may cost; a budget that does not hold it leaves it as it was."""
    store.intend(intent("p0"), caps=NO_CAPS, max_pods=5)
    store.extend("p0", Decimal("0.20"), NO_CAPS)
    store.extend("p0", Decimal("0.10"), NO_CAPS)
    assert ledger.balance("all").reserved_usd == Decimal("0.20")
    with pytest.raises(LimitError, match="keeping pod 'p0' open"):
        store.extend("p0", Decimal("0.30"), Caps(day_usd=Decimal("0.25")))
    assert ledger.balance("all").reserved_usd == Decimal("0.20")


def test_a_place_without_capacity_is_remembered_until_its_time_is_over(store: PodStore) -> None:
    """By GPU, cloud and data centre; a later refusal counts."""
    now = utc_now()
    store.refuse_place("4090", "SECURE", "EU-RO-1", until=now + timedelta(seconds=60), message="no capacity")
    store.refuse_place("4090", "SECURE", "EU-RO-1", until=now + timedelta(seconds=90), message="still none")
    assert {key: place.message for key, place in store.refused_places(now).items()} == {
        ("4090", "SECURE", "EU-RO-1"): "still none"
    }
    assert store.refused_places(now + timedelta(seconds=91)) == {}


def test_every_state_has_its_moves_and_only_ends_are_not_alive() -> None:
    """A state that is added is not forgotten in the table."""
    assert set(MOVES) == set(STATES)
    assert set(STATES) - ALIVE == {"closed", "failed"}


def test_names_say_whose_a_pod_is(tmp_path: Path) -> None:
    """Ours by installation; everything else that begins like ours is another's; the rest is foreign."""
    name = new_name(tmp_path)
    installation = name.split("-")[2]
    assert is_well_formed(name)
    assert new_name(tmp_path) != name
    assert whose(name, installation) == "ours"
    assert whose(name, "ffffffff") == "other installation"
    assert whose("hybrid-video-1", installation) == "other installation"
    assert whose("my-training-pod", installation) == "foreign"
    assert whose(f"{name}x", installation) == "other installation"
    assert whose("", installation) == "foreign"
