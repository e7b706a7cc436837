"""Boosted trees on the shares (RegMix; Liu et al. 2024, arXiv 2407.01492)."""

from __future__ import annotations

from typing import Self

import numpy as np

from njsl.predict.law import Law


class RegMixLightGBM(Law):
    """LightGBM with squared error. Its predictions are steps: many mixes are predicted alike.

    Args:
        learning_rate: share of each tree's correction that is kept, in (0, 1].
        num_leaves: most leaves of a tree.
        min_child_samples: fewest runs in a leaf; LightGBM's own 20, which the paper keeps for its 512 proxies, leaves
            nothing to split among some dozens.
        n_estimators: number of trees.
    """

    def __init__(
        self, *, learning_rate: float = 0.05, num_leaves: int = 6, min_child_samples: int = 3, n_estimators: int = 200
    ) -> None:
        self.learning_rate = learning_rate
        self.num_leaves = num_leaves
        self.min_child_samples = min_child_samples
        self.n_estimators = n_estimators

    def fit_runs(self, shares: np.ndarray, loss: np.ndarray) -> Self:
        """Grow the trees, on losses of mean 0 and deviation 1: LightGBM keeps labels in single precision."""
        import lightgbm

        self.middle_, self.unit_ = float(loss.mean()), float(loss.std()) or 1.0
        parameters = {
            "objective": "regression",
            "learning_rate": self.learning_rate,
            "num_leaves": self.num_leaves,
            "min_data_in_leaf": self.min_child_samples,
            "min_data_in_bin": 1,
            "deterministic": True,
            "force_row_wise": True,
            "num_threads": 1,
            "verbose": -1,
        }
        data = lightgbm.Dataset(shares, label=(loss - self.middle_) / self.unit_, params=parameters)
        self.booster_ = lightgbm.train(parameters, data, num_boost_round=self.n_estimators)
        return self

    def predict(self, shares: np.ndarray) -> np.ndarray:
        """Expected loss [mixes]."""
        return self.middle_ + self.unit_ * np.asarray(self.booster_.predict(shares))
