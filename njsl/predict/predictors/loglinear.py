"""A plane over ln parameters and ln tokens."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import pandas as pd
from sklearn.linear_model import LinearRegression

from njsl.predict.base import SCALE, MedianImputer, Predictor


class LogLinear(Predictor):
    """Ordinary least squares of the score on ln parameters and ln tokens; other features are ignored.

    The coefficients are in score (a fraction) per e-fold of parameters and of tokens.
    """

    needs = SCALE

    def fit_packed(self, packed: Any) -> Self:
        """Fit the plane."""
        X, y = packed
        self.imputer_ = MedianImputer().fit(self.needed(X))
        scale = self.imputer_.transform(self.needed(X))
        self.means_ = scale.mean(axis=0)
        self.model_ = LinearRegression().fit(scale, y)
        return self

    def predict(self, X: pd.DataFrame) -> np.ndarray:
        """Predicted scores [models], as fractions; nothing keeps them within 0 and 1."""
        return self.model_.predict(self.imputer_.transform(self.needed(X)))

    def contributions(self, X: pd.DataFrame) -> np.ndarray:
        """Shapley values [models, features] against the training means, as fractions."""
        shares = pd.DataFrame(0.0, index=X.index, columns=X.columns)
        shares[list(SCALE)] = self.model_.coef_ * (self.imputer_.transform(self.needed(X)) - self.means_)
        return shares.to_numpy()
