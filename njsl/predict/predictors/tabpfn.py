"""TabPFN: a transformer that has learnt from made-up tables how to fill in a column."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from njsl.core.types import DataError
from njsl.predict.base import Predictor


class TabPFN(Predictor):
    """The median that a pretrained network predicts when shown the training models, with gaps and categories as such.

    Nothing is trained: ``fit`` hands the training models over. Needs the extra ``tabpfn`` and a file of weights of a
    regressor, which is never fetched from here. Source: arXiv 2207.01848; Nature 637 (2025), 319.

    Args:
        weights: path of the file of weights.
        n_estimators: passes with columns and scores in different guises, whose predictions are averaged.
        device: ``cpu``, ``cuda`` or ``auto``.
        random_state: seed of the guises.
    """

    missing = "native"

    def __init__(
        self, *, weights: str | None = None, n_estimators: int = 8, device: str = "cpu", random_state: int = 0
    ) -> None:
        self.weights = weights
        self.n_estimators = n_estimators
        self.device = device
        self.random_state = random_state

    def fit_packed(self, packed: Any) -> Self:
        """Hand over the training models.

        Raises:
            DataError: the package or the weights are missing.
        """
        # The package itself would open a browser or a connection where the file is not there.
        if self.weights is None or not Path(self.weights).is_file():
            raise DataError(
                f"TabPFN: weights={self.weights!r} is no file; name the file of a regressor's weights, which the "
                "authors of the extra tabpfn publish (they are not fetched)"
            )
        try:
            from tabpfn import TabPFNRegressor
        except ImportError as error:
            raise DataError(
                "TabPFN: the package tabpfn is not installed; `pip install njsl[tabpfn]`, or leave predictor=tabpfn out"
            ) from error
        X, y = packed
        present = [name for name in X.columns if X[name].notna().any()]
        self.categories_ = {
            name: (X[name].cat.categories if isinstance(X[name].dtype, pd.CategoricalDtype) else None)
            for name in present
        }
        # Neither a table without columns nor a score without spread is any the network has seen.
        self.constant_ = float(np.median(y)) if not present or np.ptp(y) == 0 else None
        if self.constant_ is None:
            coded = [place for place, name in enumerate(present) if self.categories_[name] is not None]
            self.model_ = TabPFNRegressor(
                model_path=self.weights,
                n_estimators=self.n_estimators,
                device=self.device,
                random_state=self.random_state,
                categorical_features_indices=coded,
                n_preprocessing_jobs=1,
            ).fit(self._coded(X), y)
        return self

    def predict(self, X: pd.DataFrame) -> np.ndarray:
        """Medians of the predicted distributions [models], as fractions."""
        if self.constant_ is not None:
            return np.full(len(X), self.constant_)
        return np.asarray(self.model_.predict(self._coded(X), output_type="median"), dtype="float64")

    def _coded(self, X: pd.DataFrame) -> np.ndarray:
        """Columns [models, features] as floats: categories as their number in training, an unseen one as missing."""
        columns = [
            X[name].to_numpy(dtype="float64")
            if labels is None
            else np.where((codes := labels.get_indexer(X[name].astype(object))) < 0, np.nan, codes)
            for name, labels in self.categories_.items()
        ]
        return np.column_stack(columns)
