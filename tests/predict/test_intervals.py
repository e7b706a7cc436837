"""Intervals: by hand, against an independent implementation, and what must hold whatever the data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GroupKFold, PredefinedSplit

from njsl.core.types import DataError
from njsl.predict.base import LN_PARAMS, LN_TOKENS, Context
from njsl.predict.coverage import ALL, MEAN_TASK, coverage, coverage_figure
from njsl.predict.features import design
from njsl.predict.figures import save
from njsl.predict.intervals import LEVELS, Conformal, conformal, out_of_fold, possible
from njsl.predict.predictors.loglinear import LogLinear
from njsl.predict.predictors.median import Median
from njsl.predict.splits import LeaveGroupOut
from njsl.predict.tune import Recipe
from njsl.store import AnalysisStore
from njsl.store.tasks import find_tasks, task_table
from njsl.store.views import task_frames

TASK = task_table()["hellaswag"]


def context_of(ids: list[str], y: np.ndarray, groups: list[str], whole: Any = "org") -> Context:
    index = pd.Index(ids)
    frame = pd.DataFrame({"org": groups, "family": groups}, index=index)
    return Context(frame, pd.DataFrame({"hellaswag": y}, index=index), pd.Series(np.nan, index=index), whole)


# ---- by hand


def test_equal_predictions_give_the_plain_quantile() -> None:
    """One predicted score for all: every usual error is a mean, and only the order of errors is left."""
    y = 0.5 + np.array([0.01, -0.02, 0.03, -0.04, 0.05, -0.06, 0.07, -0.08, 0.09])
    fitted = Conformal(0.0, 1.0).fit(np.full(9, 0.5), y)
    errors = np.abs(y - 0.5)
    # Usual error: kernel 1 everywhere, so the mean of the 8 others, with whatever weight of the prior.
    usual = (errors.sum() - errors) / 8
    low, high = fitted.interval(np.array([0.5]))
    # The 8th of 9 at 80 % (10 * 0.8), the 9th at 90 %; where nothing is left out the usual error is the mean of all.
    for level, rank in enumerate((8, 9)):
        reach = np.sort(errors / usual)[rank - 1] * errors.mean()
        assert (low[level, 0], high[level, 0]) == pytest.approx((0.5 - reach, 0.5 + reach))


def test_intervals_are_wide_where_errors_are_large() -> None:
    yhat = np.repeat([0.2, 0.8], 15)
    y = yhat + np.where(yhat < 0.5, 0.01, 0.1) * np.tile([1, -1, 1], 10)
    low, high = Conformal(0.0, 1.0).fit(yhat, y).interval(np.array([0.2, 0.8]))
    width = (high - low)[0]
    # 15 errors of 0.01 and 3 of the mean 0.055 at 0.2; 15 of 0.1 and 3 of 0.055 at 0.8.
    assert width[1] / width[0] == pytest.approx((15 * 0.1 + 3 * 0.055) / (15 * 0.01 + 3 * 0.055))


@pytest.mark.parametrize(
    ("groups", "finite"), [(3, (False, False)), (4, (True, False)), (8, (True, False)), (9, (True, True))]
)
def test_too_few_groups_give_the_whole_range(groups: int, finite: tuple[bool, bool]) -> None:
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(groups), 10)
    y = random.uniform(0.4, 0.6, len(labels))
    low, high = (
        Conformal(*possible(task_table()["anli"])).fit(np.full(len(y), 0.5), y, labels).interval(np.array([0.5]))
    )
    for level in range(len(LEVELS)):
        assert ((low[level, 0], high[level, 0]) != (0.0, 2.0)) == finite[level]


def test_the_possible_range() -> None:
    assert possible(task_table()["anli"]) == (0.0, 2.0) and possible(TASK) == (0.0, 1.0)
    y = np.linspace(0.0, 1.0, 20)
    low, high = Conformal(0.0, 1.0).fit(np.full(20, 0.5), y).interval(np.array([-0.3, 0.01, 0.99, 1.7]))
    assert low.min() == 0.0 and high.max() == 1.0
    assert (low[:, 0] == 0.0).all() and (high[:, 3] == 1.0).all()


def test_no_errors_are_no_width_and_no_models_the_whole_range() -> None:
    y = np.linspace(0.2, 0.8, 20)
    low, high = Conformal(0.0, 1.0).fit(y, y).interval(np.array([0.5]))
    assert (low == 0.5).all() and (high == 0.5).all()
    low, high = Conformal(0.0, 1.0).fit(np.empty(0), np.empty(0)).interval(np.array([0.5]))
    assert (low == 0.0).all() and (high == 1.0).all()
    one = np.where(np.arange(20) == 3, 0.7, 0.5)  # the one error is beyond what any other says is usual
    low, high = Conformal(0.0, 1.0).fit(np.full(20, 0.5), one).interval(np.array([0.5]))
    assert np.isfinite(low).all() and (low <= high).all()


def test_out_of_fold_holds_groups_whole() -> None:
    """The median of all other groups, whatever the fold count asks beyond the number of groups."""
    groups = ["a", "a", "a", "b", "b", "c", "d", "d"]
    y = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])
    ids = [f"m/{number}" for number in range(8)]
    X = pd.DataFrame({"x": 0.0}, index=ids)
    recipe = Recipe("median", Median, {})
    found = out_of_fold(recipe, {}, X, y, context_of(ids, y, groups), 0, TASK, 99)
    expected = [np.median([v for v, g in zip(y, groups, strict=True) if g != mine]) for mine in groups]
    assert found == pytest.approx(expected)
    alone = out_of_fold(recipe, {}, X, y, context_of(ids, y, groups, None), 0, TASK, 8)
    assert alone == pytest.approx([np.median(np.delete(y, number)) for number in range(8)])


def test_models_of_one_group() -> None:
    ids, y = ["m/0", "m/1", "m/2"], np.array([0.1, 0.2, 0.3])
    X, context = pd.DataFrame({"x": 0.0}, index=ids), context_of(["m/0", "m/1", "m/2"], np.zeros(3), ["a"] * 3)
    recipe = Recipe("median", Median, {})
    low, high = conformal(recipe, {}, X, y, context, 0, TASK).interval(np.array([0.2]))
    assert (low == 0.0).all() and (high == 1.0).all()
    with pytest.raises(DataError, match="one org"):
        out_of_fold(recipe, {}, X, y, context, 0, TASK)


def test_a_prediction_that_is_not_finite_is_refused() -> None:
    class Broken(Median):
        def predict(self, X: pd.DataFrame) -> np.ndarray:
            return np.full(len(X), np.nan)

    ids, y = [f"m/{number}" for number in range(6)], np.linspace(0, 1, 6)
    with pytest.raises(DataError, match=r"predictor broken on hellaswag: .*not finite"):
        out_of_fold(
            Recipe("broken", Broken, {}),
            {},
            pd.DataFrame({"x": 0.0}, index=ids),
            y,
            context_of(ids, y, list("abcdef")),
            0,
            TASK,
        )


# ---- against an independent implementation


@pytest.mark.filterwarnings("ignore:The groups parameter")
@pytest.mark.parametrize("grouped", [False, True])
def test_without_a_scale_it_is_mapies_base_method(monkeypatch: pytest.MonkeyPatch, grouped: bool) -> None:
    """With every usual error the same, cross-conformal of absolute errors is left."""
    regression = pytest.importorskip("mapie.regression")
    random = np.random.default_rng(3)
    x = random.normal(size=(40, 2))
    y = 0.5 + 0.1 * x[:, 0] + 0.03 * random.normal(size=40)
    new = random.normal(size=(7, 2))
    groups = np.arange(40) % 13
    cv = GroupKFold(5) if grouped else PredefinedSplit(np.arange(40) % 5)
    theirs = regression.CrossConformalRegressor(LinearRegression(), LEVELS, method="base", cv=cv)
    _, bounds = theirs.fit_conformalize(x, y, groups=groups if grouped else None).predict_interval(
        new, aggregate_point_predictions=None
    )
    oof = np.empty(40)
    for fit, score in cv.split(x, y, groups):
        oof[score] = LinearRegression().fit(x[fit], y[fit]).predict(x[score])
    ours = Conformal(-9.0, 9.0)
    monkeypatch.setattr(ours, "_usual", lambda at, others: np.ones(len(at)))
    low, high = ours.fit(oof, y).interval(LinearRegression().fit(x, y).predict(new))
    for level in range(len(LEVELS)):
        assert low[level] == pytest.approx(bounds[:, 0, level], abs=1e-9)
        assert high[level] == pytest.approx(bounds[:, 1, level], abs=1e-9)


# ---- what must always hold


@st.composite
def fits(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Out-of-fold predictions, scores, groups and new predictions."""
    count = draw(st.integers(1, 40))
    score = st.floats(0, 1) | st.sampled_from([0.0, 0.25, 0.5])
    yhat, y, groups = (
        np.array(draw(st.lists(one, min_size=count, max_size=count)))
        for one in (st.floats(-0.5, 1.5), score, st.integers(0, 12))
    )
    return yhat, y, groups, np.array(draw(st.lists(st.floats(-0.5, 1.5), min_size=1, max_size=5)))


@given(fits(), st.integers(0, 2**31))
@settings(deadline=None, max_examples=150)
def test_nested_around_the_prediction_and_blind_to_order(
    case: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray], seed: int
) -> None:
    yhat, y, groups, new = case
    low, high = Conformal(0.0, 1.0).fit(yhat, y, groups).interval(new)
    middle = np.clip(new, 0.0, 1.0)
    assert low.shape == high.shape == (len(LEVELS), len(new))
    assert (low >= 0).all() and (high <= 1).all()
    assert (low <= middle).all() and (middle <= high).all()
    assert (low[1] <= low[0]).all() and (high[0] <= high[1]).all()
    order = np.random.default_rng(seed).permutation(len(y))
    renamed = groups[order] + 100
    again = Conformal(0.0, 1.0).fit(yhat[order], y[order], renamed).interval(new)
    # A usual error that rounds to 0 or not is a matter of the order of sums.
    assert again[0] == pytest.approx(low, abs=1e-6) and again[1] == pytest.approx(high, abs=1e-6)


def test_exchangeable_groups_are_covered() -> None:
    """Groups with an error in common, errors that grow with the score, and a new group each time."""
    random = np.random.default_rng(7)
    inside, number = np.zeros(len(LEVELS)), 0
    for _ in range(300):
        groups = np.repeat(np.arange(25), 3)
        truth = random.uniform(0.2, 0.8, len(groups))
        y = truth + truth * 0.05 * (random.normal(size=25)[groups] + random.normal(size=len(groups)))
        new = groups == 24
        low, high = Conformal(-9.0, 9.0).fit(truth[~new], y[~new], groups[~new]).interval(truth[new])
        inside += ((low <= y[new]) & (y[new] <= high)).sum(axis=1)
        number += new.sum()
    measured = inside / number
    assert (measured > np.array(LEVELS) - 0.03).all() and (measured < np.array(LEVELS) + 0.05).all()


# ---- the table of coverage


def predicted() -> pd.DataFrame:
    """Two tasks, three organisations; hellaswag covers a, a, b and not c at 80 %, everything at 90 %."""
    rows = []
    for task, metric, missed in (("hellaswag", "accuracy", "c"), ("anli", "brier_score", "")):
        for model, org in (("a/1", "a"), ("a/2", "a"), ("b/1", "b"), ("c/1", "c")):
            y = 0.75 if org == missed else 0.5
            ends = {"low80": 0.4, "high80": 0.6, "low90": 0.3, "high90": 0.8}
            rows.append({"task": task, "metric": metric, "model": model, "org": org, "family": org, "y": y, **ends})
    return pd.DataFrame(rows).assign(
        predictor="p", features="scale", cv="leave_org_out", select="none", yhat=0.5, seed=0
    )


def test_coverage_by_hand(tmp_path: Path) -> None:
    table = coverage(predicted())
    of = table.set_index(["scope", "task", "metric", "nominal"])
    row = of.loc[("task", "hellaswag", "accuracy", 0.8)]
    assert (row["n"], row["n_models"], row["n_orgs"], row["coverage"]) == (4, 4, 3, 0.75)
    assert row["coverage_org"] == pytest.approx(2 / 3) and row["width"] == pytest.approx(0.2)
    assert row["interval_score"] == pytest.approx(0.2 + 2 / 0.2 * 0.15 / 4)
    assert (row["coverage_low"], row["coverage_high"]) == (0.0, 1.0)  # c alone is one draw in 27
    assert of.loc[("task", "hellaswag", "accuracy", 0.9), "interval_score"] == pytest.approx(0.5)
    assert of.loc[("mean", MEAN_TASK, ALL, 0.8), "coverage"] == pytest.approx((0.75 + 1) / 2)
    families = table[(table["scope"] == "family") & (table["nominal"] == 0.8)].set_index(["family", "metric"])
    assert families.loc[("c", "accuracy"), "coverage"] == 0.0 and families.loc[("a", "accuracy"), "n"] == 2
    assert np.isnan(families.loc[("c", "accuracy"), "coverage_low"])  # one model
    save(tmp_path / "coverage.png", coverage_figure(table))
    assert (tmp_path / "coverage.png").read_bytes().startswith(b"\x89PNG")


def test_rows_without_an_interval_are_left_out() -> None:
    table = predicted()
    table.loc[table["task"] == "anli", ["low80", "high80", "low90", "high90"]] = np.nan
    assert set(coverage(table)["metric"]) == {"accuracy"}


# ---- the paper's data


@pytest.mark.data
def test_coverage_of_unseen_organisations(paper_store: AnalysisStore) -> None:
    """Within 5 points of nominal, averaged over tasks, for a plane over ln parameters and ln tokens."""
    recipe, inside = Recipe("loglinear", LogLinear, {}), []
    for frame in task_frames(paper_store, "raw", find_tasks(["hellaswag", "anli"]), freegen=False):
        X = design(frame.features, ["total_params", "total_tokens_billions"], "native")
        assert list(X.columns) == [LN_PARAMS, LN_TOKENS]
        context = context_of(list(X.index), frame.y, list(frame.org))
        covered = []
        for fold in LeaveGroupOut(group="org", inner_folds=3).outer(frame, 0):
            rows, y, known = X.iloc[fold.train], frame.y[fold.train], context.only(X.index[fold.train])
            yhat = recipe.make({}, 0, frame.task).fit(rows, y).predict(X.iloc[fold.test])
            low, high = conformal(recipe, {}, rows, y, known, 0, frame.task).interval(yhat)
            covered.append((low <= frame.y[fold.test]) & (frame.y[fold.test] <= high))
        inside.append(np.concatenate(covered, axis=1).mean(axis=1))
    assert np.abs(np.mean(inside, axis=0) - LEVELS).max() < 0.05
