"""A past batch run again by the dispatcher, on a virtual clock, as often as its chance needs."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from hybrid_video.planner import Plan
from hybrid_video.replay_world import World
from hybrid_video.simulation.clock import Outcome, simulate
from hybrid_video.simulation.policies import Ours

DECISIONS = 600
"""About so many decisions are replayed for one answer: many runs of a small batch, one of a large one."""

MOST_RUNS = 9


@dataclass(frozen=True)
class Goal:
    """What the dispatcher pursues."""

    deadline_s: float | None
    budget_usd: Decimal | None
    value_of_time_usd_per_h: float


@dataclass(frozen=True)
class Replayed:
    """What several runs came to: the one in the middle stands for all.

    Args:
        late: share of the runs that missed the deadline.
        unmade: clips that the run in the middle left unmade.
    """

    plan: Plan
    late: float
    unmade: int


def again(world: World, goal: Goal, more: str = "") -> Replayed:
    """The batch under a goal; `more` names a backend with one more slot."""
    runs = 1 if world.certain else max(1, min(MOST_RUNS, DECISIONS // max(1, len(world.jobs))))
    outcomes = sorted((_run(world, goal, luck, more) for luck in range(runs)), key=_rank)
    middle = outcomes[len(outcomes) // 2]
    late = 0 if goal.deadline_s is None else sum(one.duration_s > goal.deadline_s + 1e-6 for one in outcomes)
    return Replayed(Plan(dict(middle.split), middle.cost_usd, middle.duration_s), late / runs, middle.unmade)


def _run(world: World, goal: Goal, luck: int, more: str) -> Outcome:
    policy = Ours(
        goal.deadline_s,
        goal.budget_usd,
        guard_s=None,
        value_of_time_usd_per_h=goal.value_of_time_usd_per_h,
    )
    return simulate(world.run_sites(luck, more), world.jobs, policy, seed=luck)


def _rank(outcome: Outcome) -> tuple[int, int, float]:
    return (outcome.unmade, outcome.cost_nano, outcome.duration_s)
