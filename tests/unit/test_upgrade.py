"""Ledgers that earlier versions made, opened by this one.

`tests/data/ledgers` holds one for each migration, made by the code of that time in a real run
(`tests/data/make_old_ledger.py`): a finished clip on each tier, a failed attempt, and one of which nobody knows the
outcome, with the money it still reserves.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pytest
import sqlalchemy as sa

from hybrid_video.errors import LedgerError
from hybrid_video.history import History
from hybrid_video.ledger import Ledger
from hybrid_video.ledger import schema as t
from hybrid_video.ledger.upgrading import KEPT, PATTERN
from hybrid_video.ledger.verify import verify
from hybrid_video.models import AttemptState, JobState

FILES = sorted((Path(__file__).parents[1] / "data" / "ledgers").glob("v*.json"))
OLD = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in FILES}
NEWEST = len(t.MIGRATIONS)
NEVER_ALONE = {9}
"""Written in the same commit as the next one, so no code ever made such a ledger."""

every_old_ledger = pytest.mark.parametrize("name", OLD)


def make(url: str | Path, document: dict[str, Any]) -> None:
    """The ledger of that time, row by row."""
    engine = sa.create_engine(f"sqlite:///{url}" if isinstance(url, Path) else url)
    with engine.begin() as connection:
        for statement in document["ddl"][engine.dialect.name]:
            connection.exec_driver_sql(statement)
        for table, rows in document["rows"].items():
            for row in rows:
                names = ", ".join(row)
                values = ", ".join(f":{name}" for name in row)
                connection.execute(sa.text(f"INSERT INTO {table} ({names}) VALUES ({values})"), row)  # noqa: S608
            if engine.dialect.name == "postgresql" and rows and isinstance(rows[0].get("id"), int):
                connection.exec_driver_sql(
                    f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), (SELECT max(id) FROM {table}))"  # noqa: S608
                )
    engine.dispose()


def stored(ledger: Ledger) -> dict[str, list[dict[str, Any]]]:
    """Every row as it is in the database."""
    with ledger.raw().connect() as connection:
        tables = sa.inspect(connection).get_table_names()
        return {
            table: [dict(row) for row in connection.execute(sa.text(f"SELECT * FROM {table}")).mappings()]  # noqa: S608
            for table in tables
        }


def shape(ledger: Ledger) -> dict[str, Any]:
    """What the tables look like: columns with type and null, keys, indexes."""
    looked = sa.inspect(ledger.raw())
    return {
        table: {
            "columns": {found["name"]: (str(found["type"]), found["nullable"]) for found in looked.get_columns(table)},
            "key": looked.get_pk_constraint(table)["constrained_columns"],
            "indexes": {(found["name"], tuple(found["column_names"])) for found in looked.get_indexes(table)},
        }
        for table in looked.get_table_names()
    }


def number(path: Path) -> int:
    """The newest migration of a file, read without touching it."""
    with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        return int(connection.execute("SELECT max(number) FROM migrations").fetchone()[0])


def copies(folder: Path) -> list[Path]:
    """The files kept from before upgrades, the oldest first."""
    return sorted((folder / "backups").glob(PATTERN), key=lambda path: path.stem.rpartition("-")[2])


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Another process with this code."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_there_is_a_ledger_of_every_migration_but_the_newest() -> None:
    """Whoever adds a migration first keeps a ledger of the one before (`tests/data/make_old_ledger.py`)."""
    assert {document["migration"] for document in OLD.values()} >= set(range(1, NEWEST)) - NEVER_ALONE


@every_old_ledger
def test_an_older_ledger_keeps_every_row_and_every_cent(name: str, ledger_url: str | Path) -> None:
    """On SQLite and on PostgreSQL: nothing lost, nothing changed, the balances agree, and today's code can read it."""
    document = OLD[name]
    make(ledger_url, document)
    with contextlib.closing(Ledger.open(ledger_url)) as ledger:
        now = stored(ledger)
        for table, rows in document["rows"].items():
            if table == "migrations":
                continue
            assert len(now[table]) == len(rows), table
            for row in rows:
                known = {
                    name: value for name, value in row.items() if value is not None
                }  # `registered_at` was filled in
                assert any(known.items() <= found.items() for found in now[table]), (table, row)
        assert {row["number"] for row in now["migrations"]} == set(range(1, NEWEST + 1))
        report = verify(ledger)
        assert report.ok, report.findings
        [total] = [row for row in document["rows"]["balances"] if row["scope"] == "all"]
        assert (int(report.settled_usd * 10**9), int(report.reserved_usd * 10**9)) == (
            total["settled_usd"],
            total["reserved_usd"],
        )
        assert report.reserved_usd > 0
        states = {row.job: row.state for row in ledger.job_rows("film")}
        assert {states[job] for job in ("own", "rented", "bought")} == {JobState.DONE}
        assert [a.job for a in ledger.attempts() if a.state is AttemptState.UNCERTAIN] == ["unknown"]
        assert all(a.clip is not None for a in ledger.attempts() if a.state is AttemptState.SETTLED)


@every_old_ledger
def test_an_upgraded_ledger_looks_like_a_new_one(name: str, ledger_url: str | Path, tmp_path: Path) -> None:
    """Same columns, keys and indexes: nothing works on new ledgers only."""
    with contextlib.closing(Ledger.open(tmp_path / "new.sqlite3")) as fresh:
        expected = shape(fresh)
    make(ledger_url, OLD[name])
    with contextlib.closing(Ledger.open(ledger_url)) as ledger:
        found = shape(ledger)
    assert found.keys() == expected.keys()
    for table, wanted in expected.items():
        assert found[table]["columns"].keys() == wanted["columns"].keys(), table
        assert found[table]["key"] == wanted["key"], table
        mine = {index for index in found[table]["indexes"] if "_key" not in index[0]}
        assert mine == wanted["indexes"], table
        assert {n for n, (_, null) in found[table]["columns"].items() if null} == {
            n for n, (_, null) in wanted["columns"].items() if null
        }, table


def test_the_file_as_it_was_is_kept_beside_it_and_said_where(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The way back: a copy of the older version, which that version can use."""
    path = tmp_path / "ledger.sqlite3"
    make(path, OLD["v8"])
    done = python(
        "import sys, pathlib\nfrom hybrid_video.ledger import Ledger\nLedger.open(pathlib.Path(sys.argv[1]))", str(path)
    )
    assert done.returncode == 0, done.stderr
    [copy] = copies(tmp_path)
    assert copy.name.startswith(f"before-upgrade-8-to-{NEWEST}-")
    assert str(copy) in done.stderr
    assert (number(path), number(copy)) == (NEWEST, 8)
    with contextlib.closing(sqlite3.connect(copy)) as connection:
        assert connection.execute("SELECT count(*) FROM attempts").fetchone()[0] == len(OLD["v8"]["rows"]["attempts"])
    again = python(
        "import sys, pathlib\nfrom hybrid_video.ledger import Ledger\nLedger.open(pathlib.Path(sys.argv[1]))", str(path)
    )
    assert (again.returncode, again.stderr) == (0, "")
    assert copies(tmp_path) == [copy]


def test_only_the_newest_copies_are_kept(tmp_path: Path) -> None:
    """A year of upgrades does not fill the disk; ordinary backups are not counted among them."""
    (tmp_path / "backups").mkdir()
    for day in range(1, 6):
        (tmp_path / "backups" / f"before-upgrade-7-to-8-2026010{day}T000000000000Z.sqlite3").write_text("old")
        (tmp_path / "backups" / f"ledger-2026010{day}T000000000000Z.sqlite3").write_text("ordinary")
    path = tmp_path / "ledger.sqlite3"
    make(path, OLD["v8"])
    Ledger.open(path).close()
    kept = copies(tmp_path)
    assert len(kept) == KEPT
    assert number(kept[-1]) == 8
    assert "20260105" in kept[0].name or "20260104" in kept[0].name
    assert len(list((tmp_path / "backups").glob("ledger-*"))) == 5


def test_without_a_copy_nothing_is_upgraded(tmp_path: Path) -> None:
    """A disk that cannot take the copy is no reason to go on without one."""
    path = tmp_path / "ledger.sqlite3"
    make(path, OLD["v8"])
    (tmp_path / "backups").write_text("a file where the folder should be")
    with pytest.raises(LedgerError, match=r"copy .* cannot be written to .*nothing was changed"):
        Ledger.open(path)
    assert number(path) == 8


def test_several_processes_that_open_an_old_ledger_at_once_upgrade_it_once(tmp_path: Path) -> None:
    """`up` starts four of them side by side after an upgrade."""
    path = tmp_path / "ledger.sqlite3"
    make(path, OLD["v2"])
    code = (
        "import sys, pathlib\nfrom hybrid_video.ledger import Ledger\nsys.stdin.read(1)\n"
        "found = Ledger.open(pathlib.Path(sys.argv[1]))\nprint(found.upgraded is not None)"
    )
    opening = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    for process in opening:
        assert process.stdin is not None
        process.stdin.write("x")
        process.stdin.flush()
    said = [process.communicate(timeout=60)[0].strip() for process in opening]
    assert sorted(said) == ["False", "False", "False", "True"]
    assert len(copies(tmp_path)) == 1
    assert number(path) == NEWEST


@pytest.mark.parametrize("name", ["v1", "v4-first", "v8"])
def test_an_upgrade_killed_in_the_middle_leaves_the_ledger_as_it_was(name: str, ledger_url: str | Path) -> None:
    """All migrations or none: the process is killed after the last one and before the commit."""
    make(ledger_url, OLD[name])
    code = (
        "import os, pathlib, signal, sys\nfrom hybrid_video.ledger import Ledger, schema\n"
        "def die(connection): os.kill(os.getpid(), signal.SIGKILL)\n"
        "schema.MIGRATIONS = (*schema.MIGRATIONS, die)\n"
        "kind, where = sys.argv[1:]\nLedger.open(pathlib.Path(where) if kind == 'file' else where)"
    )
    done = python(code, "file" if isinstance(ledger_url, Path) else "url", str(ledger_url))
    assert done.returncode == -signal.SIGKILL, done.stderr
    before = {table: len(rows) for table, rows in OLD[name]["rows"].items()}
    engine = sa.create_engine(f"sqlite:///{ledger_url}" if isinstance(ledger_url, Path) else ledger_url)
    with engine.connect() as connection:
        assert set(sa.inspect(connection).get_table_names()) == set(before)
        for table, rows in before.items():
            assert connection.execute(sa.text(f"SELECT count(*) FROM {table}")).scalar() == rows  # noqa: S608
    engine.dispose()
    with contextlib.closing(Ledger.open(ledger_url)) as ledger:
        assert verify(ledger).ok
        assert ledger.upgraded is not None
        assert ledger.upgraded.before == OLD[name]["migration"]


def test_work_goes_on_in_an_upgraded_ledger(ledger_url: str | Path) -> None:
    """What was uncertain is settled by a person's word, and its money is released to the cent."""
    from hybrid_video.ledger import Owner
    from hybrid_video.ledger.resolving import resolve

    make(ledger_url, OLD["v1"])
    with contextlib.closing(Ledger.open(ledger_url)) as ledger:
        [attempt] = [a for a in ledger.attempts() if a.state is AttemptState.UNCERTAIN]
        spent = ledger.balance("all").settled_usd
        owner = Owner(Path(os.environ["HYBRID_VIDEO_HOME"]))
        try:
            resolve(ledger, owner, attempt, "charged", usd=None, retry=False)
        finally:
            owner.close()
        assert ledger.balance("all").settled_usd == spent + attempt.reserved_usd
        assert ledger.balance("all").reserved_usd == 0
        assert verify(ledger).ok


def test_the_way_back_to_the_version_before(capsys: pytest.CaptureFixture[str]) -> None:
    """What a newer version wrote is refused untouched, and the copy from before the upgrade takes its place."""
    home = Path(os.environ["HYBRID_VIDEO_HOME"])
    home.mkdir()
    path = home / "ledger.sqlite3"
    make(path, OLD["v8"])
    assert command("ledger", "upgrade", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["before"], told["after"], told["ok"]) == (8, NEWEST, True)
    copy = Path(told["copy"])
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("INSERT INTO migrations VALUES (999, '2027-01-01T00:00:00.000000+00:00')")
        connection.execute("CREATE TABLE of_tomorrow (id INTEGER)")
        connection.commit()
    before = path.read_bytes()
    assert command("ledger", "show") == 2
    said = capsys.readouterr().err
    assert "newer version of hybrid-video (migration 999" in said
    assert "ledger restore FILE --replace" in said
    assert path.read_bytes() == before
    assert command("ledger", "restore", str(copy), "--replace") == 0
    assert number(path) == NEWEST
    with contextlib.closing(Ledger.open(path)) as ledger:
        assert verify(ledger).ok
        assert len(ledger.attempts()) == len(OLD["v8"]["rows"]["attempts"])
    [aside] = home.glob("ledger-before-restore-*.sqlite3")
    assert number(aside) == 999


def test_a_ledger_in_use_is_not_put_aside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A watcher would go on writing into the file under its other name."""
    home = Path(os.environ["HYBRID_VIDEO_HOME"])
    home.mkdir()
    path, backup = home / "ledger.sqlite3", tmp_path / "backup.sqlite3"
    make(path, OLD["v8"])
    assert command("ledger", "backup", str(backup)) == 0
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE watchers SET lease_until = '2999-01-01T00:00:00.000000+00:00'")
        connection.commit()
    assert command("ledger", "restore", str(backup), "--replace") == 2
    assert "in use by a watcher" in capsys.readouterr().err
    assert not list(home.glob("ledger-before-restore-*"))


def test_a_ledger_that_is_only_open_is_not_put_aside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An idle API or dashboard would go on reading and writing the renamed file."""
    home = Path(os.environ["HYBRID_VIDEO_HOME"])
    home.mkdir()
    path, backup = home / "ledger.sqlite3", tmp_path / "backup.sqlite3"
    make(path, OLD["v8"])
    assert command("ledger", "backup", str(backup)) == 0
    with contextlib.closing(Ledger.open(path)) as idle:
        before = len(idle.attempts())
        assert command("ledger", "restore", str(backup), "--replace") == 2
        assert "end `hybrid-video up`, `api`" in capsys.readouterr().err
        assert not list(home.glob("ledger-before-restore-*"))
        assert len(idle.attempts()) == before
    assert command("ledger", "restore", str(backup), "--replace") == 0
    assert list(home.glob("ledger-before-restore-*"))


def test_a_damaged_ledger_is_put_aside_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The day a backup is needed most."""
    home = Path(os.environ["HYBRID_VIDEO_HOME"])
    home.mkdir()
    path, backup = home / "ledger.sqlite3", tmp_path / "backup.sqlite3"
    make(path, OLD["v8"])
    assert command("ledger", "backup", str(backup)) == 0
    path.write_bytes(b"not a database at all" * 500)
    assert command("ledger", "restore", str(backup), "--replace") == 0
    assert "put aside as it is" in capsys.readouterr().err
    with contextlib.closing(Ledger.open(path)) as ledger:
        assert len(ledger.attempts()) == len(OLD["v8"]["rows"]["attempts"])


def command(*arguments: str) -> int:
    """`hybrid-video …` in this process."""
    from hybrid_video.cli import app
    from hybrid_video.cli.output import guarded

    return guarded(app, list(arguments))


def test_a_history_of_another_version_is_made_again_from_the_ledger(tmp_path: Path) -> None:
    """Rows in an older form would stay wrong for ever; those of pruned batches, which nobody can make again, stay."""
    path = tmp_path / "ledger.sqlite3"
    make(path, OLD["v8"])
    old = tmp_path / "history.duckdb"
    with contextlib.closing(Ledger.open(path)) as ledger:
        finished = {a.attempt_id: a for a in ledger.attempts() if a.state is not AttemptState.UNCERTAIN}
        assert History(old).update(ledger) == len(finished)
        with contextlib.closing(duckdb.connect(str(old))) as connection:  # as a version of tomorrow might leave it
            connection.execute("alter table attempts add column of_tomorrow integer")
            connection.execute("update attempts set quoted_service_s = -1")
        assert History(old).update(ledger) == 0
        old.with_suffix(".version").write_text("999\n")
        assert History(old).update(ledger) == len(finished)
        found = History(old).query("select * from attempts").set_index("attempt_id")
        assert set(found.index) == set(finished)
        assert "of_tomorrow" not in found
        assert all(found.loc[name, "quoted_service_s"] == a.quote.service_s for name, a in finished.items())
        assert History(old).query("select sum(attempts) as n from daily")["n"][0] == len(finished)
        assert History(old).update(ledger) == 0
        old.unlink()
        assert History(old).update(ledger) == len(finished), "a history that is gone is made again"


def test_a_history_that_cannot_be_read_is_put_aside_when_it_is_made_again(tmp_path: Path) -> None:
    """Never deleted: it may hold rows of pruned batches, which a newer DuckDB can read."""
    path, old = tmp_path / "ledger.sqlite3", tmp_path / "history.duckdb"
    make(path, OLD["v8"])
    old.write_bytes(b"of a newer DuckDB" * 1000)
    with contextlib.closing(Ledger.open(path)) as ledger:
        with pytest.raises(LedgerError, match="rebuild-history"):
            History(old).update(ledger)
        assert History(old).rebuild(ledger) > 0
    [aside] = tmp_path.glob("history-unreadable-*.duckdb")
    assert aside.read_bytes().startswith(b"of a newer DuckDB")
