"""Does selection leak? Labels are shuffled and noise features added: nothing can be predicted, so nothing should be.

python experiments/leakage/run.py [--shuffles 10] [--noise 60]
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
from dataclasses import replace

import joblib
import numpy as np
import pandas as pd

from njsl.core.config import StoreConfig
from njsl.predict.evaluate import Unit, evaluate
from njsl.predict.metrics import mae
from njsl.predict.predictors.xgboost import XGBoost
from njsl.predict.select_nested import NestedSelection
from njsl.predict.select_paper import PaperSelection, run_searches
from njsl.predict.splits import RandomFolds
from njsl.predict.tune import Recipe
from njsl.store import open_store
from njsl.store.tasks import find_tasks
from njsl.store.views import TaskFrame, task_frames

RECIPE = Recipe("xgboost", XGBoost, {"learning_rate": 0.1, "max_depth": 2, "n_estimators": 50})
CV = RandomFolds(folds=3, inner_folds=3, discard_frac=0.0, encoding="ordinal")
START = ("total_params", "total_tokens_billions")
SEEDS = (0, 1, 2)
MAX_STEPS, MIN_GAIN = 6, 1e-4


def null_frame(frame: TaskFrame, noise: int, shuffle: int) -> TaskFrame:
    """The task with its labels shuffled among its models and ``noise`` standard normal features."""
    random = np.random.default_rng(shuffle)
    columns = {f"noise_{number:02}": random.standard_normal(len(frame.y)) for number in range(noise)}
    features = frame.features.assign(**columns)
    return replace(frame, features=features, y=random.permutation(frame.y))


def errors(frame: TaskFrame) -> dict[str, float]:
    """MAE [points], mean over seeds: the median, no selection, in-sample selection and nested selection."""
    noise = tuple(name for name in frame.features if name.startswith("noise_"))
    unit = Unit(frame, RECIPE, "nested", CV, "scale", "none", START, CV.encoding, 0, None, False)
    search = PaperSelection(START, noise, MAX_STEPS, MIN_GAIN)
    run_searches({("null",): search}, {("null",): unit}, SEEDS, lambda units, _: [mae(u, evaluate(u)) for u in units])
    nested = NestedSelection(noise, MAX_STEPS, MIN_GAIN)
    rows: dict[str, list[float]] = {"median": [], "none": [], "paper": [], "nested": []}
    for seed in SEEDS:
        plain = evaluate(replace(unit, seed=seed))
        rows["median"].append(float(np.mean([fold.mae_median for fold in plain.folds])))
        rows["none"].append(mae(unit, plain))
        rows["paper"].append(mae(unit, evaluate(replace(unit, seed=seed, columns=search.chosen))))
        rows["nested"].append(mae(unit, evaluate(replace(unit, seed=seed, nested=nested))))
    return {name: 100 * float(np.mean(values)) for name, values in rows.items()}


def main() -> None:
    """Print MAE and the change against the median for every procedure, mean and range over shuffles."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shuffles", type=int, default=10)
    parser.add_argument("--noise", type=int, default=60)
    parser.add_argument("--task", default="hellaswag")
    arguments = parser.parse_args()
    store, where = open_store(StoreConfig(name="paper", path=None, view="raw"))
    (frame,) = task_frames(store, "raw", find_tasks(arguments.task), freegen=False)
    jobs = [null_frame(frame, arguments.noise, shuffle) for shuffle in range(arguments.shuffles)]
    table = pd.DataFrame(joblib.Parallel(n_jobs=-1)(joblib.delayed(errors)(job) for job in jobs))
    print(f"store: {where}")
    print(f"{arguments.task}, n = {len(frame.y)}, labels shuffled {len(jobs)} times, {len(SEEDS)} seeds")
    print(f"{arguments.noise} noise features are offered to the selection")
    print(f"{'selection':10} {'MAE [points]':>13} {'against the median':>19} {'beats it in':>12}")
    for name in ("none", "paper", "nested"):
        change = 100 * (table[name] / table["median"] - 1)
        print(
            f"{name:10} {table[name].mean():13.2f} {change.mean():+8.1f} % [{change.min():+.1f}, {change.max():+.1f}]"
            f" {(change < 0).sum():5} of {len(change)}"
        )


if __name__ == "__main__":
    main()
