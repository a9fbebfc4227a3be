"""The day as a CSV file: one row for each backend, batch, workflow, hour and day before, and the totals."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from decimal import Decimal

from hybrid_video.daily_report.figures import DailyReport
from hybrid_video.engine.report import money

COLUMNS = ("section", "name", "attempts", "clips", "failed", "cost_usd", "quoted_usd")
FORMULA = ("=", "+", "-", "@", "\t", "\r")

Row = tuple[str, str, int | str, int | str, int | str, Decimal | None, Decimal | None]


def csv_text(report: DailyReport) -> str:
    """The file's text. Amounts are exact; a name that a spreadsheet would run as a formula gets an apostrophe."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(("day", "zone", *COLUMNS))
    for section, name, *counts, cost, quoted in _rows(report):
        safe = f"'{name}" if name.startswith(FORMULA) else name
        amounts = ["" if usd is None else money(usd) for usd in (cost, quoted)]
        writer.writerow((report.day.isoformat(), report.zone, section, safe, *counts, *amounts))
    return out.getvalue()


def _rows(report: DailyReport) -> Iterator[Row]:
    yield ("total", "", report.attempts, report.clips, report.failed, report.cost_usd, report.quoted_usd)
    if report.google is not None:
        yield ("google alone", report.google.model, "", report.google.clips, "", report.google.cost_usd, None)
    groups = {"backend": report.by_backend, "batch": report.by_batch, "workflow": report.by_workflow}
    for section, lines in groups.items():
        for line in lines:
            yield (section, line.name, line.attempts, line.clips, line.failed, line.cost_usd, line.quoted_usd)
    for error in report.errors:
        yield ("error", f"{error.kind} on {error.backend}", error.attempts, "", error.attempts, error.cost_usd, None)
    for hour in report.hours:
        yield ("hour", f"{hour.hour:02d}:00", "", hour.clips, "", hour.cost_usd, None)
    for day in report.days:
        yield ("day", day.day.isoformat(), "", day.clips, "", day.cost_usd, None)
