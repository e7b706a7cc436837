"""The data-mixing law: a loss falls exponentially with the shares (Ye et al. 2024, arXiv 2403.16952)."""

from __future__ import annotations

from typing import Self

import numpy as np
from scipy.optimize import least_squares

from njsl.predict.law import Law

# [standard deviations of the losses] below the smallest loss: floors that fits are started from.
FLOORS = (0.1, 0.5, 2.0)
LOWEST = 30.0  # as FLOORS: from so far below an exponential is a straight line in all that was measured
STEEPEST = 60.0  # of an exponent
SHORT, LONG = 10, 150  # most steps from every start, then from the best of where they lead


class MixingLaw(Law):
    """loss = c + exp(sum_j t_j w_j), by robust least squares from several starts.

    The paper writes c + k exp(sum_j t_j w_j); as shares sum to 1, k is a part of every t_j: adding ln k to all of them
    is the same law.

    Args:
        huber: residual from which on it counts linearly [standard deviations of the losses].

    Attributes:
        floor_: c, in units of the loss.
        exponents_: t_j [corpora], with ln k in it.
    """

    def __init__(self, *, huber: float = 0.1) -> None:
        self.huber = huber

    def fit_runs(self, shares: np.ndarray, loss: np.ndarray) -> Self:
        """Given a floor the law is linear in logarithms; fits start from there, and the best one stays."""
        unit = float(loss.std()) or 1.0
        least = float(loss.min())
        target = (loss - least) / unit
        fits = [self._fit(shares, target, self._start(shares, target, -floor), SHORT) for floor in FLOORS]
        best = self._fit(shares, target, min(fits, key=lambda fit: fit[0])[1], LONG)[1]
        self.floor_ = least + unit * best[0]
        self.exponents_ = best[1:] + np.log(unit)
        return self

    def _start(self, shares: np.ndarray, target: np.ndarray, floor: float) -> np.ndarray:
        """(floor, exponents) [1 + corpora] of a straight line through the logarithms."""
        line = np.linalg.lstsq(shares, np.log(target - floor), rcond=None)[0]
        return np.array([floor, *np.clip(line, -STEEPEST / 2, STEEPEST / 2)])

    def _fit(self, shares: np.ndarray, target: np.ndarray, start: np.ndarray, steps: int) -> tuple[float, np.ndarray]:
        """Cost and (floor, exponents) after at most so many steps."""

        def residuals(at: np.ndarray) -> np.ndarray:
            return at[0] + np.exp(shares @ at[1:]) - target

        def slopes(at: np.ndarray) -> np.ndarray:
            return np.column_stack([np.ones(len(shares)), shares * np.exp(shares @ at[1:])[:, None]])

        ends = np.array([LOWEST, *[STEEPEST] * shares.shape[1]])
        found = least_squares(
            residuals,
            start,
            slopes,
            bounds=(-ends, ends),
            loss="huber",
            f_scale=self.huber,
            x_scale="jac",
            max_nfev=steps,
        )
        return float(found.cost), found.x

    def predict(self, shares: np.ndarray) -> np.ndarray:
        """Expected loss [mixes]."""
        result: np.ndarray = self.floor_ + np.exp(shares @ self.exponents_)
        return result
