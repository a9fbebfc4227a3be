"""Settings: what the environment means, and the sentence for each value that means nothing."""

from __future__ import annotations

import os
from decimal import Decimal
from pathlib import Path

import pytest

from hybrid_video.errors import ConfigurationError
from hybrid_video.models import Preferences
from hybrid_video.redaction import MASK, redact
from hybrid_video.settings import GROUPS, Settings, variable_name


def test_nothing_set_is_a_working_configuration() -> None:
    """Defaults: no backend, current prices, no limits, weights 40/30/20/10."""
    settings = Settings.load()
    assert settings.comfyui.urls == ()
    assert settings.routing.prices == "current"
    assert settings.routing.daily_budget_usd is None
    weights = settings.routing.preferences.weights
    assert weights is not None
    assert (weights.priority, weights.cost, weights.speed, weights.queue) == (40, 30, 20, 10)


def test_lists_are_comma_separated_and_addresses_normalised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blanks, empty parts, a trailing slash and repetitions do not matter."""
    monkeypatch.setenv("HYBRID_VIDEO_COMFYUI_URLS", " http://127.0.0.1:8188/ ,, http://gpu2:8188,http://127.0.0.1:8188")
    assert Settings.load().comfyui.urls == ("http://127.0.0.1:8188", "http://gpu2:8188")


@pytest.mark.parametrize(
    ("variable", "value", "part"),
    [
        ("HYBRID_VIDEO_COMFYUI_URLS", "127.0.0.1:8188", "write it like http://127.0.0.1:8188"),
        ("HYBRID_VIDEO_COMFYUI_URLS", "ftp://host", "write it like http://127.0.0.1:8188"),
        ("HYBRID_VIDEO_RUNPOD_MAX_WORKERS", "0", "greater than or equal to 1"),
        ("HYBRID_VIDEO_RUNPOD_JOBS_URL", "nowhere", "is not an http(s) URL"),
        ("HYBRID_VIDEO_GEMINI_RESOLUTION", "8k", "'360p', '720p' or '1080p'"),
        ("HYBRID_VIDEO_PRICES", "cheap", "'current' or 'seed'"),
        ("HYBRID_VIDEO_BACKEND", "runpod", "'auto', 'local', 'cloud' or 'gemini'"),
        ("HYBRID_VIDEO_DAILY_BUDGET_USD", "-1", "greater than or equal to 0"),
        ("HYBRID_VIDEO_DAILY_BUDGET_USD", "NaN", "finite"),
        ("HYBRID_VIDEO_MAX_COST_PER_JOB_USD", "5000", "less than or equal to 1000"),
        ("HYBRID_VIDEO_WEIGHT_COST", "2000", "less than or equal to 1000"),
        ("HYBRID_VIDEO_VALUE_OF_TIME_USD_PER_H", "inf", "finite"),
        ("HYBRID_VIDEO_TIME_SCALE", "0", "greater than 0"),
        ("HYBRID_VIDEO_MAX_ATTEMPTS", "many", "valid integer"),
        ("HYBRID_VIDEO_MONTHLY_TIER_BUDGETS_USD", "lunar=5", "write tiers and dollars like cloud=20,gemini=10"),
    ],
)
def test_a_wrong_value_names_variable_value_and_remedy(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, part: str
) -> None:
    """One sentence, in the words of the environment rather than of the validation library."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError) as caught:
        Settings.load()
    message = caught.value.message
    assert message.startswith(f"{variable} is ")
    assert value in message
    assert part in message
    assert message.endswith("Change or unset it.")
    assert "\n" not in message


def test_every_wrong_variable_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three mistakes in three groups are three lines."""
    monkeypatch.setenv("HYBRID_VIDEO_RUNPOD_MAX_WORKERS", "0")
    monkeypatch.setenv("HYBRID_VIDEO_PRICES", "cheap")
    monkeypatch.setenv("HYBRID_VIDEO_MIN_FREE_DISK_MB", "-5")
    with pytest.raises(ConfigurationError) as caught:
        Settings.load()
    names = [line.split()[0] for line in caught.value.message.splitlines()]
    assert names == ["HYBRID_VIDEO_RUNPOD_MAX_WORKERS", "HYBRID_VIDEO_PRICES", "HYBRID_VIDEO_MIN_FREE_DISK_MB"]


def test_four_weights_of_nothing_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise nothing would decide."""
    for name in ("PRIORITY", "COST", "SPEED", "QUEUE"):
        monkeypatch.setenv(f"HYBRID_VIDEO_WEIGHT_{name}", "0")
    with pytest.raises(ConfigurationError, match="HYBRID_VIDEO_WEIGHT_PRIORITY, _COST, _SPEED and _QUEUE are all 0"):
        Settings.load()


def test_limits_of_the_system_become_its_preferences(monkeypatch: pytest.MonkeyPatch) -> None:
    """The third level of the fold."""
    monkeypatch.setenv("HYBRID_VIDEO_MAX_COST_PER_JOB_USD", "0.25")
    monkeypatch.setenv("HYBRID_VIDEO_ALLOW_CLOUD_FALLBACK", "false")
    monkeypatch.setenv("HYBRID_VIDEO_PREFER_SERVERLESS", "1")
    preferences = Settings.load().routing.preferences
    assert isinstance(preferences, Preferences)
    assert preferences.max_cost_usd == Decimal("0.25")
    assert preferences.allow_cloud_fallback is False
    assert preferences.prefer_serverless is True


@pytest.mark.parametrize(
    "variable", ["RUNPOD_API_KEY", "GEMINI_API_KEY", "GOOGLE_API_KEY", "HYBRID_VIDEO_RUNPOD_POD_TOKEN"]
)
def test_a_key_is_hidden_from_the_moment_it_is_loaded(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """Neither the settings' own text nor any redacted message shows it."""
    secret = f"secret-of-{variable.lower()}-1234"
    monkeypatch.setenv(variable, secret)
    settings = Settings.load()
    assert secret not in repr(vars(settings))
    assert redact(f"the vendor said {secret} is wrong") == f"the vendor said {MASK} is wrong"


def test_a_password_in_the_ledger_address_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole address counts as secret."""
    url = "postgresql://hv:pa55word-9@db/ledger"
    monkeypatch.setenv("HYBRID_VIDEO_LEDGER_URL", url)
    settings = Settings.load()
    assert "pa55word-9" not in repr(vars(settings))
    assert "pa55word-9" not in redact(f"cannot connect to {url}")


@pytest.mark.parametrize(
    ("jobs_url", "endpoint", "expected"),
    [
        ("https://api.runpod.ai/v2", "abc", "https://api.runpod.ai/v2/abc"),
        ("https://api.runpod.ai/v2/abc", "", "https://api.runpod.ai/v2/abc"),
        ("https://api.runpod.ai", "abc", "https://api.runpod.ai/v2/abc"),
        ("https://api.runpod.ai/v2", "", ""),
        ("http://127.0.0.1:9000", "", "http://127.0.0.1:9000/v2/emulated"),
        ("http://127.0.0.1:9000/v2/", "mine", "http://127.0.0.1:9000/v2/mine"),
    ],
)
def test_the_endpoint_address_is_completed(
    monkeypatch: pytest.MonkeyPatch, jobs_url: str, endpoint: str, expected: str
) -> None:
    """With or without version and endpoint; on this machine it is the emulator's."""
    monkeypatch.setenv("HYBRID_VIDEO_RUNPOD_JOBS_URL", jobs_url)
    monkeypatch.setenv("HYBRID_VIDEO_RUNPOD_ENDPOINT_ID", endpoint)
    assert Settings.load().runpod.endpoint_url == expected


def test_the_addresses_of_pods_follow_the_management_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """RunPod's own proxy, the emulator's, or a template of the user's."""
    assert Settings.load().runpod.pod_url("p1") == "https://p1-8188.proxy.runpod.net"
    monkeypatch.setenv("HYBRID_VIDEO_RUNPOD_PODS_URL", "http://127.0.0.1:9000")
    assert Settings.load().runpod.management_url == "http://127.0.0.1:9000/v2"
    assert Settings.load().runpod.pod_url("p1") == "http://127.0.0.1:9000/_proxy/p1-8188"
    monkeypatch.setenv("HYBRID_VIDEO_RUNPOD_PROXY_URL", "https://{pod_id}.example:{port}")
    assert Settings.load().runpod.pod_url("p1") == "https://p1.example:8188"


def test_all_state_lives_under_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ledger, history and clips; only the clips can be sent elsewhere."""
    monkeypatch.setenv("HYBRID_VIDEO_HOME", str(tmp_path))
    storage = Settings.load().storage
    assert {storage.ledger_path.parent, storage.history_path.parent, storage.clips_dir.parent} == {tmp_path}
    monkeypatch.setenv("HYBRID_VIDEO_OUT", str(tmp_path / "films"))
    assert Settings.load().storage.clips_dir == tmp_path / "films"


def test_a_dotenv_file_in_the_working_folder_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The environment wins over it, and what belongs to others is ignored."""
    (tmp_path / ".env").write_text("HYBRID_VIDEO_PRICES=seed\nHYBRID_VIDEO_MAX_ATTEMPTS=2\nSOMETHING_ELSE=1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYBRID_VIDEO_MAX_ATTEMPTS", "5")
    routing = Settings.load().routing
    assert (routing.prices, routing.max_attempts) == ("seed", 5)


def test_every_field_has_a_variable_and_a_description() -> None:
    """What the documentation lists is complete, and no two fields share a variable."""
    names = []
    for group in GROUPS:
        for field, info in group.model_fields.items():
            assert info.description, f"{group.__name__}.{field}"
            names.append(variable_name(group, field))
    assert len(names) == len(set(names))
    # The collector's address has the name that the OpenTelemetry specification gives it.
    assert all(name.startswith(("HYBRID_VIDEO_", "OTEL_EXPORTER_")) or name.endswith("_API_KEY") for name in names)
    assert not set(names) - {"HYBRID_VIDEO_HOME"} & set(os.environ)
