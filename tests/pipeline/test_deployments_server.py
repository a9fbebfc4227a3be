"""Prefect's server as our child: errors at start that help, and an end that leaves nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pipeline_rig import until

from hybrid_video.child_process import ChildProcess
from hybrid_video.errors import ConfigurationError
from hybrid_video.prefect_api import answers, call, gone
from hybrid_video.prefect_deploy import create_pools
from hybrid_video.prefect_server import PrefectServer
from hybrid_video.prefect_worker import PrefectWorker

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("prefect-server")]

STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("child", child.pid, flush=True)
time.sleep(600)
"""

PARENT = """
import os, sys, time
from pathlib import Path
from hybrid_video.child_process import ChildProcess
child = ChildProcess("it", ["sleeper"], log_file=Path("it.log"), environment=dict(os.environ), cwd=Path.cwd())
child.start()
child.wait_until(lambda: "asleep" in child.log_tail(), timeout_s=20)
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """A lean server on a free port."""
    with PrefectServer(tmp_path_factory.mktemp("prefect"), lean=True) as running:
        yield running


def child(folder: Path, code: str, name: str = "it") -> ChildProcess:
    """A child that runs a little module."""
    (folder / "little.py").write_text(code, encoding="utf-8")
    return ChildProcess(name, ["little"], log_file=folder / "it.log", environment=dict(os.environ), cwd=folder)


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended but was not collected does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_a_server_answers_and_serves_its_ui(server: PrefectServer) -> None:
    """The API answers where `url` says, and the environment for clients points there."""
    assert answers(server.url)
    assert server.environment["PREFECT_API_URL"] == server.url
    assert server.environment["PREFECT_HOME"] == str(server.home)
    assert (server.home / "prefect.db").is_file()


def test_one_folder_holds_one_server(server: PrefectServer) -> None:
    """A second server on the same database is refused before it starts."""
    with pytest.raises(ConfigurationError, match="already uses the folder"):
        PrefectServer(server.home).start()
    assert answers(server.url)


def test_a_taken_port_is_named(server: PrefectServer, tmp_path: Path) -> None:
    """A port somebody listens on is refused with its number; the folder stays free."""
    with pytest.raises(ConfigurationError, match=f"port {server.port} cannot be used"):
        PrefectServer(tmp_path / "other", server.port).start()


def test_a_worker_of_a_missing_pool_does_not_start(server: PrefectServer, tmp_path: Path) -> None:
    """Prefect's worker would wait for the pool for ever."""
    with pytest.raises(ConfigurationError, match="no work pool 'render-farm'"):
        PrefectWorker("render-farm", server.url, tmp_path, home=server.home).start()


def test_a_pool_of_another_type_is_not_touched(server: PrefectServer) -> None:
    """A pool that somebody made for something else is an error that says how to mend it."""
    call(server.url, "POST", "/work_pools/", {"name": "cloud-gpu", "type": "kubernetes", "base_job_template": {}})
    with pytest.raises(ConfigurationError, match="'cloud-gpu' of type 'kubernetes', but 'docker'"):
        create_pools(server.url)


def test_a_server_that_is_not_there_is_an_error_with_its_address() -> None:
    """Calls to nobody end in one sentence, not in a traceback of the HTTP library."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/api"
        assert not answers(url)
        assert gone(url)
        with pytest.raises(ConfigurationError, match="does not answer"):
            create_pools(url)


def test_a_server_that_does_not_get_round_to_an_answer_is_not_gone(server: PrefectServer) -> None:
    """A busy one is waited for: only where nobody listens is nothing to be hoped for."""
    assert not gone(server.url)
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def hang_up() -> None:
            listening.accept()[0].close()

        threading.Thread(target=hang_up, daemon=True).start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/api"
        assert not gone(url)


def test_the_reason_of_a_failed_start_is_shown_without_secrets(tmp_path: Path) -> None:
    """A child that ends while starting brings the end of its log along, redacted."""
    it = child(tmp_path, "raise SystemExit('no luck: api_key=abcdef123456')", "the thing")
    it.start()
    with pytest.raises(ConfigurationError, match="the thing ended while starting") as caught:
        it.wait_until(lambda: False, timeout_s=20)
    assert "no luck" in str(caught.value)
    assert "abcdef123456" not in str(caught.value)


def test_a_start_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    """The child is ended, not left to come up unseen."""
    it = child(tmp_path, "import time; print('loading'); time.sleep(600)")
    it.start()
    pid = it.pid
    assert pid is not None
    with pytest.raises(ConfigurationError, match="not ready after 1 s"):
        it.wait_until(lambda: False, timeout_s=1)
    assert not alive(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_stopping_ends_the_children_of_a_child_that_does_not_listen(tmp_path: Path) -> None:
    """Who ignores SIGTERM is killed after the grace time, with everything it started."""
    it = child(tmp_path, STUBBORN)
    it.start()
    it.wait_until(lambda: "child" in it.log_tail(), timeout_s=20)
    pid, grandchild = it.pid, int(it.log_tail().split()[-1])
    assert pid is not None
    started = time.monotonic()
    it.stop(grace_s=0.5)
    assert time.monotonic() - started < 5
    until("both are gone", lambda: not alive(pid) and not alive(grandchild), 5)
    assert not it.running


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_child_ends_when_its_parent_was_killed(tmp_path: Path) -> None:
    """A killed parent leaves no server behind that holds the port."""
    (tmp_path / "sleeper.py").write_text("import time; print('asleep', flush=True); time.sleep(600)", encoding="utf-8")
    with subprocess.Popen([sys.executable, "-c", PARENT], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert alive(pid)
        parent.send_signal(signal.SIGKILL)
    until("the child has ended", lambda: not alive(pid), 10)
