"""Writes a batch back to text that `load_batch` reads into the same batch."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, Literal

import yaml

from hybrid_video.batchfile.scalars import resolve_plain
from hybrid_video.models import Batch


def dump(batch: Batch, form: Literal["yaml", "json", "csv"] = "yaml") -> str:
    """The batch as the text of a batch file. Fields that have their default value are left out."""
    data = _plain(batch.model_dump(exclude_defaults=True))
    if form == "json":
        return json.dumps(data, indent=2, ensure_ascii=False) + "\n"
    if form == "csv":
        return _csv(data)
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(member) for member in value]
    return str(value) if isinstance(value, Decimal) else value


class _Dumper(yaml.SafeDumper):
    """Quotes every text that our reader, or PyYAML's own rules, would take for something else."""

    def ignore_aliases(self, _data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = None if value and isinstance(resolve_plain(value), str) and "\x85" not in value else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


def _csv(data: dict[str, Any]) -> str:
    out = io.StringIO()
    jobs = data.pop("jobs")
    for name, value in _flat(data):
        out.write(f"# {name}: {value}\n")
    rows = [dict(_flat(job)) for job in jobs]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _flat(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in data.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
