"""How many pods the waiting jobs are worth where nobody set a deadline: waiting has a price, and so has a pod. Pure.

For each number of pods that could be opened now, everything is added up: what the pods cost until the work is done,
what the jobs on lanes with a price cost, and what the waiting is worth. The least sum wins; with equal sums the fewest
pods. Where all other lanes are free and jobs small, opening one pod pays from W* = mu (sigma + x*) jobs on, with
x* = [r mu + sqrt(r^2 mu^2 + 2 v mu p (mu + p) r sigma)] / (v mu p): mu and p are what the lanes and a pod do in a
second, sigma the cold start, r the price of a second and v the value of a second that one job waits less.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from hybrid_video import planner
from hybrid_video.planner import Resource
from hybrid_video.scaling.outlook import Server, outlook
from hybrid_video.scaling.state import HOUR_S, LaneView, PodOffer, PodView

NEGLIGIBLE_USD = 1e-7
"""Differences below this are rounding; they open nothing."""


@dataclass(frozen=True)
class Values:
    """What time is worth: a job's waiting, and the whole's end. The larger of the two sums counts."""

    waiting_usd_per_job_s: float
    end_usd_per_s: float = 0.0

    def of(self, flow_s: float, duration_s: float) -> float:
        """Dollars that this much time is worth."""
        return max(self.waiting_usd_per_job_s * flow_s, self.end_usd_per_s * duration_s)


@dataclass(frozen=True)
class Backlog:
    """Waiting jobs, and where they can be made.

    Args:
        waiting: jobs that no lane holds.
        lanes: the lanes that are not pods'.
        pods: the pods that take jobs or will.
        headroom_usd: what may be spent on pods and jobs; None for no limit.
    """

    waiting: int
    lanes: Sequence[LaneView]
    pods: Sequence[PodView]
    offer: PodOffer
    values: Values
    headroom_usd: float | None = None

    @property
    def priced(self) -> bool:
        """Whether a lane that is not a pod's costs money."""
        return any(lane.price_usd > 0 for lane in self.lanes)


@dataclass(frozen=True)
class Worth:
    """The best number of pods to open, beside opening none."""

    pods: int
    saved_usd: float
    without_s: float
    with_s: float


def worth_opening(backlog: Backlog, room: int) -> Worth:
    """How many pods to open now for the jobs that wait."""
    if backlog.waiting <= 0 or room <= 0:
        return Worth(0, 0.0, 0.0, 0.0)
    look = _planned if backlog.priced else _free
    best = base = look(backlog, 0)
    chosen = 0
    if base.duration_s <= backlog.offer.cold_start_s or _gone_by_then(backlog):
        return Worth(0, 0.0, base.duration_s, base.duration_s)
    for pods in range(1, room + 1):
        found = look(backlog, pods)
        if backlog.headroom_usd is not None and found.money_usd > max(backlog.headroom_usd, base.money_usd):
            break
        if found.total_usd < best.total_usd - NEGLIGIBLE_USD:
            best, chosen = found, pods
    saved = base.total_usd - best.total_usd if math.isfinite(base.total_usd) else math.inf
    return Worth(chosen, saved, base.duration_s, best.duration_s)


def _gone_by_then(backlog: Backlog) -> bool:
    """Whether what runs already would have done all the work by the time a pod is ready: less than mu sigma."""
    servers = [Server(lane.free_in_s, lane.service_s) for lane in backlog.lanes if lane.price_usd <= 0]
    servers += [pod_server(pod, backlog.offer) for pod in backlog.pods if pod.state != "starting"]
    usable = [server for server in servers if server.service_s > 0]
    work = backlog.waiting + sum(server.free_s / server.service_s for server in usable)
    return work <= backlog.offer.cold_start_s * sum(1 / server.service_s for server in usable)


def threshold_jobs(rate_per_s: float, offer: PodOffer, usd_per_job_s: float) -> float:
    """W*: the work from which opening one pod pays, where lanes are free of charge and nothing more comes."""
    if usd_per_job_s <= 0 or rate_per_s <= 0 or offer.service_s <= 0:
        return math.inf if usd_per_job_s <= 0 else 0.0
    pod, usd, start_s = 1 / offer.service_s, offer.usd_per_s, offer.cold_start_s
    root = math.sqrt(
        (usd * rate_per_s) ** 2 + 2 * usd_per_job_s * rate_per_s * pod * (rate_per_s + pod) * usd * start_s
    )
    return rate_per_s * (start_s + (usd * rate_per_s + root) / (usd_per_job_s * rate_per_s * pod))


def without_pod_usd(backlog: Backlog, pod: PodView) -> tuple[float, float]:
    """What pods, jobs and waiting come to with a pod that is open, and without it."""
    rest = replace(backlog, pods=[other for other in backlog.pods if other is not pod])
    look = _planned if backlog.priced else _free
    return look(backlog, 0).total_usd, look(rest, 0).total_usd


@dataclass(frozen=True, slots=True)
class _Sum:
    total_usd: float
    money_usd: float
    duration_s: float


def _free(backlog: Backlog, opened: int) -> _Sum:
    """Everything added up where only pods cost money."""
    offer = backlog.offer
    servers = [Server(lane.free_in_s, lane.service_s) for lane in backlog.lanes]
    servers += [pod_server(pod, offer) for pod in backlog.pods]
    servers += [Server(offer.cold_start_s, offer.service_s)] * opened
    found = outlook(servers, backlog.waiting)
    if found is None:
        return _Sum(math.inf, 0.0, math.inf)
    ends = found.ends_s[len(backlog.lanes) :]
    money = sum(kept_usd(pod, offer, end_s) for pod, end_s in zip(backlog.pods, ends, strict=False))
    money += sum(bill_usd(offer, end_s or offer.cold_start_s) for end_s in ends[len(backlog.pods) :])
    return _Sum(money + backlog.values.of(found.flow_s, found.duration_s), money, found.duration_s)


def _planned(backlog: Backlog, opened: int) -> _Sum:
    """The same where other lanes have a price: the plan that the dispatcher would follow decides who takes what."""
    offer = backlog.offer
    resources = [*lane_resources(backlog.lanes), *pod_resources(backlog.pods, offer, opened)]
    if not any(resource.slots for resource in resources):
        return _Sum(math.inf, 0.0, math.inf)
    plan = planner.balanced(resources, backlog.waiting, HOUR_S * backlog.values.end_usd_per_s)
    money = float(plan.cost_usd) + opening_usd(offer, opened, plan.duration_s)
    flow_s = 0.5 * backlog.waiting * plan.duration_s
    return _Sum(money + backlog.values.of(flow_s, plan.duration_s), money, plan.duration_s)


def pod_server(pod: PodView, offer: PodOffer) -> Server:
    """A pod as it stands: free once it is up and has done what it holds."""
    service_s = pod.service_s or offer.service_s
    return Server(pod.ready_in_s + (pod.free_in_s or pod.jobs * service_s / 2), service_s)


def lane_resources(lanes: Sequence[LaneView]) -> list[Resource]:
    """Lanes by backend, for the planner."""
    groups: dict[tuple[str, float, Decimal], list[float]] = {}
    for lane in lanes:
        groups.setdefault((lane.backend, lane.service_s, lane.price_usd), []).append(lane.free_in_s)
    return [
        Resource(f"{backend}/{service_s:g}/{price}", len(free), service_s, price, tuple(free))
        for (backend, service_s, price), free in groups.items()
    ]


def pod_resources(pods: Sequence[PodView], offer: PodOffer | None, opened: int = 0) -> list[Resource]:
    """Pods as resources whose clips cost the seconds they take; opening is not in that price.

    By the hour, an hour that is paid for costs nothing more.
    """
    found = []
    for pod in pods:
        service_s = pod.service_s or (offer.service_s if offer else 0.0)
        hourly = offer is not None and offer.billing == "hour"
        price = Decimal(0) if hourly else pod.price_usd_per_h / 3600 * Decimal(service_s)
        server = pod_server(pod, offer) if offer else Server(pod.ready_in_s + pod.free_in_s, service_s)
        found.append(Resource(pod.name, 1, service_s, price, (server.free_s,)))
    if opened and offer is not None:
        price = Decimal(0) if offer.billing == "hour" else offer.price_usd_per_h / 3600 * Decimal(offer.service_s)
        found.append(Resource("new pods", opened, offer.service_s, price, (offer.cold_start_s,) * opened))
    return found


def opening_usd(offer: PodOffer, opened: int, until_s: float) -> float:
    """What opening so many pods costs beside the seconds of their jobs: their start, or every hour begun."""
    if offer.billing == "hour":
        return opened * bill_usd(offer, max(until_s, offer.cold_start_s))
    return opened * offer.usd_per_s * offer.cold_start_s


def bill_usd(offer: PodOffer, alive_s: float) -> float:
    """What a pod that lives so long costs."""
    if offer.billing == "hour":
        return float(offer.price_usd_per_h) * max(1, math.ceil(alive_s / HOUR_S - 1e-9))
    return offer.usd_per_s * alive_s


def kept_usd(pod: PodView, offer: PodOffer, end_s: float) -> float:
    """What keeping an open pod until it has done its share costs from now on; nothing where it has none."""
    if end_s <= 0:
        return 0.0
    price = float(pod.price_usd_per_h)
    if offer.billing == "hour":
        return price * (math.ceil((pod.age_s + end_s) / HOUR_S) - math.ceil(max(pod.age_s, 1.0) / HOUR_S))
    return price / HOUR_S * end_s
