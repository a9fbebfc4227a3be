"""Certificates are read once, whoever makes a client."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from hybrid_video.trust import certificates

ROOT = Path(__file__).resolve().parents[2] / "src" / "hybrid_video"
MODULES = sorted(path for part in ("backends", "inputs") for path in (ROOT / part).rglob("*.py"))


def test_the_certificates_are_read_once() -> None:
    """Reading them takes some 15 ms of the event loop."""
    assert certificates() is certificates()
    assert certificates().get_ca_certs() or certificates().cert_store_stats()


def clients(module: Path) -> list[ast.Call]:
    """Where a module makes an asynchronous httpx client."""
    calls = [node for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    return [call for call in calls if ast.unparse(call.func) == "httpx.AsyncClient"]


@pytest.mark.parametrize("module", [module for module in MODULES if clients(module)], ids=lambda path: path.stem)
def test_every_client_of_a_vendor_is_given_the_certificates(module: Path) -> None:
    """Without `verify` httpx reads them for each client, in the event loop, while other jobs wait."""
    for call in clients(module):
        given = [ast.unparse(keyword.value) for keyword in call.keywords if keyword.arg == "verify"]
        assert given, f"{module.name}:{call.lineno} makes a client without verify=certificates()"
        assert "certificates(" in given[0]
