"""LightGBM on all features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import pandas as pd

from njsl.predict.base import Context, Predictor


class LightGBM(Predictor):
    """Gradient-boosted trees grown leaf by leaf, with missing values and categories as they are.

    Args:
        learning_rate: share of each tree's correction that is kept, in (0, 1].
        num_leaves: most leaves of a tree.
        min_child_samples: fewest training models in a leaf, and in a category that is split on; LightGBM's own 20 and
            100 leave nothing to split among fifty models.
        n_estimators: number of trees.
    """

    missing = "native"
    path = "n_estimators"

    def __init__(
        self, *, learning_rate: float = 0.1, num_leaves: int = 8, min_child_samples: int = 5, n_estimators: int = 100
    ) -> None:
        self.learning_rate = learning_rate
        self.num_leaves = num_leaves
        self.min_child_samples = min_child_samples
        self.n_estimators = n_estimators

    def pack(self, X: pd.DataFrame, y: np.ndarray | None = None, context: Context | None = None) -> Any:
        """The frame and, given scores, its ``lightgbm.Dataset``."""
        import lightgbm

        if y is None:
            return X, None
        # The matrix is shared by a grid: features that one min_child_samples rules out may serve under another.
        parameters = {"feature_pre_filter": False, "num_threads": 1, "verbose": -1}
        return X, lightgbm.Dataset(X, label=y, params=parameters, free_raw_data=False)

    def fit_packed(self, packed: Any) -> Self:
        """Grow the trees."""
        import lightgbm

        _, dataset = packed
        parameters = {
            "objective": "regression",
            "learning_rate": self.learning_rate,
            "num_leaves": self.num_leaves,
            "min_data_in_leaf": self.min_child_samples,
            "min_data_per_group": self.min_child_samples,
            "deterministic": True,
            "force_row_wise": True,
            "num_threads": 1,
            "verbose": -1,
        }
        self.booster_ = lightgbm.Booster(parameters, dataset)
        for _ in range(self.n_estimators):
            self.booster_.update()
        return self

    def predict(self, X: pd.DataFrame) -> np.ndarray:
        """Predicted scores [models], as fractions."""
        return np.asarray(self.booster_.predict(X))

    def predict_path(self, packed: Any, values: Sequence[int]) -> list[np.ndarray]:
        """Predictions [models] of the first so many trees."""
        return [np.asarray(self.booster_.predict(packed[0], num_iteration=trees)) for trees in values]

    def importances(self) -> pd.Series:
        """Gain of the splits on each feature, as shares."""
        gains = pd.Series(self.booster_.feature_importance("gain"), index=self.booster_.feature_name())
        return gains / (gains.sum() or 1.0)

    def contributions(self, X: pd.DataFrame) -> np.ndarray:
        """Shapley values [models, features] along the trees' own branch frequencies, as fractions."""
        return np.asarray(self.booster_.predict(X, pred_contrib=True))[:, :-1]
