"""The output, input and temp folders of a simulated ComfyUI and the naming rules of the files in them."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from hybrid_video.emulators.comfyui.errors import NodeError

ANNOTATIONS = ("output", "input", "temp")


@dataclass(frozen=True)
class SavePath:
    """Where a save node writes next: `stem` and `counter` become `stem_00001_.mp4`."""

    folder: Path
    subfolder: str
    stem: str
    counter: int

    def name(self, suffix: str) -> str:
        """File name in the style of the core nodes."""
        return f"{self.stem}_{self.counter:05}_{suffix}"


class Folders:
    """The three folders; given no `output`, all of them live in a temporary folder that goes away with this object."""

    def __init__(self, output: Path | None = None) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="hv-comfyui-", ignore_cleanup_errors=True)
        root = Path(self._temporary.name).resolve()
        self.output = output.resolve() if output else root / "output"
        self.input = root / "input"
        self.temp = root / "temp"
        for folder in (self.output, self.input, self.temp):
            folder.mkdir(parents=True, exist_ok=True)

    def close(self) -> None:
        """Deletes the temporary folder now; a file that is being written meanwhile may stay behind."""
        self._temporary.cleanup()

    def scratch(self) -> tempfile.TemporaryDirectory[str]:
        """A folder for files that no node has named yet.

        Where a thread still writes into it when it goes, what is left is deleted with the others. An error raised from
        there would take the place of the interrupt or cancellation that ends the prompt.
        """
        root = Path(self._temporary.name).resolve()
        return tempfile.TemporaryDirectory(prefix="render-", dir=root, ignore_cleanup_errors=True)

    def by_type(self, kind: str) -> Path | None:
        """The folder of `type=`; None for a type that does not exist."""
        return {"output": self.output, "input": self.input, "temp": self.temp}.get(kind)

    def annotated(self, name: str) -> tuple[str, Path | None]:
        """Splits `"a.png [input]"` into the name and its folder; the folder is None without such a suffix."""
        for kind in ANNOTATIONS:
            if name.endswith(f"[{kind}]"):
                return name[: -len(kind) - 3], self.by_type(kind)
        return name, None

    def input_path(self, name: str) -> Path:
        """The file an input such as LoadImage's `image` means."""
        bare, folder = self.annotated(name)
        return (folder or self.input) / bare

    def input_names(self) -> list[str]:
        """Files lists of inputs show: those in the input folder itself, not in folders below it."""
        return sorted(entry.name for entry in self.input.iterdir() if entry.is_file())

    def wipe_temp(self) -> None:
        """Empties temp, as every start does."""
        shutil.rmtree(self.temp, ignore_errors=True)
        self.temp.mkdir(parents=True, exist_ok=True)

    def save_path(self, prefix: str, *, width: int, height: int, kind: str = "output") -> SavePath:
        """The next free name for a `filename_prefix`: highest counter on disk plus one, so names come back.

        Raises:
            NodeError: the prefix leaves the folder.
        """
        root = self.by_type(kind) or self.output
        prefix = os.path.normpath(_expand(prefix, width, height))
        subfolder, stem = str(Path(prefix).parent), Path(prefix).name
        subfolder = "" if subfolder == "." else subfolder
        folder = Path(os.path.abspath(root / subfolder))  # noqa: PTH100 - links stay links, as on the server
        if not is_inside(folder, root):
            raise NodeError(
                "**** ERROR: Saving image outside the output folder is not allowed."
                f"\n full_output_folder: {folder}\n         output_dir: {root}"
                f"\n         commonpath: {os.path.commonpath((str(root), str(folder)))}",
                "Exception",
            )
        folder.mkdir(parents=True, exist_ok=True)
        stem = "." if prefix == "." else stem
        return SavePath(folder, subfolder, stem, _highest(folder, f"{stem}_") + 1)


def is_inside(path: Path, root: Path) -> bool:
    """Whether an absolute path lies in a folder or is it."""
    return path == root or root in path.parents


def _highest(folder: Path, start: str) -> int:
    """Highest counter among `start<digits>...`; what is not a number counts as 0, as on the server."""
    highest = 0
    for entry in folder.iterdir():
        if entry.name.startswith(start):
            digits = entry.name[len(start) :].split("_")[0].split(".")[0]
            highest = max(highest, int(digits) if digits.isdecimal() else 0)
    return highest


def _expand(prefix: str, width: int, height: int) -> str:
    if "%" not in prefix:
        return prefix
    now = time.localtime()
    values = {"width": str(width), "height": str(height), "year": str(now.tm_year)}
    values |= {"month": f"{now.tm_mon:02}", "day": f"{now.tm_mday:02}", "hour": f"{now.tm_hour:02}"}
    values |= {"minute": f"{now.tm_min:02}", "second": f"{now.tm_sec:02}"}
    for name, value in values.items():
        prefix = prefix.replace(f"%{name}%", value)
    return prefix
