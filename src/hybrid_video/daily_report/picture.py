"""The day as pictures: bars made of characters, which every page shows, and an SVG beside the report in the folder."""

from __future__ import annotations

import html
from collections.abc import Sequence
from decimal import Decimal

from hybrid_video.daily_report.figures import DailyReport

BLOCKS = " ▏▎▍▌▋▊▉█"
STEPS = "▁▂▃▄▅▆▇█"
BAR_WIDTH = 24
COLOURS = {"comfyui": "#2f9e44", "runpod-pod": "#1971c2", "runpod-serverless": "#4dabf7"}
OTHER = "#ae3ec9"


def bar(share: float, width: int = BAR_WIDTH) -> str:
    """A bar of at most `width` characters for a share of 1; anything above nothing is seen."""
    eighths = round(max(0.0, min(1.0, share)) * width * 8)
    if share > 0:
        eighths = max(1, eighths)
    whole, rest = divmod(eighths, 8)
    return BLOCKS[8] * whole + (BLOCKS[rest] if rest else "")


def steps(values: Sequence[float]) -> str:
    """A line of small columns, one for each value; a dot where there is nothing."""
    highest = max(values, default=0.0)
    if highest <= 0:
        return "·" * len(values)
    last = len(STEPS) - 1
    return "".join("·" if value <= 0 else STEPS[min(last, int(value / highest * last + 0.5))] for value in values)


def svg(report: DailyReport) -> str:
    """Spend of the last days as columns, and of this day by backend; readable on light and dark pages."""
    width, height = 720, 250
    look = 'font-family="system-ui, sans-serif" font-size="12" fill="#868e96"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" {look}>',
        f"<title>Spend up to {report.day.isoformat()}</title>",
        *_columns(report, left=10, top=24, width=400, height=170),
        *_bars(report, left=440, top=24, width=270),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _columns(report: DailyReport, *, left: int, top: int, width: int, height: int) -> list[str]:
    highest = max((day.cost_usd for day in report.days), default=Decimal(0)) or Decimal(1)
    each = width / max(1, len(report.days))
    parts = [f'<text x="{left}" y="{top - 8}">US dollars a day</text>']
    for number, day in enumerate(report.days):
        tall = float(day.cost_usd / highest) * (height - 20)
        x, y = left + number * each, top + height - tall
        colour = "#f08c00" if day.day == report.day else "#adb5bd"
        label = f"{day.day.isoformat()}: ${day.cost_usd:.2f}, {day.clips} clips"
        parts.append(
            f'<rect x="{x + 2:.1f}" y="{y:.1f}" width="{each - 4:.1f}" height="{max(tall, 1):.1f}" rx="2" '
            f'fill="{colour}"><title>{label}</title></rect>'
        )
        parts.append(f'<text x="{x + each / 2:.1f}" y="{top + height + 16}" text-anchor="middle">{day.day.day}</text>')
        if day.cost_usd and (day.day == report.day or day.cost_usd == highest):
            parts.append(
                f'<text x="{x + each / 2:.1f}" y="{y - 4:.1f}" text-anchor="middle">${day.cost_usd:.2f}</text>'
            )
    return parts


def _bars(report: DailyReport, *, left: int, top: int, width: int) -> list[str]:
    lines = report.by_backend[:5]
    highest = max((line.cost_usd for line in lines), default=Decimal(0)) or Decimal(1)
    parts = [f'<text x="{left}" y="{top - 8}">{report.day.isoformat()} by backend</text>']
    for number, line in enumerate(lines):
        y = top + number * 38
        long = max(1.0, float(line.cost_usd / highest) * width)
        colour = COLOURS.get(line.name, OTHER)
        text = f"{html.escape(line.name)}: ${line.cost_usd:.2f}, {line.clips} clips"
        parts.append(f'<text x="{left}" y="{y + 12}">{text}</text>')
        parts.append(f'<rect x="{left}" y="{y + 17}" width="{long:.1f}" height="12" rx="2" fill="{colour}"/>')
    if not lines:
        parts.append(f'<text x="{left}" y="{top + 12}">nothing was booked</text>')
    return parts
