"""Read a finished run of ``predict.py`` on a population of own models and print this experiment's tables, in Markdown.

python experiments/micro/run.py outputs/micro
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from njsl.core.config import StoreConfig
from njsl.predict.features import LOGGED
from njsl.store import open_store
from njsl.store.metrics import METRICS
from njsl.store.population import described
from njsl.store.tasks import find_tasks
from njsl.store.views import CATEGORICAL, FLAGS, TaskFrame, task_frames

CODE = "code_pct"
DRAWS = 2000
LEVEL = 0.95
CLEAR = 3.0  # a metric has real signal if the population's spread is at least so many times that of repeated seeds


def improvements(folder: Path) -> str:
    """MAE of scale-only and of the full set, and the change, per task; hundredths of the score."""
    summary = pd.read_csv(folder / "summary.csv")
    lines = ["| task | n | scale-only | all | change [95 %, over families] |", "|---|---|---|---|---|"]
    for (predictor, task), rows in summary.groupby(["predictor", "task"], sort=False):
        rows = rows.set_index(["metric", "features"])
        for metric in dict.fromkeys(rows.index.get_level_values(0)):
            cells = rows.loc[metric]
            full = cells.loc[[name for name in cells.index if name != "scale"][-1]]
            label = f"mean {METRICS[metric].title}, {full['setting']}" if task == "(mean)" else task
            change = (full[f"rel_change_{name}"] for name in ("pooled", "low", "high"))
            lines.append(
                f"| {label}, {predictor} | {full['n']:.0f} | {100 * cells.loc['scale', 'mae']:.2f} "
                f"| {100 * full['mae']:.2f} | {'{:+.0%} [{:+.0%}, {:+.0%}]'.format(*change)} |"
            )
    return "\n".join(lines)


def noise(frames: list[TaskFrame]) -> str:
    """Spread over seeds at the repeated points, against the spread over the population; hundredths of the score."""
    lines = [
        f"| task | sd over seeds (freedoms) | sd over configurations | ratio | ratio >= {CLEAR:g} |",
        "|---|---|---|---|---|",
    ]
    for frame in frames:
        family = pd.Series(frame.y).groupby(frame.family)
        size = family.size()
        freedoms = int((size - 1).sum())
        seeds = float(np.sqrt((family.var() * (size - 1)).sum() / freedoms)) if freedoms else np.nan
        signal = float(family.mean().std())
        clear = "yes" if signal >= CLEAR * seeds else "no"
        spreads = f"{100 * seeds:.3f} ({freedoms}) | {100 * signal:.2f} | {signal / seeds:.1f}"
        lines.append(f"| {frame.task.key.task} | {spreads} | {clear} |")
    return "\n".join(lines)


def code_slopes(frames: list[TaskFrame], shap: pd.DataFrame) -> str:
    """What ten points more code go with: in a linear model beside scale and switches, and in the predictor's SHAP."""
    lines = [
        "| task | better is | linear model | SHAP of the full set |",
        "|---|---|---|---|",
    ]
    for frame in frames:
        better = "higher" if frame.task.higher_is_better else "lower"
        rows = shap[(shap["task"] == frame.task.key.task) & (shap["feature"] == CODE)]
        rows = rows.groupby("model").agg(value=("value", "first"), shap=("shap", "mean")).reindex(frame.ids)
        value = rows["value"].to_numpy()
        cells = [_slope(_columns(frame), frame.y, frame.family)]
        cells.append(_slope(np.column_stack([value, np.ones(len(value))]), rows["shap"].to_numpy(), frame.family))
        lines.append(f"| {frame.task.key.task} | {better} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _columns(frame: TaskFrame) -> np.ndarray:
    """Percent code first, a constant, ln of parameters and tokens, and a column per switch that varies."""
    features = frame.features
    switches = [features[name] for name in FLAGS if features[name].nunique() > 1]
    for name in CATEGORICAL:
        switches += [column for _, column in pd.get_dummies(features[name], dtype=float).items()][1:]
    logs = [np.log(features[name]) for name in LOGGED]
    return np.column_stack([features[CODE], np.ones(len(features)), *logs, *switches])


def _slope(columns: np.ndarray, y: np.ndarray, family: np.ndarray) -> str:
    """Slope of the first column, times ten, in hundredths, with the interval of a bootstrap over families."""
    _, place = np.unique(family, return_inverse=True)
    random = np.random.default_rng(0)
    count = place.max() + 1
    found = []
    for draw in range(DRAWS + 1):
        weight = np.ones(count) if draw == 0 else np.bincount(random.integers(count, size=count), minlength=count)
        root = np.sqrt(weight[place])
        solution, *_ = np.linalg.lstsq(columns * root[:, None], y * root, rcond=None)
        found.append(1000 * solution[0])
    low, high = np.quantile(found[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return f"{found[0]:+.2f} [{low:+.2f}, {high:+.2f}]"


def main() -> None:
    """Print the three tables of the run in the folder named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run of predict.py")
    folder = parser.parse_args().run
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    chosen = {name: config["store"][name] for name in ("name", "path", "view")}
    tasks = find_tasks(list(pd.read_csv(folder / "metrics.csv")["task"].unique()))
    store, where = open_store(StoreConfig(**chosen))
    with store:
        frames = task_frames(store, chosen["view"], tasks, freegen=False)
        print(f"store: {where}", *described(store, chosen["view"]), sep="\n")
    shap = pd.read_parquet(folder / "shap.parquet")
    shap = shap[(shap["features"] != "scale") & (shap["predictor"] == shap["predictor"].iloc[0])]
    print("\nMAE on held-out configurations, hundredths of the score:\n", improvements(folder), sep="\n")
    print("\nThe noise floor, hundredths of the score:\n", noise(frames), sep="\n")
    print(f"\nAssociation of ten points more code, hundredths of the score [{LEVEL:.0%}]:\n")
    print(code_slopes(frames, shap))


if __name__ == "__main__":
    main()
