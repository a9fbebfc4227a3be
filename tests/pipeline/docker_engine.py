"""A stand-in for a container engine: speaks as much of Docker's API as Prefect's docker worker needs, and keeps every
request. A started container is its command as a process with the container's environment and nothing else, on this
machine; images, isolation and limits are not imitated.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

_PREFECT_HOME = "/tmp/prefect"  # noqa: S108 - a folder in the container


@dataclass
class Container:
    """One created container."""

    name: str
    body: dict[str, Any]
    process: subprocess.Popen[bytes] | None = None
    log: Path | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What `docker inspect` would show as its environment."""
        return dict(entry.split("=", 1) for entry in self.body["Env"])

    @property
    def host(self) -> dict[str, Any]:
        """Its HostConfig."""
        return dict(self.body["HostConfig"])


@dataclass
class Engine:
    """Listens on a free loopback port."""

    volume: Path
    image: str = "hybrid-video:latest"
    containers: dict[str, Container] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """For DOCKER_HOST."""
        return f"tcp://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        """Ends it and what it runs."""
        for container in self.containers.values():
            if container.process is not None and container.process.poll() is None:
                container.process.kill()
                container.process.wait(10)
        self._server.shutdown()
        self._server.server_close()

    def create(self, name: str, body: dict[str, Any]) -> str:
        """`POST /containers/create`."""
        container_id = f"{len(self.containers) + 1:064x}"
        self.containers[container_id] = Container(name, body)
        return container_id

    def start(self, container_id: str) -> None:
        """`POST /containers/{id}/start`: the command, with the volume's path put where /data would be."""
        container = self.containers[container_id]
        image = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HYBRID_VIDEO_HOME": "/data"}
        environment = {
            name: value.replace("/data", str(self.volume)).replace(_PREFECT_HOME, str(self.volume / "prefect"))
            for name, value in {**image, **container.environment}.items()
        }
        container.log = self.volume / f"{container_id[-4:]}.log"
        self.volume.mkdir(parents=True, exist_ok=True)
        with container.log.open("wb") as output:
            container.process = subprocess.Popen(
                container.body["Cmd"], env=environment, cwd=self.volume, stdout=output, stderr=subprocess.STDOUT
            )

    def shown(self, container_id: str) -> dict[str, Any]:
        """`GET /containers/{id}/json`."""
        container = self.containers[container_id]
        code = container.process.poll() if container.process else None
        status = "created" if container.process is None else "running" if code is None else "exited"
        return {
            "Id": container_id,
            "Name": f"/{container.name}",
            "Image": "sha256:0",
            "State": {"Status": status, "ExitCode": code or 0},
            "Config": {"Image": self.image, "Tty": False, "Labels": container.body["Labels"]},
        }

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: dict[str, Any]) -> tuple[int, Any]:
        """Status and JSON of one request; None for the log."""
        self.requests.append(f"{method} {path}")
        found = re.fullmatch(r"/containers/([0-9a-f]{64})/(\w+)", path)
        if path == "/version":
            return 200, {"ApiVersion": "1.50", "Version": "28.2.2", "MinAPIVersion": "1.24"}
        if path == f"/images/{self.image}/json":
            return 200, {"Id": "sha256:0", "RepoTags": [self.image]}
        if path == "/containers/create":
            return 201, {"Id": self.create(query["name"][0], body), "Warnings": []}
        if found:
            return self._answer_for(found[1], found[2])
        return 404, {"message": f"the stand-in does not know {method} {path}"}

    def _answer_for(self, container_id: str, what: str) -> tuple[int, Any]:
        if what == "start":
            self.start(container_id)
            return 204, None
        if what == "json":
            return 200, self.shown(container_id)
        process = self.containers[container_id].process
        code = process.wait() if process else 0
        return 200, {"StatusCode": code} if what == "wait" else None


def _handler(engine: Engine) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _do(self) -> None:
            parts = urlsplit(self.path)
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = re.sub(r"^/v1\.\d+", "", parts.path)
            query = parse_qs(parts.query)
            status, document = engine.answer(self.command, path, query, json.loads(content) if content else {})
            answer = b"" if document is None else json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            if status != 204:
                self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_POST = do_DELETE = do_HEAD = _do  # noqa: N815 - names of the base class

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
