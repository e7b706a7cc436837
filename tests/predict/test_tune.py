"""The lean search is the exhaustive search: the same point, the same error, ties included."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import pandas as pd
import pytest
import xgboost
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.impute import SimpleImputer
from sklearn.linear_model import Ridge as PlainRidge
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from njsl.core.types import DataError
from njsl.predict.base import Predictor
from njsl.predict.predictors.ridge import Ridge
from njsl.predict.predictors.xgboost import XGBoost
from njsl.predict.tune import Recipe, search
from njsl.store.tasks import find_tasks

TASK = find_tasks("hellaswag")[0]
RATES, DEPTHS, TREES = [0.01, 0.1, 0.3], [2, 3, 5], [50, 100]


def rows(seed: int, count: int = 30, constant: bool = False) -> tuple[pd.DataFrame, np.ndarray]:
    random = np.random.default_rng(seed)
    X = pd.DataFrame(random.normal(size=(count, 4)), columns=list("abcd"))
    y = 0.1 * X["a"] - 0.05 * X["b"] ** 2 + 0.03 * random.normal(size=count)
    X = X.mask(random.random(X.shape) < 0.1)
    return X, np.full(count, 0.5) if constant else y.to_numpy()


def exhaustive_xgboost(X: pd.DataFrame, y: np.ndarray, inner: list[Any], seed: int) -> tuple[dict[str, Any], float]:
    """Every point fitted on its own, from nothing, on every fold; the first of the best."""
    best: tuple[dict[str, Any], float] | None = None
    for rate, depth, trees in itertools.product(RATES, DEPTHS, TREES):
        errors = []
        for fit, score in inner:
            parameters = {"learning_rate": rate, "max_depth": depth, "seed": seed, "nthread": 1}
            train = xgboost.DMatrix(X.to_numpy(np.float32)[fit], y[fit])
            booster = xgboost.train(parameters, train, trees)
            errors.append(np.abs(booster.predict(xgboost.DMatrix(X.to_numpy(np.float32)[score])) - y[score]).mean())
        if best is None or np.mean(errors) < best[1]:
            best = {"learning_rate": rate, "max_depth": depth, "n_estimators": trees}, float(np.mean(errors))
    assert best is not None
    return best


@pytest.mark.parametrize(("seed", "constant"), [(0, False), (1, False), (3, True)])
def test_xgboost_finds_what_the_exhaustive_search_finds(seed: int, constant: bool) -> None:
    X, y = rows(seed, constant=constant)
    inner = list(KFold(3, shuffle=True, random_state=seed).split(X))
    recipe = Recipe("xgboost", XGBoost, {"learning_rate": RATES, "max_depth": DEPTHS, "n_estimators": TREES})
    point, mae = search(recipe, X, y, inner, seed, TASK)
    expected, expected_mae = exhaustive_xgboost(X, y, inner, seed)
    assert point == expected
    assert mae == pytest.approx(expected_mae, rel=1e-6)
    if constant:  # all points tie
        assert point == {"learning_rate": 0.01, "max_depth": 2, "n_estimators": 50}


@pytest.mark.parametrize("seed", range(5))
def test_ridge_finds_what_scikit_learn_finds(seed: int) -> None:
    X, y = rows(seed)
    inner = list(KFold(3, shuffle=True, random_state=seed).split(X))
    alphas = [100.0, 0.1, 1.0, 10.0]
    pipeline = make_pipeline(SimpleImputer(strategy="median"), StandardScaler(), PlainRidge())
    theirs = GridSearchCV(pipeline, {"ridge__alpha": alphas}, scoring="neg_mean_absolute_error", cv=inner).fit(X, y)
    point, mae = search(Recipe("ridge", Ridge, {"alpha": alphas}), X, y, inner, seed, TASK)
    assert point["alpha"] == theirs.best_params_["ridge__alpha"]
    assert mae == pytest.approx(-theirs.best_score_, rel=1e-9)


Table = tuple[tuple[float, ...], ...]  # [point, fold]


class Planted(Predictor):
    """Misses every score by ``errors[number][fold]``; the fold is what its single column says."""

    def __init__(self, *, errors: Table, number: int = 0) -> None:
        self.errors = errors
        self.number = number

    def fit_packed(self, packed: Any) -> Self:
        return self

    def predict(self, X: pd.DataFrame) -> np.ndarray:
        return np.array(self.errors[self.number])[X["fold"].to_numpy(int)]


class PlantedPath(Planted):
    """The same with a path: a fit at ``trees`` knows every smaller number of trees."""

    path = "trees"

    def __init__(self, *, errors: Table, number: int = 0, trees: int = 1) -> None:
        super().__init__(errors=errors, number=number)
        self.trees = trees

    def predict_path(self, packed: Any, values: Sequence[int]) -> list[np.ndarray]:
        assert max(values) == self.trees
        folds = packed[0]["fold"].to_numpy(int)
        return [np.array(self.errors[self.number * 3 + trees - 1])[folds] for trees in values]


def planted(folds: int) -> tuple[pd.DataFrame, np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
    """Two rows per fold with a score of 0, so that an error is a prediction."""
    fold = np.repeat(np.arange(folds), 2)
    return (
        pd.DataFrame({"fold": fold}),
        np.zeros(2 * folds),
        [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(folds)],
    )


def tables(step: int) -> st.SearchStrategy[Table]:
    """Errors [points, folds] in sixteenths, which add up exactly: ties are ties. Points are a multiple of ``step``."""

    def of(shape: tuple[int, int]) -> st.SearchStrategy[Table]:
        row = st.tuples(*[st.integers(0, 8).map(lambda n: n / 16)] * shape[1])
        return st.tuples(*[row] * shape[0])

    return st.tuples(st.integers(1, 3).map(lambda n: n * step), st.integers(1, 4)).flatmap(of)


BOUNDS = st.one_of(st.just(np.inf), st.integers(-1, 9).map(lambda n: n / 16))


def check(recipe: Recipe, means: np.ndarray, bound: float, shown: list[str]) -> None:
    """``means`` [points] are the errors of ``recipe.grid``; ``shown`` the parameters that tell points apart."""
    X, y, inner = planted(len(recipe.params["errors"][0]))
    point, mae = search(recipe, X, y, inner, 0, TASK, bound=bound)
    best = int(np.flatnonzero(means == means.min())[0])
    if means[best] <= bound:
        assert [point[name] for name in shown] == [recipe.grid[best][name] for name in shown]
        assert mae == pytest.approx(means[best], abs=1e-12)
    else:
        assert mae > bound


@settings(max_examples=200, deadline=None)
@given(tables(1) | tables(2), BOUNDS)
def test_giving_up_changes_no_answer(errors: Table, bound: float) -> None:
    recipe = Recipe("planted", Planted, {"errors": errors, "number": list(range(len(errors)))})
    check(recipe, np.array(errors).sum(axis=1) / len(errors[0]), bound, ["number"])


@settings(max_examples=200, deadline=None)
@given(tables(3), st.permutations([1, 2, 3]), BOUNDS)
def test_giving_up_along_a_path_changes_no_answer(errors: Table, trees: list[int], bound: float) -> None:
    numbers = list(range(len(errors) // 3))
    recipe = Recipe("planted", PlantedPath, {"errors": errors, "number": numbers, "trees": trees})
    order = [number * 3 + count - 1 for number in numbers for count in trees]
    check(recipe, np.array(errors)[order].sum(axis=1) / len(errors[0]), bound, ["number", "trees"])


class Counting(Planted):
    """Counts its fits."""

    fits = 0

    def fit_packed(self, packed: Any) -> Self:
        Counting.fits += 1
        return self


def test_a_hopeless_point_is_given_up() -> None:
    errors = ((0.1, 0.1, 0.1, 0.1), (0.9, 0.9, 0.9, 0.9), (0.2, 0.1, 0.3, 0.1))
    X, y, inner = planted(4)
    recipe = Recipe("counting", Counting, {"errors": errors, "number": [0, 1, 2]})
    Counting.fits = 0
    point, mae = search(recipe, X, y, inner, 0, TASK)
    assert (point["number"], mae) == (0, pytest.approx(0.1))
    # The first point on four folds; the second on one (0.9 > 0.4); the third on three (0.2 + 0.1 + 0.3 > 0.4).
    assert Counting.fits == 8
    Counting.fits = 0
    _, mae = search(recipe, X, y, inner, 0, TASK, bound=0.02)
    assert (Counting.fits, mae) == (3, np.inf)


def test_grid_order_and_what_is_filled_in() -> None:
    recipe = Recipe("xgboost", XGBoost, {"learning_rate": [0.1, 0.3], "max_depth": 4, "n_estimators": [5, 6]})
    assert [tuple(point.values()) for point in recipe.grid] == [(0.1, 4, 5), (0.1, 4, 6), (0.3, 4, 5), (0.3, 4, 6)]
    made = recipe.make(recipe.grid[2], 17, TASK)
    assert made.get_params() == {"learning_rate": 0.3, "max_depth": 4, "n_estimators": 5, "random_state": 17}


def test_needed_columns() -> None:
    from njsl.predict.predictors.loglinear import LogLinear

    recipe = Recipe("loglinear", LogLinear, {})
    recipe.check(
        ["total_params", "total_tokens_billions", "ln_total_params", "ln_total_tokens_billions"], "features=scale"
    )
    with pytest.raises(DataError, match=r"features=data: predictor loglinear needs .*add the feature group scale"):
        recipe.check(["web_pct"], "features=data")
