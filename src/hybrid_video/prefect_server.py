"""Runs a Prefect server and workers as child processes.

Nothing here imports Prefect: its programs are started with this interpreter, the rest is its REST API. The figures
behind the settings are in docs/platform.md.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Final

from filelock import FileLock, Timeout

from hybrid_video.child_process import ChildProcess
from hybrid_video.errors import ConfigurationError
from hybrid_video.prefect_api import answers, call

HOST: Final = "127.0.0.1"
START_TIMEOUT_S = 120.0
CANCEL_TIMEOUT_S = 35.0
"""Prefect gives a cancelled flow 30 s before it kills it."""

WORKER_QUERY_S = 1
"""The default of 10 s adds up to as many seconds before a submitted run starts."""

QUIET: Final = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1", "PREFECT_CLI_PROMPT": "false"}
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
OTHER_SERVER = ("PREFECT_API_URL", "PREFECT_API_KEY", "PREFECT_PROFILE", "PREFECT_HOME")
"""Variables that would send a child to another server than ours."""


def client_environment(url: str, home: Path) -> dict[str, str]:
    """The environment of a process that is to talk to the server at `url`: this one's, with Prefect's part replaced."""
    kept = {name: value for name, value in os.environ.items() if name not in OTHER_SERVER}
    return kept | QUIET | {"PREFECT_API_URL": url, "PREFECT_HOME": str(home)}


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

    def start(self) -> str:
        """Starts it, waits until it answers, and returns `url`. The first start in a folder takes some 10 s.

        Raises:
            ConfigurationError: the port or the folder is in use, or it ended at start; with the end of its log.
        """
        self._claim_home()
        try:
            self.port = _free_port(self.port)
            log_file = self.home / "server.log"
            extra = BATCHED | LEAN if self._lean else BATCHED
            child = ChildProcess(
                "the Prefect server",
                ["prefect", "server", "start", "--host", HOST, "--port", str(self.port)],
                log_file=log_file,
                environment={**extra, **self.environment},
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


class PrefectWorker:
    """A worker that runs the flow runs of one work pool.

    Args:
        pool: name of the work pool, which must exist (`create_pools`).
        url: address of the server's API.
        cwd: folder it runs in; relative paths in flow parameters start there.
        home: Prefect's folder, also for `worker-<pool>.log`.
        limit: flow runs at once; any number when None.
    """

    def __init__(self, pool: str, url: str, cwd: Path, *, home: Path, limit: int | None = None) -> None:
        self.pool = pool
        self.name = f"{pool}-{socket.gethostname()}-{os.getpid()}"
        self._url = url
        self._home = home.absolute()
        command = ["prefect", "worker", "start", "--pool", pool, "--name", self.name, "--install-policy", "never"]
        command += [] if limit is None else ["--limit", str(limit)]
        self._child = ChildProcess(
            f"the Prefect worker of pool {pool!r}",
            [*command, "--no-create-pool-if-not-found"],
            log_file=self._home / f"worker-{pool}.log",
            environment={
                "PREFECT_WORKER_QUERY_SECONDS": str(WORKER_QUERY_S),
                **client_environment(url, self._home),
            },
            cwd=cwd,
        )

    @property
    def running(self) -> bool:
        """Whether the worker's process is there."""
        return self._child.running

    def start(self) -> None:
        """Starts it and waits until the server knows it.

        Raises:
            ConfigurationError: there is no such pool, or it ended at start; with the end of its log. A missing Docker
                engine is not noticed here: a docker worker comes up, and its runs crash.
        """
        if call(self._url, "GET", f"/work_pools/{self.pool}", allow=(404,)) is None:
            raise ConfigurationError(f"the Prefect server has no work pool {self.pool!r}; create it first")
        self._child.start()
        self._child.wait_until(self._online, timeout_s=START_TIMEOUT_S)

    def stop(self, *, cancel_runs: bool = True) -> None:
        """Cancels its flow runs, waits until they have cleaned up, then ends it. Safe to call again.

        A worker that is simply ended kills its flow runs without a word, and they look as if they ran for ever; so
        `cancel_runs=False` is for runs that are known to be over.
        """
        try:
            if cancel_runs and self._child.running:
                with contextlib.suppress(ConfigurationError):  # the server is gone: nobody could be told
                    self._cancel_runs()
        finally:
            self._child.stop()

    def _online(self) -> bool:
        try:
            found = call(self._url, "POST", f"/work_pools/{self.pool}/workers/filter", {})
        except ConfigurationError:
            return False
        return any(worker["name"] == self.name and worker["status"] == "ONLINE" for worker in found)

    def _cancel_runs(self) -> None:
        told: set[str] = set()
        deadline = time.monotonic() + CANCEL_TIMEOUT_S
        while time.monotonic() < deadline:
            unfinished = self._unfinished_runs()
            if not unfinished:
                return
            for run in unfinished - told:
                call(self._url, "POST", f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
            told |= unfinished
            time.sleep(0.3)

    def _unfinished_runs(self) -> set[str]:
        query = {
            "work_pools": {"name": {"any_": [self.pool]}},
            "flow_runs": {"state": {"type": {"any_": ["PENDING", "RUNNING", "CANCELLING"]}}},
        }
        runs = call(self._url, "POST", "/flow_runs/filter", query)
        return {run["id"] for run in runs if run["labels"].get("prefect.worker.name") == self.name}

    def __enter__(self) -> PrefectWorker:
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
