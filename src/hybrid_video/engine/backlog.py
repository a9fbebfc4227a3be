"""The waiting jobs of a run in the dispatcher's queue, kept from one event to the next.

Building the queue costs some microseconds for each job, and a batch has up to ten thousand jobs and several events for
each of them. So only what has changed since the last event is taken out or put in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hybrid_video.waiting import PendingJob, Waiting


@dataclass(frozen=True)
class Choice:
    """What a job may use now: `alike` is equal for jobs with the same quotes, `backends` are registry keys."""

    alike: int
    backends: tuple[str, ...]


class Backlog:
    """A `Waiting` that follows what is wanted of it.

    Args:
        pending: makes the queue's entry of a job.
        again: whether a job has been tried before; such jobs go before the others of their rank.
    """

    def __init__(self, pending: Callable[[str, Choice], PendingJob], again: Callable[[str], bool]) -> None:
        self._pending = pending
        self._again = again
        self._queued: dict[str, Choice] = {}
        self._choices: dict[tuple[int, tuple[str, ...]], Choice] = {}
        self._waiting = Waiting()

    def choice(self, alike: int, backends: tuple[str, ...]) -> Choice:
        """The one object for this choice: comparing ten thousand of them by identity takes half a millisecond."""
        return self._choices.setdefault((alike, backends), Choice(alike, backends))

    def sync(self, wanted: Mapping[str, Choice]) -> Waiting:
        """The queue with exactly the wanted jobs, each with its present choice.

        Args:
            wanted: in the batch's order, with choices from `choice`.
        """
        queued = self._queued
        gone = [job for job in queued if job not in wanted]
        changed = [job for job, choice in wanted.items() if queued.get(job) is not choice]
        if len(gone) + len(changed) > len(wanted) // 2:
            return self._rebuild(wanted)
        for job in gone:
            self._waiting.remove(job)
            del queued[job]
        for job in changed:
            if job in queued:
                self._waiting.remove(job)
            self._waiting.add(self._pending(job, wanted[job]), first=self._again(job))
            queued[job] = wanted[job]
        return self._waiting

    def _rebuild(self, wanted: Mapping[str, Choice]) -> Waiting:
        order = sorted(wanted, key=lambda job: not self._again(job))
        self._waiting = Waiting(self._pending(job, wanted[job]) for job in order)
        self._queued = dict(wanted)
        return self._waiting
