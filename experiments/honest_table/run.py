"""Read finished runs of ``predict.py`` and print the tables of this experiment's README, in Markdown.

An argument is a run's folder, or several of the same protocol and view joined by ``+``: they make one table, the later
ones winning where two hold the same method.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd

from njsl.predict.coverage import coverage
from njsl.predict.metrics import LEVEL, FamilyBootstrap

METRICS = {"accuracy": "accuracy", "brier_score": "Brier"}


def main(arguments: list[str]) -> None:
    """One section per argument."""
    for argument in arguments:
        folders = [Path(name) for name in argument.split("+")]
        predicted = joined([pd.read_parquet(folder / "predictions.parquet") for folder in folders])
        metrics = joined([pd.read_csv(folder / "metrics.csv") for folder in folders])
        decisions = joined([pd.read_csv(folder / "decisions.csv") for folder in folders])
        (cv,) = predicted["cv"].unique()
        (view,) = metrics["view"].unique()
        seeds = predicted["seed"].nunique()
        print(f"\n### cv={cv}, view {view}, {seeds} seed{'s' * (seeds > 1)}\n")
        errors(predicted.assign(select="none"), metrics)
        if "low80" in predicted:
            intervals(predicted[predicted["low80"].notna()].assign(select="none"))
        choices(decisions)
        print(f"\nCPU seconds of all fits: {metrics['cpu_sec'].sum():.0f}")


def joined(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """The tables of several runs, each method from the last run that has it."""
    method = ["predictor", "features"]
    kept: list[pd.DataFrame] = []
    for table in tables:
        theirs = set(table[method].itertuples(index=False, name=None))
        kept = [
            part[[pair not in theirs for pair in zip(part["predictor"], part["features"], strict=True)]]
            for part in kept
        ]
        kept.append(table)
    return pd.concat(kept, ignore_index=True)


def errors(predicted: pd.DataFrame, metrics: pd.DataFrame) -> None:
    """MAE in points, a mean over tasks of the MAEs pooled over models; changes with intervals over organisations."""
    bootstrap = FamilyBootstrap(predicted.assign(family=predicted["org"]))  # organisations are drawn
    tasks = {metric: list(rows["task"].unique()) for metric, rows in predicted.groupby("metric", sort=False)}

    def mean(metric: str, predictor: str, features: str) -> np.ndarray:
        (cv,) = predicted["cv"].unique()
        each = [bootstrap.maes(task, predictor, features, cv, "none") for task in tasks[metric]]
        return np.mean(each, axis=0)

    methods = list(dict.fromkeys(zip(predicted["predictor"], predicted["features"], strict=True)))
    folds = metrics.groupby(["predictor", "features"])["mae"].mean()
    scales = [method for method in methods if method[1] == "scale"]
    best = {metric: min(scales, key=lambda m: mean(metric, *m)[0]) for metric in tasks if scales}
    for metric, (name, _) in best.items():
        print(f"best scale-only, {METRICS[metric]} ({len(tasks[metric])} tasks): {name}")
    heads = "".join(f" {METRICS[m]} | against own scale-only | against the best scale-only |" for m in tasks)
    print(f"\n| predictor | features |{heads} mean of all by folds |")
    print("|---|---|" + "---|---|---|" * len(tasks) + "---|")
    for predictor, features in methods:
        cells = []
        for metric in tasks:
            ours = mean(metric, predictor, features)
            cells.append(f"{100 * ours[0]:.2f}")
            for other in ((predictor, "scale"), best.get(metric, ("", ""))):
                same = other == (predictor, features) or other not in methods
                cells.append("" if same else change(ours, mean(metric, *other)))
        print(f"| {predictor} | {features} | {' | '.join(cells)} | {100 * folds[predictor, features]:.2f} |")


def change(ours: np.ndarray, theirs: np.ndarray) -> str:
    """Relative change in percent with its interval, from the estimate and its paired draws."""
    draws = ours / theirs - 1
    low, high = np.nanquantile(draws[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return f"{100 * draws[0]:+.1f} % [{100 * low:+.1f}, {100 * high:+.1f}]"


def intervals(predicted: pd.DataFrame) -> None:
    """Coverage and width, means over tasks."""
    table = coverage(predicted)
    print("\n| predictor | features | tasks | nominal | coverage [95 % over organisations] | mean width [points] |")
    print("|---|---|---|---|---|---|")
    for row in table[table["scope"] == "mean"].itertuples():
        band = f"{100 * row.coverage:.1f} % [{100 * row.coverage_low:.1f}, {100 * row.coverage_high:.1f}]"
        print(
            f"| {row.predictor} | {row.features} | {row.task} {row.metric} | {100 * row.nominal:.0f} % | {band} | "
            f"{100 * row.width:.1f} |"
        )


def choices(table: pd.DataFrame) -> None:
    """Pairwise decision accuracy, means over tasks."""
    means = table[table["task"] == "(mean)"]
    print("\n| predictor | features | tasks | pairs | decisions right [95 %] | beyond noise |")
    print("|---|---|---|---|---|---|")
    for row in means.itertuples():
        band = f"{100 * row.accuracy:.1f} % [{100 * row.accuracy_low:.1f}, {100 * row.accuracy_high:.1f}]"
        beyond = "" if np.isnan(row.accuracy_beyond_noise) else f"{100 * row.accuracy_beyond_noise:.1f} %"
        kind = METRICS.get(row.metric, row.metric)
        print(f"| {row.predictor} | {row.features} | {kind} | {row.scope} | {band} | {beyond} |")


if __name__ == "__main__":
    main(sys.argv[1:])
