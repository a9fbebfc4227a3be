"""Shared fixtures: an own home for every test, no configuration from outside, no network but loopback."""

from __future__ import annotations

import functools
import os
import re
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from dotenv import dotenv_values
from httpx import create_ssl_context

from tests.postgres_rig import postgres_server, server_folder

TESTS = Path(__file__).parent

PREFIXES = ("HYBRID_VIDEO_", "RUNPOD_", "GEMINI_", "GOOGLE_", "SENTRY_", "OTEL_")
LOOPBACK = ("127.", "::1", "localhost", "/")


def pytest_configure() -> None:
    """Refuses to run beside a `.env` with settings: tests start programs in this folder, which would use its keys."""
    file = TESTS.parent / ".env"
    if names := sorted(name for name in dotenv_values(file) if name.startswith((*PREFIXES, "PREFECT_"))):
        raise pytest.UsageError(
            f"{str(file)!r} sets {', '.join(names)}: what the tests start here would use that, and could spend money "
            "with your keys; move it into the folder of your batches, where it belongs, and run the tests again"
        )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """`--dist loadgroup`, with the groups read from the files.

    pytest-xdist 3.8 hands groups over in `Item._nodeid`, which pytest 9.2 does not read any more: every mark
    `xdist_group` was ignored without a word, and tests that build on one another ran in different processes.
    """
    if config.getoption("dist") != "loadgroup":
        return None
    return _grouping_scheduler()(config, log)


def _grouping_scheduler() -> Any:
    from xdist.scheduler import LoadScopeScheduling  # missing where tests run in one process

    groups = {
        path.relative_to(TESTS.parent).as_posix(): found[1]
        for path in TESTS.rglob("test_*.py")
        if (found := re.search(r"""xdist_group\(["']([^"']+)["']\)""", path.read_text(encoding="utf-8")))
    }

    class Grouping(LoadScopeScheduling):  # type: ignore[misc,unused-ignore]
        """Files with a mark stay together, by its name; any other test goes wherever there is room."""

        def _split_scope(self, nodeid: str) -> str:
            return groups.get(nodeid.partition("::")[0], nodeid)

    return Grouping


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(PREFIXES):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HYBRID_VIDEO_HOME", str(tmp_path / "home"))


@pytest.fixture(autouse=True)
def _loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuses every connection that would leave this machine."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        host = address[0] if isinstance(address, tuple) else str(address)
        if not str(host).startswith(LOOPBACK):
            raise AssertionError(f"a test tried to reach {host!r}; only loopback is allowed")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(scope="session", autouse=True)
def _certificates_are_read_once() -> Iterator[None]:
    """httpx reads them anew for each call without a client: 18 ms of CPU, and tests that wait for something ask."""
    read = functools.cache(lambda verify, cert, trust_env, *_environment: create_ssl_context(verify, cert, trust_env))

    def read_once(verify: Any = True, cert: Any = None, trust_env: bool = True) -> Any:
        return read(verify, cert, trust_env, os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("httpx._transports.default.create_ssl_context", read_once)
        yield


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a private PostgreSQL server. CI has one; elsewhere the tests that need it say that it is missing."""
    if server_folder() is None:
        assert "CI" not in os.environ, "CI must have PostgreSQL; .ci/run installs it"
        pytest.skip("PostgreSQL is not installed here (Debian: apt install postgresql)")
    with postgres_server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str | Path]:
    """Where an empty ledger may be made: once a SQLite file, once a database of its own on a real server."""
    if request.param == "sqlite":
        yield tmp_path / "ledger.sqlite3"
        return
    server = sa.make_url(request.getfixturevalue("postgres")).set(drivername="postgresql+psycopg")
    name = f"ledger_{uuid.uuid4().hex}"
    engine = sa.create_engine(server, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
        yield server.set(database=name).render_as_string(hide_password=False)
        with engine.connect() as connection:
            connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        engine.dispose()
