"""The xgboost predictor grows exactly the trees that xgboost.train grows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import xgboost

from njsl.predict.predictors.xgboost import XGBoost


def models(categories: bool) -> tuple[pd.DataFrame, np.ndarray]:
    random = np.random.default_rng(5)
    X = pd.DataFrame(random.normal(size=(73, 6)), columns=list("abcdef"))
    y = 0.4 + 0.1 * X["a"].to_numpy() - 0.05 * X["b"].abs().to_numpy() + random.normal(0, 0.02, 73)
    X = X.mask(random.random(X.shape) < 0.2)
    if categories:
        X["kind"] = pd.Categorical(random.choice(["x", "y", "z"], 73))
    return X, y


@pytest.mark.parametrize("categories", [False, True])
@pytest.mark.parametrize(("learning_rate", "max_depth"), [(0.01, 5), (0.1, 3), (0.3, 2)])
def test_bit_equal_to_train(categories: bool, learning_rate: float, max_depth: int) -> None:
    X, y = models(categories)
    rows = X.astype(dict.fromkeys("abcdef", "float32"))
    training = xgboost.DMatrix(rows[:50], label=y[:50], enable_categorical=True)
    scoring = xgboost.DMatrix(rows[50:], enable_categorical=True)
    params = {"learning_rate": learning_rate, "max_depth": max_depth, "seed": 7, "objective": "reg:squarederror"}
    expected = xgboost.train(params, training, num_boost_round=100)

    predictor = XGBoost(learning_rate=learning_rate, max_depth=max_depth, n_estimators=100, random_state=7)
    predictor.fit(X[:50], y[:50])

    named = predictor.booster_.copy()
    named.feature_names = expected.feature_names  # plain numbers are fitted without column names
    assert named.get_dump(with_stats=True) == expected.get_dump(with_stats=True)
    np.testing.assert_array_equal(predictor.predict(X[50:]), expected.predict(scoring))
    fifty = xgboost.train(params, training, num_boost_round=50)
    path = predictor.predict_path(predictor.pack(X[50:]), [50, 100])
    np.testing.assert_array_equal(path[0], fifty.predict(scoring))
    np.testing.assert_array_equal(path[1], expected.predict(scoring))
    shap = expected.predict(scoring, pred_contribs=True)
    np.testing.assert_array_equal(predictor.contributions(X[50:]), shap[:, :-1])


def test_importances_are_the_boosters_gains_by_name() -> None:
    X, y = models(categories=False)
    X["never"] = 1.0
    predictor = XGBoost(n_estimators=20).fit(X, y)
    scores: dict[str, Any] = predictor.booster_.get_score(importance_type="total_gain")
    gains = {X.columns[int(key.removeprefix("f"))]: gain for key, gain in scores.items()}
    shares = predictor.importances()
    assert "never" not in gains and shares["never"] == 0
    for name, gain in gains.items():
        assert shares[name] == pytest.approx(gain / sum(gains.values()))


def test_an_unseen_category_goes_where_a_missing_one_goes() -> None:
    X, y = models(categories=True)
    y = y + 0.3 * (X["kind"] == "x")
    predictor = XGBoost(n_estimators=20).fit(X, y)
    new = X.assign(kind=pd.Categorical(["w"] * 73))
    missing = X.assign(kind=pd.Categorical([None] * 73, categories=["x", "y", "z"]))
    np.testing.assert_array_equal(predictor.predict(new), predictor.predict(missing))
    np.testing.assert_array_equal(predictor.contributions(new), predictor.contributions(missing))
    # Labels are told apart by name, not by their place in the list of categories.
    reordered = X.assign(kind=X["kind"].cat.reorder_categories(["z", "x", "y"]))
    np.testing.assert_array_equal(predictor.predict(reordered), predictor.predict(X))
