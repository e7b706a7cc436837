"""Extremely randomised trees whose prediction is a median of training scores."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import pandas as pd
from sklearn import config_context
from sklearn.tree import ExtraTreeRegressor

from njsl.core.types import ConfigError
from njsl.predict.base import Predictor, Preparation, with_compute


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
        """Grow the trees and note which training model lies in which leaf.

        Raises:
            ConfigError: a parameter is out of range.
        """
        X, y = packed
        if self.n_estimators < 1 or self.min_samples_leaf < 1 or not 0 < self.max_features <= 1:
            raise ConfigError(
                f"median_forest: n_estimators={self.n_estimators}, min_samples_leaf={self.min_samples_leaf}, "
                f"max_features={self.max_features}; at least 1, at least 1 and a share in (0, 1] are accepted"
            )
        self.preprocessing_ = Preparation(scale=False)
        rows = np.asarray(self.preprocessing_.fit_transform(with_compute(X)), dtype=np.float32)
        order = np.argsort(y, kind="stable")
        self.scores_ = np.asarray(y, dtype=np.float64)[order]
        # ExtraTreesRegressor's trees without its bookkeeping, two thirds of its time on 90 rows.
        seeds = np.random.RandomState(self.random_state).randint(np.iinfo(np.int32).max, size=self.n_estimators)
        shape = {"min_samples_leaf": self.min_samples_leaf, "max_features": self.max_features}
        with config_context(skip_parameter_validation=True):
            trees = [ExtraTreeRegressor(**shape, random_state=seed) for seed in seeds]
            self.trees_ = [tree.fit(rows[order], self.scores_, check_input=False).tree_ for tree in trees]
        self.leaves_ = [tree.apply(rows[order]) for tree in self.trees_]
        return self

    def weights(self, X: pd.DataFrame) -> np.ndarray:
        """Weights [models, training models by rising score], each row summing to 1."""
        rows = np.asarray(self.preprocessing_.transform(with_compute(X)), dtype=np.float32)
        total = np.zeros((len(X), len(self.scores_)))
        for tree, theirs in zip(self.trees_, self.leaves_, strict=True):
            together = tree.apply(rows)[:, None] == theirs
            total += together / together.sum(axis=1, keepdims=True)
        return total / len(self.trees_)

    def predict(self, X: pd.DataFrame) -> np.ndarray:
        """Predicted scores [models], as fractions: the lowest training score with half of the weight at or below it."""
        reached = np.cumsum(self.weights(X), axis=1) >= 0.5 - 1e-12
        return self.scores_[reached.argmax(axis=1)]
