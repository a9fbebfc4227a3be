"""Waits for one prompt: polling is the truth, the websocket only wakes the poll early and moves the progress."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from hybrid_video.backends.base import ProgressCallback
from hybrid_video.backends.comfyui.looking import Sight, look
from hybrid_video.errors import BackendError, FailureKind, TransientError
from hybrid_video.models import JobHandle, JobStatus

if TYPE_CHECKING:
    from hybrid_video.backends.comfyui.server import ComfyUIServer

_SMALLEST_STEP = 0.01

_NEXT_FIRST_S = 0.01
"""A finished clip is asked for so much later: the server and we have one thread each for requests, and the next prompt
should not stand behind the history and the download of the last one."""


class Watch:
    """One wait for one job. Clocks start when the watch does, also after a crash of ours."""

    def __init__(self, server: ComfyUIServer, handle: JobHandle, on_progress: ProgressCallback | None) -> None:
        self._server = server
        self._handle = handle
        self._on_progress = on_progress
        self._patience = server.patience
        self._reported: JobStatus | None = None
        self._end_was_heard = False
        self._out_since: float | None = None
        self._running_since: float | None = None
        self._idle_since: float | None = None
        self._stalled: tuple[tuple[str, ...], float] | None = None

    async def run(self) -> JobStatus:
        """Returns the status of success.

        Raises:
            BackendError: it failed, was lost, got stuck, or the server stayed out of reach.
        """
        if self._server.listener is not None and self._server.listener.expects(self._handle.remote_id):
            taken = JobStatus(phase="queued", gpu=self._server.gpu)  # a moment ago: no need to ask
            self._report(taken)
            await self._pause(taken)
        while True:
            status, sight = None, await self._look()
            if sight is not None:
                status = await self._server.judged(self._handle, sight)
                self._report(status)
                if status.phase == "succeeded":
                    return status
                await self._check_clocks(sight)
            await self._pause(status)

    async def _look(self) -> Sight | None:
        """One look, or None during an outage that may still pass."""
        try:
            sight = await look(self._server.client, self._handle.remote_id, ended=self._end_was_heard, tries=1)
        except TransientError as error:
            now = time.monotonic()
            self._out_since = now if self._out_since is None else self._out_since
            self._idle_since = self._stalled = None
            if now - self._out_since < self._patience.outage_s:
                return None
            raise TransientError(
                f"{error.message}; it was waited for {now - self._out_since:.0f} s",
                kind=FailureKind.UNREACHABLE,
                backend=error.backend,
                detail=error.detail,
            ) from None
        self._out_since = None
        return sight

    async def _pause(self, status: JobStatus | None) -> None:
        """Waits one poll interval, shorter when the end is announced, passing on progress meanwhile."""
        listener, until = self._server.listener, time.monotonic() + self._patience.poll_interval_s
        while (left_s := until - time.monotonic()) > 0:
            if listener is None or self._end_was_heard:
                await asyncio.sleep(left_s)
                return
            await listener.wait(self._handle.remote_id, left_s)
            if listener.ended(self._handle.remote_id):
                self._end_was_heard = True
                if status is not None:  # the server is free from now on; the next look brings the outcome
                    self._report(status.model_copy(update={"phase": "running", "progress": 1.0, "message": ""}))
                    await asyncio.sleep(_NEXT_FIRST_S)
                return
            heard = listener.progress(self._handle.remote_id)
            if status is not None and heard is not None:
                self._report(status.model_copy(update={"phase": "running", "progress": heard, "message": ""}))

    def _report(self, status: JobStatus) -> None:
        before = self._reported
        moved = before is None or before.phase != status.phase or before.message != status.message
        if not moved and status.progress is not None:
            moved = before is None or before.progress is None or status.progress - before.progress >= _SMALLEST_STEP
        if moved and self._on_progress is not None:
            self._on_progress(status)
        if moved:
            self._reported = status

    async def _check_clocks(self, sight: Sight) -> None:
        now = time.monotonic()
        if sight.place == "running":
            self._idle_since = self._stalled = None
            self._running_since = now if self._running_since is None else self._running_since
            if now - self._running_since > self._patience.job_timeout_s:
                await self._end_overlong()
            return
        self._idle_since = None if sight.queue.running else (now if self._idle_since is None else self._idle_since)
        if self._idle_since is not None and now - self._idle_since > self._patience.wedge_after_s:
            raise await self._wedged(f"nothing has run for {now - self._idle_since:.0f} s although prompts wait")
        pending = sight.queue.pending
        ahead = sight.queue.running + pending[: pending.index(self._handle.remote_id)]
        if self._stalled is None or self._stalled[0] != ahead:
            self._stalled = (ahead, now)
        elif now - self._stalled[1] > self._patience.job_timeout_s + 2 * self._patience.cancel_s:
            # The one in front may be ours too, and its own watch gets the time to interrupt it first.
            self._server.note_immovable(ahead[0])
            raise await self._wedged(f"its queue has not moved for {now - self._stalled[1]:.0f} s")

    async def _end_overlong(self) -> None:
        """Interrupts a clip that ran too long; one that cannot be interrupted belongs to a dead worker."""
        outcome = await self._server.cancel(self._handle)
        limit_s = self._patience.job_timeout_s
        if outcome == "unknown":
            self._server.note_immovable(self._handle.remote_id)
            raise await self._wedged(f"the job has run for more than {limit_s:g} s and cannot be interrupted")
        if outcome == "stopped":
            raise TransientError(
                f"the job ran for more than {limit_s:g} s on ComfyUI at {self._server.url!r} and was interrupted; "
                "raise HYBRID_VIDEO_COMFYUI_JOB_TIMEOUT_S or shorten the clip",
                kind=FailureKind.TIMED_OUT,
                backend=self._server.backend,
                execution_s=limit_s,
            )

    async def _wedged(self, why: str) -> BackendError:
        """The error for a dead worker, after taking our prompt out of its queue so that it never runs late."""
        try:
            await self._server.client.delete_pending(self._handle.remote_id)
        except BackendError:
            why += " (and the job could not be taken out of its queue)"
        return TransientError(
            f"ComfyUI at {self._server.url!r} answers but does not work: {why}; restart it",
            kind=FailureKind.WEDGED,
            backend=self._server.backend,
        )
