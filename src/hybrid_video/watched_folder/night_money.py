"""The budget of one night over all its batches, whichever worker makes them and however often one is started again.

A small file in the inbox, written under the inbox's lock, says what each batch had cost before the night and how far it
may go. What it has cost since is asked of the ledger, so a crash loses nothing; what a running batch may still spend
counts as spent.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from hybrid_video.ledger import Ledger
from hybrid_video.watched_folder.inbox import Inbox, write_text

LEAST = Decimal("0.000000001")
"""A batch that nothing is left for may still be made for nothing, on the user's own GPU."""


@dataclass(frozen=True)
class Allotment:
    """How far a batch may go. `binding`: the night's budget is what limits it, not its own."""

    cap_usd: Decimal | None
    binding: bool
    untouched: bool = True
    """Nothing of the night's budget was spent or held when it was allotted."""


class NightMoney:
    """The money of one night."""

    def __init__(self, inbox: Inbox, night: str, budget_usd: Decimal | None, ledger: Ledger) -> None:
        self._inbox = inbox
        self._path = inbox.folder / f".night-{night}.json"
        self._budget_usd = budget_usd
        self._ledger = ledger

    def allot(self, batch: str, own_usd: Decimal | None, running: Collection[str] = ()) -> Allotment:
        """How far a batch may go now; what others that run may still spend is kept for them.

        Args:
            own_usd: the batch's own budget, which counts everything it ever cost.
            running: batches that are being made now.
        """
        with self._inbox.lock():
            book = self._read()
            now_usd = self._cost(batch)
            mine = book.get(batch, {"before": str(now_usd)})
            before = Decimal(mine["before"])
            used = sum(
                (self._used(name, entry, name in running) for name, entry in book.items() if name != batch), Decimal(0)
            )
            cap: Decimal | None = None
            if self._budget_usd is not None:
                cap = max(before + self._budget_usd - used, now_usd, LEAST)
            binding = cap is not None and (own_usd is None or cap < own_usd)
            book[batch] = {"before": str(before), "cap": str(cap if binding else own_usd) if cap is not None else ""}
            write_text(self._path, json.dumps(book))
        return Allotment(cap if binding else own_usd, binding, untouched=not used and now_usd == before)

    def spent_usd(self) -> Decimal:
        """What the night has cost so far, reservations included."""
        return sum((self._used(name, entry, False) for name, entry in self._read().items()), Decimal(0))

    def cost_usd(self, batch: str) -> Decimal:
        """What a batch has ever cost, without what it still holds."""
        return self._ledger.balance(f"batch:{batch}").settled_usd

    def _used(self, batch: str, entry: dict[str, Any], running: bool) -> Decimal:
        before = Decimal(entry["before"])
        spent = self._cost(batch) - before
        return max(spent, Decimal(entry["cap"]) - before) if running and entry.get("cap") else spent

    def _cost(self, batch: str) -> Decimal:
        balance = self._ledger.balance(f"batch:{batch}")
        return balance.settled_usd + balance.reserved_usd

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            book = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return book if isinstance(book, dict) else {}
