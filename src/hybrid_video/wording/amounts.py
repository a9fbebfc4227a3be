"""Money, durations, counts, sizes and ages as people read them. Exact amounts belong in tables and exports."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import ClassVar

CENT = Decimal("0.01")


class Amounts:
    """Says numbers with the unit words of one language; each word may hold `{n}`."""

    UNITS: ClassVar[tuple[str, ...]] = ("s", "min", "h", "d", "ago", "just_now", "never", "month", "none")

    def __init__(self, units: Mapping[str, str]) -> None:
        self._units = units

    def usd(self, amount: Decimal | float | None) -> str:
        """Dollars: two decimals, more where the amount would otherwise read as nothing, fewer above ten thousand."""
        if amount is None:
            return self._units["none"]
        value = amount if isinstance(amount, Decimal) else Decimal(str(amount))
        if not value.is_finite():
            return self._units["none"]
        sign, value = ("-" if value < 0 else ""), abs(value)
        if not value:
            return "$0"
        if value >= 10_000:
            return f"{sign}${value.quantize(Decimal(1), rounding=ROUND_HALF_UP):,}"
        if value >= CENT * 10:
            return f"{sign}${value.quantize(CENT, rounding=ROUND_HALF_UP):,}"
        places = min(9, 1 - value.adjusted())  # two significant digits
        text = f"{value.quantize(Decimal(1).scaleb(-places), rounding=ROUND_HALF_UP):f}".rstrip("0")
        whole, _, fraction = text.partition(".")
        return f"{sign}${whole}.{fraction.ljust(2, '0')}"

    def duration(self, seconds: float | None) -> str:
        """A length of time with at most two units."""
        if seconds is None or not math.isfinite(seconds):
            return self._units["none"]
        if seconds < 10:
            return self._say("s", f"{seconds:.1f}".removesuffix(".0"))
        whole = round(seconds)
        if whole < 120:
            return self._say("s", whole)
        if whole < 3600:
            return self._pair(divmod(whole, 60), "min", "s")
        if whole < 48 * 3600:
            return self._pair(divmod(round(whole / 60), 60), "h", "min")
        return self._pair(divmod(round(whole / 3600), 24), "d", "h")

    def count(self, number: float | None) -> str:
        """A whole number with thousands set apart."""
        return self._units["none"] if number is None else f"{number:,.0f}"

    def percent(self, share: float | None, *, digits: int = 1) -> str:
        """A share between 0 and 1 as a percentage."""
        if share is None or not math.isfinite(share):
            return self._units["none"]
        text = f"{share * 100:.{digits}f}"
        return f"{text.rstrip('0').rstrip('.') if '.' in text else text} %"

    def size(self, size_bytes: float | None) -> str:
        """Bytes in decimal units."""
        if size_bytes is None:
            return self._units["none"]
        value = float(size_bytes)
        for unit in ("B", "kB", "MB", "GB"):
            if abs(value) < 1000:
                return f"{value:.0f} {unit}" if unit == "B" or abs(value) >= 100 else f"{value:.1f} {unit}"
            value /= 1000
        return f"{value:.1f} TB"

    def ago(self, moment: datetime | None, *, now: datetime | None = None) -> str:
        """How long ago something was."""
        if moment is None:
            return self._units["never"]
        seconds = ((now or datetime.now(UTC)) - moment).total_seconds()
        if seconds < 3:
            return self._units["just_now"]
        return self._say("ago", self._coarse(seconds))

    def moment(self, moment: datetime | None) -> str:
        """A point in time, UTC, to the minute."""
        return self._units["never"] if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M")

    def _coarse(self, seconds: float) -> str:
        for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
            if seconds >= length:
                return self._say(unit, int(seconds // length))
        return self._say("s", int(seconds))

    def _pair(self, parts: tuple[int, int], large: str, small: str) -> str:
        first = self._say(large, parts[0])
        return f"{first} {self._say(small, parts[1])}" if parts[1] else first

    def _say(self, unit: str, number: object) -> str:
        return self._units[unit].format(n=number)
