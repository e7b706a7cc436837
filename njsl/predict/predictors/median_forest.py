"""Extremely randomised trees whose prediction is a median of training scores."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import pandas as pd
from sklearn.ensemble import ExtraTreesRegressor

from njsl.predict.base import Predictor, preprocessing, with_compute


class MedianForest(Predictor):
    """The weighted median of the training scores, weighted by how often a tree puts them into the model's leaf.

    A mean minimises squared error; what is reported is absolute error, which a median minimises, and where scores lie
    either at chance or well above it the two are far apart. Splits see training compute and tokens per parameter
    beside parameters and tokens: a tree cuts along axes, and scaling runs along their diagonal.

    Source: Meinshausen 2006 (JMLR 7) for the weights, Geurts et al. 2006 (Machine Learning 63) for the trees.

    Args:
        n_estimators: number of trees.
        min_samples_leaf: fewest training models in a leaf.
        max_features: share of the features tried at each split, in (0, 1].
        random_state: seed of the cuts tried.
    """

    def __init__(
        self,
        *,
        n_estimators: int = 100,
        min_samples_leaf: int = 3,
        max_features: float = 1.0,
        random_state: int = 0,
    ) -> None:
        self.n_estimators = n_estimators
        self.min_samples_leaf = min_samples_leaf
        self.max_features = max_features
        self.random_state = random_state

    def fit_packed(self, packed: Any) -> Self:
        """Grow the trees and note which training model lies in which leaf."""
        X, y = packed
        self.preprocessing_ = preprocessing(X := with_compute(X), scale=False)
        rows = self.preprocessing_.fit_transform(X)
        self.model_ = ExtraTreesRegressor(**self.get_params(), n_jobs=1).fit(rows, y)
        order = np.argsort(y, kind="stable")
        self.scores_, self.leaves_ = np.asarray(y)[order], self.model_.apply(rows)[order]
        return self

    def weights(self, X: pd.DataFrame) -> np.ndarray:
        """Weights [models, training models by rising score], each row summing to 1."""
        rows = np.asarray(self.preprocessing_.transform(with_compute(X)), dtype=np.float32)
        total = np.zeros((len(X), len(self.scores_)))
        # Tree by tree: the forest's own method spends most of its time on a few rows starting threads.
        for tree, theirs in zip(self.model_.estimators_, self.leaves_.T, strict=True):
            together = tree.tree_.apply(rows)[:, None] == theirs
            total += together / together.sum(axis=1, keepdims=True)
        return total / len(self.model_.estimators_)

    def predict(self, X: pd.DataFrame) -> np.ndarray:
        """Predicted scores [models], as fractions: the lowest training score with half of the weight at or below it."""
        reached = np.cumsum(self.weights(X), axis=1) >= 0.5 - 1e-12
        return self.scores_[reached.argmax(axis=1)]
