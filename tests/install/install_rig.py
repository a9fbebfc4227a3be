"""What the installer's tests are written with: a stand-in for ComfyUI in a git repository of its own, a package index
with hollow wheels, and a model server that misbehaves on demand. Nothing leaves this machine."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import io
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from hybrid_video.installer import Installation, InstallEvent

MAIN = """
import os, sys
python, server = {python!r}, os.path.join(os.path.dirname(os.path.abspath(__file__)), "stand_in.py")
os.execv(python, [python, server, *sys.argv[1:]])
"""

STAND_IN = '''
"""Speaks ComfyUI's protocol through the product's own emulator, with ComfyUI's arguments."""
import argparse, asyncio, pathlib
from hybrid_video.emulators.comfyui import ComfyUIEmulator
from hybrid_video.emulators.faults import FaultPlan
from hybrid_video.emulators.server import ScaledClock, start_server

parser = argparse.ArgumentParser()
parser.add_argument("--listen"); parser.add_argument("--port", type=int); parser.add_argument("--base-directory")
parser.add_argument("--cpu", action="store_true"); parser.add_argument("--disable-auto-launch", action="store_true")
parser.add_argument("--lowvram", action="store_true")
options = parser.parse_args()
assert options.listen == "127.0.0.1", options.listen
base = pathlib.Path(options.base_directory)
assert (base / "custom_nodes").is_dir() and (base / "models").is_dir()

async def main():
    emulator = ComfyUIEmulator(
        clock=ScaledClock(50), faults=FaultPlan(), service_s=2.0, output_dir=base / "output", gpu="cpu"
    )
    await start_server(emulator.app(), options.port)
    print("stand-in answers", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
'''

HOLLOW_TORCH = """
__version__ = "9.9.0+cpu"
class cuda:
    is_available = staticmethod(lambda: False)
"""


def git(folder: Path, *arguments: str) -> str:
    """Runs git in a folder, as nobody in particular."""
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.invalid", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True, timeout=30
    )
    return done.stdout.strip()


def make_repository(folder: Path, files: Mapping[str, str], tag: str) -> str:
    """A repository with one more commit and a tag; returns the commit."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / ".git").exists():
        git(folder, "init", "--quiet", "--initial-branch", "master")
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", tag)
    git(folder, "tag", tag)
    return git(folder, "rev-parse", "HEAD")


def stand_in_files(version: str, main: str = "") -> dict[str, str]:
    """The stand-in at some version."""
    return {
        "main.py": main or MAIN.format(python=sys.executable),
        "stand_in.py": STAND_IN,
        "requirements.txt": "torch\nhollow\n",
        "comfyui_version.py": f'__version__ = "{version}"\n',
        ".gitignore": "__pycache__\n",
    }


def hollow_wheel(name: str, version: str, code: str = "") -> bytes:
    """A wheel with one module in it."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": code,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in files) + f"{info}/RECORD,,\n"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return buffer.getvalue()


@dataclass
class Served:
    """One file of the server, and how it misbehaves."""

    content: bytes
    etag: str = '"1"'
    ranges: bool = True
    honours_if_range: bool = True
    break_after: list[int] = field(default_factory=list)
    """Bytes after which the next answers break off, each used once."""
    pause_s: float = 0.0
    """Pause after each 64 KiB."""
    status: int = 200
    needs_token: str = ""


class FileServer:
    """Serves files over HTTP with ranges; remembers every request."""

    def __init__(self) -> None:
        self.files: dict[str, Served] = {}
        self.requests: list[tuple[str, str, str]] = []
        """Path, Range and Authorization of each."""
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def handle(self) -> None:
                with contextlib.suppress(ConnectionError):
                    super().handle()

            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                outer._answer(self)

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        """Stops it."""
        self._server.shutdown()
        self._server.server_close()

    def add(self, path: str, content: bytes, **how: Any) -> Served:
        """Serves a file."""
        self.files[path] = Served(content, **how)
        return self.files[path]

    def ranges(self, path: str) -> list[str]:
        """The Range header of each request for a path."""
        return [range_ for asked, range_, _ in self.requests if asked == path]

    def _answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        path = handler.path.split("?")[0]
        asked = handler.headers.get("Range", "")
        self.requests.append((path, asked, handler.headers.get("Authorization", "")))
        file = self.files.get(path)
        if file is None or file.status != 200:
            self._refuse(handler, file.status if file else 404)
            return
        if file.needs_token and handler.headers.get("Authorization") != f"Bearer {file.needs_token}":
            self._refuse(handler, 401)
            return
        start = 0
        match = re.fullmatch(r"bytes=(\d+)-", asked)
        condition = handler.headers.get("If-Range")
        stale = file.honours_if_range and condition is not None and condition != file.etag
        if match and file.ranges and not stale:
            start = int(match[1])
            if start >= len(file.content):
                self._refuse(handler, 416)
                return
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {start}-{len(file.content) - 1}/{len(file.content)}")
        else:
            handler.send_response(200)
        body = file.content[start:]
        handler.send_header("Content-Length", str(len(body)))
        handler.send_header("ETag", file.etag)
        handler.send_header("Content-Type", "text/html" if path.endswith("/") else "application/octet-stream")
        handler.end_headers()
        if handler.command == "HEAD":
            return
        limit = file.break_after.pop(0) if file.break_after else None
        self._send(handler, body, limit, file.pause_s)

    @staticmethod
    def _send(handler: http.server.BaseHTTPRequestHandler, body: bytes, limit: int | None, pause_s: float) -> None:
        sent = 0
        try:
            for offset in range(0, len(body), 1 << 16):
                piece = body[offset : offset + (1 << 16)]
                if limit is not None and sent + len(piece) > limit:
                    handler.wfile.write(piece[: limit - sent])
                    handler.wfile.flush()
                    handler.connection.shutdown(socket.SHUT_RDWR)
                    return
                handler.wfile.write(piece)
                sent += len(piece)
                if pause_s:
                    handler.wfile.flush()
                    time.sleep(pause_s)
        except OSError:
            pass

    @staticmethod
    def _refuse(handler: http.server.BaseHTTPRequestHandler, status: int) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    def serve_index(self) -> None:
        """A package index with hollow wheels of everything the stand-in asks for."""
        wheels = {
            "torch": hollow_wheel("torch", "9.9.0+cpu", HOLLOW_TORCH),
            "torchvision": hollow_wheel("torchvision", "9.9.0"),
            "torchaudio": hollow_wheel("torchaudio", "9.9.0"),
            "requests": hollow_wheel("requests", "9.9.0"),
            "hollow": hollow_wheel("hollow", "1.0.0"),
        }
        for name, wheel in wheels.items():
            version = {"torch": "9.9.0+cpu", "hollow": "1.0.0"}.get(name, "9.9.0")
            file = f"{name}-{version}-py3-none-any.whl"
            link = file.replace("+", "%2B")
            digest = hashlib.sha256(wheel).hexdigest()
            page = f'<!DOCTYPE html><html><body><a href="/wheels/{link}#sha256={digest}">{file}</a></body></html>'
            self.add(f"/simple/{name}/", page.encode())
            self.add(f"/wheels/{link}", wheel)


def some_bytes(size: int, seed: int = 0) -> bytes:
    """Bytes that do not repeat."""
    block = b"".join(hashlib.sha256(f"{seed}-{n}".encode()).digest() for n in range(size // 32 + 1))
    return block[:size]


def manifest_text(server: str, files: Mapping[str, tuple[bytes, str]], nodes: Sequence[tuple[str, str]] = ()) -> str:
    """A manifest with one bundle `tiny`; files by name: content and the SHA-256 it claims."""
    parts = []
    for name, (content, sha256) in files.items():
        parts.append(
            f'[[file]]\nfolder = "checkpoints"\nname = "{name}"\nurl = "{server}/models/{name}"\n'
            f'bytes = {len(content)}\nsha256 = "{sha256}"\nlicence = "MIT"\n'
        )
    names = ", ".join(f'"{name}"' for name in files)
    extra = ", ".join(f'{{ name = "{name}", url = "{url}" }}' for name, url in nodes)
    parts.append(f'[[bundle]]\nid = "tiny"\ntitle = "Tiny"\nfiles = [{names}]\nnodes = [{extra}]\n')
    return "\n".join(parts)


def sha256(content: bytes) -> str:
    """Its hash."""
    return hashlib.sha256(content).hexdigest()


def free_port() -> int:
    """A port nobody has at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def tree(folder: Path) -> dict[str, str]:
    """Hash of every file below a folder, but for logs, bytecode and what a running ComfyUI writes."""
    skipped = {"__pycache__", "progress", "service", "temp"}
    found = {}
    for file in sorted(folder.rglob("*")):
        relative = file.relative_to(folder)
        if file.is_file() and not skipped & set(relative.parts):
            found[str(relative)] = f"{sha256(file.read_bytes())} {file.stat().st_mtime_ns}"
    return found


class Rig:
    """A user's machine: where things are, and how to install there."""

    def __init__(self, root: Path, server: FileServer) -> None:
        self.root = root
        self.server = server
        self.home = root / "state"
        self.folder = root / "comfyui"
        self.repository = root / "upstream"
        self.port = free_port()
        self.events: list[InstallEvent] = []
        self.environment = {
            "HYBRID_VIDEO_HOME": str(self.home),
            "HOME": str(root / "user"),
            "UV_DEFAULT_INDEX": f"{server.url}/simple",
            "UV_CACHE_DIR": str(root / "uv-cache"),
            "UV_PYTHON_DOWNLOADS": "never",
            "GIT_CONFIG_GLOBAL": os.devnull,
        }
        (root / "user").mkdir()
        server.serve_index()
        make_repository(self.repository, stand_in_files("1.0.0"), "v1.0.0")

    def enter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Makes this test's environment the user's."""
        for name in list(os.environ):
            if name.startswith(("UV_", "PIP_", "HF_TOKEN", "VIRTUAL_ENV")):
                monkeypatch.delenv(name)
        for name, value in self.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(self.root)

    def options(self, **more: Any) -> dict[str, Any]:
        """What the user asks for."""
        asked: dict[str, Any] = {
            "folder": self.folder,
            "source": str(self.repository),
            "ref": "v1.0.0",
            "engine": "git",
            "torch": "cpu",
            "torch_index": f"{self.server.url}/simple",
            "python": sys.executable,
            "port": self.port,
            "service": "background",
            "min_free_gb": 0.1,
        }
        return {**asked, **more}

    def installation(self, **more: Any) -> Installation:
        """The installation with these options."""
        return Installation(self.options(**more))

    def command(self, *arguments: str) -> list[str]:
        """The command line of `hybrid-video install-comfyui` with the rig's options."""
        given = ["--dir", str(self.folder), "--source", str(self.repository), "--ref", "v1.0.0", "--engine", "git"]
        given += ["--torch", "cpu", "--torch-index", f"{self.server.url}/simple", "--python", sys.executable]
        given += ["--port", str(self.port), "--service", "background", "--min-free-gb", "0.1", "--yes"]
        code = "from hybrid_video.cli import main; main()"
        return [sys.executable, "-c", code, "install-comfyui", *arguments, *given]

    def manifest(self, files: Mapping[str, tuple[bytes, str]], nodes: Sequence[tuple[str, str]] = ()) -> Path:
        """A manifest file whose files are served."""
        for name, (content, _) in files.items():
            if f"/models/{name}" not in self.server.files:
                self.server.add(f"/models/{name}", content)
        file = self.root / "manifest.toml"
        file.write_text(manifest_text(self.server.url, files, nodes), encoding="utf-8")
        return file

    def said(self, kind: str = "notice") -> str:
        """Everything the events of a kind said."""
        return "\n".join(event.message for event in self.events if event.kind == kind)

    def processes(self) -> list[psutil.Process]:
        """Every process that has to do with this installation."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.pid != os.getpid() and any(str(self.folder) in part for part in process.cmdline()):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def close(self) -> None:
        """Ends whatever a test has left running."""
        for process in self.processes():
            try:
                process.kill()
            except psutil.Error:
                continue


def state_of(folder: Path) -> dict[str, Any]:
    """The state file as another process reads it; empty before there is one."""
    try:
        data: dict[str, Any] = json.loads((folder / "progress/state.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return {}
    return data
