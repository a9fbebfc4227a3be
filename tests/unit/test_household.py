"""Parts kept alive together: begun side by side, waited for, and ended the last first, also while one still starts."""

from __future__ import annotations

import threading

import pytest

from hybrid_video.errors import ConfigurationError
from hybrid_video.services import Household, Service


class Part:
    """A part that is ready when it is let, unless it fails or is stopped first."""

    def __init__(self, name: str, ended: list[str], *, fails: bool = False) -> None:
        self.name = name
        self.fails = fails
        self.running = False
        self.let = threading.Event()
        self._ended = ended
        self._stopped = False

    def start(self) -> None:
        """Waits until it is let."""
        self.running = True
        assert self.let.wait(20)
        if self._stopped or self.fails:
            raise ConfigurationError(f"{self.name} ended while starting")

    def stop(self) -> None:
        """Ends it once; whoever waits for it gives up."""
        if not self._stopped:
            self._ended.append(self.name)
        self._stopped, self.running = True, False
        self.let.set()


def test_what_was_begun_starts_while_others_are_started() -> None:
    """`begin` comes back at once, `start` is not held up by it, and `ready` waits for it."""
    said: list[str] = []
    household, ended = Household(said.append), list[str]()
    slow, quick = Part("slow", ended), Part("quick", ended)
    quick.let.set()
    begun = household.begin([Service("slow", slow)])
    household.start([Service("quick", quick)])
    assert said == ["quick: ready"]
    threading.Timer(0.2, slow.let.set).start()
    household.ready(begun)
    assert said == ["quick: ready", "slow: ready"]
    household.stop()
    assert ended == ["quick", "slow"], "the last stage ends first"


def test_a_part_that_cannot_start_is_told_when_it_is_waited_for() -> None:
    """Its own sentence; the others are ended by `stop`."""
    household, ended = Household(lambda _text: None), list[str]()
    broken = Part("broken", ended, fails=True)
    broken.let.set()
    begun = household.begin([Service("broken", broken)])
    with pytest.raises(ConfigurationError, match="broken ended while starting"):
        household.ready(begun)
    household.stop()
    assert ended == ["broken"]


def test_the_end_does_not_wait_for_a_part_that_still_starts() -> None:
    """It is stopped, gives up, and nothing is told of it."""
    said: list[str] = []
    household, ended = Household(said.append), list[str]()
    slow, quick = Part("slow", ended), Part("quick", ended)
    quick.let.set()
    household.start([Service("quick", quick)])
    begun = household.begin([Service("slow", slow)])
    household.stop()
    assert all(future.done() for future in begun.futures)
    assert ended == ["slow", "quick"]
    assert said == ["quick: ready"]
    assert not household.begin([Service("late", Part("late", ended))]).futures
