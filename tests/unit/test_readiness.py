"""Whether a worker is up for the job that is sent next."""

from __future__ import annotations

from dataclasses import dataclass

from hybrid_video.backends.runpod.jobs import EndpointHealth
from hybrid_video.backends.runpod.readiness import COLD_START_S, STAYS_UP_S, EndpointWatch


@dataclass
class Clock:
    """A clock that stands still until told."""

    now_s: float = 0.0

    def __call__(self) -> float:
        """The time."""
        return self.now_s


def health(idle: int = 0, running: int = 0, **more: int) -> EndpointHealth:
    """One look."""
    return EndpointHealth.model_validate({"jobs": {}, "workers": {"idle": idle, "running": running, **more}})


def test_nothing_known_means_no_worker() -> None:
    """Every lane starts its own."""
    watch = EndpointWatch(Clock())
    assert [watch.sends(lane) for lane in ("a", "b")] == [False, False]


def test_an_idle_worker_takes_one_job_and_no_more() -> None:
    """Two idle ones are there: the third job waits for a start, also if others run."""
    watch = EndpointWatch(Clock())
    watch.saw(health(idle=2, running=3))
    assert [watch.sends(lane) for lane in ("a", "b", "c")] == [True, True, False]


def test_a_lane_keeps_its_worker_for_the_idle_time() -> None:
    """RunPod's default: five seconds after its last job a worker stops."""
    clock = Clock()
    watch = EndpointWatch(clock)
    assert not watch.sends("a")
    watch.ran("a", over=True)
    clock.now_s += STAYS_UP_S - 1
    assert watch.sends("a")
    watch.ran("a", over=True)
    clock.now_s += STAYS_UP_S + 1
    assert not watch.sends("a")


def test_the_idle_worker_of_a_lane_is_not_spare_for_another() -> None:
    """The look shows the worker that has just made a's clip: it is a's."""
    clock = Clock()
    watch = EndpointWatch(clock)
    watch.sends("a")
    watch.ran("a", over=True)
    watch.saw(health(idle=1))
    assert not watch.sends("b")
    assert watch.sends("a")


def test_a_worker_that_runs_makes_the_next_quote_warm() -> None:
    """And an old sight of one does not."""
    clock = Clock()
    watch = EndpointWatch(clock)
    assert watch.cold_start_s == COLD_START_S
    watch.ran("a")
    assert watch.cold_start_s == 0
    clock.now_s += STAYS_UP_S
    assert watch.cold_start_s == COLD_START_S
