"""The median forest: its trees are scikit-learn's, its weights are counted by hand, its predictions are medians."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import ExtraTreesRegressor

from njsl.core.types import ConfigError
from njsl.predict.base import LN_PARAMS, LN_TOKENS
from njsl.predict.predictors.median_forest import MedianForest


def models(seed: int, count: int = 30) -> tuple[pd.DataFrame, np.ndarray]:
    """Complete rows of numbers and a category; distinct scores that depend on compute and on the category."""
    random = np.random.default_rng(seed)
    X = pd.DataFrame({LN_PARAMS: random.uniform(18, 25, count), "code_pct": random.uniform(0, 40, count)})
    X[LN_TOKENS] = random.uniform(3, 9, count)
    X["activation"] = pd.Categorical(random.choice(["gelu", "silu"], count))
    y = 0.02 * (X[LN_PARAMS] + X[LN_TOKENS] - 21) + 0.1 * (X["activation"] == "silu") + random.normal(0, 0.01, count)
    return X.set_axis([f"model {row}" for row in range(count)]), y.to_numpy()


def columns(X: pd.DataFrame) -> np.ndarray:
    """What the trees see, written out."""
    n, d = X[LN_PARAMS], X[LN_TOKENS]
    kinds = [X["activation"] == label for label in ("gelu", "silu")]
    return np.column_stack([n, X["code_pct"], d, n + d, d - n, *kinds]).astype(np.float32)


def counted(train: np.ndarray, y: np.ndarray, new: np.ndarray, **params: Any) -> np.ndarray:
    """Weights [new, training models in their order], model by model and tree by tree, of scikit-learn's forest.

    The forest is grown on rows by rising score, as the seed's draw goes by the rows' order.
    """
    order = sorted(range(len(y)), key=lambda row: y[row])
    forest = ExtraTreesRegressor(**params).fit(train[order], y[order])
    weights = np.zeros((len(new), len(y)))
    for tree in forest.estimators_:
        leaf_of = tree.apply(train)
        for row, leaf in enumerate(tree.apply(new)):
            mates = [model for model in range(len(y)) if leaf_of[model] == leaf]
            for model in mates:
                weights[row, model] += 1 / len(mates) / len(forest.estimators_)
    return weights


def median_by_hand(weights: np.ndarray, y: np.ndarray) -> float:
    """The lowest score such that scores at or below it have half of the weight."""
    return min(score for score in y if weights[y <= score].sum() >= 0.5 - 1e-9)


@pytest.mark.parametrize(("leaf", "share"), [(1, 1.0), (3, 1.0), (4, 0.5)])
def test_weights_and_medians_by_brute_force(leaf: int, share: float) -> None:
    X, y = models(0)
    new, _ = models(1, 12)
    params: dict[str, Any] = {"n_estimators": 7, "min_samples_leaf": leaf, "max_features": share, "random_state": 5}
    model = MedianForest(**params).fit(X, y)
    expected = counted(columns(X), y, columns(new), **params)
    np.testing.assert_allclose(model.weights(new), expected[:, np.argsort(y)], atol=1e-12)
    np.testing.assert_allclose(model.weights(new).sum(axis=1), 1.0)
    by_hand = [median_by_hand(row, y) for row in expected]
    np.testing.assert_array_equal(model.predict(new), by_hand)
    # It is no mean in disguise.
    assert np.abs(expected @ y - by_hand).max() > 1e-3
    # No score is nearer in the weighted sum of absolute errors.
    for row, guess in zip(expected, by_hand, strict=True):
        assert (row * np.abs(y - guess)).sum() <= min((row * np.abs(y - other)).sum() for other in y) + 1e-12


@settings(max_examples=25, deadline=None)
@given(scores=st.lists(st.integers(0, 6), min_size=1, max_size=12))
def test_one_leaf_is_the_lower_median_of_all(scores: list[int]) -> None:
    y = np.array(scores) / 10
    X, _ = models(2, len(y))
    model = MedianForest(n_estimators=3, min_samples_leaf=len(y)).fit(X, y)
    ordered = sorted(y)
    lowest = next(score for score in ordered if Fraction(sum(s <= score for s in ordered), len(y)) >= Fraction(1, 2))
    assert set(model.predict(models(3, 4)[0])) == {lowest}
    np.testing.assert_allclose(model.weights(X), 1 / len(y))


def test_a_leaf_of_one_remembers() -> None:
    X, y = models(4)
    np.testing.assert_array_equal(MedianForest(n_estimators=3, min_samples_leaf=1).fit(X, y).predict(X), y)


def test_order_of_the_training_models_does_not_matter() -> None:
    X, y = models(5)
    new, _ = models(6)
    order = np.random.default_rng(0).permutation(len(y))
    one = MedianForest(n_estimators=5).fit(X, y)
    other = MedianForest(n_estimators=5).fit(X.iloc[order], y[order])
    np.testing.assert_array_equal(one.weights(new), other.weights(new))
    np.testing.assert_array_equal(one.predict(new), other.predict(new))


def test_half_of_the_scores_at_chance_is_chance() -> None:
    """A mean would lie between the two clusters, where no model is."""
    X, _ = models(7, 20)
    y = np.r_[np.full(11, 0.25), np.full(9, 0.9)]
    constant = pd.DataFrame(1.0, index=X.index, columns=[LN_PARAMS, LN_TOKENS])
    assert set(MedianForest(n_estimators=3).fit(constant, y).predict(constant)) == {0.25}


def test_the_seed_is_the_draw() -> None:
    X, y = models(8)
    one, same, other = (MedianForest(n_estimators=4, random_state=s).fit(X, y).weights(X) for s in (1, 1, 2))
    assert np.array_equal(one, same) and not np.array_equal(one, other)


@pytest.mark.parametrize(
    "params",
    [
        {"n_estimators": 0},
        {"min_samples_leaf": 0},
        {"min_samples_leaf": -1},
        {"max_features": 0.0},
        {"max_features": -0.5},
        {"max_features": 1.5},
    ],
    ids=str,
)
def test_a_parameter_out_of_range_is_refused(params: dict[str, Any]) -> None:
    X, y = models(10)
    (name,) = params
    with pytest.raises(ConfigError, match=rf"^median_forest: .*{name}={params[name]}.* accepted") as caught:
        MedianForest(**{"n_estimators": 2, **params}).fit(X, y)
    assert "\n" not in str(caught.value)
