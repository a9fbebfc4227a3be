"""What the last looks at `/health` say about an endpoint: whether workers come, and how long the next one takes.

An endpoint scaled to zero is healthy: the first job starts a worker. It is not healthy when jobs wait and no worker
comes (RunPod cuts the maximum to 2 after three days without requests and to 0 after seven, docs.runpod.io
endpoint-configurations), or when every worker is throttled because its GPU type is sold out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hybrid_video.backends.runpod.jobs import EndpointHealth

COLD_START_S = 60.0
"""From nothing to a loaded model: 30-60 s for an SDXL-size first request (RunPod's docs), 45 s (worker-comfyui #90)."""

STARTING_S = 30.0
"""What is left of it when a worker is already initializing, on average."""

STAYS_UP_S = 5.0
"""RunPod's default idle time-out: so long a worker waits for its next job before it stops."""

PATIENCE_S = 600.0
"""How long jobs may wait without a worker when `/health` shows no starting ones: pulling an image takes minutes."""

PATIENCE_WHEN_SHOWN_S = 120.0
"""The same when it would show them."""


@dataclass(frozen=True)
class Verdict:
    """`remedy` is empty when the endpoint is healthy."""

    detail: str
    remedy: str = ""


class EndpointWatch:
    """Remembers the last look, and since when jobs have waited without any worker."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: EndpointHealth | None = None
        self._starved_since: float | None = None
        self._ran_at: dict[str, float] = {}
        self._out: set[str] = set()
        self._spare = 0
        """Workers that were idle at the last look and have been sent nothing since."""

    @property
    def in_queue(self) -> int:
        """Jobs waiting at the last look."""
        return self._last.jobs.in_queue if self._last else 0

    @property
    def cold_start_s(self) -> float:
        """Expected seconds before the next job's work begins; 0 when a worker is up."""
        if self._recent():
            return 0.0
        if self._last is None:
            return COLD_START_S
        workers = self._last.workers
        if workers.warm:
            return 0.0
        return STARTING_S if workers.initializing else COLD_START_S

    def sends(self, lane: str) -> bool:
        """A job goes out on a lane: whether a worker is up for it, as far as can be known.

        One is where the lane's last job ran a moment ago, or where the last look showed one idle that no other lane of
        ours has been sent to since. What a job waits says nothing of that: an image that starts in two seconds and a
        long queue before busy workers look alike.
        """
        up = lane in self._recent()
        if not up and self._spare:
            self._spare -= 1
            up = True
        self._out.add(lane)
        return up

    def up(self, lanes: Sequence[str]) -> set[str]:
        """Lanes for which a worker is up, the spare ones given to the first that have none."""
        found = self._recent() & set(lanes)
        others = [lane for lane in lanes if lane not in found and lane not in self._out]
        return found | set(others[: self._spare])

    def ran(self, lane: str, *, over: bool = False) -> None:
        """A lane's job has just been seen running, or (over) to have run: its worker is up."""
        self._ran_at[lane] = self._clock()
        if over:
            self._out.discard(lane)

    def _recent(self) -> set[str]:
        now = self._clock()
        return {lane for lane, at in self._ran_at.items() if now - at < STAYS_UP_S}

    def saw(self, health: EndpointHealth) -> None:
        """Takes in one look."""
        self._last = health
        workers = health.workers
        self._spare = max(0, workers.warm - workers.running - len(self._recent() - self._out))
        starved = health.jobs.in_queue > 0 and not workers.warm and not workers.initializing
        if not starved:
            self._starved_since = None
        elif self._starved_since is None:
            self._starved_since = self._clock()

    def verdict(self) -> Verdict:
        """Judges the last look."""
        if self._last is None:
            return Verdict("not looked at yet", "Check it again.")
        jobs, workers = self._last.jobs, self._last.workers
        seen = (
            f"/health: workers {workers.idle} idle, {workers.running} running, {workers.initializing or 0} starting, "
            f"{workers.throttled or 0} throttled; {jobs.in_queue} jobs waiting, {jobs.in_progress} running"
        )
        if workers.throttled and not workers.warm and not workers.initializing:
            return Verdict(
                seen, "All workers are throttled: add GPU types to the endpoint, or wait until theirs is available."
            )
        waited_s = self._clock() - self._starved_since if self._starved_since is not None else 0.0
        patience_s = PATIENCE_WHEN_SHOWN_S if workers.tells_starting else PATIENCE_S
        if waited_s > patience_s:
            return Verdict(
                f"{seen}; none has come for {waited_s:.0f} s",
                "Set the endpoint's maximum of workers above 0: RunPod lowers it after days without requests.",
            )
        return Verdict(seen)
