"""The paper's protocol as the plainest program that does no needless work: the yardstick of the cost benchmark.

One 100-tree fit per grid point and inner fold, scored at 50 and at 100 trees; one thread; one DMatrix per fold.
"""

import itertools

import numpy as np
import xgboost as xgb
from sklearn.model_selection import KFold, train_test_split

GRID = list(itertools.product((0.01, 0.1, 0.3), (2, 3, 5)))
TREES = (50, 100)


def mean_fold_mae(X: np.ndarray, y: np.ndarray, seed: int) -> float:
    """MAE of the protocol: the mean over 3 outer folds.

    Args:
        X: design matrix [models, features], float32, NaN = missing.
        y: labels [models].
        seed: of every shuffle.
    """
    maes = []
    for train, test in KFold(3, shuffle=True, random_state=seed).split(X):
        train, _ = train_test_split(train, test_size=0.2, random_state=seed)
        errors: dict[tuple[float, int, int], list[float]] = {}
        for fit, score in KFold(3, shuffle=True, random_state=seed).split(train):
            fitting = xgb.DMatrix(X[train[fit]], label=y[train[fit]], nthread=1)
            scoring = xgb.DMatrix(X[train[score]], nthread=1)
            for rate, depth in GRID:
                booster = xgb.train({"learning_rate": rate, "max_depth": depth, "nthread": 1}, fitting, TREES[-1])
                for trees in TREES:
                    predicted = booster.predict(scoring, iteration_range=(0, trees))
                    errors.setdefault((rate, depth, trees), []).append(np.abs(predicted - y[train[score]]).mean())
        points = [(rate, depth, trees) for rate, depth in GRID for trees in TREES]
        rate, depth, trees = points[int(np.argmin([np.mean(errors[point]) for point in points]))]
        parameters = {"learning_rate": rate, "max_depth": depth, "nthread": 1}
        booster = xgb.train(parameters, xgb.DMatrix(X[train], label=y[train], nthread=1), trees)
        maes.append(np.abs(booster.predict(xgb.DMatrix(X[test], nthread=1)) - y[test]).mean())
    return float(np.mean(maes))
