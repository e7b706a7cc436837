"""Scaling laws: a loss in parameters and tokens, linked to a benchmark's score and fitted by least squares."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
from scipy.optimize import least_squares

from njsl.predict.base import SCALE, MedianImputer, Predictor
from njsl.predict.link import check_ends

# At a loss of e^5 a model guesses, to 60 digits: beyond it the score is flat, and no exponential overflows.
MOST_LN_LOSS = 5.0
# Ranges of the starts, in logarithms. Published exponents are 0.05 to 0.5 for losses in nats; at the average model each
# term of the loss lies between hardly noticeable (2 % off perfect) and hopeless (guessing, to 1 %).
LN_EXPONENT = (np.log(0.05), np.log(1.0))
LN_TERM = (np.log(0.02), np.log(5.0))
# Where scores say nothing about a parameter the fit would let it drift: far outside of anything seen it stops.
LN_EXPONENT_BOUND = (np.log(0.003), np.log(3.0))
LN_COEFFICIENT_BOUND = (-100.0, 100.0)
# A fit takes 5 to 40 steps; one that takes more is creeping towards a bound and predicts the same all the while.
MOST_EVALUATIONS = 50
DRAWS = 300
# Below this share of its largest possible effect a combination of parameters is lost in rounding.
ROUNDING = 1e-8


class ScalingLaw(Predictor):
    """A score that goes from a floor to perfect as the loss L(N, D) falls from infinity to 0.

    ``score = floor + (perfect - floor) * exp(-L)``. For accuracy perfect is 1 and the floor is chance. For the Brier
    score perfect is 0 and the floor twice chance: real models lie between even and confident guessing, most of them
    above chance. Bits per byte go from 8, even guessing, to 0; there L is nearly a constant times the score itself.
    Every parameter of L is positive; least squares run over their logarithms, from the best of many random starts.

    Args:
        floor, perfect: see ``link.check_ends``.
        n_starts: how many starts are refined.
        random_state: seed of the starts.

    Attributes:
        params_: the law's parameters by name, N in parameters and D in billions of tokens.
        stderr_: their standard errors by the delta method; infinite where the scores say nothing about a parameter.
    """

    needs = SCALE
    coefficients: ClassVar[tuple[str, ...]]
    exponents: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        *,
        floor: float = 0.0,
        perfect: float = 1.0,
        n_starts: int = 3,
        random_state: int = 0,
    ) -> None:
        self.floor = floor
        self.perfect = perfect
        self.n_starts = n_starts
        self.random_state = random_state

    @abstractmethod
    def start(self, random: np.random.Generator, ln_N: float, ln_D: float) -> np.ndarray:
        """Logarithms [parameters, DRAWS] of random parameters under which an average model is neither perfect nor lost.

        Parameters come in the order of ``coefficients``, then ``exponents``, here and in what follows.

        Args:
            random: draws them.
            ln_N: mean ln parameters.
            ln_D: mean ln billions of tokens.
        """

    @abstractmethod
    def loss(self, logs: np.ndarray, ln_N: np.ndarray, ln_D: np.ndarray) -> np.ndarray:
        """L of the models, from the logarithms of the law's parameters [parameters, ...]; all of them broadcast."""

    @abstractmethod
    def slopes(self, logs: np.ndarray, ln_N: np.ndarray, ln_D: np.ndarray) -> np.ndarray:
        """Derivatives [models, parameters] of L by the logarithms of the law's parameters."""

    def fit_packed(self, packed: Any) -> Self:
        """Fit the law.

        Raises:
            DataError: see ``link.check_ends``.
        """
        X, y = packed
        check_ends(self.floor, self.perfect, type(self).__name__)
        self.gain_ = self.perfect - self.floor
        self.imputer_ = MedianImputer().fit(self.needed(X))
        ln_N, ln_D = self.imputer_.transform(self.needed(X)).T

        def residuals(logs: np.ndarray) -> np.ndarray:
            return self.score(logs, ln_N, ln_D) - y

        def jacobian(logs: np.ndarray) -> np.ndarray:
            by_loss = -self.gain_ * np.exp(-self.loss(logs, ln_N, ln_D))
            return by_loss[:, None] * self.slopes(logs, ln_N, ln_D)

        starts = self.start(np.random.default_rng(self.random_state), ln_N.mean(), ln_D.mean())
        ranking = np.argsort(np.square(residuals(starts[:, :, None])).sum(axis=1), kind="stable")
        ranges = [LN_COEFFICIENT_BOUND] * len(self.coefficients) + [LN_EXPONENT_BOUND] * len(self.exponents)
        bounds = np.transpose(ranges)
        fits = [
            least_squares(residuals, np.clip(start, *bounds), jacobian, bounds=bounds, max_nfev=MOST_EVALUATIONS)
            for start in starts.T[ranking[: self.n_starts]]
        ]
        best = min(fits, key=lambda fit: fit.cost)
        self.logs_ = best.x
        names, values = self.coefficients + self.exponents, np.exp(best.x)
        self.params_ = dict(zip(names, values.tolist(), strict=True))
        self.stderr_ = dict(zip(names, (values * standard_errors(best.jac, best.fun)).tolist(), strict=True))
        return self

    def score(self, logs: np.ndarray, ln_N: np.ndarray, ln_D: np.ndarray) -> np.ndarray:
        """Scores, as fractions, under the law with these logarithms of its parameters; arguments as in ``loss``."""
        return self.floor + self.gain_ * np.exp(-self.loss(logs, ln_N, ln_D))

    def predict(self, X: pd.DataFrame) -> np.ndarray:
        """Predicted scores [models], as fractions between the floor and perfect."""
        return self.score(self.logs_, *self.imputer_.transform(self.needed(X)).T)


def standard_errors(jacobian: np.ndarray, residuals: np.ndarray) -> np.ndarray:
    """Standard errors [parameters] of a least-squares fit: the root of the diagonal of variance * (J'J)^-1.

    Args:
        jacobian: derivatives [rows, parameters] of the residuals at the optimum.
        residuals: at the optimum [rows].

    Returns:
        Infinity for every parameter that takes part in a direction in which the residuals do not change.
    """
    rows, parameters = jacobian.shape
    if rows <= parameters:
        return np.full(parameters, np.inf)
    variance = np.square(residuals).sum() / (rows - parameters)
    # Columns of unit length, or a parameter measured in small steps would pass for one that the rows do not determine.
    sizes = np.linalg.norm(jacobian, axis=0)
    sizes[sizes < np.finfo(float).tiny] = np.inf
    _, values, directions = np.linalg.svd(jacobian / sizes, full_matrices=False)
    weights, known = np.square(directions), values > ROUNDING
    errors = np.sqrt(variance * (weights[known].T / np.square(values[known])).sum(axis=1)) / sizes
    return np.where((weights[~known] > ROUNDING).any(axis=0), np.inf, errors)
