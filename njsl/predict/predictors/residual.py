"""A scaling plane, and trees for what it leaves unexplained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import pandas as pd
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.linear_model import LinearRegression

from njsl.predict.base import SCALE, Context, MedianImputer, Predictor, Preparation
from njsl.predict.link import Kind, Link


class Residual(Predictor):
    """Plane over ln parameters and ln tokens + a share of what extremely randomised trees say of its residuals.

    The plane answers beyond the training models' scale, where trees stay flat; the trees add what data and
    architecture have to say, and the share keeps them from being believed further than they were right elsewhere.

    Args:
        shrink: the share, 0 (the plane alone) to 1 (residuals as the trees have them).
        min_samples_leaf: fewest training models in a leaf.
        n_estimators: number of trees.
        link: see ``link.Link``; plane and residuals are on its line.
        floor, perfect: see ``link.check_ends``.
        random_state: seed of the features and thresholds tried.
    """

    needs = SCALE
    path = "shrink"

    def __init__(
        self,
        *,
        shrink: float = 0.5,
        min_samples_leaf: int = 3,
        n_estimators: int = 50,
        link: Kind = "identity",
        floor: float = 0.0,
        perfect: float = 1.0,
        random_state: int = 0,
    ) -> None:
        self.shrink = shrink
        self.min_samples_leaf = min_samples_leaf
        self.n_estimators = n_estimators
        self.link = link
        self.floor = floor
        self.perfect = perfect
        self.random_state = random_state

    def pack(self, X: pd.DataFrame, y: np.ndarray | None = None, context: Context | None = None) -> Any:
        """The rows, and given scores these, the preparation of columns and the prepared columns."""
        self.needed(X)
        if y is None:
            return X, None
        prepared = Preparation(scale=False)
        return X, y, prepared, prepared.fit_transform(X)

    def fit_packed(self, packed: Any) -> Self:
        """Fit the plane, then grow trees on its residuals."""
        X, y, self.preprocessing_, columns = packed
        self.link_ = Link.fit(self.link, y, floor=self.floor, perfect=self.perfect)
        z = self.link_.to_line(y)
        self.imputer_ = MedianImputer().fit(self.needed(X))
        scale = self.imputer_.transform(self.needed(X))
        self.plane_ = LinearRegression().fit(scale, z)
        self.model_ = ExtraTreesRegressor(
            self.n_estimators, min_samples_leaf=self.min_samples_leaf, random_state=self.random_state, n_jobs=1
        ).fit(columns, z - self.plane_.predict(scale))
        return self

    def predict(self, X: pd.DataFrame) -> np.ndarray:
        """Predicted medians [models], as fractions; under the identity nothing keeps them within 0 and 1."""
        return self.predict_path((X, None), [self.shrink])[0]

    def predict_path(self, packed: Any, values: Sequence[float]) -> list[np.ndarray]:
        """Predictions [models] for each share."""
        X = packed[0]
        plane = self.plane_.predict(self.imputer_.transform(self.needed(X)))
        trees = self.model_.predict(self.preprocessing_.transform(X))
        return [self.link_.from_line(plane + share * trees) for share in values]
