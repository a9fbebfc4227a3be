"""The balance of the RunPod account, which only GraphQL tells: the one place where the `runpod` package serves.

At a balance of zero RunPod stops every pod and terminates those without a network volume together with their data
(docs.runpod.io accounts-billing), so the balance is worth a warning before that. GraphQL is announced to end early
in 2027; a failure here therefore is "not known" and never an obstacle.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from hybrid_video.redaction import redact
from hybrid_video.settings import RunPodSettings, is_loopback

log = logging.getLogger(__name__)

_QUERY = "query { myself { clientBalance currentSpendPerHr } }"


@dataclass(frozen=True)
class Balance:
    """US dollars on the account, and what it spends per hour now."""

    balance_usd: Decimal
    spend_usd_per_hour: Decimal

    @property
    def hours_left(self) -> float | None:
        """How long the balance lasts at the present rate; None when nothing is being spent."""
        return float(self.balance_usd / self.spend_usd_per_hour) if self.spend_usd_per_hour > 0 else None


async def balance(settings: RunPodSettings) -> Balance | None:
    """The account's balance, or None when it cannot be known (no key, an emulator, GraphQL gone)."""
    key = settings.api_key.get_secret_value() if settings.api_key else ""
    if not key or is_loopback(settings.pods_url):
        return None
    try:
        return parse(await asyncio.to_thread(_ask, key))
    except Exception as error:
        # The package lets the errors of requests, of JSON and its own through.
        log.warning("runpod balance is not known: %s", redact(error, 300))
        return None


def _ask(key: str) -> dict[str, Any]:
    # Imported here because the package takes 1.8 s to load.
    from runpod.api.graphql import run_graphql_query  # noqa: PLC0415

    answer: dict[str, Any] = run_graphql_query(_QUERY, api_key=key)
    return answer


def parse(answer: dict[str, Any]) -> Balance:
    """Reads the answer of the query.

    Raises:
        ValueError: it holds no balance.
    """
    try:
        row = answer["data"]["myself"]
        return Balance(Decimal(str(row["clientBalance"])), Decimal(str(row["currentSpendPerHr"])))
    except (KeyError, TypeError, InvalidOperation) as error:
        raise ValueError("the answer holds no balance") from error
