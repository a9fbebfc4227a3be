"""RunPod's bill beside the ledger: what a pod really cost is booked once the bill cannot change any more."""

from __future__ import annotations

import asyncio
import math
from datetime import datetime, timedelta
from decimal import Decimal

from hybrid_video.backends.runpod.pods import PodsClient
from hybrid_video.ledger import Ledger
from hybrid_video.models import Model, Usd, utc_now
from hybrid_video.pods import accounting
from hybrid_video.pods.accounting import NANO, Tariff
from hybrid_video.pods.records import PodRecord
from hybrid_video.pods.store import PodStore

FINAL_AFTER_S = 900.0
"""How long after a pod's end its bill counts as complete. How fresh RunPod's figures are is not documented; what it
books of a pod comes every five minutes (docs.runpod.io/accounts-billing/billing)."""
SETTLES_FOR = timedelta(days=7)
"""So long after its end a pod's shares are corrected when a job on it settles late."""
MOST_BUCKETS = 1000


class PodBillLine(Model):
    """One pod's bill. `difference_usd` is what RunPod asks beyond what was booked by our clock before."""

    pod: str
    pod_id: str
    booked_usd: Usd
    billed_usd: Usd
    final: bool

    @property
    def difference_usd(self) -> Decimal:
        """Positive: RunPod asks more."""
        return self.billed_usd - self.booked_usd


async def settle_bills(
    client: PodsClient, ledger: Ledger, store: PodStore, tariff: Tariff, *, final_after_s: float = FINAL_AFTER_S
) -> tuple[PodBillLine, ...]:
    """Reads the bill of every pod that is gone and not reconciled; books a final one to the nano-dollar.

    Raises:
        BackendError: the bill cannot be had.
    """
    lines = []
    for pod in await asyncio.to_thread(store.unreconciled):
        line = await _settle(client, store, tariff, pod, final_after_s)
        if line is not None:
            lines.append(line)
    await asyncio.to_thread(_correct_late, ledger, store, tariff)
    return tuple(lines)


async def _settle(
    client: PodsClient, store: PodStore, tariff: Tariff, pod: PodRecord, final_after_s: float
) -> PodBillLine | None:
    if pod.pod_id is None or pod.state != "closed":
        return None
    now = utc_now()
    billed = await bill_of(client, pod, tariff, now)
    ended_s = (now - (pod.closed_at or now)).total_seconds()
    final = billed > 0 and ended_s * tariff.time_scale >= final_after_s
    booked = tariff.cost(pod, now)
    detail = f"RunPod bills ${billed:f}; ${booked:f} was booked by our clock"
    await asyncio.to_thread(store.billed, pod.name, billed, final=final, detail=detail)
    return PodBillLine(pod=pod.name, pod_id=pod.pod_id, booked_usd=booked, billed_usd=billed, final=final)


async def bill_of(client: PodsClient, pod: PodRecord, tariff: Tariff, now: datetime) -> Decimal:
    """Everything RunPod has billed for a pod so far."""
    hours = (now - pod.intended_at).total_seconds() * tariff.time_scale / 3600
    buckets = min(MOST_BUCKETS, math.ceil(hours) + 2)
    bills = await client.pod_bills(pod_id=pod.pod_id or "", bucket="hour", last=buckets)
    return sum((bill.total_amount for bill in bills), Decimal(0)).quantize(NANO)


async def trace_lost(
    client: PodsClient, store: PodStore, tariff: Tariff, pod: PodRecord, *, longest_s: float
) -> str | None:
    """RunPod's id of a pod that nobody saw: its create answer was lost, and it had ended itself before anyone looked.

    The bill names ids and no names, so it is found by elimination: billed since the create, known to no record, not
    running any more, and not dearer than this pod can have become. None when there is no such thing.

    Args:
        longest_s: the longest it can have lived, in billed seconds.

    Raises:
        BackendError: the bill or the list cannot be had.
    """
    hours = (utc_now() - pod.intended_at).total_seconds() * tariff.time_scale / 3600
    bills = await client.pod_bills(bucket="hour", last=min(MOST_BUCKETS, math.ceil(hours) + 2))
    running = {listed.id for listed in await client.list()}
    known = {record.pod_id for record in await asyncio.to_thread(store.all)}
    amounts: dict[str, Decimal] = {}
    for bill in bills:
        if bill.pod_id and bill.pod_id not in running | known:
            amounts[bill.pod_id] = amounts.get(bill.pod_id, Decimal(0)) + bill.total_amount
    most = tariff.for_seconds(longest_s, pod.price_usd_per_h, pod.storage_usd_per_h)
    return next((pod_id for pod_id, amount in amounts.items() if 0 < amount <= most), None)


def _correct_late(ledger: Ledger, store: PodStore, tariff: Tariff) -> None:
    """Jobs that settled after their pod had gone are no overhead any more."""
    for pod in store.all(since=utc_now() - SETTLES_FOR):
        if pod.state != "closed":
            continue
        cost = tariff.cost(pod)
        if accounting.account(ledger, pod, cost).overhead_usd != pod.booked_usd:
            accounting.book(ledger, pod.name, cost)
