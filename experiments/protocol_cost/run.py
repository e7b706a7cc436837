"""Cost of `cv=paper`: CPU seconds against the plain lean loop, in one process, unit by unit in turn.

python experiments/protocol_cost/run.py            # the comparison
python experiments/protocol_cost/run.py --wall     # then 13 tasks x 50 seeds x 2 feature sets through predict.py
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from lean_loop import mean_fold_mae

from njsl.core.config import FeatureSet, StoreConfig
from njsl.predict.evaluate import Unit, evaluate
from njsl.predict.features import FeatureTable, design
from njsl.predict.metrics import mae
from njsl.predict.predictors.xgboost import XGBoost
from njsl.predict.splits import RandomFolds
from njsl.predict.tune import Recipe
from njsl.store import open_store
from njsl.store.tasks import find_tasks
from njsl.store.views import task_frames

ROOT = Path(__file__).parents[2]
RECIPE = Recipe(
    "xgboost", XGBoost, {"learning_rate": [0.01, 0.1, 0.3], "max_depth": [2, 3, 5], "n_estimators": [50, 100]}
)
CV = RandomFolds(folds=3, inner_folds=3, discard_frac=0.2, encoding="ordinal")
SETS = {"scale": FeatureSet(groups=["scale"]), "all": FeatureSet(groups=["scale", "arch", "data"])}


def compare(seeds: list[int]) -> None:
    """Print CPU seconds per unit of both, and the largest difference between their MAEs."""
    store, where = open_store(StoreConfig(name="paper", path=None, view="raw"))
    print(f"store: {where}")
    table = FeatureTable(store)
    print(f"{'features':10} {'units':>5} {'lean [s]':>9} {'njsl [s]':>9} {'ratio':>6} {'max |difference of MAE|':>24}")
    for name, wanted in SETS.items():
        lean_sec, njsl_sec, differences = [], [], []
        for frame in task_frames(store, "raw", find_tasks("core"), freegen=False):
            columns = tuple(table.columns(name, wanted, frame.task))
            X = design(frame.features, list(columns), CV.encoding).to_numpy(np.float32)
            for seed in seeds:
                unit = Unit(frame, RECIPE, "paper", CV, name, "none", columns, CV.encoding, seed, None, False)
                start = time.process_time()
                lean = mean_fold_mae(X, frame.y, seed)
                middle = time.process_time()
                result = evaluate(unit)
                njsl_sec.append(time.process_time() - middle)
                lean_sec.append(middle - start)
                differences.append(abs(lean - mae(unit, result)))
        ratio = sum(njsl_sec) / sum(lean_sec)
        print(
            f"{name:10} {len(lean_sec):5} {np.mean(lean_sec):9.3f} {np.mean(njsl_sec):9.3f} {ratio:6.2f} "
            f"{max(differences):24.1e}"
        )


def wall() -> None:
    """Print wall time and peak memory per process of 13 tasks x 50 seeds x 2 feature sets."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            str(ROOT / "predict.py"),
            "store=paper",
            "features=[scale,all]",
            f"seeds=[{','.join(map(str, range(50)))}]",
        ]
        start = time.perf_counter()
        subprocess.run(
            [*command, "explain=false", f"hydra.run.dir={folder}/run"], check=True, stdout=subprocess.DEVNULL
        )
        seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"13 tasks x 50 seeds x 2 feature sets: {seconds:.0f} s wall on {os.cpu_count()} cores")
    print(f"peak memory of a process: {peak:.0f} MiB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--wall", action="store_true")
    arguments = parser.parse_args()
    compare(arguments.seeds)
    if arguments.wall:
        wall()
