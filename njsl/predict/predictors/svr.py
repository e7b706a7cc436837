"""Support vector regression on all features."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import pandas as pd
from sklearn.svm import SVR

from njsl.predict.base import Predictor, Preparation


class SupportVector(Predictor):
    """Support vector regression with a Gaussian kernel on the standardised, one-hot coded features.

    Args:
        C: weight of the errors against smoothness, > 0.
        epsilon: errors up to this size cost nothing, in units of the score (a fraction).
    """

    def __init__(self, *, C: float = 1.0, epsilon: float = 0.01) -> None:
        self.C = C
        self.epsilon = epsilon

    def fit_packed(self, packed: Any) -> Self:
        """Find the support vectors."""
        X, y = packed
        self.preprocessing_ = Preparation(scale=True)
        self.model_ = SVR(C=self.C, epsilon=self.epsilon).fit(self.preprocessing_.fit_transform(X), y)
        return self

    def predict(self, X: pd.DataFrame) -> np.ndarray:
        """Predicted scores [models], as fractions; far from all training models, a constant."""
        return self.model_.predict(self.preprocessing_.transform(X))
