"""One model of all tasks: features say how capable a model is, capabilities say how it scores."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import pandas as pd

from njsl.core.types import ConfigError
from njsl.predict.base import Context, Predictor
from njsl.predict.gaussian import Process

ROUNDS = 50  # of alternating between capabilities and loadings; the fit has long settled by then


class MultiTask(Predictor):
    """Scores on all tasks of the run are a few capabilities times loadings; capabilities are regressed on features.

    Capabilities and loadings come from the training models' scores on every task, whatever is missing; a Gaussian
    process predicts each capability from features; the task's own loadings turn them into its score. What a task has
    to itself is not predicted. Without a context there is the one task and one capability.

    Source: observational scaling laws (Ruan, Maddison and Hashimoto 2024, arXiv 2405.10938); skills that families turn
    scale into (Sloth, Maia Polo et al. 2024, arXiv 2412.06540).

    Args:
        rank: number of capabilities, >= 1; at most the tasks' number is used.
        penalty: weight of the squares of capabilities and loadings against the sum of squared errors, > 0.
        group_scale: see ``GaussianProcess``.
    """

    def __init__(self, *, rank: int = 2, penalty: float = 0.5, group_scale: float = 0.12) -> None:
        self.rank = rank
        self.penalty = penalty
        self.group_scale = group_scale

    def pack(self, X: pd.DataFrame, y: np.ndarray | None = None, context: Context | None = None) -> Any:
        """Rows, scores, and the other tasks' scores [models, tasks] of the same training models."""
        if y is None or context is None:
            return X, y, np.zeros((len(X), 0))
        others = context.labels.columns.drop(context.task) if context.task is not None else context.labels.columns
        return X, y, context.labels.loc[X.index, others].to_numpy(dtype="float64")

    def fit_packed(self, packed: Any) -> Self:
        """Find capabilities and loadings, and regress the capabilities.

        Raises:
            ConfigError: a parameter is out of range.
        """
        X, y, others = packed
        if self.rank < 1 or self.penalty <= 0 or self.group_scale <= 0:
            raise ConfigError(
                f"multitask: rank={self.rank}, penalty={self.penalty}, group_scale={self.group_scale}; at least 1, "
                "above 0 and above 0 are accepted"
            )
        scores = np.column_stack([y, others[:, np.isfinite(others).sum(axis=0) > self.rank + 1]])
        self.middle_, self.unit_ = float(np.mean(y)), float(np.std(y)) or 1.0
        units = np.nanstd(scores, axis=0)
        standard = (scores - np.nanmean(scores, axis=0)) / np.where(units > 0, units, 1.0)
        capabilities, loadings = factors(standard, min(self.rank, scores.shape[1]), self.penalty)
        self.loadings_ = loadings[0]
        none = np.zeros(len(X))
        self.processes_ = [Process(self.group_scale, 4.0).fit(X, column, none) for column in capabilities.T]
        return self

    def predict(self, X: pd.DataFrame) -> np.ndarray:
        """Predicted scores [models], as fractions; nothing keeps them within 0 and 1."""
        capable = np.column_stack([process.predict(X) for process in self.processes_])
        return self.middle_ + self.unit_ * (capable @ self.loadings_)


def factors(scores: np.ndarray, rank: int, penalty: float) -> tuple[np.ndarray, np.ndarray]:
    """Capabilities [models, rank] and loadings [tasks, rank] whose product comes nearest to the scores that are known.

    Alternating ridge regressions from the singular vectors of the scores with 0 for what is missing.

    Args:
        scores: standardised [models, tasks], NaN = missing; the first task is the one that is predicted and all its
            scores are known.
        rank: of the product.
        penalty: see ``MultiTask``.
    """
    known = np.isfinite(scores)
    filled = np.where(known, scores, 0.0)
    left, values, right = np.linalg.svd(filled, full_matrices=False)
    capabilities = left[:, :rank] * np.sqrt(values[:rank])
    loadings = right[:rank].T * np.sqrt(values[:rank])
    ridge = penalty * np.eye(rank)
    for _ in range(ROUNDS):
        for rows, columns, weights, target in (
            (capabilities, loadings, known, filled),
            (loadings, capabilities, known.T, filled.T),
        ):
            products = np.einsum("mt,tr,ts->mrs", weights, columns, columns) + ridge
            rows[:] = np.linalg.solve(products, (target @ columns)[:, :, None])[:, :, 0]
    return capabilities, loadings
