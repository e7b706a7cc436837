"""Do selection, tuning, the weights of a stack and intervals leak? Of labels without meaning nothing can be predicted.

python experiments/leakage/run.py [--draws 20 10] [--noise 20]
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace

import joblib
import numpy as np
import pandas as pd
from scipy import stats

from njsl.core.config import StoreConfig
from njsl.predict.base import Context
from njsl.predict.evaluate import Result, Unit, context_of, evaluate
from njsl.predict.features import GROUPS, design
from njsl.predict.intervals import LEVELS, Conformal, possible
from njsl.predict.metrics import mae
from njsl.predict.predictors.stack import Stack, weighted_median
from njsl.predict.predictors.xgboost import XGBoost
from njsl.predict.select_nested import NestedSelection
from njsl.predict.select_paper import PaperSelection, run_searches
from njsl.predict.splits import Fold, LeaveGroupOut, RandomFolds, Splitter
from njsl.predict.tune import Recipe, search
from njsl.store import open_store
from njsl.store.tasks import find_tasks
from njsl.store.views import TaskFrame, task_frames

CVS: dict[str, Splitter] = {
    "nested": RandomFolds(folds=3, inner_folds=3, discard_frac=0.0, encoding="native"),
    "leave_org_out": LeaveGroupOut(group="org", inner_folds=3),
}
TREES = Recipe("xgboost", XGBoost, {"learning_rate": 0.1, "max_depth": 2, "n_estimators": 20})
GRID = Recipe(
    "xgboost", XGBoost, {"learning_rate": [0.01, 0.1, 0.3], "max_depth": [2, 3, 5], "n_estimators": [50, 100]}
)
AT = "njsl.predict.predictors"
MEMBERS = {
    "line": {"features": ["scale", "data"], "predictor": {"_target_": f"{AT}.ridge.Ridge", "alpha": 10.0}},
    # Columns that are no real feature's count as free generation.
    "trees": {"features": ["freegen"], "predictor": {"_target_": f"{AT}.xgboost.XGBoost", **TREES.params}},
}
STACK = Recipe("stack", Stack, {"members": MEMBERS, "folds": 4, "temperature": 0.5})
START = GROUPS["scale"]
MAX_STEPS, MIN_GAIN = 2, 1e-4
SHARES = np.linspace(0, 1, 21)
# A procedure, and the honest one that it is held against.
GAINS = {
    "no selection": None,
    "selection, nested": None,
    "selection, paper": "selection, nested",
    "tuning, inner folds": None,
    "tuning, held-out rows": "tuning, inner folds",
    "stack weights, inner folds": None,
    "stack weights, held-out rows": "stack weights, inner folds",
}
COVERAGES = ("xgboost, tuned", "stack", "stack, errors of the fit itself")


@dataclass(frozen=True)
class Null:
    """The models with labels drawn one by one from the task's scores, whatever the features.

    Attributes:
        frame: features, with columns of noise, and labels.
        middle: median of what labels are drawn from: no constant, and no prediction made without a look at a label,
            has a smaller expected error.
        error: its expected absolute error, a fraction.
    """

    frame: TaskFrame
    middle: float
    error: float

    @classmethod
    def draw(cls, frame: TaskFrame, noise: int, number: int) -> "Null":
        """Draw ``number``, with ``noise`` standard normal columns."""
        random = np.random.default_rng(number)
        columns = {f"noise_{n:02}": random.standard_normal(len(frame.y)) for n in range(noise)}
        middle = float(np.median(frame.y))
        drawn = replace(frame, features=frame.features.assign(**columns), y=random.choice(frame.y, len(frame.y)))
        return cls(drawn, middle, float(np.abs(frame.y - middle).mean()))

    @property
    def noise(self) -> tuple[str, ...]:
        """Names of the columns of noise."""
        return tuple(name for name in self.frame.features if name.startswith("noise_"))

    def gain(self, folds: list[Fold], yhat: list[np.ndarray]) -> float:
        """By how much the error pooled over models is under that of the median, in shares of its expected error.

        Divided by a constant, so that its expectation is at most 0 for whoever saw no label of the models predicted.
        """
        truth = np.concatenate([self.frame.y[fold.test] for fold in folds])
        return float(np.mean(np.abs(truth - self.middle) - np.abs(truth - np.concatenate(yhat))) / self.error)


def procedures(null: Null, cv_name: str, seed: int) -> dict[str | tuple[str, float], float]:
    """Gain of every procedure, and coverage [0..1] of every interval as (name, level)."""
    frame, cv = null.frame, CVS[cv_name]
    folds = cv.outer(frame, seed)
    columns = (*START, *GROUPS["data"], *null.noise)
    first = Unit(frame, TREES, cv_name, cv, "null", "none", columns, cv.encoding, seed, None, False)
    row: dict[str | tuple[str, float], float] = {}

    def honest(name: str, unit: Unit) -> Result:
        result = evaluate(unit)
        row[name] = null.gain(folds, [np.array(fold.yhat) for fold in result.folds])
        return result

    start, offered = replace(first, columns=START), columns[len(START) :]
    honest("no selection", start)
    honest("selection, nested", replace(start, nested=NestedSelection(offered, MAX_STEPS, MIN_GAIN)))
    paper = PaperSelection(START, offered, MAX_STEPS, MIN_GAIN)
    run_searches({("null",): paper}, {("null",): start}, (seed,), lambda units, _: [mae(u, evaluate(u)) for u in units])
    honest("selection, paper", replace(start, columns=paper.chosen))

    tuned = replace(first, recipe=GRID, intervals=True)
    ends = {"xgboost, tuned": _ends(honest("tuning, inner folds", tuned))}
    row["tuning, held-out rows"] = null.gain(folds, list(_tuned_on_held_out(tuned, folds)))

    stack = replace(first, recipe=STACK, intervals=True)
    ends["stack"] = _ends(honest("stack weights, inner folds", stack))
    weighted, leaky = zip(*_stacked_on_held_out(stack, folds), strict=True)
    row["stack weights, held-out rows"] = null.gain(folds, list(weighted))
    ends["stack, errors of the fit itself"] = np.concatenate(leaky, axis=2)

    truth = np.concatenate([frame.y[fold.test] for fold in folds])
    for name, (low, high) in ends.items():
        for level, covered in zip(LEVELS, ((low <= truth) & (truth <= high)).mean(axis=1), strict=True):
            row[name, level] = float(covered)
    return row


def _ends(result: Result) -> np.ndarray:
    """Ends of the intervals [2, levels, models], in the order of the folds."""
    return np.stack([np.concatenate([getattr(f, end) for f in result.folds], axis=1) for end in ("low", "high")])


def _rows(unit: Unit) -> tuple[pd.DataFrame, np.ndarray, Context]:
    frame = unit.frame
    return design(frame.features, list(unit.columns), unit.encoding), frame.y, context_of(unit)


def _tuned_on_held_out(unit: Unit, folds: list[Fold]) -> Iterator[np.ndarray]:
    """Predictions by fold at the grid point with the least error on the models predicted: the leak."""
    X, y, context = _rows(unit)
    for train, test in ((fold.train, fold.test) for fold in folds):
        point, _ = search(unit.recipe, X, y, [(train, test)], unit.seed, unit.frame.task, context)
        model = unit.recipe.make(point, unit.seed, unit.frame.task)
        yield model.fit(X.iloc[train], y[train], context.only(X.index[train])).predict(X.iloc[test])


def _stacked_on_held_out(unit: Unit, folds: list[Fold]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Two leaks, by fold: predictions under the weights with the least error on the models predicted, and ends of
    intervals [2, levels, models] by the errors on the rows of the fit itself, about the honest predictions.
    """
    X, y, context = _rows(unit)
    for train, test in ((fold.train, fold.test) for fold in folds):
        within = context.only(X.index[train])
        stack = unit.recipe.make(unit.recipe.grid[0], unit.seed, unit.frame.task).fit(X.iloc[train], y[train], within)
        members = [model.predict(X.iloc[test][columns]) for columns, model in stack.fitted_.values()]
        tried = [weighted_median(np.column_stack(members), np.array([share, 1 - share])) for share in SHARES]
        groups = None if within.whole is None else within.groups[within.whole].to_numpy()
        band = Conformal(*possible(unit.frame.task)).fit(stack.predict(X.iloc[train]), y[train], groups)
        least = min(tried, key=lambda yhat: np.abs(yhat - y[test]).mean())
        yield least, np.stack(band.interval(stack.predict(X.iloc[test])))


def mean_and_ends(values: pd.Series) -> str:
    """Mean and its 95 % t-interval over draws, in percent."""
    half = stats.t.ppf(0.975, len(values) - 1) * values.sem()
    return f"{100 * values.mean():6.1f} [{100 * (values.mean() - half):5.1f}, {100 * (values.mean() + half):5.1f}]"


def show(table: pd.DataFrame) -> None:
    """Print gains and coverages of one protocol; ``table`` has a row per draw."""
    print(f"{'':30}{'gain [%]':>22}  p(no gain)  {'above the honest [%]':>22}")
    for name, other in GAINS.items():
        p = stats.ttest_1samp(table[name], 0.0, alternative="greater").pvalue
        above = "" if other is None else mean_and_ends(table[name] - table[other])
        print(f"{name:30}{mean_and_ends(table[name]):>22}  {p:10.2g}  {above:>22}".rstrip())
    print(f"{'':34}{'80 % cover [%]':>22}  {'90 % cover [%]':>22}")
    for name in COVERAGES:
        print(f"{name:34}" + "  ".join(f"{mean_and_ends(table[name, level]):>22}" for level in LEVELS))


def main() -> None:
    """Print gains over the known median and coverages, protocol by protocol."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, nargs=len(CVS), default=[20, 10], metavar=("NESTED", "LEAVE_ORG_OUT"))
    parser.add_argument("--noise", type=int, default=20)
    parser.add_argument("--task", default="hellaswag")
    arguments = parser.parse_args()
    if min(arguments.draws) < 2 or arguments.noise < 1:
        parser.error("--draws below 2 or --noise below 1; at least 2 draws of each and 1 column are accepted")
    store, where = open_store(StoreConfig(name="paper", path=None, view="raw"))
    (frame,) = task_frames(store, "raw", find_tasks(arguments.task), freegen=False)
    nulls = [Null.draw(frame, arguments.noise, number) for number in range(max(arguments.draws))]
    print(f"store: {where}")
    print(
        f"{arguments.task}, n = {len(frame.y)} in {len(set(frame.org))} organisations; labels drawn from the scores, "
        f"median {100 * nulls[0].middle:.1f}, its expected error {100 * nulls[0].error:.1f} points"
    )
    print(f"{len(START) + len(GROUPS['data'])} real columns and {arguments.noise} of noise; 95 % intervals over draws")
    for cv_name, draws in zip(CVS, arguments.draws, strict=True):
        jobs = [joblib.delayed(procedures)(nulls[number], cv_name, number) for number in range(draws)]
        print(f"\ncv {cv_name}, {draws} draws")
        show(pd.DataFrame(joblib.Parallel(n_jobs=-1)(jobs)))


if __name__ == "__main__":
    main()
