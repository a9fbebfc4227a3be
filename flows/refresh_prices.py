"""The flow `refresh-prices`: fetches RunPod's present prices, so that quotes and plans do not grow old."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # Prefect and `python flows/…` put only this folder on the path
    sys.path.insert(0, str(ROOT))

from prefect import flow, get_run_logger  # noqa: E402
from prefect.artifacts import acreate_markdown_artifact  # noqa: E402
from prefect.client.schemas.objects import State  # noqa: E402
from prefect.states import Completed, Failed  # noqa: E402

from hybrid_video import logs, observing  # noqa: E402
from hybrid_video.errors import HybridVideoError  # noqa: E402
from hybrid_video.pricing.refresh import Refresh  # noqa: E402
from hybrid_video.redaction import redact  # noqa: E402
from hybrid_video.settings import Settings  # noqa: E402
from hybrid_video.tidying import refresh_prices as fetch  # noqa: E402
from tasks.artifacts import best_effort  # noqa: E402
from tasks.secrets import load_secret_blocks  # noqa: E402

# Before the run: Prefect's own lines and spans begin ahead of the flow's body, which tells of wrong settings.
with contextlib.suppress(HybridVideoError):
    logs.configure()
observing.start("refresh-prices", strict=False)


@flow(name="refresh-prices", persist_result=False, retries=0)
async def refresh_prices() -> State[Any]:
    """Fetch RunPod's prices and say what has changed. Prices that are hard to believe are not taken."""
    logger = get_run_logger()
    await load_secret_blocks()
    try:
        logs.configure()
        settings = Settings.load()
        if settings.runpod.api_key is None:
            return Completed(message="RUNPOD_API_KEY is not set: there are no prices to fetch", data={"prices": 0})
        found = await fetch(settings)
    except HybridVideoError as error:
        text = redact(str(error))
        logger.error("%s", text)  # noqa: TRY400 - a traceback tells the user nothing
        return Failed(message=text[:1000], data={"error": text, "exit_code": error.exit_code})
    for line in found.changed:
        logger.info("%s", line)
    for line in found.doubtful:
        logger.warning("%s", line)
    with best_effort():
        await acreate_markdown_artifact(_page(found), key="prices", description="RunPod's prices")
    counts = {"prices": len(found.entries), "changed": len(found.changed), "doubtful": len(found.doubtful)}
    message = f"{counts['prices']} prices, {counts['changed']} changed, {counts['doubtful']} not believed"
    if found.doubtful:
        return Failed(message=f"{message}; look at the log", data=counts)
    return Completed(message=message, data=counts)


def _page(found: Refresh) -> str:
    lines = [f"# {len(found.entries)} prices of RunPod", "", *(f"- {line}" for line in found.changed)]
    lines += [f"- **not taken:** {line}" for line in found.doubtful]
    return "\n".join(lines if found.changed or found.doubtful else [*lines, "Nothing has changed."])


if __name__ == "__main__":
    asyncio.run(refresh_prices())
