"""`compose.yaml` names only commands, settings, files and template variables that exist. No engine is needed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import typer.main
import yaml

from hybrid_video.cli import app
from hybrid_video.settings import GROUPS, variable_name

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "compose.yaml").read_text(encoding="utf-8")
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(TEXT)["services"]


def test_every_command_and_option_exists() -> None:
    """A service that ends with a usage error would be restarted for ever."""
    group = typer.main.get_command(app)
    ours = {name: spec["command"] for name, spec in SERVICES.items() if spec.get("command", [""])[0] == "hybrid-video"}
    assert {"watcher", "api", "dashboard"} <= set(ours)
    for name, words in ours.items():
        command = group.commands[words[1]]  # type: ignore[attr-defined]
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options, name


def test_every_setting_exists() -> None:
    """A variable nobody reads would be set in vain."""
    known = {variable_name(group, field) for group in GROUPS for field in group.model_fields}
    named = {name for spec in SERVICES.values() for name in spec.get("environment", {})}
    assert {name for name in named if name.startswith(("HYBRID_VIDEO_", "RUNPOD_", "GEMINI_"))} <= known


def test_the_front_fills_in_every_variable_of_its_template() -> None:
    """nginx's image leaves a variable it does not know as it stands, and nginx then refuses to start."""
    template = (ROOT / "deploy/nginx/hybrid-video.conf.template").read_text(encoding="utf-8")
    assert set(re.findall(r"\$\{([A-Z_0-9]+)\}", template)) <= set(SERVICES["front"]["environment"])


def test_every_mounted_file_of_the_project_exists_and_no_secret_is_written_down() -> None:
    """Docker would make an empty folder of a missing file; passwords come from `.env` only."""
    mounts = [volume.split(":")[0] for spec in SERVICES.values() for volume in spec.get("volumes", [])]
    ours = [mount for mount in mounts if mount.startswith("./") and "$" not in mount]
    assert ours
    assert all((ROOT / mount).exists() for mount in ours)
    for name, value in re.findall(r"^\s+(\w*(?:PASSWORD|TOKENS?|KEY|AUTH_STRING)): (.+)$", TEXT, re.MULTILINE):
        assert value.strip('"').startswith(("${", "/tls/")), name


def test_every_service_that_is_named_exists() -> None:
    """`depends_on` and the addresses between services."""
    for spec in SERVICES.values():
        assert set(spec.get("depends_on", {})) <= set(SERVICES)
    values = [str(value) for spec in SERVICES.values() for value in spec.get("environment", {}).values()]
    hosts = [host for value in values for host in re.findall(r"(?:^|@|//)([a-z][a-z0-9-]+):\d+", value)]
    assert {"postgres", "front", "api", "dashboard"} <= set(hosts)
    assert set(hosts) <= set(SERVICES)
