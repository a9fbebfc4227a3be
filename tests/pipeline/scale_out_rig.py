"""The set-up of `compose.yaml` as plain processes: PostgreSQL, Redis, two Prefect API replicas, services, nginx, and
our API and dashboard behind it. Commands, settings and nginx's template are those of the files that users start."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy as sa

from hybrid_video.prefect_api import QUIET, answers
from hybrid_video.prefect_deploy import create_pools, deploy
from hybrid_video.project import project_dir
from tests.postgres_rig import control, data_folder

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ("redis-server", "nginx")
PREFECT_LOGIN = "studio:sentinel-prefect-3c19e7"
TOKENS = {role: f"sentinel-{role}-token-5b1fa03cc2" for role in ("read", "submit", "admin")}
PASSWORD = "sentinel-dashboard-77ad"
REPLICAS = 2


def missing_programs() -> list[str]:
    """Programs of the set-up that this machine does not have."""
    return [name for name in PROGRAMS if program(name) is None]


def program(name: str) -> str | None:
    """Where a program is; Debian keeps servers outside a user's PATH."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")


def free_port() -> int:
    """A port that is free now, below those that the system gives to outgoing calls: it is bound much later."""
    for _ in range(100):
        port = random.randint(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


@dataclass
class Studio:
    """The running set-up as a user's machines see it."""

    folder: Path
    prefect_url: str
    """Through nginx."""
    ledger_url: str
    prefect_https_url: str
    """Prefect for people and for workers elsewhere."""
    https_url: str
    """Dashboard and API."""
    certificate: Path
    postgres: str
    inner: Mapping[str, str]
    """Where nginx looks for the API and the dashboard."""
    processes: dict[str, subprocess.Popen[bytes]]
    replica_urls: tuple[str, ...]

    def product_environment(self, service: str) -> dict[str, str]:
        """The environment of one of our own services, as `compose.yaml` gives it."""
        return {
            **compose_environment(service),
            "PREFECT_API_URL": self.prefect_url,
            "PREFECT_API_AUTH_STRING": PREFECT_LOGIN,
            "HYBRID_VIDEO_LEDGER_URL": self.ledger_url,
            "HYBRID_VIDEO_HOME": str(self.folder / "data"),
            "HYBRID_VIDEO_OUT": str(self.folder.parent / "clips"),
            "HYBRID_VIDEO_API_TOKENS": ",".join(f"{role}:{token}" for role, token in TOKENS.items()),
            "HYBRID_VIDEO_API_TRUSTED_PROXIES": "127.0.0.1",
            "HYBRID_VIDEO_DASHBOARD_PASSWORD": PASSWORD,
        }

    def serve(self, service: str, environment: Mapping[str, str]) -> None:
        """Starts our API or dashboard with the command of `compose.yaml`, where nginx looks for it, or again."""
        if service in self.processes:
            self.kill(service)
        host, _, port = self.inner[service].partition(":")
        command = compose_command(service)
        given = {"--host": host, "--port": port}
        command = [given.get(before, word) for before, word in zip(["", *command], command, strict=False)]
        variables = {**self.product_environment(service), **environment}
        self.processes[service] = launch(service, [sys.executable, "-m", *command], self.folder, variables)
        path = {"api": "/health", "dashboard": "/_stcore/health"}[service]
        _wait(self.processes, self.folder, [f"http://{host}:{port}{path}"], succeeds)

    def kill(self, name: str) -> None:
        """SIGKILL for one of the processes and everything it started."""
        kill_group(self.processes[name])

    def revive(self) -> list[str]:
        """Starts again what has ended by itself, as `restart: unless-stopped` does; says which."""
        ended = [name for name, process in self.processes.items() if process.poll() is not None]
        for name in ended:
            command, environment = _STARTED[self.processes[name].pid]
            self.processes[name] = launch(name, command, self.folder, environment)
        return ended

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
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            cwd=folder,
            start_new_session=True,
        )
    _STARTED[process.pid] = (command, environment)
    return process


_STARTED: dict[int, tuple[list[str], Mapping[str, str]]] = {}
"""How each was started, so that it can be started again."""


@contextlib.contextmanager
def studio(folder: Path, postgres: str, certificate: tuple[Path, Path]) -> Iterator[Studio]:
    """Everything but the workers, up and answering, with our pools and deployments, made while the rest starts.

    PREFECT_API_AUTH_STRING must be set.
    """
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
    assert "PREFECT_SERVER_API_AUTH_STRING" not in environment, "a password is written into compose.yaml"
    environment["PREFECT_SERVER_API_AUTH_STRING"] = PREFECT_LOGIN
    running: dict[str, subprocess.Popen[bytes]] = {}
    python = [sys.executable, "-m", "prefect", "server"]
    threads = ThreadPoolExecutor(1)
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
        urls = tuple(f"http://127.0.0.1:{port}/api" for port in ports)
        for number, (port, url) in enumerate(zip(ports, urls, strict=True), 1):
            command = [*python, "start", "--host", "127.0.0.1", "--port", str(port), "--no-services"]
            running[f"api-{number}"] = launch(f"api-{number}", command, folder, environment)
            _wait(running, folder, [url])  # one after the other, see compose.yaml
            if number == 1:
                deploying = threads.submit(_deploy, url, folder.parent / "deploying")
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
        front = f"http://127.0.0.1:{front_port}/api"
        _wait(running, folder, [*urls, front])
        deploying.result()
        yield Studio(
            folder,
            front,
            databases["hybrid_video"],
            f"https://localhost:{prefect_https_port}",
            f"https://localhost:{https_port}",
            certificate[0],
            postgres,
            {"api": values["API"], "dashboard": values["DASHBOARD"]},
            running,
            urls,
        )
    finally:
        threads.shutdown(wait=False)
        for process in reversed(running.values()):
            if process.poll() is None:
                process.terminate()
        for process in running.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            kill_group(process)


def _deploy(url: str, home: Path) -> None:
    create_pools(url)
    deploy(url, project_dir(), home=home)


def compose_environment(service: str) -> dict[str, str]:
    """The plain settings of one service of `compose.yaml`: the test runs what the file says."""
    import yaml

    document = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    values = document["services"][service]["environment"]
    return {name: str(value) for name, value in values.items() if "${" not in str(value)}


def compose_command(service: str) -> list[str]:
    """The command of one of our services in `compose.yaml`, as a module of this interpreter."""
    import yaml

    document = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    program_name, *words = document["services"][service]["command"]
    assert program_name == "hybrid-video"
    return ["hybrid_video", *map(str, words)]


def restart_postgres(server: str) -> None:
    """Ends the database server without a word, as a power cut does, and starts it again at the same address."""
    control(data_folder(server), "-m", "immediate", "restart")


def _engine(server: str) -> sa.Engine:
    address = sa.make_url(server).set(drivername="postgresql+psycopg")
    return sa.create_engine(address, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)


def _database(server: str, name: str) -> str:
    with _engine(server).connect() as connection:
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


def succeeds(url: str) -> bool:
    """Whether a web server answers there with success."""
    try:
        return httpx.get(url, timeout=2.0, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def _wait(
    running: Mapping[str, subprocess.Popen[bytes]],
    folder: Path,
    urls: list[str],
    answering: Callable[[str], bool] = answers,
) -> None:
    end = time.monotonic() + 120
    for url in urls:
        while not answering(url):
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


def over_tls(place: Studio, url: str, *, method: str = "GET", source: str = "127.0.0.1", **more: Any) -> httpx.Response:
    """A call through nginx's TLS ports, its certificate checked.

    Args:
        source: address of this machine that the call comes from; every 127.x.y.z is one on Linux.
    """
    import ssl

    believed = ssl.create_default_context(cafile=str(place.certificate))
    transport = httpx.HTTPTransport(verify=believed, local_address=source)
    with httpx.Client(transport=transport, timeout=30) as client:
        return client.request(method, url, **more)
