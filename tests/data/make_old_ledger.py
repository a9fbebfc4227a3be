"""Writes a ledger as an earlier version of the code made it, for the upgrade test (tests/unit/test_upgrade.py).

    python tests/data/make_old_ledger.py COMMIT tests/data/ledgers/v9.json

The code of that commit is put into a folder of its own and really runs a batch against the emulators of today's code;
then its own tables are read. Only tables that the batch left empty are filled by hand. Run it once for the newest
migration before the next one is written, and never again: a released ledger does not change.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COMMAND = "from hybrid_video.cli import main; main()"
SMALL = {"duration_s": 1, "width": 128, "height": 72, "fps": 8}
BATCH = {
    "name": "film",
    "jobs": [
        {"id": "own", "prompt": "a lighthouse at dusk", **SMALL},
        {"id": "rented", "prompt": "a paper boat", **SMALL, "preferences": {"backend": "cloud"}},
        {"id": "bought", "prompt": "a red kite", **SMALL, "preferences": {"backend": "gemini"}},
        {"id": "broken", "prompt": "a fox in the snow", **SMALL, "preferences": {"backend": "cloud"}},
        {"id": "unknown", "prompt": "a night train", **SMALL, "preferences": {"backend": "gemini"}},
    ],
}
FAULTS = {
    "rules": [
        {"server": "runpod", "operation": "execute", "action": "fail", "match": "broken", "times": None},
        {"server": "gemini", "operation": "submit", "action": "drop_after", "match": "unknown|night train"},
    ]
}
QUICK = {
    "HYBRID_VIDEO_RUNPOD_POLL_INTERVAL_S": "0.05",
    "HYBRID_VIDEO_GEMINI_POLL_INTERVAL_S": "0.05",
    "HYBRID_VIDEO_GEMINI_RESOLUTION": "360p",
    "HYBRID_VIDEO_RETRY_BASE_S": "0.1",
    "HYBRID_VIDEO_MIN_FREE_DISK_MB": "50",
    "HYBRID_VIDEO_TIME_SCALE": "40",
}
AMOUNT = 12_345_679
"""Nano-dollars of the rows written by hand."""

DUMP = r"""
import json, sys
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.schema import CreateIndex, CreateTable
from hybrid_video.ledger import schema as t

def ddl(dialect):
    out = []
    for table in t.metadata.sorted_tables:
        out.append(str(CreateTable(table).compile(dialect=dialect)).strip())
        indexes = sorted(table.indexes, key=lambda index: index.name)
        out += [str(CreateIndex(index).compile(dialect=dialect)) for index in indexes]
    return out

columns = {table.name: {c.name: (str(c.type.compile(dialect=sqlite.dialect())), c.nullable) for c in table.columns}
           for table in t.metadata.sorted_tables}
print(json.dumps({"migration": len(t.MIGRATIONS), "columns": columns,
                  "ddl": {"sqlite": ddl(sqlite.dialect()), "postgresql": ddl(postgresql.dialect())}}))
"""


def main() -> None:
    """Makes the file of one commit."""
    commit, target = sys.argv[1], Path(sys.argv[2])
    with tempfile.TemporaryDirectory(prefix="old-ledger-") as name:
        folder = Path(name)
        tree = subprocess.run(["git", "archive", commit, "src"], cwd=ROOT, check=True, capture_output=True).stdout
        subprocess.run(["tar", "-x"], cwd=folder, input=tree, check=True)
        environment = {**os.environ, "PYTHONPATH": str(folder / "src"), "HYBRID_VIDEO_HOME": str(folder / "home")}
        run_batch(folder, environment)
        shape = json.loads(python(DUMP, environment).splitlines()[-1])
        rows = read(folder / "home" / "ledger.sqlite3", shape["columns"])
    fill(rows, shape["columns"])
    made_by = subprocess.run(["git", "rev-parse", commit], cwd=ROOT, check=True, capture_output=True, text=True)
    document = {"migration": shape["migration"], "made_by": made_by.stdout.strip(), "ddl": shape["ddl"], "rows": rows}
    text = json.dumps(document, indent=1, ensure_ascii=False).replace(str(folder), "/home/film")
    target.write_text(text + "\n", encoding="utf-8")


def run_batch(folder: Path, environment: dict[str, str]) -> None:
    """Runs the batch with the old code against the emulators of this code."""
    (folder / "film.json").write_text(json.dumps(BATCH), encoding="utf-8")
    (folder / "faults.json").write_text(json.dumps(FAULTS), encoding="utf-8")
    options = ["--time-scale", "40", "--cold-start", "1", "--faults", str(folder / "faults.json"), "--json"]
    served = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "emulate", *options], cwd=folder, stdout=subprocess.PIPE, text=True
    )
    try:
        assert served.stdout is not None
        vendors = json.loads(served.stdout.readline())["environment"]
        ran = subprocess.run(
            [sys.executable, "-c", COMMAND, "run", "film.json", "--out", "clips", "--budget", "5", "--json"],
            cwd=folder,
            env={**environment, **vendors, **QUICK},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    finally:
        served.terminate()
        served.wait(20)
    assert ran.returncode in (0, 1), ran.stderr
    print(ran.stderr[-800:], file=sys.stderr)


def python(code: str, environment: dict[str, str]) -> str:
    """Runs code with the old package."""
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return done.stdout


def read(path: Path, columns: dict[str, dict[str, tuple[str, bool]]]) -> dict[str, list[dict[str, object]]]:
    """Every row as the database holds it; truth values as such."""
    import sqlite3
    from contextlib import closing

    rows: dict[str, list[dict[str, object]]] = {}
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        for table, kinds in columns.items():
            rows[table] = []
            for row in connection.execute(f"SELECT * FROM {table}"):  # noqa: S608 - our own names
                values = dict(row)
                for name, (kind, _) in kinds.items():
                    if kind == "BOOLEAN":
                        values[name] = bool(values[name])
                rows[table].append(values)
    return rows


def fill(rows: dict[str, list[dict[str, object]]], columns: dict[str, dict[str, tuple[str, bool]]]) -> None:
    """One row by hand in every table that is still empty; money among them is booked in the balances too."""
    special: dict[str, object] = {
        "name": "hv-1a2b3c4d-000001",
        "pod": "hv-1a2b3c4d-000001",
        "pod_id": "pod0000000001",
        "state": "closed",
        "batch": "film",
        "job": "rented",
        "day": "2026-11-21",
        "reserved_usd": 0,
        "reconciled_at": None,
        "lease_until": "2026-11-21T10:00:00.000000+00:00",
        "owner": None,
        "document": "{}",
        "history": "[]",
        "scope": "all",
    }
    for table, kinds in columns.items():
        if rows[table]:
            continue
        row: dict[str, object] = {}
        for name, (kind, nullable) in kinds.items():
            if name in special and not (special[name] is None and not nullable):
                row[name] = special[name]
            elif kind.startswith("BIGINT"):
                row[name] = AMOUNT
            elif kind in ("INTEGER", "FLOAT"):
                row[name] = 1
            elif name.endswith(("_at", "_until")) or name == "at":
                row[name] = "2026-11-21T09:30:00.000000+00:00"
            else:
                row[name] = table
        rows[table].append(row)
        if table == "pod_shares":
            book(rows, ["day:2026-11-21", "month:2026-11", "tier:cloud:2026-11", "all", "batch:film"])
        if table == "pruned":
            book(rows, ["all"])


def book(rows: dict[str, list[dict[str, object]]], scopes: list[str]) -> None:
    """Adds the amount to what is settled in these scopes."""
    for scope in scopes:
        found = [row for row in rows["balances"] if row["scope"] == scope]
        if not found:
            found = [{"scope": scope, "settled_usd": 0, "reserved_usd": 0}]
            rows["balances"] += found
        found[0]["settled_usd"] = int(str(found[0]["settled_usd"])) + AMOUNT


if __name__ == "__main__":
    main()
