"""Links: score -> a line without ends -> score, fitted on training labels alone.

A link is monotone, so it carries medians over: what a method takes for the median on the line is, sent back, the median
of the score, and the median is what the least absolute error asks for. A mean on the line does not come back as the
mean of the score, but as a value near the median wherever errors are about symmetric on the line.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self, get_args

import numpy as np
from scipy.special import expit, logit

from njsl.core.types import ConfigError, DataError

Kind = Literal["identity", "chance", "logit"]


def check_ends(floor: float, perfect: float, where: str) -> None:
    """That there is a way from no skill to perfection.

    Args:
        floor: score of a model without any skill (``njsl.store.tasks.Task.floor``), in the unit of the scores.
        perfect: score of a model without any error.
        where: whose they are.

    Raises:
        DataError: the two are equal, or one is not finite.
    """
    if not abs(perfect - floor) > 0 or not np.isfinite([floor, perfect]).all():
        raise DataError(f"{where}: floor={floor:g}, perfect={perfect:g}; two different finite scores are accepted")


@dataclass(frozen=True)
class Link:
    """A monotone map of scores to a line.

    ``identity`` leaves scores alone. ``chance`` is the score corrected for guessing, ``(y - floor) / (perfect -
    floor)``: 0 without skill, 1 if perfect, without bounds. ``logit`` is the log odds of how far a score lies from
    ``zero`` to ``one``, which stand a margin outside of floor, perfect and every training label: scores are measured,
    and so lie below chance too, or at exactly 0. The better the model, the higher it is under ``chance`` and ``logit``.

    Attributes:
        kind: which of the three.
        zero, one: scores, as fractions, that ``chance`` sends to 0 and 1 and that ``logit`` never reaches.
        edge: nearest to ``zero`` and ``one`` a score is taken for under ``logit``, as a share of the way between.
    """

    kind: Kind = "identity"
    zero: float = 0.0
    one: float = 1.0
    edge: float = 0.0

    @classmethod
    def fit(
        cls,
        kind: Kind,
        y: np.ndarray,
        *,
        floor: float,
        perfect: float,
        stderr: np.ndarray | None = None,
    ) -> Self:
        """The link for training labels ``y`` [models].

        The margin of ``logit`` is ``MARGIN`` of the way from floor to perfect, or twice the median standard error
        where that is more.

        Args:
            kind: see the class.
            y: training labels [models], as fractions.
            floor, perfect: see ``check_ends``.
            stderr: standard errors [models] of the labels, NaN = unknown.

        Raises:
            ConfigError: there is no such kind.
            DataError: see ``check_ends``.
        """
        if kind not in get_args(Kind):
            raise ConfigError(f"link={kind!r}; accepted: {', '.join(get_args(Kind))}")
        if kind == "identity":
            return cls()
        check_ends(floor, perfect, f"link={kind}")
        if kind == "chance":
            return cls("chance", floor, perfect)
        gain = perfect - floor
        margin = MARGIN
        if stderr is not None and np.isfinite(stderr).any():
            margin = max(margin, 2 * float(np.nanmedian(stderr)) / abs(gain))
        shares = (np.asarray(y) - floor) / gain
        low, high = min(0.0, float(shares.min())) - margin, max(1.0, float(shares.max())) + margin
        return cls("logit", floor + gain * low, floor + gain * high, margin / 2 / (high - low))

    def to_line(self, y: np.ndarray) -> np.ndarray:
        """Places on the line of scores [models], as fractions; finite for every finite score."""
        y = np.asarray(y, dtype="float64")
        if self.kind == "identity":
            return y
        shares = (y - self.zero) / (self.one - self.zero)
        if self.kind == "chance":
            return shares
        return logit(np.clip(shares, self.edge, 1 - self.edge))

    def from_line(self, z: np.ndarray) -> np.ndarray:
        """Scores [models], as fractions, at places on the line; under ``logit`` between ``zero`` and ``one``."""
        z = np.asarray(z, dtype="float64")
        if self.kind == "identity":
            return z
        return self.zero + (self.one - self.zero) * (expit(z) if self.kind == "logit" else z)

    def slope(self, y: np.ndarray) -> np.ndarray:
        """Steps on the line [models] per step of the score at scores ``y``, > 0: what standard errors are times by."""
        y = np.asarray(y, dtype="float64")
        if self.kind == "identity":
            return np.ones_like(y)
        gain = abs(self.one - self.zero)
        if self.kind == "chance":
            return np.full_like(y, 1 / gain)
        share = np.clip((y - self.zero) / (self.one - self.zero), self.edge, 1 - self.edge)
        return 1 / (gain * share * (1 - share))


# Of the way from floor to perfect.
MARGIN = 0.05
