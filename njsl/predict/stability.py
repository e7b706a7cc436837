"""Does a run say the same again? Selected features and importances over folds and seeds, and SHAP with bands.

Folds of one protocol share most of their models, so what differs between them is less than what would differ between
new sets of models; the bands of SHAP from families drawn anew come nearer to that. All of it is association.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import stats

from njsl.predict.evaluate import Result, Unit
from njsl.predict.features import LOGGED, tag
from njsl.predict.metrics import LEVEL
from njsl.store.metrics import METRICS, hundredths
from njsl.store.views import CATEGORICAL

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Z = float(stats.norm.ppf((1 + LEVEL) / 2))
KEY = ["task", "setting", "metric", "predictor", "features", "cv"]
BINS = 8  # of a feature's values; features with at most so many values have a bin for each
DRAWS = 1000
FOLDS = (0.05, 0.95)  # percentiles over folds and seeds, as in importances.csv
Histories = Iterable[tuple[Unit, list[list[dict[str, Any]]]]]


def nogueira(chosen: np.ndarray) -> tuple[float, float, float]:
    """Stability of selected sets and its 95 % interval: 1 = always the same set, 0 = as sets drawn at random would be.

    Source: Nogueira, Sechidis and Brown 2018, Journal of Machine Learning Research 18(174), definition 4 and
    corollaries 8 and 9. The interval takes selections for independent.

    Args:
        chosen: [selections, features], 1 or True where chosen.

    Returns:
        NaN throughout for fewer than two selections, or where none or all of the features are always chosen.
    """
    rows = np.asarray(chosen, dtype="float64")
    count, features = rows.shape
    mean = rows.sum(axis=1).mean() / features if features else 0.0
    if count < 2 or not 0 < mean < 1:
        return np.nan, np.nan, np.nan
    share = rows.mean(axis=0)
    chance = mean * (1 - mean)
    index = 1 - count / (count - 1) * float((share * (1 - share)).mean()) / chance
    sizes = rows.mean(axis=1)
    each = (rows @ share / features - sizes * mean + index / 2 * (2 * mean * sizes - sizes - mean + 1)) / chance
    half = Z * np.sqrt(4 / count**2 * float(((each - each.mean()) ** 2).sum()))
    return index, index - half, index + half


def wilson(share: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95 % interval of shares out of ``count`` selections, taken for independent.

    Source: Wilson 1927, Journal of the American Statistical Association 22.
    """
    share, count = np.asarray(share, dtype="float64"), np.asarray(count, dtype="float64")
    middle = (share + Z**2 / (2 * count)) / (1 + Z**2 / count)
    half = Z / (1 + Z**2 / count) * np.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2))
    return np.maximum(middle - half, 0.0), np.minimum(middle + half, 1.0)


def rank_agreement(values: np.ndarray) -> float:
    """Mean Spearman correlation between all pairs of rows [folds, features]; NaN for one row or one feature.

    Rows without any variation, which have no ranks, are left out.
    """
    rows = values[np.ptp(values, axis=1) > 0] if values.size else values
    if len(rows) < 2 or rows.shape[1] < 2:
        return float("nan")
    correlations = np.corrcoef(stats.rankdata(rows, axis=1))
    return float(correlations[np.triu_indices(len(rows), 1)].mean())


def selection_shares(selection: pd.DataFrame) -> pd.DataFrame:
    """``selection.csv`` (``metrics.selection_table``) with ``share_low`` and ``share_high`` beside ``share``."""
    low, high = wilson(selection["share"].to_numpy(), selection["selections"].to_numpy())
    result = selection.copy()
    place = result.columns.get_loc("share")
    assert isinstance(place, int)
    result.insert(place + 1, "share_low", low)
    result.insert(place + 2, "share_high", high)
    return result


def stability(histories: Histories, pairs: Sequence[tuple[Unit, Result]], shap: pd.DataFrame | None) -> pd.DataFrame:
    """``stability.csv``: a row per task, predictor, feature set and protocol, over its folds and seeds.

    ``stability`` is ``nogueira``'s of the columns that nested selection added, out of its candidates; empty where
    nothing was selected inside folds. ``shap_agreement`` and ``gain_agreement`` are ``rank_agreement`` of the folds'
    mean absolute SHAP values and of their gains, over features; a feature that a fold did not select is 0 there.

    Args:
        histories: what nested selection did; see ``metrics.selection_table``. Units without candidates are passed over.
        pairs: all units and their results.
        shap: ``metrics.shap_table``, or None.
    """
    sets: dict[tuple[object, ...], tuple[list[str], list[list[str]]]] = {}
    for unit, lists in histories:
        if unit.nested is not None:
            candidates = [str(LOGGED.get(name, name)) for name in unit.nested.added_to(unit.columns)]
            added = sets.setdefault(_names(unit), (candidates, []))[1]
            added.extend([str(LOGGED.get(step["feature"], step["feature"])) for step in steps] for steps in lists)
    gains: dict[tuple[object, ...], list[pd.Series]] = {}
    for unit, result in pairs:
        for fold in result.folds:
            if fold.importances is not None:
                gains.setdefault(_names(unit), []).append(pd.Series(fold.importances, index=fold.columns))
    folds = {} if shap is None else {names: _fold_means(rows) for names, rows in shap.groupby(KEY, sort=False)}
    table = []
    for names in dict.fromkeys([*sets, *gains, *folds]):
        candidates, chosen = sets.get(names, ([], []))
        marks = [[name in columns for name in candidates] for columns in chosen]
        chosen_in = np.array(marks, dtype="float64").reshape(len(chosen), len(candidates))
        gain = pd.DataFrame(gains.get(names, [])).fillna(0.0).to_numpy()
        size = float(chosen_in.sum(axis=1).mean()) if chosen else np.nan
        agreement = rank_agreement(folds[names]) if names in folds else np.nan
        measured = (len(chosen), len(candidates), size, *nogueira(chosen_in), agreement, rank_agreement(gain))
        table.append((*names, *measured))
    columns = ["selections", "candidates", "mean_added", "stability", "stability_low", "stability_high"]
    return pd.DataFrame(table, columns=[*KEY, *columns, "shap_agreement", "gain_agreement"])


def shap_bands(
    shap: pd.DataFrame, predicted: pd.DataFrame, bins: int = BINS, draws: int = DRAWS, workers: int | None = 1
) -> pd.DataFrame:
    """``shap_bands.csv``: per task and feature, mean SHAP value by value of the feature, with two bands.

    Models, not rows, are the points: a model's SHAP value is its mean over seeds. ``fold_p05`` and ``fold_p95`` are
    percentiles of the bin's mean over folds and seeds, how much the fit matters; ``low`` and ``high`` are the 95 %
    interval of a bootstrap over families of the bin's mean, how much it matters which families there are (empty with
    one family). The models of unknown value are a bin of their own, its ``value`` empty.

    Args:
        shap: ``metrics.shap_table``; SHAP values in the units of the label, a fraction.
        predicted: ``metrics.predictions``, for the families of models.
        bins: at most so many per feature, with about equally many models; a feature of no more values keeps them.
        draws: of the bootstrap; the same families are drawn for all features of a task.
        workers: processes, a task at a time; None is one per core.
    """
    import joblib

    family_of = predicted.drop_duplicates("model").set_index("model")["family"]
    groups = list(shap.groupby([*KEY], sort=False))
    parallel = joblib.Parallel(n_jobs=min(workers or joblib.cpu_count(), max(1, len(groups))))
    found = parallel(joblib.delayed(_bands)(names, rows, family_of, bins, draws) for names, rows in groups)
    columns = [*KEY, "feature", "tag", "value", "value_low", "value_high", "n", "n_families", "shap"]
    rows = [row for of_task in found for row in of_task]
    return pd.DataFrame(rows, columns=[*columns, "fold_p05", "fold_p95", "low", "high"])


def _bands(
    names: tuple[object, ...], rows: pd.DataFrame, family_of: pd.Series, bins: int, draws: int
) -> list[tuple[object, ...]]:
    """``shap_bands`` of one task, a row per feature and bin."""
    parts: list[tuple[object, ...]] = []
    families, number = np.unique(family_of[rows["model"].unique()].to_numpy(dtype=str), return_inverse=True)
    place = pd.Series(number, index=rows["model"].unique())
    random = np.random.default_rng(0)
    drawn = random.multinomial(len(families), np.full(len(families), 1 / len(families)), size=draws)
    for feature, mine in rows.groupby("feature", sort=False):
        models = mine.groupby("model", sort=True).agg(value=("value", "first"), shap=("shap", "mean"))
        models["bin"] = _bins(models["value"].to_numpy(), bins)
        mine = mine.assign(bin=mine["model"].map(models["bin"]))
        per_fold = mine.groupby(["bin", "seed", "fold"])["shap"].mean().groupby("bin").quantile(list(FOLDS)).unstack()
        for bin_, inside in models.groupby("bin", sort=True):
            group = place[inside.index].to_numpy()
            values = inside["value"]
            about = (values.median(), values.min(), values.max(), len(inside), len(set(group)))
            bands = (*per_fold.loc[bin_], *_family_band(inside["shap"].to_numpy(), group, drawn))
            parts.append((*names, feature, tag(str(feature)), *about, inside["shap"].mean(), *bands))
    return parts


def draw(bands: pd.DataFrame, shap: pd.DataFrame) -> Figure:
    """SHAP value against one feature, a panel per task: models as dots, the bins' means with both bands.

    Args:
        bands, shap: rows of ``shap_bands`` and of ``metrics.shap_table`` of one feature and one predictor, feature set
            and protocol.
    """
    from njsl.predict.figures import _grid, _title

    figure, panels = _grid(bands, 3.0)
    (feature,) = bands["feature"].unique()
    for (task, part), axes in zip(bands.groupby("task", sort=False), panels, strict=True):
        models = shap[shap["task"] == task].groupby("model").agg(value=("value", "first"), shap=("shap", "mean"))
        known, unknown = part[part["value"].notna()], part[part["value"].isna()]
        axes.scatter(models["value"], 100 * models["shap"], s=7, color="#bbbbbb", label="models")
        at = known["value"]
        if feature in CATEGORICAL or len(known) < 2:
            spread = [100 * (known["shap"] - known["fold_p05"]), 100 * (known["fold_p95"] - known["shap"])]
            style: dict[str, Any] = {"fmt": "o", "ms": 3, "color": "#4477aa", "capsize": 2}
            label = "mean, 5 to 95 % over folds, seeds"
            axes.errorbar(at, 100 * known["shap"], yerr=np.abs(spread), label=label, **style)
        else:
            low, high = 100 * known["low"], 100 * known["high"]
            axes.fill_between(
                at, low, high, alpha=0.25, color="#4477aa", lw=0, label="95 %, families drawn anew (none for one)"
            )
            axes.plot(at, 100 * known["shap"], color="#4477aa", lw=1.2, marker="o", ms=3, label="mean of a bin")
            for name in ("fold_p05", "fold_p95"):
                axes.plot(at, 100 * known[name], color="#ee6677", lw=0.8, ls="--", label="5 to 95 % over folds, seeds")
        if len(unknown):
            axes.axhline(100 * unknown["shap"].iloc[0], color="black", lw=0.8, ls=":", label="mean where unknown")
        axes.axhline(0, color="black", lw=0.5)
        less = "" if METRICS[part["metric"].iloc[0]].higher_is_better else ", less is better"
        axes.set_title(f"{task}: {known['n'].sum()} of {len(models)} models known{less}", fontsize=8)
        axes.set_xlabel(f"{feature}{' (rank)' if feature in CATEGORICAL else ''}", fontsize=8)
    figure.supylabel(f"SHAP [{hundredths(bands['metric'])}]", fontsize=9)
    handles = dict(zip(*reversed(panels[0].get_legend_handles_labels()), strict=True))
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=3, fontsize=7)
    _title(figure, shap, f"association of {feature} with the prediction, with bands")
    return figure


def _names(unit: Unit) -> tuple[object, ...]:
    return (*unit.frame.task.key, unit.recipe.name, unit.features, unit.cv_name)


def _fold_means(rows: pd.DataFrame) -> np.ndarray:
    """Mean absolute SHAP value by fold and feature [folds, features]."""
    sizes = rows.assign(shap=rows["shap"].abs())
    table = sizes.pivot_table(index=["seed", "fold"], columns="feature", values="shap", aggfunc="mean", fill_value=0.0)
    return table.to_numpy()


def _family_band(values: np.ndarray, group: np.ndarray, drawn: np.ndarray) -> tuple[float, float]:
    """95 % interval of the mean of values [models] of families ``group`` [models], drawn so often [draws, families]."""
    if len(set(group)) < 2:
        return np.nan, np.nan
    weight = drawn @ np.bincount(group, minlength=drawn.shape[1])
    means = (drawn @ np.bincount(group, values, drawn.shape[1]))[weight > 0] / weight[weight > 0]
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _bins(values: np.ndarray, most: int) -> np.ndarray:
    """Number of each value's bin [models], in order of value, -1 for NaN; equal values are never parted."""
    known = values[~np.isnan(values)]
    distinct = np.unique(known)
    if len(distinct) <= most:
        return np.where(np.isnan(values), -1, np.searchsorted(distinct, values))
    edges = np.unique(np.quantile(known, np.linspace(0, 1, most + 1)[1:-1], method="inverted_cdf"))
    return np.where(np.isnan(values), -1, np.searchsorted(edges, values, side="left"))
