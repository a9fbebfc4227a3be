"""The flow `nightly-batch`: makes the batches of the watched folder, each as a `generate-batch` run below its own.

What is taken, with how much time and money, and where it lies afterwards, is decided in `hybrid_video.watched_folder`.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # Prefect and `python flows/…` put only this folder on the path
    sys.path.insert(0, str(ROOT))

from prefect import flow, get_run_logger  # noqa: E402
from prefect.artifacts import (  # noqa: E402
    acreate_markdown_artifact,
    acreate_progress_artifact,
    aupdate_progress_artifact,
)
from prefect.client.schemas.objects import State  # noqa: E402
from prefect.states import Cancelled, Completed, Failed  # noqa: E402
from pydantic import Field  # noqa: E402

from hybrid_video import logs, observing  # noqa: E402
from hybrid_video.engine.report import BatchReport  # noqa: E402
from hybrid_video.errors import ConfigurationError, HybridVideoError, InputError, LimitError  # noqa: E402
from hybrid_video.local_time import parse_clock  # noqa: E402
from hybrid_video.models import Batch  # noqa: E402
from hybrid_video.redaction import redact  # noqa: E402
from hybrid_video.settings import Settings  # noqa: E402
from hybrid_video.watched_folder import Inbox, Night, NightReport, Ran, run_night  # noqa: E402
from hybrid_video.watched_folder.outcomes import night_markdown  # noqa: E402
from tasks.artifacts import best_effort  # noqa: E402
from tasks.notifications import notify as send  # noqa: E402
from tasks.secrets import load_secret_blocks  # noqa: E402

# Before the run: Prefect's own lines and spans begin ahead of the flow's body, which tells of wrong settings.
with contextlib.suppress(HybridVideoError):
    logs.configure()
observing.start("nightly-batch", strict=False)

from flows.generate_batch import generate_batch  # noqa: E402 - it would start as another part


@flow(name="nightly-batch", persist_result=False, retries=0)
async def nightly_batch(
    folder: str = "",
    ready_by: str = "",
    budget_usd: Annotated[Decimal | None, Field(ge=0)] = None,
    out_dir: str = "",
    notify: str = "",
) -> State[Any]:
    """Make every batch of the inbox, the most urgent first, within one budget and by the morning.

    Args:
        folder: The watched folder on the worker's machine; HYBRID_VIDEO_INBOX when empty.
        ready_by: When the clips are to be ready by the studio's clock, like 07:00; HYBRID_VIDEO_INBOX_READY_BY when
            empty, `none` for no such time.
        budget_usd: Hard limit for the night in US dollars. The smaller of this and the configured one holds.
        out_dir: Folder for the finished clips; the configured one when empty.
        notify: Notification block to send the outcome through, like slack-webhook/studio. None when empty.
    """
    logger = get_run_logger()
    await load_secret_blocks()
    try:
        logs.configure()
        settings = Settings.load()
        wanted = None if not ready_by else "" if ready_by == "none" else f"{parse_clock(ready_by):%H:%M}"
        night = Night.of(settings, ready_by=wanted, budget_usd=budget_usd)
        where = Path(folder) if folder else None
        async with _Progress(Inbox.of(settings, where)) as progress:
            runner = _Runner(out_dir, progress)
            report = await run_night(settings, runner.run, night=night, folder=where, tell=logger.info)
        with best_effort():
            await acreate_markdown_artifact(night_markdown(report), key="nightly-batch", description=report.summary)
        if notify and report.lines:
            await send(notify, f"Night of {report.night}: {report.summary}", night_markdown(report))
            logger.info("sent through %s", notify)
    except HybridVideoError as error:
        text = redact(str(error))
        logger.error("%s", text)  # noqa: TRY400 - a traceback tells the user nothing
        return Failed(message=text[:1000], data={"error": text, "exit_code": error.exit_code})
    return _state(report)


def _state(report: NightReport) -> State[Any]:
    data = report.to_json()
    failed = next((line for line in report.lines if line.outcome == "failed"), None)
    if any(line.outcome == "stopped" for line in report.lines):
        return Cancelled(message=f"stopped: {report.summary}; run it again to go on", data=data)
    if failed is not None:
        return Failed(message=f"{report.summary}; {failed.unit}: {failed.reason}"[:1000], data=data)
    return Completed(message=report.summary, data=data)


class _Runner:
    """Makes one batch as a flow run below this one, with its own progress, table and report."""

    def __init__(self, out_dir: str, progress: _Progress) -> None:
        self._out_dir = out_dir
        self._progress = progress

    async def run(self, batch: Batch, base_dir: Path) -> Ran:
        """Runs it; raises what it was refused by."""
        await self._progress.show(f"{batch.name}: {len(batch.jobs)} clips")
        state: State[Any] = await generate_batch(
            batch=batch, base_dir=str(base_dir), out_dir=self._out_dir, return_state=True
        )
        data = await state.aresult(raise_on_failure=False)
        self._progress.finished += 1
        await self._progress.show(f"{batch.name}: {state.message or state.type.value}")
        if not isinstance(data, dict):
            told = redact(state.message or f"its flow run ended as {state.type.value} without a report")
            raise ConfigurationError(told)
        if "error" in data:
            raise _restored(data)
        return Ran(BatchReport.model_validate(data), stopped=state.is_cancelled())


def _restored(data: dict[str, Any]) -> HybridVideoError:
    """The error that a batch was refused by, as it was raised there."""
    text, problems = str(data["error"]), tuple(str(problem) for problem in data.get("problems", ()))
    if data["exit_code"] == LimitError.exit_code:
        return LimitError(text)
    if data.get("kind") == ConfigurationError.__name__:
        return ConfigurationError(text)
    return InputError(text, problems)


class _Progress:
    """One progress artifact for the whole night."""

    def __init__(self, inbox: Inbox) -> None:
        self.finished = 0
        self._inbox = inbox
        self._artifact: UUID | None = None

    async def __aenter__(self) -> _Progress:
        """Creates the artifact."""
        with best_effort():
            self._artifact = await acreate_progress_artifact(
                progress=0.0, key="nightly-batch-progress", description="looking at the inbox"
            )
        return self

    async def __aexit__(self, *_error: object) -> None:
        """Says that nothing more happens."""
        await self._update(100.0, f"{self.finished} batches were made")

    async def show(self, text: str) -> None:
        """What is being done, and how far the night has come: batches made, of those and the ones that wait."""
        waiting = len(await asyncio.to_thread(self._inbox.units))
        await self._update(100 * self.finished / max(1, self.finished + waiting + 1), text)

    async def _update(self, percent: float, text: str) -> None:
        if self._artifact is not None:
            with best_effort():
                await aupdate_progress_artifact(self._artifact, progress=round(percent, 1), description=text[:200])


if __name__ == "__main__":
    asyncio.run(nightly_batch())
