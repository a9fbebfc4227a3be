"""`make audit`: what it says where the advisories cannot be read, and that risky code ends it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def audit() -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("audit_script", ROOT / "deploy" / "audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_without_a_way_to_the_advisories_it_fails_loudly_and_says_what_to_do(
    audit: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Offline, "nothing found" would be a lie: it says that nothing was compared, and ends with 2."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(audit, "RISKY", ["bandit", "-q", "-ll", "deploy/audit.py"])
    assert audit.main() == 2
    said = capsys.readouterr().err
    assert "nothing was compared" in said
    assert "pypi.org" in said


@pytest.mark.parametrize(
    ("answer", "unread"),
    [
        ('{"dependencies": [{"name": "urllib3", "vulns": [{"id": "CVE-2019-11324"}]}]}', False),
        ('{"dependencies": [{"name": "urllib3", "vulns": []}]}', True),
        ("<html>a proxy's page</html>", True),
        ("", True),
    ],
)
def test_a_source_that_knows_no_old_hole_is_not_believed(
    audit: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answer: str, unread: bool
) -> None:
    """A mirror of the index answers everything, and has no advisories."""
    monkeypatch.setattr(audit, "audited", lambda *_: (1, answer, ""))
    assert bool(audit.advisories_unread(tmp_path)) is unread


def test_there_is_no_risky_code_of_medium_or_high_severity() -> None:
    """bandit over everything that is shipped; each exception has its reason beside it."""
    folders = ["src", "tasks", "flows", "dashboard", "installers", "deploy", "docker"]
    done = subprocess.run(
        [sys.executable, "-m", "bandit", "-q", "-ll", "-r", *folders],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
