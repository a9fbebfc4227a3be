"""`hybrid-video doctor`: every backend, key, model, database and disk, and for each trouble a remedy."""

from __future__ import annotations

from typing import Any

import pytest
from pipeline_rig import Project, Servers

from hybrid_video.backends.registry import BACKENDS


def findings(project: Project, code: int) -> dict[str, dict[str, Any]]:
    """What `doctor --json` found, by subject."""
    outcome = project.command("doctor", "--json")
    assert outcome.code == code, str(outcome)
    assert "Traceback" not in outcome.err
    answer = outcome.json
    assert answer["ok"] is (code == 0)
    found = {finding["subject"]: finding for finding in answer["findings"]}
    for finding in found.values():
        assert finding["level"] in {"ok", "off"} or finding["remedy"], f"no remedy: {finding}"
        assert finding["subject"] in outcome.err
    return found


def test_a_healthy_installation_is_ok(farm: Servers, project: Project) -> None:
    """Storage and the configured backends are ok; what is not configured is off, with what would turn it on."""
    project.use(farm)
    found = findings(project, 0)
    assert {found[name]["level"] for name in ("disk", "ledger", "history")} == {"ok"}
    assert found["prices"]["level"] in {"ok", "warning"}  # they grow old
    assert {found[name]["level"] for name in ("comfyui", "runpod-serverless", "gemini")} == {"ok"}
    assert found["veo"]["level"] == "off"
    assert set(BACKENDS) <= set(found)
    assert farm.charges() == []


def test_an_installation_without_backends_says_how_to_get_one(project: Project) -> None:
    """Nothing is broken, but no clip can be made."""
    found = findings(project, 1)
    assert found["comfyui"]["level"] == "off"
    assert "HYBRID_VIDEO_COMFYUI_URLS" in found["comfyui"]["remedy"]
    assert "hybrid-video demo" in found["backends"]["remedy"]


@pytest.mark.parametrize(
    ("tier", "variable", "subject"),
    [("cloud", "RUNPOD_API_KEY", "runpod-serverless"), ("gemini", "GEMINI_API_KEY", "gemini")],
)
def test_a_refused_key_is_an_error_of_that_backend_only(
    farm: Servers, project: Project, tier: str, variable: str, subject: str
) -> None:
    """The others are still looked at, and the key is not shown."""
    project.use(farm)
    project.set(**{variable: "invalid-abcdef-123456"})
    found = findings(project, 1)
    assert found[subject]["level"] == "error"
    assert found["comfyui"]["level"] == "ok"
    assert "invalid-abcdef-123456" not in str(found)


def test_a_comfyui_that_is_down_is_named(project: Project) -> None:
    """With its address and what to do."""
    project.set(HYBRID_VIDEO_COMFYUI_URLS="http://127.0.0.1:9")
    found = findings(project, 1)
    assert found["comfyui"]["level"] == "error"
    assert "127.0.0.1:9" in found["comfyui"]["detail"]


def test_a_disk_with_too_little_space_is_an_error(farm: Servers, project: Project) -> None:
    """What a batch would refuse to start on, doctor shows before."""
    project.use(farm)
    project.set(HYBRID_VIDEO_MIN_FREE_DISK_MB=10**9)
    assert findings(project, 1)["disk"]["level"] == "error"


def test_a_damaged_history_is_an_error_with_its_remedy(farm: Servers, project: Project) -> None:
    """The rest is looked at all the same."""
    project.use(farm)
    project.write("state/history.duckdb", b"no database" * 500)
    found = findings(project, 1)
    assert found["history"]["level"] == "error"
    assert "rebuild-history" in found["history"]["detail"] + found["history"]["remedy"]
    assert found["comfyui"]["level"] == "ok"


def test_uncertain_attempts_are_a_warning(farm: Servers, project: Project) -> None:
    """Money is held for them, and what to do is said; it is no error."""
    project.use(farm)
    farm.fault(server="gemini", operation="submit", action="drop_after")
    assert project.run(project.batch([{"preferences": {"backend": "gemini"}}])).code == 1
    found = findings(project, 0)
    assert found["ledger"]["level"] == "warning"
    assert "unknown outcome" in found["ledger"]["detail"]
