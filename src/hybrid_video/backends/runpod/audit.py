"""What RunPod says beside what we know: pods named like ours by hand, and the endpoint's bill. Reads only.

Pods that the product opened itself are compared by `hybrid_video.pods`.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from hybrid_video.backends.runpod.pod_records import Pod
from hybrid_video.backends.runpod.pods import PodsClient
from hybrid_video.models import Model, Usd
from hybrid_video.pods.naming import is_well_formed
from hybrid_video.settings import RunPodSettings

POD_PREFIX = "hybrid-video"


class StrayPod(Model):
    """A pod that somebody named like ours and that the settings do not know. It may cost money."""

    id: str
    name: str
    status: str
    cost_usd_per_h: Usd


class BillLine(Model):
    """One day (UTC) of the serverless endpoint: RunPod's bill and the ledger's sum."""

    day: str
    billed_usd: Usd
    ledger_usd: Usd

    @property
    def difference_usd(self) -> Decimal:
        """What RunPod billed beyond the ledger: start-up and idle seconds, or a job the ledger does not know."""
        return self.billed_usd - self.ledger_usd


async def stray_pods(client: PodsClient, settings: RunPodSettings) -> tuple[StrayPod, ...]:
    """Living pods that carry our name prefix, are not configured, and cannot have been opened by the product.

    Raises:
        BackendError: the list cannot be had.
    """
    return tuple(
        StrayPod(id=pod.id, name=pod.name, status=pod.status, cost_usd_per_h=pod.cost)
        for pod in await client.list()
        if _is_ours(pod) and pod.id not in settings.pod_ids and pod.status != "TERMINATED"
    )


async def bill_lines(
    client: PodsClient, settings: RunPodSettings, ledger_usd: Mapping[str, Decimal]
) -> tuple[BillLine, ...]:
    """The endpoint's bill beside the ledger's sums, for the days that `ledger_usd` names.

    Raises:
        BackendError: the bill cannot be had.
    """
    endpoint = settings.endpoint_url.rsplit("/", 1)[-1]
    bills = await client.serverless_bills(endpoint_id=endpoint, bucket="day", last=max(1, len(ledger_usd)))
    billed = dict.fromkeys(ledger_usd, Decimal(0))
    for bill in bills:
        day = bill.start_time.date().isoformat()
        if day in billed:
            billed[day] += bill.total_amount
    return tuple(
        BillLine(day=day, billed_usd=amount, ledger_usd=ledger_usd[day])
        for day, amount in sorted(billed.items())
        if amount or ledger_usd[day]
    )


def _is_ours(pod: Pod) -> bool:
    return pod.name.startswith(POD_PREFIX) and not is_well_formed(pod.name)
