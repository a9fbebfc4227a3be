"""Batches on a virtual clock: the real dispatcher against random times, failures and outages, and bounds to hold it to.

Nothing here decides: `policies.Ours` asks `hybrid_video.dispatcher` exactly as the engine does. Not simulated: prompts
held ahead on ComfyUI, pods opening and closing, back-off after a refusal.
"""

from hybrid_video.simulation.bounds import cost_bound_usd, sized_cost_bound_usd, time_bound_s
from hybrid_video.simulation.clock import Outcome, simulate
from hybrid_video.simulation.policies import EarliestFinish, FixedSplit, InOrder, Ours, Policy
from hybrid_video.simulation.world import Incident, Job, Site

__all__ = [
    "EarliestFinish",
    "FixedSplit",
    "InOrder",
    "Incident",
    "Job",
    "Ours",
    "Outcome",
    "Policy",
    "Site",
    "cost_bound_usd",
    "simulate",
    "sized_cost_bound_usd",
    "time_bound_s",
]
