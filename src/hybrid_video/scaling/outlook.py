"""When waiting jobs will be done on a set of servers, each taking the next as soon as it would finish it first. Pure.

Greedy by earliest finish, which for jobs that are alike is the shortest flow and the shortest whole. Nothing here grows
with the number of jobs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

HALVINGS = 30
EPSILON = 1e-9


@dataclass(frozen=True, slots=True)
class Server:
    """Something that makes one clip at a time: free from a moment on, so long a clip."""

    free_s: float
    service_s: float


@dataclass(frozen=True, slots=True)
class Outlook:
    """What becomes of the waiting jobs.

    Args:
        flow_s: seconds from now to the end of each job, summed.
        duration_s: when the last one is done.
        jobs: how many each server takes.
        ends_s: when each server has done its last; 0 where it takes none.
    """

    flow_s: float
    duration_s: float
    jobs: tuple[int, ...]
    ends_s: tuple[float, ...]


def outlook(servers: Sequence[Server], waiting: int) -> Outlook | None:
    """What becomes of so many waiting jobs; None where there is no server for them."""
    if not waiting:
        return Outlook(0.0, 0.0, (0,) * len(servers), (0.0,) * len(servers))
    if not servers:
        return None
    end_s = _end_s(servers, waiting)
    counts = [_made(server, end_s) for server in servers]
    _take_back(servers, counts, sum(counts) - waiting)
    flow_s = sum(
        server.free_s * count + server.service_s * count * (count + 1) / 2
        for server, count in zip(servers, counts, strict=True)
    )
    ends = tuple(
        server.free_s + count * server.service_s if count else 0.0
        for server, count in zip(servers, counts, strict=True)
    )
    return Outlook(flow_s, max(ends), tuple(counts), ends)


def _made(server: Server, time_s: float) -> int:
    if time_s <= server.free_s:
        return 0
    return int((time_s - server.free_s) / max(server.service_s, EPSILON) + EPSILON)


def _end_s(servers: Sequence[Server], waiting: int) -> float:
    """The first time (to a hair) by which so many are done."""
    low_s = 0.0
    high_s = min(server.free_s + waiting * server.service_s for server in servers)
    finest_s = 1e-4 * min(server.service_s for server in servers)
    for _ in range(HALVINGS):
        if high_s - low_s <= finest_s:
            break
        middle_s = (low_s + high_s) / 2
        if sum([_made(server, middle_s) for server in servers]) >= waiting:
            high_s = middle_s
        else:
            low_s = middle_s
    return high_s


def _take_back(servers: Sequence[Server], counts: list[int], extra: int) -> None:
    """Several end at the last moment: the latest of them are not needed."""
    for _ in range(extra):
        last = max(
            (index for index, count in enumerate(counts) if count),
            key=lambda index: servers[index].free_s + counts[index] * servers[index].service_s,
        )
        counts[last] -= 1
