"""What a run knows of each job and of each attempt under way, and what a failure makes of a job."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from hybrid_video.engine.selection import Shot
from hybrid_video.errors import BackendError, FailureKind, SubmitUncertain, TerminalError, TransientError
from hybrid_video.failures import policy
from hybrid_video.models import JobState, JobStatus, WorkOrder
from hybrid_video.settings import RoutingSettings


@dataclass
class JobProgress:
    """Run-time state of one job."""

    shot: Shot
    _state: JobState
    attempts: int
    waited_s: float = 0.0
    """How long it had waited when the run began: by so much it goes before later jobs of higher priority."""
    made: int = 0
    excluded: set[str] = field(default_factory=set)
    limited: dict[str, tuple[float, str]] = field(default_factory=dict)
    """Backends the spend gate refused: until when not to ask again (monotonic seconds), and why."""
    last_backend: str | None = None
    not_before_s: float = 0.0
    stuck_since_s: float | None = None
    elsewhere: bool = False
    known: Shot | None = None
    """The shot that `alike` was found for: offers are renewed in the course of a run."""
    alike: int = -1
    """Equal for jobs with the same offers and the same wishes."""
    moved: Callable[[JobState, JobState], None] | None = None
    """Hears of every change of `state`: what it was and what it is now."""

    @property
    def state(self) -> JobState:
        """Where it is on its way."""
        return self._state

    @state.setter
    def state(self, state: JobState) -> None:
        before, self._state = self._state, state
        if self.moved is not None:
            self.moved(before, state)

    @property
    def untouched(self) -> bool:
        """Whether nothing has happened that sets it apart from the others like it."""
        return not (self.made or self.excluded or self.limited or self.last_backend or self.stuck_since_s)


@dataclass
class UnderWay:
    """One attempt under way on a lane."""

    order: WorkOrder
    since_s: float
    seen: bool = False
    """The backend has spoken of it. Only then is another job put behind it, so that they arrive in this order."""
    running: bool = False
    """`since_s` is when it began (before: when it was sent), earlier by a cold start that its expected time counts."""
    made: bool = False
    """Its backend is done with it, for good or ill, and it only has to be brought in: the lane can take the next."""

    def noticed(self, status: JobStatus, now_s: float) -> bool:
        """Takes in what the backend says of it; whether the lane can take another job now."""
        news = not self.seen
        self.seen = True
        if status.phase == "running" and not self.running:
            self.began(now_s - self.order.quote.cold_start_s)
        elif not self.made and (status.phase == "succeeded" or status.progress == 1):
            self.made = news = True
        return news

    def began(self, since_s: float) -> None:
        """The lane works on it since then."""
        self.running, self.since_s = True, since_s


def next_state(
    progress: JobProgress, failure: BackendError, backend: str, *, routing: RoutingSettings, now_s: float
) -> JobState:
    """What becomes of the job after a failed attempt; also notes exclusions and the back-off."""
    if isinstance(failure, SubmitUncertain):
        return JobState.UNCERTAIN
    if failure.kind is FailureKind.CANCELLED:
        return JobState.CANCELLED
    rule = policy(failure.kind)
    progress.last_backend = backend
    if rule.next == "elsewhere" or isinstance(failure, TerminalError):
        progress.excluded.add(backend)
    remaining = progress.shot.open_offers.keys() - progress.excluded
    if rule.next == "nowhere" or not remaining or progress.made >= routing.max_attempts:
        return JobState.FAILED
    base = routing.retry_base_s * 2 ** (progress.made - 1)
    pause = base * random.uniform(0.5, 1.5)  # noqa: S311 - jitter
    if isinstance(failure, TransientError) and failure.retry_after_s and remaining <= {backend}:
        pause = max(pause, failure.retry_after_s)
    progress.not_before_s = now_s + pause
    return JobState.PENDING


def wishes(shot: Shot) -> object:
    """What decides which backends a job may use now: its offers and its preferences."""
    offers = (
        (key, quote.model, quote.amount_usd, quote.reserve_usd, quote.rate_usd_per_s, quote.service_s)
        for key, quote in shot.open_offers.items()
    )
    wished = shot.preferences
    return (wished.backend, wished.prefer_serverless, tuple(offers))
