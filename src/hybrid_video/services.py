"""Long-running parts of one installation kept alive together: started in order, restarted after a crash, ended as one.

Each part is a child process that ends by itself when this process is gone (`child_process`), so nothing is left behind
however this one ends.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import httpx

from hybrid_video.child_process import ChildProcess
from hybrid_video.errors import ConfigurationError, HybridVideoError
from hybrid_video.trust import certificates

POLL_S = 0.5
START_TIMEOUT_S = 90.0
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
STEADY_S = 120.0
"""Who ran so long is started again at once after a crash."""


class Runs(Protocol):
    """What can be started, looked at and ended."""

    @property
    def running(self) -> bool:
        """Whether its process is there."""
        ...

    def start(self) -> object:
        """Starts it and waits until it is of use.

        Raises:
            ConfigurationError: it ended, or took too long; with the end of its log.
        """
        ...

    def stop(self) -> None:
        """Ends it. Safe to call again, and while it starts."""
        ...


class ChildService:
    """A module run as a child, ready when `ready` says so."""

    def __init__(
        self,
        name: str,
        module: Sequence[str],
        *,
        log_file: Path,
        ready: Callable[[], bool],
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self._ready = ready
        self._child = ChildProcess(
            name, module, log_file=log_file, environment={**os.environ, **(environment or {})}, cwd=cwd
        )

    @property
    def running(self) -> bool:
        """Whether its process is there."""
        return self._child.running

    @property
    def pid(self) -> int | None:
        """Its process id."""
        return self._child.pid

    def start(self) -> None:
        """Starts it and waits until it is ready."""
        self._child.stop()
        self._child.start()
        self._child.wait_until(self._ready, timeout_s=START_TIMEOUT_S)

    def stop(self) -> None:
        """Ends it and whatever it started."""
        self._child.stop()


@dataclass
class Service:
    """One part with what people call it, where it is reached, and how often it has failed of late."""

    name: str
    runs: Runs
    url: str = ""
    restarts: int = 0
    _pause_s: float = FIRST_PAUSE_S
    _started_s: float = field(default=float("-inf"))
    _next_s: float = field(default=float("-inf"))

    def start(self) -> None:
        """Starts it and waits until it is ready."""
        self.runs.start()
        self._started_s = time.monotonic()

    def fell(self) -> float:
        """It has ended by itself: seconds until it is started again, longer with every crash in a row."""
        now = time.monotonic()
        if now - self._started_s >= STEADY_S:
            self._pause_s = FIRST_PAUSE_S
        pause_s, self._pause_s = self._pause_s, min(2 * self._pause_s, LONGEST_PAUSE_S)
        self._next_s = now + pause_s
        self.restarts += 1
        return pause_s

    @property
    def due(self) -> bool:
        """Whether it may be started again now."""
        return time.monotonic() >= self._next_s


@dataclass(frozen=True)
class Starting:
    """Services that have been told to start."""

    services: Sequence[Service]
    futures: Sequence[Future[None]]


class Household:
    """Several services as one: `start` in stages, `keep` until told to end, `stop`."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._stages: list[Starting] = []
        self._ending = threading.Event()

    @property
    def ending(self) -> bool:
        """Whether the end was asked for."""
        return self._ending.is_set()

    def end(self) -> None:
        """Asks for the end; safe in a signal handler."""
        self._ending.set()

    def start(self, services: Sequence[Service]) -> None:
        """Starts services side by side and waits until each is ready; tells of each as it is.

        Raises:
            ConfigurationError: one could not be started; the first such sentence.
        """
        self.ready(self.begin(services))

    def begin(self, services: Sequence[Service]) -> Starting:
        """Tells services to start, side by side; `ready` waits for them. They may read the environment until then."""
        if self._ending.is_set() or not services:
            return Starting((), ())
        threads = ThreadPoolExecutor(len(services))
        starting = Starting(services, [threads.submit(self._start_one, service) for service in services])
        threads.shutdown(wait=False)
        self._stages.append(starting)
        return starting

    def ready(self, starting: Starting) -> None:
        """Waits for services that were begun.

        Raises:
            ConfigurationError: one could not be started; the first such sentence.
        """
        while wait(starting.futures, POLL_S / 5).not_done:
            if self._ending.is_set():
                for service in starting.services:  # whoever still waits for readiness gives up
                    self._stop_one(service)
        for future in starting.futures:
            if not self._ending.is_set():
                future.result()

    def keep(self) -> None:
        """Starts again whatever crashes, until the end is asked for."""
        down: set[str] = set()
        while not self._ending.wait(POLL_S):
            for service in (service for stage in self._stages for service in stage.services):
                if service.runs.running:
                    continue
                if service.name not in down:
                    down.add(service.name)
                    self._tell(f"{service.name} has ended by itself; starting it again in {service.fell():.0f} s")
                elif service.due and not self.ending:
                    self._restart(service, down)

    def stop(self) -> None:
        """Ends everything, the last stage first and the services of one stage side by side. Never raises."""
        self._ending.set()
        for stage in reversed(self._stages):
            self.ready(stage)
            with ThreadPoolExecutor(len(stage.services)) as threads:
                for service in stage.services:
                    threads.submit(self._stop_one, service)

    def _start_one(self, service: Service) -> None:
        service.start()
        if not self.ending:
            self._tell(f"{service.name}: ready" + (f" at {service.url}" if service.url else ""))

    def _restart(self, service: Service, down: set[str]) -> None:
        with contextlib.suppress(HybridVideoError, OSError):
            service.runs.stop()
        try:
            service.start()
        except HybridVideoError as error:
            self._tell(f"{service.name} cannot be started: {error}; next try in {service.fell():.0f} s")
        else:
            down.discard(service.name)
            self._tell(f"{service.name} runs again" + (f": {service.url}" if service.url else ""))

    def _stop_one(self, service: Service) -> None:
        try:
            service.runs.stop()
        except (HybridVideoError, OSError) as error:
            self._tell(f"{service.name} did not end cleanly: {error}")


def answers(url: str) -> bool:
    """Whether a web server answers there with success."""
    try:
        return httpx.get(url, timeout=2.0, trust_env=False, verify=certificates(of_environment=False)).is_success
    except httpx.HTTPError:
        return False


def require_free(ports: Mapping[str, tuple[int, str]], host: str = "127.0.0.1") -> None:
    """Checks that ports can be listened on, before anything is started.

    Args:
        ports: what each is for, with the port and the option that changes it; 0 stands for any free one.

    Raises:
        ConfigurationError: with one sentence for each that is taken.
    """
    taken = [
        f"port {port} is taken, and {what} needs one; stop what listens there, or give another with {option}"
        for what, (port, option) in ports.items()
        if port and not _can_listen(host, port)
    ]
    wanted = [port for port, _ in ports.values() if port]
    if len(set(wanted)) < len(wanted):
        taken.append(f"each part needs a port of its own, and these are given: {', '.join(map(str, wanted))}")
    if taken:
        raise ConfigurationError("\n".join(taken))


def free_port(host: str = "127.0.0.1") -> int:
    """Any port that is free now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _can_listen(host: str, port: int) -> bool:
    with socket.socket() as probe:
        if os.name == "posix":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError):
            return False
        return True
