"""What this machine is: GPU, driver, memory, disk, Python. Reads what the vendors' own tools print; decides nothing.

Formats read: `nvidia-smi --query-gpu … --format=csv` and its header line (docs.nvidia.com/deploy/nvidia-smi),
`rocm-smi --json`, `lspci -nn`, `system_profiler SPDisplaysDataType -json` and Windows' `Win32_VideoController`.
"""

from __future__ import annotations

import contextlib
import json
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import psutil

from hybrid_video.installer.commands import ask
from hybrid_video.models import Model

GIB = 2**30
MIB = 2**20

Vendor = Literal["nvidia", "amd", "apple", "intel", "none"]


class Gpu(Model):
    """One graphics card. `usable`: its driver answers, so programs can compute on it."""

    vendor: Vendor
    name: str
    vram_gb: float | None = None
    driver: str = ""
    cuda: str = ""
    """Highest CUDA version the driver runs."""
    compute_capability: str = ""
    architecture: str = ""
    """AMD's gfx name."""
    usable: bool = True
    trouble: str = ""

    @property
    def capability(self) -> tuple[int, int] | None:
        """Compute capability as numbers."""
        match = re.fullmatch(r"(\d+)\.(\d+)", self.compute_capability)
        return (int(match[1]), int(match[2])) if match else None


class Machine(Model):
    """The whole machine."""

    system: str
    """Linux, Darwin or Windows."""
    release: str
    architecture: str
    python: str
    memory_gb: float
    free_disk_gb: float
    disk_path: str
    gpus: tuple[Gpu, ...] = ()
    container: bool = False

    @property
    def gpu(self) -> Gpu | None:
        """The card that would be used: the usable one with the most memory."""
        usable = [gpu for gpu in self.gpus if gpu.usable]
        return max(usable, key=lambda gpu: gpu.vram_gb or 0, default=None)


def detect(folder: Path) -> Machine:
    """Looks at this machine. `folder`: where something would be installed; its disk is what counts."""
    place = _existing(folder)
    system = platform.system()
    return Machine(
        system=system,
        release=platform.release(),
        architecture=platform.machine().lower(),
        python=platform.python_version(),
        memory_gb=round(psutil.virtual_memory().total / GIB, 1),
        free_disk_gb=round(shutil.disk_usage(place).free / GIB, 1),
        disk_path=str(place),
        gpus=tuple(find_gpus(system)),
        container=Path("/.dockerenv").exists() or Path("/run/.containerenv").exists(),
    )


def find_gpus(system: str) -> list[Gpu]:
    """Every card that can compute, and those that could if their driver were there."""
    if system == "Darwin":
        return _apple()
    found = _nvidia()
    if system == "Windows":
        listed = list(parse_windows(_out("powershell", "-NoProfile", "-Command", WINDOWS_QUERY)))
    else:
        found += _rocm()
        listed = list(parse_lspci(_out("lspci", "-nn")))
    have = {gpu.vendor for gpu in found}
    return found + [gpu for gpu in listed if gpu.vendor not in have]


WINDOWS_QUERY = "Get-CimInstance Win32_VideoController | Select-Object Name,AdapterRAM,DriverVersion | ConvertTo-Json"
NVIDIA_FIELDS = "name,memory.total,driver_version,compute_cap"


def _out(*command: str) -> str:
    answer = ask(command)
    return answer.out if answer and answer.ok else ""


def _nvidia() -> list[Gpu]:
    query = ask(("nvidia-smi", f"--query-gpu={NVIDIA_FIELDS}", "--format=csv,noheader,nounits"))
    if query is None:
        return []
    if not query.ok and "not a valid field" in query.out:
        fields = NVIDIA_FIELDS.removesuffix(",compute_cap")
        query = ask(("nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits")) or query
    header = ask(("nvidia-smi",))
    return parse_nvidia(query.out, header.out if header else "", ok=query.ok)


def parse_nvidia(query: str, header: str, *, ok: bool = True) -> list[Gpu]:
    """Cards from `nvidia-smi`: the CSV query, and the plain output that names the CUDA version."""
    text = query.strip()
    if not ok or "has failed" in text or "No devices were found" in text or not text:
        trouble = text.splitlines()[0] if text else "nvidia-smi says nothing"
        return [Gpu(vendor="nvidia", name="NVIDIA GPU", usable=False, trouble=trouble)]
    cuda = re.search(r"CUDA (?:UMD )?Version:\s*(\d+\.\d+)", header)
    gpus = []
    for line in text.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) < 3:
            continue
        memory = re.fullmatch(r"(\d+)(?: MiB)?", parts[1])
        gpus.append(
            Gpu(
                vendor="nvidia",
                name=parts[0] if parts[0].startswith("NVIDIA") else f"NVIDIA {parts[0]}",
                vram_gb=round(int(memory[1]) / 1024, 1) if memory else None,
                driver=parts[2],
                cuda=cuda[1] if cuda else "",
                compute_capability=parts[3] if len(parts) > 3 and re.fullmatch(r"\d+\.\d+", parts[3]) else "",
            )
        )
    return gpus


def _rocm() -> list[Gpu]:
    memory = _out("rocm-smi", "--showproductname", "--showmeminfo", "vram", "--json")
    return parse_rocm(memory, _out("rocminfo")) if memory else []


def parse_rocm(smi: str, rocminfo: str) -> list[Gpu]:
    """Cards from `rocm-smi --json`; the gfx name from it or from `rocminfo`."""
    start = smi.find("{")
    try:
        cards: dict[str, Any] = json.loads(smi[start:]) if start >= 0 else {}
    except json.JSONDecodeError:
        return []
    names = re.findall(r"Name:\s+(gfx[0-9a-f]+)", rocminfo)
    gpus: list[Gpu] = []
    for key, card in sorted(cards.items()):
        if not key.startswith("card") or not isinstance(card, dict):
            continue
        total = next((value for name, value in card.items() if "VRAM Total Memory" in name), None)
        series = card.get("Card Series") or card.get("Card series") or card.get("Card model") or "AMD GPU"
        gfx = str(card.get("GFX Version") or (names[len(gpus)] if len(gpus) < len(names) else ""))
        gpus.append(
            Gpu(
                vendor="amd",
                name=str(series),
                vram_gb=round(int(total) / GIB, 1) if total and str(total).isdigit() else None,
                architecture=gfx,
            )
        )
    return gpus


_PCI = re.compile(r"(?:VGA compatible controller|3D controller|Display controller) \[03\d\d\]: (.+?) \[(\w{4}):\w{4}\]")
_PCI_VENDORS: dict[str, Vendor] = {"10de": "nvidia", "1002": "amd", "8086": "intel"}
_DISCRETE_INTEL = re.compile(r"Arc|DG1|DG2|Battlemage|Data Center GPU|Flex|Max", re.IGNORECASE)


def parse_lspci(text: str) -> Iterator[Gpu]:
    """Cards on the bus, whose driver did not answer (Intel's needs no tool of its own)."""
    for name, vendor_id in _PCI.findall(text):
        vendor = _PCI_VENDORS.get(vendor_id.lower())
        if vendor == "intel" and _DISCRETE_INTEL.search(name):
            yield Gpu(vendor="intel", name=_short(name))
        elif vendor in ("nvidia", "amd"):
            tool = "nvidia-smi" if vendor == "nvidia" else "rocm-smi"
            yield Gpu(vendor=vendor, name=_short(name), usable=False, trouble=f"{tool} is not there or says nothing")


def parse_windows(text: str) -> Iterator[Gpu]:
    """Cards from `Win32_VideoController`. Its AdapterRAM is 32 bits wide and ends at 4 GB, so it is not used."""
    try:
        data = json.loads(text) if text.strip() else []
    except json.JSONDecodeError:
        return
    for card in [data] if isinstance(data, dict) else data:
        name = str(card.get("Name") or "")
        driver = str(card.get("DriverVersion") or "")
        if "NVIDIA" in name:
            yield Gpu(vendor="nvidia", name=name, driver=driver, usable=False, trouble="nvidia-smi says nothing")
        elif "AMD" in name or "Radeon" in name:
            trouble = "PyTorch has no general build for AMD cards on Windows"
            yield Gpu(vendor="amd", name=name, driver=driver, usable=False, trouble=trouble)
        elif "Intel" in name and _DISCRETE_INTEL.search(name):
            yield Gpu(vendor="intel", name=name, driver=driver)


def _apple() -> list[Gpu]:
    if platform.machine() != "arm64":
        return []
    return parse_apple(_out("sysctl", "-n", "machdep.cpu.brand_string"), psutil.virtual_memory().total)


def parse_apple(brand: str, memory_bytes: int) -> list[Gpu]:
    """An Apple chip. CPU and GPU share the memory; Metal gives programs about three quarters of it."""
    if not brand.strip().startswith("Apple"):
        return []
    return [Gpu(vendor="apple", name=brand.strip(), vram_gb=round(memory_bytes / GIB * 0.75, 1))]


def _short(name: str) -> str:
    bracket = re.search(r"\[([^\]]+)\]\s*$", name)
    vendor = next((v for v in ("NVIDIA", "AMD", "Intel") if v.lower() in name.lower()), "")
    return f"{vendor} {bracket[1]}".strip() if bracket else name


def _existing(folder: Path) -> Path:
    place = folder.expanduser().absolute()
    while not place.exists():
        place = place.parent
    return place


def port_owner(port: int) -> str:
    """Which process listens on a port of 127.0.0.1, for messages; empty when it cannot be seen."""
    with contextlib.suppress(psutil.AccessDenied, OSError, RuntimeError):
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port:
                if connection.pid is None:
                    return ""
                with contextlib.suppress(psutil.Error):
                    return f"{psutil.Process(connection.pid).name()} (process {connection.pid})"
    return ""


PYTHON_MINIMUM = (3, 10)
PYTHON_MAXIMUM = (3, 13)
"""ComfyUI's README recommends 3.12 and 3.13; PyTorch has wheels from 3.10 on."""


def own_python_fits() -> bool:
    """Whether the Python this runs on can run ComfyUI as well."""
    return PYTHON_MINIMUM <= sys.version_info[:2] <= PYTHON_MAXIMUM
