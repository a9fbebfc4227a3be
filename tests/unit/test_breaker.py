"""The circuit breaker: when it opens, for how long, and what closes it."""

from __future__ import annotations

import pytest

from hybrid_video.engine.breaker import FAILURES_TO_OPEN, LONGEST_OPEN_S, OPEN_S, Breaker


def opened(now_s: float = 0.0) -> Breaker:
    """A breaker that has just opened."""
    breaker = Breaker()
    for _ in range(FAILURES_TO_OPEN):
        breaker.failed(now_s, fatal=False)
    return breaker


def test_three_failures_in_a_row_open_it() -> None:
    """Two do not, and a success in between starts the count again."""
    breaker = Breaker()
    breaker.failed(0, fatal=False)
    breaker.failed(0, fatal=False)
    assert breaker.state(0) == "closed"
    breaker.succeeded()
    breaker.failed(0, fatal=False)
    breaker.failed(0, fatal=False)
    assert breaker.permits(0)
    breaker.failed(0, fatal=False)
    assert breaker.state(0) == "open"
    assert not breaker.permits(0)


def test_one_fatal_failure_opens_it() -> None:
    """A refused key or a wedged machine needs no second look."""
    breaker = Breaker()
    breaker.failed(5, fatal=True)
    assert breaker.state(5) == "open"


def test_after_its_rest_one_job_may_try() -> None:
    """Half-open lets exactly one job through."""
    breaker = opened()
    assert breaker.state(OPEN_S - 0.001) == "open"
    assert breaker.state(OPEN_S) == "half-open"
    assert breaker.permits(OPEN_S)
    breaker.started(OPEN_S)
    assert not breaker.permits(OPEN_S)


def test_only_the_success_of_a_job_closes_it() -> None:
    """Time alone leaves it half-open; nothing but `succeeded` resets it."""
    breaker = opened()
    assert breaker.state(10_000) == "half-open"
    breaker.started(10_000)
    breaker.succeeded()
    assert breaker.state(10_000) == "closed"
    breaker.failed(10_000, fatal=False)
    assert breaker.state(10_000) == "closed"


def test_a_failed_trial_opens_it_for_longer() -> None:
    """30, 60, 90 s and so on, never more than five minutes."""
    breaker, now, rests = opened(), 0.0, []
    for _ in range(12):
        assert breaker.open_until_s is not None
        rests.append(breaker.open_until_s - now)
        now = breaker.open_until_s
        breaker.started(now)
        breaker.failed(now, fatal=False)
    assert rests[:4] == [OPEN_S, 2 * OPEN_S, 3 * OPEN_S, 4 * OPEN_S]
    assert max(rests) == rests[-1] == LONGEST_OPEN_S


def test_a_trial_that_tells_nothing_lets_another_try() -> None:
    """A job that failed through its own fault is no evidence either way."""
    breaker = opened()
    breaker.started(OPEN_S)
    breaker.abandoned()
    assert breaker.state(OPEN_S) == "half-open"
    assert breaker.permits(OPEN_S)


@pytest.mark.parametrize("fatal", [False, True])
def test_jobs_that_were_under_way_when_it_opened_do_not_prolong_its_rest(fatal: bool) -> None:
    """Ten lanes that fail together are one outage, not three."""
    breaker = opened()
    for second in range(1, 8):
        breaker.failed(float(second), fatal=fatal)
    assert breaker.open_until_s == OPEN_S
    assert breaker.openings == 1
