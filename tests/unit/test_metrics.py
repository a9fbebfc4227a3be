"""The metrics: computed from the ledger, complete on a live scrape, and what panels and alert rules are made of."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest
import sqlalchemy as sa
import yaml
from prometheus_client.parser import text_string_to_metric_families

from hybrid_video.demand import BatchDemand
from hybrid_video.errors import FailureKind, TransientError
from hybrid_video.ledger import Caps, Ledger, Owner
from hybrid_video.ledger import schema as t
from hybrid_video.metrics import CONTENT_TYPE, exposition, families
from hybrid_video.metrics.totals import BUCKETS_S, Total, attempt_totals
from hybrid_video.models import Health, Tier, utc_now
from hybrid_video.pods.records import PodIntent
from hybrid_video.pods.store import PodStore
from hybrid_video.settings import Settings, StorageSettings
from hybrid_video.views.reading import reading
from hybrid_video.watcher.demand_store import DemandStore
from hybrid_video.watcher.health_store import HealthStore
from tests.unit.api_rig import serving
from tests.unit.engine_rig import ScriptedBackend, ran, small
from tests.unit.ledger_rig import make_batch, make_decision, make_order

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "alerts.yml"
DASHBOARDS = sorted((DEPLOY / "grafana").glob("*.json"))
NAME = re.compile(r"\bhybrid_video_[a-z0-9_]+")


@dataclass
class Scrape:
    """One answer of /metrics, taken apart."""

    text: str

    def __post_init__(self) -> None:
        families = list(text_string_to_metric_families(self.text))
        self.samples = [sample for family in families for sample in family.samples]

    def value(self, name: str, **labels: str) -> float:
        """The sum of all samples with these labels."""
        found = [
            s.value for s in self.samples if s.name == f"hybrid_video_{name}" and labels.items() <= s.labels.items()
        ]
        assert found, f"no sample of {name} with {labels}"
        return sum(found)


def promtool(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    """Runs promtool; where it is missing the test is skipped, but never in CI."""
    program = shutil.which("promtool")
    if program is None:
        assert not os.environ.get("CI"), "CI must have promtool (Debian's package prometheus)"
        pytest.skip("promtool is not installed; it is in Debian's package prometheus")
    return subprocess.run([program, *arguments], input=text, capture_output=True, text=True, check=False, timeout=60)


def furnish(ledger: Ledger, owner: Owner) -> None:
    """What watcher, pool and runs would have written: health, demand, a pod past its lease, an unknown outcome."""
    HealthStore(ledger).save(
        [Health(backend="comfyui", tier=Tier.LOCAL, healthy=False, detail="x", checked_at=utc_now(), latency_s=0.2)]
    )
    DemandStore(ledger, owner).publish(BatchDemand(batch="film", owner=owner.id, waiting_jobs=7))
    intent = PodIntent(
        name="hybrid-video-0-1",
        gpu="RTX",
        cloud="SECURE",
        price_usd_per_h=Decimal("0.34"),
        storage_usd_per_h=Decimal("0.01"),
        reserve_usd=Decimal("0.10"),
    )
    pod = PodStore(ledger).intend(intent, caps=Caps(), max_pods=5)
    with ledger.writing() as connection:
        late = {"lease_until": utc_now() - timedelta(minutes=5), "state": "ready"}
        connection.execute(sa.update(t.pods).where(t.pods.c.name == pod.name).values(late))
        values = {"name": "watcher", "holder": "h", "lease_until": utc_now() + timedelta(seconds=50), "document": "{}"}
        connection.execute(sa.insert(t.watchers).values(values))


def lose_one(ledger: Ledger, owner: Owner, out_dir: Path) -> None:
    """An attempt of which nobody knows whether it was made."""
    ledger.register(make_batch(), out_dir=out_dir)
    order = make_order()
    ledger.reserve(order, make_decision(order), Caps(), owner)
    ledger.act_as(owner)
    ledger.mark_uncertain(order.attempt_id, "no answer")


@pytest.fixture
async def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Path]:
    """A home after a batch of four: three clips, one of them at the second try, and a job that failed for good."""
    monkeypatch.setenv("HYBRID_VIDEO_DAILY_BUDGET_USD", "10")
    monkeypatch.setenv("HYBRID_VIDEO_COMFYUI_URLS", "http://127.0.0.1:1")
    broken = TransientError("gone", kind=FailureKind.UNREACHABLE, backend="comfyui", execution_s=0.0)
    backends = [ScriptedBackend("comfyui", fail_watch=[broken]), ScriptedBackend("runpod-serverless", usd="0.02")]
    jobs = tuple(small(f"s{n}") for n in range(3))
    async with ran(backends, tmp_path, jobs) as outcome:
        assert outcome.report.completed == 3
        owner = Owner(tmp_path / "other")
        try:
            furnish(outcome.ledger, owner)
            lose_one(outcome.ledger, owner, tmp_path / "out")
        finally:
            owner.close()
        yield tmp_path


def test_a_live_scrape_has_a_sample_of_every_metric_that_a_panel_or_a_rule_names(home: Path) -> None:
    """Asked of the real API: each name in every dashboard and in the rules is there with a number."""
    with serving(home) as api:
        answer = api.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == CONTENT_TYPE
    there = {sample.name for sample in Scrape(answer.text).samples}
    for file in [*DASHBOARDS, RULES]:
        named = set(NAME.findall(file.read_text()))
        assert len(named) > 10, file
        # Batches that failed nowhere have no pod overhead and the like; a family without a sample would be a typo.
        assert sorted(named - there) == [], file
    assert len(DASHBOARDS) == 1


def test_no_metric_is_left_out_of_dashboards_and_rules(home: Path) -> None:
    """What is worth computing is worth showing."""
    settings = Settings(storage=StorageSettings(home=home))
    ledger = Ledger.open(settings.storage.ledger_path)
    try:
        found = {sample.name for sample in Scrape(exposition(ledger, settings).decode()).samples}
    finally:
        ledger.close()
    shown = {name for file in [*DASHBOARDS, RULES] for name in NAME.findall(file.read_text())}
    ours = {name for name in found if not name.endswith(("_created", "_bucket", "_sum", "_count"))}
    assert not ours - shown - {"hybrid_video_simulated", "hybrid_video_backend_configured"}


def test_the_numbers_are_those_of_the_ledger(home: Path) -> None:
    """Jobs, attempts, money, pods and orphans; nothing is counted beside the ledger."""
    settings = Settings(storage=StorageSettings(home=home))
    ledger = Ledger.open(settings.storage.ledger_path)
    try:
        attempts, spent = ledger.attempts(), ledger.balance("all")
        scrape = Scrape(exposition(ledger, settings).decode())
    finally:
        ledger.close()
    assert scrape.value("jobs", state="done") == 3
    assert scrape.value("attempts_total", outcome="settled") == 3
    assert scrape.value("attempts_total", outcome="failed", error_kind="unreachable") == 1
    assert scrape.value("retries_total") == sum(attempt.number > 1 for attempt in attempts) == 1
    assert scrape.value("cost_usd_total") == pytest.approx(float(spent.settled_usd))
    assert scrape.value("spend_usd", period="all") == pytest.approx(float(spent.settled_usd))
    assert scrape.value("reserved_usd") == pytest.approx(float(spent.reserved_usd)) == pytest.approx(0.12)
    assert scrape.value("budget_usd", period="day") == 10
    assert scrape.value("clip_duration_seconds_count") == 3
    assert scrape.value("clip_duration_seconds_bucket", le="+Inf") == 3
    assert scrape.value("execution_seconds_bucket", le="1.0") == 3
    assert 0 < scrape.value("execution_seconds_sum") < 1
    assert scrape.value("pods", state="ready") == scrape.value("pods_open") == 1
    assert scrape.value("pods_usd_per_hour") == pytest.approx(0.35)
    assert scrape.value("orphans", kind="pods") == 1
    assert scrape.value("orphans", kind="jobs") == 0
    assert scrape.value("queue_jobs") == 7
    assert scrape.value("backend_healthy", backend="comfyui") == 0
    assert scrape.value("watcher_up") == 1
    assert scrape.value("batches", state="finished") == 1


def test_an_unknown_outcome_is_counted_until_it_is_known(tmp_path: Path) -> None:
    """With its age, and among what is under way; not among what has ended."""
    settings = Settings(storage=StorageSettings(home=tmp_path))
    ledger, owner = Ledger.open(settings.storage.ledger_path), Owner(tmp_path)
    try:
        lose_one(ledger, owner, tmp_path)
        scrape = Scrape(exposition(ledger, settings).decode())
    finally:
        owner.close()
        ledger.close()
    assert scrape.value("uncertain_attempts") == 1
    assert scrape.value("uncertain_oldest_seconds") >= 0
    assert scrape.value("attempts_under_way", state="uncertain") == 1
    assert not [sample for sample in scrape.samples if sample.name == "hybrid_video_attempts_total"]


async def test_what_a_process_remembers_is_what_a_fresh_one_reads(
    ledger_url: str | Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attempts end at all ages, before and between scrapes: kept and new sums together are those of the whole table,
    on SQLite and on PostgreSQL."""
    ledger = Ledger.open(ledger_url)
    now = utc_now()

    def ended(name: str, ago: timedelta, **values: object) -> dict[str, object]:
        moment = now - ago
        row = {
            "attempt_id": name,
            "batch": "night",
            "job": "shot-0",
            "number": int(name),
            "backend": "gemini",
            "tier": "gemini",
            "model": "m",
            "lane": "l",
            "state": "settled",
            "spec_sha": "",
            "quote": "{}",
            "quoted_usd": Decimal("0.5"),
            "reserved_usd": Decimal(0),
            "cost_usd": Decimal("0.4"),
            "day": "2026-11-22",
            "created_at": moment - timedelta(seconds=45),
            "finished_at": moment,
            "execution_s": 40.0,
        }
        return row | values

    def add(*rows: dict[str, object]) -> None:
        with ledger.writing() as connection:
            for row in rows:
                connection.execute(sa.insert(t.attempts).values(row))

    def totals(at: timedelta) -> list[Total]:
        with reading(ledger) as connection:
            return sorted(attempt_totals(connection, now + at), key=lambda total: (total.state, total.backend))

    try:
        ledger.register(make_batch(), out_dir=Path("out"))
        add(ended("1", timedelta(days=30)), ended("2", timedelta(seconds=10)))
        add(ended("3", timedelta(hours=2), state="failed", error_kind="timeout", cost_usd=Decimal(0)))
        add(ended("4", timedelta(0), state="running", finished_at=None, cost_usd=None, execution_s=None))
        first = totals(timedelta(0))
        add(ended("5", timedelta(minutes=-3)))
        later = totals(timedelta(minutes=4))
        much_later = totals(timedelta(hours=1))
        monkeypatch.setattr("hybrid_video.metrics.totals._kept", {})
        fresh = totals(timedelta(hours=1))
    finally:
        ledger.close()
    failed, running, settled = first
    assert (failed.attempts, failed.error_kind, running.attempts, settled.attempts) == (1, "timeout", 1, 2)
    assert (settled.cost_usd, settled.quoted_usd, settled.again) == (Decimal("0.8"), Decimal(1), 1)
    assert settled.whole.count == 2
    assert settled.whole.sum_s == pytest.approx(90, abs=0.01)
    assert dict(zip(BUCKETS_S, settled.whole.up_to, strict=True))[30.0] == 0
    assert dict(zip(BUCKETS_S, settled.whole.up_to, strict=True))[60.0] == 2
    assert (settled.worked.count, settled.worked.sum_s) == (2, 80.0)
    assert running.whole.count == running.worked.count == 0
    assert later[2].attempts == much_later[2].attempts == 3
    for kept, read in zip(much_later, fresh, strict=True):
        assert kept.whole.sum_s == pytest.approx(read.whole.sum_s)
        assert (kept.attempts, kept.cost_usd, kept.worked) == (read.attempts, read.cost_usd, read.worked)
        assert (kept.whole.count, kept.whole.up_to) == (read.whole.count, read.whole.up_to)


def test_a_whole_scrape_works_on_every_database(ledger_url: str | Path, tmp_path: Path) -> None:
    """Every query of every family, on an empty ledger there."""
    ledger = Ledger.open(ledger_url)
    try:
        scrape = Scrape(exposition(ledger, Settings(storage=StorageSettings(home=tmp_path))).decode())
    finally:
        ledger.close()
    assert scrape.value("jobs") == 0
    assert scrape.value("spend_usd", period="all") == 0


def test_no_label_grows_with_the_work(home: Path) -> None:
    """Neither batches nor jobs nor pods nor messages are labels: a year's scrape is as long as a day's."""
    settings = Settings(storage=StorageSettings(home=home))
    ledger = Ledger.open(settings.storage.ledger_path)
    try:
        scrape = Scrape(exposition(ledger, settings).decode())
    finally:
        ledger.close()
    allowed = {"state", "backend", "tier", "outcome", "error_kind", "period", "kind", "what", "folder", "le", "version"}
    assert {label for sample in scrape.samples for label in sample.labels} <= allowed


def test_the_names_follow_prometheus_rules(home: Path) -> None:
    """promtool's own linter finds nothing in a live scrape."""
    with serving(home) as api:
        text = api.get("/metrics").text
    done = promtool("check", "metrics", text=text)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr


def test_rules_and_scrape_configuration_pass_promtool() -> None:
    """Syntax of both files, and the port is the API's own."""
    assert promtool("check", "rules", str(RULES)).returncode == 0
    config = DEPLOY / "prometheus" / "prometheus.yml"
    assert promtool("check", "config", "--syntax-only", str(config)).returncode == 0
    parsed = yaml.safe_load(config.read_text())
    (target,) = parsed["scrape_configs"][0]["static_configs"][0]["targets"]
    assert int(target.rpartition(":")[2]) == Settings().api.port
    assert parsed["rule_files"] == [RULES.name]


DRILLS: dict[str, tuple[dict[str, str], dict[str, str], str]] = {
    "HybridVideoBudgetNearlySpent": (
        {'spend_usd{period="day"}': "9", "reserved_usd": "0.5", 'budget_usd{period="day"}': "10"},
        {'spend_usd{period="day"}': "5"},
        'period="day"',
    ),
    "HybridVideoPodsCostMoreThanPlanned": (
        {"pods_usd_per_hour": "8", "pods_usd_per_hour_max": "7.5"},
        {"pods_usd_per_hour": "1"},
        "",
    ),
    "HybridVideoUncertainAttempts": ({"uncertain_oldest_seconds": "4000"}, {"uncertain_oldest_seconds": "0"}, ""),
    "HybridVideoPredictionsOff": (
        {'prediction_error_ratio{what="cost"}': "0.4"},
        {'prediction_error_ratio{what="cost"}': "0.01"},
        'what="cost"',
    ),
    "HybridVideoPricesOld": (
        {'price_age_seconds{backend="veo"}': "10000000"},
        {'price_age_seconds{backend="veo"}': "86400"},
        'backend="veo"',
    ),
    "HybridVideoBackendUnhealthy": (
        {'backend_healthy{backend="comfyui"}': "0"},
        {'backend_healthy{backend="comfyui"}': "1"},
        'backend="comfyui"',
    ),
    "HybridVideoBreakerOpen": (
        {'breaker_state{backend="gemini"}': "2"},
        {'breaker_state{backend="gemini"}': "0"},
        'backend="gemini"',
    ),
    "HybridVideoManyFailures": (
        {
            'attempts_total{backend="veo",outcome="failed"}': "+1",
            'attempts_total{backend="veo",outcome="settled"}': "+1",
        },
        {'attempts_total{backend="veo",outcome="failed"}': "+0"},
        'backend="veo"',
    ),
    "HybridVideoQueueStuck": ({"queue_jobs": "4", 'attempts_total{backend="veo"}': "+0"}, {"queue_jobs": "0"}, ""),
    "HybridVideoDown": ({"up": "0"}, {"up": "1"}, ""),
    "HybridVideoOrphans": ({'orphans{kind="pods"}': "1"}, {'orphans{kind="pods"}': "0"}, 'kind="pods"'),
    "HybridVideoNoWatcher": ({"watcher_up": "0", "pods_open": "2"}, {"watcher_up": "1"}, ""),
    "HybridVideoHealthStale": (
        {'backend_health_age_seconds{backend="veo"}': "900", "health_watched": "1"},
        {'backend_health_age_seconds{backend="veo"}': "20"},
        'backend="veo"',
    ),
    "HybridVideoDiskNearlyFull": (
        {'disk_free_bytes{folder="clips"}': "1e9"},
        {'disk_free_bytes{folder="clips"}': "9e9"},
        'folder="clips"',
    ),
    "HybridVideoBillDiffers": (
        {"pods_unreconciled_oldest_seconds": "30000"},
        {"pods_unreconciled_oldest_seconds": "0"},
        "",
    ),
}
"""For each rule: series that make it fire, what changes so that it clears, and the labels it carries."""

MINUTES = 120
"""Twice as long as any rule looks back and waits."""


def series(metric: str, value: str, after: str) -> dict[str, str]:
    """Hours of one value and as many of another; "+1" counts up by one a minute."""
    name, _, labels = metric.rstrip("}").partition("{")
    full = name if name == "up" else f"hybrid_video_{name}"
    inside = ",".join(filter(None, ('instance="a",job="hybrid-video"', labels)))
    if value.startswith("+"):
        values = f"0{value}x{MINUTES} {int(value) * MINUTES}{after}x{MINUTES}"
    else:
        values = f"{value}x{MINUTES} {after}x{MINUTES}"
    return {"series": f"{full}{{{inside}}}", "values": values}


def drill(name: str) -> dict[str, object]:
    """A promtool test: hours of trouble, then as long without; silent before, firing with its labels, gone after it."""
    trouble, cure, labels = DRILLS[name]
    rules = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    severity = next(rule["labels"]["severity"] for rule in rules if rule["alert"] == name)
    firing = ",".join(filter(None, (f'alertname="{name}",alertstate="firing",severity="{severity}"', labels)))
    expression = f"count(ALERTS{{{firing}}}) or vector(0)"
    moments = {"0m": 0, f"{MINUTES - 5}m": 1, f"{2 * MINUTES - 5}m": 0}
    return {
        "interval": "1m",
        "input_series": [series(metric, value, cure.get(metric, value)) for metric, value in trouble.items()],
        "promql_expr_test": [
            {"expr": expression, "eval_time": moment, "exp_samples": [{"labels": "{}", "value": number}]}
            for moment, number in moments.items()
        ],
    }


@pytest.mark.slow
def test_every_rule_fires_and_clears(tmp_path: Path) -> None:
    """Run by promtool itself on made-up hours; a drill that must fail shows that it judges."""
    document = {"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [drill(name) for name in DRILLS]}
    file = tmp_path / "drills.json"
    file.write_text(json.dumps(document))
    done = promtool("test", "rules", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    wrong = drill("HybridVideoDown")
    wrong["input_series"] = [series("up", "1", "1")]
    file.write_text(json.dumps(document | {"tests": [wrong]}))
    assert promtool("test", "rules", str(file)).returncode != 0


SEQUENCES = {
    # open for half a minute, then half open because no job has been sent since
    "HybridVideoBreakerOpen": ({'breaker_state{backend="veo"}': "0 0 2 1x12"}, {3: 0, 12: 1}),
    # an idle night, then a batch whose first clip takes forty minutes
    "HybridVideoQueueStuck": ({"queue_jobs": "0x60 3x60", 'attempts_total{backend="veo"}': "9x120"}, {85: 0, 100: 1}),
    # pods that close and are compared all day long, none of them late
    "HybridVideoBillDiffers": ({"pods_unreconciled": "2x900", "pods_unreconciled_oldest_seconds": "900x900"}, {899: 0}),
    # one failure in a quiet hour is no reason to wake anybody
    "HybridVideoManyFailures": ({'attempts_total{backend="veo",outcome="failed"}': "0x5 1x60"}, {10: 0, 40: 0}),
}
"""Values minute by minute as they happen, and whether the alert fires after so many minutes."""


def test_rules_keep_quiet_and_speak_up_in_what_really_happens(tmp_path: Path) -> None:
    """A rule that waits for a state longer than it lasts never fires; one that does not wait wakes for nothing."""
    tests = []
    for name, (values, moments) in SEQUENCES.items():
        rows = [{**series(metric, "0", "0"), "values": given} for metric, given in values.items()]
        expression = f'count(ALERTS{{alertname="{name}",alertstate="firing"}}) or vector(0)'
        checks = [
            {"expr": expression, "eval_time": f"{minute}m", "exp_samples": [{"labels": "{}", "value": fires}]}
            for minute, fires in moments.items()
        ]
        tests.append({"interval": "1m", "name": name, "input_series": rows, "promql_expr_test": checks})
    file = tmp_path / "sequences.json"
    file.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
    done = promtool("test", "rules", str(file))
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_rule_has_a_drill_and_says_what_to_do() -> None:
    """Names, a severity, a summary with a subject, and an action."""
    rules = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    assert {rule["alert"] for rule in rules} == set(DRILLS)
    for rule in rules:
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert set(rule["annotations"]) == {"summary", "action"}


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)
def test_the_dashboard_is_whole(file: Path) -> None:
    """Panels have titles, ids of their own, places that do not overlap, a data source variable and expressions."""
    board = json.loads(file.read_text())
    assert [(variable["type"], variable["name"]) for variable in board["templating"]["list"]] == [
        ("datasource", "datasource"),
        ("query", "job"),
    ]
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        assert panel["title"]
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
        if panel["type"] != "row":
            assert panel["targets"]
            assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])


UNITS = {"short", "s", "bytes", "currencyUSD", "percentunit"}
KINDS = {"row", "stat", "timeseries", "state-timeline", "table"}


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)
def test_the_dashboard_can_be_read(file: Path) -> None:
    """Units that Grafana knows, thresholds in order, names instead of numbers for states, legends with labels, and only
    the chosen installation's series."""
    board = json.loads(file.read_text())
    for panel in (panel for panel in board["panels"] if panel["type"] != "row"):
        what, defaults = panel["title"], panel["fieldConfig"]["defaults"]
        assert panel["type"] in KINDS, what
        assert defaults.get("unit", "short") in UNITS, what
        assert panel["options"], what
        steps = [step["value"] for step in defaults.get("thresholds", {"steps": [{"value": None}]})["steps"]]
        assert steps[0] is None, what
        assert steps[1:] == sorted(steps[1:]), what
        if panel["type"] == "state-timeline":
            (mapping,) = defaults["mappings"]
            assert len(mapping["options"]) == len(steps), what
        for target in panel["targets"]:
            names = len(NAME.findall(target["expr"]))
            assert target["expr"].count('job="$job"') == names, what
            by = re.search(r"by \(([^)]*)\)", target["expr"])
            labels = {label.strip() for label in by.group(1).split(",")} - {"le"} if by else set()
            if panel["type"] in ("timeseries", "state-timeline"):
                assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) == labels, what
                assert target["legendFormat"] or len(panel["targets"]) == 1, what


def test_lines_in_panels_are_the_limits_of_the_rules() -> None:
    """Who sees a line crossed expects the alert, and nobody expects it elsewhere."""
    lines: dict[str, float] = {}
    for panel in json.loads(DASHBOARDS[0].read_text())["panels"]:
        if panel.get("fieldConfig", {}).get("defaults", {}).get("custom", {}).get("thresholdsStyle"):
            (name,) = NAME.findall(panel["targets"][0]["expr"])
            lines[name] = panel["fieldConfig"]["defaults"]["thresholds"]["steps"][1]["value"]
    assert len(lines) == 5
    rules = [rule["expr"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    limits = {
        match.group(1): float(match.group(3)) * (86400 if match.group(4) else 1)
        for rule in rules
        if (match := re.search(r"(hybrid_video_\w+) ([<>]) ([\d.e]+)( \* 86400)?(?!\S)", rule))
    }
    assert {name: limits[name] for name in lines} == lines


def test_counters_of_a_configured_backend_begin_at_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prometheus counts no increase for a series that begins at six failures; and a free GPU has no price to check."""
    monkeypatch.setenv("HYBRID_VIDEO_COMFYUI_URLS", "http://127.0.0.1:1")
    ledger = Ledger.open(tmp_path / "ledger.sqlite3")
    try:
        scrape = Scrape(exposition(ledger, Settings(storage=StorageSettings(home=tmp_path))).decode())
    finally:
        ledger.close()
    for kind in FailureKind:
        outcome = "cancelled" if kind is FailureKind.CANCELLED else "failed"
        assert scrape.value("attempts_total", backend="comfyui", tier="local", outcome=outcome, error_kind=kind) == 0
    for name in (
        "attempts_total",
        "cost_usd_total",
        "quoted_usd_total",
        "retries_total",
        "clip_duration_seconds_count",
    ):
        assert scrape.value(name, backend="comfyui") == 0
    assert not [s for s in scrape.samples if s.labels.get("backend") == "gemini" and s.name.endswith("_total")]
    assert scrape.value("price_age_seconds", backend="comfyui") == 0


def test_a_pod_that_never_became_ready_is_an_orphan_in_the_end(tmp_path: Path) -> None:
    """It has no lease that could run out: nobody has looked at it since it was opened."""
    settings = Settings(storage=StorageSettings(home=tmp_path))
    ledger = Ledger.open(settings.storage.ledger_path)
    intent = PodIntent(name="p", gpu="RTX", cloud="SECURE", price_usd_per_h=Decimal(1), reserve_usd=Decimal("0.1"))
    try:
        PodStore(ledger).intend(intent, caps=Caps(), max_pods=5)
        found = []
        for minutes in (10, 40):
            families_then = families(ledger, settings, now=utc_now() + timedelta(minutes=minutes))
            (family,) = [family for family in families_then if family.name == "hybrid_video_orphans"]
            found.append({sample.labels["kind"]: sample.value for sample in family.samples}["pods"])
    finally:
        ledger.close()
    assert found == [0, 1]


@pytest.mark.parametrize(("where", "looks"), [("run", 0), ("watch", 1), ("flow", 1)])
def test_a_watcher_inside_a_run_does_not_look_at_backends(tmp_path: Path, where: str, looks: int) -> None:
    """Old findings are then nobody's fault, and no alert."""
    ledger = Ledger.open(tmp_path / "ledger.sqlite3")
    lease = {"name": "watcher", "holder": "h", "document": json.dumps({"where": where})}
    try:
        with ledger.writing() as connection:
            connection.execute(sa.insert(t.watchers).values(lease | {"lease_until": utc_now() + timedelta(minutes=1)}))
        scrape = Scrape(exposition(ledger, Settings(storage=StorageSettings(home=tmp_path))).decode())
    finally:
        ledger.close()
    assert (scrape.value("watcher_up"), scrape.value("health_watched")) == (1, looks)


def test_every_expression_of_the_dashboard_is_promql(tmp_path: Path) -> None:
    """Each is made a recording rule and checked by promtool."""
    expressions = [
        target["expr"]
        for file in DASHBOARDS
        for panel in json.loads(file.read_text())["panels"]
        for target in panel.get("targets", ())
    ]
    assert len(expressions) > 30
    rules = [{"record": f"check:{number}", "expr": expression} for number, expression in enumerate(expressions)]
    file = tmp_path / "panels.yml"
    file.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    done = promtool("check", "rules", str(file))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_page_lists_every_metric_with_its_type_and_words(tmp_path: Path) -> None:
    """docs/how-to/monitor.md, line by line."""
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "monitor.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(hybrid_video_\w+)` \| (\w+) \| (.*?) \| (.*) \|$", page, re.MULTILINE)
    settings = Settings(storage=StorageSettings(home=tmp_path))
    ledger = Ledger.open(settings.storage.ledger_path)
    try:
        there = [
            (f"{family.name}_total" if family.type == "counter" else family.name, family.type, family.documentation)
            for family in families(ledger, settings)
        ]
    finally:
        ledger.close()
    assert [(name, kind, words) for name, kind, _, words in rows] == there
