"""What the emulated vendor charges: this server's own reading of RunPod's billing rules, independent of the client's.

Per job it charges the seconds of execution, rounded up, at the price of the endpoint's GPU, also for a job that failed
or was cancelled while it ran. Cold starts and idle time are billed too (docs.runpod.io/serverless/pricing), but to the
endpoint: no job's `executionTime` shows them, so they appear in `/v2/billing` and not in the per-job charges.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal

from hybrid_video.emulators.runpod.jobs import JobState
from hybrid_video.emulators.server import Charge
from hybrid_video.models import Tier
from hybrid_video.pricing.catalog import PriceBook, PriceEntry

_CHARGE_STATES = {JobState.COMPLETED: "done", JobState.CANCELLED: "cancelled"}


@dataclass
class Usage:
    """A stretch of billed time; `ended_at` is None while it lasts. `usd_per_s` is the rate of the GPU."""

    resource: str
    started_at: float
    usd_per_s: Decimal
    ended_at: float | None = None
    disk_usd_per_s: Decimal = Decimal(0)

    def end(self, now: float) -> None:
        """Stops the meter."""
        if self.ended_at is None:
            self.ended_at = now

    def seconds_within(self, start: float, end: float) -> float:
        """Seconds of it between two moments."""
        return max(0.0, min(end, math.inf if self.ended_at is None else self.ended_at) - max(start, self.started_at))


class ServerlessMeter:
    """Charges of jobs, and worker time of endpoints."""

    def __init__(self, prices: PriceBook, gpu: str) -> None:
        self.price: PriceEntry = prices.find(backend="runpod-serverless", tier=Tier.CLOUD, gpu=gpu)
        self.usages: list[Usage] = []
        self._earlier: dict[str, Decimal] = {}

    def start(self, endpoint_id: str, now: float) -> Usage:
        """A worker starts: from here to its stop the endpoint is billed."""
        usage = Usage(resource=endpoint_id, started_at=now, usd_per_s=per_second(self.price))
        self.usages.append(usage)
        return usage

    def settle(self, charge: Charge, *, execution_s: float, state: JobState) -> None:
        """Makes a job's charge final."""
        charge.state = _CHARGE_STATES.get(state, "failed")
        charge.usd = self._earlier.pop(charge.id, Decimal(0)) + self._amount(execution_s, state)

    def reopen(self, charge: Charge) -> None:
        """A retry runs under the same id: what the first run cost stays charged."""
        self._earlier[charge.id] = charge.usd
        charge.state = "open"

    def reset(self) -> None:
        """Forgets everything metered."""
        self.usages.clear()
        self._earlier.clear()

    def _amount(self, execution_s: float, state: JobState) -> Decimal:
        if self.price.unit == "video":
            return self.price.usd if state is JobState.COMPLETED else Decimal(0)
        return self.price.usd * math.ceil(round(execution_s, 3))


def per_second(price: PriceEntry) -> Decimal:
    """Dollars per second of GPU; a flat price per video is spread over the seconds that belong to it."""
    if price.unit == "video":
        return price.usd / Decimal(str(price.seconds or 1))
    return price.usd
