"""The day as a page: the answer first, pictures where they say more than figures, then what a person should look at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal
from zoneinfo import ZoneInfo

from hybrid_video.daily_report.figures import DailyReport, SpendLine
from hybrid_video.daily_report.picture import bar, steps
from hybrid_video.engine.report import money
from hybrid_video.plain_text import clock, plain

MOST_ROWS = 20
CENT = Decimal("0.01")


def headline(report: DailyReport) -> str:
    """The day in one sentence, for the subject of a message."""
    simulated = " (SIMULATED)" if report.simulated else ""
    per_clip = f", ${report.usd_per_clip:.3f} each" if report.usd_per_clip is not None else ""
    saved = ""
    if report.google is not None and report.google.saved_share is not None and report.clips:
        share = report.google.saved_share
        saved = f", {abs(share):.0%} {'below' if share >= 0 else 'above'} Google alone"
    so_far = "" if report.over else " so far"
    return (
        f"{report.day.isoformat()}{simulated}: {report.clips} clips for ${report.cost_usd:.2f}{so_far}{per_clip}{saved}"
    )


def markdown(report: DailyReport, *, picture: str = "") -> str:
    """The page.

    Args:
        picture: link to the SVG beside it, where there is one.
    """
    parts = [*_head(report), *([f"![Spend]({picture})", ""] if picture else []), *_pictures(report)]
    parts += [*_attention(report), *_google(report), *_spend(report), *_trouble(report), *_standing(report)]
    return "\n".join(parts).rstrip() + "\n"


def _head(report: DailyReport) -> Iterator[str]:
    zone = ZoneInfo(report.zone)
    yield f"# {headline(report)}"
    yield ""
    if report.simulated:
        yield "**SIMULATED: no money was spent.**"
        yield ""
    state = "" if report.over else f" up to {report.made_at.astimezone(zone):%H:%M}"
    yield (
        f"The day in {report.zone}{state}. **${_usd(report.cost_usd)}** was booked for {report.clips} clips and "
        f"{report.failed} failed attempts; {report.jobs_failed} jobs were given up."
    )
    yield ""
    quoted, actual = report.quoted_usd, report.clips_usd
    if report.clips:
        off = f" ({(actual - quoted) / quoted:+.1%})" if quoted else ""
        yield f"Quoted ${_usd(quoted)}, came to ${_usd(actual)}{off} for the attempts that made the clips."
        yield ""


def _pictures(report: DailyReport) -> Iterator[str]:
    if not any(day.cost_usd or day.clips for day in report.days):
        return
    first, last = report.days[0].day, report.days[-1].day
    rows = [
        (f"dollars, {first:%d %b} to {last:%d %b}", steps([float(day.cost_usd) for day in report.days])),
        (f"clips, {first:%d %b} to {last:%d %b}", steps([day.clips for day in report.days])),
        ("clips by the hour, 0 to 23", steps([hour.clips for hour in report.hours])),
    ]
    wide = max(len(label) for label, _ in rows)
    yield "```"
    for label, line in rows:
        yield f"{label.ljust(wide)}  {line}"
    yield "```"
    yield ""


def _attention(report: DailyReport) -> Iterator[str]:
    """What a person should do something about; nothing where there is nothing."""
    found = []
    if report.uncertain:
        held = sum((line.reserved_usd for line in report.uncertain), Decimal(0))
        found.append(f"{len(report.uncertain)} attempts are uncertain and hold ${_usd(held)}; see below")
    found += [
        f"only ${_usd(budget.left_usd)} of ${_usd(budget.cap_usd)} is left for {budget.name}"
        for budget in report.budgets
        if budget.left_usd < budget.cap_usd / 5
    ]
    found += [f"{line.backend} ({plain(line.model)}) rests after failures" for line in report.breakers if line.open_now]
    if report.pods.open_now and report.over:
        pods = report.pods
        found.append(f"{pods.open_now} rented pods are open now, ${pods.usd_per_h_now:.2f} an hour")
    for bill in report.bills:
        if abs(bill.difference_usd) >= CENT:
            difference = f"{bill.difference_usd:+.2f}"
            found.append(
                f"{plain(bill.what)}: the bill differs by ${difference}; `hybrid-video reconcile` compares again"
            )
    if found:
        yield "## To look at"
        yield ""
        yield from (f"- {text}" for text in found)
        yield ""


def _google(report: DailyReport) -> Iterator[str]:
    google = report.google
    if google is None:
        return
    yield "## Beside Google alone"
    yield ""
    yield "| | money | time |"
    yield "|---|---:|---:|"
    yield f"| this day | ${_usd(report.cost_usd)} | {clock(report.elapsed_s)} |"
    yield f"| {plain(google.model)} alone, at today's price | ${_usd(google.cost_usd)} | {clock(google.duration_s)} |"
    share = f" ({google.saved_share:.1%})" if google.saved_share is not None else ""
    slower = "longer" if google.longer_s >= 0 else "faster"
    yield f"| saved | ${_usd(google.saved_usd)}{share} | {clock(abs(google.longer_s))} {slower} |"
    yield ""


def _spend(report: DailyReport) -> Iterator[str]:
    for title, lines in (
        ("backend", report.by_backend),
        ("batch", report.by_batch),
        ("workflow or model", report.by_workflow),
    ):
        if lines:
            yield from _table(title, lines)


def _table(title: str, lines: Sequence[SpendLine]) -> Iterator[str]:
    highest = max(line.cost_usd for line in lines)
    yield f"## By {title}"
    yield ""
    yield f"| {title} | | cost | clips | failed | per clip | quoted |"
    yield "|---|---|---:|---:|---:|---:|---:|"
    for line in lines[:MOST_ROWS]:
        share = float(line.cost_usd / highest) if highest else 0.0
        per_clip = "" if line.usd_per_clip is None else f"${line.usd_per_clip:.3f}"
        yield (
            f"| {plain(line.name)} | {bar(share, 12)} | ${_usd(line.cost_usd)} | {line.clips} | {line.failed} "
            f"| {per_clip} | ${_usd(line.quoted_usd)} |"
        )
    if len(lines) > MOST_ROWS:
        rest = lines[MOST_ROWS:]
        cost = sum((line.cost_usd for line in rest), Decimal(0))
        clips, failed = sum(line.clips for line in rest), sum(line.failed for line in rest)
        quoted = sum((line.quoted_usd for line in rest), Decimal(0))
        yield f"| {len(rest)} more | | ${_usd(cost)} | {clips} | {failed} | | ${_usd(quoted)} |"
    yield ""


def _trouble(report: DailyReport) -> Iterator[str]:
    if not (report.errors or report.failovers or report.breakers):
        return
    yield "## Failures"
    yield ""
    for error in report.errors[:MOST_ROWS]:
        yield f"- {error.attempts} attempts on {error.backend}: `{error.kind}`, ${_usd(error.cost_usd)}"
    for line in report.failovers[:MOST_ROWS]:
        yield f"- {line.jobs} jobs went from {line.away_from} to {line.went_to}"
    for breaker in report.breakers[:MOST_ROWS]:
        now = ", open now" if breaker.open_now else ""
        yield (
            f"- {breaker.backend} with {plain(breaker.model)} was left alone {breaker.openings} times after "
            f"failures (`{breaker.last_error}`){now}"
        )
    yield ""


def _standing(report: DailyReport) -> Iterator[str]:
    yield "## Money that is held, and what is left"
    yield ""
    yield f"${_usd(report.reserved_usd)} is reserved for {report.open_attempts} open attempts and open pods."
    pods = report.pods
    if pods.opened or pods.closed or pods.open_now or pods.overhead_usd:
        yield (
            f"Rented pods: {pods.opened} opened, {pods.closed} closed, ${_usd(pods.overhead_usd)} for start-up, idle "
            f"time and storage; {pods.open_now} open now for ${pods.usd_per_h_now:.2f} an hour."
        )
    yield ""
    if report.budgets:
        yield "| limit | | spent | reserved | left |"
        yield "|---|---|---:|---:|---:|"
        for line in report.budgets:
            used = float((line.settled_usd + line.reserved_usd) / line.cap_usd) if line.cap_usd else 1.0
            yield (
                f"| ${_usd(line.cap_usd)} for {line.name} | {bar(used, 12)} | ${_usd(line.settled_usd)} "
                f"| ${_usd(line.reserved_usd)} | ${_usd(line.left_usd)} |"
            )
        yield ""
    if report.bills:
        yield "| bill | vendor | ours | difference |"
        yield "|---|---:|---:|---:|"
        for bill in report.bills[:MOST_ROWS]:
            amounts = (bill.billed_usd, bill.ledger_usd, bill.difference_usd)
            yield f"| {plain(bill.what)} | " + " | ".join(f"${_usd(usd)}" for usd in amounts) + " |"
        yield ""
    for attempt in report.uncertain[:MOST_ROWS]:
        yield (
            f"- uncertain: `{attempt.batch}/{attempt.job}` on {attempt.backend}, ${_usd(attempt.reserved_usd)}: "
            f"{attempt.what_to_do}"
        )
    for notice in report.notices:
        yield f"> {plain(notice)}"


def _usd(amount: Decimal) -> str:
    """Cents, or every digit below one; the files beside it have them all."""
    rounded = amount.quantize(CENT)
    return f"{rounded:f}" if rounded or not amount else money(amount)
