"""Gaussian-process regression for some dozens of models: a plane over scale, a kernel per group of features, outliers.

Hyperparameters maximise their posterior density, with analytic gradients: 90 models say little about ten of them, and
without priors groups that explain nothing are believed.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import numpy as np
import pandas as pd
from scipy.linalg import lapack
from scipy.optimize import minimize

from njsl.predict.base import SCALE, Preparation
from njsl.predict.features import tag

# Priors of the logarithms of the hyperparameters: mean and standard deviation, in units of the standard deviation of
# the training scores and of the features. A group other than scale is expected to add little.
PLANE = (0.0, 0.7)
CURVE = (np.log(0.5), 0.7)
LENGTH = (0.8, 0.45)
NOISE = (np.log(0.3), 0.6)
ROUNDS = 3  # of weighing outliers down and fitting again
STEPS = (40, 15)  # most steps of the optimiser, in the first round and later
CLOSE = 1e-5  # relative change of the posterior at which the optimiser stops; predictions have long settled by then
BOUND = 5.0  # of the hyperparameters, in standard deviations of their priors
JITTER = 1e-7  # of the mean variance: a step of the optimiser may try noise that rounding would eat
FARTHEST = 3.5  # standardised features end here: nothing is known of what lies beyond


class Parts(NamedTuple):
    """What the kernels read of rows: standardised columns [models, ...] of each group, scale first."""

    names: tuple[str, ...]
    columns: tuple[np.ndarray, ...]


class Process:
    """One regression; see ``njsl.predict.predictors.gaussian_process`` for the model.

    Args:
        group_scale: prior median of the standard deviation of a group's function, in standard deviations of ``y``.
        freedom: degrees of freedom of the noise; None is normal noise.
    """

    def __init__(self, group_scale: float, freedom: float | None) -> None:
        self.group_scale = group_scale
        self.freedom = freedom

    def fit(self, X: pd.DataFrame, y: np.ndarray, variance: np.ndarray) -> Self:
        """Fit hyperparameters, weigh outliers down, and solve.

        Args:
            X: training rows [models, features].
            y: what is regressed [models].
            variance: of each ``y`` by itself [models], in its units squared; 0 where unknown.
        """
        self.encoders_ = encoders(X)
        self.middle_, self.unit_ = float(np.median(y)), float(np.std(y)) or 1.0
        self.parts_ = encode(self.encoders_, X)
        squares = distances(self.parts_, self.parts_)
        plane = products(self.parts_, self.parts_)
        target, known = (y - self.middle_) / self.unit_, variance / self.unit_**2
        prior = self._prior(len(squares))
        self.logs_, weights = prior[0].copy(), np.ones(len(y))
        for number in range(ROUNDS if self.freedom is not None else 1):
            self.logs_ = minimize(
                posterior,
                self.logs_,
                (target, squares, plane, known, weights, prior),
                method="L-BFGS-B",
                jac=True,
                bounds=np.column_stack([prior[0] - BOUND * prior[1], prior[0] + BOUND * prior[1]]),
                options={"maxiter": STEPS[number > 0], "ftol": CLOSE},
            ).x
            covariance = kernel(self.logs_, squares, plane)[0]
            noise = np.exp(2 * self.logs_[-1])
            inverse = np.linalg.inv(covariance + np.diag(noise / weights + known))
            self.solved_ = inverse @ target
            if self.freedom is not None:
                fitted = covariance @ self.solved_
                spread = np.diag(covariance - covariance @ inverse @ covariance)
                surprise = (np.square(target - fitted) + spread) / noise
                weights = (self.freedom + 1) / (self.freedom + surprise)
        return self

    def _prior(self, groups: int) -> tuple[np.ndarray, np.ndarray]:
        """Means and standard deviations of the logarithms: plane, sizes and lengths of the groups, noise."""
        sizes = [CURVE, *[(np.log(self.group_scale), CURVE[1])] * (groups - 1)]
        table = np.array([PLANE, *sizes, *[LENGTH] * groups, NOISE])
        return table[:, 0], table[:, 1]

    def predict(self, X: pd.DataFrame) -> np.ndarray:
        """Posterior medians [models]."""
        rows = encode(self.encoders_, X)
        across = kernel(self.logs_, distances(rows, self.parts_), products(rows, self.parts_))[0]
        result: np.ndarray = self.middle_ + self.unit_ * (across @ self.solved_)
        return result


def encoders(X: pd.DataFrame) -> list[tuple[str, list[str], Any]]:
    """(group, columns, what encodes them), fitted on training rows; scale comes first, even without columns."""
    groups: dict[str, list[str]] = {"scale": [name for name in SCALE if name in X]}
    for name in X.columns.difference(list(SCALE), sort=False):
        kind = "categories" if isinstance(X[name].dtype, pd.CategoricalDtype) else tag(name)
        groups.setdefault(kind, []).append(name)
    return [(group, names, Standard().fit(X[names])) for group, names in groups.items()]


class Standard:
    """Standardised numbers with a column that says that some are missing, or one-hot categories."""

    def fit(self, X: pd.DataFrame) -> Self:
        """Means, scales and labels of the training rows."""
        self.table_ = Preparation(scale=True).fit(X) if X.shape[1] else None
        numbers = X.select_dtypes("number")
        share = numbers.isna().any(axis=1).mean() if numbers.shape[1] else 0.0
        self.flag_ = 0.03 < share < 0.97
        self.numbers_ = list(numbers.columns)
        return self

    def transform(self, X: pd.DataFrame) -> np.ndarray:
        """Rows [models, columns]; a group of many columns weighs as much as one of two."""
        if self.table_ is None:
            return np.zeros((len(X), 0))
        rows = np.clip(self.table_.transform(X), -FARTHEST, FARTHEST)
        if self.flag_:
            rows = np.column_stack([rows, 1.5 * X[self.numbers_].isna().any(axis=1)])
        return rows / np.sqrt(max(1.0, rows.shape[1] / 2))


def encode(fitted: list[tuple[str, list[str], Any]], X: pd.DataFrame) -> Parts:
    """The rows of ``X`` as the kernels read them."""
    return Parts(
        tuple(group for group, _, _ in fitted), tuple(encoder.transform(X[names]) for _, names, encoder in fitted)
    )


def distances(rows: Parts, others: Parts) -> list[np.ndarray]:
    """Squared distances [rows, others] in each group."""
    result = []
    for a, b in zip(rows.columns, others.columns, strict=True):
        squares = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1) - 2 * a @ b.T
        result.append(np.maximum(squares, 0.0))
    return result


def products(rows: Parts, others: Parts) -> np.ndarray:
    """Covariance [rows, others] of a plane over scale whose height and slopes are standard normal."""
    return rows.columns[0] @ others.columns[0].T + 1.0


def kernel(
    logs: np.ndarray, squares: list[np.ndarray], plane: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray], np.ndarray]:
    """Covariance, then its parts: the plane's, each group's, and the groups' lengths.

    Args:
        logs: ln of the plane's size, of the groups' sizes, of their lengths, and of the noise.
        squares: see ``distances``.
        plane: see ``products``.
    """
    count = len(squares)
    sizes, lengths = np.exp(2 * logs[1 : 1 + count]), np.exp(logs[1 + count : 1 + 2 * count])
    fading = 0.5 + 0.5 * np.exp(-squares[0] / 8)
    groups = [
        size * np.exp(-square / (2 * length**2)) * (fading if number else 1.0)
        for number, (size, length, square) in enumerate(zip(sizes, lengths, squares, strict=True))
    ]
    flat = np.exp(2 * logs[0]) * plane
    return flat + sum(groups), flat, groups, lengths


def posterior(
    logs: np.ndarray,
    target: np.ndarray,
    squares: list[np.ndarray],
    plane: np.ndarray,
    known: np.ndarray,
    weights: np.ndarray,
    prior: tuple[np.ndarray, np.ndarray],
) -> tuple[float, np.ndarray]:
    """Minus the log posterior density of the hyperparameters, up to a constant, and its gradient.

    Args:
        logs: see ``kernel``.
        target: standardised scores [models].
        squares, plane: see ``kernel``.
        known: variances [models] of the labels themselves.
        weights: precision of each model's noise against the common one.
        prior: means and standard deviations of ``logs``.
    """
    covariance, flat, groups, lengths = kernel(logs, squares, plane)
    noise = np.exp(2 * logs[-1]) / weights
    diagonal = noise + known + JITTER * np.diag(covariance).mean()
    factor, failed = lapack.dpotrf(covariance + np.diag(diagonal), lower=True)
    if failed:
        raise ArithmeticError(f"a covariance of {len(target)} models is not positive definite")
    inverse = lapack.dpotri(factor, lower=True)[0]
    inverse = np.tril(inverse) + np.tril(inverse, -1).T
    solved = inverse @ target
    pull = inverse - np.outer(solved, solved)
    away = (logs - prior[0]) / prior[1]
    value = target @ solved / 2 + np.log(np.diag(factor)).sum() + away @ away / 2
    sizes = [np.vdot(pull, part) for part in (flat, *groups)]
    by_length = [
        np.vdot(pull, part * square) / (2 * length**2)
        for part, square, length in zip(groups, squares, lengths, strict=True)
    ]
    gradient = np.array([*sizes, *by_length, np.diag(pull) @ noise])
    return float(value), gradient + away / prior[1]
