"""Ridge regression on all features."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import pandas as pd
from sklearn import linear_model

from njsl.predict.base import Predictor, per_feature, preprocessing


class Ridge(Predictor):
    """Linear regression on the standardised, one-hot coded features with an L2 penalty.

    Args:
        alpha: weight of the penalty against the sum of squared errors, > 0.
    """

    def __init__(self, *, alpha: float = 1.0) -> None:
        self.alpha = alpha

    def fit_packed(self, packed: Any) -> Self:
        """Fit the coefficients."""
        X, y = packed
        self.preprocessing_ = preprocessing(X, scale=True)
        columns = self.preprocessing_.fit_transform(X)
        self.means_ = columns.mean(axis=0)
        self.model_ = linear_model.Ridge(alpha=self.alpha).fit(columns, y)
        return self

    def predict(self, X: pd.DataFrame) -> np.ndarray:
        """Predicted scores [models], as fractions; nothing keeps them within 0 and 1."""
        return self.model_.predict(self.preprocessing_.transform(X))

    def contributions(self, X: pd.DataFrame) -> np.ndarray:
        """Shapley values [models, features] against the training means, as fractions."""
        return per_feature(self.preprocessing_, self.model_.coef_ * (self.preprocessing_.transform(X) - self.means_))
