"""Which of two models is better: how often a predictor picks the right one, and what a wrong pick costs.

Decision accuracy is the share of pairs of which prediction and measurement name the same winner (DataDecide: Magnusson
et al. 2025, arXiv 2504.11393). A pair predicted equal counts half, as a coin would score it. A pair measured exactly
equal has no winner and is no pair. Measured differences within the eval's own noise have a winner by luck: they count
among all pairs and are left out of ``..._beyond_noise``.

Regret is what picking by prediction loses, as a fraction of score: ``regret_pair`` the gap of a pair wrongly decided, 0
of one rightly decided, meaned over pairs; ``regret_best`` the gap between the best measured model and the one predicted
best (several predicted best: their mean).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from njsl.predict.compute import six_nd
from njsl.store.metrics import METRICS
from njsl.store.views import TaskFrame, widest_group

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METHOD = ["predictor", "features", "cv", "select"]
MEAN_TASK = "(mean)"
NEAR = 1.5  # models within this factor of each other's compute (6 N D) could be had for about the same money
NOISE_Z = 1.96  # two scores differ beyond noise if a two-sided 5 % test says so
SCOPES = ("all", "same_fold", f"compute_{NEAR:g}x")
BOOTSTRAPS = 2000
LEVEL = 0.95
MIXES = "njsl-paper"  # who made the paper's own mixes, in data/families.csv
COLUMNS = [
    "task",
    "metric",
    *METHOD,
    "scope",
    "n_models",
    "n_pairs",
    "n_tied",
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    "n_beyond_noise",
    "accuracy_beyond_noise",
    "n_noise_unknown",
    "regret_pair",
    "regret_best",
]


def model_facts(frames: Iterable[TaskFrame]) -> pd.DataFrame:
    """What a decision needs beside predictions, by (task, model): ``flops`` (6 N D) and ``stderr`` of the label."""
    parts = []
    for frame in frames:
        stderr = np.full(len(frame.y), np.nan) if frame.stderr is None else frame.stderr
        index = pd.MultiIndex.from_product([[frame.task.key.task], frame.ids], names=["task", "model"])
        parts.append(pd.DataFrame({"flops": six_nd(frame.features), "stderr": stderr}, index=index))
    return pd.concat(parts)


class _Pairs(NamedTuple):
    """All pairs of one task's models [pairs]; ``gap`` is how much better the first is (negative: the second)."""

    first: np.ndarray
    second: np.ndarray
    gap: np.ndarray
    near: np.ndarray
    beyond: np.ndarray
    unknown: np.ndarray


@dataclass(frozen=True)
class _Sums:
    """Correct and counted pairs by the organisations of the two [orgs, orgs], and what the table says; seeds meaned."""

    right: np.ndarray
    count: np.ndarray
    row: dict[str, float]


def decisions(predicted: pd.DataFrame, facts: pd.DataFrame) -> pd.DataFrame:
    """``decisions.csv``: a row per task, method and scope, then the mean over the tasks of each metric.

    Scopes: ``all`` pairs of held-out models; ``same_fold``, both held out at once, so that one fit decides;
    ``compute_1.5x``, pairs within a factor 1.5 of each other's 6 N D. Several seeds are averaged. The 95 % interval is
    that of a bootstrap over organisations (a pair weighs as often as both its organisations are drawn), or over
    families where all models are of one organisation; NaN with a single one.

    Args:
        predicted: the table of predictions: task, metric, model, org, family, predictor, features, cv, select, seed,
            fold, y, yhat; a model once per method and seed.
        facts: of ``model_facts``.
    """
    group = widest_group(predicted)
    orgs = sorted(predicted[group].unique())
    drawn = np.random.default_rng(0).multinomial(len(orgs), np.full(len(orgs), 1 / len(orgs)), BOOTSTRAPS)
    weights = np.vstack([np.ones(len(orgs)), drawn])
    rows: list[dict[str, object]] = []
    ratios: dict[tuple[object, ...], list[tuple[np.ndarray, dict[str, float]]]] = {}
    for (task, metric), of_task in predicted.groupby(["task", "metric"], sort=False):
        models = of_task.drop_duplicates("model").set_index("model").sort_index()
        place = pd.Index(orgs).get_indexer(models[group])
        pairs = _pairs(
            models["y"].to_numpy(), facts.loc[task].loc[models.index], higher=METRICS[str(metric)].higher_is_better
        )
        for method, cell in of_task.groupby(METHOD, sort=False):
            for scope, sums in _cell(cell, models, pairs, place, len(orgs)).items():
                ratio = _ratio(sums, weights)
                names = dict(zip(METHOD, method, strict=True))
                rows.append({"task": task, "metric": metric, **names, "scope": scope, **sums.row, **_band(ratio)})
                ratios.setdefault((metric, *method, scope), []).append((ratio, sums.row))
    for key, cells in ratios.items():
        names = dict(zip(["metric", *METHOD, "scope"], key, strict=True))
        # Tasks without such a pair, or without known standard errors, are not in the means.
        means = pd.DataFrame([row for _, row in cells]).mean().to_dict()
        ratio = _mean_of_known(np.stack([ratio for ratio, _ in cells]))
        rows.append({"task": MEAN_TASK, **names, **means, **_band(ratio)})
    return pd.DataFrame(rows, columns=COLUMNS)


def _pairs(y: np.ndarray, facts: pd.DataFrame, *, higher: bool) -> _Pairs:
    first, second = np.triu_indices(len(y), 1)
    gap = (y[first] - y[second]) * (1 if higher else -1)
    log_flops, squares = np.log(facts["flops"].to_numpy()), facts["stderr"].to_numpy() ** 2
    noise = NOISE_Z * np.sqrt(squares[first] + squares[second])
    near = np.abs(log_flops[first] - log_flops[second]) <= np.log(NEAR) * (1 + 1e-12)
    return _Pairs(first, second, gap, near, np.abs(gap) > noise, np.isnan(noise))


def _cell(cell: pd.DataFrame, models: pd.DataFrame, pairs: _Pairs, place: np.ndarray, orgs: int) -> dict[str, _Sums]:
    """Sums by scope of one method on one task, averaged over its seeds."""
    sign = 1 if METRICS[cell["metric"].iloc[0]].higher_is_better else -1
    by_pair = place[pairs.first] * orgs + place[pairs.second]
    found: dict[str, list[_Sums]] = {scope: [] for scope in SCOPES}
    for _, rows in cell.groupby("seed", sort=False):
        rows = rows.set_index("model").reindex(models.index)
        held = rows["yhat"].notna().to_numpy()
        yhat, fold = sign * rows["yhat"].to_numpy(), pd.factorize(rows["fold"])[0]
        lead = (yhat[pairs.first] - yhat[pairs.second]) * np.sign(pairs.gap)
        right = np.where(lead == 0, 0.5, lead > 0)
        both = held[pairs.first] & held[pairs.second]
        measured = sign * models["y"].to_numpy()
        best = measured[held].max() - measured[held][yhat[held] == yhat[held].max()].mean()
        same = fold[pairs.first] == fold[pairs.second]
        for scope, inside in zip(SCOPES, (both, both & same, both & pairs.near), strict=True):
            known = inside & (pairs.gap != 0)
            beyond = known & pairs.beyond
            lost = (1 - right[known]) * np.abs(pairs.gap[known])
            row = {
                "n_models": float(held.sum()),
                "n_pairs": float(known.sum()),
                "n_tied": float((inside & ~known).sum()),
                "n_beyond_noise": float(beyond.sum()),
                "accuracy_beyond_noise": right[beyond].mean() if beyond.any() else np.nan,
                "n_noise_unknown": float((known & pairs.unknown).sum()),
                "regret_pair": lost.mean() if known.any() else np.nan,
                "regret_best": float(best) if scope == "all" else np.nan,
            }
            hits, count = (
                np.bincount(by_pair[known], weight, orgs * orgs).reshape(orgs, orgs) for weight in (right[known], None)
            )
            found[scope].append(_Sums(hits, count, row))
    return {scope: _averaged(of_seeds) for scope, of_seeds in found.items()}


def _averaged(cells: list[_Sums]) -> _Sums:
    return _Sums(
        np.mean([cell.right for cell in cells], axis=0),
        np.mean([cell.count for cell in cells], axis=0),
        {name: float(np.mean([cell.row[name] for cell in cells])) for name in cells[0].row},
    )


def _ratio(sums: _Sums, weights: np.ndarray) -> np.ndarray:
    """Accuracy itself, then of every draw [1 + draws]; NaN where a draw holds no pair, and of all with one org."""
    right, count = (((weights @ each) * weights).sum(axis=1) for each in (sums.right, sums.count))
    with np.errstate(invalid="ignore"):
        result: np.ndarray = right / count
    if ((sums.count + sums.count.T).any(axis=1)).sum() < 2:
        result[1:] = np.nan
    return result


def _mean_of_known(values: np.ndarray) -> np.ndarray:
    """Mean over the first axis [cells, draws] of what is no NaN; NaN where all is."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        result: np.ndarray = np.where(known, values, 0.0).sum(axis=0) / known.sum(axis=0)
    return result


def _band(ratio: np.ndarray) -> dict[str, float]:
    draws = ratio[1:][np.isfinite(ratio[1:])]
    if not len(draws):
        return {"accuracy": float(ratio[0]), "accuracy_low": np.nan, "accuracy_high": np.nan}
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {"accuracy": float(ratio[0]), "accuracy_low": float(low), "accuracy_high": float(high)}


def mixes(predicted: pd.DataFrame, org: str = MIXES) -> pd.DataFrame:
    """``mixes.csv``: an organisation's models, measured and predicted, means over seeds; empty where it has none.

    Under ``leave_org_out`` no fit behind it saw any of them.

    Args:
        predicted: the table of predictions, with its interval columns where it has them.
        org: whose.
    """
    columns = [name for name in ("low80", "high80", "low90", "high90") if name in predicted]
    mine = predicted[predicted["org"] == org]
    key = ["task", "metric", *METHOD, "model"]
    return mine.groupby(key, sort=False)[["y", "yhat", *columns]].mean().reset_index()


def mixes_figure(table: pd.DataFrame) -> Figure:
    """Predicted against measured scores of ``mixes``, one method: a panel per task, a row per model, bars at 80 %."""
    from matplotlib.figure import Figure

    tasks, models = list(table["task"].unique()), sorted(table["model"].unique(), reverse=True)
    width = min(4, len(tasks))
    height = -(-len(tasks) // width)
    figure = Figure(figsize=(2.6 * width + 1.8, (0.22 * len(models) + 0.75) * height + 0.7), layout="constrained")
    panels = np.atleast_1d(figure.subplots(height, width, sharey=True)).ravel()
    for axes in panels[len(tasks) :]:
        axes.remove()
    for task, axes in zip(tasks, panels, strict=False):
        rows = table[table["task"] == task].set_index("model")
        metric = METRICS[rows["metric"].iloc[0]]
        at = np.array([models.index(name) for name in rows.index])
        if "low80" in rows:
            for low, high, size in (("low90", "high90", 0.8), ("low80", "high80", 2.6)):
                axes.hlines(at, rows[low], rows[high], color="#99bbdd", lw=size)
        axes.plot(rows["yhat"], at, "|", ms=9, color="#4477aa", label="predicted, held out")
        axes.plot(rows["y"], at, "o", ms=3.5, color="#ee6677", label="measured")
        axes.set_yticks(range(len(models)), models, fontsize=7)
        axes.tick_params(axis="x", labelsize=7)
        axes.set_title(task + ("" if metric.higher_is_better else f" ({metric.title})"), fontsize=8)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)
    first = table.iloc[0]
    text = "predicted and measured scores; bars: 80 % (thick) and 90 % (thin) intervals" if "low80" in table else (
        "predicted and measured scores"
    )  # fmt: skip
    figure.suptitle(f"{text}\n{first['predictor']}, features {first['features']}, cv {first['cv']}", fontsize=9)
    return figure
