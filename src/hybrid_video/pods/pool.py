"""Opens, looks after and closes this installation's pods. How many are worth it is decided elsewhere."""

from __future__ import annotations

from datetime import datetime

from hybrid_video.backends.runpod.pods import PodsClient
from hybrid_video.ledger import Ledger
from hybrid_video.pods.records import PodRecord
from hybrid_video.pods.store import PodStore
from hybrid_video.settings import Settings


class PodPool:
    """The pods of one installation; `close_pool` when done. Construction does no I/O."""

    def __init__(self, settings: Settings, ledger: Ledger, client: PodsClient | None = None) -> None:
        self.store = PodStore(ledger)
        self._settings, self._ledger, self._client = settings, ledger, client

    async def open(self, reason: str, *, batch: str = "") -> PodRecord:
        """Opens one pod at the cheapest place that has one; it is `starting`, or `creating` when the answer was lost.

        Raises:
            LimitError: the maximum of pods or a budget refuses; nothing was sent.
            ConfigurationError: pods are not configured, or RunPod says the request itself is wrong.
            BackendError: nowhere to be had now (NO_CAPACITY), or RunPod refuses; `retry_after_s` says when to try again.
        """
        raise NotImplementedError

    async def tick(self, now: datetime | None = None) -> None:
        """One round of care: starting pods become ready, leases are renewed, lost creates found, the vanished noticed."""
        raise NotImplementedError

    async def close(self, name: str, reason: str) -> PodRecord:
        """Ends a pod now; repeated by later ticks until RunPod confirms it."""
        raise NotImplementedError

    async def drain(self, name: str, reason: str) -> PodRecord:
        """Gives a pod no new jobs; `tick` ends it when the last has ended."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """Closes connections. Pods go on until their leases end."""
        raise NotImplementedError
