"""What a night came to: a line for each batch, the report that is put beside it, and the page for the whole night."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal
from zoneinfo import ZoneInfo

from hybrid_video.engine.report import BatchReport, money
from hybrid_video.models import Model, Usd
from hybrid_video.plain_text import clock, plain

Outcome = Literal["done", "failed", "waits", "stopped"]
"""waits: put back into the inbox for the next night. stopped: put back because the run was asked to end."""

MOST_LINES = 200


@dataclass(frozen=True)
class Ran:
    """How a batch was run: its report, and whether it was asked to stop before its end."""

    report: BatchReport
    stopped: bool = False


class NightLine(Model):
    """One batch of the night."""

    unit: str
    batch: str = ""
    outcome: Outcome
    clips: int = 0
    jobs: int = 0
    cost_usd: Usd = Decimal(0)
    duration_s: float = 0.0
    reason: str = ""
    place: str = ""


class NightReport(Model):
    """Everything of one call. Money counts from its begin; `spent_usd` is the whole night's, over all workers."""

    folder: str
    night: str
    zone: str
    ready_by: datetime | None
    began_at: datetime
    ended_at: datetime
    budget_usd: Usd | None = None
    spent_usd: Usd = Decimal(0)
    lines: tuple[NightLine, ...] = ()
    waiting: int = 0
    notices: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """0 all made, or nothing to do; 1 something failed; 3 something waits for money only."""
        if any(line.outcome == "failed" for line in self.lines):
            return 1
        return 3 if any(line.outcome == "waits" for line in self.lines) else 0

    @property
    def summary(self) -> str:
        """One sentence."""
        counts = [(name, sum(line.outcome == name for line in self.lines)) for name in ("done", "failed", "waits")]
        told = ", ".join(f"{count} {name}" for name, count in counts if count)
        clips = sum(line.clips for line in self.lines)
        return f"{told}: {clips} clips for ${money(self.cost_usd)}" if told else "nothing was waiting"

    @property
    def cost_usd(self) -> Decimal:
        """What these batches cost in this call."""
        return sum((line.cost_usd for line in self.lines), Decimal(0))

    def to_json(self) -> dict[str, Any]:
        """The report with money as plain strings."""
        data = self.model_dump(mode="json")
        for row, line in zip(data["lines"], self.lines, strict=True):
            row["cost_usd"] = money(line.cost_usd)
        budget = None if self.budget_usd is None else money(self.budget_usd)
        sums = {"cost_usd": money(self.cost_usd), "spent_usd": money(self.spent_usd), "budget_usd": budget}
        return {**data, **sums, "summary": self.summary}


def night_markdown(report: NightReport) -> str:
    """The night as a page."""
    zone = ZoneInfo(report.zone)
    ready = f", to be ready by {report.ready_by.astimezone(zone):%a %H:%M}" if report.ready_by else ""
    budget = f" of ${money(report.budget_usd)}" if report.budget_usd is not None else ""
    when = f"{report.began_at.astimezone(zone):%Y-%m-%d %H:%M} to {report.ended_at.astimezone(zone):%H:%M}"
    spent = f"Spent ${money(report.spent_usd)}{budget} in the whole night."
    lines = [f"# Night of {report.night}: {report.summary}", "", f"{when} ({report.zone}){ready}. {spent}"]
    if report.lines:
        lines += ["", "| batch | outcome | clips | cost | time | why |", "|---|---|---:|---:|---:|---|"]
        lines += [
            f"| {plain(line.unit)} | {line.outcome} | {line.clips} of {line.jobs} | ${money(line.cost_usd)} "
            f"| {clock(line.duration_s)} | {plain(line.reason)} |"
            for line in report.lines[:MOST_LINES]
        ]
    if report.waiting:
        lines += ["", f"{report.waiting} batches wait in the inbox; `hybrid-video inbox` says for what."]
    lines += ["", *(f"> {plain(notice)}" for notice in report.notices)]
    return "\n".join(lines).rstrip() + "\n"


def batch_markdown(unit: str, report: BatchReport, *, reason: str, zone: ZoneInfo, ended_at: datetime) -> str:
    """The report that is put beside a batch that was made, or partly."""
    simulated = " (SIMULATED: no money was spent)" if report.simulated else ""
    ended = f"Ended {ended_at.astimezone(zone):%Y-%m-%d %H:%M} ({zone.key}), after {clock(report.duration_s)}."
    cost = f"${money(report.cost_usd)} in all, quoted ${money(report.quoted_usd)}; {report.failovers} failovers."
    lines = [f"# {plain(unit)}: {report.completed} of {report.jobs} clips{simulated}", "", f"{ended} {cost}"]
    if reason:
        lines += ["", f"**{plain(reason)}**"]
    if report.errors:
        lines += ["", "## Not made", ""]
        lines += [f"- `{line.job}` ({line.kind}): {plain(line.message)}" for line in report.errors[:MOST_LINES]]
        lines += ["", "## What to do", "", *_again(unit)]
    if report.clips:
        lines += ["", "| clip | made by | cost | file |", "|---|---|---:|---|"]
        lines += [
            f"| {clip.job} | {clip.provider} | ${money(clip.cost_usd)} | {plain(clip.path)} |"
            for clip in report.clips[:MOST_LINES]
        ]
    lines += ["", *(f"> {plain(notice)}" for notice in report.notices)]
    return "\n".join(lines).rstrip() + "\n"


def refused_markdown(unit: str, problems: tuple[str, ...], *, zone: ZoneInfo, at: datetime) -> str:
    """The report beside a batch that could not start: every problem with file, line and remedy."""
    lines = [
        f"# {plain(unit)}: nothing was made",
        "",
        f"Looked at {at.astimezone(zone):%Y-%m-%d %H:%M} ({zone.key}). Nothing was sent and nothing was paid.",
        "",
        "## Why",
        "",
        *(f"- {plain(problem)}" for problem in problems[:MOST_LINES]),
        "",
        "## What to do",
        "",
        *_again(unit),
    ]
    return "\n".join(lines) + "\n"


def _again(unit: str) -> list[str]:
    return [
        f"Correct it here, then run `hybrid-video inbox retry {plain(unit)}`, which puts it back into the inbox.",
        "Clips that are finished are not made and not paid for again.",
    ]
