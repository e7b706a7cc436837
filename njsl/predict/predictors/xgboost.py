"""XGBoost: the paper's predictor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import pandas as pd

from njsl.predict.base import Context, Predictor


class XGBoost(Predictor):
    """Gradient-boosted trees that send missing values and unseen categories down a learned default branch.

    Squared error and XGBoost's defaults but for the arguments. One thread: the fits are small and run side by side.

    Args:
        learning_rate: share of each tree's correction that is kept, in (0, 1].
        max_depth: largest depth of a tree.
        n_estimators: number of trees.
        random_state: seed; without subsampling nothing depends on it.
    """

    missing = "native"
    path = "n_estimators"

    def __init__(
        self, *, learning_rate: float = 0.1, max_depth: int = 3, n_estimators: int = 100, random_state: int = 0
    ) -> None:
        self.learning_rate = learning_rate
        self.max_depth = max_depth
        self.n_estimators = n_estimators
        self.random_state = random_state

    def pack(self, X: pd.DataFrame, y: np.ndarray | None = None, context: Context | None = None) -> Any:
        """One ``xgboost.DMatrix`` in single precision, the labels of each category, and the columns in order.

        Plain numbers go without column names: XGBoost would copy them anew before every tree, a third of the cost of
        a fit on 60 rows.
        """
        import xgboost

        labels = {name: X[name].cat.categories for name in X if isinstance(X[name].dtype, pd.CategoricalDtype)}
        numbers = X.columns.difference(list(labels))
        data: Any = X.astype(dict.fromkeys(numbers, np.float32)) if labels else X.to_numpy(np.float32)
        for name, known in labels.items():
            # XGBoost reads labels as text and wants at least one, even for a column without any value.
            text = pd.Index([str(label) for label in known] or [""])
            data[name] = pd.Categorical.from_codes(X[name].cat.codes.to_numpy(), text)
        return xgboost.DMatrix(data, label=y, enable_categorical=bool(labels), nthread=1), labels, list(X.columns)

    def fit_packed(self, packed: Any) -> Self:
        """Grow the trees."""
        import xgboost

        matrix, self.labels_, columns = packed
        self.feature_names_in_ = np.array(columns, dtype=object)
        parameters = {
            "objective": "reg:squarederror",
            "learning_rate": self.learning_rate,
            "max_depth": self.max_depth,
            "seed": self.random_state,
            "nthread": 1,
        }
        # The loop of xgboost.train without its bookkeeping: the same trees at less than half the time on 60 rows.
        self.booster_ = xgboost.Booster(parameters, [matrix])
        for iteration in range(self.n_estimators):
            self.booster_.update(matrix, iteration)
        return self

    def predict(self, X: pd.DataFrame) -> np.ndarray:
        """Predicted scores [models], as fractions."""
        return self.booster_.predict(self._matrix(X)).astype(float)

    def predict_path(self, packed: Any, values: Sequence[int]) -> list[np.ndarray]:
        """Predictions [models] of the first so many trees, for rows with the labels of the training rows."""
        matrix, *_ = packed
        return [self.booster_.predict(matrix, iteration_range=(0, trees)).astype(float) for trees in values]

    def importances(self) -> pd.Series:
        """Gain of all splits on each feature, as shares."""
        gains: dict[str, Any] = self.booster_.get_score(importance_type="total_gain")
        keys = self.booster_.feature_names or [f"f{number}" for number in range(len(self.feature_names_in_))]
        shares = pd.Series([gains.get(key, 0.0) for key in keys], index=self.feature_names_in_)
        return shares / (shares.sum() or 1.0)

    def contributions(self, X: pd.DataFrame) -> np.ndarray:
        """Shapley values [models, features] along the trees' own branch frequencies, as fractions."""
        return self.booster_.predict(self._matrix(X), pred_contribs=True)[:, :-1].astype(float)

    def _matrix(self, X: pd.DataFrame) -> Any:
        """The rows with the labels of the training rows; XGBoost refuses others, so they become missing."""
        X = X[list(self.feature_names_in_)]  # without column names XGBoost goes by position
        recoded = {name: X[name].cat.set_categories(known) for name, known in self.labels_.items()}
        matrix, *_ = self.pack(X.assign(**recoded))
        return matrix
