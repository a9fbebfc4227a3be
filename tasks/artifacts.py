"""What the Prefect UI shows of a batch: live progress while it runs, a table and a report at its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote
from uuid import UUID

import httpx
from prefect import get_client, get_run_logger
from prefect.artifacts import (
    acreate_markdown_artifact,
    acreate_progress_artifact,
    acreate_table_artifact,
    aupdate_progress_artifact,
)
from prefect.exceptions import PrefectException
from prefect.runtime import flow_run

from hybrid_video.engine.events import Event
from hybrid_video.engine.report import BatchReport, money
from hybrid_video.models import Batch
from hybrid_video.redaction import redact

UPDATE_S = 1.0
UI_PATIENCE_S = 5.0
STATE_CHECK_S = 5.0


@contextlib.contextmanager
def best_effort() -> Iterator[None]:
    """What the UI shows is never worth a batch: a Prefect server that has gone is noted and otherwise ignored."""
    try:
        yield
    except (OSError, TimeoutError, RuntimeError, httpx.HTTPError, PrefectException) as error:
        logging.getLogger("hybrid_video.flow").warning("the Prefect server does not answer: %s", redact(error, 200))


class LiveProgress:
    """An `Observer` that keeps one progress artifact up to date, at most once a second, and logs what matters."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._percent = 0.0
        self._line = ""
        self._fractions: dict[str, float] = {}
        self._finished = 0
        self._artifact: UUID | None = None
        self._updater: asyncio.Task[None] | None = None
        self._logger = get_run_logger()

    async def __aenter__(self) -> LiveProgress:
        """Creates the artifact and starts keeping it up to date."""
        description = f"{len(self._batch.jobs)} jobs of {self._batch.name}"
        self._artifact = await acreate_progress_artifact(
            progress=0.0, key=artifact_key(self._batch.name, "progress"), description=description
        )
        self._updater = asyncio.create_task(self._keep_updating())
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Writes the last state."""
        if self._updater is not None:
            self._updater.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._updater
        await self._update()

    def __call__(self, event: Event) -> None:
        """Takes in one event; never waits."""
        if event.kind == "progress":
            self._fractions[event.job] = event.progress or 0.0
        else:
            self._fractions.pop(event.job, None)
            where = f" on {event.backend}" if event.backend else ""
            level = self._logger.warning if event.kind in ("retry", "failed", "uncertain") else self._logger.info
            about = {"batch": self._batch.name, "job": event.job, "attempt": event.attempt or None}
            level(
                "%s %s%s: %s",
                event.kind,
                event.job or self._batch.name,
                where,
                event.message,
                extra={**about, "backend": event.backend, "event": event.kind},
            )
        if event.total:
            self._finished = event.finished + event.failed
            self._percent = 100 * min(1.0, (self._finished + sum(self._fractions.values())) / event.total)
            spent = f", ${money(event.spent_usd)} spent" if event.spent_usd is not None else ""
            failed = f", {event.failed} failed" if event.failed else ""
            if event.kind != "progress":
                self._line = f"{event.finished} of {event.total} clips{failed}{spent}"

    async def stop_when_cancelled(self, stop: Callable[[], None]) -> None:
        """Follows this flow run's own state: `prefect flow-run cancel` reaches a directly started run only this way."""
        run_id = flow_run.id
        if not run_id:
            return
        async with get_client() as client:
            while True:
                await asyncio.sleep(STATE_CHECK_S)
                with best_effort():
                    run = await client.read_flow_run(UUID(str(run_id)))
                    if run.state is not None and run.state.is_cancelling():
                        stop()
                        return

    async def _keep_updating(self) -> None:
        shown: tuple[float, str] = (-1.0, "")
        while True:
            await asyncio.sleep(UPDATE_S)
            if (self._percent, self._line) != shown:
                shown = (self._percent, self._line)
                await self._update()

    async def _update(self) -> None:
        if self._artifact is None:
            return
        with best_effort():
            async with asyncio.timeout(UI_PATIENCE_S):
                await aupdate_progress_artifact(
                    self._artifact, progress=round(self._percent, 1), description=self._line
                )


def clip_link(path: str, batch: str, clips_url: str) -> str:
    """A Markdown link to a clip: below `clips_url` if there is one, else to the file.

    Browsers do not open a file link from a page of a server; it can be copied, and the path is its text.
    """
    name = Path(path).name
    url = f"{clips_url.rstrip('/')}/{quote(batch)}/{quote(name)}" if clips_url else Path(path).as_uri()
    return f"[{name if clips_url else path}]({url})"


async def publish_report(report: BatchReport, clips_url: str = "") -> None:
    """A table of every clip with a link to it, and a page with the totals."""
    rows: list[dict[str, Any]] = [
        {
            "job": clip.job,
            "backend": clip.backend.value,
            "provider": clip.provider,
            "cost_usd": money(clip.cost_usd),
            "attempts": clip.attempts,
            "clip": clip_link(clip.path, report.batch, clips_url),
        }
        for clip in report.clips
    ]
    rows += [
        {"job": line.job, "backend": "", "provider": line.kind, "cost_usd": "", "attempts": "", "clip": line.message}
        for line in report.errors
    ]
    with best_effort():
        async with asyncio.timeout(2 * UI_PATIENCE_S):
            await acreate_table_artifact(rows, key=artifact_key(report.batch, "clips"), description=_title(report))
            await acreate_markdown_artifact(report_markdown(report), key=artifact_key(report.batch, "report"))


def report_markdown(report: BatchReport) -> str:
    """The report as a page."""
    totals = (
        f"**${money(report.cost_usd)}** for {report.completed} clips (quoted ${money(report.quoted_usd)}), "
        f"{report.duration_s:.1f} s, {report.failovers} failovers, {report.failed} failed."
    )
    lines = [
        f"# {_title(report)}",
        "",
        totals,
        "",
        "| tier | clips | attempts | cost |",
        "|---|---:|---:|---:|",
    ]
    lines += [
        f"| {tier} | {line.jobs} | {line.attempts} | ${money(line.cost_usd)} |"
        for tier, line in sorted(report.by_backend.items())
    ]
    if report.errors:
        lines += ["", "## Not made", "", *(f"- `{line.job}` ({line.kind}): {line.message}" for line in report.errors)]
    if report.notices:
        lines += ["", *(f"> {notice}" for notice in report.notices)]
    return "\n".join(lines)


def artifact_key(batch: str, what: str) -> str:
    """Prefect allows lower-case letters, digits and dashes in keys."""
    return f"{re.sub(r'[^a-z0-9]+', '-', batch.lower()).strip('-')}-{what}"


def _title(report: BatchReport) -> str:
    simulated = " (SIMULATED)" if report.simulated else ""
    return f"{report.batch}{simulated}: {report.completed} of {report.jobs} clips"
