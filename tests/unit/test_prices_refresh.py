"""Prices fetched from the emulated RunPod, kept beside the shipped ones."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from hybrid_video.backends.runpod.pods import PodsClient
from hybrid_video.cli import app
from hybrid_video.cli.output import guarded
from hybrid_video.emulators.faults import FaultPlan
from hybrid_video.emulators.runpod import RunPodEmulator
from hybrid_video.emulators.server import ScaledClock, start_server
from hybrid_video.errors import ConfigurationError
from hybrid_video.models import Tier
from hybrid_video.pricing.catalog import PriceBook, PriceEntry
from hybrid_video.pricing.refresh import compare, load_prices, prices_folder, write
from hybrid_video.settings import RunPodSettings, Settings

RTX_4090 = "NVIDIA GeForce RTX 4090"
TODAY = date(2026, 12, 24)
NOW = datetime(2026, 12, 24, 12, tzinfo=UTC)
SHIPPED = PriceBook.load("current")


def dearer(factor: str, gpu: str = RTX_4090) -> PriceBook:
    """The shipped prices with one GPU's changed."""
    return PriceBook(
        "current",
        tuple(
            entry.model_copy(update={"usd": entry.usd * Decimal(factor)}) if entry.gpu == gpu else entry
            for entry in SHIPPED.entries
        ),
    )


@asynccontextmanager
async def runpod(prices: PriceBook) -> AsyncIterator[str]:
    """An emulator whose catalogue has these prices; gives the address of its management API."""
    emulator = RunPodEmulator(clock=ScaledClock(100), faults=FaultPlan(()), prices=prices)
    server = await start_server(emulator.app())
    try:
        yield f"{server.url}/v2"
    finally:
        await server.close()


async def catalogue(url: str) -> Sequence[object]:
    """What the emulator offers."""
    client = PodsClient.from_settings(RunPodSettings(api_key="key", pods_url=url))
    try:
        return await client.catalogue()
    finally:
        await client.close()


def pod_price(book: PriceBook, gpu: str = RTX_4090) -> PriceEntry:
    """The price of a pod with this GPU."""
    return book.find(backend="runpod-pod", tier=Tier.CLOUD, gpu=gpu)


async def test_a_refreshed_price_wins_and_the_old_one_stays(tmp_path: Path) -> None:
    """The newest entry is used; the shipped one is still in the book, so that old quotes can be explained."""
    async with runpod(dearer("1.5")) as url:
        found = compare(await catalogue(url), SHIPPED, TODAY)  # type: ignore[arg-type]
    write(found, tmp_path, NOW)
    book = PriceBook.load("current", tmp_path)
    assert pod_price(book).usd == pytest.approx(pod_price(SHIPPED).usd * Decimal("1.5"), abs=Decimal("0.0000001"))
    assert pod_price(book).checked == TODAY
    assert pod_price(SHIPPED) in book.entries
    assert pod_price(SHIPPED) not in book.in_use()
    assert all(RTX_4090 in line for line in found.changed)
    assert len(found.changed) == 2


async def test_an_unchanged_price_is_confirmed_with_its_new_date(tmp_path: Path) -> None:
    """It was looked at today, so it is not old any more, and nothing is called changed."""
    async with runpod(SHIPPED) as url:
        found = compare(await catalogue(url), SHIPPED, TODAY)  # type: ignore[arg-type]
    write(found, tmp_path, NOW)
    book = PriceBook.load("current", tmp_path)
    assert not found.changed
    assert pod_price(book).checked == TODAY
    assert pod_price(book).usd == pod_price(SHIPPED).usd


async def test_a_price_that_leaps_is_not_believed(tmp_path: Path) -> None:
    """Ten times dearer, or a tenth: more likely another unit than another price."""
    for factor in ("10", "0.1"):
        async with runpod(dearer(factor)) as url:
            found = compare(await catalogue(url), SHIPPED, TODAY)  # type: ignore[arg-type]
        assert len(found.doubtful) == 2
        assert not any(entry.gpu == RTX_4090 for entry in found.entries)
    write(found, tmp_path, NOW)
    assert pod_price(PriceBook.load("current", tmp_path)) == pod_price(SHIPPED)


async def test_each_refresh_has_a_file_of_its_own_and_the_later_one_counts(tmp_path: Path) -> None:
    """Two on one day do not overwrite each other."""
    for minutes, factor in ((0, "1.2"), (5, "1.4")):
        async with runpod(dearer(factor)) as url:
            found = compare(await catalogue(url), SHIPPED, TODAY)  # type: ignore[arg-type]
        write(found, tmp_path, NOW + timedelta(minutes=minutes))
    assert len(list(tmp_path.glob("*.toml"))) == 2
    now = pod_price(PriceBook.load("current", tmp_path)).usd
    assert now == pytest.approx(pod_price(SHIPPED).usd * Decimal("1.4"), abs=Decimal("0.0000001"))


def test_a_name_with_quotes_survives_the_file(tmp_path: Path) -> None:
    """Names come from the vendor and may hold anything."""
    entry = pod_price(SHIPPED).model_copy(update={"gpu": 'odd "GPU"\\ ünï\n', "checked": TODAY})
    from hybrid_video.pricing.refresh import Refresh

    write(Refresh((entry,), (), ()), tmp_path, NOW)
    assert pod_price(PriceBook.load("current", tmp_path), 'odd "GPU"\\ ünï\n') == entry


@pytest.mark.parametrize("text", ["no toml", "[[price]]\nid = 'x'", "[[price]]\nusd = 'free'", "x = 1"])
def test_a_broken_price_file_is_named(tmp_path: Path, text: str) -> None:
    """Nothing is bought with a price book that is half read."""
    (tmp_path / "mine.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"mine\.toml"):
        PriceBook.load("current", tmp_path)


def test_the_age_counts_what_is_in_use(tmp_path: Path) -> None:
    """An old entry that a new one replaced is history, not a reason to warn."""
    entries = (
        pod_price(SHIPPED).model_copy(update={"checked": date(2025, 1, 1)}),
        pod_price(SHIPPED).model_copy(update={"checked": TODAY}),
    )
    assert PriceBook("current", entries).age_days(TODAY) == 0
    assert not list(tmp_path.iterdir())


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """A command in this process."""
    capsys.readouterr()
    code = guarded(app, arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_command_shows_every_price_in_use_with_its_age(capsys: pytest.CaptureFixture[str]) -> None:
    """And warns about old ones with what to do."""
    code, out, err = run(capsys, "prices", "--json")
    answer = json.loads(out)
    assert code == 0
    assert len(answer["prices"]) == len(SHIPPED.in_use())
    assert answer["oldest_days"] == max(row["age_days"] for row in answer["prices"])
    assert "RUNPOD_API_KEY" in answer["warning"]
    assert answer["refreshed"] is None
    assert RTX_4090 in err.replace("\n", " ")


def test_refreshing_without_a_key_says_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2 and no file."""
    code, _, err = run(capsys, "prices", "--refresh")
    assert code == 2
    assert "RUNPOD_API_KEY" in err
    assert not prices_folder(Settings.load()).exists()


async def test_the_command_refreshes(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the emulator, into the folder of this installation, where every later command finds them."""
    async with runpod(dearer("1.5")) as url:
        monkeypatch.setenv("HYBRID_VIDEO_RUNPOD_PODS_URL", url)
        monkeypatch.setenv("RUNPOD_API_KEY", "key")
        code, out, _ = await asyncio.to_thread(run, capsys, "prices", "--refresh", "--json")
    answer = json.loads(out)
    assert code == 0
    assert Path(answer["refreshed"]["file"]).exists()
    assert len(answer["refreshed"]["changed"]) == 2
    book = load_prices("current", Settings.load())
    assert pod_price(book).usd > pod_price(SHIPPED).usd
