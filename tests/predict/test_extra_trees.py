"""Extremely randomised trees: scikit-learn's on the prepared columns, and what their splits say."""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.ensemble import ExtraTreesRegressor

from njsl.predict.explain import shap_values
from njsl.predict.predictors.extra_trees import ExtraTrees


def models(seed: int, count: int = 60) -> tuple[pd.DataFrame, np.ndarray]:
    random = np.random.default_rng(seed)
    X = pd.DataFrame({"a": random.normal(size=count), "b": random.normal(size=count)})
    X["kind"] = pd.Categorical(random.choice(["p", "q"], count))
    y = 0.5 + 0.1 * np.sign(X["a"]) + 0.05 * (X["kind"] == "p")
    return X.mask(random.random(X.shape) < 0.1), y.to_numpy()


def by_hand(X: pd.DataFrame, filled_from: pd.DataFrame) -> np.ndarray:
    """Gaps of numbers filled with the training median, then p, q and missing as 0 and 1."""
    numbers = [X[name].fillna(filled_from[name].median()) for name in ("a", "b")]
    kinds = [X["kind"] == "p", X["kind"] == "q", X["kind"].isna()]
    return np.column_stack([*numbers, *kinds]).astype(float)


def test_scikit_learns_trees_on_prepared_columns() -> None:
    X, y = models(0)
    new, _ = models(1)
    ours = ExtraTrees(n_estimators=20, min_samples_leaf=2, max_features=0.6, random_state=5).fit(X, y)
    theirs = ExtraTreesRegressor(20, min_samples_leaf=2, max_features=0.6, random_state=5).fit(by_hand(X, X), y)
    np.testing.assert_array_equal(ours.predict(new), theirs.predict(by_hand(new, X)))
    far = new.assign(a=new["a"] * 100)
    assert y.min() <= ours.predict(far).min() and ours.predict(far).max() <= y.max()


def test_importances_and_shap_values_agree_on_what_counts() -> None:
    X, y = models(2)
    model = ExtraTrees(n_estimators=20).fit(X, y)
    assert model.importances().idxmax() == "a" and model.importances()["b"] < 0.2
    values = shap_values(model, X, X, seed=0)
    offset = model.predict(X) - values.sum(axis=1)
    assert np.ptp(offset) < 1e-6
    assert np.abs(values).mean(axis=0).argmax() == 0


def test_the_seed_is_the_draw() -> None:
    X, y = models(3)
    one, same, other = (ExtraTrees(n_estimators=5, random_state=seed).fit(X, y).predict(X[:9]) for seed in (1, 1, 2))
    assert np.array_equal(one, same) and not np.array_equal(one, other)
