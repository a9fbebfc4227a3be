"""The counts of a run's jobs, kept while they move."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hybrid_video.engine.jobs import LOST, Jobs
from hybrid_video.engine.progress import JobProgress
from hybrid_video.engine.selection import Shot
from hybrid_video.models import EffectivePreferences, JobState
from tests.unit.deciding_rig import job

COUNT = 6
STATES = st.sampled_from(list(JobState))


@given(st.lists(STATES, min_size=COUNT, max_size=COUNT), st.lists(st.tuples(st.integers(0, COUNT - 1), STATES)))
def test_counts_and_waiting_jobs_follow_every_move(begun: list[JobState], moves: list[tuple[int, JobState]]) -> None:
    """As if all were counted anew after each move, in the batch's order whatever has come back."""
    jobs = Jobs()
    for number, state in enumerate(begun):
        jobs.add(JobProgress(Shot(job(f"shot-{number}"), 1, EffectivePreferences()), state, 0))
    for number, state in moves:
        jobs[f"shot-{number}"].state = state
        states = [progress.state for progress in jobs.values()]
        assert jobs.done == states.count(JobState.DONE)
        assert jobs.lost == sum(state in LOST for state in states)
        assert jobs.waiting == [progress for progress in jobs.values() if progress.state is JobState.PENDING]
    assert list(jobs) == [f"shot-{number}" for number in range(COUNT)]


def test_waiting_jobs_are_not_changed_under_whoever_looks_at_them() -> None:
    """A job given up while the waiting ones are gone through leaves the next look, not this one."""
    jobs = Jobs()
    for number in range(3):
        jobs.add(JobProgress(Shot(job(f"shot-{number}"), 1, EffectivePreferences()), JobState.PENDING, 0))
    seen = []
    for progress in jobs.waiting:
        progress.state = JobState.FAILED
        seen.append(progress.shot.job.id)
    assert seen == ["shot-0", "shot-1", "shot-2"]
    assert jobs.waiting == []
