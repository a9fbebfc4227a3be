"""One run of a batch: assigns jobs to lanes as they free, drives the attempts, and decides what follows a failure.

The only place that retries: a failed attempt goes back to the head of the list with a back-off, and the next one is
chosen without the backend that failed wherever another can serve.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
import uuid
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable
from dataclasses import replace
from decimal import Decimal
from typing import Any, TypeVar

from hybrid_video import dispatcher
from hybrid_video.demand import BatchDemand
from hybrid_video.dispatcher import Assignment, Goal, LaneState, PendingJob, Waiting
from hybrid_video.engine.attempts import AttemptDriver, Outcome, Ticket
from hybrid_video.engine.backlog import Backlog, Choice
from hybrid_video.engine.demand import POD_KEY, DemandPublisher, demand_of
from hybrid_video.engine.eligibility import Eligibility, fitted
from hybrid_video.engine.events import EventKind, Observer
from hybrid_video.engine.forecast import forecast, uncertain, unproven
from hybrid_video.engine.jobs import Jobs
from hybrid_video.engine.pod_outlook import counting_on, pod_outlook, told
from hybrid_video.engine.prepare import Prepared
from hybrid_video.engine.progress import JobProgress, UnderWay, next_state, wishes
from hybrid_video.engine.report import BatchReport, build_report, money
from hybrid_video.engine.requoting import Requoter
from hybrid_video.engine.resume import after_acceptance, find_again
from hybrid_video.engine.returns import Returns, also, merged
from hybrid_video.engine.roster import Roster
from hybrid_video.engine.selection import SelectionRequest, options
from hybrid_video.engine.sharing import SharedLanes, room_of
from hybrid_video.engine.steps import DirectSteps, Steps
from hybrid_video.engine.telling import Teller
from hybrid_video.errors import (
    BackendError,
    FailureKind,
    HybridVideoError,
    LimitError,
    SubmitUncertain,
)
from hybrid_video.failures import policy
from hybrid_video.history import History
from hybrid_video.ledger import CANCELLED_MESSAGE, Caps, JobCancelledError, JobTakenError, LaneBusyError, Ledger, Owner
from hybrid_video.ledger.lanes import POD_PREFIX
from hybrid_video.models import Attempt, Decision, JobState, JobStatus, Quote, Refusal, Tier, WorkOrder, utc_now
from hybrid_video.observing import about, traced
from hybrid_video.preferences import applied
from hybrid_video.pricing.timings import ServiceTimes
from hybrid_video.settings import Settings
from hybrid_video.watcher.demand_store import DemandStore

TICK_S = 0.5
RENEW_S = 10.0
REPLAN_S = 0.25
LIMIT_PAUSE_S = 2.0
BRINGING_IN = 2
"""Clips of a lane that may be downloaded and checked while it works already on others."""
REATTACH_ATTEMPTS = 2
CANCEL_LOOK_S = 1.0
FOLLOW_S = 0.1
LOST_LOOK_S = 1.0

Result = TypeVar("Result")


class BatchRun:
    """Runs a prepared batch to its end. One instance, one run."""

    def __init__(
        self,
        prepared: Prepared,
        *,
        settings: Settings,
        ledger: Ledger,
        history: History,
        owner: Owner,
        steps: Steps | None = None,
        observer: Observer | None = None,
        simulated: bool = False,
        timings: ServiceTimes | None = None,
        wind_up: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._batch = prepared.batch
        self._fleet = prepared.fleet
        self._out_dir = prepared.out_dir
        self._notices = list(prepared.notices)
        self._settings = settings
        self._ledger = ledger
        self._history = history
        self._owner = owner
        self._steps = steps or DirectSteps()
        self._simulated = simulated
        self._driver = AttemptDriver(
            self._fleet, ledger, out_dir=self._out_dir, simulated=simulated, on_progress=self._on_progress
        )
        self._shots = {shot.job.id: shot for shot in prepared.shots}
        self._jobs = Jobs()
        self._busy: dict[str, UnderWay] = {}
        self._loaded: dict[str, str] = {}
        self._tasks: dict[asyncio.Task[None], str] = {}
        self._began_s = time.monotonic()
        self._teller = Teller(self._batch.name, self._jobs, ledger, observer)
        self._eligibility = Eligibility(
            self._fleet,
            self._batch,
            began_s=self._began_s,
            value_of_time_usd_per_h=settings.routing.value_of_time_usd_per_h,
        )
        self._horizon_at_s = float("inf")
        self._replanned_s = float("-inf")
        self._cancelled = False
        self._asked_at_s = float("-inf")
        self._followed_s = float("-inf")
        self._stopping: set[str] = set()
        self._wake = self._fleet.changed
        """One event for everything the loop waits for: a clip, a lane, a backend, another run."""
        self._resuming = asyncio.Lock()
        ledger.act_as(owner)
        self._kinds: dict[object, int] = {}
        self._backlog = Backlog(self._pending, lambda job: self._jobs[job].made > 0)
        self._requoter = Requoter(timings or ServiceTimes(), self._fleet.backends)
        self._unproven: dict[str, int] = {}
        demands = DemandStore(ledger, owner)
        self._shared = SharedLanes(
            ledger, demands, batch=self._batch.name, mine=lambda: list(self._busy), changed=self._wake
        )
        self._roster = Roster(self._fleet, ledger, settings, self._busy_lanes, self._notice)
        self._publisher = DemandPublisher(demands, self._demand, time_scale=settings.routing.time_scale)
        self._returns = Returns(self._fleet)
        self._counted_on: frozenset[str] = frozenset()
        self._lost: dict[str, float] = {}
        """Jobs whose outcome was lost on a pod, and until when (monotonic) it may still be learned."""
        self._wind_up = wind_up
        self._ended_s: float | None = None
        self._planned: tuple[int, float, frozenset[str]] | None = None
        """Number of the stored plan, when it was made (monotonic seconds), and the jobs it is about."""

    @traced("batch", lambda self: {"batch": self._batch.name})
    async def run(self) -> BatchReport:
        """Makes every job and returns the report. A cancellation stops the remote work first, then reports."""
        changed = self._ledger.register(self._batch, out_dir=self._out_dir, simulated=self._simulated)
        if changed:
            self._notice(f"{len(changed)} changed jobs are made again: {', '.join(changed[:5])}")
        self._load()
        keepers = [asyncio.create_task(self._fleet.keep_fresh()), asyncio.create_task(self._keep_lease())]
        keepers += [asyncio.create_task(part.keep_fresh()) for part in (self._shared, self._roster, self._publisher)]
        keepers.append(asyncio.create_task(self._settle_lost()))
        try:
            await self._resume()
            await self._plan()
            await self._loop()
        except asyncio.CancelledError:
            await self._stop_everything()
            raise
        except Exception:
            self._driver.detach()
            raise
        finally:
            for keeper in keepers:
                keeper.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)
            await self._publisher.end()
            await self._stop_everything()
            self._ledger.release(self._owner)
            self._ledger.finish_batch(self._batch.name)
            with contextlib.suppress(HybridVideoError):
                self._record_outcome()
            await self._update_history()
        self._ended_s = time.monotonic()
        if self._wind_up is not None:
            await self._wind_up()  # what the rented pods cost beyond the jobs belongs into the report
        return self.report()

    def cancel(self) -> None:
        """Asks the run to stop: remote work is told to end and `run` returns its report."""
        self._cancelled = True
        self._wake.set()

    def report(self) -> BatchReport:
        """The outcome as it stands."""
        return build_report(
            self._ledger,
            self._batch.name,
            duration_s=(self._ended_s or time.monotonic()) - self._began_s,
            simulated=self._simulated,
            notices=tuple(self._notices),
            jobs=tuple(self._shots),
            planned=self._planned is not None,
        )

    # -- the loop --------------------------------------------------------------------------------------------------

    async def _loop(self) -> None:
        while not self._cancelled:
            self._honour_requests()
            self._watch_others()
            waiting = self._jobs.waiting
            self._requote(waiting)
            busy = self._tasks or any(progress.elsewhere for progress in self._jobs.values())
            if not waiting and not busy and not self._lost_on_pods():
                return
            self._assign(waiting)
            await self._sleep_until_something_happens()
        await self._stop_everything()

    async def _sleep_until_something_happens(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TICK_S):
                await self._wake.wait()
        self._wake.clear()
        for task in [task for task in self._tasks if task.done()]:
            job = self._tasks.pop(task)
            if task.cancelled():
                self._spawn(self._after_stop(self._jobs[job]), job)
            else:
                task.result()  # a defect in our own code ends the run; failures of attempts never come out here

    def _assign(self, waiting: list[JobProgress]) -> None:
        now = time.monotonic()
        lanes = self._lane_states(now)
        away = self._returns.away(lanes, waiting, now, self._left_s(now))
        if away.keys() != self._counted_on:
            self._counted_on = frozenset(away)
            self._replanned_s = float("-inf")  # the old horizon knows nothing of it: until then all would be bought
        queue = self._backlog.sync(self._able(waiting, now, away))
        if not len(queue):
            return
        lanes = merged(lanes, away)
        horizon_s = self._horizon(queue, lanes, now)
        soft, spread = self._batch.deadline_s is None, self._requoter.spread
        made = dispatcher.assign(
            queue,
            lanes,
            horizon_s,
            soft=soft,
            probes=self._unproven,
            spread=spread,
            troubled=self._returns.troubled,
        )
        for item in made:
            self._start(item, lanes)

    def _able(self, waiting: list[JobProgress], now: float, away: Collection[str]) -> dict[str, Choice]:
        """The jobs that something can take now, in the batch's order, with what can, now or once it is back.

        Jobs with the same offers to which nothing has happened yet share one answer.
        """
        headroom = self._headroom()
        shared: dict[int, Choice] = {}
        able: dict[str, Choice] = {}
        for progress in waiting:
            if progress.not_before_s > now:
                continue
            if progress.known is not progress.shot:
                progress.known = progress.shot
                progress.alike = self._kinds.setdefault(wishes(progress.shot), len(self._kinds))
            untouched = progress.untouched
            choice = shared.get(progress.alike) if untouched else None
            if choice is None:
                blocked = self._eligibility.unavailable(progress, headroom)
                found = options(progress.shot, blocked) or self._eligibility.last_resort(
                    progress, blocked, self._working()
                )
                if not found:
                    self._note_stuck(progress, blocked, now)
                    continue
                progress.stuck_since_s = None
                if self._eligibility.worth_waiting(progress, found, blocked, now, away):
                    continue
                choice = self._backlog.choice(progress.alike, (*found, *also(progress, found, blocked, away)))
                if untouched:
                    shared[progress.alike] = choice
            able[progress.shot.job.id] = choice
        return able

    def _pending(self, job: str, choice: Choice) -> PendingJob:
        progress = self._jobs[job]
        shot = progress.shot
        offers = shot.open_offers
        rank = dispatcher.precedence(shot.job.priority, -progress.waited_s)
        quotes = {key: offers[key] for key in choice.backends}
        return PendingJob(job, quotes, shot.preferences.prioritize_speed, rank, dispatcher.size_of(offers))

    def _horizon(self, pending: Waiting, lanes: list[LaneState], now: float) -> float:
        """Seconds from now that the batch should still take; planned anew every few seconds."""
        if now - self._replanned_s >= REPLAN_S or now >= self._horizon_at_s:
            self._replanned_s = now
            deadline = self._left_s(now)
            budget = None if self._batch.budget_usd is None else self._headroom()
            goal = Goal(
                deadline if deadline is None else max(deadline, 0.0),
                budget,
                self._settings.routing.value_of_time_usd_per_h,
                whole_s=self._batch.deadline_s,
            )
            self._horizon_at_s = now + dispatcher.horizon(goal, pending, lanes)
        return self._horizon_at_s - now

    def _left_s(self, now: float) -> float | None:
        """Seconds until the deadline."""
        return None if self._batch.deadline_s is None else self._batch.deadline_s - (now - self._began_s)

    def _headroom(self) -> Decimal:
        """Dollars the batch may still spend, reservations counted as spent."""
        if self._batch.budget_usd is None:
            return Decimal("Infinity")
        balance = self._ledger.balance(f"batch:{self._batch.name}")
        return self._batch.budget_usd - balance.settled_usd - balance.reserved_usd

    def _lane_states(self, now: float) -> list[LaneState]:
        states = []
        on_lane: dict[str, list[UnderWay]] = {}
        for busy in self._busy.values():
            on_lane.setdefault(busy.order.lane, []).append(busy)
        for lane in self._fleet.lanes():
            held = _holding(on_lane.get(lane.id, []))
            ahead = self._shared.ahead(lane) if held and all(busy.seen for busy in held) else 0
            free = self._shared.on(lane.id).left_s
            for busy in held:
                service = busy.order.quote.service_s
                left = service - (now - busy.since_s) if busy is held[0] else service
                free += left if left > 0 else service / 4
            loaded = self._loaded.get(lane.id, "")
            full = not self._shared.takes(lane, len(held))
            holds, paid = (1 + ahead if full else len(held)), lane.backend == POD_KEY
            states.append(LaneState(lane.id, lane.backend, free, holds, ahead, loaded, paid))
        return states + self._roster.expected()

    def _held(self, lane: str) -> list[UnderWay]:
        """What a lane has to do."""
        return _holding([busy for busy in self._busy.values() if busy.order.lane == lane])

    def _busy_lanes(self) -> set[str]:
        return {busy.order.lane for busy in self._busy.values()}

    def _beside(self, lane_id: str) -> int | None:
        """How many prompts of other runs a lane may hold beside this run's own; None for a vendor's queue."""
        lane = next((lane for lane in self._fleet.lanes() if lane.id == lane_id), None)
        if lane is None or (room := room_of(lane)) is None:
            return None
        return room - sum(not busy.made for busy in self._busy.values() if busy.order.lane == lane_id)

    def _demand(self) -> BatchDemand:
        """What is still to do, for the watcher."""
        now = time.monotonic()
        left = (1 - (now - busy.since_s) / max(busy.order.quote.service_s, 1e-3) for busy in self._busy.values())
        return demand_of(
            batch=self._batch.name,
            owner=self._owner.id,
            jobs=len(self._shots),
            waiting=[p.shot for p in self._jobs.waiting if not p.elsewhere],
            under_way_jobs=sum(max(share, 0.25) for share in left),
            lanes=self._lane_states(now),
            deadline_s=self._left_s(now),
            budget_left_usd=None if self._batch.budget_usd is None else self._headroom(),
            value_of_time_usd_per_h=self._settings.routing.value_of_time_usd_per_h,
            whole_s=self._batch.deadline_s,
        )

    def _working(self) -> set[str]:
        return {busy.order.quote.backend for busy in self._busy.values()}

    def _note_stuck(self, progress: JobProgress, blocked: dict[str, Refusal], now: float) -> None:
        """A job nobody can take now: given up at once if nothing can change that, else after the patience."""
        if progress.stuck_since_s is None:
            progress.stuck_since_s = now
        codes = {refusal.code for refusal in blocked.values()}
        money_tied_up = "limit" in codes and bool(self._busy)
        may_recover = (
            codes & {"health", "breaker"} and now - progress.stuck_since_s < self._settings.routing.backend_patience_s
        )
        if money_tied_up or may_recover:
            return
        kind = "limit" if codes == {"limit"} else FailureKind.UNREACHABLE.value
        reasons = "; ".join(f"{key}: {refusal.reason}" for key, refusal in blocked.items())
        self._give_up(progress, kind, f"no backend can take it: {reasons}")

    def _give_up(self, progress: JobProgress, kind: str, message: str) -> None:
        progress.state = JobState.FAILED
        job = progress.shot.job.id
        self._ledger.set_job_state(self._batch.name, job, JobState.FAILED, error_kind=kind, error_message=message)
        self._teller.tell("failed", message, job=job)

    # -- attempts --------------------------------------------------------------------------------------------------

    def _start(self, assignment: Assignment, lanes: Iterable[LaneState]) -> None:
        progress = self._jobs[assignment.job]
        progress.state = JobState.ACTIVE
        headroom = self._headroom()
        waits: dict[str, float] = {}
        queued: dict[str, int] = {}
        for lane in lanes:
            waits[lane.backend] = min(waits.get(lane.backend, lane.free_s), lane.free_s)
            queued[lane.backend] = queued.get(lane.backend, 0) + lane.outstanding
        request = SelectionRequest(
            shot=progress.shot,
            attempt=progress.attempts + 1,
            proposed=assignment.backend,
            proposal_reason=assignment.reason,
            waits_s=waits,
            queued=queued,
            unavailable=self._eligibility.unavailable(progress, headroom),
            value_of_time_usd_per_h=self._settings.routing.value_of_time_usd_per_h,
        )
        if self._unproven.get(assignment.backend):
            self._unproven[assignment.backend] -= 1
        attempt_id = str(uuid.uuid4())
        quote = progress.shot.open_offers[assignment.backend]
        limit = self._job_cap(progress)
        quote = fitted(quote, headroom if limit is None else min(headroom, limit)) or quote
        order = self._order(progress, attempt_id, assignment.lane, request.attempt, quote)
        self._busy[attempt_id] = UnderWay(order, time.monotonic())
        self._loaded[order.lane] = quote.model
        self._fleet.breaker(quote.backend, quote.model).started(time.monotonic())
        self._spawn(self._drive_new(progress, request, order), progress.shot.job.id)

    def _order(self, progress: JobProgress, attempt_id: str, lane: str, number: int, quote: Quote) -> WorkOrder:
        shot = progress.shot
        return WorkOrder(
            attempt_id=attempt_id,
            batch=self._batch.name,
            job=shot.job,
            number=number,
            seed=shot.seed,
            lane=lane,
            quote=quote,
            image_path=str(shot.image_path) if shot.image_path else None,
            workflow_path=str(shot.workflow_path) if shot.workflow_path else None,
        )

    def _spawn(self, coroutine: Coroutine[Any, Any, None], job: str) -> None:
        task = asyncio.create_task(coroutine, name=f"{self._batch.name}/{job}")
        task.add_done_callback(lambda _task: self._wake.set())
        self._tasks[task] = job

    @traced("attempt", lambda _self, _progress, _request, order: about(order))
    async def _drive_new(self, progress: JobProgress, request: SelectionRequest, order: WorkOrder) -> None:
        try:
            caps = await self._reserved(progress, request, order)
        except asyncio.CancelledError:
            self._busy.pop(order.attempt_id, None)
            await self._driver.abandon(Ticket(order))
            raise
        if caps is None:
            self._busy.pop(order.attempt_id, None)
            self._fleet.breaker(order.quote.backend, order.quote.model).abandoned()
            return
        ticket = Ticket(order, lenient=progress.shot.lenient, caps=caps)
        await self._drive(progress, ticket)

    async def _reserved(self, progress: JobProgress, request: SelectionRequest, order: WorkOrder) -> Caps | None:
        """Decides and passes the spend gate; the limits it was held against, or None if it does not go there now."""
        try:
            decision = await self._steps.select(request)
            if decision.chosen != order.quote.backend:  # it became unavailable between proposal and decision
                progress.state = JobState.PENDING
                return None
            beside = self._beside(order.lane)
            caps = await _to_its_end(asyncio.to_thread(self._reserve, progress, order, decision, beside))
        except LaneBusyError:
            self._shared.was_full(order.lane)
            progress.state = JobState.PENDING
            return None
        except JobTakenError:
            progress.elsewhere, progress.state = True, JobState.ACTIVE
            return None
        except JobCancelledError:
            await asyncio.to_thread(self._ledger.request_cancel, self._batch.name, [progress.shot.job.id])
            progress.state = JobState.CANCELLED
            self._teller.tell("cancelled", CANCELLED_MESSAGE, job=progress.shot.job.id)
            return None
        except LimitError as error:
            progress.limited[order.quote.backend] = (time.monotonic() + LIMIT_PAUSE_S, str(error))
            progress.state = JobState.PENDING
            return None
        progress.attempts = order.number
        progress.made += 1
        started = functools.partial(self._teller.tell, "started", decision.reason, order=order)
        asyncio.get_running_loop().call_soon(started)  # told while it is sent: a free GPU waits for that
        return caps

    @traced("reserve")
    def _reserve(self, progress: JobProgress, order: WorkOrder, decision: Decision, beside: int | None) -> Caps:
        """Holds an attempt against the limits in force now, and reserves its cost."""
        caps = self._caps(progress, order.quote.tier)
        self._ledger.reserve(order, decision, caps, self._owner, beside)
        return caps

    async def _drive(self, progress: JobProgress, ticket: Ticket) -> None:
        """One attempt to its end, unless another process has taken the job over meanwhile: then it is followed."""
        try:
            await self._drive_owned(progress, ticket)
        except JobTakenError as error:
            progress.elsewhere, progress.state = True, JobState.ACTIVE
            self._teller.tell("notice", str(error), order=ticket.order)

    async def _drive_owned(self, progress: JobProgress, ticket: Ticket) -> None:
        order = ticket.order
        try:
            outcome = await self._generate(ticket)
        except asyncio.CancelledError:
            progress.state = JobState.CANCELLED
            self._fleet.breaker(order.quote.backend, order.quote.model).abandoned()
            await self._driver.abandon(ticket)
            raise
        finally:
            self._busy.pop(order.attempt_id, None)
        await self._finish(progress, outcome)

    async def _generate(self, ticket: Ticket) -> Outcome:
        """Gets the clip; an accepted paid job that goes out of sight is taken up again before it is given up on."""
        order = ticket.order
        for again in range(REATTACH_ATTEMPTS + 1):
            try:
                return await self._steps.generate(self._driver, ticket)
            except BackendError as error:
                stored = await asyncio.to_thread(self._ledger.attempt, order.attempt_id)
                ticket = replace(ticket, handle=stored.handle)
                failure = after_acceptance(error, stored)
                out_of_sight = isinstance(failure, SubmitUncertain) and stored.handle is not None
                if not out_of_sight or again == REATTACH_ATTEMPTS or self._cancelled:
                    return Outcome(ticket, failure=failure)
            self._teller.tell("notice", "out of sight; taken up again from its receipt", order=order)
            await asyncio.sleep(self._settings.routing.retry_base_s * 2**again)
        raise AssertionError("unreachable")

    async def _finish(self, progress: JobProgress, outcome: Outcome) -> None:
        order, failure = outcome.ticket.order, outcome.failure
        breaker = self._fleet.breaker(order.quote.backend, order.quote.model)
        if failure is None:
            breaker.succeeded()
            self._roster.succeeded(order.lane)
            await _to_its_end(self._steps.record(self._driver, outcome, JobState.DONE))
            progress.state = JobState.DONE
            self._teller.tell("done", outcome.clip.path if outcome.clip else "", order=order)
            await self._learn(order)
            return
        follows = next_state(
            progress, failure, order.quote.backend, routing=self._settings.routing, now_s=time.monotonic()
        )
        rule = policy(failure.kind)
        if rule.fault == "backend" or rule.fatal_for_backend:  # before the booking: its lane is free already
            breaker.failed(time.monotonic(), fatal=rule.fatal_for_backend)
            self._roster.failed(order.lane)
        else:
            breaker.abandoned()
        await _to_its_end(self._steps.record(self._driver, outcome, follows))
        progress.state = follows
        kinds: dict[JobState, EventKind] = {
            JobState.PENDING: "retry",
            JobState.UNCERTAIN: "uncertain",
            JobState.CANCELLED: "cancelled",
        }
        self._teller.tell(kinds.get(follows, "failed"), str(failure), order=order)
        if follows is JobState.UNCERTAIN and order.lane.startswith(POD_PREFIX):
            self._lost.setdefault(progress.shot.job.id, time.monotonic() + self._settings.routing.backend_patience_s)
        await self._learn(order)

    def _caps(self, progress: JobProgress, tier: Tier) -> Caps:
        routing = applied(self._settings, self._ledger).routing  # limits changed meanwhile hold for the next attempt
        caps = [cap for cap in (self._job_cap(progress), routing.max_cost_per_job_usd) if cap is not None]
        return Caps(
            job_usd=min(caps, default=None),
            batch_usd=self._batch.budget_usd,
            day_usd=routing.daily_budget_usd,
            month_usd=routing.monthly_budget_usd,
            tier_usd=routing.monthly_tier_budgets_usd.get(tier),
        )

    @staticmethod
    def _job_cap(progress: JobProgress) -> Decimal | None:
        return progress.shot.preferences.max_cost_usd

    # -- expecting and learning ------------------------------------------------------------------------------------

    async def _plan(self) -> None:
        """Stores what the run is expected to come to, before it spends anything."""
        waiting = [p.shot for p in self._jobs.waiting]
        self._unproven = unproven(waiting)
        self._requoter.expect(uncertain(waiting))
        found = forecast(
            self._batch.name,
            waiting,
            self._fleet.lanes(),
            deadline_s=self._batch.deadline_s,
            budget_usd=None if self._batch.budget_usd is None else self._headroom(),
            value_of_time_usd_per_h=self._settings.routing.value_of_time_usd_per_h,
        )
        pods = await asyncio.to_thread(
            pod_outlook,
            waiting,
            self._fleet.lanes(),
            self._settings,
            room=self._roster.room(),
            deadline_s=self._batch.deadline_s,
            budget_usd=None if self._batch.budget_usd is None else self._headroom(),
        )
        if pods is not None and found is None:
            self._teller.tell("plan", f"expected: {told(pods)}")
        if found is None:
            return
        alone = f"${money(found.planned_usd)} in {found.planned_s:.1f} s"
        if pods is not None:
            found = counting_on(pods, found)
        number = await asyncio.to_thread(self._ledger.record_plan, found)
        self._planned = (number, time.monotonic(), frozenset(shot.job.id for shot in waiting))
        split = ", ".join(f"{count} {key}" for key, count in found.split.items() if count)
        starting = f"; starting {found.starts} workers costs the endpoint ${money(found.start_usd)}"
        text = f"expected: {told(pods)} ({split}), {alone} without" if pods else f"expected: {alone} ({split})"
        self._teller.tell("plan", text + starting if found.starts else text)

    def _record_outcome(self) -> None:
        """Stores what the run came to beside its plan."""
        if self._planned is None:
            return
        number, began_s, jobs = self._planned
        made = sum(p.state is JobState.DONE for key, p in self._jobs.items() if key in jobs)
        self._ledger.record_outcome(number, duration_s=time.monotonic() - began_s, made=made)

    async def _learn(self, order: WorkOrder) -> None:
        """What a finished attempt took teaches the quotes of the waiting jobs."""
        with contextlib.suppress(HybridVideoError):
            self._requoter.learn(await asyncio.to_thread(self._ledger.attempt, order.attempt_id))

    def _requote(self, waiting: list[JobProgress]) -> None:
        """Renews the offers of waiting jobs after something was learned."""
        if not waiting or not self._requoter.due():
            return
        for progress, shot in zip(waiting, self._requoter.renewed(p.shot for p in waiting), strict=True):
            progress.shot = shot or progress.shot

    # -- before and after ------------------------------------------------------------------------------------------

    def _load(self) -> None:
        now = utc_now()
        for row in self._ledger.job_rows(self._batch.name):
            if row.job in self._shots:
                waited_s = max(0.0, (now - (row.registered_at or now)).total_seconds())
                self._jobs.add(JobProgress(self._shots[row.job], row.state, row.attempts, waited_s))

    async def _resume(self, only: str | None = None) -> None:
        """Takes up what was left open, of all jobs or one, all at once: a look-up may take seconds.

        One round at a time: two rounds that overlap would each drive the same attempt.
        """
        async with self._resuming:
            left = [
                attempt
                for attempt in await asyncio.to_thread(self._ledger.open_attempts, self._batch.name)
                if attempt.job == only or (only is None and attempt.job in self._jobs and not self._drives(attempt))
            ]
            await asyncio.gather(*(self._take_up(attempt) for attempt in left))
            await self._look_at_undriven()

    async def _look_at_undriven(self) -> None:
        """Jobs that were read as active and have no open attempt: another process has ended theirs since."""
        left = {p.shot.job.id: p for p in self._jobs.values() if p.state is JobState.ACTIVE and self._is_undriven(p)}
        if not left:
            return
        for row in await asyncio.to_thread(lambda: self._ledger.job_rows(self._batch.name, only=list(left))):
            progress = left[row.job]
            if progress.state is JobState.ACTIVE and self._is_undriven(progress):
                progress.attempts = row.attempts
                progress.state = JobState.PENDING if row.state is JobState.ACTIVE else row.state

    async def _take_up(self, attempt: Attempt) -> None:
        """One open attempt; what another live process drives is left to it."""
        progress = self._jobs[attempt.job]
        if not await asyncio.to_thread(self._ledger.claim, self._batch.name, attempt.job, self._owner):
            progress.elsewhere = True
            return
        attempt = await asyncio.to_thread(self._ledger.attempt, attempt.attempt_id)
        if attempt.finished:  # in the moment between the look and the claim
            progress.elsewhere = True
            return
        progress.state, progress.made = JobState.ACTIVE, 1
        found = await find_again(attempt, progress.shot, self._fleet, self._ledger)
        order = found.ticket.order
        if found.finished_already or found.failure is not None:
            await self._finish(progress, found)
            return
        self._teller.tell("notice", "taken up again after an interruption", order=order)
        self._busy[order.attempt_id] = UnderWay(order, time.monotonic(), seen=True)
        ticket = replace(found.ticket, caps=self._caps(progress, attempt.tier))
        again = traced("attempt", lambda _progress, ticket: about(ticket.order))(self._drive)
        self._spawn(again(progress, ticket), attempt.job)

    def _lost_on_pods(self) -> list[str]:
        """Jobs whose outcome was lost on a pod: once the pod is gone it is certain that nothing of them comes."""
        now = time.monotonic()
        for job in [job for job in self._lost if self._jobs[job].state is not JobState.UNCERTAIN]:
            del self._lost[job]
        return [job for job, until_s in self._lost.items() if now < until_s]

    async def _settle_lost(self) -> None:
        while True:
            await asyncio.sleep(LOST_LOOK_S)
            for job in self._lost_on_pods():
                with contextlib.suppress(HybridVideoError):
                    if await asyncio.to_thread(self._roster.has_lost, self._batch.name, job):
                        await self._resume(job)
                        self._wake.set()

    def _drives(self, attempt: Attempt) -> bool:
        """Whether this run is busy with an attempt, the booking of its end included."""
        return attempt.attempt_id in self._busy or attempt.job in self._tasks.values()

    def _is_undriven(self, progress: JobProgress) -> bool:
        return not progress.elsewhere and progress.shot.job.id not in self._tasks.values()

    def _watch_others(self) -> None:
        """Follows jobs that another process drives, and takes them over when it is gone."""
        now = time.monotonic()
        if now - self._followed_s < FOLLOW_S:
            return
        self._followed_s = now
        followed = [progress for progress in self._jobs.values() if progress.elsewhere]
        if not followed:
            return
        rows = {row.job: row for row in self._ledger.job_rows(self._batch.name)}
        for progress in followed:
            row = rows[progress.shot.job.id]
            if row.state not in (JobState.ACTIVE, JobState.PENDING):
                progress.elsewhere, progress.state = False, row.state
            elif self._owner.may_take(row.owner, row.lease_until):
                progress.elsewhere, progress.state, progress.attempts = False, JobState.ACTIVE, row.attempts
                self._spawn(self._resume(), "")
                return

    # -- cancelling ------------------------------------------------------------------------------------------------

    def _honour_requests(self) -> None:
        """Cancels the jobs that somebody marked in the ledger (`hybrid-video cancel`); looks once a second."""
        now = time.monotonic()
        if now - self._asked_at_s < CANCEL_LOOK_S:
            return
        self._asked_at_s = now
        waiting: list[str] = []
        for job in self._ledger.cancel_requests(self._batch.name) - self._stopping:
            progress = self._jobs.get(job)
            if progress is None or progress.elsewhere or progress.state not in (JobState.PENDING, JobState.ACTIVE):
                continue
            self._stopping.add(job)
            running = [task for task, driven in self._tasks.items() if driven == job]
            for task in running:
                task.cancel()
            if not running:
                waiting.append(job)
                progress.state = JobState.CANCELLED
        if waiting:
            self._ledger.request_cancel(self._batch.name, waiting)
            self._notice(f"{len(waiting)} waiting jobs were cancelled on request")

    async def _after_stop(self, progress: JobProgress) -> None:
        """What a stopped job is now: cancelled, uncertain, or over already: then its clip is paid for."""
        job = progress.shot.job.id
        under_way = await asyncio.to_thread(self._ledger.request_cancel, self._batch.name, [job])
        row = (await asyncio.to_thread(lambda: self._ledger.job_rows(self._batch.name, only=[job])))[0]
        if under_way and row.state is not JobState.UNCERTAIN:
            await self._resume(job)
            return
        progress.state = row.state
        self._teller.tell("cancelled" if row.state is JobState.CANCELLED else "uncertain", row.error_message, job=job)

    async def _keep_lease(self) -> None:
        while True:
            await asyncio.sleep(RENEW_S)
            with contextlib.suppress(HybridVideoError):
                await asyncio.to_thread(self._ledger.renew, self._owner)

    async def _stop_everything(self) -> None:
        tasks = list(self._tasks)
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _update_history(self) -> None:
        try:
            await asyncio.to_thread(self._history.update, self._ledger)
        except HybridVideoError as error:
            self._notice(f"the history is not up to date yet: {error}")

    # -- telling ---------------------------------------------------------------------------------------------------

    def _on_progress(self, order: WorkOrder, status: JobStatus) -> None:
        busy = self._busy.get(order.attempt_id)
        if busy is not None and busy.noticed(status, now := time.monotonic()):
            if busy.made and (behind := self._held(order.lane)) and not behind[0].running:
                behind[0].began(now)
            self._wake.set()
        self._teller.progress(order, status)

    def _notice(self, message: str) -> None:
        self._notices.append(message)
        self._teller.tell("notice", message)


def _holding(mine: list[UnderWay]) -> list[UnderWay]:
    """Those that keep a lane busy: clips that are made count only while too many of them wait to be brought in."""
    working = [busy for busy in mine if not busy.made]
    return working if len(mine) - len(working) <= BRINGING_IN else mine


def _with_advice(message: str, advice: str) -> str:
    """The message, and the general advice for its kind unless it says the same already."""
    if advice.rstrip(".").casefold() in message.casefold():
        return message
    return f"{message.rstrip('.')}. {advice}"


async def _to_its_end(work: Awaitable[Result]) -> Result:
    """Waits for work that must not be cut off in the middle; a cancellation is passed on after it."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
