"""One round of real checks over every configured backend. A backend that hangs or raises is unhealthy, not the end."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping

from hybrid_video import observing
from hybrid_video.backends.base import Backend, TakesPods
from hybrid_video.errors import HybridVideoError
from hybrid_video.models import Health, utc_now
from hybrid_video.redaction import redact

TIMEOUT_S = 25.0
"""A round is over before the next one begins."""


class HealthRound:
    """Checks backends; each is started with its first check, and again after it could not be."""

    def __init__(self, backends: Mapping[str, Backend]) -> None:
        self.backends = dict(backends)
        self._started: set[str] = set()
        self._shown: set[str] = set()

    async def check(self) -> list[Health]:
        """One look at each, all at once. Never raises."""
        return list(await asyncio.gather(*(self._check(key, backend) for key, backend in self.backends.items())))

    async def show_pods(self, ready: set[str]) -> None:
        """Lets the backend of the rented pods look at those that are open now, by RunPod's ids."""
        backend: object = self.backends.get("runpod-pod")
        if not isinstance(backend, TakesPods):
            return
        for pod_id in self._shown - ready:
            await backend.detach(pod_id)
        for pod_id in ready - self._shown:
            with contextlib.suppress(HybridVideoError):  # it stays known, and the check says what is wrong
                await backend.attach(pod_id)
        self._shown = ready

    async def close(self) -> None:
        """Closes every backend; remote work goes on."""
        await asyncio.gather(*(backend.close() for backend in self.backends.values()), return_exceptions=True)

    async def _check(self, key: str, backend: Backend) -> Health:
        began = time.monotonic()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                if key not in self._started:
                    await backend.start()
                    self._started.add(key)
                return await backend.health()
        except TimeoutError:
            detail, remedy = f"no answer within {TIMEOUT_S:.0f} s", "Check the address and the network."
        except HybridVideoError as error:
            detail, remedy = str(error), "Correct what is named; it is looked at again."
        except Exception as error:
            observing.report(error, backend=key)
            detail, remedy = f"the check itself failed: {type(error).__name__}: {error}", "Please report this."
        return Health(
            backend=key,
            tier=backend.tier,
            healthy=False,
            detail=redact(detail, 1000),
            remedy=remedy,
            checked_at=utc_now(),
            latency_s=time.monotonic() - began,
        )
