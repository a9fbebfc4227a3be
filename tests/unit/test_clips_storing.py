"""Where a finished clip is kept: complete or not at all, never over another one, with a record of its origin."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from hybrid_video import redaction
from hybrid_video.clips import ClipFacts, free_disk_mb, store_clip
from hybrid_video.errors import ConfigurationError, InputError
from hybrid_video.models import Clip, Tier

FACTS = ClipFacts(
    container="mp4",
    codec="h264",
    width=832,
    height=480,
    fps=16,
    frames=80,
    duration_s=5,
    size_bytes=4,
    luma_mean=90,
    luma_std=20,
    luma_peak=250,
    motion=120,
)


def store(tmp_path: Path, content: bytes, *, facts: ClipFacts = FACTS, job: str = "shot-001", **origin: Any) -> Clip:
    source = tmp_path / "download" / "x_00001_.mp4"
    source.parent.mkdir(exist_ok=True)
    source.write_bytes(content)
    return store_clip(source, out_dir=tmp_path / "out", batch="film", job=job, facts=facts, provenance=origin)


def names(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "out" / "film").iterdir())


def record(tmp_path: Path, name: str = "shot-001.json") -> dict[str, Any]:
    content: dict[str, Any] = json.loads((tmp_path / "out" / "film" / name).read_text())
    return content


def test_a_clip_is_stored_with_its_hash_and_record(tmp_path: Path) -> None:
    """File, hash, size and record agree; the source stays."""
    clip = store(tmp_path, b"clip", seed=7, cost_usd=Decimal("0.10"), simulated=True)
    path = Path(clip.path)
    assert path == tmp_path / "out" / "film" / "shot-001.mp4"
    assert path.read_bytes() == b"clip"
    assert (clip.sha256, clip.size_bytes, clip.simulated) == (hashlib.sha256(b"clip").hexdigest(), 4, True)
    assert names(tmp_path) == ["shot-001.json", "shot-001.mp4"]
    assert record(tmp_path) | {"batch": "film", "job": "shot-001", "file": "shot-001.mp4"} == record(tmp_path)
    assert record(tmp_path)["cost_usd"] == "0.10"
    assert record(tmp_path)["sha256"] == clip.sha256
    assert datetime.fromisoformat(record(tmp_path)["created_at"]).tzinfo is not None
    assert (tmp_path / "download" / "x_00001_.mp4").exists()


def test_an_earlier_clip_is_kept_under_a_number_with_its_record(tmp_path: Path) -> None:
    """Nothing that was paid for is overwritten."""
    for content in (b"one", b"two", b"three"):
        store(tmp_path, content, seed=len(content))
    folder = tmp_path / "out" / "film"
    assert names(tmp_path) == [f"shot-001{part}{end}" for part in (".1", ".2", "") for end in (".json", ".mp4")]
    assert [(folder / f"shot-001{part}.mp4").read_bytes() for part in (".1", ".2", "")] == [b"one", b"two", b"three"]
    assert record(tmp_path, "shot-001.1.json")["sha256"] == hashlib.sha256(b"one").hexdigest()
    assert record(tmp_path)["sha256"] == hashlib.sha256(b"three").hexdigest()


def test_the_same_clip_again_is_not_kept_twice(tmp_path: Path) -> None:
    """Collecting again after a crash changes nothing but the record."""
    store(tmp_path, b"one", attempt_id="a")
    store(tmp_path, b"one", attempt_id="b")
    assert names(tmp_path) == ["shot-001.json", "shot-001.mp4"]
    assert record(tmp_path)["attempt_id"] == "b"


def test_an_earlier_clip_in_another_format_is_kept_too(tmp_path: Path) -> None:
    """Its record would be lost otherwise."""
    store(tmp_path, b"one")
    store(tmp_path, b"two", facts=FACTS.model_copy(update={"container": "webm"}))
    assert names(tmp_path) == ["shot-001.1.json", "shot-001.1.mp4", "shot-001.json", "shot-001.webm"]


def test_a_job_whose_name_looks_like_a_kept_clip_loses_nothing(tmp_path: Path) -> None:
    """Job `a` keeps `a.1.mp4`; job `a.1` then keeps that file again instead of replacing it."""
    store(tmp_path, b"one", job="a")
    store(tmp_path, b"two", job="a")
    store(tmp_path, b"three", job="a.1")
    contents = {path.read_bytes() for path in (tmp_path / "out" / "film").glob("*.mp4")}
    assert contents == {b"one", b"two", b"three"}


def test_two_writers_of_one_job_lose_nothing(tmp_path: Path) -> None:
    """Of twelve different clips all twelve are there, eleven of them under numbers."""
    sources = []
    for number in range(12):
        source = tmp_path / f"{number}.mp4"
        source.write_bytes(b"clip %d" % number)
        sources.append(source)

    def put(source: Path) -> None:
        store_clip(source, out_dir=tmp_path / "out", batch="film", job="a", facts=FACTS, provenance={})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(put, sources))
    folder = tmp_path / "out" / "film"
    assert list(folder.glob(".*")) == []
    assert {path.read_bytes() for path in folder.glob("*.mp4")} == {source.read_bytes() for source in sources}
    assert (folder / "a.mp4").exists()
    for path in folder.glob("*.json"):
        json.loads(path.read_text())


def test_the_record_holds_no_secret(tmp_path: Path) -> None:
    """Registered secrets, signatures and passwords are masked on every level."""
    redaction.register("sk-very-secret-key")
    store(
        tmp_path,
        b"one",
        image="https://host/a.png?X-Amz-Signature=abcdef0123456789",
        details={"note": ["uses sk-very-secret-key"], "tier": Tier.LOCAL, "at": datetime(2026, 1, 1, tzinfo=UTC)},
    )
    text = (tmp_path / "out" / "film" / "shot-001.json").read_text()
    assert "very-secret" not in text
    assert "abcdef0123456789" not in text
    assert record(tmp_path)["details"]["tier"] == "local"


def test_provenance_cannot_contradict_the_file(tmp_path: Path) -> None:
    """Name, hash and job in the record are those of the file."""
    store(tmp_path, b"one", sha256="0", job_name="x", file="other.mp4")
    assert record(tmp_path)["file"] == "shot-001.mp4"
    assert record(tmp_path)["sha256"] == hashlib.sha256(b"one").hexdigest()


@pytest.mark.parametrize("job", ["../x", "a/b", "", ".hidden", "a\n"])
def test_a_name_that_is_no_file_name_is_refused(tmp_path: Path, job: str) -> None:
    """Names cannot lead out of the folder."""
    with pytest.raises(InputError, match="file name"):
        store(tmp_path, b"one", job=job)


def test_a_folder_that_cannot_be_made_is_explained(tmp_path: Path) -> None:
    """A file stands where the folder should be."""
    (tmp_path / "out").write_text("a file")
    with pytest.raises(ConfigurationError, match="choose another folder with --out"):
        store(tmp_path, b"one")


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The earlier clip stays whole, no part file stays, and the message says what to do."""
    store(tmp_path, b"one")

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigurationError, match=r"disk is full.*free some space"):
        store(tmp_path, b"two")
    assert names(tmp_path) == ["shot-001.json", "shot-001.mp4"]
    assert (tmp_path / "out" / "film" / "shot-001.mp4").read_bytes() == b"one"


def test_free_disk_is_told_for_a_folder_that_does_not_exist_yet(tmp_path: Path) -> None:
    """The nearest folder that exists decides."""
    assert free_disk_mb(tmp_path / "a" / "b") > 0
