"""Kernel ridge regression on all features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import pandas as pd
from scipy.spatial.distance import cdist

from njsl.predict.base import SCALE, Context, Predictor, Preparation
from njsl.predict.link import Kind, Link


class KernelRidge(Predictor):
    """Ridge regression with a Laplacian kernel on the standardised, one-hot coded features, around the mean label.

    The kernel is exp(-gamma * (weight * d(scale) + d(others))), where d is the mean absolute difference between two
    models over ln parameters and ln tokens, or over all other columns: scale is two columns among forty, and would
    hardly count if all of them weighed the same.

    Args:
        scale_weight: ``weight`` above, > 0; of no effect without columns of scale, and as 1 without others.
        gamma: see above, > 0.
        alpha: weight of the penalty against the sum of squared errors, > 0; beside a kernel of at most 1.
        link: see ``link.Link``; the regression is on its line.
        floor, perfect: see ``link.check_ends``.
    """

    path = "alpha"

    def __init__(
        self,
        *,
        scale_weight: float = 1.0,
        gamma: float = 1.0,
        alpha: float = 0.1,
        link: Kind = "identity",
        floor: float = 0.0,
        perfect: float = 1.0,
    ) -> None:
        self.scale_weight = scale_weight
        self.gamma = gamma
        self.alpha = alpha
        self.link = link
        self.floor = floor
        self.perfect = perfect

    def pack(self, X: pd.DataFrame, y: np.ndarray | None = None, context: Context | None = None) -> Any:
        """The rows, and given scores these, the preparation of columns and the prepared columns."""
        if y is None:
            return X, None
        prepared = Preparation(scale=True)
        return X, y, prepared, prepared.fit_transform(X)

    def fit_packed(self, packed: Any) -> Self:
        """Decompose the kernel: every ``alpha`` can be answered from that."""
        _, y, self.preprocessing_, columns = packed
        numbers = self.preprocessing_.numbers_
        scale = np.isin(np.arange(columns.shape[1]), [numbers.index(name) for name in SCALE if name in numbers])
        weight = self.scale_weight if 0 < scale.sum() < len(scale) else 1.0
        self.weights_ = np.where(scale, weight / max(scale.sum(), 1), 1 / max((~scale).sum(), 1))
        self.columns_ = columns * self.weights_
        self.link_ = Link.fit(self.link, y, floor=self.floor, perfect=self.perfect)
        z = self.link_.to_line(y)
        self.mean_ = float(z.mean())
        self.values_, self.directions_ = np.linalg.eigh(
            np.exp(-self.gamma * cdist(self.columns_, self.columns_, "cityblock"))
        )
        self.shares_ = self.directions_.T @ (z - self.mean_)
        return self

    def predict(self, X: pd.DataFrame) -> np.ndarray:
        """Predicted medians [models], as fractions; far from all training models, the mean on the link's line."""
        return self.predict_path((X, None), [self.alpha])[0]

    def predict_path(self, packed: Any, values: Sequence[float]) -> list[np.ndarray]:
        """Predictions [models] for each ``alpha``."""
        columns = self.preprocessing_.transform(packed[0]) * self.weights_
        towards = np.exp(-self.gamma * cdist(columns, self.columns_, "cityblock")) @ self.directions_
        # A Laplacian kernel has no negative eigenvalues but by rounding.
        sizes = np.maximum(self.values_, 0.0)
        return [self.link_.from_line(self.mean_ + towards @ (self.shares_ / (sizes + alpha))) for alpha in values]
