"""A serverless endpoint: the queue, the workers that come and go, and the end of every job.

Workers cost a cold start, take jobs one at a time, and stop after the idle time-out
(docs.runpod.io/serverless/endpoints/endpoint-configurations). Execution is metered in simulated seconds of work, so
that a slow machine under the emulator never makes a job dearer.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from hybrid_video.emulators.runpod.handler import Handler, Outcome, uncaught
from hybrid_video.emulators.runpod.jobs import Job, JobState
from hybrid_video.emulators.runpod.metering import ServerlessMeter
from hybrid_video.emulators.server import ScaledClock

TimeoutState = Literal["TIMED_OUT", "FAILED"]
_PROGRESS_STEPS = 10


@dataclass(eq=False)
class Worker:
    """One running container."""

    id: str = field(default_factory=lambda: secrets.token_hex(7))
    state: Literal["initializing", "idle", "running"] = "initializing"
    slot: asyncio.Future[Job] | None = None


class Endpoint:
    """Jobs and workers of one endpoint id."""

    def __init__(
        self,
        id: str,  # noqa: A002 - the vendor's word
        *,
        clock: ScaledClock,
        handler: Handler,
        meter: ServerlessMeter,
        max_workers: int,
        cold_start_s: float,
        idle_timeout_s: float,
        throttled: bool,
        progress: bool,
        timeout_state: TimeoutState,
    ) -> None:
        self.id = id
        self.max_workers = max_workers
        self.throttled = throttled
        self.completed = self.failed = self.retried = 0
        self._clock, self._handler, self._meter = clock, handler, meter
        self.on_final: Callable[[Job], None] = lambda _job: None
        self._cold_start_s, self._idle_timeout_s = cold_start_s, idle_timeout_s
        self._progress, self._timeout_state = progress, timeout_state
        self._jobs: dict[str, Job] = {}
        self._queue: deque[Job] = deque()
        self._workers: dict[Worker, asyncio.Task[None]] = {}
        self._ttl_timers: dict[str, asyncio.TimerHandle] = {}

    def submit(self, job: Job) -> None:
        """Puts an accepted job at the end of the queue and starts its time to live."""
        self._jobs[job.id] = job
        self._queue.append(job)
        self._start_ttl(job)
        self.dispatch()

    def look(self, job_id: str) -> Job | None:
        """The job, or None for an unknown or forgotten one."""
        job = self._jobs.get(job_id)
        if job is not None and job.forgotten(self._clock.now()):
            del self._jobs[job_id]
            return None
        return job

    def cancel(self, job: Job) -> None:
        """Removes a queued job, stops a running one; a finished one stays as it is (unspecified by the vendor)."""
        if job.final:
            return
        self._end(job, JobState.CANCELLED, execution_s=self._worked_s(job))
        if job.task is not None:
            job.task.cancel()

    def retry(self, job: Job) -> bool:
        """Queues a failed or timed-out job again under its id; False in any other state."""
        if job.state not in (JobState.FAILED, JobState.TIMED_OUT):
            return False
        job.retries += 1
        self.retried += 1
        self._meter.reopen(job.charge)
        job.requeue()
        self._queue.append(job)
        self._start_ttl(job)
        self.dispatch()
        return True

    def purge(self) -> int:
        """Drops every queued job and returns how many; running ones are untouched."""
        purged = list(self._queue)
        for job in purged:
            self._end(job, JobState.CANCELLED, execution_s=None)
        return len(purged)

    def health(self) -> dict[str, dict[str, int]]:
        """The body of `/health`, with the keys that only the JavaScript SDK's types name."""
        states = [worker.state for worker in self._workers]
        running = states.count("running")
        idle = states.count("idle")
        return {
            "jobs": {
                "completed": self.completed,
                "failed": self.failed,
                "inProgress": sum(job.state is JobState.IN_PROGRESS for job in self._jobs.values()),
                "inQueue": len(self._queue),
                "retried": self.retried,
            },
            "workers": {
                "idle": idle,
                "initializing": states.count("initializing"),
                "ready": idle,
                "running": running,
                "throttled": self.max_workers if self.throttled else 0,
                "unhealthy": 0,
            },
        }

    def dispatch(self) -> None:
        """Gives queued jobs to idle workers and starts workers for the rest; called whenever something changed."""
        for worker in [w for w in self._workers if w.state == "idle"]:
            if not self._queue:
                return
            if worker.slot is not None and not worker.slot.done():
                worker.state = "running"
                worker.slot.set_result(self._queue.popleft())
        wanted = sum(not job.policy.low_priority for job in self._queue) or min(len(self._queue), not self._workers)
        starting = sum(worker.state == "initializing" for worker in self._workers)
        while not self.throttled and starting < wanted and len(self._workers) < self.max_workers:
            worker = Worker()
            self._workers[worker] = asyncio.create_task(self._live(worker))
            starting += 1

    def reset(self) -> list[asyncio.Task[Any]]:
        """Stops every worker and forgets every job; returns the tasks that are ending."""
        for timer in self._ttl_timers.values():
            timer.cancel()
        self._queue.clear()
        tasks = [*self._workers.values(), *(job.task for job in self._jobs.values() if job.task is not None)]
        for task in tasks:
            task.cancel()
        for forgotten in (self._jobs, self._workers, self._ttl_timers):
            forgotten.clear()
        self.completed = self.failed = self.retried = 0
        return tasks

    async def close(self) -> None:
        """Stops every worker and waits for their end."""
        await asyncio.gather(*self.reset(), return_exceptions=True)

    async def _live(self, worker: Worker) -> None:
        session = self._meter.start(self.id, self._clock.now())
        try:
            await self._clock.sleep(self._cold_start_s)
            while (job := await self._next_job(worker)) is not None:
                if not await self._serve(worker, job):
                    break
        finally:
            session.end(self._clock.now())
            self._workers.pop(worker, None)
        self.dispatch()

    async def _next_job(self, worker: Worker) -> Job | None:
        worker.state = "idle"
        worker.slot = asyncio.get_running_loop().create_future()
        self.dispatch()
        await asyncio.wait({worker.slot}, timeout=self._idle_timeout_s / self._clock.scale)
        return worker.slot.result() if worker.slot.done() else None

    async def _serve(self, worker: Worker, job: Job) -> bool:
        """Runs one job; False when the worker was lost and the job went back to the queue."""
        worker.state = "running"
        if job.final:
            return True
        job.state, job.started_at, job.worker_id = JobState.IN_PROGRESS, self._clock.now(), worker.id
        job.task = task = asyncio.create_task(self._execute(job))
        try:
            await asyncio.wait({task})
        finally:
            job.task = None
        if task.cancelled():
            return True
        if (raised := task.exception()) is not None:
            error = uncaught(raised, worker.id)
            self._end(job, JobState.FAILED, execution_s=self._worked_s(job), error=error)
            return True
        if task.result():
            return True
        job.requeue()
        self._queue.appendleft(job)
        return False

    async def _execute(self, job: Job) -> bool:
        """Runs the handler and ends the job; False when the worker was lost on the way."""
        execution = self._handler.begin(job)
        if execution.lost_worker_after_s is not None:
            await self._clock.sleep(execution.lost_worker_after_s)
            return False
        limit_s = job.policy.execution_timeout_s
        making = asyncio.ensure_future(execution.finish())
        try:
            await self._pass_time(job, min(execution.seconds, limit_s), execution.seconds)
            outcome = Outcome(undeliverable=True) if execution.seconds > limit_s else await making
            if outcome.undeliverable:
                await self._clock.sleep(max(0.0, limit_s - execution.seconds))
                error = f"job exceeded its execution timeout of {limit_s * 1000:g} ms"
                self._end(job, JobState(self._timeout_state), execution_s=limit_s, error=error)
                return True
        finally:
            making.cancel()
        job.lost = execution.lost_result
        state = JobState.FAILED if outcome.error else JobState.COMPLETED
        self._end(job, state, execution_s=execution.seconds, output=outcome.output, error=outcome.error)
        return True

    async def _pass_time(self, job: Job, seconds: float, total_s: float) -> None:
        """Lets the work's time pass; a worker may send progress, which shows as `output` while IN_PROGRESS."""
        for step in range(_PROGRESS_STEPS):
            if self._progress and math.isfinite(total_s):
                job.progress = {"progress": round(100 * step * seconds / _PROGRESS_STEPS / max(total_s, 1e-9))}
            await self._clock.sleep(seconds / _PROGRESS_STEPS)

    def _worked_s(self, job: Job) -> float | None:
        if job.state is not JobState.IN_PROGRESS or job.started_at is None:
            return None
        return self._clock.now() - job.started_at

    def _start_ttl(self, job: Job) -> None:
        left_s = job.submitted_at + job.policy.ttl_s - self._clock.now()
        timer = asyncio.get_running_loop().call_later(left_s / self._clock.scale, self._end_of_life, job)
        self._ttl_timers[job.id] = timer

    def _end_of_life(self, job: Job) -> None:
        """The ttl is over: the job vanishes, even while it runs (docs: execution policies)."""
        if job.final:
            return
        self._end(job, JobState.TIMED_OUT, execution_s=self._worked_s(job), error="job expired")
        job.lost = True
        if job.task is not None:
            job.task.cancel()

    def _end(
        self, job: Job, state: JobState, *, execution_s: float | None, output: Any = None, error: str = ""
    ) -> None:
        if job in self._queue:
            self._queue.remove(job)
        job.finish(state, self._clock.now(), execution_s=execution_s, output=output, error=error)
        if timer := self._ttl_timers.pop(job.id, None):
            timer.cancel()
        self.completed += state is JobState.COMPLETED
        self.failed += state in (JobState.FAILED, JobState.TIMED_OUT)
        self._meter.settle(job.charge, execution_s=execution_s or 0.0, state=state)
        loop = asyncio.get_running_loop()
        loop.call_later(job.kept_s / self._clock.scale + 1.0, self._forget, job)
        self.on_final(job)

    def _forget(self, job: Job) -> None:
        """Lets go of a job nobody asked for again: inputs may hold megabytes of images."""
        if job.forgotten(self._clock.now()) and self._jobs.get(job.id) is job:
            del self._jobs[job.id]
