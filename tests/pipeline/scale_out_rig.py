"""The set-up of `compose.yaml` as plain processes: PostgreSQL, Redis, two Prefect API replicas, services, nginx."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
import sqlalchemy as sa

from hybrid_video.prefect_api import QUIET, answers

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ("redis-server", "nginx")
REPLICAS = 2


def missing_programs() -> list[str]:
    """Programs of the set-up that this machine does not have."""
    return [name for name in PROGRAMS if program(name) is None]


def program(name: str) -> str | None:
    """Where a program is; Debian keeps servers outside a user's PATH."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Studio:
    """The running set-up as a user's machines see it."""

    folder: Path
    prefect_url: str
    """Through nginx."""
    ledger_url: str
    https_url: str
    certificate: Path
    processes: dict[str, subprocess.Popen[bytes]]
    replica_urls: tuple[str, ...]

    def kill(self, name: str) -> None:
        """SIGKILL for one of the processes and everything it started."""
        kill_group(self.processes[name])

    def log(self, name: str) -> str:
        """What a process has written."""
        return (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL for a process we started in a group of its own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(20)


def launch(name: str, command: list[str], folder: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Starts a program in a process group of its own, its output in `<name>.log`."""
    with (folder / f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            cwd=folder,
            start_new_session=True,
        )


@contextlib.contextmanager
def studio(folder: Path, postgres: str, certificate: tuple[Path, Path]) -> Iterator[Studio]:
    """Everything but the workers, up and answering."""
    folder.mkdir(parents=True, exist_ok=True)
    databases = {name: _database(postgres, name) for name in ("prefect", "hybrid_video")}
    redis_port, front_port, https_port, prefect_https_port = (free_port() for _ in range(4))
    ports = [free_port() for _ in range(REPLICAS)]
    prefect = sa.make_url(databases["prefect"]).set(drivername="postgresql+asyncpg")
    environment = {
        **QUIET,
        **compose_environment("prefect-api-1"),
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_API_DATABASE_CONNECTION_URL": prefect.render_as_string(hide_password=False),
        "PREFECT_REDIS_MESSAGING_HOST": "127.0.0.1",
        "PREFECT_REDIS_MESSAGING_PORT": str(redis_port),
    }
    environment.pop("PREFECT_SERVER_API_AUTH_STRING", None)
    running: dict[str, subprocess.Popen[bytes]] = {}
    python = [sys.executable, "-m", "prefect", "server"]
    try:
        redis = [str(program("redis-server")), "--port", str(redis_port), "--bind", "127.0.0.1", "--save", ""]
        running["redis"] = launch("redis", redis, folder, {})
        subprocess.run(
            [*python, "database", "upgrade", "-y"],
            env={**os.environ, **environment},
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=120,
        )
        for number, port in enumerate(ports, 1):
            command = [*python, "start", "--host", "127.0.0.1", "--port", str(port), "--no-services"]
            running[f"api-{number}"] = launch(f"api-{number}", command, folder, environment)
            _wait(running, folder, [f"http://127.0.0.1:{port}/api"])  # one after the other, see compose.yaml
        running["services"] = launch("services", [*python, "services", "start"], folder, environment)
        values = {
            "PREFECT_API_1": f"127.0.0.1:{ports[0]}",
            "PREFECT_API_2": f"127.0.0.1:{ports[1]}",
            "PREFECT_LISTEN": f"127.0.0.1:{front_port}",
            "HTTPS_LISTEN": f"127.0.0.1:{https_port}",
            "PREFECT_HTTPS_LISTEN": f"127.0.0.1:{prefect_https_port}",
            "SERVER_NAME": "localhost",
            "TLS_CERTIFICATE": str(certificate[0]),
            "TLS_KEY": str(certificate[1]),
            "API": f"127.0.0.1:{free_port()}",
            "DASHBOARD": f"127.0.0.1:{free_port()}",
        }
        running["nginx"] = launch("nginx", _nginx(folder, values), folder, {})
        urls = tuple(f"http://127.0.0.1:{port}/api" for port in ports)
        front = f"http://127.0.0.1:{front_port}/api"
        _wait(running, folder, [*urls, front])
        yield Studio(
            folder,
            front,
            databases["hybrid_video"],
            f"https://localhost:{prefect_https_port}",
            certificate[0],
            running,
            urls,
        )
    finally:
        for process in reversed(running.values()):
            if process.poll() is None:
                process.terminate()
        for process in running.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            kill_group(process)


def compose_environment(service: str) -> dict[str, str]:
    """The plain settings of one service of `compose.yaml`: the test runs what the file says."""
    import yaml

    document = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    values = document["services"][service]["environment"]
    return {name: str(value) for name, value in values.items() if "${" not in str(value)}


def _database(server: str, name: str) -> str:
    engine = sa.create_engine(
        sa.make_url(server).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool
    )
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    return sa.make_url(server).set(database=name).render_as_string(hide_password=False)


def _nginx(folder: Path, values: Mapping[str, str]) -> list[str]:
    """nginx with the project's template, filled in as its image does it: only our variables are replaced."""
    text = (ROOT / "deploy/nginx/hybrid-video.conf.template").read_text(encoding="utf-8")
    for name, value in values.items():
        text = text.replace("${" + name + "}", value)
    assert "${" not in text, "the template names a variable that nobody fills in"
    places = "\n".join(
        f"  {kind}_temp_path {folder / ('nginx-' + kind)};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    main = folder / "nginx.conf"
    (folder / "site.conf").write_text(text, encoding="utf-8")
    main.write_text(
        f"pid {folder / 'nginx.pid'};\nerror_log stderr;\nworker_processes 1;\nevents {{}}\nhttp {{\n"
        f"  access_log off;\n{places}\n  include {folder / 'site.conf'};\n}}\n",
        encoding="utf-8",
    )
    return [str(program("nginx")), "-c", str(main), "-p", str(folder), "-g", "daemon off;"]


def _wait(running: Mapping[str, subprocess.Popen[bytes]], folder: Path, urls: list[str]) -> None:
    end = time.monotonic() + 120
    for url in urls:
        while not answers(url):
            ended = [name for name, process in running.items() if process.poll() is not None]
            logs = "".join((folder / f"{name}.log").read_text(errors="replace")[-2000:] for name in ended)
            assert not ended, f"{ended} ended at start: {logs}"
            assert time.monotonic() < end, f"{url} does not answer"
            time.sleep(0.2)


def tls_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for localhost, signed by itself, and its key."""
    import datetime as dt
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate, private = folder / "tls.crt", folder / "tls.key"
    certificate.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    pem = serialization.PrivateFormat.PKCS8
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, pem, serialization.NoEncryption()))
    return certificate, private


def over_tls(place: Studio, path: str) -> httpx.Response:
    """A call through nginx's TLS port, its certificate checked."""
    import ssl

    return httpx.get(f"{place.https_url}{path}", verify=ssl.create_default_context(cafile=str(place.certificate)))
