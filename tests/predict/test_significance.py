"""The tests against scale-only, each against its formula written out."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from njsl.predict.evaluate import Result, Unit
from njsl.predict.metrics import FamilyBootstrap, metrics, predictions
from njsl.predict.significance import COLUMNS, corrected_t, significance
from njsl.predict.splits import LeaveGroupOut, Splitter

from .test_metrics import HALVES, pair

TASKS = ["hellaswag", "winogrande", "lambada", "gsm8k"]


def p_of_t_with_3_degrees(t: float) -> float:
    """Two-sided; Student's distribution has a closed form for three degrees of freedom."""
    x = abs(t) / math.sqrt(3)
    return 1 - 2 / math.pi * (x / (1 + x * x) + math.atan(x))


def test_corrected_t_by_hand() -> None:
    # Mean 0.01; squared deviations 0, 1e-4, 2.25e-4, 0.25e-4, so variance 3.5e-4 / 3; the factor is 1/4 + 1/2.
    t = 0.01 / math.sqrt(0.75 * 3.5e-4 / 3)
    assert t == pytest.approx(1.0690450)
    differences = np.array([0.01, 0.02, -0.005, 0.015])
    assert corrected_t(differences, 0.5) == pytest.approx(p_of_t_with_3_degrees(t), rel=1e-9)
    assert corrected_t(-differences, 0.5) == corrected_t(differences, 0.5)
    # Without the correction it is the ordinary t-test, which finds more.
    assert corrected_t(differences, 0.0) == pytest.approx(stats.ttest_1samp(differences, 0).pvalue)
    assert corrected_t(differences, 0.0) < corrected_t(differences, 0.5)


@pytest.mark.parametrize("differences", [[0.3], [0.25, 0.25, 0.25]])
def test_corrected_t_without_spread_is_undefined(differences: list[float]) -> None:
    assert math.isnan(corrected_t(np.array(differences), 0.5))


def adjusted_by_hand(p: list[float]) -> list[float]:
    """Benjamini and Hochberg: p times count over rank, then the smallest among equal or larger p."""
    ranked = sorted(p)
    raised = [value * len(p) / (rank + 1) for rank, value in enumerate(ranked)]
    return [min(1.0, *raised[ranked.index(value) :]) for value in p]


def made(
    cv: Splitter = HALVES, seeds: int = 5, baseline: str = "scale"
) -> tuple[list[tuple[Unit, Result]], pd.DataFrame]:
    random = np.random.default_rng(7)
    pairs = []
    for task, gain in zip(TASKS, [0.05, 0.02, 0.0, 0.1], strict=True):
        for seed in range(seeds):
            errors = random.uniform(0.1, 0.3, 7)
            pairs.append(pair(errors, task=task, seed=seed, features=baseline, cv=cv))
            pairs.append(pair(errors - gain + random.normal(0, 0.02, 7), task=task, seed=seed, features="all", cv=cv))
    table = metrics(pairs, "raw")
    return pairs, significance(pairs, table, FamilyBootstrap(predictions(pairs)))


def test_adjustment_by_hand() -> None:
    assert adjusted_by_hand([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.02, 0.04, 0.04, 0.02])  # on paper
    _, table = made()
    assert list(table["task"]) == TASKS
    for name in ("p_seeds", "p_bootstrap", "p_corrected_t"):
        assert table[name].between(0, 1).all()
        assert table[f"{name}_bh"].tolist() == pytest.approx(adjusted_by_hand(table[name].tolist())), name
    assert (table["p_seeds_bh"] > table["p_seeds"]).any()


def test_tests_over_seeds_are_scipys() -> None:
    pairs, table = made()
    assert list(table.columns) == COLUMNS
    maes = metrics(pairs, "raw").set_index(["task", "features"])["mae"]
    for row in table.itertuples():
        scale, mine = maes[row.task, "scale"].to_numpy(), maes[row.task, "all"].to_numpy()
        assert row.p_seeds == pytest.approx(stats.ttest_rel(mine, scale).pvalue)
        assert (row.mae, row.mae_scale) == pytest.approx((mine.mean(), scale.mean()))
        # 2.776445 is Student's 97.5 % point for four degrees of freedom
        assert row.mae_ci == pytest.approx(2.776445 * mine.std(ddof=1) / math.sqrt(5), rel=1e-6)
        assert row.mae_scale_ci == pytest.approx(2.776445 * scale.std(ddof=1) / math.sqrt(5), rel=1e-6)
        assert (row.n, row.n_families, row.n_seeds) == (7, 4, 5)
        assert row.rel_change_low <= row.rel_change_pooled <= row.rel_change_high


def test_corrected_t_of_a_table_uses_every_fold_of_every_seed() -> None:
    pairs, table = made()
    folds = {(u.frame.task.key.task, u.features, u.seed): [fold.mae for fold in r.folds] for u, r in pairs}
    for row in table.itertuples():
        differences = np.concatenate(
            [np.subtract(folds[row.task, "all", seed], folds[row.task, "scale", seed]) for seed in range(5)]
        )
        assert len(differences) == 10
        # Seven models in two folds: four held out in the first, three trained on.
        t = differences.mean() / math.sqrt((1 / 10 + 4 / 3) * differences.var(ddof=1))
        assert row.p_corrected_t == pytest.approx(2 * (1 - stats.t.cdf(abs(t), 9)), rel=1e-6)


def test_grouped_folds_have_no_corrected_t() -> None:
    _, table = made(cv=LeaveGroupOut(group="family", inner_folds=2))
    assert table["p_corrected_t"].isna().all() and table["p_corrected_t_bh"].isna().all()
    assert table["p_bootstrap"].notna().all()


def test_one_seed_has_no_test_over_seeds() -> None:
    _, table = made(seeds=1)
    assert table[["p_seeds", "p_seeds_bh", "mae_ci"]].isna().all(axis=None)
    assert table["p_corrected_t"].notna().all()  # two folds


def test_without_scale_only_there_is_nothing_to_test() -> None:
    _, table = made(baseline="data")
    assert table.empty and list(table.columns) == COLUMNS
