"""The alert drill: a real Prometheus scrapes the real API with the shipped configuration, and the rules fire and clear.

Only the waiting times are shortened. What a rule is about is brought about in the ledger as watcher, pool and runs
write it. Rules about half an hour or a full disk are drilled by promtool alone (tests/unit/test_metrics.py).
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Set
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
import yaml

from hybrid_video.ledger import Caps
from hybrid_video.ledger import schema as t
from hybrid_video.models import Health, Tier, utc_now
from hybrid_video.pods.records import PodIntent
from hybrid_video.pods.store import PodStore
from hybrid_video.watcher.health_store import HealthStore
from tests.unit.api_rig import TOKENS, Served, serving
from tests.unit.ledger_rig import make_batch, make_decision, make_order

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

DEPLOY = Path(__file__).parents[2] / "deploy" / "prometheus"


@dataclass
class Prometheus:
    """A running server."""

    url: str

    def firing(self) -> set[str]:
        """Names of the alerts that fire now, with a label that tells two of a kind apart."""
        alerts = httpx.get(f"{self.url}/api/v1/alerts").json()["data"]["alerts"]
        about = ("backend", "kind", "period", "what")
        return {
            ":".join(
                [
                    a["labels"]["alertname"].removeprefix("HybridVideo"),
                    *(a["labels"][k] for k in about if k in a["labels"]),
                ]
            )
            for a in alerts
            if a["state"] == "firing"
        }

    def until(self, *, fires: Set[str] = frozenset(), silent: Set[str] = frozenset()) -> None:
        """Waits for alerts to fire and others to be gone."""
        until_s = time.monotonic() + 40
        seen: set[str] = set()
        while time.monotonic() < until_s:
            seen = self.firing()
            if fires <= seen and not silent & seen:
                return
            time.sleep(0.3)
        raise AssertionError(f"wanted {sorted(fires)} and none of {sorted(silent)}; firing are {sorted(seen)}")


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """The API with tokens, over an empty ledger with a daily limit."""
    monkeypatch.setenv("HYBRID_VIDEO_DAILY_BUDGET_USD", "0.10")
    monkeypatch.setenv("HYBRID_VIDEO_COMFYUI_URLS", "http://127.0.0.1:1")
    with serving(tmp_path / "home", roles=True) as served:
        yield served


@pytest.fixture
def prometheus(api: Served, tmp_path: Path) -> Iterator[Prometheus]:
    """Prometheus with the shipped files, told where the API is and to be quick."""
    program = shutil.which("prometheus")
    if program is None:
        assert not os.environ.get("CI"), "CI must have Prometheus (Debian's package prometheus)"
        pytest.skip("Prometheus is not installed; it is in Debian's package prometheus")
    config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s", "scrape_timeout": "1s"}
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [api.url.removeprefix("http://")]
    rules = yaml.safe_load((DEPLOY / "alerts.yml").read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            rule["for"] = "0s"
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    (tmp_path / "alerts.yml").write_text(yaml.safe_dump(rules))
    (tmp_path / "hybrid-video-token").write_text(TOKENS["read"])
    log = (tmp_path / "prometheus.log").open("wb")
    port = _free_port()
    command = [program, f"--config.file={tmp_path / 'prometheus.yml'}", f"--storage.tsdb.path={tmp_path / 'tsdb'}"]
    process = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        until_s = time.monotonic() + 30
        while not _answers(url):
            assert process.poll() is None, (tmp_path / "prometheus.log").read_text()[-2000:]
            assert time.monotonic() < until_s
            time.sleep(0.1)
        yield Prometheus(url)
    finally:
        process.terminate()
        process.wait(20)
        log.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/-/ready").status_code == 200
    except httpx.HTTPError:
        return False


def write(api: Served, statement: Any) -> None:
    """One change in the ledger."""
    with api.ledger.writing() as connection:
        connection.execute(statement)


def health(api: Served, *, healthy: bool, ago: timedelta = timedelta(0)) -> None:
    """What the watcher last found at the local GPU."""
    look = Health(backend="comfyui", tier=Tier.LOCAL, healthy=healthy, detail="x", checked_at=utc_now() - ago)
    HealthStore(api.ledger).save([look])


def test_rules_fire_in_trouble_and_clear_after_it(api: Served, prometheus: Prometheus) -> None:
    """Health, watcher, pods, orphans, money, unknown outcomes and the API itself, one after the other."""
    prometheus.until(silent={"Down"})
    assert prometheus.firing() <= {"PricesOld:comfyui"}

    health(api, healthy=False)
    prometheus.until(fires={"BackendUnhealthy:comfyui"})
    health(api, healthy=True)
    prometheus.until(silent={"BackendUnhealthy:comfyui"})

    lease = {"name": "watcher", "holder": "h", "document": "{}", "lease_until": utc_now() + timedelta(hours=1)}
    write(api, sa.insert(t.watchers).values(lease))
    health(api, healthy=True, ago=timedelta(minutes=20))
    prometheus.until(fires={"HealthStale:comfyui"})
    health(api, healthy=True)
    prometheus.until(silent={"HealthStale:comfyui"})

    price = Decimal(9)
    intent = PodIntent(
        name="hybrid-video-0-1", gpu="RTX", cloud="SECURE", price_usd_per_h=price, reserve_usd=Decimal("0.095")
    )
    PodStore(api.ledger).intend(intent, caps=Caps(), max_pods=5)
    past = {"state": "ready", "lease_until": utc_now() - timedelta(minutes=1)}
    write(api, sa.update(t.pods).values(past))
    write(api, sa.update(t.watchers).values(lease_until=utc_now() - timedelta(seconds=1)))
    prometheus.until(fires={"NoWatcher", "Orphans:pods", "PodsCostMoreThanPlanned", "BudgetNearlySpent:day"})
    write(api, sa.update(t.pods).values(state="closed", closed_at=utc_now()))
    write(api, sa.update(t.balances).values(reserved_usd=Decimal(0)))
    prometheus.until(
        fires={"BillDiffers"}, silent={"NoWatcher", "Orphans:pods", "PodsCostMoreThanPlanned", "BudgetNearlySpent:day"}
    )
    write(api, sa.update(t.pods).values(reconciled_at=utc_now()))
    prometheus.until(silent={"BillDiffers"})

    api.ledger.register(make_batch(), out_dir=Path("out"))
    order = make_order()
    api.ledger.reserve(order, make_decision(order), Caps(), api.owner)
    api.ledger.act_as(api.owner)
    api.ledger.mark_uncertain(order.attempt_id, "no answer")
    write(api, sa.update(t.attempts).values(created_at=utc_now() - timedelta(hours=2)))
    prometheus.until(fires={"UncertainAttempts"})
    write(api, sa.update(t.attempts).values(state="failed", error_kind="timeout", finished_at=utc_now()))
    prometheus.until(silent={"UncertainAttempts"})


def test_a_dead_api_is_noticed(api: Served, prometheus: Prometheus) -> None:
    """A wrong token is as bad as no API: both are `Down`, and gone when it answers again."""
    prometheus.until(silent={"Down"})
    token = next(Path(api.settings.storage.home).parent.glob("hybrid-video-token"))
    token.write_text("wrong-token-wrong-token")
    prometheus.until(fires={"Down"})
    token.write_text(TOKENS["read"])
    prometheus.until(silent={"Down"})
