"""The jobs of a run in the batch's order, counted as they move: a batch has up to ten thousand, and thousands of moves.

Counting them anew at every event would make each job of a large batch dearer than one of a small batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, ValuesView

from hybrid_video.engine.progress import JobProgress
from hybrid_video.models import JobState

LOST = (JobState.FAILED, JobState.CANCELLED, JobState.UNCERTAIN)


class Jobs(Mapping[str, JobProgress]):
    """Every job of a run by its id."""

    def __init__(self) -> None:
        self._jobs: dict[str, JobProgress] = {}
        self._counts: Counter[JobState] = Counter()
        self._waiting: list[JobProgress] | None = None

    def __getitem__(self, job: str) -> JobProgress:
        return self._jobs[job]

    def __iter__(self) -> Iterator[str]:
        return iter(self._jobs)

    def __len__(self) -> int:
        return len(self._jobs)

    def values(self) -> ValuesView[JobProgress]:
        """Every job."""
        return self._jobs.values()

    def add(self, progress: JobProgress) -> None:
        """Takes a job in, behind those that are there."""
        self._jobs[progress.shot.job.id] = progress
        self._counts[progress.state] += 1
        self._waiting = None
        progress.moved = self._moved

    @property
    def waiting(self) -> list[JobProgress]:
        """The jobs that nobody works on, in the batch's order; not to be changed."""
        if self._waiting is None:
            self._waiting = [progress for progress in self._jobs.values() if progress.state is JobState.PENDING]
        return self._waiting

    @property
    def done(self) -> int:
        """How many are made."""
        return self._counts[JobState.DONE]

    @property
    def lost(self) -> int:
        """How many have failed, were cancelled, or have an uncertain outcome."""
        return sum(self._counts[state] for state in LOST)

    def _moved(self, before: JobState, after: JobState) -> None:
        self._counts[before] -= 1
        self._counts[after] += 1
        if JobState.PENDING in (before, after):
            self._waiting = None
