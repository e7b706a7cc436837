"""Preparation against scikit-learn's parts; compute from parameters and tokens; what a context lets through."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from njsl.core.types import DataError
from njsl.predict.base import (
    LN_COMPUTE,
    LN_PARAMS,
    LN_TOKENS,
    LN_TOKENS_PER_PARAM,
    Context,
    MedianImputer,
    Preparation,
    per_feature,
    with_compute,
)

LABELS: list[list[Any]] = [["b", "a", "c"], [True, False], [3, 1, 2]]


def theirs(X: pd.DataFrame, scale: bool) -> ColumnTransformer:
    categories = [name for name in X if isinstance(X[name].dtype, pd.CategoricalDtype)]
    numbers = make_pipeline(MedianImputer(), *([StandardScaler()] if scale else []))
    return ColumnTransformer(
        [
            ("numbers", numbers, [name for name in X if name not in categories]),
            ("categories", OneHotEncoder(handle_unknown="ignore", sparse_output=False), categories),
        ]
    )


@st.composite
def frames(draw: st.DrawFn) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Training rows and later ones: gaps, empty and constant columns, labels unseen, unused or in another order."""
    count, later = draw(st.integers(1, 8)), draw(st.integers(1, 4))
    plain = st.floats(-1e6, 1e6, width=32)
    columns: dict[str, tuple[Any, Any]] = {}
    for number in range(draw(st.integers(0, 3))):
        values = draw(st.sampled_from([plain, st.just(float("nan")), st.just(draw(plain)), st.just(0.1)]))
        gaps = st.one_of(values, st.just(float("nan"))) if draw(st.booleans()) else values
        first = draw(st.lists(gaps, min_size=count, max_size=count))
        second = draw(st.lists(st.one_of(plain, st.just(float("nan"))), min_size=later, max_size=later))
        columns[f"number {number}"] = np.array(first, float), np.array(second, float)
    for number in range(draw(st.integers(0 if columns else 1, 2))):
        labels = draw(st.sampled_from(LABELS))
        both = []
        for size in (count, later):
            known = draw(st.permutations(labels))[: draw(st.integers(1, len(labels)))]
            given_ = draw(st.lists(st.sampled_from([*known, None]), min_size=size, max_size=size))
            both.append(pd.Categorical(given_, categories=known, ordered=draw(st.booleans())))
        columns[f"kind {number}"] = both[0], both[1]
    order = draw(st.permutations(list(columns)))
    return pd.DataFrame({name: columns[name][0] for name in order}), pd.DataFrame({n: columns[n][1] for n in order})


@settings(max_examples=60, deadline=None)
@given(pair=frames(), scale=st.booleans())
@pytest.mark.filterwarnings("ignore:Found unknown categories")
def test_what_scikit_learn_makes_of_the_same_rows(pair: tuple[pd.DataFrame, pd.DataFrame], scale: bool) -> None:
    train, later = pair
    ours, reference = Preparation(scale=scale), theirs(train, scale)
    fitted = ours.fit_transform(train)
    np.testing.assert_allclose(fitted, reference.fit_transform(train), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(ours.transform(later), reference.transform(later), rtol=1e-9, atol=1e-9)
    swapped = later[later.columns[::-1]]
    np.testing.assert_array_equal(ours.transform(swapped), ours.transform(later))
    # Every transformed column is counted to the feature it came from.
    names = [name.split("__")[1] for name in reference.get_feature_names_out()]
    owners = [max((f for f in train if name.startswith(f)), key=len) for name in names]
    counts = per_feature(ours, np.ones(fitted.shape[1]))
    assert dict(zip(train.columns, counts, strict=True)) == {name: owners.count(name) for name in train}


def test_by_hand() -> None:
    train = pd.DataFrame(
        {
            "kind": pd.Categorical(["b", None, "a", "b"], categories=["c", "b", "a"]),
            "size": [1.0, np.nan, 3.0, 5.0],  # the gap is 3: mean 3, deviation sqrt(2)
            "never": [np.nan] * 4,
        }
    )
    later = pd.DataFrame(
        {"kind": pd.Categorical(["c", None, "a"]), "size": [np.nan, 5.0, 3.0], "never": [7.0, np.nan, -7.0]}
    )
    ours = Preparation(scale=True).fit(train)
    # size, never, a, b, missing
    expected = [[0, 0, 0, 0, 0], [np.sqrt(2), 0, 0, 0, 1], [0, 0, 1, 0, 0]]
    np.testing.assert_allclose(ours.transform(later), expected, atol=1e-12)
    np.testing.assert_array_equal(per_feature(ours, np.array([1.0, 10, 100, 200, 400])), [700, 1, 10])


@pytest.mark.parametrize("value", [0.1, 1e9 + 0.1, -1e-7, 0.0])
def test_a_constant_column_is_not_blown_up(value: float) -> None:
    train = pd.DataFrame({"same": [value] * 97})
    ours = Preparation(scale=True).fit(train)
    assert np.abs(ours.transform(train)).max() < 1e-6
    np.testing.assert_allclose(ours.transform(pd.DataFrame({"same": [value + 2.0]})), [[2.0]], rtol=1e-6)


def test_a_small_spread_is_a_spread() -> None:
    train = pd.DataFrame({"narrow": 1e3 + 1e-6 * np.arange(5.0)})
    np.testing.assert_allclose(Preparation(scale=True).fit_transform(train).std(), 1.0, rtol=1e-6)


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_an_infinite_value_is_refused_by_its_column(value: float) -> None:
    good = pd.DataFrame({"fine": [1.0, 2.0], "odd": [1.0, np.nan]})
    bad = good.assign(odd=[1.0, value])
    with pytest.raises(DataError, match="odd") as caught:
        Preparation(scale=True).fit(bad)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="odd"):
        Preparation(scale=False).fit(good).transform(bad)


def test_compute_and_tokens_per_parameter() -> None:
    X = pd.DataFrame({LN_PARAMS: np.log([2.0, 8.0, np.nan]), "other": 1.0, LN_TOKENS: np.log([10.0, 4.0, 3.0])})
    more = with_compute(X)
    assert list(more) == [LN_PARAMS, "other", LN_TOKENS, LN_COMPUTE, LN_TOKENS_PER_PARAM]
    np.testing.assert_allclose(np.exp(more[LN_COMPUTE]), [20.0, 32.0, np.nan])
    np.testing.assert_allclose(np.exp(more[LN_TOKENS_PER_PARAM]), [5.0, 0.5, np.nan])
    assert LN_COMPUTE not in X
    for lacking in (LN_PARAMS, LN_TOKENS):
        pd.testing.assert_frame_equal(with_compute(X.drop(columns=lacking)), X.drop(columns=lacking))


def context(count: int, whole: Any = None) -> Context:
    """Three models per family, two families per org; ids in no order."""
    ids = pd.Index([f"model {number * 7 % count}" for number in range(count)])
    family = np.arange(count) // 3
    groups = pd.DataFrame({"org": family // 2, "family": family}, index=ids)
    labels = pd.DataFrame({"a": np.arange(count) / 100, "b": np.nan}, index=ids)
    return Context(groups, labels, pd.Series(np.arange(count) / 1000, index=ids), whole, "a")


def test_only_leaves_no_score_of_another_model() -> None:
    whole = context(12)
    wanted = list(whole.labels.index[[5, 2, 9]])
    part = whole.only(wanted)
    assert list(part.labels.index) == list(part.stderr.index) == wanted
    assert list(part.labels["a"]) == [0.05, 0.02, 0.09] and list(part.stderr) == [0.005, 0.002, 0.009]
    assert len(part.groups) == 12 and (part.whole, part.task) == (whole.whole, "a")
    with pytest.raises(KeyError):
        whole.only(["stranger"])
    assert len(whole.labels) == 12


@settings(max_examples=60, deadline=None)
@given(data=st.data(), whole=st.sampled_from([None, "org", "family"]), count=st.integers(2, 9), seed=st.integers(0, 99))
def test_folds_hold_every_model_out_once_and_groups_whole(data: Any, whole: Any, count: int, seed: int) -> None:
    known = context(30, whole)
    rows = data.draw(st.lists(st.integers(0, 29), min_size=7, unique=True))  # of at least two orgs
    ids = known.labels.index[rows]
    folds = known.folds(ids, count, seed)
    groups = np.array(ids) if whole is None else known.groups.loc[ids, whole].to_numpy()
    assert len(folds) == min(count, len(set(groups)))
    assert sorted(np.concatenate([score for _, score in folds])) == list(range(len(ids)))
    for fit, score in folds:
        assert sorted([*fit, *score]) == list(range(len(ids))) and len(score) > 0
        assert not set(groups[fit]) & set(groups[score])
    again = known.folds(ids, count, seed)
    assert all(np.array_equal(a, b) for a, b in zip(itertools.chain(*folds), itertools.chain(*again), strict=True))


def test_the_seed_draws_the_folds_and_one_group_is_refused() -> None:
    for whole in (None, "org"):
        known = context(30, whole)
        ids = known.labels.index
        drawn = {tuple(known.folds(ids, 3, seed)[0][1]) for seed in range(5)}
        assert len(drawn) > 1
    with pytest.raises(DataError, match=r"of one org; at least 2 are needed"):
        known.folds(ids[:6], 3, 0)


def test_alone_every_model_is_its_own_group() -> None:
    X = pd.DataFrame({"x": [1.0, 2.0, 3.0]}, index=["p", "q", "r"])
    known = Context.alone(X, np.array([0.1, 0.2, 0.3]))
    assert known.whole is None and known.stderr.isna().all() and list(known.stderr.index) == ["p", "q", "r"]
    assert known.task is not None and list(known.labels) == [known.task]
    assert list(known.labels[known.task]) == [0.1, 0.2, 0.3]
    assert all(known.groups[name].nunique() == 3 for name in ("org", "family"))
