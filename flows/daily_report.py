"""The flow `daily-report`: what a day came to, as a page in Prefect, as files, and as a message where one is wanted.

`python flows/daily_report.py '{"day": "2026-11-22", "notify": "slack-webhook/studio"}'` is how `hybrid-video report
--notify` starts it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
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
from hybrid_video.daily_report import DailyReport, headline, make_report, markdown, save  # noqa: E402
from hybrid_video.engine.session import opened  # noqa: E402
from hybrid_video.errors import HybridVideoError  # noqa: E402
from hybrid_video.local_time import parse_day, studio_zone  # noqa: E402
from hybrid_video.redaction import redact  # noqa: E402
from hybrid_video.settings import Settings  # noqa: E402
from tasks.artifacts import best_effort  # noqa: E402
from tasks.notifications import notify as send  # noqa: E402
from tasks.secrets import load_secret_blocks  # noqa: E402

# Before the run: Prefect's own lines and spans begin ahead of the flow's body, which tells of wrong settings.
with contextlib.suppress(HybridVideoError):
    logs.configure()
observing.start("daily-report", strict=False)


@flow(name="daily-report", persist_result=False, retries=0)
async def daily_report(day: str = "yesterday", notify: str = "", bills: bool = True) -> State[Any]:
    """Report what a day of the studio came to: money, clips, savings, failures, and what a person should look at.

    Args:
        day: A day like 2026-11-22, or `yesterday`, or `today`; in the studio's time zone.
        notify: Notification block to send it through, as its type and name, like slack-webhook/studio. None when empty.
        bills: Also compare RunPod's bill, where a key and an endpoint are configured.
    """
    logger = get_run_logger()
    await load_secret_blocks()
    try:
        logs.configure()
        settings = Settings.load()
        report = await _made(settings, day, bills)
        paths = save(report, settings)
        text = markdown(report)
        with best_effort():
            await acreate_markdown_artifact(text, key="daily-report", description=headline(report))
            await acreate_markdown_artifact(text, key=f"daily-report-{report.day.isoformat()}")
        logger.info("%s; saved as %s", headline(report), paths["md"])
        data = report.model_dump(mode="json")
        if notify:
            await send(notify, headline(report), text)
            logger.info("sent through %s", notify)
    except HybridVideoError as error:
        told = redact(str(error))
        logger.error("%s", told)  # noqa: TRY400 - a traceback tells the user nothing
        return Failed(message=told[:1000], data={"error": told, "exit_code": error.exit_code})
    return Completed(message=headline(report), data=data)


async def _made(settings: Settings, day: str, bills: bool) -> DailyReport:
    zone = studio_zone(settings)
    wanted = parse_day(day or "yesterday", zone)
    with opened(settings) as (ledger, history):
        await asyncio.to_thread(history.update, ledger)
        return await make_report(settings, ledger, wanted, zone, history=history, ask_vendors=bills)


if __name__ == "__main__":
    given = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
    ended: State[Any] = asyncio.run(daily_report(**given, return_state=True))  # type: ignore[arg-type]
    sys.exit(0 if ended.is_completed() else 1)
