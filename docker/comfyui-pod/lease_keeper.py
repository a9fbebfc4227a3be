"""The first process of a pod: starts ComfyUI and the gate, keeps them up, and ends the pod when its lease runs out.

A rented pod costs money until somebody ends it. The controller renews the lease over the gate; when it has died, this
process ends the pod: the gate refuses everything, ComfyUI is killed in the middle of whatever it does, and RunPod is
asked to terminate the pod until it agrees. The same happens when ComfyUI cannot be kept running.

Standard library only: it must work even where the environment of ComfyUI is broken. Secrets are read from the
environment once; neither ComfyUI nor any command line ever sees them.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import http.client
import json
import os
import random
import shutil
import signal
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from child import CRASHES, CRASHES_WITHIN_S, Child, log
from lease import API_URL, GRAPHQL_URL, LONGEST_PAUSE_S, Lease, Terminator

TICK_S = 0.2
PROBE_S = 2.0
GIVE_UP_S = 1800.0
KEEP_S = 6 * 3600.0
"""Far longer than a controller that lives takes to fetch a clip, and than the lease of one that does not."""

CONFIGURATION_ERROR, CANNOT_END = 78, 70

_PASSED_ON = frozenset({"PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONUNBUFFERED"})
_PASSED_ON_BEGINNINGS = ("NVIDIA_", "CUDA_", "PYTORCH_", "TORCH_", "OMP_", "MKL_", "COMFYUI_", "HF_HUB_")


@dataclass(frozen=True)
class Identity:
    """What the pod was created with. Its repr shows no secret."""

    name: str
    lease_s: float | None
    token_sha256: str = field(repr=False)
    terminator: Terminator = field(repr=False)

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Identity:
        """From the environment of the container.

        Raises:
            ValueError: a sentence about what is wrong with it.
        """
        token = environment.get("HYBRID_VIDEO_POD_TOKEN", "").strip()
        if len(token) < 16 or not token.isascii() or not token.isprintable() or " " in token:
            raise ValueError(
                "HYBRID_VIDEO_POD_TOKEN is missing, shorter than 16 characters, or holds characters that no header may "
                "carry; set it to a long random text, for example from `openssl rand -hex 32`"
            )
        return cls(
            name=environment.get("HYBRID_VIDEO_POD_NAME", ""),
            lease_s=_lease_s(environment.get("HYBRID_VIDEO_POD_LEASE_S", "")),
            token_sha256=hashlib.sha256(token.encode()).hexdigest(),
            terminator=_terminator(environment),
        )


def _terminator(environment: Mapping[str, str]) -> Terminator:
    own_api = environment.get("HYBRID_VIDEO_POD_API_URL", "")
    if urlsplit(own_api).scheme not in ("", "http", "https"):
        own_api = ""
    return Terminator(
        pod_id=environment.get("RUNPOD_POD_ID", ""),
        api_key=environment.get("RUNPOD_API_KEY", "").strip(),
        api_url=own_api or API_URL,
        # Beside an API of one's own there is no GraphQL unless it is named.
        graphql_url=environment.get("HYBRID_VIDEO_POD_GRAPHQL_URL", "" if own_api else GRAPHQL_URL),
    )


def _lease_s(text: str) -> float | None:
    if not text:
        return None
    try:
        lease_s = float(text)
    except ValueError:
        lease_s = 0.0
    if not 1 <= lease_s <= 86_400:
        raise ValueError(f"HYBRID_VIDEO_POD_LEASE_S is {text!r}; set it to seconds between 1 and 86400")
    return lease_s


class Keeper:
    """Everything above, once."""

    def __init__(self, identity: Identity, options: argparse.Namespace, environment: Mapping[str, str]) -> None:
        self._identity, self._options = identity, options
        self._socket = Path(options.run_dir) / "keeper.sock"
        file = Path(options.state_dir) / "lease.json"
        self.lease = Lease(identity.lease_s, pod_id=identity.terminator.pod_id, file=file) if identity.lease_s else None
        clean = {k: v for k, v in environment.items() if k in _PASSED_ON or k.startswith(_PASSED_ON_BEGINNINGS)}
        self._comfyui = Child(
            "comfyui", options.command, clean, user=options.comfyui_user, pause_s=options.crash_pause_s
        )
        self._gate = Child(
            "gate",
            self._gate_command(),
            self._gate_environment(clean),
            user=options.gate_user,
            pause_s=options.crash_pause_s,
        )
        self._ready = False
        self._began = time.monotonic()
        self._stopping = threading.Event()

    def run(self) -> int:
        """Until the lease runs out, a program is beyond help, or somebody stops the container."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stopping.set())
        server = self._listen()
        threading.Thread(target=self._probe, daemon=True).start()
        threading.Thread(target=self._sweep, daemon=True).start()
        log("began", name=self._identity.name, lease_s=self._identity.lease_s)
        try:
            reason = self._supervise()
            if not reason:
                log("stopped", why="asked by a signal")
                return 0
            return self._end_pod(reason)
        finally:
            self._stopping.set()
            for child in (self._comfyui, self._gate):
                child.stop()
            server.shutdown()
            server.server_close()

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        """A question of the gate: `lease`, `renew` or `status`."""
        if question.get("do") == "status":
            return self._status()
        if self.lease is None:
            return {"status": 404, "error": "this pod has no lease: it was created without HYBRID_VIDEO_POD_LEASE_S"}
        if question.get("do") == "renew" and not self.lease.renew(float(question["lease_s"])):
            return {"status": 410, "error": "the lease has run out; this pod is ending"}
        return {"name": self._identity.name, "lease_s": self.lease.lease_s, "ends_in_s": round(self.lease.left_s, 3)}

    def _status(self) -> dict[str, Any]:
        running = self._comfyui.process is not None
        return {
            "ready": self._ready and running,
            "name": self._identity.name,
            "comfyui": ("up" if self._ready else "starting") if running else "down",
            "restarts": self._comfyui.restarts,
            "up_s": round(time.monotonic() - self._began, 1),
            "ends_in_s": None if self.lease is None else round(self.lease.left_s, 3),
        }

    def _supervise(self) -> str:
        """Why the pod has to end; empty when the container is being stopped."""
        while not self._stopping.wait(TICK_S):
            if self.lease is not None and self.lease.left_s <= 0:
                return self.lease.ended_because or f"nobody has renewed the lease of {self.lease.lease_s:g} s"
            for child in (self._gate, self._comfyui):
                child.look()
                self._ready = self._ready and self._comfyui.process is not None
                if child.hopeless:
                    return f"{child.name} has crashed {CRASHES} times within {CRASHES_WITHIN_S:g} s"
        return ""

    def _end_pod(self, reason: str) -> int:
        """Nothing more is done here, and RunPod is asked until it has ended the pod."""
        log("ending", why=reason)
        self._gate.kill(signal.SIGUSR1)
        self._comfyui.kill()
        if self.lease is None:  # not ours to end: somebody has started it by hand and may want to look at it
            return CANNOT_END
        self.lease.end(reason)
        return end_pod(self._identity.terminator, self._options.give_up_s, self._stopping.wait)

    def _probe(self) -> None:
        """Asks ComfyUI whether it answers, for `/health` and for the container's own health check."""
        while not self._stopping.wait(PROBE_S):
            connection = http.client.HTTPConnection("127.0.0.1", self._options.comfyui_port, timeout=5)
            try:
                connection.request("GET", "/system_stats")
                self._ready = connection.getresponse().status == 200 and self._comfyui.process is not None
            except (OSError, http.client.HTTPException):
                self._ready = False
            finally:
                connection.close()

    def _sweep(self) -> None:
        """Deletes clips that were fetched long ago, so that a pod that lives for days does not fill its disk."""
        folders = [Path(self._options.data_dir) / name for name in ("output", "temp")] if self._options.data_dir else []
        while folders and not self._stopping.wait(self._options.sweep_s):
            deleted = sum(sweep(folder, self._options.keep_s) for folder in folders)
            if deleted:
                log("swept", files=deleted)

    def _gate_command(self) -> list[str]:
        gate = Path(__file__).with_name("pod_gate.py")
        upstream = f"http://127.0.0.1:{self._options.comfyui_port}"
        where = ["--host", self._options.gate_host, "--port", str(self._options.gate_port)]
        return [sys.executable, str(gate), *where, "--upstream", upstream, "--keeper", str(self._socket)]

    def _gate_environment(self, clean: dict[str, str]) -> dict[str, str]:
        """The gate gets a digest: with it one can recognise the token and not find it."""
        return {**clean, "HYBRID_VIDEO_POD_TOKEN_SHA256": self._identity.token_sha256}

    def _listen(self) -> socketserver.ThreadingUnixStreamServer:
        """Opens the socket for the gate and for `health`; nobody else may connect."""
        self._socket.parent.mkdir(parents=True, exist_ok=True)
        self._socket.unlink(missing_ok=True)
        server = _Server(str(self._socket), self.answer)
        self._socket.chmod(0o600)
        if self._options.gate_user:
            shutil.chown(self._socket, self._options.gate_user)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.2}, daemon=True).start()
        return server


class _Server(socketserver.ThreadingUnixStreamServer):
    """One JSON line in, one JSON line out."""

    daemon_threads = True

    def __init__(self, path: str, answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self.answer = answer
        super().__init__(path, _Question)


class _Question(socketserver.StreamRequestHandler):
    server: _Server
    timeout = 5

    def handle(self) -> None:
        try:
            answer = self.server.answer(json.loads(self.rfile.readline(4096)))
        except (ValueError, KeyError, TypeError, OSError):
            answer = {"status": 400, "error": "not understood"}
        with contextlib.suppress(OSError):
            self.wfile.write(json.dumps(answer).encode() + b"\n")


def sweep(folder: Path, keep_s: float) -> int:
    """Deletes files that nobody has written to for so long; returns how many. Links are removed, never followed."""
    oldest, deleted = datetime.now(UTC).timestamp() - keep_s, 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            if (path.is_file() or path.is_symlink()) and path.lstat().st_mtime < oldest:
                path.unlink()
                deleted += 1
    return deleted


def end_pod(terminator: Terminator, give_up_s: float, sleep: Callable[[float], Any]) -> int:
    """Asks RunPod to end this pod until it agrees.

    Exits in the end even where that fails: an exited container may release the GPU, and one that RunPod starts again
    finds the mark of its lease and comes straight back here.
    """
    if not terminator.possible:
        log("cannot-end", why="RUNPOD_POD_ID or RUNPOD_API_KEY is not set; end the pod in the RunPod console")
        return CANNOT_END
    began, pause_s, refused = time.monotonic(), 1.0, 0
    while time.monotonic() - began < give_up_s and refused < 5:
        answer = terminator.attempt()
        log("terminate", outcome=answer.outcome, said=answer.said)
        if answer.outcome == "ended":
            return 0
        refused += answer.outcome == "refused"
        sleep(max(answer.retry_after_s, pause_s * random.uniform(0.75, 1.25)))  # noqa: S311 - jitter
        pause_s = min(LONGEST_PAUSE_S, pause_s * 2)
    log("cannot-end", why="RunPod does not end this pod; end it in the RunPod console, it goes on costing money")
    return CANNOT_END


def ask(run_dir: str) -> int:
    """The container's health check: exit 0 when ComfyUI answers."""
    import socket  # noqa: PLC0415 - only here

    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(str(Path(run_dir) / "keeper.sock"))
            connection.sendall(b'{"do": "status"}\n')
            status = json.loads(connection.makefile().readline())
    except (OSError, ValueError) as error:
        sys.stdout.write(json.dumps({"ready": False, "error": type(error).__name__}) + "\n")
        return 1
    sys.stdout.write(json.dumps(status) + "\n")
    return 0 if status.get("ready") else 1


def main(arguments: list[str]) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description="Runs a pod: ComfyUI behind a gate, with a lease.")
    parser.add_argument("--run-dir", default="/run/hybrid-video", help="folder of the control socket")
    parser.add_argument("--state-dir", default="/var/lib/hybrid-video", help="folder that keeps the lease")
    parser.add_argument("--gate-host", default="0.0.0.0", help="address the gate listens on")  # noqa: S104  # nosec B104
    parser.add_argument("--gate-port", type=int, default=8188, help="exposed port")
    parser.add_argument("--gate-user", default="", help="user the gate runs as")
    parser.add_argument("--comfyui-port", type=int, default=8189, help="loopback port of ComfyUI")
    parser.add_argument("--comfyui-user", default="", help="user ComfyUI runs as")
    parser.add_argument("--data-dir", default="", help="folder with ComfyUI's output and temp, to be swept")
    parser.add_argument("--keep-s", type=float, default=KEEP_S, help="how long clips are kept after they were written")
    parser.add_argument("--sweep-s", type=float, default=600.0, help="pause between two sweeps")
    parser.add_argument("--crash-pause-s", type=float, default=1.0, help="first pause after a crash; it doubles")
    parser.add_argument("--give-up-s", type=float, default=GIVE_UP_S, help="how long RunPod is asked to end the pod")
    parser.add_argument("--health", action="store_true", help="ask a running keeper and exit")
    parser.add_argument("command", nargs="*", help="how ComfyUI is started, after --")
    options = parser.parse_args(arguments)
    if options.health:
        return ask(options.run_dir)
    environment = dict(os.environ)
    try:
        if not options.command:
            raise ValueError("no command given; name ComfyUI's after --")
        identity = Identity.read(environment)
    except ValueError as error:
        log("refused", error=str(error))
        if environment.get("HYBRID_VIDEO_POD_LEASE_S"):  # opened by the pool: unusable, so it must not cost money
            end_pod(_terminator(environment), options.give_up_s, time.sleep)
        return CONFIGURATION_ERROR
    return Keeper(identity, options, environment).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
