"""One batch of the night: loaded, given its part of time and money, made, and put where its outcome belongs.

done: every clip is there. failed: a person must look. Back into the inbox: the night's money or a machine was missing,
or the run was stopped; the next night goes on where it ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

from hybrid_video.engine.report import BatchReport
from hybrid_video.errors import ConfigurationError, HybridVideoError, InputError, LedgerError, LimitError
from hybrid_video.ledger import Ledger
from hybrid_video.local_time import local_day
from hybrid_video.models import MAX_DEADLINE_S, Batch
from hybrid_video.redaction import redact
from hybrid_video.watched_folder.claiming import RENEW_S, Claim, Claims
from hybrid_video.watched_folder.inbox import DONE, FAILED
from hybrid_video.watched_folder.night_money import Allotment, NightMoney
from hybrid_video.watched_folder.outcomes import NightLine, Outcome, Ran, batch_markdown, refused_markdown

MOST_NIGHTS = 3
"""A batch that waited so often and came no further is put with the failed ones."""

ANOTHER_NIGHT = ("the daily budget", "the monthly budget")
"""How the spend gate names the limits that another day may lift."""

BATCH_BUDGET = "the batch budget"
"""How it names the one that the night's budget sets, where that is the smaller one."""

logger = logging.getLogger("hybrid_video.inbox")


class Maker:
    """Makes claimed batches and collects a line for each."""

    def __init__(
        self,
        ledger: Ledger,
        claims: Claims,
        money: NightMoney,
        run: Callable[[Batch, Path], Awaitable[Ran]],
        zone: ZoneInfo,
        tell: Callable[[str], None],
        now: Callable[[], datetime],
    ) -> None:
        self.lines: list[NightLine] = []
        self.stopped = False
        self._ledger = ledger
        self._claims = claims
        self._money = money
        self._run = run
        self._zone = zone
        self._tell = tell
        self._now = now

    async def make(self, claim: Claim, share_s: float | None) -> None:
        """Makes a batch within so many seconds, and puts it away.

        Args:
            share_s: its part of the time until the clips are to be ready; its own deadline holds where it is earlier.
        """
        try:
            batch = await asyncio.to_thread(claim.load)
        except InputError as error:
            await self.refuse(claim, error.problems)
            return
        held = {holder.batch for holder in await asyncio.to_thread(self._claims.held)} - {batch.name}
        allotted = await asyncio.to_thread(self._money.allot, batch.name, batch.budget_usd, held)
        wanted = batch.with_goal(_sooner(batch.deadline_s, share_s), allotted.cap_usd)
        before = await asyncio.to_thread(self._money.cost_usd, batch.name)
        self._tell(f"{claim.name}: {len(batch.jobs)} clips of batch {batch.name!r}")
        try:
            async with _renewed(claim):
                ran = await self._run(wanted, claim.content)
        except LimitError as error:
            await self._limited(claim, batch, allotted, str(error))
        except InputError as error:
            await self.refuse(claim, error.problems)
        except (ConfigurationError, LedgerError) as error:
            await self._back(claim, batch, f"could not start: {redact(error)}")
        except HybridVideoError as error:
            await self.refuse(claim, (redact(error),))
        except Exception as error:  # one batch must not end the night for the others
            logger.exception("the batch %s ended with an error of our own", batch.name)
            text = redact(f"{type(error).__name__}: {error}", limit=500)
            await self.refuse(claim, (f"unexpected error: {text}; please report it",))
        else:
            cost = await asyncio.to_thread(self._money.cost_usd, batch.name) - before
            await self._settle(claim, batch, allotted, ran, cost)

    async def refuse(self, claim: Claim, problems: tuple[str, ...]) -> None:
        """Puts a batch that cannot start with the failed ones, with every problem told."""
        told = tuple(redact(problem) for problem in problems)
        text = refused_markdown(claim.name, told, zone=self._zone, at=self._now())
        await self._away(claim, FAILED, text, NightLine(unit=claim.name, outcome="failed", reason=told[0]))

    async def _settle(self, claim: Claim, batch: Batch, allotted: Allotment, ran: Ran, cost: Decimal) -> None:
        report = ran.report
        fresh = report.completed - claim.note.clips
        if ran.stopped:
            self.stopped = True
            reason = f"stopped after {report.completed} of {report.jobs} clips; the next run goes on there"
            await self._back(claim, batch, reason, report, cost, outcome="stopped")
        elif not report.errors:
            await self._done(claim, report, DONE, "", cost)
        elif _waits_for_money(report, allotted) and (fresh > 0 or claim.note.nights + 1 < MOST_NIGHTS):
            reason = f"{report.completed} of {report.jobs} clips are made; {report.errors[0].message}"
            await self._back(claim, batch, reason, report, cost)
        else:
            first = report.errors[0]
            await self._done(
                claim, report, FAILED, f"{report.failed} not made, the first: {first.job}: {first.message}", cost
            )

    async def _limited(self, claim: Claim, batch: Batch, allotted: Allotment, text: str) -> None:
        """Refused before anything was sent, for its price."""
        another = any(name in text for name in ANOTHER_NIGHT) or (
            allotted.binding and not allotted.untouched and BATCH_BUDGET in text
        )
        if another and claim.note.nights + 1 < MOST_NIGHTS:
            await self._back(claim, batch, f"the money of this night does not suffice: {text}")
            return
        if allotted.binding and BATCH_BUDGET in text:
            text += " What limits it is HYBRID_VIDEO_INBOX_BUDGET_USD: raise it, or run this batch by itself."
        await self.refuse(claim, (text,))

    async def _done(self, claim: Claim, report: BatchReport, where: str, reason: str, cost: Decimal) -> None:
        text = batch_markdown(claim.name, report, reason=reason, zone=self._zone, ended_at=self._now())
        outcome: Outcome = "done" if where == DONE else "failed"
        await self._away(claim, where, text, _line(claim, report, outcome, reason, cost))

    async def _away(self, claim: Claim, where: str, text: str, line: NightLine) -> None:
        record = {**line.model_dump(mode="json"), "at": self._now().isoformat()}
        day = local_day(self._now(), self._zone)
        place = await asyncio.to_thread(claim.finish, where, day, text, record)
        self.lines.append(line.model_copy(update={"place": str(place)}))
        self._tell(f"{claim.name}: {line.outcome}{f': {line.reason}' if line.reason else ''}")

    async def _back(
        self,
        claim: Claim,
        batch: Batch,
        reason: str,
        report: BatchReport | None = None,
        cost: Decimal = Decimal(0),
        *,
        outcome: Outcome = "waits",
    ) -> None:
        note, clips = claim.note, claim.note.clips if report is None else report.completed
        nights = note.nights + (outcome == "waits") if clips <= note.clips else 0
        await asyncio.to_thread(claim.put_back, reason, clips=clips, nights=nights)
        line = NightLine(unit=claim.name, batch=batch.name, outcome=outcome, jobs=len(batch.jobs), reason=reason)
        self.lines.append(line if report is None else _line(claim, report, outcome, reason, cost))
        self._tell(f"{claim.name}: {outcome}: {reason}")


def _line(claim: Claim, report: BatchReport, outcome: Outcome, reason: str, cost: Decimal) -> NightLine:
    return NightLine(
        unit=claim.name,
        batch=report.batch,
        outcome=outcome,
        clips=report.completed,
        jobs=report.jobs,
        cost_usd=cost,
        duration_s=round(report.duration_s, 3),
        reason=redact(reason, limit=500),
    )


def _waits_for_money(report: BatchReport, allotted: Allotment) -> bool:
    """Whether all that is missing is missing for a limit that another night may lift."""
    lifted = (*ANOTHER_NIGHT, BATCH_BUDGET) if allotted.binding else ANOTHER_NIGHT
    return all(line.kind == "limit" and any(name in line.message for name in lifted) for line in report.errors)


def _sooner(own_s: float | None, share_s: float | None) -> float | None:
    given = [seconds for seconds in (own_s, share_s) if seconds is not None]
    return min(*given, float(MAX_DEADLINE_S)) if given else None


@asynccontextmanager
async def _renewed(claim: Claim) -> AsyncIterator[None]:
    """Keeps saying that this worker lives while the batch is made."""

    async def renew() -> None:
        while True:
            await asyncio.sleep(RENEW_S)
            await asyncio.to_thread(claim.renew)

    keeper = asyncio.create_task(renew())
    try:
        yield
    finally:
        keeper.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await keeper
