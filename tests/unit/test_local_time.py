"""The studio's clock: days of 23 and 25 hours, times that a clock skips or shows twice, and the machine's own zone."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_video import local_time
from hybrid_video.errors import ConfigurationError, InputError
from hybrid_video.local_time import day_bounds, local_day, machine_zone, next_at, parse_day, studio_zone
from hybrid_video.settings import ScheduleSettings, Settings

BERLIN, BANGKOK, KATHMANDU = ZoneInfo("Europe/Berlin"), ZoneInfo("Asia/Bangkok"), ZoneInfo("Asia/Kathmandu")
ZONES = ("Europe/Berlin", "America/New_York", "Asia/Bangkok", "Asia/Kathmandu", "Australia/Lord_Howe", "UTC")


@pytest.mark.parametrize(
    ("day", "hours"), [(date(2026, 3, 29), 23), (date(2026, 10, 25), 25), (date(2026, 11, 22), 24)]
)
def test_a_day_has_as_many_hours_as_the_clock_shows(day: date, hours: int) -> None:
    """Spring forward 23, fall back 25."""
    since, until = day_bounds(day, BERLIN)
    assert until - since == timedelta(hours=hours)
    assert since.tzinfo is UTC


@given(day=st.dates(date(2020, 1, 1), date(2035, 1, 1)), zone=st.sampled_from(ZONES))
def test_days_follow_one_another_without_a_gap(day: date, zone: str) -> None:
    """The end of one is the begin of the next, and every moment of it belongs to it."""
    where = ZoneInfo(zone)
    since, until = day_bounds(day, where)
    assert day_bounds(day + timedelta(days=1), where)[0] == until
    assert local_day(since, where) == day
    assert local_day(until - timedelta(microseconds=1), where) == day


@pytest.mark.parametrize(
    ("now", "clock", "expected"),
    [
        (datetime(2026, 11, 22, 21, 0, tzinfo=UTC), "07:00", datetime(2026, 11, 23, 6, 0, tzinfo=UTC)),
        (datetime(2026, 11, 23, 5, 59, tzinfo=UTC), "07:00", datetime(2026, 11, 23, 6, 0, tzinfo=UTC)),
        (datetime(2026, 11, 23, 6, 0, tzinfo=UTC), "07:00", datetime(2026, 11, 24, 6, 0, tzinfo=UTC)),
        (datetime(2026, 3, 28, 21, 0, tzinfo=UTC), "07:00", datetime(2026, 3, 29, 5, 0, tzinfo=UTC)),
        (datetime(2026, 10, 24, 21, 0, tzinfo=UTC), "07:00", datetime(2026, 10, 25, 6, 0, tzinfo=UTC)),
        (datetime(2026, 3, 29, 0, 30, tzinfo=UTC), "02:30", datetime(2026, 3, 29, 1, 30, tzinfo=UTC)),
        (datetime(2026, 10, 25, 0, 0, tzinfo=UTC), "02:30", datetime(2026, 10, 25, 0, 30, tzinfo=UTC)),
        (datetime(2026, 10, 25, 0, 45, tzinfo=UTC), "02:30", datetime(2026, 10, 26, 1, 30, tzinfo=UTC)),
    ],
)
def test_the_next_time_a_clock_shows_something(now: datetime, clock: str, expected: datetime) -> None:
    """Also over a change of the clocks: 02:30 that is skipped is 03:30, of one that comes twice the first counts."""
    assert next_at(clock, BERLIN, now) == expected


def test_a_night_is_an_hour_shorter_in_spring_and_longer_in_autumn() -> None:
    """From 22:00 to 07:00 there are 8, 9 and 10 hours."""

    def hours(year: int, month: int, day: int) -> float:
        begin = datetime(year, month, day, 22, 0, tzinfo=BERLIN)
        return (next_at("07:00", BERLIN, begin.astimezone(UTC)) - begin).total_seconds() / 3600

    assert [hours(2026, 3, 28), hours(2026, 6, 1), hours(2026, 10, 24)] == [8, 9, 10]


def test_days_are_given_as_words_and_dates() -> None:
    """In the studio's zone: late in the evening of UTC it is tomorrow in Bangkok."""
    now = datetime(2026, 11, 22, 20, 0, tzinfo=UTC)
    assert parse_day("today", BANGKOK, now) == date(2026, 11, 23)
    assert parse_day("yesterday", BERLIN, now) == date(2026, 11, 21)
    assert parse_day("2026-01-02", BERLIN, now) == date(2026, 1, 2)
    with pytest.raises(InputError, match="'tomorrow' is no day"):
        parse_day("tomorrow", BERLIN, now)
    with pytest.raises(InputError, match="has not begun yet in Europe/Berlin"):
        parse_day("2026-11-23", BERLIN, now)


def test_the_zone_is_the_configured_one_or_the_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    """TZ counts as it does for every program; what makes no sense is UTC."""
    assert studio_zone(Settings(schedule=ScheduleSettings(time_zone="Asia/Kathmandu"))).key == KATHMANDU.key
    monkeypatch.setenv("TZ", ":America/New_York")
    assert machine_zone().key == "America/New_York"
    monkeypatch.setenv("TZ", "Nowhere/AtAll")
    monkeypatch.setattr(local_time, "LOCALTIME", local_time.Path("/nonexistent"))
    monkeypatch.setattr(local_time, "TIMEZONE", local_time.Path("/nonexistent"))
    assert machine_zone().key == "UTC"


@pytest.mark.parametrize(
    ("variable", "value", "part"),
    [
        ("HYBRID_VIDEO_TIME_ZONE", "Bangkok", "is no time zone; write it like Europe/Berlin"),
        ("HYBRID_VIDEO_INBOX_READY_BY", "7 o'clock", "HYBRID_VIDEO_INBOX_READY_BY"),
        ("HYBRID_VIDEO_INBOX_BUDGET_USD", "-1", "greater than or equal to 0"),
    ],
)
def test_a_wrong_setting_is_told_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, part: str
) -> None:
    """The variable, the value and what to write."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError, match=part.replace("(", r"\(")) as caught:
        Settings.load()
    assert caught.value.message.startswith(variable)
