"""A unit of work against a plain loop, and that held-out labels never reach a prediction."""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict, replace
from typing import Any, Self

import numpy as np
import pandas as pd
import pytest
import xgboost
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import KFold, train_test_split

from njsl.core.types import DataError
from njsl.predict.base import Predictor
from njsl.predict.evaluate import Result, Unit, evaluate
from njsl.predict.predictors.ridge import Ridge
from njsl.predict.predictors.xgboost import XGBoost
from njsl.predict.select_nested import NestedSelection
from njsl.predict.splits import Extrapolate, LeaveGroupOut, RandomFolds, Splitter
from njsl.predict.tune import Recipe
from njsl.store import AnalysisStore
from njsl.store.tasks import find_tasks
from njsl.store.views import TaskFrame, task_frames

SCALE = ("total_params", "total_tokens_billions")
COLUMNS = (*SCALE, "web_pct", "code_pct", "biases", "activation")
RIDGE = Recipe("ridge", Ridge, {"alpha": [0.1, 1.0, 10.0]})
RATES, DEPTHS, TREES = [0.1, 0.3], [2, 3], [10, 20]
BOOSTED = Recipe("xgboost", XGBoost, {"learning_rate": RATES, "max_depth": DEPTHS, "n_estimators": TREES})
SPLITS: dict[str, Splitter] = {
    "paper": RandomFolds(folds=3, inner_folds=3, discard_frac=0.2, encoding="ordinal"),
    "nested": RandomFolds(folds=3, inner_folds=3, discard_frac=0.0, encoding="native"),
    "leave_family_out": LeaveGroupOut(group="family", inner_folds=3),
    "leave_org_out": LeaveGroupOut(group="org", inner_folds=3),
    "extrapolate": Extrapolate(by="flops", below=None, inner_folds=3),
}


@pytest.fixture(scope="module")
def frame(store: AnalysisStore) -> TaskFrame:
    return task_frames(store, "raw", find_tasks("lambada"), freegen=False)[0]


def unit(frame: TaskFrame, cv: str = "paper", recipe: Recipe = RIDGE, **changes: Any) -> Unit:
    protocol = SPLITS[cv]
    made = Unit(frame, recipe, cv, protocol, "mine", "none", COLUMNS, protocol.encoding, 0, None, False)
    return replace(made, **changes)


def test_the_papers_protocol_as_a_plain_loop(frame: TaskFrame) -> None:
    """Every grid point fitted by ``xgboost.train`` on every fold, errors averaged fold by fold."""
    seed = 5
    features = frame.features
    columns = [
        np.log(features["total_params"]),
        np.log(features["total_tokens_billions"]),
        features["web_pct"],
        features["code_pct"],
    ]
    for name in ("biases", "activation"):
        order = sorted(features[name].dropna().unique())
        columns.append(
            pd.Series([np.nan if pd.isna(label) else order.index(label) for label in features[name]], dtype=float)
        )
    X, y = np.column_stack(columns).astype(np.float32), frame.y

    def predicted(point: tuple[float, int, int], train: np.ndarray, test: np.ndarray) -> np.ndarray:
        parameters = {"learning_rate": point[0], "max_depth": point[1], "seed": seed, "nthread": 1}
        booster = xgboost.train(parameters, xgboost.DMatrix(X[train], y[train]), point[2])
        return booster.predict(xgboost.DMatrix(X[test]))

    result = evaluate(unit(frame, recipe=BOOSTED, seed=seed))
    for fold, (rest, test) in zip(result.folds, KFold(3, shuffle=True, random_state=seed).split(y), strict=True):
        train, _ = train_test_split(rest, test_size=0.2, random_state=seed)
        inner = [(train[a], train[b]) for a, b in KFold(3, shuffle=True, random_state=seed).split(train)]
        errors = {
            point: np.mean([np.abs(predicted(point, a, b) - y[b]).mean() for a, b in inner])
            for point in itertools.product(RATES, DEPTHS, TREES)
        }
        best = min(errors, key=lambda point: errors[point])
        assert fold.test == test.tolist()
        assert fold.yhat == pytest.approx(predicted(best, train, test).tolist(), abs=1e-6)
        assert fold.mae == pytest.approx(np.abs(predicted(best, train, test) - y[test]).mean(), abs=1e-6)
        assert fold.mae_median == pytest.approx(np.abs(np.median(y[train]) - y[test]).mean())
        plane = LinearRegression().fit(np.column_stack(columns[:2])[train], y[train])
        assert fold.mae_loglinear == pytest.approx(
            np.abs(plane.predict(np.column_stack(columns[:2])[test]) - y[test]).mean()
        )


@pytest.mark.parametrize("selected", [False, True], ids=["as given", "select=nested"])
@pytest.mark.parametrize("cv", SPLITS)
def test_held_out_labels_never_reach_their_predictions(frame: TaskFrame, cv: str, selected: bool) -> None:
    nested = NestedSelection(("web_pct", "code_pct", "biases"), 1, -1.0) if selected else None  # always takes a step
    recipe = Recipe("xgboost", XGBoost, {"learning_rate": [0.3], "max_depth": [1, 2], "n_estimators": [4, 8]})
    asked = unit(frame, cv, columns=SCALE if selected else COLUMNS, nested=nested, recipe=recipe)
    before = evaluate(asked)
    assert not selected or all(before.history)
    random = np.random.default_rng(0)
    for number in {0, len(before.folds) - 1} if len(before.folds) < 4 else {2}:
        held_out = before.folds[number].test
        y = frame.y.copy()
        y[held_out] = random.permutation(y[held_out]) + random.uniform(1, 5, len(held_out))
        after = evaluate(replace(asked, frame=replace(frame, y=y)))
        assert after.folds[number].test == held_out
        assert after.folds[number].yhat == before.folds[number].yhat
        assert after.folds[number].columns == before.folds[number].columns
        assert after.folds[number].mae > before.folds[number].mae + 0.5
        if len(before.folds) > 1:  # elsewhere these models are trained on: the change does arrive
            other = 1 if number == 0 else 0
            assert after.folds[other].yhat != before.folds[other].yhat


def test_discarded_rows_are_not_used_either(frame: TaskFrame) -> None:
    before = evaluate(unit(frame))
    fold = SPLITS["paper"].outer(frame, 0)[0]
    unused = np.setdiff1d(np.arange(len(frame.y)), np.concatenate([fold.train, fold.test]))
    y = frame.y.copy()
    y[unused] = 9.0
    assert evaluate(unit(replace(frame, y=y))).folds[0].yhat == before.folds[0].yhat


def test_nested_selection_finds_the_share_of_code(frame: TaskFrame) -> None:
    """Planted in tests/export.py: scores follow size, tokens and code."""
    nested = NestedSelection(("mlp_ratio", "code_pct", "num_heads"), 2, 0.001)
    result = evaluate(
        unit(frame, "nested", columns=SCALE, nested=nested, recipe=Recipe("ridge", Ridge, {"alpha": 1.0}))
    )
    assert [history[0]["feature"] for history in result.history] == ["code_pct"] * 3
    assert all(fold.columns[:3] == ["ln_total_params", "ln_total_tokens_billions", "code_pct"] for fold in result.folds)


@pytest.mark.parametrize("recipe", [RIDGE, BOOSTED], ids=["ridge", "xgboost"])
def test_a_result_survives_its_file_exactly(frame: TaskFrame, recipe: Recipe) -> None:
    nested = NestedSelection(("code_pct", "mlp_ratio"), 1, 0.0)
    result = evaluate(
        unit(frame, "nested", recipe=recipe, columns=(*SCALE, "biases", "web_pct"), nested=nested, explain=True)
    )
    assert any(np.isnan(value) for fold in result.folds for row in fold.values or [] for value in row)
    text = json.dumps(asdict(result))
    rebuilt = Result.from_json(json.loads(text))
    assert repr(rebuilt) == repr(result)  # NaN is not equal to itself, but it is written the same
    assert json.dumps(asdict(rebuilt)) == text
    for fold in result.folds:
        assert np.shape(fold.shap) == np.shape(fold.values) == (len(fold.test), len(fold.columns))
        assert (fold.importances is None) == (recipe is RIDGE)


def test_same_unit_same_result(frame: TaskFrame) -> None:
    one, other = (evaluate(unit(frame, recipe=BOOSTED, explain=True)) for _ in range(2))
    assert repr(one.folds) == repr(other.folds)
    assert repr(evaluate(unit(frame, recipe=BOOSTED, seed=1)).folds) != repr(one.folds)


class Lost(Predictor):
    """Predicts no number."""

    def fit_packed(self, packed: Any) -> Self:
        return self

    def predict(self, X: pd.DataFrame) -> np.ndarray:
        return np.full(len(X), np.nan)


def test_a_prediction_that_is_no_number_is_an_error(frame: TaskFrame) -> None:
    with pytest.raises(
        DataError, match=r"predictor lost on lambada, features mine, cv paper, seed 0: a prediction is not finite"
    ):
        evaluate(unit(frame, recipe=Recipe("lost", Lost, {})))
