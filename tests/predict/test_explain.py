"""SHAP values add up to the prediction, and missing values speak for themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from njsl.predict.base import Predictor, numeric
from njsl.predict.explain import shap_values
from njsl.predict.features import design
from njsl.predict.predictors.kaplan import Kaplan
from njsl.predict.predictors.random_forest import RandomForest
from njsl.predict.predictors.ridge import Ridge
from njsl.predict.predictors.svr import SupportVector
from njsl.predict.predictors.xgboost import XGBoost
from njsl.store import AnalysisStore
from njsl.store.tasks import find_tasks
from njsl.store.views import task_frames

SCALE = ["total_params", "total_tokens_billions"]
MIXED = [*SCALE, "mlp_ratio", "code_pct", "biases"]


def parts(store: AnalysisStore, columns: list[str]) -> tuple[pd.DataFrame, np.ndarray, pd.DataFrame]:
    frame = task_frames(store, "raw", find_tasks("lambada"), freegen=False)[0]
    X = design(frame.features, columns, "native")
    return X.iloc[:30], frame.y[:30], X.iloc[30:]


@pytest.mark.parametrize(
    ("model", "columns"),
    [
        pytest.param(Kaplan(n_starts=1, floor=0.0, perfect=1.0), SCALE, marks=pytest.mark.slow),
        (SupportVector(C=1.0), MIXED),
        (SupportVector(C=1.0), SCALE),
    ],
    ids=["kaplan", "svr mixed", "svr scale"],
)
def test_permutation_values_add_up(store: AnalysisStore, model: Predictor, columns: list[str]) -> None:
    """To the prediction less the mean prediction of the background: 16 training rows drawn by the seed."""
    train, y, test = parts(store, columns)
    assert model.fit(train, y).contributions(test) is None
    values = shap_values(model, train, test, seed=3)
    base = model.predict(train.sample(16, random_state=3)).mean()
    assert values.shape == test.shape
    np.testing.assert_allclose(values.sum(axis=1), model.predict(test) - base, atol=1e-6)
    assert np.abs(values).max() > 0.01
    np.testing.assert_array_equal(shap_values(model, train, test, seed=3), values)


@pytest.mark.parametrize(
    "model",
    [Ridge(alpha=1.0), XGBoost(n_estimators=20), RandomForest(n_estimators=10)],
    ids=["ridge", "xgboost", "forest"],
)
def test_exact_values_add_up_to_a_constant_base(store: AnalysisStore, model: Predictor) -> None:
    train, y, test = parts(store, MIXED)
    model.fit(train, y)
    values = shap_values(model, train, test, seed=0)
    base = model.predict(test) - values.sum(axis=1)
    np.testing.assert_allclose(base, base[0], atol=1e-5)
    assert abs(base[0] - y.mean()) < 0.02
    assert np.abs(values[:, 0]).mean() > 0.01  # parameters matter, as planted


@pytest.mark.parametrize("kind", ["number", "category"])
def test_a_missing_value_that_tells_something_has_a_share(kind: str) -> None:
    """Scores differ by 0.5 between models that have the value and models that lack it."""
    lacks = np.arange(40) % 2 == 0
    known: Any = np.where(lacks, np.nan, 1.0 + np.arange(40) % 3)
    if kind == "category":
        known = pd.Categorical([None if lack else "abc"[number % 3] for number, lack in enumerate(lacks)])
    X = pd.DataFrame({"told": known, "idle": np.zeros(40)})
    y = np.where(lacks, 0.2, 0.7)
    model = XGBoost(n_estimators=100, learning_rate=0.3).fit(X, y)
    values = shap_values(model, X, X, seed=0)
    assert np.isnan(numeric(X)[lacks, 0]).all() and not np.isnan(numeric(X)[~lacks]).any()
    assert values[lacks, 0] == pytest.approx(-0.25, abs=0.01)
    assert values[~lacks, 0] == pytest.approx(0.25, abs=0.01)
    assert values[:, 1] == pytest.approx(0.0, abs=1e-9)


def test_rows_as_numbers() -> None:
    X = pd.DataFrame(
        {
            "a": [1.5, np.nan],
            "b": pd.Categorical(["y", None], categories=["x", "y", "z"]),
            "c": pd.Categorical(["x", "z"]),
        }
    )
    np.testing.assert_array_equal(numeric(X), [[1.5, 1.0, 0.0], [np.nan, np.nan, 1.0]])
