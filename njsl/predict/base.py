"""The contract of a predictor, and the preparation most of them share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from njsl.core.types import DataError

LN_PARAMS, LN_TOKENS = "ln_total_params", "ln_total_tokens_billions"
SCALE = (LN_PARAMS, LN_TOKENS)


class Predictor(RegressorMixin, BaseEstimator, ABC):
    """One regression method under scikit-learn's estimator rules.

    The constructor takes keyword arguments only, and only stores them. ``X`` is a data frame [models, features] whose
    columns are float (NaN = missing) or pandas ``category`` (NaN = missing); ``y`` [models] is a score as a fraction.
    What is fitted ends in ``_``; whatever is random takes ``random_state``. Three parameters are filled in by the
    runner where a predictor has them: ``random_state`` (the seed), ``chance`` (the score of guessing, from the task
    table) and ``higher_is_better``.

    In a yaml of ``conf/predictor`` a list stands for a grid axis, tuned on the inner folds of the split; a single
    value is fixed. Axes are searched in the yaml's order, ties go to the first.

    Class attributes:
        missing: ``native`` if missing values reach the model as they are, ``impute`` if they are filled with what the
            training rows say.
        needs: columns without which the predictor cannot run.
        path: a parameter along which one fit at the largest value also yields every smaller one (the number of trees
            of a booster); see ``predict_path``.
    """

    missing: ClassVar[str] = "impute"
    needs: ClassVar[tuple[str, ...]] = ()
    path: ClassVar[str | None] = None

    def pack(self, X: pd.DataFrame, y: np.ndarray | None = None) -> Any:
        """The form ``fit_packed`` and ``predict_path`` read, made once per fold and shared by the whole grid."""
        self.needed(X)
        return X, y

    def needed(self, X: pd.DataFrame) -> pd.DataFrame:
        """The columns of ``X`` that ``needs`` names.

        Raises:
            DataError: a needed column is not there.
        """
        missing = [name for name in self.needs if name not in X.columns]
        if missing:
            raise DataError(
                f"{type(self).__name__}: the features lack {', '.join(missing)}; it runs only on feature sets with "
                f"{' and '.join(self.needs)}."
            )
        return X[list(self.needs)]

    def fit(self, X: pd.DataFrame, y: np.ndarray) -> Self:
        """Fit on the rows of ``X`` [models, features] and the scores ``y`` [models]."""
        self.feature_names_in_ = X.columns.to_numpy(dtype=object)
        return self.fit_packed(self.pack(X, y))

    @abstractmethod
    def fit_packed(self, packed: Any) -> Self:
        """Fit on what ``pack`` made."""

    @abstractmethod
    def predict(self, X: pd.DataFrame) -> np.ndarray:
        """Predicted scores [models], as fractions."""

    def predict_path(self, packed: Any, values: Sequence[Any]) -> list[np.ndarray]:
        """Predictions [models] for each value of the ``path`` parameter; without a path, the one fit's."""
        return [self.predict(packed[0])]

    def importances(self) -> pd.Series | None:
        """Gain importances by feature, summing to 1 (all 0 if nothing was split on); None where not defined."""
        return None

    def contributions(self, X: pd.DataFrame) -> np.ndarray | None:
        """Exact Shapley values [models, features] in the units of y, where the method has them in closed form."""
        return None

    def trees(self) -> tuple[ColumnTransformer, Any] | None:
        """What ``preprocessing`` made and the scikit-learn tree ensemble behind it, if that is what was fitted."""
        return None


class MedianImputer(SimpleImputer):
    """Fills gaps with the training median; a column without any training value is 0, whatever a later row holds.

    scikit-learn's own imputer passes such later values on, and a distance between rows would then be all about them.
    """

    def __init__(self) -> None:
        super().__init__(strategy="median", keep_empty_features=True)

    def fit(self, X: pd.DataFrame, y: np.ndarray | None = None) -> Self:
        """Medians [features] of the training rows, and which columns have none."""
        self.empty_ = np.isnan(np.asarray(X, dtype=float)).all(axis=0)
        super().fit(X)
        return self

    def transform(self, X: pd.DataFrame) -> np.ndarray:
        """Rows [models, features] without gaps."""
        return np.where(self.empty_, 0.0, super().transform(X))


def preprocessing(X: pd.DataFrame, *, scale: bool) -> ColumnTransformer:
    """Impute with the training median, one-hot the categories, optionally standardise: all fitted on training rows.

    A column that is wholly missing among the training rows becomes 0 everywhere and so carries nothing. A category not
    seen in training becomes all zeros; a missing one is a category of its own.

    Args:
        X: training rows; only its column types are read here.
        scale: standardise the numeric columns to mean 0 and variance 1.
    """
    categories = [name for name in X.columns if isinstance(X[name].dtype, pd.CategoricalDtype)]
    numbers = [name for name in X.columns if name not in categories]
    return ColumnTransformer(
        [
            ("numbers", make_pipeline(MedianImputer(), *([StandardScaler()] if scale else [])), numbers),
            ("categories", OneHotEncoder(handle_unknown="ignore", sparse_output=False), categories),
        ]
    )


def per_feature(transformer: ColumnTransformer, values: np.ndarray) -> np.ndarray:
    """Sum values [..., transformed columns] over one-hot columns back to the features [..., features] they code.

    Args:
        transformer: what ``preprocessing`` made, fitted.
        values: one number per transformed column in the last axis: importances, contributions.
    """
    (_, _, numbers), (_, encoder, categories) = transformer.transformers_
    widths = [1] * len(numbers) + ([len(labels) for labels in encoder.categories_] if categories else [])
    features = pd.Index(transformer.feature_names_in_)
    onto = features.get_indexer(np.repeat(np.array([*numbers, *categories], dtype=object), widths))
    return values @ np.eye(len(features))[onto]
