"""Linear regression on the shares (RegMix's linear law; Liu et al. 2024, arXiv 2407.01492)."""

from __future__ import annotations

from typing import Self

import numpy as np

from njsl.predict.law import Law


class RegMixLinear(Law):
    """loss = sum_j b_j w_j by least squares. Shares sum to 1, so an intercept would say nothing more.

    Its best mix is always a corner of what is allowed.

    Attributes:
        coefficients_: loss of each corpus alone [corpora].
    """

    def fit_runs(self, shares: np.ndarray, loss: np.ndarray) -> Self:
        """Least squares; of several solutions the shortest."""
        self.coefficients_ = np.linalg.lstsq(shares, loss, rcond=None)[0]
        return self

    def predict(self, shares: np.ndarray) -> np.ndarray:
        """Expected loss [mixes]."""
        return shares @ self.coefficients_
