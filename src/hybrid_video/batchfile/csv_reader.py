"""Reads CSV: one row per job, batch-level settings in `# name: value` lines above the header.

Spreadsheets are expected to have touched the file: semicolons and tabs separate too, empty rows and columns are
skipped, `sep=;` is honoured, and comment lines may have come back with trailing separators or in quotes.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from hybrid_video.batchfile.documents import Document, Marks, Problems, UnreadableError, shown
from hybrid_video.batchfile.scalars import resolve_plain
from hybrid_video.batchfile.wording import Level, unknown_field
from hybrid_video.models import Batch, Model, Preferences, ScoreWeights, VideoJob

_DELIMITERS = ",;\t"
_SETTING = re.compile(r"#\s*([A-Za-z_][\w.-]*)\s*:\s*(.*)")
_SEPARATOR = re.compile(r"sep=([,;\t])", re.IGNORECASE)
_GROUPS: dict[str, type[Model]] = {"preferences": Preferences, "preferences.weights": ScoreWeights}


@dataclass
class _Preamble:
    """What stands above the header."""

    settings: dict[str, Any] = field(default_factory=dict)
    marks: Marks = field(default_factory=lambda: Marks(1))
    delimiter: str | None = None
    lines: int = 0


def read_csv(text: str, problems: Problems) -> Document:
    """Parses the text.

    Raises:
        UnreadableError: it has no header, or its quotes do not match.
    """
    lines = text.splitlines(keepends=True)
    preamble = _read_preamble(lines, problems)
    body = lines[preamble.lines :]
    if not body:
        raise UnreadableError("has no header row; the first row names the columns, for example `id,prompt`")
    rows = _rows(body, preamble.delimiter or _sniff(body[0]), preamble.lines)
    header_line, header = next(rows, (0, []))
    columns = _columns(header, header_line, problems)
    document = Document(preamble.settings, {id(preamble.settings): preamble.marks})
    jobs: list[dict[str, Any]] = []
    marks = document.marks[id(jobs)] = Marks(header_line)
    for line, cells in rows:
        if any(cell.strip() for cell in cells):
            marks.children[len(jobs)] = line
            jobs.append(_job(cells, columns, line, document, problems))
    document.data["jobs"] = jobs
    return document


def _read_preamble(lines: list[str], problems: Problems) -> _Preamble:
    preamble = _Preamble()
    for number, raw in enumerate(lines, start=1):
        line = raw.strip().rstrip(",;\t ")
        if line.startswith('"#') and line.endswith('"'):
            line = line[1:-1].replace('""', '"')
        separator = _SEPARATOR.fullmatch(raw.strip())
        if separator:
            preamble.delimiter = separator.group(1)
        elif line and not line.startswith("#"):
            break
        elif not line.startswith("##"):
            _setting(line, number, preamble, problems)
        preamble.lines = number
    return preamble


def _setting(line: str, number: int, preamble: _Preamble, problems: Problems) -> None:
    """Takes `# word: value`. An unknown word is refused: a misspelt budget must not pass as a remark."""
    match = _SETTING.fullmatch(line)
    if match is None:
        return
    name, value = match.group(1), match.group(2).strip()
    first, *rest = name.split(".")
    nested = first in {"preferences", "defaults"}
    if (first not in Batch.model_fields and first != "defaults") or first == "jobs" or bool(rest) != nested:
        problems.add(f"{unknown_field(name, 'batch')}; start plain remarks with `##`", line=number)
    elif value:
        _put(preamble.settings, name, resolve_plain(value) if nested and "inputs" in rest else value)
        preamble.marks.children[first] = number


def _sniff(header: str) -> str:
    unquoted = re.sub(r'"[^"]*"', "", header)
    return max(_DELIMITERS, key=unquoted.count)


def _rows(lines: list[str], delimiter: str, skipped: int) -> Iterator[tuple[int, list[str]]]:
    """Each row with the line it starts on; rows may span lines."""
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    started = skipped + 1
    try:
        for row in reader:
            yield started, row
            started = skipped + reader.line_num + 1
    except csv.Error as error:
        raise UnreadableError(
            f"not readable as CSV ({error}); put cells that hold separators, quotes or line breaks in double quotes, "
            'and double the quotes inside them ("")',
            started,
        ) from None


def _columns(header: list[str], line: int, problems: Problems) -> list[str | None]:
    """Field name of each column; None for a column without a name or with an unknown one."""
    columns: list[str | None] = []
    for cell in header:
        name = cell.strip()
        if not name.startswith("inputs."):
            name = name.lower()
        if name and name in columns:
            problems.add(f"the column {shown(name)} is there twice; keep one", line=line)
        if name and not _known(name):
            problems.add(_unknown_column(name), line=line)
        columns.append(name if name and _known(name) else None)
    if "prompt" not in columns and not len(problems):
        names = ", ".join(shown(cell) for cell in header[:10])
        problems.add(f"the header row ({names}) has no column 'prompt'; add one", line=line)
    return columns


def _known(name: str) -> bool:
    group, _, leaf = name.rpartition(".")
    if group == "inputs":
        return bool(leaf)
    fields = _GROUPS[group].model_fields if group in _GROUPS else VideoJob.model_fields if not group else {}
    return leaf in fields and name not in {"preferences", "preferences.weights", "inputs"}


def _unknown_column(name: str) -> str:
    group, _, leaf = name.rpartition(".")
    if name in {"preferences", "preferences.weights", "inputs"}:
        return f"the column {name!r} is a group; name its parts, for example '{name}.{_example(name)}'"
    levels: dict[str, Level] = {"preferences": "preferences", "preferences.weights": "weights"}
    level = levels.get(group, "job")
    return "column " + unknown_field(leaf if group in _GROUPS else name, level)


def _example(group: str) -> str:
    return {"preferences": "max_cost_usd", "preferences.weights": "cost"}.get(group, "strength")


def _job(
    cells: list[str], columns: list[str | None], line: int, document: Document, problems: Problems
) -> dict[str, Any]:
    job: dict[str, Any] = {}
    document.marks[id(job)] = Marks(line)
    extra = [cell for cell in cells[len(columns) :] if cell.strip()]
    if extra:
        problems.add(
            f"has {len(cells)} cells where the header has {len(columns)}, the first extra one is {shown(extra[0])}; "
            "put text that holds a separator in double quotes",
            line=line,
        )
    for name, cell in zip(columns, cells, strict=False):
        value = cell.strip()
        if name and value:
            _put(job, name, resolve_plain(value) if name.startswith("inputs.") else value)
    return job


def _put(target: dict[str, Any], dotted: str, value: Any) -> None:
    *groups, leaf = dotted.split(".") if not dotted.startswith("inputs.") else ["inputs", dotted[7:]]
    for group in groups:
        target = target.setdefault(group, {})
    target[leaf] = value
