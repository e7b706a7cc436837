"""SHAP values on held-out rows, with missing values as they are.

Exact where the method allows it (trees, linear models); otherwise Shapley values by permutation against a background
of training rows. They describe what a fitted predictor uses: associations, not causes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from njsl.predict.base import Predictor, numeric, per_feature

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BACKGROUND_ROWS = 16
PERMUTATIONS = 4


def shap_values(model: Predictor, train: pd.DataFrame, test: pd.DataFrame, seed: int) -> np.ndarray:
    """SHAP values [held-out rows, columns], in the units of the label.

    Args:
        model: fitted on ``train``.
        train: the rows it was fitted on; a seeded sample of them is the background of the permutation method.
        test: the rows to explain.
        seed: of that sample and of the permutations.
    """
    exact = model.contributions(test)
    if exact is not None:
        return np.asarray(exact, dtype="float64")
    import shap

    trees = model.trees()
    if trees is not None:
        transformer, ensemble = trees
        values = shap.TreeExplainer(ensemble).shap_values(transformer.transform(test))
        return per_feature(transformer, np.asarray(values, dtype="float64"))
    categories = {
        name: train[name].cat.categories for name in train if isinstance(train[name].dtype, pd.CategoricalDtype)
    }

    def predict(rows: np.ndarray) -> np.ndarray:
        frame = pd.DataFrame(rows, columns=test.columns)
        for name, labels in categories.items():
            codes = frame[name].fillna(-1).astype(int)
            frame[name] = pd.Categorical.from_codes(codes, categories=labels)
        return np.asarray(model.predict(frame), dtype="float64")

    background = numeric(train.sample(min(BACKGROUND_ROWS, len(train)), random_state=seed))
    masker = shap.maskers.Independent(background, max_samples=BACKGROUND_ROWS)
    explainer = shap.PermutationExplainer(predict, masker, seed=seed)
    evaluations = PERMUTATIONS * (2 * test.shape[1] + 1)
    return np.asarray(explainer(numeric(test), max_evals=evaluations, silent=True).values, dtype="float64")


def beeswarm(shap_of: np.ndarray, values: np.ndarray, labels: list[str], most: int) -> Figure:
    """A beeswarm of SHAP values.

    Args:
        shap_of: SHAP values [models, features].
        values: feature values [models, features]; NaN is drawn in grey.
        labels: a name per feature.
        most: at most so many rows; the least important features share the last.
    """
    import matplotlib

    matplotlib.use("Agg")
    import shap
    from matplotlib import pyplot

    np.random.seed(0)  # shap jitters dots with the global generator; the same inputs must give the same bytes
    figure = pyplot.figure(figsize=(7, 0.27 * min(most, len(labels)) + 1.6), layout="constrained")
    explanation = shap.Explanation(values=shap_of, data=values, feature_names=labels)
    shap.plots.beeswarm(explanation, max_display=most, ax=figure.add_subplot(), show=False, plot_size=None, s=9)
    for axes in figure.axes:
        axes.tick_params(labelsize=7)
    pyplot.close(figure)
    return figure
