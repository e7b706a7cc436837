"""The contract of a predictor, and the preparation most of them share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.impute import SimpleImputer
from sklearn.model_selection import GroupKFold, KFold

from njsl.core.types import DataError

LN_PARAMS, LN_TOKENS = "ln_total_params", "ln_total_tokens_billions"
SCALE = (LN_PARAMS, LN_TOKENS)
LN_COMPUTE, LN_TOKENS_PER_PARAM = "ln_compute", "ln_tokens_per_param"


@dataclass(frozen=True)
class Context:
    """What a predictor may know of models besides features: who made them, and training models' scores elsewhere.

    Rows are found by model id, which is the index of every ``X``.

    Attributes:
        groups: columns ``org`` and ``family`` by model id, of all models; neither is a score.
        labels: scores by model id and task [models, tasks], fractions, NaN = none. What a predictor is given holds
            training models alone.
        stderr: standard error of the task's label by model id, as a fraction, NaN = unknown; training models alone.
        whole: the group that the protocol holds out whole, and so must folds within the training models; None: models
            are held out one by one.
        task: the column of ``labels`` that is predicted; None: it is not among them.
    """

    groups: pd.DataFrame
    labels: pd.DataFrame
    stderr: pd.Series
    whole: Literal["org", "family"] | None = None
    task: str | None = None

    @classmethod
    def alone(cls, X: pd.DataFrame, y: np.ndarray) -> Context:
        """What is known where nobody says more: scores on the one task, and every model a group of its own."""
        ids = X.index
        groups = pd.DataFrame({"org": ids, "family": ids}, index=ids)
        return cls(groups, pd.DataFrame({"y": y}, index=ids), pd.Series(np.nan, index=ids), task="y")

    def only(self, ids: Iterable[Any]) -> Context:
        """The context of these training models: no score of another model is left in it."""
        rows = pd.Index(ids)
        return replace(self, labels=self.labels.loc[rows], stderr=self.stderr.loc[rows])

    def folds(self, ids: Sequence[Any], count: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """At most ``count`` (fit, score) positions among training models, as the protocol itself holds out.

        With fewer groups than ``count`` there is a fold per group.

        Raises:
            DataError: all models are of one group.
        """
        if self.whole is None:
            return list(KFold(min(count, len(ids)), shuffle=True, random_state=seed).split(ids))
        groups = self.groups.loc[list(ids), self.whole].to_numpy()
        number = len(set(groups))
        if number < 2:
            raise DataError(f"the training models are of one {self.whole}; at least 2 are needed")
        return list(GroupKFold(min(count, number), shuffle=True, random_state=seed).split(groups, groups=groups))


class Predictor(RegressorMixin, BaseEstimator, ABC):
    """One regression method under scikit-learn's estimator rules.

    The constructor takes keyword arguments only, and only stores them. ``X`` is a data frame [models, features] whose
    columns are float (NaN = missing) or pandas ``category`` (NaN = missing), indexed by model id; ``y`` [models] is a
    score in its metric's unit, mostly a fraction. ``fit`` may be given a ``Context``; without one a predictor knows of
    no groups, no other tasks and no standard errors.
    What is fitted ends in ``_``; whatever is random takes ``random_state``. Three parameters are filled in by the
    runner where a predictor has them: ``random_state`` (the seed), ``floor`` and ``perfect`` (see
    ``link.check_ends``).

    In a yaml of ``conf/predictor`` a list stands for a grid axis, tuned on the inner folds of the split; a single
    value is fixed. Axes are searched in the yaml's order, ties go to the first.

    Class attributes:
        missing: ``native`` if missing values reach the model as they are, ``impute`` if they are filled with what the
            training rows say.
        needs: columns without which the predictor cannot run.
        path: a parameter along which one fit at the largest value also yields every smaller one (the number of trees
            of a booster); see ``predict_path``.

    Attributes:
        unseen_: out-of-fold predictions [models] of the training models, where fitting makes them, else None.
    """

    missing: ClassVar[str] = "impute"
    needs: ClassVar[tuple[str, ...]] = ()
    path: ClassVar[str | None] = None
    unseen_: np.ndarray | None = None

    def pack(self, X: pd.DataFrame, y: np.ndarray | None = None, context: Context | None = None) -> Any:
        """The form ``fit_packed`` and ``predict_path`` read, made once per fold and shared by the whole grid.

        Here ``(X, y)``; a predictor that uses the context packs it too.
        """
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

    def fit(self, X: pd.DataFrame, y: np.ndarray, context: Context | None = None) -> Self:
        """Fit on the rows of ``X`` [models, features], the scores ``y`` [models] and what else is known of them."""
        self.feature_names_in_ = X.columns.to_numpy(dtype=object)
        return self.fit_packed(self.pack(X, y, context))

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

    def trees(self) -> tuple[Preparation, Any] | None:
        """The ``Preparation`` and the scikit-learn tree ensemble behind it, if that is what was fitted."""
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


class Preparation:
    """Gaps filled with the training median, categories one-hot, numbers optionally standardised.

    What scikit-learn's ColumnTransformer, SimpleImputer, StandardScaler and OneHotEncoder make of the same rows, at a
    twentieth of the time: on 90 rows a fit of theirs costs as much as growing fifty trees.

    A column that is wholly missing among the training rows becomes 0 everywhere and so carries nothing. A category not
    seen in training becomes all zeros; a missing one is a category of its own.

    Args:
        scale: standardise the numeric columns to mean 0 and variance 1.

    Raises:
        DataError: a number is infinite.
    """

    def __init__(self, *, scale: bool) -> None:
        self.scale = scale

    def fit(self, X: pd.DataFrame) -> Self:
        """Medians, means and deviations of numbers, labels of categories, from training rows alone."""
        self.feature_names_in_ = X.columns.to_numpy(dtype=object)
        self.categories_ = [name for name in X.columns if isinstance(X[name].dtype, pd.CategoricalDtype)]
        self.numbers_ = [name for name in X.columns if name not in self.categories_]
        values = self._values(X)
        self.empty_ = np.isnan(values).all(axis=0)
        self.medians_ = np.zeros(len(self.numbers_))
        self.medians_[~self.empty_] = np.nanmedian(values[:, ~self.empty_], axis=0)
        self.means_, self.units_ = np.zeros(len(self.numbers_)), np.ones(len(self.numbers_))
        if self.scale:
            filled = self._filled(values)
            self.means_, deviations = filled.mean(axis=0), filled.std(axis=0)
            # A constant column's deviation is rounding; scikit-learn draws the same line.
            flat = deviations <= 10 * np.finfo(float).eps * np.maximum(np.abs(self.means_), 1e-300) * len(X)
            self.units_ = np.where(flat, 1.0, deviations)
        self.labels_ = [_present(X[name]) for name in self.categories_]
        widths = [1] * len(self.numbers_) + [len(labels) for labels in self.labels_]
        owners = np.repeat(np.array([*self.numbers_, *self.categories_], dtype=object), widths)
        self.owners_ = pd.Index(self.feature_names_in_).get_indexer(owners)
        return self

    def transform(self, X: pd.DataFrame) -> np.ndarray:
        """Rows [models, transformed columns]: numbers, then the labels of each category, missing last."""
        numbers = (self._filled(self._values(X)) - self.means_) / self.units_
        blocks = [numbers]
        for name, labels in zip(self.categories_, self.labels_, strict=True):
            column = X[name].cat
            position = {label: code for code, label in enumerate(column.categories)} | {None: -1}
            wanted = np.array([position.get(label, -2) for label in labels], dtype=int)  # -2: unknown to these rows
            blocks.append((column.codes.to_numpy()[:, None] == wanted).astype("float64"))
        return np.hstack(blocks)

    def fit_transform(self, X: pd.DataFrame) -> np.ndarray:
        """``fit``, then ``transform`` of the same rows."""
        return self.fit(X).transform(X)

    def _values(self, X: pd.DataFrame) -> np.ndarray:
        values = X[self.numbers_].to_numpy(dtype="float64")
        endless = np.isinf(values).any(axis=0)
        if endless.any():
            names = [name for name, bad in zip(self.numbers_, endless, strict=True) if bad]
            raise DataError(f"features: {', '.join(map(str, names))}: infinite; finite numbers and gaps are accepted")
        return values

    def _filled(self, values: np.ndarray) -> np.ndarray:
        return np.where(np.isnan(values) | self.empty_, self.medians_, values)


def _present(column: pd.Series) -> list[Any]:
    """Sorted labels of a category that occur; None last if some are missing."""
    codes = column.cat.codes.to_numpy()
    labels = sorted(column.cat.categories[np.unique(codes[codes >= 0])].tolist())
    return [*labels, *([None] if (codes < 0).any() else [])]


def with_compute(X: pd.DataFrame) -> pd.DataFrame:
    """With ln of compute and of tokens per parameter, up to constants, where parameters and tokens are there."""
    if not set(SCALE) <= set(X.columns):
        return X
    compute, ratio = X[LN_PARAMS] + X[LN_TOKENS], X[LN_TOKENS] - X[LN_PARAMS]
    return X.assign(**{LN_COMPUTE: compute, LN_TOKENS_PER_PARAM: ratio})


def numeric(X: pd.DataFrame) -> np.ndarray:
    """The rows as floats [rows, columns]: categories as the rank of their label, missing as NaN."""
    columns = [
        X[name].cat.codes.astype("float64").where(X[name].notna())
        if isinstance(X[name].dtype, pd.CategoricalDtype)
        else X[name].astype("float64")
        for name in X
    ]
    return np.column_stack([column.to_numpy() for column in columns])


def per_feature(preparation: Preparation, values: np.ndarray) -> np.ndarray:
    """Sum values [..., transformed columns] over one-hot columns back to the features [..., features] they code.

    Args:
        preparation: fitted.
        values: one number per transformed column in the last axis: importances, contributions.
    """
    return values @ np.eye(len(preparation.feature_names_in_))[preparation.owners_]
