"""The three steps of an attempt as a seam: plain calls here, Prefect tasks in `tasks/`."""

from __future__ import annotations

from typing import Protocol

from hybrid_video.engine.attempts import AttemptDriver, Outcome, Ticket
from hybrid_video.engine.selection import SelectionRequest, decide
from hybrid_video.models import CostEntry, Decision, JobState


class Steps(Protocol):
    """How a run performs its steps."""

    async def select(self, request: SelectionRequest) -> Decision:
        """Chooses the backend."""
        ...

    async def generate(self, driver: AttemptDriver, ticket: Ticket) -> Outcome:
        """Gets the clip; raises BackendError."""
        ...

    async def record(self, driver: AttemptDriver, outcome: Outcome, job_state: JobState) -> CostEntry | None:
        """Books the outcome."""
        ...


class DirectSteps:
    """The steps as plain calls."""

    async def select(self, request: SelectionRequest) -> Decision:
        """Chooses the backend."""
        return decide(request)

    async def generate(self, driver: AttemptDriver, ticket: Ticket) -> Outcome:
        """Gets the clip; raises BackendError."""
        return await driver.generate(ticket)

    async def record(self, driver: AttemptDriver, outcome: Outcome, job_state: JobState) -> CostEntry | None:
        """Books the outcome."""
        return await driver.record(outcome, job_state=job_state)
