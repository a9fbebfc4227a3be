"""Prefect's empty database that is shipped: the one its migrations make, and laid out only where there is none."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from hybrid_video import prefect_database
from hybrid_video.prefect_database import SHIPPED, lay_out, migrated


def test_it_is_what_the_migrations_of_the_installed_prefect_make() -> None:
    """Every column, index, constraint and the revision: a server must find what its own migrations promise."""
    shipped = statements(SHIPPED.read_text(encoding="utf-8"))
    assert len(shipped) > 150
    assert shipped == statements(migrated()), "write it anew: python -m hybrid_video.prefect_database"


def statements(text: str) -> list[tuple[list[str], list[str]]]:
    """Statements with their lines in order, and apart from them the constraints, which each run of the migrations puts
    in another order."""
    found = []
    for statement in text.split(";\n"):
        lines = [line.strip().rstrip(",") for line in statement.splitlines()]
        constraints = sorted(line for line in lines if line.startswith("CONSTRAINT "))
        found.append(([line for line in lines if line not in constraints], constraints))
    return sorted(found)


def test_an_empty_folder_gets_it(tmp_path: Path) -> None:
    """Whole, at a revision, and with nothing left beside it."""
    assert lay_out(tmp_path)
    with closing(sqlite3.connect(tmp_path / "prefect.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert len(connection.execute("SELECT version_num FROM alembic_version").fetchall()) == 1
        assert connection.execute("SELECT count(*) FROM flow_run").fetchone() == (0,)
    assert [path.name for path in tmp_path.iterdir()] == ["prefect.db"]


def test_a_database_that_is_there_is_left_alone(tmp_path: Path) -> None:
    """It holds somebody's runs."""
    (tmp_path / "prefect.db").write_bytes(b"theirs")
    assert not lay_out(tmp_path)
    assert (tmp_path / "prefect.db").read_bytes() == b"theirs"


@pytest.mark.parametrize("name", ["PREFECT_API_DATABASE_CONNECTION_URL", "PREFECT_SERVER_DATABASE_HOST"])
def test_whoever_names_a_database_gets_none(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefect uses theirs, and migrates it."""
    monkeypatch.setenv(name, "postgresql+asyncpg://prefect@db/prefect")
    assert not lay_out(tmp_path)
    assert not list(tmp_path.iterdir())


def test_another_version_of_prefect_makes_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was made with one version is not given to another."""
    monkeypatch.setattr(prefect_database, "version", lambda _name: "3.9.0")
    assert not lay_out(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_draft_of_a_start_that_was_killed_is_written_anew(tmp_path: Path) -> None:
    """Half of a database is never taken for one."""
    (tmp_path / "prefect.db.part").write_bytes(b"half")
    assert lay_out(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["prefect.db"]


def test_a_folder_that_cannot_be_written_is_no_error_here(tmp_path: Path) -> None:
    """The server's own start says it better."""
    assert not lay_out(tmp_path / "missing")
