"""The waiting jobs of a run, kept in the queue from one event to the next."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hybrid_video.engine.backlog import Backlog, Choice
from hybrid_video.waiting import PendingJob, Waiting
from tests.unit.deciding_rig import SEED_QUOTES

CHOICES = [
    Choice(0, ("local", "cloud", "gemini")),
    Choice(0, ("cloud", "gemini")),
    Choice(1, ("local",)),
]


def entry(job: str, choice: Choice) -> PendingJob:
    """A job with these backends."""
    return PendingJob(job, {key: SEED_QUOTES[key] for key in choice.backends})


def contents(queue: Waiting) -> dict[str, frozenset[str]]:
    """Which jobs are in the queue, with which backends."""
    return {item[2].id: frozenset(item[2].options) for kind in queue.kinds.values() for item in kind.entries}


@given(
    st.lists(st.dictionaries(st.sampled_from([f"shot-{n}" for n in range(12)]), st.sampled_from(CHOICES)), max_size=8)
)
def test_the_queue_always_holds_exactly_what_is_wanted(events: list[dict[str, Choice]]) -> None:
    """Whatever comes, goes and changes from one event to the next."""
    backlog = Backlog(entry, lambda job: False)
    for wanted in events:
        queue = backlog.sync(wanted)
        assert contents(queue) == {job: frozenset(choice.backends) for job, choice in wanted.items()}
        assert len(queue) == len(wanted)
        for key, total in queue.totals.items():
            assert total.jobs == sum(key in choice.backends for choice in wanted.values())


def test_nothing_is_made_anew_for_what_stays() -> None:
    """One job of a thousand goes, and one entry at most is built."""
    built: list[str] = []

    def counted(job: str, choice: Choice) -> PendingJob:
        built.append(job)
        return entry(job, choice)

    backlog = Backlog(counted, lambda job: False)
    wanted = {f"shot-{n}": CHOICES[0] for n in range(1000)}
    backlog.sync(wanted)
    built.clear()
    del wanted["shot-0"]
    wanted["late"] = CHOICES[1]
    queue = backlog.sync(wanted)
    assert built == ["late"]
    assert len(queue) == 1000


def test_jobs_that_were_tried_before_go_first() -> None:
    """A failed job does not wait behind the whole batch, whether it is put in alone or with all others."""
    tried: set[str] = set()
    backlog = Backlog(entry, lambda job: job in tried)
    wanted = {f"shot-{n}": CHOICES[0] for n in range(5)}
    queue = backlog.sync(wanted)
    tried.add("shot-3")
    without = {job: choice for job, choice in wanted.items() if job != "shot-3"}
    backlog.sync(without)
    queue = backlog.sync({**without, "shot-3": CHOICES[0]})
    [kind] = [kind for kind in queue.kinds.values() if kind.entries]
    assert next(item[2].id for item in kind.entries) == "shot-3"
    again = Backlog(entry, lambda job: job in tried).sync(wanted)
    [kind] = again.kinds.values()
    assert [item[2].id for item in kind.entries] == ["shot-3", "shot-0", "shot-1", "shot-2", "shot-4"]


def test_changed_quotes_are_taken_over() -> None:
    """The same backends at other prices are another choice."""
    backlog = Backlog(entry, lambda job: False)
    wanted = {f"shot-{n}": CHOICES[0] for n in range(4)}
    before = backlog.sync(wanted).totals["local"].jobs
    renewed = {**wanted, "shot-0": Choice(7, ("local",))}
    queue = backlog.sync(renewed)
    assert (before, queue.totals["local"].jobs, queue.totals["gemini"].jobs) == (4, 4, 3)
