"""The flow `reconcile`: settles what crashes left open, and compares disk and vendors with the ledger.

Safe to run at any time and on a schedule: it never sends a job, and leaves alone what a live process drives.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path
from typing import Annotated, Any

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # Prefect and `python flows/…` put only this folder on the path
    sys.path.insert(0, str(ROOT))

from prefect import flow, get_run_logger  # noqa: E402
from prefect.client.schemas.objects import State  # noqa: E402
from prefect.states import Completed, Failed  # noqa: E402
from pydantic import Field  # noqa: E402

from hybrid_video import logs, observing  # noqa: E402
from hybrid_video.engine.reconcile import reconcile as reconcile_batches  # noqa: E402
from hybrid_video.errors import HybridVideoError  # noqa: E402
from hybrid_video.redaction import redact  # noqa: E402
from hybrid_video.settings import Settings  # noqa: E402
from tasks.secrets import load_secret_blocks  # noqa: E402

# Before the run: Prefect's own lines and spans begin ahead of the flow's body, which tells of wrong settings.
with contextlib.suppress(HybridVideoError):
    logs.configure()
observing.start("reconcile", strict=False)


@flow(name="reconcile", persist_result=False, retries=0)
async def reconcile(
    batches: list[str] | None = None, wait_s: Annotated[float | None, Field(ge=0)] = 600.0
) -> State[Any]:
    """Settle every open attempt that no live process drives, and list every difference that remains.

    Args:
        batches: Names of the batches to look at; all of them when empty.
        wait_s: How long to wait for remote work that still runs, in seconds; without limit when empty. What is not
            over then is left running and found by the next run.
    """
    logger = get_run_logger()
    used = await load_secret_blocks()
    if used:
        logger.info("keys from Secret blocks: %s", ", ".join(used))
    try:
        logs.configure()
        observing.start("reconcile")
        report = await reconcile_batches(Settings.load(), batches or (), wait_s=wait_s, tell=logger.info)
    except HybridVideoError as error:
        text = redact(str(error))
        logger.error("%s", text)  # noqa: TRY400 - a traceback tells the user nothing
        return Failed(message=text[:1000], data={"error": text, "exit_code": error.exit_code})
    for line in report.attempts:
        if line.outcome in ("uncertain", "charged", "failed"):
            logger.warning("%s/%s: %s", line.batch, line.job, line.message)
    for finding in report.clips:
        logger.warning("%s", finding.message)
    data = report.to_json()
    summary = f"{len(report.attempts)} open attempts looked at, {report.clips_checked} clips checked"
    if report.differences:
        return Failed(message=f"{summary}: {report.differences} differences remain; see the log", data=data)
    return Completed(message=f"{summary}: everything agrees", data=data)


if __name__ == "__main__":
    asyncio.run(reconcile())
