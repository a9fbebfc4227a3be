"""The real API on a free port of this machine, over a ledger that the test fills."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from hybrid_video.api import create_app
from hybrid_video.ledger import Ledger, Owner
from hybrid_video.models import Batch, utc_now
from hybrid_video.settings import ApiSettings, Settings, StorageSettings
from hybrid_video.submitting import Submission

TOKENS = {role: f"{role}-token-of-the-tests-0123" for role in ("read", "submit", "admin")}


@dataclass
class Recorder:
    """A submitter that starts nothing and remembers everything."""

    batches: list[Batch] = field(default_factory=list)
    files: list[list[str]] = field(default_factory=list)

    def __call__(self, batch: Batch, settings: Settings, files_from: Path | None) -> Submission:
        """As `submitting.submit`."""
        self.batches.append(batch)
        self.files.append(sorted(path.name for path in files_from.iterdir()) if files_from else [])
        return Submission(
            batch=batch.name, jobs=len(batch.jobs), via="process", submitted_at=utc_now(), folder=str(files_from or "")
        )


@dataclass
class Served:
    """A running API."""

    url: str
    settings: Settings
    ledger: Ledger
    owner: Owner
    submitted: Recorder
    http: httpx.Client

    def get(self, path: str, **values: Any) -> httpx.Response:
        """One request as the administrator."""
        return self.http.get(path, **values)

    def post(self, path: str, json: Any = None, **values: Any) -> httpx.Response:
        """One request as the administrator."""
        return self.http.post(path, json=json, **values)

    def as_role(self, role: str | None) -> httpx.Client:
        """A client with the token of a role; None: without any."""
        headers = {"Authorization": f"Bearer {TOKENS[role]}"} if role else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=20)


@contextmanager
def listening(app: Any) -> Iterator[str]:
    """Serves an ASGI application from a thread."""
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False, server_header=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    try:
        until_s = time.monotonic() + 20
        while not server.started:
            assert thread.is_alive(), "the API ended while it started"
            assert time.monotonic() < until_s, "the API did not start"
            time.sleep(0.01)
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        bound.close()


@contextmanager
def serving(home: Path, *, roles: bool = False, submitter: Any = None, **api: Any) -> Iterator[Served]:
    """The API over an empty ledger.

    Args:
        roles: with a token for each role; the rig's own client is the administrator.
        api: fields of ApiSettings.
    """
    if roles:
        api |= {f"{role}_token": token for role, token in TOKENS.items()}
    settings = Settings(storage=StorageSettings(home=home), api=ApiSettings(**api))
    ledger, owner, recorder = Ledger.open(settings.storage.ledger_path), Owner(home), Recorder()
    headers = {"Authorization": f"Bearer {TOKENS['admin']}"} if roles else {}
    try:
        with (
            listening(create_app(settings, submitter=submitter or recorder)) as url,
            httpx.Client(base_url=url, headers=headers, timeout=20) as http,
        ):
            yield Served(url, settings, ledger, owner, recorder, http)
    finally:
        owner.close()
        ledger.close()
