"""A corpus' class shares, corrected for the confusions of the classifier that counted them.

A classifier that takes a fifth of all books for web pages finds too few books. From documents with known labels one
knows how often it gives which class to which; the shares that make the observed counts likeliest are the correction.
It holds as far as the classifier errs on the corpus as it does on the labelled documents: P(found | true) must be the
same, the shares need not be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from njsl.core.types import DataError

_SUM_WEIGHT = 1e3
_PRIOR = 0.5  # documents added to each cell of a drawn confusion row: Jeffreys' prior
_TAILS = (2.5, 97.5)


def corrected_shares(
    counts: Mapping[str, int], confusion: np.ndarray, classes: Sequence[str], *, seed: int, draws: int = 1000
) -> pd.DataFrame:
    """Class shares of a corpus by least squares on the simplex, with a 95 % interval.

    In simulations (``tests/tag/test_prevalence.py``) its error is that of the maximum likelihood by expectation
    maximisation, which takes a hundred times longer; the plain inverse of the matrix leaves the simplex. The interval
    varies both the corpus' documents (multinomial) and the confusion matrix (each row a Dirichlet posterior under
    Jeffreys' prior, which does not take an error that was never seen among 23 documents for impossible, as resampling
    those documents would).

    Args:
        counts: documents of the corpus by the class found; classes that are absent count 0.
        confusion: [true class, found class] labelled documents, out of fold; each row has at least one.
        classes: names of its rows and columns.
        seed: of the draws.
        draws: >= 1.

    Returns:
        A row per class: ``label``, ``share_pct``, ``low_pct``, ``high_pct`` (corrected), ``raw_pct`` (as counted).
        All NaN without a single document.

    Raises:
        DataError: a count of a class that is none of ``classes``, a negative one, or a confusion matrix of another
            shape or with an empty row.

    Source: Saerens, Latinne, Decaestecker 2002, "Adjusting the outputs of a classifier to new a priori probabilities",
        Neural Computation 14(1), for the likelihood; Forman 2008, "Quantifying counts and costs via classification".
    """
    confusion = np.asarray(confusion, np.float64)
    if confusion.shape != (len(classes), len(classes)) or (confusion < 0).any() or (confusion.sum(axis=1) == 0).any():
        raise DataError(
            f"confusion matrix: shape {confusion.shape}; expected {len(classes)} x {len(classes)} counts with at least "
            f"one labelled document of each of {', '.join(classes)}"
        )
    if unknown := [label for label in counts if label not in classes]:
        raise DataError(f"counts: {unknown[0]!r} is no class of the classifier; expected {', '.join(classes)}")
    observed = np.array([counts.get(label, 0) for label in classes], np.float64)
    if (observed < 0).any():
        raise DataError("counts: a count is negative; expected 0 or more documents")
    table = pd.DataFrame({"label": list(classes)})
    if (total := observed.sum()) == 0:
        return table.assign(share_pct=np.nan, low_pct=np.nan, high_pct=np.nan, raw_pct=np.nan)
    rng = np.random.default_rng(seed)
    rows = confusion / confusion.sum(axis=1, keepdims=True)
    drawn = np.stack([rng.dirichlet(row + _PRIOR, size=draws) for row in confusion], axis=1)
    found = rng.multinomial(int(total), observed / total, size=draws)
    every = np.stack([_least_squares(count / total, rate) for count, rate in zip(found, drawn, strict=True)])
    low, high = 100 * np.percentile(every, _TAILS, axis=0)
    share = 100 * _least_squares(observed / total, rows)
    return table.assign(share_pct=share, low_pct=low, high_pct=high, raw_pct=100 * observed / total)


def _least_squares(found: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """Shares [true classes], at least 0 and summing to 1, whose expectation comes closest to ``found``.

    Args:
        found: [classes found] shares as counted.
        rates: [true classes, classes found] P(found | true), each row summing to 1.
    """
    from scipy.optimize import nnls

    size = len(found)
    # The heavy last row holds the sum to 1.
    shares, _ = nnls(np.vstack([rates.T, np.full(size, _SUM_WEIGHT)]), np.append(found, _SUM_WEIGHT))
    return shares / shares.sum()
