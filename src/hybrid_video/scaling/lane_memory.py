"""Lanes that were published a while ago: a run with nothing waiting publishes none, and the own GPU is still there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hybrid_video.demand import BatchDemand, LaneDemand, shared_lanes
from hybrid_video.scaling.state import LaneView, lane_view

REMEMBERED_S = 6 * 3600.0
"""A lane that nobody has published for so long is forgotten."""


@dataclass
class LaneMemory:
    """The lanes as the last runs that could use them saw them. Times are the caller's monotonic seconds."""

    _seen: dict[str, tuple[float, LaneDemand]] = field(default_factory=dict, init=False)

    def see(self, demands: Sequence[BatchDemand], now_s: float) -> tuple[LaneView, ...]:
        """The lanes published now, and those remembered from before, taken to be free since then."""
        published = {lane.id: lane for lane in shared_lanes(demands)}
        self._seen |= {name: (now_s, lane) for name, lane in published.items()}
        self._seen = {name: seen for name, seen in self._seen.items() if now_s - seen[0] <= REMEMBERED_S}
        lanes = []
        for name, (at_s, lane) in self._seen.items():
            free_in_s = lane.free_in_s if name in published else max(0.0, lane.free_in_s - (now_s - at_s))
            lanes.append(lane_view(lane.model_copy(update={"free_in_s": free_in_s})))
        return tuple(lanes)
