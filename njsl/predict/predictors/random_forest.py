"""A random forest on all features."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import pandas as pd
from sklearn.ensemble import RandomForestRegressor

from njsl.predict.base import Predictor, Preparation, per_feature


class RandomForest(Predictor):
    """The mean of regression trees, each grown on a bootstrap sample of the models.

    Args:
        n_estimators: number of trees.
        max_depth: largest depth of a tree; null grows until ``min_samples_leaf`` stops it.
        min_samples_leaf: fewest training models in a leaf.
        max_features: share of the features tried at each split, in (0, 1].
        random_state: seed of the bootstrap and of the features tried.
    """

    def __init__(
        self,
        *,
        n_estimators: int = 100,
        max_depth: int | None = None,
        min_samples_leaf: int = 1,
        max_features: float = 0.5,
        random_state: int = 0,
    ) -> None:
        self.n_estimators = n_estimators
        self.max_depth = max_depth
        self.min_samples_leaf = min_samples_leaf
        self.max_features = max_features
        self.random_state = random_state

    def fit_packed(self, packed: Any) -> Self:
        """Grow the trees."""
        X, y = packed
        self.preprocessing_ = Preparation(scale=False)
        self.model_ = RandomForestRegressor(**self.get_params(), n_jobs=1).fit(self.preprocessing_.fit_transform(X), y)
        return self

    def predict(self, X: pd.DataFrame) -> np.ndarray:
        """Predicted scores [models], as fractions within the range of the training scores."""
        return self.model_.predict(self.preprocessing_.transform(X))

    def trees(self) -> tuple[Preparation, Any]:
        """The forest and what encodes its columns."""
        return self.preprocessing_, self.model_

    def importances(self) -> pd.Series:
        """Share of the fall in squared error that each feature's splits brought, in the training models."""
        shares = per_feature(self.preprocessing_, self.model_.feature_importances_)
        return pd.Series(shares, index=self.preprocessing_.feature_names_in_)
