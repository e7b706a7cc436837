"""A Gaussian process around a scaling-law plane: a kernel per group of features, and noise that expects outliers."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import pandas as pd

from njsl.core.types import ConfigError
from njsl.predict.base import Context, Predictor
from njsl.predict.gaussian import Process


class GaussianProcess(Predictor):
    """score = plane over ln parameters and ln tokens + a smooth function of each feature group + noise.

    The functions of other groups than scale fade with the distance in scale, so that what holds for small models is
    believed less of large ones. Hyperparameters maximise their posterior density; a prior keeps groups that explain
    nothing near nothing, which maximum likelihood on 90 models does not. The noise is Student's t, fitted as a mixture
    of normals, on top of each label's known standard error. Predictions are medians of the posterior.

    Source: Rasmussen and Williams 2006 (Gaussian Processes for Machine Learning), chapters 2 and 5; Lange, Little and
    Taylor 1989 (JASA 84) for the noise.

    Args:
        group_scale: prior median of the standard deviation of a group's function, in standard deviations of the
            training scores; > 0.
        freedom: degrees of freedom of the noise, > 0; null is normal noise.
    """

    def __init__(self, *, group_scale: float = 0.12, freedom: float | None = 4.0) -> None:
        self.group_scale = group_scale
        self.freedom = freedom

    def pack(self, X: pd.DataFrame, y: np.ndarray | None = None, context: Context | None = None) -> Any:
        """Rows, scores, and the scores' variances [models] from the context."""
        variance = np.zeros(len(X)) if context is None else np.square(context.stderr.loc[X.index].fillna(0.0))
        return X, y, np.asarray(variance)

    def fit_packed(self, packed: Any) -> Self:
        """Fit hyperparameters, weigh outliers down, and solve.

        Raises:
            ConfigError: a parameter is not positive.
        """
        X, y, variance = packed
        if not self.group_scale > 0 or (self.freedom is not None and not self.freedom > 0):
            raise ConfigError(
                f"gaussian_process: group_scale={self.group_scale}, freedom={self.freedom}; positive numbers are "
                "accepted, for freedom also null"
            )
        self.process_ = Process(self.group_scale, self.freedom).fit(X, y, variance)
        return self

    def predict(self, X: pd.DataFrame) -> np.ndarray:
        """Predicted scores [models], as fractions; nothing keeps them within 0 and 1."""
        return self.process_.predict(X)
