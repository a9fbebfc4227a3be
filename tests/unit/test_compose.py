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


def test_only_the_front_is_published_and_everybody_listens_where_the_front_looks() -> None:
    """TLS is the only way in; a wrong port behind it would show as a bad gateway to users."""
    published = {name: spec["ports"] for name, spec in SERVICES.items() if "ports" in spec}
    front = SERVICES["front"]["environment"]
    assert published == {"front": [f"{front[name]}:{front[name]}" for name in ("HTTPS_LISTEN", "PREFECT_HTTPS_LISTEN")]}
    for service in ("api", "dashboard", "prefect-api-1", "prefect-api-2"):
        words = SERVICES[service]["command"]
        port = words[words.index("--port") + 1]
        assert f"{service}:{port}" in front.values()
    for spec in SERVICES.values():
        if url := spec.get("environment", {}).get("PREFECT_API_URL"):
            assert url == f"http://front:{front['PREFECT_LISTEN']}/api"


def test_the_api_believes_the_front_alone() -> None:
    """The address is fixed in the network, and named in the API's settings."""
    import ipaddress

    address = SERVICES["front"]["networks"]["default"]["ipv4_address"]
    assert SERVICES["api"]["environment"]["HYBRID_VIDEO_API_TRUSTED_PROXIES"] == address
    [network] = yaml.safe_load(TEXT)["networks"]["default"]["ipam"]["config"]
    assert ipaddress.ip_address(address) in ipaddress.ip_network(network["subnet"])
    template = (ROOT / "deploy/nginx/hybrid-video.conf.template").read_text(encoding="utf-8")
    api = template.partition("proxy_pass http://${API}")[2].partition("}\n")[0]
    assert "proxy_set_header X-Forwarded-For $remote_addr;" in api, (
        "what a caller claims must be replaced, not added to"
    )


def test_every_process_that_knows_clips_finds_them_at_the_same_path() -> None:
    """The ledger names clips by their path; the image has the folder, owned by its user."""
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    ours = [spec for spec in SERVICES.values() if "HYBRID_VIDEO_HOME" in spec.get("environment", {})]
    assert len(ours) == 4
    for spec in ours:
        places = [volume.rpartition(":")[2] for volume in spec["volumes"]]
        assert places == [spec["environment"]["HYBRID_VIDEO_HOME"], spec["environment"]["HYBRID_VIDEO_OUT"]]
        assert f"install -d -o hybrid -g hybrid {' '.join(places)}\n" in dockerfile


def test_prefects_pages_ask_where_they_came_from_and_the_password_is_asked() -> None:
    """Without the first the browser asks for http://0.0.0.0:4200, which is its own machine."""
    for service in ("prefect-api-1", "prefect-api-2"):
        environment = SERVICES[service]["environment"]
        assert environment["PREFECT_SERVER_UI_API_URL"] == "/api"
        assert environment["PREFECT_SERVER_API_AUTH_STRING"].startswith("${")
