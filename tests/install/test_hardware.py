"""What the vendors' tools print becomes a card, and the card the PyTorch build that has kernels for it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hybrid_video.errors import ConfigurationError
from hybrid_video.installer.hardware import (
    Gpu,
    Machine,
    find_gpus,
    parse_apple,
    parse_lspci,
    parse_nvidia,
    parse_rocm,
    parse_windows,
)
from hybrid_video.installer.manifest import files_of, load_manifest, shipped_manifest
from hybrid_video.installer.torch_choice import choose_torch
from hybrid_video.installer.verdict import judge
from hybrid_video.workflows import describe

RECORDED = Path(__file__).parent / "recorded"


def text(name: str) -> str:
    """A recorded output."""
    return (RECORDED / name).read_text(encoding="utf-8")


def nvidia(name: str) -> Gpu:
    """The first card of a recorded nvidia-smi."""
    header = RECORDED / f"{name}.txt"
    return parse_nvidia(text(f"{name}.csv"), header.read_text(encoding="utf-8") if header.exists() else "")[0]


def machine(*gpus: Gpu, system: str = "Linux", memory_gb: float = 64) -> Machine:
    """A machine with these cards."""
    return Machine(
        system=system,
        release="6",
        architecture="x86_64",
        python="3.12.3",
        memory_gb=memory_gb,
        free_disk_gb=500,
        disk_path="/",
        gpus=gpus,
    )


def test_an_nvidia_card_is_read_whole() -> None:
    """Name, memory, driver, CUDA and compute capability."""
    gpu = nvidia("nvidia-4090")
    assert (gpu.name, gpu.vram_gb, gpu.driver, gpu.cuda) == ("NVIDIA GeForce RTX 4090", 24.0, "560.35.03", "12.6")
    assert gpu.capability == (8, 9)


@pytest.mark.parametrize(
    ("name", "variant"),
    [("nvidia-4090", "cu126"), ("nvidia-5070ti", "cu128"), ("nvidia-two", "cu130"), ("nvidia-1080ti", "cu126")],
)
def test_each_nvidia_card_gets_a_build_with_its_kernels(name: str, variant: str) -> None:
    """The RTX 50 series from CUDA 12.8 on, Pascal not after 12.6, the rest what its driver runs."""
    assert choose_torch(machine(nvidia(name))).variant == variant


def test_a_new_card_with_an_old_driver_is_told_to_update() -> None:
    """No build would run; installing one would only fail later."""
    gpu = nvidia("nvidia-5070ti").model_copy(update={"cuda": "12.6", "driver": "560.35"})
    with pytest.raises(ConfigurationError, match="driver 570 or newer"):
        choose_torch(machine(gpu))


def test_a_driver_from_before_cuda_12_is_refused() -> None:
    """Its nvidia-smi does not know compute capabilities; the card's name does."""
    gpu = nvidia("nvidia-old")
    assert (gpu.name, gpu.compute_capability, gpu.cuda) == ("NVIDIA GeForce RTX 2070", "", "11.0")
    with pytest.raises(ConfigurationError, match=r"runs CUDA 11\.0 at most"):
        choose_torch(machine(gpu))


def test_memory_that_nvidia_smi_does_not_tell_is_unknown_not_zero() -> None:
    """Cards that share the main memory say N/A."""
    gpu = nvidia("nvidia-gb10")
    assert gpu.vram_gb is None
    assert {verdict.runs for verdict in judge(machine(gpu), shipped_manifest())} == {"tight"}


def test_a_driver_that_does_not_answer_leaves_the_card_unusable_with_a_reason() -> None:
    """PyTorch for the processor is chosen, and what to do about the card is said."""
    (gpu,) = parse_nvidia(text("nvidia-broken.txt"), "", ok=False)
    choice = choose_torch(machine(gpu))
    assert choice.variant == "cpu"
    assert "couldn't communicate" in choice.warning
    assert "nvidia.com/drivers" in choice.warning


def test_the_card_with_most_memory_counts() -> None:
    """Where there are two."""
    cards = parse_nvidia(text("nvidia-two.csv"), text("nvidia-two.txt"))
    found = machine(*cards).gpu
    assert found is not None
    assert found.name == "NVIDIA GeForce RTX 5090"


def test_an_amd_card_is_read_past_the_warnings() -> None:
    """And gets ROCm."""
    (gpu,) = parse_rocm(text("rocm-smi.json"), "")
    assert (gpu.name, gpu.vram_gb, gpu.architecture) == ("AMD Radeon RX 7900 XTX", 24.0, "gfx1100")
    assert choose_torch(machine(gpu)).device == "rocm"


def test_the_bus_shows_cards_without_a_driver_and_no_processor_graphics() -> None:
    """Arc computes; NVIDIA and AMD without their tools do not; UHD graphics are left out."""
    found = {gpu.vendor: gpu for gpu in parse_lspci(text("lspci.txt"))}
    assert set(found) == {"intel", "amd", "nvidia"}
    assert found["intel"].usable
    assert "Arc A770" in found["intel"].name
    assert not found["amd"].usable
    assert choose_torch(machine(found["intel"])).variant == "xpu"


def test_windows_lists_what_it_has() -> None:
    """AMD has no general build there, Arc has."""
    found = {gpu.vendor: gpu for gpu in parse_windows(text("windows.json"))}
    assert (found["amd"].usable, found["intel"].usable) == (False, True)
    assert "Arc" in found["intel"].name
    assert list(parse_windows("not json")) == []


def test_an_apple_chip_shares_its_memory() -> None:
    """And needs no index of its own; an Intel Mac has no such chip."""
    (gpu,) = parse_apple("Apple M4 Max\n", 64 * 2**30)
    assert gpu.vram_gb == 48
    choice = choose_torch(machine(gpu, system="Darwin"))
    assert (choice.device, choice.index) == ("mps", "")
    assert parse_apple("Intel(R) Core(TM) i9", 2**34) == []


def test_the_tools_are_really_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small nvidia-smi on the PATH, an older one that does not know compute_cap: it is asked again without."""
    script = f"""#!/bin/sh
case "$1" in
  *compute_cap*) cat {RECORDED}/nvidia-old-field.txt; exit 2;;
  --query*) cat {RECORDED}/nvidia-old.csv;;
  *) cat {RECORDED}/nvidia-old.txt;;
esac
"""
    tool = tmp_path / "nvidia-smi"
    tool.write_text(script, encoding="utf-8")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/usr/bin{os.pathsep}/bin")
    gpus = [gpu for gpu in find_gpus("Linux") if gpu.vendor == "nvidia"]
    assert [(gpu.name, gpu.cuda) for gpu in gpus] == [("NVIDIA GeForce RTX 2070", "11.0")]


def test_builds_that_nobody_makes_are_refused() -> None:
    """With those there are."""
    with pytest.raises(ConfigurationError, match="no PyTorch build"):
        choose_torch(machine(), "tpu")


def test_verdicts_follow_memory_and_published_times() -> None:
    """24 GB run everything, 12 GB not the 14B; an RTX 3090 takes longer than an RTX 4090, and nobody beats its peak."""
    big = {v.bundle: v for v in judge(machine(nvidia("nvidia-4090")), shipped_manifest())}
    assert {v.runs for v in big.values()} == {"yes"}
    small = {v.bundle: v for v in judge(machine(nvidia("nvidia-1080ti")), shipped_manifest())}
    assert (small["video-5b"].runs, small["video-14b"].runs) == ("yes", "no")
    slower = machine(Gpu(vendor="nvidia", name="NVIDIA GeForce RTX 3090", vram_gb=24))
    times = {v.bundle: v.seconds_per_clip for v in judge(slower, shipped_manifest())}
    for bundle in ("minimal", "video-5b"):
        assert times[bundle] is not None
        assert times[bundle] > big[bundle].seconds_per_clip > 10  # type: ignore[operator]
    assert small["video-5b"].seconds_per_clip is None
    assert "nobody has published a time for NVIDIA GeForce GTX 1080 Ti" in small["video-5b"].basis


def test_a_machine_is_advised_a_bundle_that_fits() -> None:
    """14B from 16 GB on, 5B from 8, nothing without a card."""
    manifest = shipped_manifest()
    assert [manifest.recommended(vram) for vram in (24, 12, 6, None)] == ["video-14b", "video-5b", "minimal", "none"]


def test_the_bundles_hold_exactly_the_models_of_the_shipped_workflows() -> None:
    """Every file a template loads is in a bundle with a known hash and the template's address and size."""
    files = {file.name: file for file in files_of(shipped_manifest().bundles)}
    needed = {model.file: model for info in describe() for model in info.models}
    addresses = {(model.file, model.url) for info in describe() for model in info.models}
    assert set(files) == set(needed)
    for name, model in needed.items():
        assert (name, files[name].url) in addresses
        assert files[name].folder == model.folder
        assert files[name].sha256
        assert files[name].licence
        assert model.size_gib is not None
        assert files[name].bytes / 2**30 == pytest.approx(model.size_gib, abs=0.006)
    for info in describe():
        (bundle,) = [b for b in shipped_manifest().bundles if info.name in b.workflows]
        assert {m.file for m in info.models} <= {file.name for file in bundle.files}
        assert {n.url for n in info.custom_nodes} == {n.url for n in bundle.nodes}
        assert bundle.min_vram_gb >= info.min_vram_gb


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[[bundle]]\nid = 'x'\ntitle = 'X'\nfiles = ['gone.bin']", "gone.bin"),
        ("[[file]]\nfolder = '../up'\nname = 'a'\nurl = 'https://x'\nbytes = 1", "plain name"),
        ("not toml at all", "cannot be used"),
    ],
)
def test_a_manifest_of_ones_own_is_checked(tmp_path: Path, content: str, reason: str) -> None:
    """What is wrong with it is said with its path."""
    file = tmp_path / "own.toml"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=reason) as caught:
        load_manifest(file)
    assert str(file) in caught.value.message
