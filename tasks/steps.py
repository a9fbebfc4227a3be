"""The engine's three steps as Prefect tasks.

The tasks have no retries of their own. The engine retries, because the next attempt must be free to take another
backend and to count money and attempts once: a task that retried by itself would send the same job to the same backend
again, and three layers of retries once made twelve submissions of one video. A failed attempt therefore stays visible
as a failed task run, and the next attempt is a new one.
"""

from __future__ import annotations

import logging
from typing import Any, TypeVar, cast

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Failed
from prefect.tasks import Task
from prefect.utilities.annotations import quote

from hybrid_video.engine.attempts import AttemptDriver, Outcome, Ticket
from hybrid_video.engine.selection import SelectionRequest, decide
from hybrid_video.errors import BackendError
from hybrid_video.models import CostEntry, Decision, JobState, Tier


class _NoEmptyTraceback(logging.Filter):
    """Prefect logs a returned failed state with the current exception, which is none: it prints `NoneType: None`."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and record.exc_info[0] is None:
            record.exc_info = None
        return True


logging.getLogger("prefect.task_runs").addFilter(_NoEmptyTraceback())

Value = TypeVar("Value")

# Results stay in memory: they are live objects of this process, and the ledger is what survives it.
LEAN: dict[str, Any] = {"cache_policy": NO_CACHE, "persist_result": False, "retries": 0}


@task(name="select_backend", task_run_name="{label}: select", **LEAN)
async def select_backend(request: SelectionRequest, label: str) -> Decision:
    """Chooses the backend of one attempt; the decision holds every candidate and why it lost."""
    return decide(request)


@task(name="generate_local", task_run_name="{label}: local, attempt {attempt}", **LEAN)
async def generate_local(driver: AttemptDriver, ticket: Ticket, label: str, attempt: int) -> Outcome | State[Any]:
    """Makes one clip on the user's own GPU."""
    return await _outcome(driver, ticket)


@task(name="generate_cloud", task_run_name="{label}: cloud, attempt {attempt}", **LEAN)
async def generate_cloud(driver: AttemptDriver, ticket: Ticket, label: str, attempt: int) -> Outcome | State[Any]:
    """Makes one clip on a rented GPU."""
    return await _outcome(driver, ticket)


@task(name="generate_gemini", task_run_name="{label}: gemini, attempt {attempt}", **LEAN)
async def generate_gemini(driver: AttemptDriver, ticket: Ticket, label: str, attempt: int) -> Outcome | State[Any]:
    """Makes one clip with Google's paid models."""
    return await _outcome(driver, ticket)


@task(name="record", task_run_name="{label}: record", **LEAN)
async def record(driver: AttemptDriver, outcome: Outcome, job_state: JobState, label: str) -> CostEntry | None:
    """Books the cost and the new states in the ledger."""
    return await driver.record(outcome, job_state=job_state)


async def _outcome(driver: AttemptDriver, ticket: Ticket) -> Outcome | State[Any]:
    """The outcome, or a failed state with the reason. Raising would print a traceback, which tells a user nothing."""
    try:
        return await driver.generate(ticket)
    except BackendError as error:
        return Failed(message=f"{error.kind.value}: {error}", data=error)


GENERATE: dict[Tier, Task[Any, Any]] = {
    Tier.LOCAL: generate_local,
    Tier.CLOUD: generate_cloud,
    Tier.GEMINI: generate_gemini,
}


def as_it_is(value: Value) -> Value:
    """A task's argument that Prefect hands on without looking into it.

    It would walk through every field twice in search of other tasks' results: 0.4 ms for the offers of one job, more
    than the decision between them takes.
    """
    return cast("Value", quote(value))


class PrefectSteps:
    """`hybrid_video.engine.Steps` performed as task runs."""

    async def select(self, request: SelectionRequest) -> Decision:
        """Chooses the backend."""
        decision: Decision = await select_backend(as_it_is(request), request.shot.job.id)
        return decision

    async def generate(self, driver: AttemptDriver, ticket: Ticket) -> Outcome:
        """Gets the clip; raises BackendError."""
        order = ticket.order
        call = GENERATE[order.quote.tier]
        state: State[Any] = await call(
            as_it_is(driver), as_it_is(ticket), order.job.id, order.number, return_state=True
        )
        result = await state.aresult(raise_on_failure=False)
        if isinstance(result, BaseException):
            raise result
        outcome: Outcome = result
        return outcome

    async def record(self, driver: AttemptDriver, outcome: Outcome, job_state: JobState) -> CostEntry | None:
        """Books the outcome."""
        label = outcome.ticket.order.job.id
        cost: CostEntry | None = await record(as_it_is(driver), as_it_is(outcome), job_state, label)
        return cost
