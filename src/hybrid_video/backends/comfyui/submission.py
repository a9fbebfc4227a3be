"""Sends an attempt to one server exactly once, and finds it again when the answer was lost.

The attempt's id is the `prompt_id`, so an attempt can always be looked up. Sending it again would queue a second run
(observed on ComfyUI 0.8.0), so nothing here ever does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from hybrid_video.backends.comfyui.cancelling import cancel
from hybrid_video.backends.comfyui.client import ComfyUIClient
from hybrid_video.backends.comfyui.looking import Sight, look
from hybrid_video.backends.comfyui.patience import Patience
from hybrid_video.backends.comfyui.rejections import node_rejection
from hybrid_video.errors import BackendError, FailureKind, SubmitUncertain, TerminalError, TransientError
from hybrid_video.models import JobHandle, WorkOrder, utc_now

_HANDLER_RAISED = "Server got itself in trouble"
"""The plain-text 500 of a malformed request (observed on ComfyUI 0.8.0); it has no JSON for those."""


class Submission:
    """The submitting side of one server, which is one lane."""

    def __init__(self, client: ComfyUIClient, lane: str, patience: Patience) -> None:
        self._client = client
        self._lane = lane
        self._patience = patience

    async def send(self, order: WorkOrder, graph: Mapping[str, Any], *, client_id: str, output_node: str) -> JobHandle:
        """Posts the graph.

        Raises:
            TransientError, TerminalError: it is certain that nothing runs there.
            SubmitUncertain: it may run there, and that cannot be found out now.
        """
        try:
            answer = await self._client.post_prompt(
                graph,
                prompt_id=order.attempt_id,
                client_id=client_id,
                extra_data={"hybrid_video": {"job": order.label, "attempt": order.attempt_id}},
            )
        except SubmitUncertain as lost:
            return await self._after_lost_answer(order, output_node, lost)
        if answer.prompt_id != order.attempt_id:
            await self._withdraw(answer.prompt_id, "under an id of its own")
            raise TerminalError(
                f"ComfyUI at {self._client.url!r} is too old: it does not accept the prompt_id of its client, so a job "
                "could not be found again after a crash; update ComfyUI",
                kind=FailureKind.INVALID_REQUEST,
                backend=self._client.backend,
            )
        if answer.node_errors:
            # A 200 that dropped outputs which failed validation: half a job is no job.
            await self._withdraw(order.attempt_id, "with a part of its outputs dropped")
            raise node_rejection(answer.node_errors, backend=self._client.backend, url=self._client.url)
        return self._handle(order, output_node, utc_now())

    async def find(self, order: WorkOrder, *, output_node: str) -> JobHandle | Literal["unknown"] | None:
        """The attempt's handle, or None only when two looks in a row saw it nowhere."""
        for pause_s in (0.0, self._patience.lookup_pauses_s[-1]):
            await asyncio.sleep(pause_s)
            try:
                sight = await look(self._client, order.attempt_id)
            except BackendError:
                return "unknown"
            if sight.place != "absent":
                return self._handle(order, output_node, _created(sight))
        return None

    async def _after_lost_answer(self, order: WorkOrder, output_node: str, lost: SubmitUncertain) -> JobHandle:
        seen_nowhere = False
        for pause_s in self._patience.lookup_pauses_s:
            await asyncio.sleep(pause_s)
            try:
                sight = await look(self._client, order.attempt_id, tries=1)
            except BackendError:
                seen_nowhere = False
                continue
            if sight.place != "absent":
                return self._handle(order, output_node, _created(sight))
            seen_nowhere = True
        if not seen_nowhere:
            raise lost
        if _HANDLER_RAISED in lost.detail:
            raise TerminalError(
                f"ComfyUI at {self._client.url!r} cannot read the workflow: its handler raised and said no more; "
                "look at its log, and export the workflow with Workflow > Export (API)",
                kind=FailureKind.INVALID_REQUEST,
                backend=self._client.backend,
                detail=lost.detail,
            )
        raise TransientError(
            f"ComfyUI at {self._client.url!r} did not take the job: the answer was lost ({lost.detail or 'cut off'}) "
            "and the job is neither in its queue nor in its history; it can be sent again",
            kind=FailureKind.UNREACHABLE,
            backend=self._client.backend,
            detail=lost.detail,
        )

    async def _withdraw(self, prompt_id: str, how: str) -> None:
        """Takes back a prompt that was accepted but must not run."""
        if await cancel(self._client, prompt_id, self._patience) == "unknown":
            raise SubmitUncertain(
                f"ComfyUI at {self._client.url!r} accepted the job {how} and could not be told to stop it; look at its "
                "queue",
                backend=self._client.backend,
            )

    def _handle(self, order: WorkOrder, output_node: str, at: datetime) -> JobHandle:
        return JobHandle(
            backend=self._client.backend,
            attempt_id=order.attempt_id,
            remote_id=order.attempt_id,
            lane=self._lane,
            submitted_at=at,
            details={"url": self._client.url, "output_node": output_node},
        )


def _created(sight: Sight) -> datetime:
    """When the server says it took the prompt, or now."""
    created_s = sight.entry.created_s if sight.entry else None
    return datetime.fromtimestamp(created_s, UTC) if created_s is not None else utc_now()
