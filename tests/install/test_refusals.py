"""What stands in the way is said before anything is changed: what it is, and what to do."""

from __future__ import annotations

import http.server
import json
import os
import socket
import subprocess
import threading
from pathlib import Path

import pytest
from install_rig import Rig, free_port, make_repository, state_of

from hybrid_video.cli import app
from hybrid_video.cli.output import guarded
from hybrid_video.errors import ConfigurationError, InputError
from hybrid_video.installer import Installation


def refusal(installation: Installation) -> str:
    """Why it stops."""
    with pytest.raises(ConfigurationError) as caught:
        installation.run()
    return caught.value.message


def nothing_was_made(rig: Rig) -> bool:
    """Whether no code, no Python, no service and no settings are there."""
    return not (rig.folder / "versions").exists() and not (rig.home / "settings.env").exists() and not rig.processes()


def test_a_port_that_somebody_has_is_refused_with_a_free_one(rig: Rig) -> None:
    """Before anything is fetched."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", rig.port))
        taken.listen()
        said = refusal(rig.installation())
    assert f"port {rig.port} is taken" in said
    assert f"process {os.getpid()}" in said
    assert "--port" in said
    assert nothing_was_made(rig)


def test_a_comfyui_that_somebody_else_started_is_offered_for_use(rig: Rig) -> None:
    """It is not stopped, and the variable to use it is named."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"system": {"comfyui_version": "0.3.64"}, "devices": []}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    other = http.server.ThreadingHTTPServer(("127.0.0.1", rig.port), Handler)
    threading.Thread(target=other.serve_forever, daemon=True).start()
    try:
        said = refusal(rig.installation())
    finally:
        other.shutdown()
        other.server_close()
    assert "ComfyUI 0.3.64" in said
    assert f"HYBRID_VIDEO_COMFYUI_URLS=http://127.0.0.1:{rig.port}" in said
    assert nothing_was_made(rig)


def test_a_folder_with_somebody_elses_comfyui_is_not_touched(rig: Rig) -> None:
    """And how to share its models is said."""
    rig.folder.mkdir()
    for name in ("main.py", "nodes.py"):
        (rig.folder / name).write_text("mine", encoding="utf-8")
    said = refusal(rig.installation())
    assert "somebody else installed" in said
    assert "--mirror" in said
    assert sorted(e.name for e in rig.folder.iterdir() if e.name != "progress") == ["main.py", "nodes.py"]


def test_a_folder_with_other_things_is_not_touched(rig: Rig) -> None:
    """Somebody's documents for example."""
    rig.folder.mkdir()
    (rig.folder / "thesis.odt").write_text("mine", encoding="utf-8")
    assert "'thesis.odt'" in refusal(rig.installation())


def test_a_foreign_comfyui_elsewhere_is_told_of_and_left_alone(rig: Rig) -> None:
    """In one of the usual places of the home folder."""
    place = Path(os.environ["HOME"]) / "ComfyUI"
    (place / "models").mkdir(parents=True)
    for name in ("main.py", "nodes.py"):
        (place / name).touch()
    found = rig.installation().check().foreign
    assert [(one.place, one.models) for one in found] == [(str(place), str(place / "models"))]


def test_missing_git_is_said_with_how_to_get_it(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """For each system."""
    monkeypatch.setenv("PATH", str(rig.root / "empty"))
    said = refusal(rig.installation())
    assert "git is not there" in said
    assert "apt install git" in said
    assert "winget" in said
    assert nothing_was_made(rig)


def test_an_old_python_is_refused_before_it_is_used(rig: Rig) -> None:
    """With what is needed instead."""
    old = rig.root / "python3.8"
    old.write_text("#!/bin/sh\necho 3.8.10\n", encoding="utf-8")
    old.chmod(0o755)
    said = refusal(rig.installation(python=str(old)))
    assert "is Python 3.8.10" in said
    assert "3.10 to 3.13" in said


def test_without_network_the_address_and_a_way_out_are_named(rig: Rig) -> None:
    """And what git said."""
    said = refusal(rig.installation(source=f"http://127.0.0.1:{free_port()}/ComfyUI.git"))
    assert "check the network" in said
    assert "--source" in said
    assert nothing_was_made(rig)


def test_a_package_index_that_is_gone_stops_it_and_a_later_run_goes_on(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkout is kept; the state says which step failed and why."""
    monkeypatch.setenv("UV_DEFAULT_INDEX", f"http://127.0.0.1:{free_port()}/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    said = refusal(rig.installation(torch_index="", torch="default"))
    assert "check the network and the package index" in said
    state = state_of(rig.folder)
    assert state["status"] == "failed"
    assert [step["id"] for step in state["steps"] if step["status"] == "failed"] == ["torch"]


def test_a_reference_that_does_not_exist_is_named(rig: Rig) -> None:
    """With how to list those that do."""
    assert "no tag or branch 'v9'" in refusal(rig.installation(ref="v9"))


def test_a_repository_that_is_no_comfyui_is_refused(rig: Rig) -> None:
    """And leaves no version behind."""
    make_repository(rig.root / "other", {"README": "hello"}, "v1")
    assert "no main.py" in refusal(rig.installation(source=str(rig.root / "other"), ref="v1"))
    assert list((rig.folder / "versions").iterdir()) == []


def test_too_little_disk_is_refused_with_the_numbers(rig: Rig) -> None:
    """Nothing is fetched."""
    said = refusal(rig.installation(min_free_gb=10**7))
    assert "GiB free" in said
    assert nothing_was_made(rig)


def test_an_unknown_bundle_is_refused_with_the_known_ones(rig: Rig) -> None:
    """Before a question is asked."""
    with pytest.raises(InputError, match="choose from minimal"):
        rig.installation(bundles=["maximal"]).plan()


@pytest.mark.parametrize("argument", ["--listen=0.0.0.0", "--listen", "--port=1", "--enable-cors-header"])
def test_comfyui_cannot_be_opened_to_the_network_by_an_argument(rig: Rig, argument: str) -> None:
    """It has no password."""
    with pytest.raises(ConfigurationError, match=r"127\.0\.0\.1 only"):
        rig.installation(extra_args=[argument])


def test_a_dry_run_says_everything_and_does_nothing(rig: Rig) -> None:
    """No folder, no request; exit 0 and the plan as JSON."""
    done = subprocess.run(
        rig.command("--dry-run", "--json"), capture_output=True, text=True, timeout=60, check=False, cwd=rig.root
    )
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert [step["id"] for step in plan["plan"]][:3] == ["check", "code", "python"]
    assert plan["torch"]["variant"] == "cpu"
    assert not rig.folder.exists()
    assert rig.server.requests == []


def test_nobody_is_asked_where_nobody_can_answer(rig: Rig) -> None:
    """Without --yes and without a terminal it stops with what to give."""
    command = [part for part in rig.command() if part != "--yes"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL, cwd=rig.root
    )
    assert done.returncode == 2
    assert "--yes" in done.stderr
    assert not rig.folder.exists()


@pytest.mark.parametrize("verb", ["update", "repair", "rollback", "uninstall", "start"])
def test_verbs_that_need_an_installation_say_so(rig: Rig, verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Instead of making half of one."""
    arguments = rig.command(verb)
    assert guarded(app, arguments[arguments.index("install-comfyui") :]) == 2
    said = capsys.readouterr().err
    assert "installed at" in said
    assert "Traceback" not in said
    assert not rig.folder.exists()
