"""Extremely randomised trees on all features."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import pandas as pd
from sklearn.ensemble import ExtraTreesRegressor

from njsl.predict.base import Predictor, Preparation, per_feature


class ExtraTrees(Predictor):
    """The mean of regression trees whose splits are the best of random ones, each grown on all models.

    Args:
        n_estimators: number of trees.
        min_samples_leaf: fewest training models in a leaf.
        max_features: share of the features tried at each split, in (0, 1].
        random_state: seed of the features and thresholds tried.
    """

    def __init__(
        self,
        *,
        n_estimators: int = 100,
        min_samples_leaf: int = 2,
        max_features: float = 1.0,
        random_state: int = 0,
    ) -> None:
        self.n_estimators = n_estimators
        self.min_samples_leaf = min_samples_leaf
        self.max_features = max_features
        self.random_state = random_state

    def fit_packed(self, packed: Any) -> Self:
        """Grow the trees."""
        X, y = packed
        self.preprocessing_ = Preparation(scale=False)
        self.model_ = ExtraTreesRegressor(**self.get_params(), n_jobs=1).fit(self.preprocessing_.fit_transform(X), y)
        return self

    def predict(self, X: pd.DataFrame) -> np.ndarray:
        """Predicted scores [models], as fractions within the range of the training scores."""
        rows = np.asarray(self.preprocessing_.transform(X), dtype=np.float32)
        # The mean that the forest's own method takes, without its thread pool: most of its time on a few rows.
        return np.mean([tree.tree_.predict(rows)[:, 0] for tree in self.model_.estimators_], axis=0)

    def trees(self) -> tuple[Preparation, Any]:
        """The trees and what encodes their columns."""
        return self.preprocessing_, self.model_

    def importances(self) -> pd.Series:
        """Share of the fall in squared error that each feature's splits brought, in the training models."""
        shares = per_feature(self.preprocessing_, self.model_.feature_importances_)
        return pd.Series(shares, index=self.preprocessing_.feature_names_in_)
