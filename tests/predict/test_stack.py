"""The stack: weights and out-of-fold predictions by independent loops, medians by brute force, faults in one line."""

from __future__ import annotations

import itertools
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GroupKFold, KFold

from njsl.core.types import ConfigError, DataError
from njsl.predict.base import LN_PARAMS, LN_TOKENS, Context
from njsl.predict.predictors.median_forest import MedianForest
from njsl.predict.predictors.multitask import MultiTask
from njsl.predict.predictors.ridge import Ridge
from njsl.predict.predictors.stack import Member, Stack, weighted_median

PLUGINS = "njsl.predict.predictors"
MEDIAN = {"_target_": f"{PLUGINS}.median.Median"}
PLANE = {"_target_": f"{PLUGINS}.loglinear.LogLinear"}
FOREST = {"_target_": f"{PLUGINS}.median_forest.MedianForest", "n_estimators": 4}
RIDGE = {"_target_": f"{PLUGINS}.ridge.Ridge"}
TASKS = {"_target_": f"{PLUGINS}.multitask.MultiTask"}


def member(predictor: dict[str, Any], *features: str) -> dict[str, Any]:
    return {"features": list(features) or ["scale"], "predictor": predictor}


SIMPLE = {"plane": member(PLANE), "median": member(MEDIAN)}


def world(seed: int = 0, whole: Any = None, count: int = 40) -> tuple[pd.DataFrame, np.ndarray, Context]:
    """Models of eight orgs of unequal size, a plane with noise, and a second task that follows the first."""
    random = np.random.default_rng(seed)
    ids = [f"model {row}" for row in random.permutation(count)]
    X = pd.DataFrame(
        {
            LN_PARAMS: random.uniform(18, 25, count),
            LN_TOKENS: random.uniform(3, 9, count),
            "code_pct": random.uniform(0, 40, count),
            "dimension": random.uniform(500, 5000, count),
        },
        index=ids,
    )
    y = 0.4 + 0.02 * (X[LN_PARAMS] - 21) + 0.02 * (X[LN_TOKENS] - 6) + 0.001 * X["code_pct"]
    y = (y + random.normal(0, 0.05, count)).to_numpy()
    family = random.integers(0, 16, count)
    groups = pd.DataFrame({"org": [f"org {f // 2}" for f in family], "family": family}, index=ids)
    labels = pd.DataFrame({"own": y, "other": 2 * y - 0.2 + random.normal(0, 0.02, count)}, index=ids)
    return X, y, Context(groups, labels, pd.Series(0.01, index=ids), whole, "own")


def folds_by_hand(known: Context, ids: pd.Index, count: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    if known.whole is None:
        return list(KFold(count, shuffle=True, random_state=seed).split(ids))
    groups = known.groups.loc[ids, known.whole].to_numpy()
    return list(GroupKFold(count, shuffle=True, random_state=seed).split(ids, groups=groups))


def halfway(values: np.ndarray, weights: np.ndarray) -> float:
    """Each value stands in the middle of its weight on a line of length 1; read off at a half."""
    line, place = [], 0.0
    for value, weight in sorted(zip(values, weights, strict=True)):
        line.append((place + weight / 2, value))
        place += weight
    if line[0][0] >= 0.5:
        return float(line[0][1])
    for (left, low), (right, high) in itertools.pairwise(line):
        if left <= 0.5 <= right:
            return float(low + (high - low) * (0.5 - left) / (right - left)) if right > left else float(low)
    return float(line[-1][1])


@pytest.mark.parametrize(("whole", "temperature"), [(None, 0.5), ("org", 0.5), ("family", 0.1)])
def test_weights_and_unseen_predictions_by_hand(whole: Any, temperature: float) -> None:
    X, y, known = world(0, whole)
    new = world(1)[0]
    stack = Stack(members=SIMPLE, folds=4, temperature=temperature, random_state=3).fit(X, y, known)
    scale = X[[LN_PARAMS, LN_TOKENS]].to_numpy()
    unseen = np.zeros((40, 2))
    for fit, score in folds_by_hand(known, X.index, 4, 3):
        if whole:
            assert not set(known.groups[whole].iloc[fit]) & set(known.groups[whole].iloc[score])
        unseen[score, 0] = LinearRegression().fit(scale[fit], y[fit]).predict(scale[score])
        unseen[score, 1] = np.median(y[fit])
    plane, median = np.abs(unseen - y[:, None]).mean(axis=0)
    assert plane < median
    # The best weighs 1, the other exp(-(share by which it errs more) / temperature), before they sum to 1.
    other = np.exp(-(median / plane - 1) / temperature)
    weights = np.array([1, other]) / (1 + other)
    assert 0.01 < weights[1] < 0.45
    assert stack.weights_ == pytest.approx({"plane": weights[0], "median": weights[1]}, rel=1e-9)
    np.testing.assert_allclose(stack.unseen_, [halfway(row, weights) for row in unseen], atol=1e-12)
    # On new models the members are those fitted on all training models.
    line = LinearRegression().fit(scale, y).predict(new[[LN_PARAMS, LN_TOKENS]].to_numpy())
    expected = [halfway(np.array([value, np.median(y)]), weights) for value in line]
    np.testing.assert_allclose(stack.predict(new), expected, atol=1e-12)


MEMBERS = {
    "median": member(MEDIAN),
    "forest": member(FOREST, "scale", "data"),
    "tuned": member({**RIDGE, "alpha": [0.01, 1000.0]}, "scale", "arch"),
    "tasks": member(TASKS, "scale"),
}


@pytest.mark.parametrize("name", MEMBERS)
@pytest.mark.parametrize("whole", [None, "org"])
def test_no_score_of_a_held_out_group_reaches_its_unseen_predictions(name: str, whole: Any) -> None:
    """A group's scores on all tasks are replaced: its own unseen predictions stay, others' change."""
    X, y, known = world(2, whole)
    members = {name: MEMBERS[name]}
    before = Stack(members=members, folds=4).fit(X, y, known).unseen_
    assert before is not None
    others = np.zeros(40, dtype=bool)
    orgs = known.groups["org"].to_numpy()
    changes = [orgs == org for org in sorted(set(orgs))[:2]] if whole else [np.arange(40) == row for row in (0, 17)]
    for mine in changes:
        wrong = np.where(mine, 1.5 - y, y)
        labels = known.labels.assign(own=wrong, other=np.where(mine, 0.0, known.labels["other"]))
        stderr = known.stderr.where(~mine, 0.4)
        after = Stack(members=members, folds=4).fit(X, wrong, replace(known, labels=labels, stderr=stderr)).unseen_
        np.testing.assert_array_equal(after[mine], before[mine])
        others |= after != before
    assert others.any()


def test_members_are_tuned_within_the_training_models() -> None:
    """By a loop over folds, points and inner folds, which hold orgs out whole too."""
    X, y, known = world(3, "org")
    alphas = [3000.0, 0.01, 30.0]
    names = [LN_PARAMS, LN_TOKENS, "dimension"]
    stack = Stack(members={"a": MEMBERS["tuned"]}, folds=3, random_state=5)
    stack.members["a"] = member({**RIDGE, "alpha": alphas}, "scale", "arch")
    stack.fit(X, y, known)

    def tuned(rows: np.ndarray) -> Ridge:
        ids, errors = X.index[rows], []
        for alpha in alphas:
            inner = folds_by_hand(known, ids, 3, 5)
            parts = [Ridge(alpha=alpha).fit(X[names].iloc[rows[a]], y[rows[a]]) for a, _ in inner]
            guesses = [model.predict(X[names].iloc[rows[b]]) for model, (_, b) in zip(parts, inner, strict=True)]
            errors.append(np.mean([np.abs(g - y[rows[b]]).mean() for g, (_, b) in zip(guesses, inner, strict=True)]))
        return Ridge(alpha=alphas[int(np.argmin(errors))]).fit(X[names].iloc[rows], y[rows])

    unseen = np.zeros(40)
    for fit, score in folds_by_hand(known, X.index, 3, 5):
        unseen[score] = tuned(fit).predict(X[names].iloc[score])
    np.testing.assert_allclose(stack.unseen_, unseen, atol=1e-12)
    np.testing.assert_allclose(stack.predict(X), tuned(np.arange(40)).predict(X[names]), atol=1e-12)


def test_a_member_sees_its_groups_of_features_alone() -> None:
    X, y, known = world(4)
    stack = Stack(members={"scale": member(FOREST), "data": member(FOREST, "scale", "data")}).fit(X, y, known)
    seen = {name: columns for name, (columns, _) in stack.fitted_.items()}
    assert seen == {"scale": [LN_PARAMS, LN_TOKENS], "data": [LN_PARAMS, LN_TOKENS, "code_pct"]}
    before = stack.predict(X)
    np.testing.assert_array_equal(stack.predict(X.assign(dimension=1e9)), before)
    assert not np.array_equal(stack.predict(X.assign(code_pct=X["code_pct"].to_numpy()[::-1])), before)


def test_doubled_members_are_left_out_where_groups_are_not_there() -> None:
    X, y, known = world(5)
    members = {
        "one": member(FOREST),
        "two": member(FOREST, "scale", "data"),
        "three": member(FOREST, "scale", "arch", "data"),
        "other": member({**FOREST, "min_samples_leaf": 5}, "scale", "data"),
        "plane": member(PLANE),
        "data": member(MEDIAN, "data"),
    }
    stack = Stack(members=members, folds=3).fit(X[[LN_PARAMS, LN_TOKENS]], y, known)
    assert list(stack.weights_) == ["one", "other", "plane"]
    alone = {name: members[name] for name in ("one", "other", "plane")}
    bare = Stack(members=alone, folds=3).fit(X[[LN_PARAMS, LN_TOKENS]], y, known)
    np.testing.assert_array_equal(stack.predict(X[[LN_PARAMS, LN_TOKENS]]), bare.predict(X[[LN_PARAMS, LN_TOKENS]]))
    assert list(Stack(members=members, folds=3).fit(X, y, known).weights_) == list(members)


def test_a_member_that_needs_columns_its_groups_lack_is_left_out() -> None:
    X, y, known = world(6)
    members = {"plane": member(PLANE, "data"), "median": member(MEDIAN, "data")}
    assert list(Stack(members=members, folds=3).fit(X, y, known).weights_) == ["median"]


def test_members_get_the_seed_and_the_facts_of_the_task() -> None:
    X, y, known = world(7)
    columns = [LN_PARAMS, LN_TOKENS]
    forest = Stack(members={"a": member(FOREST)}, folds=2, random_state=7).fit(X, y, known)
    expected = MedianForest(n_estimators=4, random_state=7).fit(X[columns], y).predict(X[columns])
    np.testing.assert_array_equal(forest.predict(X), expected)
    facts: dict[str, Any] = {"floor": 0.6, "perfect": 0.0}
    ridge = Stack(members={"a": member({**RIDGE, "link": "logit"})}, folds=2, **facts).fit(X, y, known)
    expected = Ridge(link="logit", **facts).fit(X[columns], y).predict(X[columns])
    np.testing.assert_array_equal(ridge.predict(X), expected)
    assert not np.allclose(expected, Ridge(link="logit").fit(X[columns], y).predict(X[columns]))


def test_members_get_the_context() -> None:
    X, y, known = world(8)
    stack = Stack(members={"a": member(TASKS)}, folds=2).fit(X, y, known)
    columns = [LN_PARAMS, LN_TOKENS]
    np.testing.assert_array_equal(stack.predict(X), MultiTask().fit(X[columns], y, known).predict(X[columns]))
    assert not np.array_equal(stack.predict(X), MultiTask().fit(X[columns], y).predict(X[columns]))


def test_without_a_context_models_are_held_out_one_by_one() -> None:
    X, y, known = world(9)
    told, untold = Stack(members=SIMPLE).fit(X, y, known), Stack(members=SIMPLE).fit(X, y)
    assert told.weights_ == untold.weights_
    np.testing.assert_array_equal(told.unseen_, untold.unseen_)


def test_members_as_dataclasses_are_members() -> None:
    X, y, known = world(10)
    parts = {name: Member(**part) for name, part in SIMPLE.items()}
    np.testing.assert_array_equal(
        Stack(members=parts).fit(X, y, known).predict(X), Stack(members=SIMPLE).fit(X, y, known).predict(X)
    )


def test_a_member_without_an_error_takes_all() -> None:
    X, _, known = world(11)
    y = (0.4 + 0.02 * X[LN_PARAMS] - 0.01 * X[LN_TOKENS]).to_numpy()
    stack = Stack(members=SIMPLE).fit(X, y, known)
    assert stack.weights_["plane"] == pytest.approx(1)
    np.testing.assert_allclose(stack.predict(X), y, atol=1e-9)
    constant = Stack(members=SIMPLE).fit(X, np.full(40, 0.5), known)
    assert all(np.isfinite(list(constant.weights_.values())))
    np.testing.assert_allclose(constant.predict(X), 0.5)


WEIGHTS = st.integers(1, 20)


@settings(max_examples=150, deadline=None)
@given(columns=st.lists(st.tuples(st.integers(-50, 50), WEIGHTS), min_size=1, max_size=7, unique_by=lambda c: c[0]))
def test_weighted_median_by_brute_force(columns: list[tuple[int, int]]) -> None:
    values, shares = np.array(columns, dtype=float).T
    weights = shares / shares.sum()
    (found,) = weighted_median(values[None], weights)
    # In exact numbers, by the definition.
    total = sum(share for _, share in columns)
    line, place = [], Fraction(0)
    for value, share in sorted(columns):
        line.append((place + Fraction(share, 2 * total), Fraction(value)))
        place += Fraction(share, total)
    below = [point for point in line if point[0] <= Fraction(1, 2)] or line[:1]
    above = [point for point in line if point[0] >= Fraction(1, 2)] or line[-1:]
    (left, low), (right, high) = below[-1], above[0]
    exact = low if left >= right else low + (high - low) * (Fraction(1, 2) - left) / (right - left)
    assert found == pytest.approx(float(exact), abs=1e-9)
    # It is among the values; order, sign and units do not matter.
    assert values.min() <= found <= values.max()
    assert weighted_median(values[None, ::-1], weights[::-1])[0] == pytest.approx(found, abs=1e-9)
    assert weighted_median(-values[None], weights)[0] == pytest.approx(-found, abs=1e-9)
    assert weighted_median(3 * values[None] + 7, weights)[0] == pytest.approx(3 * found + 7, abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(rows=st.lists(st.lists(st.integers(0, 9), min_size=4, max_size=4), min_size=1, max_size=5))
def test_with_equal_weights_it_is_the_median(rows: list[list[int]]) -> None:
    for width in (1, 2, 3, 4):
        values = np.array(rows, dtype=float)[:, :width]
        np.testing.assert_allclose(weighted_median(values, np.full(width, 1 / width)), np.median(values, axis=1))


@settings(max_examples=50, deadline=None)
@given(columns=st.lists(st.tuples(st.integers(0, 3), WEIGHTS), min_size=2, max_size=6), data=st.data())
def test_the_order_of_members_does_not_matter_even_in_ties(columns: list[tuple[int, int]], data: Any) -> None:
    values, shares = np.array(columns, dtype=float).T
    order = np.array(data.draw(st.permutations(range(len(columns)))))
    (one,) = weighted_median(values[None], shares / shares.sum())
    (other,) = weighted_median(values[None, order], shares[order] / shares.sum())
    assert one == pytest.approx(other, abs=1e-9)


def refused(kind: type[Exception], match: str, members: Any = SIMPLE, **params: Any) -> None:
    X, y, known = world(12)
    with pytest.raises(kind, match=match) as caught:
        Stack(members=members, **params).fit(X[[LN_PARAMS, LN_TOKENS]], y, known)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("temperature", [0.0, -0.5])
def test_a_temperature_out_of_range_is_refused(temperature: float) -> None:
    refused(ConfigError, rf"^stack: temperature={temperature}[,;] .*accepted", temperature=temperature)


@pytest.mark.parametrize("folds", [1, 0, -2])
def test_too_few_folds_are_refused(folds: int) -> None:
    refused(ConfigError, rf"^stack: .*folds={folds}; .*2", folds=folds)


def test_members_without_a_column_are_refused_by_name() -> None:
    members = {"a": member(MEDIAN, "data"), "b": member(PLANE, "arch")}
    refused(DataError, rf"^stack: none of its members \(a, b\) can use the features {LN_PARAMS}, {LN_TOKENS}", members)


def test_a_group_that_does_not_exist_is_named() -> None:
    members = {**SIMPLE, "typo": member(MEDIAN, "scael")}
    refused(ConfigError, r"'scael' is no group; accepted: scale, arch, tied, data, freegen", members)


def test_one_org_cannot_be_held_out() -> None:
    X, y, known = world(13, "org")
    known = replace(known, groups=known.groups.assign(org="one"))
    with pytest.raises(DataError, match="of one org; at least 2 are needed"):
        Stack(members=SIMPLE).fit(X, y, known)
