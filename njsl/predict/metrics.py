"""Tables of what was measured: a row per unit, per held-out prediction, per task; intervals that respect dependence."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from njsl.predict.coverage import columns_of
from njsl.predict.evaluate import FoldResult, Result, Unit
from njsl.predict.features import LOGGED, tag
from njsl.predict.intervals import LEVELS

BASELINE = "scale"
METRICS_COLUMNS = [
    "task",
    "setting",
    "metric",
    "predictor",
    "features",
    "cv",
    "select",
    "view",
    "seed",
    "n",
    "n_features",
    "mae",
    "mae_pooled",
    "mae_median",
    "mae_loglinear",
    "rel_change_vs_scale",
    "cpu_sec",
]
# A table's rows belong together when they share these; a cell of a summary is one task of one such combination.
METHOD = ["predictor", "cv", "select", "view"]
CELL = ["task", "setting", "metric", "features", *METHOD]
MEAN_TASK = "(mean)"
BOOTSTRAPS = 2000
LEVEL = 0.95

Pairs = Iterable[tuple[Unit, Result]]


def _names(unit: Unit) -> dict[str, object]:
    return {
        **unit.frame.task.key._asdict(),
        "predictor": unit.recipe.name,
        "features": unit.features,
        "cv": unit.cv_name,
    }


def fold_weights(unit: Unit, result: Result) -> np.ndarray:
    """Weight of every outer fold in ``mae``: equal, or by its rows where the protocol pools over models."""
    sizes = np.array([len(fold.test) for fold in result.folds], dtype="float64")
    return np.full(len(sizes), 1 / len(sizes)) if unit.cv.average == "folds" else sizes / sizes.sum()


def mae(unit: Unit, result: Result) -> float:
    """A unit's ``mae``, a fraction."""
    return float(fold_weights(unit, result) @ [fold.mae for fold in result.folds])


def metrics(pairs: Pairs, view: str) -> pd.DataFrame:
    """``metrics.csv``: a row per unit. MAEs are fractions; ``mae`` averages as the protocol says.

    ``rel_change_vs_scale`` compares with scale-only as it is, never with a set that selection has grown.
    """
    rows = []
    for unit, result in pairs:
        sizes = np.array([len(fold.test) for fold in result.folds], dtype=float)
        pooled = sizes / sizes.sum()
        weights = fold_weights(unit, result)
        maes = {
            name: np.array([getattr(fold, name) for fold in result.folds])
            for name in ("mae", "mae_median", "mae_loglinear")
        }
        rows.append(
            {
                **_names(unit),
                "select": unit.select,
                "view": view,
                "seed": unit.seed,
                "n": len(unit.frame.y),
                "n_features": np.mean([len(fold.columns) for fold in result.folds]),
                **{name: float(weights @ values) for name, values in maes.items()},
                "mae_pooled": float(pooled @ maes["mae"]),
                "cpu_sec": result.cpu_sec,
            }
        )
    table = pd.DataFrame(rows)
    key = ["task", "predictor", "cv", "seed"]
    scale = table[is_baseline(table)].set_index(key)["mae"]
    reference = table[key].apply(tuple, axis=1).map(scale.to_dict()).astype("float64")
    table["rel_change_vs_scale"] = (table["mae"] - reference) / reference
    if (table["n_features"] % 1 == 0).all():
        table["n_features"] = table["n_features"].astype(int)
    return table[METRICS_COLUMNS]


def is_baseline(table: pd.DataFrame) -> pd.Series:
    """Which rows are scale-only, with nothing selected."""
    return (table["features"] == BASELINE) & (table["select"] == "none")


def predictions(pairs: Pairs) -> pd.DataFrame:
    """A row per held-out model, unit and fold; y and yhat are fractions. ``select`` says how columns were chosen."""
    parts = []
    for unit, result in pairs:
        for fold in result.folds:
            rows = np.array(fold.test)
            parts.append(
                pd.DataFrame(
                    {
                        "model": unit.frame.ids[rows],
                        "org": unit.frame.org[rows],
                        "family": unit.frame.family[rows],
                        **_names(unit),
                        "select": unit.select,
                        "seed": unit.seed,
                        "fold": fold.name,
                        "y": unit.frame.y[rows],
                        "yhat": fold.yhat,
                        **_intervals(fold),
                    }
                )
            )
    return pd.concat(parts, ignore_index=True)


def _intervals(fold: FoldResult) -> dict[str, list[float]]:
    """``low80``, ``high80``, ``low90``, ``high90``; nothing where a fold has none."""
    if fold.low is None or fold.high is None:
        return {}
    columns: dict[str, list[float]] = {}
    for level, low, high in zip(LEVELS, fold.low, fold.high, strict=True):
        columns |= dict(zip(columns_of(level), (low, high), strict=True))
    return columns


def shap_table(pairs: Pairs) -> pd.DataFrame:
    """``shap.parquet``: a row per held-out model, feature, unit and fold.

    ``value`` is the feature as the predictor saw it (categories as ranks of their sorted labels, NaN missing), ``shap``
    its share of the prediction in the units of the label.
    """
    parts = []
    for unit, result in pairs:
        for fold in result.folds:
            assert fold.values is not None and fold.shap is not None, "the unit was not explained"
            rows, width = np.array(fold.test), len(fold.columns)
            parts.append(
                pd.DataFrame(
                    {
                        "model": np.repeat(unit.frame.ids[rows], width),
                        **_names(unit),
                        "seed": unit.seed,
                        "fold": fold.name,
                        "feature": fold.columns * len(rows),
                        "value": np.array(fold.values, dtype="float64").ravel(),
                        "shap": np.array(fold.shap, dtype="float64").ravel(),
                    }
                )
            )
    return pd.concat(parts, ignore_index=True)


def importances(pairs: Pairs, shap: pd.DataFrame) -> pd.DataFrame:
    """``importances.csv``: per task and feature, mean and 5th to 95th percentile over seeds and folds.

    ``shap_abs`` is the mean absolute SHAP value over held-out rows, in the units of the label, its percentiles those of
    the folds' means; ``gain`` the mean share of the fitted predictor's gain, empty where a predictor has none. In a
    fold that did not select a feature both are 0.
    """
    key = ["task", "setting", "metric", "predictor", "features", "cv"]
    parts = []
    gains = _gains(pairs)
    for names, rows in shap.assign(shap=shap["shap"].abs()).groupby(key, sort=False):
        order = list(rows["feature"].unique())
        folds = rows.pivot_table(
            index=["seed", "fold"], columns="feature", values="shap", aggfunc="mean", fill_value=0.0
        )
        sizes = rows.groupby(["seed", "fold"])["model"].nunique().loc[folds.index]
        part = pd.DataFrame(dict(zip(key, names, strict=True)), index=range(len(order)))
        part["feature"], part["tag"] = order, [tag(name) for name in order]
        part["n"], part["n_seeds"] = rows["model"].nunique(), rows["seed"].nunique()
        part["shap_abs"] = [float(np.average(folds[name], weights=sizes)) for name in order]
        table = pd.DataFrame(gains.get(names, [])).reindex(columns=order).fillna(0.0)
        part["gain"] = table.mean().to_numpy() if len(table) else np.nan
        for name, values in (("shap_abs", folds[order]), ("gain", table)):
            for quantile in (0.05, 0.95):
                band = values.quantile(quantile).to_numpy() if len(values) else np.nan
                part[f"{name}_p{100 * quantile:02.0f}"] = band
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def _gains(pairs: Pairs) -> dict[tuple[object, ...], list[dict[str, float]]]:
    """Gain by feature of every fitted fold, for the predictors that have one."""
    gains: dict[tuple[object, ...], list[dict[str, float]]] = {}
    for unit, result in pairs:
        for fold in result.folds:
            if fold.importances is not None:
                gain = dict(zip(fold.columns, fold.importances, strict=True))
                gains.setdefault(tuple(_names(unit).values()), []).append(gain)
    return gains


def selection_table(histories: Iterable[tuple[Unit, list[list[dict[str, Any]]]]]) -> pd.DataFrame:
    """``selection.csv``: which features forward selection added to a set, how often, and what each brought.

    Args:
        histories: a unit and its selections' steps, one list per training fold (``select=nested``) or a single one
            over all models (``select=paper``).
    """
    chosen: dict[tuple[object, ...], list[list[dict[str, Any]]]] = {}
    for unit, lists in histories:
        chosen.setdefault(tuple(_names(unit).values()), []).extend(lists)
    rows = []
    for names, lists in chosen.items():
        steps: dict[str, list[dict[str, Any]]] = {}
        places: dict[str, list[int]] = {}
        for place, step in itertools.chain.from_iterable(enumerate(steps_taken) for steps_taken in lists):
            steps.setdefault(step["feature"], []).append(step)
            places.setdefault(step["feature"], []).append(place)
        # The most frequent first; among equals the one that was chosen earlier.
        for feature, taken in sorted(steps.items(), key=lambda item: (-len(item[1]), np.mean(places[item[0]]))):
            feature = LOGGED.get(feature, feature)
            before, after = (float(np.mean([step[name] for step in taken])) for name in ("mae_before", "mae_after"))
            rows.append((*names, feature, tag(feature), len(taken), len(lists), len(taken) / len(lists), before, after))
    columns = ["task", "setting", "metric", "predictor", "features", "cv", "feature", "tag"]
    return pd.DataFrame(rows, columns=[*columns, "chosen", "selections", "share", "mae_before", "mae_after"])


class FamilyBootstrap:
    """Paired bootstrap over model families of errors averaged over seeds.

    Families, not models or seeds, are drawn with replacement: siblings are near-copies, and seeds re-shuffle the same
    models. The same draws serve every task, feature set and predictor, so that their differences are paired.

    Args:
        predicted: the table of ``predictions``, scale-only with nothing selected among it.
    """

    def __init__(self, predicted: pd.DataFrame) -> None:
        self.families = sorted(predicted["family"].unique())
        position = {name: number for number, name in enumerate(self.families)}
        draws = np.random.default_rng(0).integers(len(self.families), size=(BOOTSTRAPS, len(self.families)))
        self._weights = np.stack([np.bincount(row, minlength=len(self.families)) for row in draws]).astype(float)
        errors = predicted.assign(
            error=(predicted["yhat"] - predicted["y"]).abs(), family=predicted["family"].map(position)
        )
        seeds = predicted.groupby(["task", "predictor", "features", "cv", "select"], sort=False)["seed"].nunique()
        self._sums: dict[tuple[str, ...], tuple[np.ndarray, np.ndarray]] = {}
        for key, rows in errors.groupby(["task", "predictor", "features", "cv", "select"], sort=False):
            total = np.bincount(rows["family"], rows["error"], len(self.families)) / seeds[key]
            count = np.bincount(rows["family"], minlength=len(self.families)) / seeds[key]
            self._sums[key] = (total, count)

    def maes(self, task: str, predictor: str, features: str, cv: str, select: str) -> np.ndarray:
        """The pooled MAE itself, then of every draw [1 + draws]; NaN where a draw holds no model of the task."""
        total, count = self._sums[task, predictor, features, cv, select]
        weights = np.vstack([np.ones(len(self.families)), self._weights])
        with np.errstate(invalid="ignore"):
            result: np.ndarray = (weights @ total) / (weights @ count)
        return result

    def change(
        self, tasks: list[str], predictor: str, features: str, cv: str, select: str
    ) -> tuple[float, float, float, float]:
        """Relative change of the mean pooled MAE of ``tasks`` against scale-only: estimate, low, high, two-sided p."""
        ours = np.mean([self.maes(task, predictor, features, cv, select) for task in tasks], axis=0)
        scale = np.mean([self.maes(task, predictor, BASELINE, cv, "none") for task in tasks], axis=0)
        change = ours / scale - 1
        draws = change[1:][np.isfinite(change[1:])]
        if not len(draws):
            return float(change[0]), np.nan, np.nan, np.nan
        low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        p = 2 * min((draws >= 0).sum() + 1, (draws <= 0).sum() + 1) / (len(draws) + 1)
        return float(change[0]), float(low), float(high), min(1.0, float(p))


def summary(table: pd.DataFrame, bootstrap: FamilyBootstrap) -> pd.DataFrame:
    """``summary.csv``: a row per task and method, then the mean over the tasks of each metric, never of both.

    ``mae`` is the mean over seeds and ``mae_sd`` its spread, which says how much a shuffle matters and nothing about
    new models. ``rel_change_vs_scale`` compares these means; ``rel_change_pooled`` the errors pooled over models, with
    the 95 % interval of a paired bootstrap over model families.
    """
    means = ["n", "n_features", "mae", "mae_pooled", "mae_median", "mae_loglinear"]
    cells = table.groupby(CELL, sort=False)
    per_task = (
        cells[means].mean().join(cells["seed"].nunique().rename("n_seeds")).join(cells["mae"].std().rename("mae_sd"))
    )
    per_task = per_task.reset_index()
    columns = ["metric", "features", *METHOD]
    groups = per_task.groupby(columns, sort=False)
    averaged = groups[[*means, "n_seeds"]].mean().reset_index()
    averaged["setting"] = [f"{size} task{'s' * (size > 1)}" for size in groups.size()]
    averaged["task"] = MEAN_TASK
    result = pd.concat([per_task, averaged], ignore_index=True)
    key = ["task", "metric", "predictor", "cv"]
    scale = result[is_baseline(result)].set_index(key)["mae"].to_dict()
    reference = result[key].apply(tuple, axis=1).map(scale).astype("float64")
    result["rel_change_vs_scale"] = result["mae"] / reference - 1
    bands = []
    for row in result.itertuples():
        if np.isnan(row.rel_change_vs_scale):
            bands.append((np.nan, np.nan, np.nan))
            continue
        tasks = [row.task] if row.task != MEAN_TASK else list(table.loc[table["metric"] == row.metric, "task"].unique())
        bands.append(bootstrap.change(tasks, row.predictor, row.features, row.cv, row.select)[:3])
    result[["rel_change_pooled", "rel_change_low", "rel_change_high"]] = bands
    order = [
        *CELL,
        "n",
        "n_features",
        "n_seeds",
        "mae",
        "mae_sd",
        *means[3:],
        "rel_change_vs_scale",
        "rel_change_pooled",
        "rel_change_low",
        "rel_change_high",
    ]
    return result[order]
