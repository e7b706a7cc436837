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

_STEPS, _TOLERANCE = 5000, 1e-7
_PRIOR = 0.5  # documents added to each cell of a drawn confusion row: Jeffreys' prior
_TAILS = (2.5, 97.5)


def corrected_shares(
    counts: Mapping[str, int], confusion: np.ndarray, classes: Sequence[str], *, seed: int, draws: int = 1000
) -> pd.DataFrame:
    """Class shares of a corpus by maximum likelihood, with a 95 % interval.

    The likelihood of the counts as a multinomial mixture is maximised on the simplex by expectation maximisation. In
    simulations (``tests/tag/test_prevalence.py``) its error is that of the constrained least squares or lower; the
    plain inverse of the matrix leaves the simplex. The interval varies both the corpus' documents (multinomial) and
    the confusion matrix (each row a Dirichlet posterior under Jeffreys' prior, which does not take an error that was
    never seen among 23 documents for impossible, as resampling those documents would).

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
        Neural Computation 14(1); Forman 2008, "Quantifying counts and costs via classification".
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
    low, high = np.percentile(_likeliest(found, drawn), _TAILS, axis=0)
    share = _likeliest(observed[None], rows[None])[0]
    return table.assign(share_pct=100 * share, low_pct=100 * low, high_pct=100 * high, raw_pct=100 * observed / total)


def _likeliest(counts: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """Shares [draws, classes] of the true classes that make the counts likeliest.

    Args:
        counts: [draws, classes found].
        rates: [draws, true classes, classes found] P(found | true), each row summing to 1.
    """
    weight = counts / counts.sum(axis=1, keepdims=True)
    shares = np.full(counts.shape, 1 / counts.shape[1])
    for _ in range(_STEPS):
        expected = np.einsum("dt,dtf->df", shares, rates)
        ratio = np.divide(weight, expected, out=np.zeros_like(weight), where=expected > 0)
        after = shares * np.einsum("df,dtf->dt", ratio, rates)
        # What no true class explains counts for none; the others share the whole.
        after /= after.sum(axis=1, keepdims=True)
        done = float(np.abs(after - shares).max()) < _TOLERANCE
        shares = after
        if done:
            break
    return shares
