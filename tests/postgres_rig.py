"""A private PostgreSQL server from the system's own binaries: no service, no fixed port, gone at the end."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

FOLDERS = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
"""Where Debian and Ubuntu put the server's programs, the newest first."""


def server_folder() -> Path | None:
    """The folder with `initdb` and `postgres`, or None where no server is installed."""
    for folder in FOLDERS:
        if (folder / "initdb").exists():
            return folder
    found = shutil.which("initdb")
    return Path(found).parent if found else None


def _as_server(command: list[str]) -> list[str]:
    """PostgreSQL refuses to run as root; its own user is used there."""
    return (
        ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *command]
        if os.geteuid() == 0
        else command
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def postgres_server() -> Iterator[str]:
    """A running server; yields the URL of its database `postgres`.

    Its folder is not pytest's: the path of the socket must be short, and the server's user must be able to enter.
    """
    with tempfile.TemporaryDirectory(prefix="hv-postgres-", ignore_cleanup_errors=True) as name:
        yield from _served(Path(name))


def _served(folder: Path) -> Iterator[str]:
    programs = server_folder()
    assert programs is not None
    data = folder / "data"
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
    initialise = [str(programs / "initdb"), "-D", str(data), "-U", "tester", "--auth=trust", "--no-sync", "-E", "UTF8"]
    subprocess.run(_as_server(initialise), check=True, capture_output=True, cwd="/")
    port = _free_port()
    options = f"-h 127.0.0.1 -p {port} -k {folder} -c fsync=off -c max_connections=200"
    log = str(folder / "log")
    start = [str(programs / "pg_ctl"), "-D", str(data), "-o", options, "-l", log, "-w", "-t", "60", "start"]
    subprocess.run(_as_server(start), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/")
    try:
        yield f"postgresql://tester@127.0.0.1:{port}/postgres"
    finally:
        stop = [str(programs / "pg_ctl"), "-D", str(data), "-m", "immediate", "stop"]
        subprocess.run(_as_server(stop), check=False, capture_output=True, cwd="/")


def data_folder(url: str) -> Path:
    """Where a running server keeps its data; needed to stop it and to start it again."""
    engine = sa.create_engine(sa.make_url(url).set(drivername="postgresql+psycopg"), poolclass=sa.NullPool)
    with engine.connect() as connection:
        return Path(connection.exec_driver_sql("SHOW data_directory").scalar_one())


def control(data: Path, *words: str) -> None:
    """`pg_ctl` with these words. `stop -m immediate` ends it as a power cut does; `restart` keeps port and options."""
    programs = server_folder()
    assert programs is not None
    command = [str(programs / "pg_ctl"), "-D", str(data), "-w", "-t", "60", "-l", str(data.parent / "log"), *words]
    subprocess.run(
        _as_server(command), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/", timeout=90
    )
