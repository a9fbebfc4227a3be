"""The configured backends of one run: started, watched, with their lanes and breakers."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping

from hybrid_video.backends.base import Backend, BackendContext
from hybrid_video.backends.registry import configured_backends
from hybrid_video.engine.breaker import Breaker
from hybrid_video.errors import BackendError, ConfigurationError, FailureKind
from hybrid_video.models import Lane, Refusal

REFRESH_S = 15.0


class Fleet:
    """Holds the backends open; `refresh` brings back what was down."""

    def __init__(self, backends: Mapping[str, Backend]) -> None:
        self.backends = dict(backends)
        self._breakers: dict[tuple[str, str], Breaker] = {}
        self.down: dict[str, str] = {}
        self._aside: dict[str, str] = {}
        self._withheld: dict[str, Refusal] = {}
        self.changed = asyncio.Event()

    @classmethod
    def configured(cls, context: BackendContext) -> Fleet:
        """The backends the settings name.

        Raises:
            ConfigurationError: none is configured.
        """
        backends = configured_backends(context)
        if not backends:
            raise ConfigurationError(
                "no backend is configured. Set at least one of HYBRID_VIDEO_COMFYUI_URLS (your own GPU), "
                "RUNPOD_API_KEY with HYBRID_VIDEO_RUNPOD_ENDPOINT_ID, or GEMINI_API_KEY; "
                "`hybrid-video demo` runs without any"
            )
        return cls(backends)

    async def start(self) -> None:
        """Starts every backend; one that does not answer is noted as down.

        Raises:
            ConfigurationError: a key or an address is wrong; all such sentences together.
        """
        outcomes = await asyncio.gather(*(self._start(key) for key in self.backends), return_exceptions=True)
        wrong = [str(outcome) for outcome in outcomes if isinstance(outcome, ConfigurationError)]
        if wrong:
            raise ConfigurationError("\n".join(wrong))
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    async def close(self) -> None:
        """Closes every backend; remote work goes on."""
        await asyncio.gather(*(backend.close() for backend in self.backends.values()), return_exceptions=True)

    async def keep_fresh(self) -> None:
        """Runs until cancelled: tries what is down again, and checks the health of what is up."""
        while True:
            await asyncio.sleep(REFRESH_S)
            await self.refresh()

    async def refresh(self) -> None:
        """One round of `keep_fresh`."""
        for key, backend in self.backends.items():
            if key in self.down:
                with contextlib.suppress(ConfigurationError):
                    await self._start(key)
            else:
                health = await backend.health()
                if not health.healthy:
                    self.down[key] = health.detail
        self.changed.set()

    def lanes(self) -> list[Lane]:
        """Lanes of every backend that is up, but for those that were set aside."""
        up = [lane for key, backend in self.backends.items() if key not in self.down for lane in backend.lanes()]
        return [lane for lane in up if lane.id not in self._aside] if self._aside else up

    def set_aside(self, lane: str, reason: str) -> None:
        """Gives a lane no further job; what it holds goes on."""
        self._aside[lane] = reason

    def use_again(self, lane: str) -> None:
        """Takes a lane back into use."""
        self._aside.pop(lane, None)
        self.changed.set()

    def withhold(self, key: str, refusal: Refusal) -> None:
        """A backend has no lane and will get none for now, for a reason that is not its health."""
        self.down[key] = refusal.reason
        self._withheld[key] = refusal

    def came_back(self, key: str) -> None:
        """A backend is up, without waiting for the next round of `keep_fresh`."""
        self.down.pop(key, None)
        self._withheld.pop(key, None)
        self.changed.set()

    def breaker(self, key: str, model: str) -> Breaker:
        """The breaker of one backend and one model or workflow: a broken workflow does not close a sound GPU."""
        return self._breakers.setdefault((key, model), Breaker())

    def breakers(self) -> list[tuple[tuple[str, str], Breaker]]:
        """Every breaker that was ever asked for, by backend and model."""
        return list(self._breakers.items())

    def unavailable(self, key: str, model: str) -> Refusal | None:
        """Why a backend cannot be given a job of this model now; None if it can."""
        if key in self.down:
            if key in self._withheld:
                return self._withheld[key]
            return Refusal(code="health", reason=f"does not answer: {self.down[key]}")
        breaker = self.breaker(key, model)
        now = time.monotonic()
        if breaker.permits(now):
            return None
        wait = max(0.0, (breaker.open_until_s or now) - now)
        reason = f"is resting after failures; one trial job in {wait:.0f} s" if wait else "has its trial job under way"
        return Refusal(code="breaker", reason=reason)

    async def _start(self, key: str) -> None:
        try:
            await self.backends[key].start()
        except BackendError as error:
            if error.kind is FailureKind.AUTHENTICATION:
                raise ConfigurationError(str(error)) from None
            self.down[key] = str(error)
        else:
            self.down.pop(key, None)
