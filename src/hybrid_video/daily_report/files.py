"""Keeps the report of each day in the home folder, for people and for spreadsheets."""

from __future__ import annotations

import json
from pathlib import Path

from hybrid_video.daily_report.figures import DailyReport
from hybrid_video.daily_report.markdown import markdown
from hybrid_video.daily_report.picture import svg
from hybrid_video.daily_report.tables import csv_text
from hybrid_video.errors import ConfigurationError
from hybrid_video.settings import Settings

FOLDER = "reports"


def save(report: DailyReport, settings: Settings) -> dict[str, Path]:
    """Writes `<day>.md`, `.csv`, `.json` and `.svg` into `<home>/reports`; those of the same day are replaced.

    Raises:
        ConfigurationError: the folder cannot be written to.
    """
    folder = settings.storage.home / FOLDER
    stem = report.day.isoformat()
    texts = {
        "md": markdown(report, picture=f"{stem}.svg"),
        "csv": csv_text(report),
        "json": json.dumps(report.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n",
        "svg": svg(report),
    }
    written = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for ending, text in texts.items():
            path = folder / f"{stem}.{ending}"
            part = path.with_suffix(f".{ending}.part")
            part.write_text(text, encoding="utf-8", newline="")
            part.replace(path)
            written[ending] = path
    except OSError as error:
        raise ConfigurationError(
            f"the report cannot be written to {str(folder)!r}: {error.strerror}; check its permissions and free space"
        ) from None
    return written
