"""What the tables average over what, and the bootstrap over families."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest

from njsl.predict.evaluate import FoldResult, Result, Unit
from njsl.predict.metrics import METRICS_COLUMNS, FamilyBootstrap, mae, metrics, predictions, selection_table, summary
from njsl.predict.predictors.ridge import Ridge
from njsl.predict.splits import LeaveGroupOut, RandomFolds, Splitter
from njsl.predict.tune import Recipe
from njsl.store.tasks import task_table
from njsl.store.views import TaskFrame

FAMILIES = np.array(["a", "a", "b", "b", "c", "c", "d"], dtype=object)
Y = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
HALVES = RandomFolds(folds=2, inner_folds=2, discard_frac=0.0, encoding="native")


def pair(
    errors: Sequence[float], task: str = "hellaswag", features: str = "scale", seed: int = 0, cv: Splitter = HALVES
) -> tuple[Unit, Result]:
    """A unit and a result whose predictions miss the seven models by ``errors``, on the protocol's real folds."""
    missed = np.array(errors)
    columns = ("total_params",) if features == "scale" else ("total_params", "web_pct", "code_pct")
    ids = pd.Index([f"m/{number}" for number in range(len(Y))], name="id")
    frame = TaskFrame(task_table()[task], pd.DataFrame(1.0, ids, list(columns)), Y, FAMILIES, FAMILIES)
    unit = Unit(
        frame, Recipe("ridge", Ridge, {}), "some_cv", cv, features, "none", columns, "native", seed, None, False
    )
    folds = [
        FoldResult(
            fold.name,
            list(columns),
            fold.test.tolist(),
            (Y + missed)[fold.test].tolist(),
            float(np.abs(missed[fold.test]).mean()),
            float(0.5 + int(fold.name == "0")),
            0.25,
        )
        for fold in cv.outer(frame, seed)
    ]
    return unit, Result(folds, 1.5)


ERRORS = [0.1, -0.2, 0.3, -0.4, 0.5, -0.6, 0.7]


def test_fold_average_and_pooled_average() -> None:
    errors = [0.7, -0.1, 0.1, 0.1, -0.1, 0.1, 0.2]
    unit, result = pair(errors)
    sizes = [len(fold.test) for fold in result.folds]
    assert sorted(sizes) == [3, 4]
    table = metrics([(unit, result)], "raw")
    assert list(table.columns) == METRICS_COLUMNS
    row = table.iloc[0]
    halves = [np.mean([abs(errors[place]) for place in fold.test]) for fold in result.folds]
    assert row["mae"] == pytest.approx((halves[0] + halves[1]) / 2)
    assert row["mae_pooled"] == pytest.approx(0.2)  # 1.4 / 7
    assert abs(row["mae"] - row["mae_pooled"]) > 1e-4
    assert row["mae_median"] == pytest.approx(1.0)  # (1.5 + 0.5) / 2, whatever the folds' sizes
    assert row["mae_loglinear"] == pytest.approx(0.25)
    assert mae(unit, result) == row["mae"]
    assert (row["n"], row["n_features"], row["cpu_sec"], row["seed"]) == (7, 1, 1.5, 0)
    assert (row["select"], row["view"], row["predictor"], row["cv"], row["metric"]) == (
        "none",
        "raw",
        "ridge",
        "some_cv",
        "accuracy",
    )


def test_grouped_protocols_pool_over_models() -> None:
    unit, result = pair(ERRORS, cv=LeaveGroupOut(group="family", inner_folds=2))
    row = metrics([(unit, result)], "raw").iloc[0]
    assert row["mae"] == row["mae_pooled"] == pytest.approx(0.4)  # of folds of 2, 2, 2 and 1 the mean would be 0.43
    assert row["mae_median"] == pytest.approx(0.5)


def test_relative_change_pairs_task_and_seed() -> None:
    pairs = [
        pair(np.full(7, 0.2), seed=0),
        pair(np.full(7, 0.15), seed=0, features="all"),
        pair(np.full(7, 0.1), seed=1),
        pair(np.full(7, -0.15), seed=1, features="all"),
        pair(np.full(7, 0.3), task="mathqa", features="all"),
    ]
    table = metrics(pairs, "raw").set_index(["task", "features", "seed"])["rel_change_vs_scale"]
    assert table["hellaswag", "all", 0] == pytest.approx(-0.25)
    assert table["hellaswag", "all", 1] == pytest.approx(0.5)
    assert table["hellaswag", "scale", 0] == 0.0
    assert np.isnan(table["mathqa", "all", 0])  # without scale-only there is nothing to compare with


def test_predictions_name_the_models() -> None:
    unit, result = pair(ERRORS, seed=3)
    table = predictions([(unit, result)]).set_index("model")
    assert len(table) == 7
    for number in range(7):
        row = table.loc[f"m/{number}"]
        assert (row["y"], row["yhat"]) == (Y[number], Y[number] + ERRORS[number])
        assert (row["family"], row["seed"], row["task"]) == (FAMILIES[number], 3, "hellaswag")
        assert number in result.folds[int(row["fold"])].test


# ---- the bootstrap


def bootstrap(*pairs: tuple[Unit, Result]) -> FamilyBootstrap:
    return FamilyBootstrap(predictions(pairs))


def test_identical_errors_are_no_change() -> None:
    made = bootstrap(pair(ERRORS), pair([-error for error in ERRORS], features="all"))
    assert made.change(["hellaswag"], "ridge", "all", "some_cv", "none") == (0.0, 0.0, 0.0, 1.0)


def test_half_the_errors_are_half_in_every_draw() -> None:
    made = bootstrap(pair(ERRORS), pair([error / 2 for error in ERRORS], features="all"))
    change, low, high, p = made.change(["hellaswag"], "ridge", "all", "some_cv", "none")
    assert (change, low, high) == pytest.approx((-0.5, -0.5, -0.5))
    assert p == pytest.approx(2 * 1 / 2001)


def test_estimate_is_pooled_and_averaged_over_seeds() -> None:
    """Scale: seeds miss by 0.4 and 0.2 on average; all: by 0.1 and 0.2."""
    made = bootstrap(
        pair(ERRORS),
        pair(np.full(7, 0.2), seed=1),
        pair(np.full(7, 0.1), features="all"),
        pair(np.full(7, 0.2), features="all", seed=1),
    )
    assert made.maes("hellaswag", "ridge", "scale", "some_cv", "none")[0] == pytest.approx(0.3)
    assert made.change(["hellaswag"], "ridge", "all", "some_cv", "none")[0] == pytest.approx(0.15 / 0.3 - 1)


def test_draws_are_of_whole_families() -> None:
    """With errors 1, 0, 0, 0 by family, a draw's MAE is a's models over all models drawn, for whole families only."""
    made = bootstrap(pair([1, 1, 0, 0, 0, 0, 0]))
    draws = made.maes("hellaswag", "ridge", "scale", "some_cv", "none")[1:]
    possible = {  # times a (two models each), times d (one model), of four draws
        2 * a / (2 * (4 - d) + d) for a in range(5) for d in range(5 - a)
    }
    assert {round(value, 9) for value in draws} <= {round(value, 9) for value in possible}
    assert len(set(draws)) > 8
    assert draws.mean() == pytest.approx(2 / 7, abs=0.02)


def test_a_family_that_drops_out_leaves_no_number() -> None:
    predicted = predictions([pair(ERRORS), pair(ERRORS, task="mathqa")])
    predicted = predicted[(predicted["task"] != "mathqa") | (predicted["family"] == "a")]
    draws = FamilyBootstrap(predicted).maes("mathqa", "ridge", "scale", "some_cv", "none")
    assert draws[0] == pytest.approx(0.15)
    assert np.isnan(draws[1:]).mean() == pytest.approx(0.75**4, abs=0.04)  # none of four draws is family a
    assert draws[1:][np.isfinite(draws[1:])] == pytest.approx(0.15)


def test_change_of_several_tasks_skips_draws_without_a_number() -> None:
    pairs = [pair(ERRORS), pair(ERRORS, task="mathqa")]
    pairs += [pair([error / 2 for error in ERRORS], task=task, features="all") for task in ("hellaswag", "mathqa")]
    predicted = predictions(pairs)
    predicted = predicted[(predicted["task"] != "mathqa") | (predicted["family"] == "a")]
    change = FamilyBootstrap(predicted).change(["hellaswag", "mathqa"], "ridge", "all", "some_cv", "none")
    assert change[:3] == pytest.approx((-0.5, -0.5, -0.5))
    assert 2 / 2001 < change[3] < 3 / 1000


def test_row_order_does_not_matter() -> None:
    predicted = predictions([pair(ERRORS), pair(ERRORS[::-1], features="all")])
    one = FamilyBootstrap(predicted).change(["hellaswag"], "ridge", "all", "some_cv", "none")
    other = FamilyBootstrap(predicted.sample(frac=1, random_state=5)).change(
        ["hellaswag"], "ridge", "all", "some_cv", "none"
    )
    assert one == pytest.approx(other, rel=1e-12)
    assert one[1] < one[0] < one[2]


def test_intervals_cover_where_siblings_share_their_errors() -> None:
    """15 families of four near-copies; the true change is -20 %. Draws of single models would cover far less."""
    random = np.random.default_rng(0)
    families, size, covered, rejected, runs = 15, 4, 0, 0, 100
    names = np.repeat([f"f{number:02d}" for number in range(families)], size)
    for _ in range(runs):
        scale = np.repeat(random.uniform(0.05, 0.15, families), size)
        factor = np.repeat(random.uniform(0.4, 1.2, families), size)
        none = np.repeat(random.uniform(0.6, 1.4, families), size)
        parts = [
            pd.DataFrame({"family": names, "features": features, "y": 0.0, "yhat": error})
            for features, error in [("scale", scale), ("all", scale * factor), ("null", scale * none)]
        ]
        predicted = pd.concat(parts, ignore_index=True).assign(task="t", predictor="p", cv="c", select="none", seed=0)
        made = FamilyBootstrap(predicted)
        _, low, high, _ = made.change(["t"], "p", "all", "c", "none")
        covered += low <= -0.2 <= high
        rejected += made.change(["t"], "p", "null", "c", "none")[3] < 0.05
    assert 0.85 <= covered / runs <= 0.99
    assert rejected / runs <= 0.15


# ---- the summary


def test_summary_never_mixes_accuracy_and_brier() -> None:
    sizes = {"hellaswag": 0.1, "winogrande": 0.3, "mathqa": 0.5, "logiqa2": 0.9, "anli": 0.7}
    pairs = [pair(np.full(7, size), task=task, seed=seed) for task, size in sizes.items() for seed in (0, 1)]
    pairs += [
        pair(np.full(7, size / 2), task=task, features="all", seed=seed)
        for task, size in sizes.items()
        for seed in (0, 1)
    ]
    table = metrics(pairs, "raw")
    result = summary(table, bootstrap(*pairs))
    means = result[result["task"] == "(mean)"].set_index(["metric", "features"])
    assert sorted(means.index) == [
        ("accuracy", "all"),
        ("accuracy", "scale"),
        ("brier_score", "all"),
        ("brier_score", "scale"),
    ]
    assert means.loc[("accuracy", "scale"), "mae"] == pytest.approx(0.2)
    assert means.loc[("brier_score", "scale"), "mae"] == pytest.approx(0.7)
    assert means.loc[("brier_score", "all"), "mae"] == pytest.approx(0.35)
    assert means.loc[("accuracy", "all"), "setting"] == "2 tasks"
    assert means.loc[("brier_score", "all"), "setting"] == "3 tasks"
    assert len(result) == 2 * 5 + 4
    assert result["n_seeds"].eq(2).all()
    changes = result[result["features"] == "all"]
    for name in ("rel_change_vs_scale", "rel_change_low", "rel_change_high"):
        assert changes[name].to_numpy() == pytest.approx(-0.5)
    assert result.loc[result["task"] == "anli", "mae_sd"].to_numpy() == pytest.approx(0.0, abs=1e-12)


def test_how_often_a_feature_was_chosen() -> None:
    unit, _ = pair(ERRORS)

    def step(feature: str, before: float, after: float) -> dict[str, object]:
        return {"feature": feature, "mae_before": before, "mae_after": after}

    lists = [[step("a", 0.5, 0.4), step("b", 0.4, 0.3)], [step("b", 0.6, 0.2)], []]
    table = selection_table([(unit, lists)]).set_index("feature")
    assert list(table.index) == ["b", "a"]
    assert table.loc["b", ["chosen", "selections", "share", "mae_before", "mae_after"]].tolist() == pytest.approx(
        [2, 3, 2 / 3, 0.5, 0.25]
    )
    assert table.loc["a", ["chosen", "selections", "share"]].tolist() == pytest.approx([1, 3, 1 / 3])
