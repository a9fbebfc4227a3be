"""Rented GPUs on a virtual clock: they start slowly, cost from the moment they are asked for, and end when told."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from hybrid_video.autoscaler import PodOffer, PodView, ScaleDecision
from hybrid_video.scaling.state import PodPhase
from hybrid_video.simulation.world import PodKind

OVERDUE = 0.25
"""Share of its expected time that an overdue start or clip is thought to need still, as in the engine."""


def lognormal_s(rng: random.Random, mean_s: float, cv: float) -> float:
    """A time with this mean and coefficient of variation."""
    if not cv:
        return mean_s
    sigma2 = math.log(1 + cv**2)
    return mean_s * rng.lognormvariate(-sigma2 / 2, math.sqrt(sigma2))


@dataclass(slots=True)
class SimulatedPod:
    """One pod that is alive."""

    name: str
    opened_s: float
    ready_s: float
    job: object | None = None
    until_s: float = 0.0
    began_s: float = 0.0
    idle_since_s: float = 0.0
    busy_total_s: float = 0.0
    ready: bool = False


@dataclass
class Fleet:
    """The pods of one run, and their bill.

    Args:
        kind: what is opened.
        believed_start_s: what the policy is told of the cold start; None for the true mean.
    """

    kind: PodKind
    rng: random.Random
    believed_start_s: float | None = None
    alive: dict[str, SimulatedPod] = field(default_factory=dict)
    drained: frozenset[str] = frozenset()
    opened: int = 0
    most: int = 0
    decisions: int = 0
    cost_usd: float = 0.0
    start_usd: float = 0.0
    idle_usd: float = 0.0

    def offer(self) -> PodOffer:
        """What the policy is offered."""
        start_s = self.kind.mean_start_s if self.believed_start_s is None else self.believed_start_s
        return PodOffer(self.kind.price_usd_per_h, self.kind.service_s, start_s, self.kind.billing)

    def views(self, now_s: float) -> tuple[PodView, ...]:
        """The pods as a watcher sees them."""
        return tuple(self._view(pod, now_s) for pod in self.alive.values())

    def _view(self, pod: SimulatedPod, now_s: float) -> PodView:
        kind, age_s = self.kind, now_s - pod.opened_s
        if not pod.ready:
            left_s = self.offer().cold_start_s - age_s
            overdue_s = OVERDUE * self.offer().cold_start_s
            ready_in_s = left_s if left_s > 0 else overdue_s
            return PodView(pod.name, "starting", ready_in_s, 0, 0.0, age_s, kind.price_usd_per_h, kind.service_s)
        state: PodPhase = "draining" if pod.name in self.drained else "ready"
        if pod.job is None:
            idle_s = now_s - pod.idle_since_s
            return PodView(pod.name, state, 0.0, 0, idle_s, age_s, kind.price_usd_per_h, kind.service_s)
        left_s = pod.began_s + kind.service_s - now_s
        free_in_s = left_s if left_s > 0 else OVERDUE * kind.service_s
        return PodView(pod.name, state, 0.0, 1, 0.0, age_s, kind.price_usd_per_h, kind.service_s, free_in_s)

    def carry_out(self, decision: ScaleDecision, now_s: float) -> list[SimulatedPod]:
        """Closes, drains and opens; returns the pods that were opened."""
        self.decisions += bool(decision.open)
        for name in decision.close:
            self._close(self.alive.pop(name), now_s)
        self.drained = frozenset(decision.drain)
        opened = []
        for _ in range(decision.open):
            self.opened += 1
            pod = SimulatedPod(f"pod-{self.opened}", now_s, now_s + self.rng.uniform(*self.kind.cold_start_s))
            self.alive[pod.name] = pod
            opened.append(pod)
        self.most = max(self.most, len(self.alive))
        return opened

    def free(self) -> Iterator[SimulatedPod]:
        """Pods that may take a job now."""
        return (p for p in self.alive.values() if p.ready and p.job is None and p.name not in self.drained)

    def start(self, pod: SimulatedPod, job: object, now_s: float) -> tuple[float, bool]:
        """A pod takes a job; returns when the attempt ends and whether it succeeds."""
        seconds = lognormal_s(self.rng, self.kind.service_s, self.kind.cv)
        failed = self.kind.failure > 0 and self.rng.random() < self.kind.failure
        pod.job, pod.began_s = job, now_s
        pod.until_s = now_s + (0.6 * seconds if failed else seconds)
        return pod.until_s, not failed

    def finish(self, pod: SimulatedPod, now_s: float) -> None:
        """The attempt is over."""
        pod.busy_total_s += now_s - pod.began_s
        pod.job, pod.idle_since_s = None, now_s

    def close_all(self, now_s: float) -> None:
        """The end of the simulation."""
        for pod in self.alive.values():
            self._close(pod, now_s)
        self.alive.clear()

    def _close(self, pod: SimulatedPod, now_s: float) -> None:
        assert pod.job is None or now_s >= pod.until_s, f"{pod.name} holds a job"  # noqa: S101 - must not pass
        cost = self.kind.bill_usd(now_s - pod.opened_s)
        start_s = min(pod.ready_s, now_s) - pod.opened_s
        self.cost_usd += cost
        self.start_usd += self.kind.usd_per_s * start_s
        self.idle_usd += cost - self.kind.usd_per_s * (start_s + pod.busy_total_s)
