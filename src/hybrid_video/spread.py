"""How much the times of one backend scatter, failed attempts included: what the dispatcher keeps in hand for. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

PRIOR_CV = 0.2
"""Coefficient of variation before any clip was seen; counts as one clip. As `pricing.learning.SPREAD`."""


@dataclass
class Spread:
    """Fed with every attempt as a share of its quoted time; failed ones burn time that the next clip carries."""

    clips: int = 0
    total: float = 0.0
    squares: float = 0.0
    _burned: float = 0.0

    def took(self, ratio: float, *, success: bool) -> None:
        """One attempt took so many times its quoted time."""
        self._burned += ratio
        if success:
            self.clips += 1
            self.total += self._burned
            self.squares += self._burned * self._burned
            self._burned = 0.0

    @property
    def cv(self) -> float:
        """Coefficient of variation of the time per finished clip."""
        count = self.clips + 1
        mean = (self.total + 1.0) / count
        square = (self.squares + 1.0 + PRIOR_CV * PRIOR_CV) / count
        return math.sqrt(max(0.0, square / (mean * mean) - 1.0))
