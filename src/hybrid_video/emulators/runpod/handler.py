"""What an endpoint asks of the program in its workers: take a job, say how long it works, return an outcome.

The forms are those of the vendor's Python SDK (runpod-python 1.12).
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from hybrid_video.emulators.runpod.jobs import Job


@dataclass(frozen=True)
class Outcome:
    """What a handler returned: an output, or an error (with an output of details beside it).

    An `undeliverable` one is finished work whose result the job API refused: the job stays IN_PROGRESS until its
    execution time-out (runpod-python posts it three times and then only logs the refusal).
    """

    output: Any = None
    error: str = ""
    undeliverable: bool = False


@dataclass(frozen=True)
class Execution:
    """One run of the handler.

    `seconds` is the simulated work (infinite: it never ends by itself), `finish` makes the outcome while it passes.
    `lost_worker_after_s` ends the worker instead; `lost_result` makes the result unreadable once it is there.
    """

    seconds: float
    finish: Callable[[], Awaitable[Outcome]]
    lost_worker_after_s: float | None = None
    lost_result: bool = False


class Handler(Protocol):
    """The program inside a worker."""

    def begin(self, job: Job) -> Execution:
        """Takes a job up."""
        ...


def uncaught(error: BaseException, worker_id: str) -> str:
    """An exception the handler let through, as the SDK reports it: a JSON text in `error` (runpod-python 1.12)."""
    return json.dumps(
        {
            "error_type": str(type(error)),
            "error_message": str(error),
            "error_traceback": f"Traceback (most recent call last):\n{type(error).__name__}: {error}\n",
            "hostname": f"{worker_id}-emulated",
            "worker_id": worker_id,
            "runpod_version": "1.7.13",
        }
    )
