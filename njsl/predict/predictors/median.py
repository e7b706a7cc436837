"""The median of the training scores."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import pandas as pd

from njsl.predict.base import Predictor


class Median(Predictor):
    """The median training score for every model: what the least absolute error without any feature comes to."""

    def fit_packed(self, packed: Any) -> Self:
        """Take the median of the scores."""
        _, y = packed
        self.median_ = float(np.median(y))
        return self

    def predict(self, X: pd.DataFrame) -> np.ndarray:
        """The training median [models], as a fraction."""
        return np.full(len(X), self.median_)

    def contributions(self, X: pd.DataFrame) -> np.ndarray:
        """Zeros [models, features]: no feature is read."""
        return np.zeros(X.shape)
