"""Stability of what is selected and of importances; bands of SHAP values."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from njsl.predict import metrics
from njsl.predict.evaluate import FoldResult, Result, Unit
from njsl.predict.predictors.ridge import Ridge
from njsl.predict.select_nested import NestedSelection
from njsl.predict.splits import RandomFolds
from njsl.predict.stability import draw, nogueira, rank_agreement, selection_shares, shap_bands, stability, wilson
from njsl.predict.tune import Recipe
from njsl.store.tasks import task_table
from njsl.store.views import TaskFrame


def test_nogueira_by_hand() -> None:
    # Two of four features, once in common: shares 1, 1/2, 1/2, 0; unbiased variances 0, 1/2, 1/2, 0; chance 1/4.
    index, low, high = nogueira(np.array([[1, 1, 0, 0], [1, 0, 1, 0]], dtype=bool))
    assert index == pytest.approx(1 - 0.25 / 0.25)
    # Both selections play the same part, so that the plug-in variance is 0.
    assert low == pytest.approx(index) and high == pytest.approx(index)
    same = np.tile([True, False, True], (5, 1))
    assert nogueira(same)[0] == 1.0
    assert nogueira(np.array([[1, 0], [0, 1]]))[0] == pytest.approx(-1)
    for nothing in (np.zeros((4, 3)), np.ones((4, 3)), np.ones((1, 3)), np.zeros((3, 0))):
        assert np.isnan(nogueira(nothing)).all()


def test_nogueira_interval_as_a_plain_loop() -> None:
    random = np.random.default_rng(0)
    chosen = random.random((12, 7)) < random.random(7)
    M, d = chosen.shape
    p, k = chosen.mean(axis=0), chosen.sum(axis=1)
    kbar = k.mean()
    unit = kbar / d * (1 - kbar / d)
    phi = 1 - np.mean([M / (M - 1) * share * (1 - share) for share in p]) / unit
    each = [
        (
            sum(chosen[i, f] * p[f] for f in range(d)) / d
            - k[i] * kbar / d**2
            + phi / 2 * (2 * kbar * k[i] / d**2 - k[i] / d - kbar / d + 1)
        )
        / unit
        for i in range(M)
    ]
    deviation = (4 / M**2 * sum((value - np.mean(each)) ** 2 for value in each)) ** 0.5
    assert nogueira(chosen) == pytest.approx((phi, phi - 1.959964 * deviation, phi + 1.959964 * deviation))


def test_nogueira_interval_covers_the_truth() -> None:
    """Selections drawn with known shares: the index's true value lies inside in about 95 of 100."""
    share = np.array([0.9, 0.8, 0.2, 0.1, 0.1, 0.5])
    truth = 1 - (share * (1 - share)).mean() / (share.mean() * (1 - share.mean()))
    random = np.random.default_rng(1)
    found = [nogueira(random.random((60, 6)) < share) for _ in range(400)]
    assert 0.90 <= np.mean([low <= truth <= high for _, low, high in found]) <= 0.98


@settings(deadline=None)
@given(st.integers(2, 8), st.integers(2, 8), st.integers(0, 1000))
def test_nogueira_does_not_exceed_one_and_knows_no_order(count: int, features: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    chosen = random.random((count, features)) < 0.5
    index = nogueira(chosen)
    if not np.isnan(index[0]):
        assert -1 - 1e-9 <= index[0] <= 1
        other = chosen[random.permutation(count)][:, random.permutation(features)]
        assert nogueira(other) == pytest.approx(index)
        # Whether features are kept or dropped is the same question.
        assert nogueira(~chosen)[0] == pytest.approx(index[0])


def test_wilson_against_scipy() -> None:
    low, high = wilson(np.array([0.0, 0.3, 1.0]), np.array([5, 10, 15]))
    for number, (hits, count) in enumerate([(0, 5), (3, 10), (15, 15)]):
        expected = stats.binomtest(hits, count).proportion_ci(method="wilson")
        assert (low[number], high[number]) == pytest.approx((expected.low, expected.high))


def test_rank_agreement_is_the_mean_spearman_of_pairs() -> None:
    values = np.random.default_rng(2).random((5, 6)).round(1)
    expected = np.mean([stats.spearmanr(a, b).statistic for a, b in combinations(values, 2)])
    assert rank_agreement(values) == pytest.approx(expected)
    assert rank_agreement(np.array([[1.0, 2], [5, 9]])) == pytest.approx(1)
    assert rank_agreement(np.array([[1.0, 2], [0, 0], [9, 5]])) == pytest.approx(-1)
    for few in (np.ones((1, 3)), np.ones((3, 1)), np.empty((0, 0)), np.zeros((3, 4))):
        assert np.isnan(rank_agreement(few))


NAMES = {"task": "t", "setting": "s", "metric": "accuracy", "predictor": "p", "features": "f", "cv": "c"}
CANDIDATES = ("web_pct", "code_pct", "books_pct")


def unit(nested: bool = True) -> Unit:
    ids = [f"model-{number}" for number in range(6)]
    features = pd.DataFrame({"code_pct": [0.0, 0, 10, 20, 20, np.nan]}, index=ids)
    family = np.array(["a", "a", "b", "b", "c", "c"], dtype=object)
    frame = TaskFrame(task_table()["hellaswag"], features, np.linspace(0.3, 0.5, 6), family, family)
    cv = RandomFolds(folds=2, inner_folds=2, discard_frac=0.0, encoding="native")
    selection = NestedSelection(CANDIDATES, 2, 0.0) if nested else None
    recipe = Recipe("ridge", Ridge, {"alpha": 1.0})
    select = "nested" if nested else "none"
    return Unit(frame, recipe, "nested", cv, "scale", select, ("total_params",), "native", 0, selection, True)


def explained(seed: int, shap: list[float]) -> tuple[Unit, Result]:
    """Two folds of one feature: models 0, 2, 4 and models 1, 3, 5."""
    made = replace(unit(), seed=seed)
    values = made.frame.features["code_pct"].to_numpy()
    folds = []
    for name, test in (("0", [0, 2, 4]), ("1", [1, 3, 5])):
        fold = FoldResult(name, ["code_pct"], test, [0.4] * 3, 0.0, 0.0, 0.0)
        fold.values, fold.shap = [[values[row]] for row in test], [[shap[row]] for row in test]
        fold.importances = [1.0]
        folds.append(fold)
    return made, Result(folds, 0.0)


def test_stability_of_a_run() -> None:
    def steps(*names: str) -> list[dict[str, object]]:
        return [{"feature": name, "mae_before": 0.2, "mae_after": 0.1} for name in names]

    histories = [(unit(), [steps("web_pct"), steps("web_pct", "code_pct")]), (unit(), [steps("web_pct"), []])]
    table = stability(histories, [], None)
    (row,) = table.itertuples()
    assert (row.selections, row.candidates, row.mean_added) == (4, 3, 1.0)
    chosen = np.array([[1, 0, 0], [1, 1, 0], [1, 0, 0], [0, 0, 0]])
    assert (row.stability, row.stability_low, row.stability_high) == pytest.approx(nogueira(chosen))
    assert np.isnan(row.shap_agreement) and np.isnan(row.gain_agreement)
    shares = selection_shares(metrics.selection_table(histories)).set_index("feature")
    assert shares.loc["web_pct", "share"] == 0.75
    expected = stats.binomtest(3, 4).proportion_ci(method="wilson")
    assert tuple(shares.loc["web_pct", ["share_low", "share_high"]]) == pytest.approx((expected.low, expected.high))


def test_agreement_of_importances_between_folds() -> None:
    one, other = unit(nested=False), replace(unit(nested=False), seed=1)
    columns = ["a", "b", "c"]
    shaps = {0: [[0.1, -0.2, 0.3]], 1: [[-0.1, 0.3, 0.2]]}
    pairs = []
    for made, shap in ((one, shaps[0]), (other, shaps[1])):
        fold = FoldResult("0", columns, [0], [0.4], 0.0, 0.0, 0.0, [[1.0, 2.0, 3.0]], shap, [0.2, 0.3, 0.5])
        pairs.append((made, Result([fold], 0.0)))
    (row,) = stability([], pairs, metrics.shap_table(pairs)).itertuples()
    assert row.shap_agreement == pytest.approx(0.5) and row.gain_agreement == pytest.approx(1)
    assert row.selections == 0 and np.isnan(row.stability) and np.isnan(row.mean_added)


def test_bands_by_hand() -> None:
    first, second = [0.0, 0.2, 0.3, 0.4, 0.6, 0.9], [0.2, 0.0, 0.3, 0.6, 0.4, 0.7]
    pairs = [explained(0, first), explained(1, second)]
    table = shap_bands(metrics.shap_table(pairs), metrics.predictions(pairs), draws=3000)
    assert table["value"].tolist()[1:] == [0, 10, 20] and np.isnan(table["value"][0])
    unknown, none, ten, twenty = table.itertuples()
    assert (none.n, none.n_families, ten.n, twenty.n, twenty.n_families, unknown.n) == (2, 1, 1, 2, 2, 1)
    assert none.shap == pytest.approx(0.1) and ten.shap == pytest.approx(0.3) and unknown.shap == pytest.approx(0.8)
    assert twenty.shap == pytest.approx(0.5)
    # Folds and seeds at 20: seed 0 has 0.6 and 0.4, seed 1 has 0.4 and 0.6.
    assert (twenty.fold_p05, twenty.fold_p95) == pytest.approx(tuple(np.quantile([0.6, 0.4, 0.4, 0.6], [0.05, 0.95])))
    # Its models are of families b and c, each 0.5 over seeds; 0 is of family a alone.
    assert (twenty.low, twenty.high) == pytest.approx((0.5, 0.5)) and np.isnan(none.low)


def test_family_band_is_that_of_families_and_not_of_models() -> None:
    """16 families of 4 siblings alike: the band of a mean is as wide as 16 values make it, not 64."""
    random = np.random.default_rng(3)
    family = np.repeat(np.arange(16), 4)
    value = random.standard_normal(16)[family]
    rows = pd.DataFrame({"model": [f"m{number}" for number in range(64)], "seed": 0, "fold": "0"})
    rows = rows.assign(feature="code_pct", value=1.0, shap=value)
    table = shap_bands(rows.assign(**NAMES), pd.DataFrame({"model": rows["model"], "family": family.astype(str)}))
    width = 2 * 1.96 * value[::4].std() / 16**0.5
    assert table.loc[0, "high"] - table.loc[0, "low"] == pytest.approx(width, rel=0.1)


@pytest.mark.parametrize("count", [3, 8, 9, 60])
def test_bins_keep_equal_values_together_and_all_models(count: int) -> None:
    values = np.repeat(np.arange(count, dtype=float), 2)
    rows = pd.DataFrame({"model": [f"m{number:03}" for number in range(2 * count)], "seed": 0, "fold": "0"})
    rows = rows.assign(feature="code_pct", value=values, shap=values)
    table = shap_bands(rows.assign(**NAMES), pd.DataFrame({"model": rows["model"], "family": rows["model"]}), draws=50)
    assert table["n"].sum() == 2 * count and len(table) == min(count, 8) and (table["n"] % 2 == 0).all()
    assert (table["value_low"].to_numpy()[1:] > table["value_high"].to_numpy()[:-1]).all()


def test_a_figure_has_a_panel_per_task() -> None:
    pairs = [explained(0, [0.0, 0.2, 0.3, 0.4, 0.6, 0.9])]
    shap = metrics.shap_table(pairs)
    figure = draw(shap_bands(shap, metrics.predictions(pairs), draws=50), shap)
    (axes,) = figure.axes
    assert axes.get_title() == "hellaswag: 5 of 6 models known"
