"""What the dashboard's tests are written with: pages in AppTest, their figures as text, and a ledger to fill."""

from __future__ import annotations

import html
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from streamlit.testing.v1 import AppTest

from hybrid_video.engine.session import open_ledger
from hybrid_video.ledger import Ledger, Owner
from hybrid_video.models import AttemptState
from hybrid_video.settings import Settings
from tests.unit.deciding_rig import job as shot
from tests.unit.ledger_rig import advance, fail, finish, make_batch, make_order, reserve

ROOT = Path(__file__).resolve().parents[2]
DASHBOARD = ROOT / "dashboard"
PAGES = ("overview", "batches", "jobs", "calculator", "analytics", "backends", "install")
TIMEOUT_S = 60.0
CARD = re.compile(r"<span>([^<]*?)(?: <abbr[^>]*>[^<]*</abbr>)?</span><b>([^<]*)</b>")


def find_chromium() -> str | None:
    """The browser of this machine."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@dataclass
class World:
    """A ledger that tests fill the way a run would."""

    ledger: Ledger
    owner: Owner

    @classmethod
    def open(cls) -> World:
        """The ledger that the settings name."""
        settings = Settings.load()
        settings.storage.home.mkdir(parents=True, exist_ok=True)
        return cls(open_ledger(settings), Owner(settings.storage.home))

    def close(self) -> None:
        """Lets go of it."""
        self.owner.close()
        self.ledger.close()

    def batch(self, name: str = "night", jobs: int = 3, **values: object) -> None:
        """Registers a batch."""
        batch = make_batch(name, jobs, **values)
        out = Settings.load().storage.clips_dir
        self.ledger.register(batch, out_dir=out)

    def clip(self, job: str, usd: str, *, batch: str = "night", backend: str = "runpod-serverless") -> None:
        """One finished clip at a price."""
        order = make_order(batch, shot(job), usd=usd, backend=backend)
        self.ledger.claim(batch, job, self.owner)
        reserve(self.ledger, order, self.owner)
        advance(self.ledger, order, AttemptState.COLLECTED)
        finish(self.ledger, order, usd)

    def failure(self, job: str, usd: str, *, batch: str = "night", backend: str = "comfyui", number: int = 1) -> None:
        """One failed attempt at a price."""
        order = make_order(batch, shot(job), usd=usd, backend=backend, number=number)
        self.ledger.claim(batch, job, self.owner)
        reserve(self.ledger, order, self.owner)
        advance(self.ledger, order, AttemptState.RUNNING)
        fail(self.ledger, order, usd)

    def under_way(self, job: str, usd: str, *, batch: str = "night") -> None:
        """One attempt that holds its reservation."""
        order = make_order(batch, shot(job), usd=usd)
        self.ledger.claim(batch, job, self.owner)
        reserve(self.ledger, order, self.owner)
        advance(self.ledger, order, AttemptState.RUNNING)


def opened(page: str = "overview", *, timeout_s: float = TIMEOUT_S, **query: str) -> AppTest:
    """A page of the real app, run once."""
    app = AppTest.from_file(str(DASHBOARD / "app.py"), default_timeout=timeout_s)
    app.query_params.update(query)
    app.run()
    if page != "overview":
        app.query_params.update(query)  # a change of pages drops those of the page before
        app.switch_page(f"app_pages/{page}.py").run()
    return app


def text_of(app: AppTest) -> str:
    """Everything a page says, markup taken out, each piece on its line."""
    parts: dict[str, None] = {}
    for block in app:
        proto = getattr(block, "proto", None)
        body = getattr(proto, "body", None) or getattr(proto, "text", None)
        for found in (getattr(block, "value", None), getattr(block, "label", None), body):
            if isinstance(found, str) and found:
                parts[html.unescape(re.sub(r"<style>.*?</style>|<[^>]+>", " ", found, flags=re.DOTALL))] = None
    return "\n".join(" ".join(part.replace("\\", "").split()) for part in parts)


def figures(app: AppTest) -> dict[str, str]:
    """Every card of a page: its label and its value."""
    found: dict[str, str] = {}
    for element in app.get("html"):
        for label, value in CARD.findall(element.proto.body):
            found[html.unescape(label)] = html.unescape(value)
    return found
