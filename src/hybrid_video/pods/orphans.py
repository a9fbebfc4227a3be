"""What RunPod lists beside what the ledger knows: pods of ours without a living record are ended, others only shown.

`stop_everything` works with nothing but the API key: no ledger, no record, only the names.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from datetime import datetime
from decimal import Decimal

from hybrid_video.backends.runpod.pod_records import Pod
from hybrid_video.backends.runpod.pods import PodsClient
from hybrid_video.errors import BackendError
from hybrid_video.models import Model, Usd
from hybrid_video.pods.naming import is_product_pod, whose
from hybrid_video.pods.records import PodRecord
from hybrid_video.pods.store import PodStore

log = logging.getLogger(__name__)

TOLERANCE = Decimal("1.02")
"""Spending per hour may be above the plan by so much before it is an alarm: prices are rounded."""
ROUNDS = 3
"""How often a stop of everything looks again for pods that were being created meanwhile."""


class ListedPod(Model):
    """A pod as the provider lists it."""

    id: str
    name: str
    status: str
    gpu: str
    cost_usd_per_h: Usd


class Stopped(Model):
    """What a stop of everything came to."""

    ended: tuple[ListedPod, ...]
    failed: tuple[str, ...]
    left_alone: tuple[ListedPod, ...]
    """Pods of other installations of this product."""


def listed_pod(pod: Pod) -> ListedPod:
    """The provider's record in short."""
    return ListedPod(id=pod.id, name=pod.name, status=pod.status, gpu=pod.gpu_name, cost_usd_per_h=pod.cost)


def orphan_of(pod: Pod, installation: str, store: PodStore, listed_at: datetime) -> PodRecord | None:
    """The record, now `closing`, of a listed pod of ours that no living record stands for; None for every other pod.

    The record is read after the list was had, and every record is written before its pod is created: a pod that another
    process is opening at this moment is not taken for an orphan. Nor is one that ended after the list was asked for.
    """
    if not is_product_pod(pod.name):
        return None
    known = store.get(pod.name)
    if known is None:
        if whose(pod.name, installation) != "ours":
            return None
        log.warning("pod %s (%s) carries our name and has no record; it is ended", pod.name, pod.id)
        return store.take_in(pod)
    if known.alive or known.pod_id not in (None, pod.id):
        return None
    if known.closed_at is not None and known.closed_at >= listed_at:
        return None
    log.warning("pod %s (%s) still exists though it counted as %s; it is ended", pod.name, pod.id, known.state)
    return store.found_again(pod.name, pod.id)


def spending_alarm(listed: Iterable[Pod], alive: Iterable[PodRecord], installation: str) -> str:
    """A sentence when our pods cost more per hour than the ledger's records say, or ""."""
    alive = tuple(alive)
    known = {pod.name for pod in alive}
    ours = [pod for pod in listed if pod.name in known or whose(pod.name, installation) == "ours"]
    actual = sum((pod.cost for pod in ours if pod.costs_money), Decimal(0))
    planned = sum((pod.price_usd_per_h for pod in alive), Decimal(0))
    if actual <= planned * TOLERANCE:
        return ""
    return (
        f"our pods cost ${actual:f} per hour by RunPod's list, and the ledger knows of ${planned:f}; "
        "`hybrid-video pods list` shows them, `hybrid-video pods stop-all` ends them"
    )


async def stop_everything(
    client: PodsClient,
    *,
    installation: str,
    known: frozenset[str] = frozenset(),
    all_installations: bool = False,
    found: Callable[[Pod], None] = lambda _pod: None,
    tell: Callable[[str], None] = lambda _text: None,
) -> Stopped:
    """Ends every pod of this installation (by name, or named in `known`), or of all of them; touches no other pod.

    Args:
        found: told of each pod before it is ended, so that its record can be completed.

    Raises:
        BackendError: the list cannot be had, so nothing is known.
    """
    ended: dict[str, ListedPod] = {}
    failed: dict[str, str] = {}
    others: dict[str, ListedPod] = {}
    for _ in range(ROUNDS):
        pods = [pod for pod in await client.list() if pod.status != "TERMINATED"]
        mine = [pod for pod in pods if _is_meant(pod, installation, known, all_installations)]
        others = {
            pod.id: listed_pod(pod)
            for pod in pods
            if pod not in mine and whose(pod.name, installation) == "other installation"
        }
        mine = [pod for pod in mine if pod.id not in ended]
        if not mine:
            break
        for pod in mine:
            await asyncio.to_thread(found, pod)
        outcomes = await asyncio.gather(*(client.terminate(pod.id) for pod in mine), return_exceptions=True)
        for pod, outcome in zip(mine, outcomes, strict=True):
            if isinstance(outcome, BackendError):
                failed[pod.id] = f"pod {pod.name!r} ({pod.id}): {outcome.message}"
                tell(failed[pod.id])
            elif isinstance(outcome, BaseException):
                raise outcome
            else:
                failed.pop(pod.id, None)
                ended[pod.id] = listed_pod(pod)
                tell(f"ended pod {pod.name!r} ({pod.id}, {pod.gpu_name}, ${pod.cost:f} per hour)")
    return Stopped(ended=tuple(ended.values()), failed=tuple(failed.values()), left_alone=tuple(others.values()))


def _is_meant(pod: Pod, installation: str, known: frozenset[str], all_installations: bool) -> bool:
    belongs = whose(pod.name, installation)
    if pod.name in known or belongs == "ours":
        return True
    return all_installations and belongs == "other installation"
