"""The studio's clock: its time zone, the bounds of its days, and the next time a clock shows something.

Everything stored is UTC; only people's days and nights are local. Where a clock is set forward or back a day has 23 or
25 hours, and a time that does not exist is the moment as many minutes after the gap began.
"""

from __future__ import annotations

import os
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from hybrid_video.errors import InputError
from hybrid_video.models import utc_now
from hybrid_video.settings import Settings

LOCALTIME = Path("/etc/localtime")
TIMEZONE = Path("/etc/timezone")


def studio_zone(settings: Settings) -> ZoneInfo:
    """The configured time zone, else this machine's, else UTC."""
    return ZoneInfo(settings.schedule.time_zone) if settings.schedule.time_zone else machine_zone()


def machine_zone() -> ZoneInfo:
    """The time zone this machine is set to, by its name; UTC where it does not tell one (Windows, bare containers)."""
    names = [os.environ.get("TZ", "").removeprefix(":")]
    try:
        names.append(str(LOCALTIME.resolve()).partition("zoneinfo/")[2])
        names.append(TIMEZONE.read_text(encoding="ascii").strip())
    except (OSError, UnicodeDecodeError):
        pass
    for name in names:
        try:
            if name and not name.startswith("/"):
                return ZoneInfo(name.removeprefix("posix/").removeprefix("right/"))
        except (ZoneInfoNotFoundError, ValueError, OSError):
            continue
    return ZoneInfo("UTC")


def day_bounds(day: date, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """The first moment of a local day and of the next one, in UTC."""
    return _moment(day, time(0), zone), _moment(day + timedelta(days=1), time(0), zone)


def local_day(moment: datetime, zone: ZoneInfo) -> date:
    """The local day a moment lies in."""
    return moment.astimezone(zone).date()


def next_at(clock: str, zone: ZoneInfo, now: datetime) -> datetime:
    """The next moment, in UTC, at which the clock shows `HH:MM`."""
    wanted = parse_clock(clock)
    day = local_day(now, zone)
    found = _moment(day, wanted, zone)
    return found if found > now else _moment(day + timedelta(days=1), wanted, zone)


def parse_clock(text: str) -> time:
    """A time of day.

    Raises:
        InputError: it is not written like 07:00.
    """
    try:
        return datetime.strptime(text, "%H:%M").time()  # noqa: DTZ007 - a clock's face has no zone
    except ValueError:
        raise InputError(f"{text!r} is no time of day; write it like 07:00") from None


def parse_day(text: str, zone: ZoneInfo, now: datetime | None = None) -> date:
    """A day given as `2026-11-22`, `today` or `yesterday`.

    Raises:
        InputError: it is none of these, or has not begun yet.
    """
    today = local_day(now or utc_now(), zone)
    try:
        day = {"today": today, "yesterday": today - timedelta(days=1)}.get(text) or date.fromisoformat(text)
    except ValueError:
        raise InputError(f"{text!r} is no day; write 2026-11-22, today or yesterday") from None
    if day > today:
        raise InputError(f"{text!r} has not begun yet in {zone.key}; today is {today.isoformat()}")
    return day


def _moment(day: date, clock: time, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, clock, zone).astimezone(UTC)
