"""Whatever is wrong with a batch, its files or the configuration: one clear message, exit 2 or 3, nothing spent."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pipeline_rig import EmulatorThread, Outcome, Project, Servers

from hybrid_video.emulators.comfyui import ComfyUIEmulator
from hybrid_video.emulators.faults import FaultPlan
from hybrid_video.emulators.server import ScaledClock, start_server

PLASMA = Path(__file__).parents[2] / "examples" / "workflows" / "plasma.json"


def refused(outcome: Outcome, *words: str, code: int = 2) -> Outcome:
    """Exit code, a message with all these words, the same in JSON, and no traceback."""
    assert outcome.code == code, str(outcome)
    message = " ".join(outcome.err.split())
    for word in words:
        assert word in message, f"{word!r} is not in: {outcome.err}"
    assert "Traceback" not in outcome.err, str(outcome)
    assert "unexpected error" not in outcome.err, str(outcome)
    answer = outcome.json
    assert answer["exit_code"] == code
    assert answer["problems"], str(outcome)
    return outcome


def nothing_happened(project: Project, *servers: Servers) -> None:
    """No vendor was sent anything, the ledger holds no attempt, and no clip was made."""
    assert [row for each in servers for row in each.charges()] == []
    assert project.attempts() == []
    assert project.clip_files() == []


@contextmanager
def comfyui_without(
    thread: EmulatorThread, *, models: frozenset[str] = frozenset(), nodes: frozenset[str] = frozenset()
) -> Iterator[Servers]:
    """A ComfyUI on which some models or nodes are not installed."""
    emulator = ComfyUIEmulator(
        clock=ScaledClock(50), faults=FaultPlan(), service_s=1, missing_models=models, missing_nodes=nodes
    )
    server = thread.do(start_server(emulator.app()))
    try:
        yield Servers({"HYBRID_VIDEO_COMFYUI_URLS": server.url}, (server.url,))
    finally:
        thread.do(server.close())


def unused_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# -- the batch file ---------------------------------------------------------------------------------------------------

CONTENTS: dict[str, tuple[object, tuple[str, ...]]] = {
    "an unknown field": ({"jobs": [{"prompt": "x", "negative_promt": "y"}]}, ("negative_promt", "negative_prompt")),
    "an unknown field of the batch": ({"jobs": [{"prompt": "x"}], "deadline": 9}, ("deadline", "deadline_s")),
    "no job": ({"jobs": []}, ("jobs", "prompt")),
    "ten thousand and one jobs": ({"jobs": [{"prompt": "x"}] * 10_001}, ("10,001", "10,000", "split")),
    "a negative length": ({"jobs": [{"prompt": "x", "duration_s": -2}]}, ("duration_s", "-2", "between")),
    "an odd width": ({"jobs": [{"prompt": "x", "width": 127}]}, ("width", "127", "even")),
    "no prompt": ({"jobs": [{"id": "a"}]}, ("prompt", "missing")),
    "a blank prompt": ({"jobs": [{"prompt": "   "}]}, ("prompt", "describe the shot")),
    "two jobs with one id": (
        {"jobs": [{"id": "a", "prompt": "x"}, {"id": "A", "prompt": "y"}]},
        ("'A'", "jobs[0]", "its own"),
    ),
    "an id that leaves the folder": ({"jobs": [{"id": "../a", "prompt": "x"}]}, ("../a", "letters")),
    "an unknown backend": (
        {"jobs": [{"prompt": "x", "preferences": {"backend": "clod"}}]},
        ("backend", "clod", "cloud"),
    ),
    "a negative maximum cost": (
        {"jobs": [{"prompt": "x", "preferences": {"max_cost_usd": -1}}]},
        ("max_cost_usd", "-1", "between"),
    ),
    "an unknown template": ({"jobs": [{"prompt": "x", "workflow": "wan9"}]}, ("workflow", "wan9", "auto")),
    "a missing workflow": ({"jobs": [{"prompt": "x", "workflow": "own.json"}]}, ("workflow", "own.json", "exist")),
    "a missing image": ({"jobs": [{"prompt": "x", "image": "nowhere.png"}]}, ("image", "nowhere.png", "exist")),
    "an image outside the folder": (
        {"jobs": [{"prompt": "x", "image": "../secret.png"}]},
        ("image", "../secret.png", "put the file into"),
    ),
    "an absolute image path": ({"jobs": [{"prompt": "x", "image": "/etc/passwd"}]}, ("image", "/etc/passwd", "inside")),
    "an image on a private address": (
        {"jobs": [{"prompt": "x", "image": "https://127.0.0.1/a.png"}]},
        ("image", "127.0.0.1"),
    ),
    "an image over plain http": ({"jobs": [{"prompt": "x", "image": "http://example.com/a.png"}]}, ("image", "https")),
}


@pytest.mark.parametrize("case", CONTENTS)
def test_a_batch_that_cannot_be_meant_is_refused_by_field_and_value(farm: Servers, project: Project, case: str) -> None:
    """The message names what is wrong, its value and what to write instead; no backend sees anything."""
    content, words = CONTENTS[case]
    project.use(farm)
    refused(project.run(project.write("film.json", content)), *words)
    nothing_happened(project, farm)


def test_all_problems_of_a_batch_are_told_at_once(farm: Servers, project: Project) -> None:
    """Three mistakes in two jobs give three messages, each with its line."""
    project.use(farm)
    text = "jobs:\n  - prompt: x\n    fps: fast\n    width: 3\n  - promt: y\n"
    outcome = refused(project.run(project.write("film.yaml", text)), "film.yaml:3:", "film.yaml:4:", "promt")
    assert len(outcome.json["problems"]) >= 3
    nothing_happened(project, farm)


UNREADABLE: dict[str, tuple[Callable[[Project], Path], tuple[str, ...]]] = {
    "a folder": (lambda project: _made(project.folder / "film.json"), ("film.json", "folder")),
    "a broken link": (lambda project: _link(project.folder / "film.json"), ("film.json", "does not exist")),
    "a file that is not there": (lambda project: project.folder / "film.yaml", ("film.yaml", "does not exist")),
    "a pipe": (lambda project: _pipe(project.folder / "film.json"), ("film.json", "not a regular file")),
    "an empty file": (lambda project: project.write("film.yaml", ""), ("film.yaml", "empty")),
    "another format": (lambda project: project.write("film.toml", "a = 1"), (".toml", ".yaml, .yml, .json, .csv")),
    "no JSON": (lambda project: project.write("film.json", '{"jobs": ['), ("film.json:1:", "JSON")),
    "no YAML": (lambda project: project.write("film.yaml", "jobs: [\n  - {"), ("film.yaml:2:", "YAML")),
    "Latin-1": (
        lambda project: project.write("film.yaml", "jobs:\n- prompt: Café\n".encode("latin-1")),
        ("UTF-8", "2"),
    ),
    "UTF-16": (lambda project: project.write("film.csv", "prompt\nx\n".encode("utf-16")), ("UTF-16", "UTF-8")),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_a_file_that_cannot_be_read_is_refused(farm: Servers, project: Project, case: str) -> None:
    """Folders, broken links, pipes, other formats and other encodings are named as what they are."""
    make, words = UNREADABLE[case]
    project.use(farm)
    refused(project.run(make(project)), *words)
    nothing_happened(project, farm)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_refused(farm: Servers, project: Project) -> None:
    """The message says that permission is missing."""
    project.use(farm)
    file = project.batch([{}])
    file.chmod(0)
    refused(project.run(file), "permission")
    nothing_happened(project, farm)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _link(path: Path) -> Path:
    path.symlink_to(path.with_name("gone.json"))
    return path


def _pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


# -- workflows --------------------------------------------------------------------------------------------------------


def test_a_workflow_in_the_editors_format_is_refused_with_the_way_to_export_it(farm: Servers, project: Project) -> None:
    """The UI format has `nodes` and `links`; only the API format can be sent."""
    project.use(farm)
    project.write("own.json", {"nodes": [{"id": 1, "type": "KSampler"}], "links": [], "version": 0.4})
    refused(project.run(project.batch([{"workflow": "own.json"}])), "own.json", "API")
    nothing_happened(project, farm)


def test_a_missing_node_is_named_before_anything_is_sent(emulator_thread: EmulatorThread, project: Project) -> None:
    """The server is asked what it has, for free; the message names the node and the server."""
    with comfyui_without(emulator_thread, nodes=frozenset({"ImageQuantize"})) as servers:
        project.use(servers, "local")
        project.write("own.json", PLASMA.read_text(encoding="utf-8"))
        outcome = project.run(project.batch([{"workflow": "own.json", "width": 480, "height": 288}]))
        refused(outcome, "ImageQuantize", "install", servers.urls[0])
        nothing_happened(project, servers)


def test_a_missing_model_is_named_with_its_folder_before_anything_is_sent(
    emulator_thread: EmulatorThread, project: Project
) -> None:
    """The model file, where it belongs and where to get it."""
    model = "wan2.2_ti2v_5B_fp16.safetensors"
    with comfyui_without(emulator_thread, models=frozenset({model})) as servers:
        project.use(servers, "local")
        refused(project.run(project.batch([{}])), model, "download it to models/diffusion_models", "https://")
        nothing_happened(project, servers)


# -- money ------------------------------------------------------------------------------------------------------------


def test_a_maximum_cost_of_zero_needs_a_free_backend(farm: Servers, project: Project) -> None:
    """With only paid tiers configured no job can cost nothing."""
    project.use(farm, "cloud", "gemini")
    outcome = project.run(project.batch([{"preferences": {"max_cost_usd": 0}}]))
    refused(outcome, "s1", "limit of $0", "HYBRID_VIDEO_COMFYUI_URLS", "max_cost_usd")
    nothing_happened(project, farm)


@pytest.mark.parametrize("where", ["file", "option"])
def test_a_budget_of_zero_needs_a_free_backend(farm: Servers, project: Project, where: str) -> None:
    """It is a contradiction in the input, not a matter of amounts: exit 2."""
    project.use(farm, "cloud", "gemini")
    fields: dict[str, object] = {"budget_usd": 0} if where == "file" else {}
    options = () if where == "file" else ("--budget", "0")
    refused(project.run(project.batch([{}], "film", **fields), *options), "budget", "$0", "cheaper backend")
    nothing_happened(project, farm)


def test_a_budget_below_the_cheapest_plan_is_refused_with_the_amount_needed(farm: Servers, project: Project) -> None:
    """Exit 3, with the budget, the least cost and where it comes from."""
    project.use(farm, "cloud", "gemini")
    outcome = project.run(project.batch([{}] * 3, budget_usd="0.001"))
    refused(outcome, "budget_usd", "$0.001", "cheapest way", "3 jobs", "raise it", code=3)
    nothing_happened(project, farm)


def test_a_daily_budget_below_the_cheapest_plan_is_refused(farm: Servers, project: Project) -> None:
    """The system's limits count like the batch's own; the message names the variable."""
    project.use(farm, "cloud", "gemini")
    project.set(HYBRID_VIDEO_DAILY_BUDGET_USD="0.001")
    refused(project.run(project.batch([{}])), "HYBRID_VIDEO_DAILY_BUDGET_USD", "$0.001", code=3)
    nothing_happened(project, farm)


# -- configuration ----------------------------------------------------------------------------------------------------


def test_no_backend_at_all_is_refused_with_what_to_set(project: Project) -> None:
    """All three ways to configure one are named, and the demo that needs none."""
    words = ("HYBRID_VIDEO_COMFYUI_URLS", "RUNPOD_API_KEY", "GEMINI_API_KEY", "hybrid-video demo")
    refused(project.run(project.batch([{}])), *words)
    nothing_happened(project)


@pytest.mark.parametrize(("tier", "variable"), [("cloud", "RUNPOD_API_KEY"), ("gemini", "GEMINI_API_KEY")])
def test_a_refused_key_stops_the_batch_before_it_starts(
    farm: Servers, project: Project, tier: str, variable: str
) -> None:
    """Even with a free tier beside it: whoever set a key wants it used. The key itself is not shown."""
    project.use(farm)
    project.set(**{variable: "invalid-abcdef-123456"})
    outcome = refused(project.run(project.batch([{}])), variable)
    assert "invalid-abcdef-123456" not in str(outcome)
    nothing_happened(project, farm)


@pytest.mark.parametrize("tier", ["local", "cloud", "gemini"])
def test_the_only_backend_being_down_stops_the_batch_before_it_starts(project: Project, tier: str) -> None:
    """A refused connection names the address, or for Google the vendor."""
    address = f"http://127.0.0.1:{unused_port()}"
    variables = {
        "local": {"HYBRID_VIDEO_COMFYUI_URLS": address},
        "cloud": {"HYBRID_VIDEO_RUNPOD_JOBS_URL": f"{address}/v2/emulated", "RUNPOD_API_KEY": "some-key-123"},
        "gemini": {"HYBRID_VIDEO_GEMINI_URL": address, "GEMINI_API_KEY": "some-key-123"},
    }
    project.set(**variables[tier])
    words = ("Google could not be reached",) if tier == "gemini" else (address.removeprefix("http://"),)
    refused(project.run(project.batch([{}])), "1 of 1 jobs cannot start", *words)
    nothing_happened(project)


BAD_SETTINGS = {
    "HYBRID_VIDEO_RETRY_BASE_S": "soon",
    "HYBRID_VIDEO_COMFYUI_URLS": "localhost:8188",
    "HYBRID_VIDEO_BACKEND": "clod",
    "HYBRID_VIDEO_DAILY_BUDGET_USD": "-3",
    "HYBRID_VIDEO_MAX_ATTEMPTS": "0",
}


@pytest.mark.parametrize("variable", BAD_SETTINGS)
def test_a_wrong_setting_is_named_with_its_value(farm: Servers, project: Project, variable: str) -> None:
    """The variable, what it holds, and why that cannot be."""
    project.use(farm)
    project.set(**{variable: BAD_SETTINGS[variable]})
    refused(project.run(project.batch([{}])), variable, BAD_SETTINGS[variable], "Change or unset it")
    nothing_happened(project, farm)


OPTIONS = {
    "--deadline -5": ("--deadline", "-5"),
    "--deadline nan": ("--deadline", "nan"),
    "--deadline inf": ("--deadline", "inf"),
    "--deadline soon": ("--deadline", "soon"),
    "--budget -1": ("--budget", "-1"),
    "--budget NaN": ("--budget", "NaN"),
    "--budget much": ("--budget", "much", "4.60"),
    "--budget 99999999999": ("--budget", "99999999999"),
    "--budget 1e999999": ("--budget", "1e999999"),
    "--frobnicate": ("--frobnicate", "--help"),
}


@pytest.mark.parametrize("options", OPTIONS)
def test_a_wrong_option_is_named_with_its_value(farm: Servers, project: Project, options: str) -> None:
    """Bad numbers and unknown options end with exit 2 and the way to the help."""
    project.use(farm)
    refused(project.run(project.batch([{}]), *options.split(" ")), *OPTIONS[options])
    nothing_happened(project, farm)


def test_a_command_without_its_file_is_refused(project: Project) -> None:
    """No argument is no traceback."""
    refused(project.command("run", "--json"), "file", "--help")


def test_an_unknown_command_is_refused(project: Project) -> None:
    """With the way to the help."""
    refused(project.command("rum", "film.yaml", "--json"), "rum", "--help")


# -- disks and folders ------------------------------------------------------------------------------------------------


def test_a_computed_budget_is_cut_to_the_ledgers_unit(farm: Servers, project: Project) -> None:
    """0.1 + 0.2 as a program writes it is a budget like any other."""
    project.use(farm, "local")
    outcome = project.run(project.batch([{}], budget_usd=0.1 + 0.2))
    assert outcome.code == 0, str(outcome)
    assert project.verify().ok


def test_too_little_free_disk_is_refused_before_the_start(farm: Servers, project: Project) -> None:
    """With what is free, what is wanted, and the three things that help."""
    project.use(farm)
    project.set(HYBRID_VIDEO_MIN_FREE_DISK_MB=10**9)
    words = ("1000000000 MB are wanted", "--out", "HYBRID_VIDEO_MIN_FREE_DISK_MB")
    refused(project.run(project.batch([{}])), *words)
    nothing_happened(project, farm)


@pytest.mark.parametrize("kind", ["a file", "below a file", "no file system for it"])
def test_an_output_folder_that_cannot_be_used_is_refused(farm: Servers, project: Project, kind: str) -> None:
    """Named as given, with the option that changes it."""
    project.use(farm)
    file = project.write("taken", "a file")
    out = {"a file": file, "below a file": file / "clips", "no file system for it": Path("/proc/clips")}[kind]
    refused(project.command("run", project.batch([{}]), "--out", out, "--json"), str(out), "--out")
    nothing_happened(project, farm)


@pytest.mark.parametrize("command", [("run", "film.json"), ("ledger", "verify"), ("doctor",)])
def test_a_home_that_cannot_be_used_is_a_configuration_error(
    farm: Servers, project: Project, command: tuple[str, ...]
) -> None:
    """State cannot be kept there, so nothing starts; the message names the folder and the variable."""
    project.use(farm)
    project.batch([{}])
    home = project.write("taken", "a file")
    project.set(HYBRID_VIDEO_HOME=home)
    outcome = project.command(*command, "--json")
    assert outcome.code == (1 if command == ("doctor",) else 2), str(outcome)
    assert str(home) in outcome.err.replace("\n", "")
    assert "HYBRID_VIDEO_HOME" in outcome.err
    assert "Traceback" not in outcome.err
    assert isinstance(outcome.json, dict)
    nothing_happened(project, farm)


@pytest.mark.parametrize("url", ["nonsense", "postgresql://user:hunter2hunter2@127.0.0.1:1/ledger"])
def test_a_ledger_address_that_cannot_be_used_is_a_configuration_error(
    farm: Servers, project: Project, url: str
) -> None:
    """The variable is named; the address, which may hold a password, is not shown."""
    project.use(farm)
    project.set(HYBRID_VIDEO_LEDGER_URL=url)
    outcome = refused(project.run(project.batch([{}])), "HYBRID_VIDEO_LEDGER_URL")
    assert "hunter2" not in str(outcome)
    nothing_happened(project, farm)


def test_a_damaged_ledger_is_a_configuration_error(farm: Servers, project: Project) -> None:
    """A file that is no database is named, and stays as it is."""
    project.use(farm)
    ledger = project.write("state/ledger.sqlite3", b"no database" * 500)
    refused(project.run(project.batch([{}])), str(ledger), "not a database")
    assert ledger.read_bytes() == b"no database" * 500
    assert farm.charges() == []


def test_a_damaged_history_does_not_stop_a_batch(farm: Servers, project: Project) -> None:
    """The history is made from the ledger; without it the published times are expected, and a notice says so."""
    project.use(farm, "local")
    project.write("state/history.duckdb", b"no database" * 500)
    outcome = project.run(project.batch([{}]))
    assert outcome.code == 0, str(outcome)
    assert any("rebuild-history" in notice for notice in outcome.json["notices"])


def test_errors_are_one_json_object_in_a_real_process_too(farm: Servers, project: Project) -> None:
    """A real process ends with exit 2, one line of JSON on standard output, and no traceback."""
    project.use(farm)
    outcome = project.start_run(project.batch([{"fps": 0}])).wait()
    refused(outcome, "fps", "0")
    assert json.loads(outcome.out)["problems"]
    nothing_happened(project, farm)
