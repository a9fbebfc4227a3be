"""The commands of the documentation are typed as they stand there, page by page, and must print what the page shows.

Each page has a folder that looks like this repository, a home of its own, and emulators in place of vendors. Three
things differ from a reader's machine: ports are free ones (8188 on the page is another number here), `make` installs
nothing, and settings that only emulators need are in the environment. `hybrid-video up` is started once for all pages.
"""

from __future__ import annotations

import re
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from PIL import Image
from pipeline_rig import QUICK, EmulatorThread, Servers, servers_of

from hybrid_video.emulators.farm import Farm, FarmOptions
from hybrid_video.models import Tier
from tests.docs_rig import ROOT, Block, Step, Terminal, blocks, mismatch, pages, quoted

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("docs"), pytest.mark.timeout(600)]

TIME_SCALE = 40.0
PORTS = ("4200", "8188", "8321", "8501")
UP = "hybrid-video up"
ONCE = {"make demo"}
"""Dear commands that always do the same: run for the first page, compared on all of them."""

REPOSITORY = ("examples", "deploy", "docs", "installers", ".env.example", "compose.yaml")
TYPED = [page for page in pages() if any(block.runs for block in blocks(page))]


def lose_an_answer(reader: Reader) -> dict[str, str]:
    """Before the page on recovery: a batch with one attempt whose answer was lost, and one that was made."""
    reader.write("shots.yaml", BATCH.format(name="night-2", jobs=TWO_JOBS))
    reader.write("night.yaml", BATCH.format(name="night", jobs="  - {id: hero, prompt: a candle in a chapel}"))
    rule = {"server": "gemini", "operation": "submit", "action": "drop_after"}
    httpx.post(f"{reader.farm.urls[0]}/_emulator/faults", json=rule).raise_for_status()
    environment = "HYBRID_VIDEO_COMFYUI_URLS= GEMINI_API_KEY=any"
    code, printed = reader.terminal.type(f"{environment} hybrid-video run night.yaml --out clips")
    assert code == 1, printed
    found = re.search(r"ledger resolve (\w+)", printed)
    assert found is not None, printed
    reader.terminal.type(f"export HYBRID_VIDEO_COMFYUI_URLS=http://127.0.0.1:{reader.ports['8188']} GEMINI_API_KEY=any")
    return {"3f9a12": found[1][:6]}


BATCH = "name: {name}\ndefaults: {{duration_s: 3, width: 640, height: 360}}\njobs:\n{jobs}\n"
TWO_JOBS = "  - {id: a, prompt: one}\n  - {id: b, prompt: two}"
BEFORE = {"docs/how-to/recover.md": lose_an_answer}
"""What has happened to the reader before the page begins; the names on the page that are other ones here."""


@pytest.fixture(scope="session")
def farm(emulator_thread: EmulatorThread) -> Iterator[Servers]:
    """ComfyUI, RunPod and Google."""
    service_s = {Tier.LOCAL: 8.0, Tier.CLOUD: 12.0, Tier.GEMINI: 6.0}
    running = emulator_thread.do(Farm.start(FarmOptions(time_scale=TIME_SCALE, service_s=service_s, cold_start_s=4.0)))
    yield servers_of(running)
    emulator_thread.do(running.close())


@pytest.fixture(scope="session")
def shared() -> Iterator[Shared]:
    """What is started once for all pages."""
    with ExitStack() as stack:
        found = Shared(stack)
        yield found
        ended = found.up.interrupt() if found.up else 0
    assert ended == 0, f"Ctrl-C ended `hybrid-video up` with {ended}"


class Shared:
    """`hybrid-video up` and the dear commands, with what they printed."""

    def __init__(self, stack: ExitStack) -> None:
        self.stack = stack
        self.ports = {number: str(_free_port()) for number in PORTS if number != "8188"}
        self.printed: dict[str, tuple[int, str]] = {}
        self.up: Terminal | None = None
        self.home = ""


class Reader:
    """Somebody who types a page, in a folder that looks like the repository."""

    def __init__(self, page: Path, folder: Path, farm: Servers, shared: Shared, stack: ExitStack) -> None:
        self.page, self.folder, self.farm, self.shared, self.stack = page, folder, farm, shared, stack
        comfyui = farm.environment["HYBRID_VIDEO_COMFYUI_URLS"].rpartition(":")[2]
        plays = any("emulate --comfyui 8188" in block.text for block in blocks(page))
        beside_up = any(block.stays and UP in block.text for block in blocks(page))
        ports = shared.ports if beside_up else {number: str(_free_port()) for number in shared.ports}
        self.ports = {**ports, "8188": str(_free_port()) if plays else comfyui}
        self.names: dict[str, str] = {}
        self.left: list[Terminal] = []
        for name in REPOSITORY:
            (folder / name).symlink_to(ROOT / name)
        (folder / ".venv").symlink_to(sys.prefix)
        (folder / "user").mkdir()
        self.terminal = self.open()

    def open(self) -> Terminal:
        """A new terminal in the repository's folder."""
        terminal = Terminal(self.folder, self._environment())
        self.stack.callback(terminal.close)
        return terminal

    def write(self, name: str, text: str) -> None:
        """Writes a file where the first terminal is, or below the user's home."""
        here = Path(self.terminal.type("pwd")[1].strip())
        path = self.folder / "user" / name.removeprefix("~/") if name.startswith("~/") else here / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.here(text) + "\n", encoding="utf-8")
        for picture in re.findall(r"image: ([\w./-]+\.png)", text):  # the reader has them
            (path.parent / picture).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (832, 480), (60, 90, 140)).save(path.parent / picture)

    def here(self, text: str) -> str:
        """What the page says, with this machine's ports and names."""
        text = re.sub(r"\b(" + "|".join(PORTS) + r")\b", lambda found: self.ports[found[1]], text)
        for name, own in self.names.items():
            text = text.replace(name, own)
        return text

    def type(self, block: Block) -> None:
        """Types a block and compares what is printed."""
        if block.stays:
            self._leave(block)
            return
        *first, last = block.steps()
        for step in first:
            self._step(block, step, 0)
        self._step(block, last, block.exit_code)

    def _step(self, block: Block, step: Step, wanted: int) -> None:
        command = self.here(step.command)
        bare = command.partition("  #")[0].strip()
        code, printed = self.shared.printed.get(bare) or self.terminal.type(command, timeout_s=240)
        if bare in ONCE:
            self.shared.printed[bare] = code, printed
        print(f"$ {command}\n{printed}")  # what pytest shows of a page that failed: the whole session
        assert code == wanted, f"{block.where}: {command!r} ended with {code}:\n{printed}"
        if step.shown is not None:
            wrong = mismatch([self.here(line) for line in step.shown], printed)
            assert wrong is None, f"{block.where}: {command!r}: {wrong}; it printed:\n{printed}"

    def _leave(self, block: Block) -> None:
        *first, last = block.steps()
        shown = [self.here(line) for line in last.shown or []]
        if last.command == UP and self.shared.up is not None:
            wrong = mismatch(shown, self.shared.printed[UP][1])
            assert wrong is None, f"{block.where}: {UP!r}: {wrong}"
            self.terminal.type(f"export HYBRID_VIDEO_HOME={quoted(self.shared.home)}")
            return
        terminal = Terminal(self.folder, self._environment())
        (self.shared.stack if last.command == UP else self.stack).callback(terminal.close)
        for step in first:
            code, printed = terminal.type(self.here(step.command))
            assert code == 0, f"{block.where}: {step.command!r}:\n{printed}"
        if last.command == UP:
            self._share(terminal, shown)
        else:
            self.left.append(terminal)
            terminal.leave(self.here(last.command), shown)

    def _share(self, terminal: Terminal, shown: list[str]) -> None:
        home = terminal.type("cat .env 2>/dev/null | sed -n 's/^HYBRID_VIDEO_HOME=//p'; echo; pwd")[1].split()
        own = str(Path(home[-1], home[0])) if len(home) > 1 else str(self.folder / "home")
        whole = [*shown, *([] if shown[-1:] == ["..."] else ["..."]), "Ctrl-C ends everything", "..."]
        whole = shown if "Ctrl-C ends everything" in shown else whole  # other pages may show more of it than this one
        printed = terminal.leave(f"{UP} --prefect-port {self.ports['4200']}", whole, timeout_s=240)
        self.shared.up, self.shared.home, self.shared.printed[UP] = terminal, own, (0, printed)

    def _environment(self) -> dict[str, str]:
        """A bare environment: no settings but those that emulators need."""
        shims = self.folder / ".shims"
        _shims(shims)
        own = {
            "PATH": f"{shims}:{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin",
            "HOME": str(self.folder / "user"),
            "LANG": "C.UTF-8",
            "COLUMNS": "140",
            "HYBRID_VIDEO_API_PORT": self.ports["8321"],
            "HYBRID_VIDEO_DASHBOARD_PORT": self.ports["8501"],
            "DO_NOT_TRACK": "1",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            **QUICK,
        }
        own.pop("HYBRID_VIDEO_GEMINI_RESOLUTION")
        vendors = ("HYBRID_VIDEO_RUNPOD_JOBS_URL", "HYBRID_VIDEO_RUNPOD_PODS_URL", "HYBRID_VIDEO_GEMINI_URL")
        own |= {name: self.farm.environment[name] for name in vendors}
        text = self.page.read_text(encoding="utf-8")
        if "HYBRID_VIDEO_COMFYUI_URLS=" not in text and "GEMINI_API_KEY=" not in text:
            own["HYBRID_VIDEO_COMFYUI_URLS"] = self.farm.environment["HYBRID_VIDEO_COMFYUI_URLS"]  # set up long ago
        if not any(block.file == ".env" and "HYBRID_VIDEO_HOME" in block.text for block in blocks(self.page)):
            own |= {"HYBRID_VIDEO_HOME": str(self.folder / "home"), "HYBRID_VIDEO_TIME_SCALE": f"{TIME_SCALE:g}"}
        return own


@pytest.mark.parametrize("page", TYPED, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_a_page_says_is_typed_and_printed(page: Path, farm: Servers, shared: Shared) -> None:
    """Every command ends as it should and prints what is shown; what stays ends with Ctrl-C."""
    farm.reset()
    with ExitStack() as stack:
        folder = Path(
            shared.stack.enter_context(tempfile.TemporaryDirectory(prefix="page-"))
        )  # short: tables are narrow
        reader = Reader(page, folder, farm, shared, stack)
        if (before := BEFORE.get(page.relative_to(ROOT).as_posix())) is not None:
            reader.names = before(reader)
        for block in blocks(page):
            if block.file is not None:
                reader.write(block.file, block.text)
            elif block.runs:
                reader.type(block)
        assert [terminal.interrupt() for terminal in reader.left] == [0] * len(reader.left)


def _shims(folder: Path) -> None:
    """`make` that runs the real recipes and installs nothing: what is tested is installed already."""
    folder.mkdir(exist_ok=True)
    make = folder / "make"
    make.write_text(
        f'#!/bin/sh\nexec /usr/bin/make --no-print-directory -f {quoted(ROOT / "Makefile")} UV=/bin/true RUN= "$@"\n',
        encoding="utf-8",
    )
    make.chmod(0o755)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
