"""Pods for people: what each one does, costs and was opened for, beside what RunPod lists. Reads only."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from hybrid_video.backends.runpod.pods import PodsClient
from hybrid_video.errors import BackendError, ConfigurationError
from hybrid_video.installation import installation_id
from hybrid_video.ledger import Ledger
from hybrid_video.models import Model, Usd, utc_now
from hybrid_video.pods import accounting
from hybrid_video.pods.accounting import Tariff
from hybrid_video.pods.naming import whose
from hybrid_video.pods.orphans import ListedPod, listed_pod
from hybrid_video.pods.records import PodRecord, PodState
from hybrid_video.pods.store import PodStore
from hybrid_video.settings import Settings


class PodLine(Model):
    """One pod. `cost_usd` is `jobs_usd` and `overhead_usd` together; seconds are of this machine's clock.

    `difference_usd` is what RunPod's bill says beyond our own reckoning, known once the bill is complete.
    """

    name: str
    pod_id: str
    state: PodState
    provider_status: str = ""
    gpu: str
    cloud: str
    data_center: str
    price_usd_per_h: Usd
    batch: str
    opened_because: str
    closed_because: str
    error: str
    opened_at: datetime
    ready_at: datetime | None
    busy_at: datetime | None
    closed_at: datetime | None
    age_s: float
    lease_left_s: float | None
    jobs: int
    open_attempts: int
    cost_usd: Usd
    jobs_usd: Usd
    overhead_usd: Usd
    reserved_usd: Usd
    billed_usd: Usd | None
    difference_usd: Usd | None

    def to_json(self) -> dict[str, Any]:
        """The line with money as plain strings."""
        data: dict[str, Any] = _plain(self.model_dump(mode="python"))
        return data


class PodListing(Model):
    """The pods of this installation, and what else the account holds. `notice` says why RunPod was not asked."""

    alive: tuple[PodLine, ...]
    ended: tuple[PodLine, ...]
    without_record: tuple[ListedPod, ...] = ()
    other_installations: tuple[ListedPod, ...] = ()
    foreign: int = 0
    max_pods: int
    planned_usd_per_h: Usd
    spend_usd_per_h: Usd | None = None
    cost_usd: Usd
    notice: str = ""

    def to_json(self) -> dict[str, Any]:
        """The listing with money as plain strings."""
        data: dict[str, Any] = _plain(self.model_dump(mode="python"))
        return data


async def list_pods(
    settings: Settings, ledger: Ledger, *, client: PodsClient | None = None, since: timedelta = timedelta(days=7)
) -> PodListing:
    """Pods that may cost money, and those that ended lately. Works without RunPod, and says so."""
    lines = await asyncio.to_thread(pod_lines, settings, ledger, since=since)
    listed: dict[str, ListedPod] | None = None
    notice = ""
    own = client is None
    try:
        client = client or PodsClient.from_settings(settings.runpod)
        listed = {pod.id: listed_pod(pod) for pod in await client.list() if pod.status != "TERMINATED"}
    except (BackendError, ConfigurationError) as error:
        notice = f"what RunPod lists is not known: {error.message}"
    finally:
        if own and client is not None:
            await client.close()
    return _put_together(lines, listed, settings, notice)


def pod_lines(settings: Settings, ledger: Ledger, *, since: timedelta = timedelta(days=7)) -> list[PodLine]:
    """What the ledger alone knows of pods that live, or ended within `since`; the oldest first."""
    tariff, now = Tariff.of(settings), utc_now()
    return [_line(pod, ledger, tariff, now) for pod in PodStore(ledger).all(since=now - since)]


def _line(pod: PodRecord, ledger: Ledger, tariff: Tariff, now: datetime) -> PodLine:
    cost = tariff.cost(pod, now)
    account = accounting.account(ledger, pod, cost)
    reckoned = pod.cost_usd if pod.cost_usd is not None else cost
    return PodLine(
        **pod.model_dump(
            include={
                "name", "state", "gpu", "cloud", "data_center", "price_usd_per_h", "batch", "opened_because",
                "closed_because", "error", "ready_at", "busy_at", "closed_at", "reserved_usd", "billed_usd",
            }
        ),
        pod_id=pod.pod_id or "",
        opened_at=pod.intended_at,
        age_s=round(((pod.closed_at or now) - pod.intended_at).total_seconds(), 1),
        lease_left_s=round((pod.lease_until - now).total_seconds(), 1) if pod.lease_until and pod.alive else None,
        jobs=account.jobs,
        open_attempts=account.open_attempts,
        cost_usd=cost,
        jobs_usd=account.jobs_usd,
        overhead_usd=account.overhead_usd,
        difference_usd=pod.billed_usd - reckoned if pod.reconciled_at and pod.billed_usd is not None else None,
    )  # fmt: skip


def _put_together(
    lines: list[PodLine], listed: dict[str, ListedPod] | None, settings: Settings, notice: str
) -> PodListing:
    found = listed or {}
    lines = [
        line.model_copy(update={"provider_status": found[line.pod_id].status}) if line.pod_id in found else line
        for line in lines
    ]
    alive = tuple(line for line in lines if line.state not in ("closed", "failed"))
    names = {line.name for line in alive}
    installation = installation_id(settings.storage.home)
    ours = [pod for pod in found.values() if pod.name in names or whose(pod.name, installation) == "ours"]
    others = [pod for pod in found.values() if pod not in ours and whose(pod.name, installation) != "foreign"]
    return PodListing(
        alive=alive,
        ended=tuple(line for line in lines if line.state in ("closed", "failed")),
        without_record=tuple(pod for pod in ours if pod.name not in names),
        other_installations=tuple(others),
        foreign=len(found) - len(ours) - len(others),
        max_pods=settings.pods.max_pods,
        planned_usd_per_h=sum((line.price_usd_per_h for line in alive), Decimal(0)),
        spend_usd_per_h=sum((pod.cost_usd_per_h for pod in ours), Decimal(0)) if listed is not None else None,
        cost_usd=sum((line.cost_usd for line in alive), Decimal(0)),
        notice=notice,
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value
