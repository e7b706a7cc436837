"""How often intervals hold what they promise, how wide they are, and for whom.

The interval score adds to the width 2 / alpha times the distance by which a score falls outside (Winkler 1972; Gneiting
and Raftery 2007, JASA 102, equation 43): smaller is better, and neither a wide interval nor a missed score is cheap.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from njsl.predict.figures import MAX_FAMILIES
from njsl.predict.intervals import LEVELS
from njsl.store.metrics import hundredths
from njsl.store.views import widest_group

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

METHOD = ["predictor", "features", "cv", "select"]
MEAN_TASK = "(mean)"
ALL = "(all)"
BOOTSTRAPS = 2000
LEVEL = 0.95  # of the interval of a coverage
COLUMNS = [
    *METHOD,
    "scope",
    "task",
    "family",
    "metric",
    "nominal",
    "n",
    "n_models",
    "n_orgs",
    "coverage",
    "coverage_low",
    "coverage_high",
    "coverage_org",
    "width",
    "interval_score",
]


def columns_of(level: float) -> tuple[str, str]:
    """Names of an interval's ends in the table of predictions: ``low80``, ``high80``."""
    return f"low{100 * level:.0f}", f"high{100 * level:.0f}"


def coverage(predicted: pd.DataFrame) -> pd.DataFrame:
    """``coverage.csv``: rows of scope ``task``, ``mean`` (over the tasks of a metric, then of all) and ``family``.

    ``n`` counts held-out predictions, ``n_models`` models. ``coverage`` is over predictions, ``coverage_org`` the mean
    of the organisations' coverages: what to expect of a model of a new organisation. Widths and scores are fractions;
    the mean over all tasks mixes metrics. The 95 % interval is that of a bootstrap over organisations (over
    families where all models are of one organisation), in a family over its models; NaN with one of them, and of no
    width where every draw covers all.

    Args:
        predicted: the table of predictions with ``low80``, ``high80``, ``low90`` and ``high90``; rows without an
            interval are left out.
    """
    rows: list[dict[str, object]] = []
    for method, cells in predicted.groupby(METHOD, sort=False):
        names = dict(zip(METHOD, method, strict=True))
        for level in LEVELS:
            table = _judged(cells, level)
            if table.empty:
                continue
            group = widest_group(table)
            orgs = _Draws(table[group])
            of_metric: dict[str, list[tuple[dict[str, object], np.ndarray]]] = {}
            for (task, metric), part in table.groupby(["task", "metric"], sort=False):
                row, draws = _numbers(part), orgs.coverages(part, group)
                of_metric.setdefault(metric, []).append((row, draws))
                labels = {"scope": "task", "task": task, "family": ALL, "metric": metric, "nominal": level}
                rows.append(names | labels | row | _band(draws))
            everything = [cell for found in of_metric.values() for cell in found]
            for metric, found in [*of_metric.items(), *([(ALL, everything)] if len(of_metric) > 1 else [])]:
                labels = {"scope": "mean", "task": MEAN_TASK, "family": ALL, "metric": metric, "nominal": level}
                row = {name: float(np.mean([cell[name] for cell, _ in found])) for name in found[0][0]}
                rows.append(names | labels | row | _band(np.mean([draws for _, draws in found], axis=0)))
            for (family, metric), part in table.groupby(["family", "metric"], sort=True):
                labels = {"scope": "family", "task": MEAN_TASK, "family": family, "metric": metric, "nominal": level}
                rows.append(names | labels | _numbers(part) | _band(_Draws(part["model"]).coverages(part, "model")))
    return pd.DataFrame(rows, columns=COLUMNS)


def _judged(cells: pd.DataFrame, level: float) -> pd.DataFrame:
    """Rows with an interval, and of each whether it covers, how wide it is and its score."""
    low, high = (cells[name] for name in columns_of(level))
    outside = (low - cells["y"]).clip(lower=0) + (cells["y"] - high).clip(lower=0)
    judged = cells[["task", "metric", "org", "family", "model"]].assign(
        covered=(outside <= 0).astype(float), width=high - low, score=high - low + 2 / (1 - level) * outside
    )
    return judged[low.notna() & high.notna()]


def _numbers(part: pd.DataFrame) -> dict[str, object]:
    covered, (org, orgs) = part["covered"].to_numpy(), pd.factorize(part["org"])
    return {
        "n": len(part),
        "n_models": part["model"].nunique(),
        "n_orgs": len(orgs),
        "coverage": covered.mean(),
        "coverage_org": (np.bincount(org, covered) / np.bincount(org)).mean(),
        "width": part["width"].mean(),
        "interval_score": part["score"].mean(),
    }


class _Draws:
    """Clusters drawn with replacement; the same draws for every task, so that their mean is over one set of draws."""

    def __init__(self, clusters: pd.Series) -> None:
        self._names = pd.Index(sorted(clusters.unique()))
        self._weights = _drawn(len(self._names))

    def coverages(self, part: pd.DataFrame, cluster: str) -> np.ndarray:
        """Coverage of every draw [draws]; NaN where it holds none of the rows, and everywhere with one cluster."""
        place = self._names.get_indexer(part[cluster])
        if len(set(place)) < 2:
            return np.full(BOOTSTRAPS, np.nan)
        covered, count = (np.bincount(place, weight, len(self._names)) for weight in (part["covered"], None))
        with np.errstate(invalid="ignore"):
            result: np.ndarray = (self._weights @ covered) / (self._weights @ count)
        return result


@functools.cache
def _drawn(size: int) -> np.ndarray:
    """How often each of ``size`` clusters is drawn [draws, size]."""
    times = np.random.default_rng(0).multinomial(size, np.full(size, 1 / size), BOOTSTRAPS)
    return times.astype(float)


def _band(draws: np.ndarray) -> dict[str, float]:
    finite = draws[np.isfinite(draws)]
    if not len(finite):
        return {"coverage_low": np.nan, "coverage_high": np.nan}
    low, high = np.quantile(finite, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {"coverage_low": float(low), "coverage_high": float(high)}


def coverage_figure(table: pd.DataFrame) -> Figure:
    """Nominal against measured coverage by task, and by family; ``table`` holds one method's rows.

    Of more families than are legible those of the lowest coverage.
    """
    from matplotlib.figure import Figure

    tasks = table[table["scope"] != "family"]
    tasks = tasks[
        (tasks["scope"] == "task")
        | (tasks["metric"] == (ALL if ALL in set(tasks["metric"]) else tasks["metric"].iloc[0]))
    ]
    families = table[table["scope"] == "family"]
    # A family's rows are of two metrics: together they are all its predictions.
    weighted = families.assign(hit=families["coverage"] * families["n"])
    sums = weighted.groupby(["family", "nominal"]).agg(hit=("hit", "sum"), n=("n", "sum"), n_models=("n_models", "max"))
    sums["coverage"] = sums["hit"] / sums["n"]
    lowest = sums["coverage"].groupby("family").mean().nsmallest(MAX_FAMILIES, keep="first").index
    count = families["family"].nunique()
    shown = "" if len(lowest) == count else f"; the {len(lowest)} lowest of {count}"
    most = max(tasks["task"].nunique(), len(lowest))
    figure = Figure(figsize=(10.5, 0.2 * most + 1.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    _rows(left, tasks, "task", widths=True)
    left.set_title(
        f"by task (models; mean width in {hundredths(tasks.loc[tasks['scope'] == 'task', 'metric'])} at 80 and 90 %)",
        fontsize=8,
    )
    _rows(right, sums.loc[lowest].reset_index(), "family", widths=False)
    right.set_title(f"by family (models), all tasks together{shown}", fontsize=8)
    first = table.iloc[0]
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    clusters = "organisations" if table["n_orgs"].max() > 1 else "families"
    figure.suptitle(
        f"measured coverage of the intervals on held-out models; bars: 95 % of a bootstrap over {clusters}\n"
        f"{first['predictor']}, features {first['features']}, cv {first['cv']}",
        fontsize=9,
    )
    return figure


def _rows(axes: Axes, rows: pd.DataFrame, name: str, *, widths: bool) -> None:
    labels = list(dict.fromkeys(rows[name]))[::-1] if widths else sorted(rows[name].unique(), reverse=True)
    texts = dict.fromkeys(labels, "")
    for level, color, shift in zip(LEVELS, ("#4477aa", "#ee6677"), (0.15, -0.15), strict=True):
        part = rows[np.isclose(rows["nominal"], level)].set_index(name).reindex(labels)
        at = np.arange(len(labels)) + shift
        axes.axvline(100 * level, color=color, lw=0.9, ls="--", label=f"nominal {100 * level:.0f} %")
        if widths:
            axes.hlines(at, 100 * part["coverage_low"], 100 * part["coverage_high"], color=color, lw=1, alpha=0.6)
        axes.plot(100 * part["coverage"], at, "o", ms=4, color=color, label=f"measured, {100 * level:.0f} %")
        for label in labels:
            texts[label] += f"{100 * part.at[label, 'width']:.0f}/" if widths else ""
    counts = rows.groupby(name)["n_models"].max()
    shown = [f"{x} ({counts[x]:.0f}{'; ' + texts[x].rstrip('/') if widths else ''})" for x in labels]
    axes.set_yticks(range(len(labels)), shown, fontsize=7)
    axes.set_ylim(-0.6, len(labels) - 0.4)
    axes.set_xlim(None, 102)
    axes.tick_params(axis="x", labelsize=7)
    axes.set_xlabel("scores within their interval [%]", fontsize=8)
