"""The life of an accepted generation: waiting, running, ended, charged.

Every accepted request is its own operation with its own charge: Google's contract has no idempotency key, so the same
request sent twice is made and paid for twice. Only delivered clips cost money; Google says of filtered ones
"You have not been charged for this attempt".
"""

from __future__ import annotations

import asyncio
import logging
import random
import shutil
import tempfile
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Literal

from hybrid_video.emulators.faults import FaultPlan, FaultRule
from hybrid_video.emulators.google.answers import quota_exceeded
from hybrid_video.emulators.google.clips import render
from hybrid_video.emulators.google.models import RETENTION_S
from hybrid_video.emulators.google.requests import Wanted
from hybrid_video.emulators.server import Charge, ChargeList, ScaledClock
from hybrid_video.models import Tier
from hybrid_video.pricing.catalog import PriceBook, PriceEntry

log = logging.getLogger(__name__)

State = Literal["queued", "running", "done", "failed", "filtered", "cancelled"]
_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"
START_SHARE = 0.05
"""Share of the whole time an operation is queued before it runs."""
RETRY_S = 5.0
"""What RetryInfo advises when too many operations are under way, simulated seconds."""


@dataclass
class Operation:
    """One accepted request."""

    id: str
    file_id: str
    wanted: Wanted
    label: str
    charge: Charge
    price: PriceEntry
    created: float
    path: Path
    state: State = "queued"
    ended: float | None = None
    lost: bool = False
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    @property
    def usd(self) -> Decimal:
        """What it costs when it is delivered."""
        return self.price.usd if self.price.unit == "video" else self.price.usd * self.wanted.seconds


class Operations:
    """All operations of one emulator."""

    def __init__(
        self,
        *,
        clock: ScaledClock,
        faults: FaultPlan,
        prices: PriceBook,
        charges: ChargeList,
        service_s: float,
        jitter: float,
        seed: int,
        max_concurrent: int,
    ) -> None:
        self.clock, self.faults, self.prices, self.charges = clock, faults, prices, charges
        self._service_s, self._jitter, self._max_concurrent = service_s, jitter, max_concurrent
        self._random = random.Random(seed)
        self._by_id: dict[str, Operation] = {}
        self._by_file: dict[str, Operation] = {}
        self._folder = Path(tempfile.mkdtemp(prefix="hybrid-video-google-"))

    def price_of(self, wanted: Wanted, backend: str) -> PriceEntry:
        """The price entry of a request.

        Raises:
            ConfigurationError: the price book has none.
        """
        return self.prices.find(
            backend=backend, tier=Tier.GEMINI, model=wanted.model.priced_as, resolution=wanted.resolution
        )

    def accept(self, wanted: Wanted, label: str, *, price: PriceEntry, id_length: int = 12) -> Operation:
        """Takes a request, opens its charge and starts it.

        Raises:
            Refused: 429, so many operations are under way already.
        """
        under_way = sum(1 for each in self._by_id.values() if each.ended is None)
        if under_way >= self._max_concurrent:
            raise quota_exceeded(wanted.model.name, self._max_concurrent, RETRY_S)
        name, file_id = self._word(id_length), self._word(12)
        operation = Operation(
            id=name,
            file_id=file_id,
            wanted=wanted,
            label=label,
            charge=self.charges.open(name, label),
            price=price,
            created=self.clock.now(),
            path=self._folder / f"{file_id}.mp4",
        )
        self._by_id[name] = self._by_file[file_id] = operation
        total = self._service_s * self._random.lognormvariate(-(self._jitter**2) / 2, self._jitter)
        operation.task = asyncio.create_task(self._run(operation, total, self._random.getrandbits(31)))
        return operation

    def get(self, name: str) -> Operation | None:
        """An operation by its id."""
        return self._by_id.get(name)

    def of_file(self, file_id: str) -> Operation | None:
        """The delivered operation behind a file, unless Google has deleted it (two days) or lost it."""
        operation = self._by_file.get(file_id)
        if operation is None or operation.state != "done" or operation.lost or operation.ended is None:
            return None
        return operation if self.clock.now() - operation.ended < RETENTION_S else None

    def cancel(self, operation: Operation) -> None:
        """Ends an operation that is under way, at no cost; a finished one stays as it is."""
        if operation.ended is None:
            if operation.task is not None:
                operation.task.cancel()
            self._end(operation, "cancelled")

    def delete(self, operation: Operation) -> None:
        """Forgets an operation and its file; one under way is cancelled."""
        self.cancel(operation)
        self._by_id.pop(operation.id, None)
        self._by_file.pop(operation.file_id, None)
        operation.path.unlink(missing_ok=True)

    def reset(self) -> None:
        """Cancels and forgets everything."""
        for operation in list(self._by_id.values()):
            self.delete(operation)

    async def close(self) -> None:
        """Cancels everything and removes the files."""
        tasks = [each.task for each in self._by_id.values() if each.task is not None]
        self.reset()
        await asyncio.gather(*tasks, return_exceptions=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _run(self, operation: Operation, total_s: float, seed: int) -> None:
        rule = self.faults.take("gemini", "execute", f"{operation.label} {operation.wanted.prompt}")
        action = rule.action if rule else ""
        await self.clock.sleep(total_s * START_SHARE)
        operation.state = "running"
        if action == "wedge":
            return
        outcome: State = {"fail": "failed", "oom": "failed", "filter": "filtered"}.get(action, "done")  # type: ignore[assignment]
        working = [self.clock.sleep(total_s * (1 - START_SHARE)), _pause(rule)]
        if outcome == "done":
            drawn = operation.wanted.seed if operation.wanted.seed is not None else seed
            working.append(render(operation.wanted, operation.path, seed=drawn, black=action == "black"))
        try:
            await asyncio.gather(*working)
        except Exception:
            log.exception("the emulator could not render %s", operation.id)
            outcome = "failed"
        operation.lost = action == "lose"
        self._end(operation, outcome)

    def _end(self, operation: Operation, state: State) -> None:
        operation.state, operation.ended = state, self.clock.now()
        operation.charge.state = state if state in ("done", "cancelled") else "failed"
        if state == "done":
            operation.charge.usd = operation.usd
        operation.finished.set()

    def _word(self, length: int) -> str:
        return "".join(self._random.choices(_ALPHABET, k=length))


async def _pause(rule: FaultRule | None) -> None:
    if rule is not None and rule.action == "delay":
        await asyncio.sleep(rule.delay_s)
