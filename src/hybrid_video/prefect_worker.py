"""Runs a Prefect worker as a child process, and ends it without losing what its flow runs have begun."""

from __future__ import annotations

import contextlib
import socket
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from hybrid_video.child_process import ChildProcess
from hybrid_video.errors import ConfigurationError
from hybrid_video.logs import prefect_environment
from hybrid_video.prefect_api import call, client_environment

START_TIMEOUT_S = 120.0
CANCEL_TIMEOUT_S = 35.0
"""Prefect gives a cancelled flow 30 s before it kills it."""

WORKER_QUERY_S = 1
"""The default of 10 s adds up to as many seconds before a submitted run starts."""


class PrefectWorker:
    """A worker that runs the flow runs of one work pool.

    Args:
        pool: name of the work pool, which must exist (`create_pools`).
        url: address of the server's API.
        cwd: folder it runs in; relative paths in flow parameters start there.
        home: Prefect's folder, also for `worker-<pool>.log`.
        limit: flow runs at once; any number when None.
        environment: variables for it and its flow runs, on top of this process's own.
    """

    def __init__(
        self,
        pool: str,
        url: str,
        cwd: Path,
        *,
        home: Path,
        limit: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.pool = pool
        # never a name of before: the server calls a worker online for a while after it has gone
        self.name = f"{pool}-{socket.gethostname()}-{uuid.uuid4().hex[:8]}"
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
                **prefect_environment(),
                **client_environment(url, self._home),
                **(environment or {}),
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
