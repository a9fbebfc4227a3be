"""The flow `prune`: copies the ledger, then deletes the details of batches that ended long ago. Money stays exact."""

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
from hybrid_video.engine.report import money  # noqa: E402
from hybrid_video.errors import HybridVideoError  # noqa: E402
from hybrid_video.redaction import redact  # noqa: E402
from hybrid_video.settings import Settings  # noqa: E402
from hybrid_video.tidying import back_up, prune_ledger  # noqa: E402
from tasks.secrets import load_secret_blocks  # noqa: E402

# Before the run: Prefect's own lines and spans begin ahead of the flow's body, which tells of wrong settings.
with contextlib.suppress(HybridVideoError):
    logs.configure()
observing.start("prune", strict=False)


@flow(name="prune", persist_result=False, retries=0)
async def prune(older_than_days: Annotated[int, Field(ge=1, le=36_500)] = 365, dry_run: bool = False) -> State[Any]:
    """Back up the ledger, then delete jobs, attempts and decisions of old batches, as `hybrid-video ledger prune` does.

    Args:
        older_than_days: Days since the end of a batch. Balances, clips and the history stay.
        dry_run: Only say what would go.
    """
    logger = get_run_logger()
    await load_secret_blocks()
    try:
        logs.configure()
        settings = Settings.load()
        if not dry_run:
            logger.info("the ledger is copied to %s", await asyncio.to_thread(back_up, settings))
        gone = await asyncio.to_thread(prune_ledger, settings, older_than_days=older_than_days, dry_run=dry_run)
    except HybridVideoError as error:
        text = redact(str(error))
        logger.error("%s", text)  # noqa: TRY400 - a traceback tells the user nothing
        return Failed(message=text[:1000], data={"error": text, "exit_code": error.exit_code})
    what = f"{len(gone.batches)} batches that ended more than {older_than_days} days ago"
    if dry_run:
        return Completed(message=f"would prune {what}", data={"batches": list(gone.batches)})
    message = f"pruned {what}: {gone.jobs} jobs, {gone.attempts} attempts, ${money(gone.settled_usd)} kept in sums"
    return Completed(message=message, data={"batches": list(gone.batches)})


if __name__ == "__main__":
    asyncio.run(prune())
