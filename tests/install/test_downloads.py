"""Model files: resumed, verified, from mirrors, refused where they are wrong, and never half in their place."""

from __future__ import annotations

import resource
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from install_rig import FileServer, free_port, sha256, some_bytes

from hybrid_video.errors import ConfigurationError
from hybrid_video.installer.commands import Cancelled
from hybrid_video.installer.downloading import Downloader, check_space
from hybrid_video.installer.journal import FileState
from hybrid_video.installer.manifest import ModelSource
from hybrid_video.installer.options import Token

CONTENT = some_bytes(700_000)


class Case:
    """A model, its server and its folder."""

    def __init__(self, server: FileServer, folder: Path) -> None:
        self.server = server
        self.models = folder / "models"
        self.seen: list[FileState] = []
        self.notices: list[str] = []

    def file(self, **how: Any) -> ModelSource:
        """The model as the manifest has it."""
        fields = {"folder": "vae", "name": "m.bin", "url": f"{self.server.url}/org/m/resolve/main/m.bin"}
        return ModelSource(**{**fields, "bytes": len(CONTENT), "sha256": sha256(CONTENT), **how})

    def loader(self, **how: Any) -> Downloader:
        """What fetches it."""
        return Downloader(self.models, pause_s=0.01, on_notice=self.notices.append, **how)

    def fetch(self, file: ModelSource | None = None, **how: Any) -> str:
        """Fetches it."""
        return self.loader(**how).fetch(file or self.file(), self.seen.append)

    @property
    def path(self) -> str:
        """On the server."""
        return "/org/m/resolve/main/m.bin"

    def there(self) -> list[str]:
        """What is in the folder."""
        return sorted(entry.name for entry in (self.models / "vae").iterdir()) if self.models.exists() else []


@pytest.fixture
def case(server: FileServer, tmp_path: Path) -> Case:
    """One model, not served yet."""
    return Case(server, tmp_path)


def test_a_file_arrives_with_its_progress(case: Case) -> None:
    """Bytes grow, the total is known, it is in its place and nothing else is."""
    case.server.add(case.path, CONTENT)
    assert case.fetch() == sha256(CONTENT)
    assert case.there() == ["m.bin"]
    assert case.seen[-1].status == "done"
    assert {state.bytes_total for state in case.seen} == {len(CONTENT)}
    assert any(state.bytes_per_s > 0 for state in case.seen)


def test_a_connection_that_breaks_again_and_again_is_taken_up_where_it_broke(case: Case) -> None:
    """Every further request asks for the rest only."""
    case.server.add(case.path, CONTENT, break_after=[100_000, 100_000, 100_000])
    case.fetch()
    assert case.server.ranges(case.path) == ["", "bytes=100000-", "bytes=200000-", "bytes=300000-"]
    assert (case.models / "vae/m.bin").read_bytes() == CONTENT


def test_a_server_without_ranges_starts_anew(case: Case) -> None:
    """And the file is right all the same."""
    case.server.add(case.path, CONTENT, ranges=False, break_after=[100_000])
    case.fetch()
    assert (case.models / "vae/m.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("honours_if_range", [True, False])
def test_a_file_that_was_replaced_on_the_server_meanwhile_is_not_glued_together(
    case: Case, honours_if_range: bool
) -> None:
    """Another ETag means another file, whether or not the server looks at If-Range."""
    other = some_bytes(len(CONTENT), 9)
    served = case.server.add(case.path, other, etag='"old"', break_after=[100_000], honours_if_range=honours_if_range)
    stopped = threading.Event()

    def swap(notice: str) -> None:
        case.notices.append(notice)
        served.content, served.etag = CONTENT, '"new"'
        stopped.set()

    Downloader(case.models, pause_s=0.01, on_notice=swap).fetch(case.file(), case.seen.append)
    assert stopped.is_set()
    assert (case.models / "vae/m.bin").read_bytes() == CONTENT


def test_a_wrong_hash_is_refused_and_deleted(case: Case) -> None:
    """Nothing stays, and the message has both hashes and the reason."""
    wrong = some_bytes(len(CONTENT), 5)
    case.server.add(case.path, wrong)
    with pytest.raises(ConfigurationError) as caught:
        case.fetch()
    assert sha256(wrong) in caught.value.message
    assert sha256(CONTENT) in caught.value.message
    assert case.there() == []


def test_a_part_that_was_damaged_on_disk_is_fetched_anew_once(case: Case) -> None:
    """What came in pieces may be wrong because of a piece: one more whole try."""
    case.server.add(case.path, CONTENT, break_after=[100_000])
    calls = 0

    def damage(_: str) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            part = case.models / "vae/m.bin.part"
            part.write_bytes(b"\0" * part.stat().st_size)

    Downloader(case.models, pause_s=0.01, on_notice=damage).fetch(case.file(), case.seen.append)
    assert (case.models / "vae/m.bin").read_bytes() == CONTENT
    assert case.server.ranges(case.path) == ["", "bytes=100000-", ""]


def test_another_size_is_refused_before_its_bytes_are_read(case: Case) -> None:
    """It is another file, whatever its hash."""
    case.server.add(case.path, CONTENT + b"more")
    with pytest.raises(ConfigurationError, match="another file"):
        case.fetch()
    assert case.there() == []


def test_mirrors_are_asked_first_and_need_not_have_everything(case: Case, tmp_path: Path) -> None:
    """A mirror of the host's paths, one laid out like models/, and a folder; the first that has it wins."""
    case.server.add("/mirror/vae/m.bin", CONTENT)
    case.fetch(mirrors=[str(tmp_path / "nothing-here"), f"{case.server.url}/mirror"])
    asked = [path for path, _, _ in case.server.requests]
    assert asked == ["/mirror/org/m/resolve/main/m.bin", "/mirror/vae/m.bin"]


def test_a_mirror_with_a_wrong_file_does_no_harm(case: Case, tmp_path: Path) -> None:
    """Its file is refused and the original fetched."""
    folder = tmp_path / "usb-stick/vae"
    folder.mkdir(parents=True)
    (folder / "m.bin").write_bytes(some_bytes(len(CONTENT), 7))
    case.server.add(case.path, CONTENT)
    case.fetch(mirrors=[str(tmp_path / "usb-stick")])
    assert (case.models / "vae/m.bin").read_bytes() == CONTENT
    assert any("SHA-256" in notice for notice in case.notices)


def test_a_part_of_the_original_survives_a_mirror_that_has_nothing(case: Case) -> None:
    """Asking a mirror first must not throw away what came from the original before."""
    served = case.server.add(case.path, CONTENT, break_after=[300_000] + [0] * 20)
    with pytest.raises(ConfigurationError):
        case.fetch()
    served.break_after.clear()
    case.server.requests.clear()
    case.fetch(mirrors=[f"{case.server.url}/empty"])
    assert case.server.ranges(case.path) == ["bytes=300000-"]


def test_a_gated_model_is_explained_and_a_token_opens_it(case: Case) -> None:
    """Where to agree, where to make the token, which variable; the token itself is never shown."""
    case.server.add(case.path, CONTENT, needs_token="hf_secret_of_the_test")
    with pytest.raises(ConfigurationError) as caught:
        case.fetch()
    for part in ("HF_TOKEN", "huggingface.co/settings/tokens", f"{case.server.url}/org/m"):
        assert part in caught.value.message
    assert "hf_secret" not in str(caught.value)
    assert repr(Token(value="hf_secret_of_the_test")) == "Token(set)"


def test_a_token_goes_to_hugging_face_only(case: Case) -> None:
    """A mirror must not see it."""
    case.server.add(case.path, CONTENT)
    case.fetch(token=Token(value="hf_secret_of_the_test"))
    assert [authorization for _, _, authorization in case.server.requests] == [""]


def test_without_network_it_says_so(case: Case) -> None:
    """The address, the reason, what to do; nothing is left behind."""
    nowhere = case.file(url=f"http://127.0.0.1:{free_port()}/m.bin")
    with pytest.raises(ConfigurationError, match="check the network") as caught:
        case.fetch(nowhere)
    assert "HYBRID_VIDEO_MODEL_MIRRORS" in caught.value.message
    assert case.there() == []


def test_a_full_disk_is_seen_before_the_first_byte(case: Case) -> None:
    """With what is free and what is needed."""
    with pytest.raises(ConfigurationError, match=r"GiB free, but 931322\.6 GiB are to come"):
        check_space(case.models, 10**15, 2)


def test_a_disk_that_fills_up_on_the_way_keeps_what_came(case: Case, tmp_path: Path) -> None:
    """A file size limit stands in for the full disk: the part stays, and the next run goes on."""
    case.server.add(case.path, CONTENT)
    code = (
        "import resource, signal, sys, pathlib\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (250_000, resource.RLIM_INFINITY))\n"
        "from hybrid_video.installer.downloading import Downloader\n"
        "from hybrid_video.installer.manifest import ModelSource\n"
        f"file = ModelSource.model_validate_json({case.file().model_dump_json()!r})\n"
        f"Downloader(pathlib.Path({str(case.models)!r})).fetch(file, lambda _: None)\n"
    )
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert "the disk became full" in done.stderr
    assert 0 < (case.models / "vae/m.bin.part").stat().st_size <= 250_000
    case.server.requests.clear()
    case.fetch()
    assert case.server.ranges(case.path)[0].startswith("bytes=")


def test_cancelling_keeps_what_came(case: Case) -> None:
    """At once, in the middle of a slow file."""
    case.server.add(case.path, CONTENT, pause_s=0.2)
    begin = time.monotonic()
    with pytest.raises(Cancelled):
        case.fetch(cancelled=lambda: any(state.bytes_done > 100_000 for state in case.seen))
    assert time.monotonic() - begin < 5
    assert (case.models / "vae/m.bin.part").stat().st_size > 100_000


def test_a_hash_that_is_not_known_is_kept_and_held_to(case: Case) -> None:
    """Trust on first use: the second time another content is refused."""
    case.server.add(case.path, CONTENT)
    first = case.fetch(case.file(sha256=""))
    (case.models / "vae/m.bin").unlink()
    case.server.add(case.path, some_bytes(len(CONTENT), 8))
    with pytest.raises(ConfigurationError, match="SHA-256"):
        case.fetch(case.file(sha256=""), known={"vae/m.bin": first})


@pytest.mark.parametrize("name", ["../escape.bin", "/etc/passwd", "a\\b", "c:x"])
def test_a_manifest_cannot_write_outside_of_the_models_folder(case: Case, name: str) -> None:
    """Names are plain."""
    with pytest.raises(ValueError, match="plain name"):
        case.file(name=name)
