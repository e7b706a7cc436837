"""Ridge regression on all features."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import pandas as pd
from sklearn import linear_model

from njsl.predict.base import Predictor, Preparation, per_feature
from njsl.predict.link import Kind, Link


class Ridge(Predictor):
    """Linear regression on the standardised, one-hot coded features with an L2 penalty.

    Args:
        alpha: weight of the penalty against the sum of squared errors, > 0.
        link: see ``link.Link``; the regression is on its line.
        floor, perfect: see ``link.check_ends``.
    """

    def __init__(
        self,
        *,
        alpha: float = 1.0,
        link: Kind = "identity",
        floor: float = 0.0,
        perfect: float = 1.0,
    ) -> None:
        self.alpha = alpha
        self.link = link
        self.floor = floor
        self.perfect = perfect

    def fit_packed(self, packed: Any) -> Self:
        """Fit the coefficients."""
        X, y = packed
        self.link_ = Link.fit(self.link, y, floor=self.floor, perfect=self.perfect)
        self.preprocessing_ = Preparation(scale=True)
        columns = self.preprocessing_.fit_transform(X)
        self.means_ = columns.mean(axis=0)
        self.model_ = linear_model.Ridge(alpha=self.alpha).fit(columns, self.link_.to_line(y))
        # ``identity`` and ``chance`` are straight: a step on the line is so many steps of the score.
        self.step_ = float(np.diff(self.link_.from_line(np.array([0.0, 1.0])))[0])
        return self

    def predict(self, X: pd.DataFrame) -> np.ndarray:
        """Predicted scores [models], as fractions; under the identity nothing keeps them within 0 and 1."""
        return self.link_.from_line(self.model_.predict(self.preprocessing_.transform(X)))

    def contributions(self, X: pd.DataFrame) -> np.ndarray | None:
        """Shapley values [models, features] against the training means, as fractions; None under a logit."""
        if self.link == "logit":
            return None
        return per_feature(
            self.preprocessing_, self.model_.coef_ * self.step_ * (self.preprocessing_.transform(X) - self.means_)
        )
