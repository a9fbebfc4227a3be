"""Runs a Prefect server as a child process.

Nothing here imports Prefect: its programs are started with this interpreter, the rest is its REST API. The figures
behind the settings are in docs/platform.md.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from types import TracebackType
from typing import Final

from filelock import FileLock, Timeout

from hybrid_video.child_process import ChildProcess
from hybrid_video.errors import ConfigurationError
from hybrid_video.logs import prefect_environment
from hybrid_video.prefect_api import answers, client_environment
from hybrid_video.prefect_database import lay_out

HOST: Final = "127.0.0.1"
START_TIMEOUT_S = 120.0
BATCHED: Final = {
    # by default one transaction per event: 20 to 26 ms of server CPU for a task run, with these about 6
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "50",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "50",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
}
LEAN: Final = {
    # without automations and without the event feed about 4 ms
    "PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_ENABLED": "false",
}


class PrefectServer:
    """A Prefect server on loopback, with its SQLite database in `home`. Use it with `with`, or `start` and `stop`.

    Args:
        home: Prefect's own folder (PREFECT_HOME): database, profile and `server.log`. One server at a time.
        port: any free one when None.
        lean: without automations and event feed; four times cheaper per task run.
    """

    def __init__(self, home: Path, port: int | None = None, *, lean: bool = False) -> None:
        self.home = home.absolute()
        self.port = port or 0
        self._lean = lean
        self._lock = FileLock(self.home / "server.lock", timeout=0)
        self._child: ChildProcess | None = None

    @property
    def url(self) -> str:
        """Address of the API, as PREFECT_API_URL wants it."""
        return f"{self.ui_url}/api"

    @property
    def ui_url(self) -> str:
        """Address for the browser."""
        return f"http://{HOST}:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a process that is to talk to this server."""
        return client_environment(self.url, self.home)

    @property
    def running(self) -> bool:
        """Whether its process is there."""
        return self._child is not None and self._child.running

    def start(self) -> str:
        """Starts it, waits until it answers, and returns `url`. Takes 4 to 10 s.

        Raises:
            ConfigurationError: the port or the folder is in use, or it ended at start; with the end of its log.
        """
        self._claim_home()
        try:
            self.port = _free_port(self.port)
            lay_out(self.home)
            log_file = self.home / "server.log"
            extra = BATCHED | LEAN if self._lean else BATCHED
            child = ChildProcess(
                "the Prefect server",
                ["prefect", "server", "start", "--host", HOST, "--port", str(self.port)],
                log_file=log_file,
                environment={**extra, **prefect_environment(), **self.environment},
            )
            self._child = child
            child.start()
            child.wait_until(lambda: answers(self.url), timeout_s=START_TIMEOUT_S)
        except BaseException:
            self.stop()
            raise
        return self.url

    def stop(self) -> None:
        """Ends the server. Safe to call again."""
        child, self._child = self._child, None
        try:
            if child is not None:
                child.stop()
        finally:
            self._lock.release()

    def _claim_home(self) -> None:
        try:
            self.home.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout:
            raise ConfigurationError(
                f"a Prefect server already uses the folder {str(self.home)!r}; stop it, or give another folder"
            ) from None
        except OSError as error:
            raise ConfigurationError(
                f"the Prefect folder {str(self.home)!r} cannot be used: {error.strerror}; give another folder"
            ) from None

    def __enter__(self) -> PrefectServer:
        """Starts it."""
        self.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Stops it."""
        self.stop()


def _free_port(wanted: int) -> int:
    """The wanted port if it is free; any free one for 0."""
    with socket.socket() as probe:
        if os.name == "posix":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, wanted))
        except (OSError, OverflowError):
            raise ConfigurationError(
                f"port {wanted!r} cannot be used for the Prefect server; stop what listens there, or give another port"
            ) from None
        port: int = probe.getsockname()[1]
        return port
