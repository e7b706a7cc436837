"""Every predictor of conf/predictor keeps the contract of njsl.predict.base.Predictor.

TabPFN needs an optional package and a file of weights, which NJSL_TABPFN_WEIGHTS names; without them it is skipped.
"""

from __future__ import annotations

import copy
import inspect
import os
import pickle
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.base import clone

from njsl.core.types import DataError
from njsl.predict.base import LN_PARAMS, LN_TOKENS, Context, Predictor, Preparation, per_feature

FILES = sorted((Path(__file__).parents[2] / "conf" / "predictor").glob("*.yaml"))
NAMES = [file.stem for file in FILES]
CHANCE = 0.25
FEW_TREES = {"njsl.predict.predictors.median_forest.MedianForest": {"n_estimators": 10}}
TABPFN_WEIGHTS = os.environ.get("NJSL_TABPFN_WEIGHTS")


def recipe(name: str) -> dict[str, Any]:
    (file,) = (file for file in FILES if file.stem == name)
    return yaml.safe_load(file.read_text())[name]


def kind(name: str) -> type[Predictor]:
    module, _, attribute = recipe(name)["_target_"].rpartition(".")
    return getattr(import_module(module), attribute)


def make(name: str, **changes: Any) -> Predictor:
    """The predictor at the first point of its grid, with what a run fills in."""
    given = {key: value for key, value in recipe(name).items() if key != "_target_"}
    params = {key: value[0] if isinstance(value, list) else value for key, value in given.items()}
    filled = {"random_state": 3, "floor": CHANCE, "perfect": 1.0}
    if name == "tabpfn":
        params["weights"] = TABPFN_WEIGHTS
    if name == "stack":  # the shipped members, with forests of few trees: the contract is kept or broken by ten as well
        params["members"] = {
            part: {**member, "predictor": {**member["predictor"], **FEW_TREES.get(member["predictor"]["_target_"], {})}}
            for part, member in params["members"].items()
        }
    taken = inspect.signature(kind(name)).parameters
    return kind(name)(**{key: value for key, value in filled.items() if key in taken} | params | changes)


def models(rows: int = 60) -> tuple[pd.DataFrame, np.ndarray]:
    """Models with gaps in every column, one column wholly missing, and a score that depends on three of them."""
    random = np.random.default_rng(11)
    ln_params, ln_tokens = random.uniform(16, 25, rows), random.uniform(2.5, 9.5, rows)
    code, block = random.uniform(0, 40, rows), random.choice(["parallel", "sequential"], rows)
    score = 0.3 + 0.03 * (ln_params - 16) + 0.02 * (ln_tokens - 2.5) + 0.05 * (block == "parallel")
    X = pd.DataFrame(
        {
            LN_PARAMS: ln_params,
            LN_TOKENS: ln_tokens,
            "code_pct": code,
            "books_pct": np.nan,
            "block_type": pd.Categorical(block, categories=["parallel", "sequential", "other"]),
            "activation": pd.Categorical(random.choice(["gelu", "relu", "silu"], rows)),
            "biases": pd.Categorical([None] * rows, categories=["none", "some"]),
            "weight_tying": pd.Categorical(random.choice([True, False], rows)),
        }
    )
    present = X.columns.difference(["books_pct", "biases"])
    X[present] = X[present].mask(random.random((rows, len(present))) < 0.1)
    return X, score + random.normal(0, 0.01, rows)


X, Y = models()
TRAIN, TEST = slice(0, 40), slice(40, None)


@cache
def fitted(name: str) -> Predictor:
    return make(name).fit(X[TRAIN], Y[TRAIN])


@pytest.fixture(params=NAMES)
def yaml_name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def name(yaml_name: str) -> str:
    """Of the predictors that can run here."""
    if yaml_name == "tabpfn" and (find_spec("tabpfn") is None or TABPFN_WEIGHTS is None):
        pytest.skip("the package tabpfn is not installed, or NJSL_TABPFN_WEIGHTS names no weights")
    return yaml_name


def test_there_is_something_to_check() -> None:
    assert {"median", "loglinear", "xgboost"} <= set(NAMES)


def test_names_agree(yaml_name: str) -> None:
    (file,) = (file for file in FILES if file.stem == yaml_name)
    assert list(yaml.safe_load(file.read_text())) == [yaml_name]
    assert recipe(yaml_name)["_target_"].rpartition(".")[0] == f"njsl.predict.predictors.{yaml_name}"
    assert issubclass(kind(yaml_name), Predictor)


def test_parameters_of_the_yaml_exist_and_lists_are_axes(yaml_name: str) -> None:
    given = {key: value for key, value in recipe(yaml_name).items() if key != "_target_"}
    assert given.keys() <= inspect.signature(kind(yaml_name)).parameters.keys()
    for value in given.values():
        assert not isinstance(value, list) or len(set(value)) == len(value) > 1
    if kind(yaml_name).path:
        assert kind(yaml_name).path in given


def test_constructor_takes_keywords_and_only_stores(name: str) -> None:
    predictor = make(name)
    assert all(p.kind is p.KEYWORD_ONLY for p in inspect.signature(kind(name)).parameters.values())
    assert vars(predictor) == predictor.get_params()
    assert clone(predictor).get_params() == predictor.get_params()
    assert clone(fitted(name)).get_params() == predictor.get_params()


def test_fit_returns_the_predictor_and_leaves_parameters_and_rows_alone(name: str) -> None:
    predictor = make(name)
    before, rows, scores = predictor.get_params(), X[TRAIN].copy(), Y[TRAIN].copy()
    assert predictor.fit(rows, scores) is predictor
    predictor.predict(rows)
    predictor.contributions(rows)
    assert predictor.get_params() == before
    pd.testing.assert_frame_equal(rows, X[TRAIN])
    np.testing.assert_array_equal(scores, Y[TRAIN])
    assert all(attribute in before or attribute.endswith("_") for attribute in vars(predictor))


def test_predictions_are_finite_fractions_one_per_model(name: str) -> None:
    predicted = fitted(name).predict(X[TEST])
    assert predicted.shape == (20,) and predicted.dtype == np.float64
    assert np.isfinite(predicted).all()
    assert np.abs(predicted - Y[TEST].mean()).max() < 0.5


def test_no_worse_than_twice_the_median(name: str) -> None:
    error = np.abs(fitted(name).predict(X[TEST]) - Y[TEST]).mean()
    assert error < 2 * np.abs(np.median(Y[TRAIN]) - Y[TEST]).mean()


def test_same_seed_same_predictions(name: str) -> None:
    again = make(name).fit(X[TRAIN], Y[TRAIN])
    np.testing.assert_array_equal(again.predict(X[TEST]), fitted(name).predict(X[TEST]))


def test_a_models_prediction_does_not_depend_on_the_models_beside_it(name: str) -> None:
    together = fitted(name).predict(X[TEST])
    order = np.random.default_rng(0).permutation(20)
    np.testing.assert_allclose(fitted(name).predict(X[TEST].iloc[order]), together[order], rtol=0, atol=1e-12)
    alone = [fitted(name).predict(X[TEST].iloc[[row]]) for row in range(3)]
    assert [single.shape for single in alone] == [(1,)] * 3
    np.testing.assert_allclose(np.concatenate(alone), together[:3], rtol=0, atol=1e-12)


def test_order_of_the_training_models_does_not_matter_where_the_seed_does_not(name: str) -> None:
    predicted = fitted(name).predict(X[TEST])
    if "random_state" in make(name).get_params():
        other = make(name, random_state=4).fit(X[TRAIN], Y[TRAIN])
        if not np.allclose(other.predict(X[TEST]), predicted, atol=1e-4):
            pytest.skip("draws models at random, so their order is part of the draw")
    order = np.random.default_rng(1).permutation(40)
    shuffled = make(name).fit(X[TRAIN].iloc[order], Y[TRAIN][order])
    np.testing.assert_allclose(shuffled.predict(X[TEST]), predicted, rtol=0, atol=1e-4)


def test_values_never_seen_in_training(name: str) -> None:
    new = X[TEST].copy()
    new["books_pct"] = 35.0
    new["biases"] = pd.Categorical(["none"] * 20, categories=["none", "some"])
    new["block_type"] = pd.Categorical(["other"] * 20, categories=["parallel", "sequential", "other"])
    new["activation"] = pd.Categorical(["swiglu"] * 20)
    predicted = fitted(name).predict(new)
    assert np.isfinite(predicted).all()
    assert np.abs(predicted - fitted(name).predict(X[TEST])).max() < 0.2


def test_a_number_missing_from_all_training_models_carries_nothing(name: str) -> None:
    new = X[TEST].assign(books_pct=35.0)
    np.testing.assert_array_equal(fitted(name).predict(new), fitted(name).predict(X[TEST]))


def test_nothing_known_about_a_model(name: str) -> None:
    unknown = X[TEST].iloc[[0]].copy()
    unknown[:] = np.nan
    assert np.isfinite(fitted(name).predict(unknown)).all()


def test_every_column_missing_from_training(name: str) -> None:
    empty = X[TRAIN].copy()
    empty[:] = np.nan
    predicted = make(name).fit(empty, Y[TRAIN]).predict(X[TEST])
    assert np.isfinite(predicted).all() and 0 < predicted.mean() < 1


def test_one_kind_of_column(name: str) -> None:
    numbers = [str(column) for column in X if X[column].dtype == float]
    others = [] if make(name).needs else [["activation", "block_type"], ["code_pct"]]
    for part in (X.filter(columns) for columns in [numbers, *others]):
        assert np.isfinite(make(name).fit(part[TRAIN], Y[TRAIN]).predict(part[TEST])).all()


def test_missing_needed_columns_are_named(name: str) -> None:
    rows = X.drop(columns=[LN_TOKENS])
    if LN_TOKENS in make(name).needs:
        with pytest.raises(DataError, match=f"lack {LN_TOKENS}"):
            make(name).fit(rows[TRAIN], Y[TRAIN])
        with pytest.raises(DataError, match=f"lack {LN_TOKENS}"):
            fitted(name).predict(rows[TEST])
    else:
        assert np.isfinite(make(name).fit(rows[TRAIN], Y[TRAIN]).predict(rows[TEST])).all()


def test_constant_scores(name: str) -> None:
    predicted = make(name).fit(X[TRAIN], np.full(40, 0.4)).predict(X[TEST])
    np.testing.assert_allclose(predicted, 0.4, atol=0.02)


def test_pickles(name: str) -> None:
    copy = pickle.loads(pickle.dumps(fitted(name)))
    np.testing.assert_array_equal(copy.predict(X[TEST]), fitted(name).predict(X[TEST]))


def test_one_fit_yields_the_whole_path(name: str) -> None:
    axis = kind(name).path
    values = [10, 30] if axis else [None]
    predictor = make(name, **({axis: values[-1]} if axis else {}))
    predictor.fit_packed(predictor.pack(X[TRAIN], Y[TRAIN]))
    along = predictor.predict_path(predictor.pack(X[TEST]), values)
    assert len(along) == len(values)
    np.testing.assert_array_equal(along[-1], predictor.predict(X[TEST]))
    if axis:
        short = make(name, **{axis: 10}).fit(X[TRAIN], Y[TRAIN])
        np.testing.assert_array_equal(along[0], short.predict(X[TEST]))
        assert not np.array_equal(along[0], along[1])


def test_packed_rows_serve_the_whole_grid(name: str) -> None:
    axes = {key: value for key, value in recipe(name).items() if isinstance(value, list)}
    packed = make(name).pack(X[TRAIN], Y[TRAIN])
    last = {key: values[-1] for key, values in axes.items()}
    make(name).fit_packed(packed)
    reused = make(name, **last).fit_packed(packed)
    fresh = make(name, **last).fit(X[TRAIN], Y[TRAIN])
    np.testing.assert_array_equal(reused.predict(X[TEST]), fresh.predict(X[TEST]))


def test_contributions_add_up_to_the_prediction(name: str) -> None:
    shares = fitted(name).contributions(X[TEST])
    if shares is None:
        pytest.skip("no closed form")
    assert shares.shape == (20, X.shape[1]) and np.isfinite(shares).all()
    assert np.ptp(fitted(name).predict(X[TEST]) - shares.sum(axis=1)) < 1e-5
    assert (shares[:, X.columns.get_loc("books_pct")] == 0).all()


def test_importances_are_shares_of_the_features(name: str) -> None:
    shares = fitted(name).importances()
    if shares is None:
        pytest.skip("not defined")
    assert list(shares.index) == list(X.columns)
    assert shares.sum() == pytest.approx(1) and (shares >= 0).all() and shares["books_pct"] == 0
    assert shares.idxmax() == LN_PARAMS
    nothing = make(name).fit(X[TRAIN], np.full(40, 0.4)).importances()
    assert nothing is not None and nothing.sum() == 0


def test_folding_sums_the_columns_a_feature_became() -> None:
    rows = pd.DataFrame(
        {
            "kind": pd.Categorical(["a", "b", None]),  # becomes a, b, missing
            "size": [1.0, 2.0, np.nan],
            "tied": pd.Categorical(["no", "yes", "no"]),  # becomes no, yes
        }
    )
    transformer = Preparation(scale=False).fit(rows)
    np.testing.assert_array_equal(transformer.transform(rows)[:, 0], [1.0, 2.0, 1.5])
    # The order after preprocessing is size, then kind, then tied.
    np.testing.assert_array_equal(per_feature(transformer, np.array([1.0, 10, 20, 30, 100, 200])), [60, 1, 300])


def test_a_gap_is_filled_with_what_training_says() -> None:
    rows = pd.DataFrame({"known": [1.0, 3.0, 100.0], "never": [np.nan] * 3})
    transformer = Preparation(scale=False).fit(rows)
    later = pd.DataFrame({"known": [np.nan, 7.0], "never": [5.0, np.nan]})
    np.testing.assert_array_equal(transformer.transform(later), [[3.0, 0.0], [7.0, 0.0]])


def context(rows: pd.DataFrame = X, whole: str | None = None) -> Context:
    """What a run knows of the models of ``rows``: twelve families in six orgs, two tasks, two standard errors in three.

    Every model's group is known, as in a run; scores are those of ``rows`` alone.
    """
    random = np.random.default_rng(5)
    family = np.arange(len(X)) % 12
    groups = pd.DataFrame({"org": [f"org{f // 2}" for f in family], "family": [f"family{f}" for f in family]})
    labels = pd.DataFrame({"this": Y, "other": 2 * Y - 0.3 + random.normal(0, 0.02, len(X))})
    labels.loc[random.random(len(X)) < 0.2, "other"] = np.nan
    stderr = pd.Series(np.where(np.arange(len(X)) % 3 == 0, np.nan, 0.01))
    every = Context(groups, labels, stderr, whole)  # type: ignore[arg-type]
    return every.only(rows.index)


@pytest.fixture(params=[None, "org", "family"])
def known(request: pytest.FixtureRequest) -> Context:
    return context(X[TRAIN], request.param)


@cache
def knowing(name: str) -> Predictor:
    return make(name).fit(X[TRAIN], Y[TRAIN], context(X[TRAIN]))


def test_fit_with_a_context(name: str, known: Context) -> None:
    before, rows = copy.deepcopy(known), X[TRAIN].copy()
    predictor = make(name)
    params = predictor.get_params()
    assert predictor.fit(rows, Y[TRAIN], known) is predictor
    predicted = predictor.predict(X[TEST])
    assert predicted.shape == (20,) and predicted.dtype == np.float64
    assert np.isfinite(predicted).all() and np.abs(predicted - Y[TEST].mean()).max() < 0.5
    assert np.abs(predicted - Y[TEST]).mean() < 2 * np.abs(np.median(Y[TRAIN]) - Y[TEST]).mean()
    assert predictor.get_params() == params
    assert all(attribute in params or attribute.endswith("_") for attribute in vars(predictor))
    pd.testing.assert_frame_equal(rows, X[TRAIN])
    for mine, theirs in ((known.groups, before.groups), (known.labels, before.labels)):
        pd.testing.assert_frame_equal(mine, theirs)
    pd.testing.assert_series_equal(known.stderr, before.stderr)


def test_scores_of_other_models_are_not_read(name: str) -> None:
    """A context cut to the training models and one with wrong scores of all others come to the same."""
    full = context()
    for frame in (full.labels, full.stderr):
        frame.iloc[TEST] = 0.987
    told = make(name).fit(X[TRAIN], Y[TRAIN], full)
    np.testing.assert_array_equal(told.predict(X[TEST]), knowing(name).predict(X[TEST]))


def test_with_a_context_a_models_prediction_does_not_depend_on_the_models_beside_it(name: str) -> None:
    together = knowing(name).predict(X[TEST])
    order = np.random.default_rng(0).permutation(20)
    np.testing.assert_allclose(knowing(name).predict(X[TEST].iloc[order]), together[order], rtol=0, atol=1e-12)


def test_nothing_but_features_known(name: str) -> None:
    """No standard error, no other task, and a model to predict whose groups nobody knows."""
    bare = context(X[TRAIN])
    bare = Context(bare.groups, bare.labels[["this"]], bare.stderr * np.nan)
    rows = X[TEST].set_axis([f"stranger {row}" for row in range(20)])
    assert np.isfinite(make(name).fit(X[TRAIN], Y[TRAIN], bare).predict(rows)).all()


def test_a_context_survives_packing_and_pickling(name: str) -> None:
    axes = {key: value for key, value in recipe(name).items() if isinstance(value, list)}
    packed = make(name).pack(X[TRAIN], Y[TRAIN], context(X[TRAIN]))
    make(name).fit_packed(packed)
    last = {key: values[-1] for key, values in axes.items()}
    reused = make(name, **last).fit_packed(packed).predict(X[TEST])
    fresh = make(name, **last).fit(X[TRAIN], Y[TRAIN], context(X[TRAIN])).predict(X[TEST])
    np.testing.assert_array_equal(reused, fresh)
    again = pickle.loads(pickle.dumps(knowing(name)))
    np.testing.assert_array_equal(again.predict(X[TEST]), knowing(name).predict(X[TEST]))
