"""The model of all tasks: its factors against the closed form, and planted worlds of one and two capabilities."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from njsl.core.types import ConfigError
from njsl.predict.base import LN_PARAMS, LN_TOKENS, Context
from njsl.predict.predictors.multitask import MultiTask, factors

TRAIN, TEST = slice(0, 40), slice(40, None)


def world(seed: int, missing: float = 0.3, noise: float = 0.005, own: float = 0.005) -> tuple[Any, ...]:
    """Rows, scores without noise on the task ``t0``, and all that is known: one capability, five tasks.

    The last task is better when lower, as a Brier score.
    """
    random = np.random.default_rng(seed)
    ids = [f"model {row}" for row in range(60)]
    X = pd.DataFrame({LN_PARAMS: random.uniform(18, 25, 60), LN_TOKENS: random.uniform(3, 9, 60)}, index=ids)
    capable = (X[LN_PARAMS] - 21.5) / 2 + (X[LN_TOKENS] - 6) / 3
    slopes, starts = np.array([0.1, 0.2, 0.05, 0.15, -0.1]), np.array([0.4, 0.5, 0.3, 0.6, 0.5])
    labels = pd.DataFrame(starts + np.outer(capable, slopes), index=ids, columns=[f"t{task}" for task in range(5)])
    truth = labels["t0"].to_numpy(copy=True)
    labels += random.normal(0, noise, labels.shape)
    labels["t0"] = truth + random.normal(0, own, 60)
    labels.iloc[:, 1:] = labels.iloc[:, 1:].mask(random.random((60, 4)) < missing)
    groups = pd.DataFrame({"org": ids, "family": ids}, index=ids)
    return X, truth, Context(groups, labels, pd.Series(np.nan, index=ids), task="t0")


def fitted(X: pd.DataFrame, known: Context, **params: Any) -> MultiTask:
    y = known.labels["t0"].to_numpy()[TRAIN]
    return MultiTask(**params).fit(X[TRAIN], y, known)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), rank=st.integers(1, 3), penalty=st.floats(0.1, 20.0))
def test_of_complete_scores_the_singular_values_are_shrunken(seed: int, rank: int, penalty: float) -> None:
    """The ridge penalties on both factors take ``penalty`` off every singular value (the nuclear norm's shadow)."""
    random = np.random.default_rng(seed)
    scores = random.normal(size=(12, rank)) @ random.normal(size=(rank, 5)) * 3 + random.normal(size=(12, 5))
    left, values, right = np.linalg.svd(scores, full_matrices=False)
    values = np.where(np.arange(5) < rank, np.maximum(values - penalty, 0), 0)
    capabilities, loadings = factors(scores, rank, penalty)
    assert capabilities.shape == (12, rank) and loadings.shape == (5, rank)
    near = np.abs(np.linalg.svd(scores)[1][:rank] - penalty).min() < 1  # the two vanish together only slowly
    np.testing.assert_allclose(capabilities @ loadings.T, left * values @ right, atol=0.5 if near else 0.02)


def test_of_incomplete_scores_nothing_near_is_better() -> None:
    random = np.random.default_rng(0)
    scores = np.outer(random.normal(size=20), [1.0, -2, 0.5, 1]) + random.normal(0, 0.1, (20, 4))
    scores[random.random((20, 4)) < 0.3] = np.nan
    held = scores.copy()
    capabilities, loadings = factors(scores, 2, 0.5)
    np.testing.assert_array_equal(scores, held)

    def loss(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.nansum(np.square(scores - a @ b.T)) + 0.5 * (np.square(a).sum() + np.square(b).sum()))

    best = loss(capabilities, loadings)
    for _ in range(100):
        step = random.choice([0.3, 0.1, 0.03])
        other = capabilities + random.normal(0, step, (20, 2)), loadings + random.normal(0, step, (4, 2))
        assert loss(*other) > best


@pytest.mark.parametrize("seed", range(3))
def test_one_capability_is_recovered_with_a_third_of_the_scores_missing(seed: int) -> None:
    X, truth, known = world(seed)
    model = fitted(X, known.only(X.index[TRAIN]), rank=1, penalty=0.1)
    error = np.abs(model.predict(X[TEST]) - truth[TEST]).mean()
    assert error < 0.015 < 0.05 < np.abs(truth[TEST] - np.median(truth[TRAIN])).mean()


def test_another_tasks_scores_help_where_the_own_are_noisy() -> None:
    """Capability rests on four columns: the other tasks say how, the own scores are too noisy for more than a slope."""
    alone, helped = [], []
    for seed in range(6):
        X, truth, known = world(seed, missing=0.1)
        random = np.random.default_rng(seed)
        X = X.assign(code_pct=random.normal(size=60), web_pct=random.normal(size=60))
        extra = (X["code_pct"] - X["web_pct"]).to_numpy()
        labels = known.labels + np.outer(extra, [0.1, 0.2, 0.05, 0.15, -0.1])
        truth = truth + 0.1 * extra
        labels["t0"] = truth + random.normal(0, 0.15, 60)
        known = replace(known, labels=labels)
        models = MultiTask(rank=1).fit(X[TRAIN], labels["t0"].to_numpy()[TRAIN]), fitted(X, known, rank=1)
        for model, errors in zip(models, (alone, helped), strict=True):
            errors.append(np.abs(model.predict(X[TEST]) - truth[TEST]).mean())
    assert np.mean(helped) < 0.75 * np.mean(alone)


def test_two_capabilities_need_two_ranks() -> None:
    """Half of the tasks follow parameters, half tokens, and the own task is noisy: one rank mixes them."""
    X, _, known = world(3)
    random = np.random.default_rng(0)
    columns = [X[LN_PARAMS] if task % 2 == 0 else X[LN_TOKENS] for task in range(6)]
    labels = pd.concat(
        [0.5 + 0.1 * (c - c.mean()) / c.std() for c in columns], axis=1, keys=[f"t{i}" for i in range(6)]
    )
    truth = labels["t0"].to_numpy(copy=True)
    labels += random.normal(0, 0.01, labels.shape)
    known = replace(known, labels=labels)
    errors = [np.abs(fitted(X, known, rank=rank).predict(X[TEST]) - truth[TEST]).mean() for rank in (1, 2)]
    assert errors[1] < 0.6 * errors[0]


def test_scores_of_held_out_models_cannot_enter() -> None:
    X, _, known = world(4)
    cut = fitted(X, known.only(X.index[TRAIN])).predict(X)
    lying = replace(known, labels=known.labels.copy())
    lying.labels.iloc[TEST] = 99.0
    np.testing.assert_array_equal(fitted(X, lying).predict(X), cut)
    # While those of training models do enter.
    lying.labels.iloc[3, 2] = 0.9
    assert np.abs(fitted(X, lying).predict(X) - cut).max() > 1e-4


def test_the_own_scores_are_those_given_to_fit() -> None:
    """The context's column of the predicted task is not read a second time; scores are found by model."""
    X, _, known = world(5)
    y = known.labels["t0"].to_numpy()[TRAIN]
    cut = MultiTask().fit(X[TRAIN], y, known).predict(X)
    other = replace(known, labels=known.labels.assign(t0=0.123))
    np.testing.assert_array_equal(MultiTask().fit(X[TRAIN], y, other).predict(X), cut)
    turned = replace(known, labels=known.labels[::-1])
    np.testing.assert_array_equal(MultiTask().fit(X[TRAIN], y, turned).predict(X), cut)
    strangers = replace(known, labels=known.labels.drop(columns="t0"), task=None)
    np.testing.assert_array_equal(MultiTask().fit(X[TRAIN], y, strangers).predict(X), cut)


def test_units_and_directions_of_other_tasks_do_not_matter() -> None:
    X, _, known = world(6)
    plain = fitted(X, known).predict(X)
    turned = known.labels.assign(t1=100 - 50 * known.labels["t1"], t4=1 - known.labels["t4"])
    np.testing.assert_allclose(fitted(X, replace(known, labels=turned)).predict(X), plain, atol=2e-3)


def test_tasks_with_hardly_a_score_are_left_out() -> None:
    X, _, known = world(7)
    plain = fitted(X, known, rank=2).predict(X)
    few = np.full(60, np.nan)
    few[[1, 5, 8]] = [0.1, 0.9, 0.2]  # rank + 1
    for name, column in (("few", few), ("none", np.full(60, np.nan))):
        with_column = replace(known, labels=known.labels.assign(**{name: column}))
        np.testing.assert_array_equal(fitted(X, with_column, rank=2).predict(X), plain)
    few[[9, 11]] = 0.5
    enough = replace(known, labels=known.labels.assign(few=few))
    assert not np.array_equal(fitted(X, enough, rank=2).predict(X), plain)


def test_without_a_context_there_is_one_capability() -> None:
    X, truth, known = world(8)
    y = known.labels["t0"].to_numpy()
    model = MultiTask(rank=3).fit(X[TRAIN], y[TRAIN])
    assert model.loadings_.shape == (1,) and len(model.processes_) == 1
    alone = MultiTask(rank=3).fit(X[TRAIN], y[TRAIN], Context.alone(X[TRAIN], y[TRAIN]))
    np.testing.assert_array_equal(alone.predict(X), model.predict(X))
    assert np.abs(model.predict(X[TEST]) - truth[TEST]).mean() < 0.03


@pytest.mark.parametrize("params", [{"rank": 0}, {"rank": -1}, {"penalty": 0.0}, {"penalty": -0.5}], ids=str)
def test_a_parameter_out_of_range_is_refused(params: dict[str, Any]) -> None:
    X, _, known = world(9)
    with pytest.raises(ConfigError, match=r"^multitask: .*at least 1.* above 0 are accepted") as caught:
        fitted(X, known, **params)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("group_scale", [0.0, -1.0])
def test_a_group_scale_out_of_range_is_refused(group_scale: float) -> None:
    X, _, known = world(9)
    with pytest.raises(ConfigError, match=r"^multitask: .*group_scale"):
        fitted(X, known, group_scale=group_scale)
