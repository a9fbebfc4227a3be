"""The virtual clock: events in order of time, each followed by a question to the policy."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from hybrid_video.dispatcher import LaneState
from hybrid_video.simulation.policies import Policy, View
from hybrid_video.simulation.world import NANO, Incident, Job, Site

SAME_S = 1e-9
"""Events so close together happen at once, before anybody is asked."""

TICK = 0.5
"""Share of the shortest clip after which the policy is asked again though nothing happened, as the engine does."""

OVERDUE = 0.25
"""Share of its expected time that an overdue clip is thought to need still, as in the engine."""


@dataclass
class Outcome:
    """What a simulated batch came to."""

    duration_s: float = 0.0
    cost_nano: int = 0
    most_held_nano: int = 0
    """The most that was ever spent and reserved at once."""
    split: dict[str, int] = field(default_factory=dict)
    attempts: int = 0
    failures: int = 0
    loads: int = 0
    unmade: int = 0
    ends_s: dict[str, float] = field(default_factory=dict)

    @property
    def cost_usd(self) -> Decimal:
        """Dollars, exact."""
        return Decimal(self.cost_nano) / NANO

    @property
    def most_held_usd(self) -> Decimal:
        """Dollars ever spent and reserved at once."""
        return Decimal(self.most_held_nano) / NANO


@dataclass
class _Slot:
    """One slot of a site."""

    site: Site
    state: LaneState
    job: Job | None = None
    began_s: float = 0.0
    serial: int = 0
    succeeds: bool = True
    reserved_nano: int = 0
    started: bool = False
    starting_s: float = 0.0
    """Part of the running attempt in which the slot only starts."""


class _Clock:
    def __init__(self, sites: Sequence[Site], jobs: Sequence[Job], policy: Policy, rng: random.Random) -> None:
        self.now_s = 0.0
        self.policy = policy
        self.rng = rng
        self.slots = {
            f"{site.key}-{number}": _Slot(site, LaneState(f"{site.key}-{number}", site.key))
            for site in sites
            for number in range(site.slots)
        }
        self.jobs = {job.id: job for job in jobs}
        self.away: dict[str, float] = {}
        self.outcome = Outcome(split={site.key: 0 for site in sites})
        self.events: list[tuple[float, int, str, object]] = []
        self.reserved_nano = 0
        self._tick_s = TICK * min(site.service_s for site in sites)
        self._serial = 0
        policy.begin(sites)
        for job in jobs:
            if job.arrives_s:
                self.at(job.arrives_s, "arrive", job)
            else:
                policy.add(job)

    def at(self, time_s: float, what: str, about: object) -> int:
        """Notes an event; returns its number."""
        self._serial += 1
        heapq.heappush(self.events, (time_s, self._serial, what, about))
        return self._serial

    def ask(self) -> None:
        """Lets the policy fill the slots."""
        lanes = [self._seen(slot) for slot in self.slots.values() if slot.site.key not in self.away]
        held = self.outcome.cost_nano + self.reserved_nano
        gone = {key: tuple(lane for lane, slot in self.slots.items() if slot.site.key == key) for key in self.away}
        away = {key: (names, self.now_s - self.away[key]) for key, names in gone.items()}
        for job, lane in self.policy.choose(View(self.now_s, lanes, held, away)):
            self._start(self.slots[lane], self.jobs[job])
        idle = any(lane.outstanding == 0 and self.slots[lane.id].job is None for lane in lanes)
        if idle and self.events and self.events[0][0] > self.now_s + self._tick_s:
            self.at(self.now_s + self._tick_s, "tick", None)

    def _seen(self, slot: _Slot) -> LaneState:
        state = slot.state
        if slot.job is None:
            state.free_s, state.outstanding = 0.0, 0
        else:
            expected = self.policy.expected_s(slot.site.key, slot.job) + slot.starting_s
            left = slot.began_s + expected - self.now_s
            state.free_s, state.outstanding = (left if left > 0 else expected * OVERDUE), 1
        return state

    def _start(self, slot: _Slot, job: Job) -> None:
        assert slot.job is None, f"{slot.state.id} is busy"  # noqa: S101 - a policy that doubles jobs must not pass
        seconds, slot.succeeds = slot.site.attempt(job, self.rng)
        if slot.state.model and slot.state.model != job.model:
            self.outcome.loads += 1
            seconds += slot.site.load_s
        slot.starting_s, slot.started = (0.0 if slot.started else slot.site.start_s), True
        seconds += slot.starting_s
        slot.job, slot.began_s, slot.state.model = job, self.now_s, job.model
        slot.reserved_nano = slot.site.reserved_nano(job)
        self.reserved_nano += slot.reserved_nano
        held = self.outcome.cost_nano + self.reserved_nano
        self.outcome.most_held_nano = max(self.outcome.most_held_nano, held)
        self.outcome.attempts += 1
        slot.serial = self.at(self.now_s + seconds, "end", slot)

    def end(self, slot: _Slot, *, succeeds: bool) -> None:
        """An attempt is over: settled, and back in the queue if it failed."""
        job = slot.job
        assert job is not None  # noqa: S101 - ends are noted with a job
        seconds = max(0.0, self.now_s - slot.began_s - slot.starting_s)
        self.reserved_nano -= slot.reserved_nano
        self.outcome.cost_nano += slot.site.billed_nano(job, seconds, succeeds=succeeds)
        if succeeds:
            self.outcome.split[slot.site.key] += 1
            assert job.id not in self.outcome.ends_s, f"{job.id} was made twice"  # noqa: S101
            self.outcome.ends_s[job.id] = self.outcome.duration_s = self.now_s
        else:
            self.outcome.failures += 1
        slot.job = None
        self.policy.observed(slot.site.key, job, seconds, succeeds)
        if not succeeds:
            self.policy.add(job, failed_on=slot.site.key)

    def happen(self, time_s: float, serial: int, what: str, about: object) -> None:
        """One event; the end of an attempt that an incident ended before is nothing."""
        self.now_s = time_s
        if isinstance(about, _Slot):
            if serial == about.serial:
                self.end(about, succeeds=about.succeeds)
        elif isinstance(about, Job):
            self.policy.add(about)
        elif isinstance(about, Incident) and what == "leave":
            self.leave(about)
        elif isinstance(about, Incident):
            self.away.pop(about.key, None)

    def leave(self, incident: Incident) -> None:
        """A site goes away."""
        self.away[incident.key] = self.now_s
        if math.isfinite(incident.until_s):
            self.at(incident.until_s, "return", incident)
        for slot in self.slots.values():
            if incident.kills and slot.site.key == incident.key and slot.job is not None:
                slot.serial = 0
                self.end(slot, succeeds=False)


def simulate(
    sites: Sequence[Site], jobs: Sequence[Job], policy: Policy, *, seed: int, incidents: Sequence[Incident] = ()
) -> Outcome:
    """Runs a batch to its end, or until nobody will ever take what is left."""
    clock = _Clock(sites, jobs, policy, random.Random(seed))  # noqa: S311 - a simulation
    for incident in incidents:
        clock.at(incident.from_s, "leave", incident)
    clock.ask()
    while clock.events:
        until_s = clock.events[0][0] + SAME_S
        while clock.events and clock.events[0][0] <= until_s:
            clock.happen(*heapq.heappop(clock.events))
        if len(clock.outcome.ends_s) == len(clock.jobs):
            break
        clock.ask()
    clock.outcome.unmade = len(clock.jobs) - len(clock.outcome.ends_s)
    return clock.outcome
