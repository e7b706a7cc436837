"""Do free generations say what a model was trained on? Features of generations against those of the real corpora."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from njsl.core.types import DataError

# Arrays: P pairs, B bootstrap samples.
MIN_PAIRS = 5
COLUMNS = ("feature", "value", "std")
_BOOTSTRAPS = 5000
_FEWEST = 0.5  # an interval of fewer than this share of the samples says nothing
_Measure = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Pair:
    """One model and the corpus it was trained on.

    Attributes:
        model, corpus: their names.
        generated, actual: features of the model's generations and of the corpus, by the same taggers: a row per
            feature with at least ``feature``, ``value`` and ``std`` (over documents, NaN where there is none), as
            ``features_long.csv`` has them.
    """

    model: str
    corpus: str
    generated: pd.DataFrame
    actual: pd.DataFrame


def validity(pairs: Sequence[Pair], *, seed: int = 0) -> pd.DataFrame:
    """Correlation and bias of every feature over pairs; the share of a domain is a feature as any other.

    Intervals are percentiles (2.5 and 97.5) of a bootstrap over pairs. They take pairs as independent, and with few of
    them they are rather too narrow than too wide. A correlation says whether generations order corpora rightly, the
    bias how far they are off.

    Args:
        pairs: at least five.
        seed: of the bootstrap.

    Returns:
        A row per feature that both sides of some pair have: ``feature``; ``pairs``, how many have it; ``spearman`` and
        ``pearson``; ``bias``, the mean of generated - actual [the feature's unit]; ``bias_std``, the mean of the same
        in standard deviations of the corpus' documents; each with ``_low`` and ``_high``; ``reason``, in words why a
        figure is NaN, else empty.

    Raises:
        DataError: fewer than five pairs, a pair twice, or features that are there twice or not at all.
    """
    if len(pairs) < MIN_PAIRS:
        raise DataError(f"validity: {len(pairs)} pairs of a model and its corpus; at least {MIN_PAIRS} are needed")
    names = [(pair.model, pair.corpus) for pair in pairs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise DataError(
            f"validity: model {twice[0][0]} with corpus {twice[0][1]} is there twice; each pair counts once"
        )
    both = [_joined(pair) for pair in pairs]
    features = list(dict.fromkeys(feature for table in both for feature in table.index))
    if not features:
        raise DataError("validity: no feature is known of both generations and corpora; tag both with the same taggers")
    return pd.DataFrame([_row(feature, both, seed) for feature in features])


def pooled(features: Sequence[str]) -> NoReturn:
    """The correlation over all features of all pairs in one, which is refused.

    Raises:
        DataError: always. Features have units of their own, characters in the thousands beside ratios below one, so
            such a figure is near 1 whatever the model writes.
    """
    raise DataError(
        f"validity: no correlation pooled over {len(features)} features: their units differ, and their sizes alone "
        "would make it high; read the rows per feature"
    )


def _joined(pair: Pair) -> pd.DataFrame:
    """By feature its value in the generations and in the corpus, and the corpus' standard deviation."""
    sides = []
    for what, frame in (("generations", pair.generated), ("corpus", pair.actual)):
        where = f"validity: {what} of {pair.model} / {pair.corpus}"
        if lacking := [column for column in COLUMNS if column not in frame]:
            raise DataError(f"{where}: no column {lacking[0]!r}; expected {', '.join(COLUMNS)}")
        if frame["feature"].duplicated().any():
            feature = frame["feature"][frame["feature"].duplicated()].iloc[0]
            raise DataError(f"{where}: feature {feature!r} is there twice; expected one row per feature")
        sides.append(frame.set_index("feature")[["value", "std"]].astype(float))
    generated, actual = sides
    joined = pd.DataFrame({"generated": generated["value"], **actual.reindex(generated.index)})
    return joined.rename(columns={"value": "actual"}).dropna(subset=["generated", "actual"])


def _row(feature: str, both: Sequence[pd.DataFrame], seed: int) -> dict[str, object]:
    found = pd.DataFrame([table.loc[feature] for table in both if feature in table.index])
    generated_P, actual_P, std_P = (found[name].to_numpy() for name in ("generated", "actual", "std"))
    difference_P = generated_P - actual_P
    standardised_P = difference_P / np.where(std_P > 0, std_P, np.nan)
    row: dict[str, object] = {"feature": feature, "pairs": len(found)}
    reason = ""
    if len(found) < MIN_PAIRS:
        reason = f"fewer than {MIN_PAIRS} pairs"
    elif np.ptp(actual_P) == 0:
        reason = "constant over corpora"
    elif np.ptp(generated_P) == 0:
        reason = "constant over generations"
    picks_BP = np.random.default_rng(seed).integers(len(found), size=(_BOOTSTRAPS, len(found)))
    for name, measure in (("spearman", _spearman), ("pearson", _pearson)):
        row |= _estimate(name, measure, generated_P, actual_P, picks_BP, undefined=bool(reason))
    row |= _estimate("bias", _mean, difference_P, difference_P, picks_BP, undefined=len(found) < MIN_PAIRS)
    spread = bool(np.isfinite(standardised_P).all())
    undefined = len(found) < MIN_PAIRS or not spread
    row |= _estimate("bias_std", _mean, standardised_P, standardised_P, picks_BP, undefined=undefined)
    if not spread:
        reason = "; ".join([*filter(None, [reason]), "no std over documents"])
    return row | {"reason": reason}


def _estimate(
    name: str, measure: _Measure, x_P: np.ndarray, y_P: np.ndarray, picks_BP: np.ndarray, *, undefined: bool
) -> dict[str, float]:
    """A measure of all pairs, and its interval."""
    value = low = high = float("nan")
    if not undefined:
        value = float(measure(x_P[None], y_P[None])[0])
        samples_B = measure(x_P[picks_BP], y_P[picks_BP])
        samples_B = samples_B[np.isfinite(samples_B)]  # a sample of one pair over and over has no correlation
        if len(samples_B) >= _FEWEST * len(picks_BP):
            low, high = (float(edge) for edge in np.percentile(samples_B, [2.5, 97.5]))
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def _pearson(x_BP: np.ndarray, y_BP: np.ndarray) -> np.ndarray:
    """Of each row; NaN where either side is constant."""
    # Compared as they are: differences from a rounded mean are not quite 0.
    varies_B = (np.ptp(x_BP, axis=1) > 0) & (np.ptp(y_BP, axis=1) > 0)
    x_BP, y_BP = (z_BP - z_BP.mean(axis=1, keepdims=True) for z_BP in (x_BP, y_BP))
    scale_B = np.sqrt((x_BP**2).sum(axis=1) * (y_BP**2).sum(axis=1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(varies_B, (x_BP * y_BP).sum(axis=1) / scale_B, np.nan)


def _spearman(x_BP: np.ndarray, y_BP: np.ndarray) -> np.ndarray:
    return _pearson(rankdata(x_BP, axis=1), rankdata(y_BP, axis=1))


def _mean(x_BP: np.ndarray, _: np.ndarray) -> np.ndarray:
    return x_BP.mean(axis=1)
