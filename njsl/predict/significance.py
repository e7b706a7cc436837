"""Is a feature set better than scale-only? The paper's test, and two that respect what depends on what.

Seeds re-shuffle the same models, so a t-test over seeds can be driven to any p-value by running more of them; it is
kept for comparison. Beside it stand a paired bootstrap over model families and, for shuffled folds, the corrected
resampled t-test of Nadeau and Bengio (2003, Machine Learning 52, equation 7), whose variance counts the overlap of
training sets.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from njsl.predict.evaluate import Result, Unit
from njsl.predict.metrics import BASELINE, LEVEL, METHOD, FamilyBootstrap, is_baseline

COLUMNS = [
    "task",
    "setting",
    "metric",
    "features",
    *METHOD,
    "n",
    "n_families",
    "n_seeds",
    "mae_scale",
    "mae_scale_ci",
    "mae",
    "mae_ci",
    "p_seeds",
    "p_seeds_bh",
    "rel_change_pooled",
    "rel_change_low",
    "rel_change_high",
    "p_bootstrap",
    "p_bootstrap_bh",
    "p_corrected_t",
    "p_corrected_t_bh",
]


def significance(pairs: list[tuple[Unit, Result]], table: pd.DataFrame, bootstrap: FamilyBootstrap) -> pd.DataFrame:
    """``significance.csv``: a row per task and feature set other than scale-only; empty without scale-only.

    ``p_seeds`` is the paired t-test over seed MAEs (needs two seeds), ``..._ci`` the half-width of its 95 % interval;
    ``p_bootstrap`` and ``rel_change_pooled`` with its interval come from the family bootstrap of errors pooled over
    models; ``p_corrected_t`` is empty where folds are no random shuffles. ``..._bh`` are adjusted over a method's tasks
    of one metric by Benjamini and Hochberg.
    """
    units = {(u.frame.task.key.task, u.recipe.name, u.cv_name, u.features, u.select, u.seed): (u, r) for u, r in pairs}
    rows = []
    for names, cell in table[~is_baseline(table)].groupby(
        ["task", "setting", "metric", "features", *METHOD], sort=False
    ):
        task, _, _, features, predictor, cv, select, _ = names
        mine = cell.set_index("seed")["mae"]
        same = (table["task"] == task) & (table["predictor"] == predictor) & (table["cv"] == cv)
        scale = table[same & is_baseline(table)].set_index("seed")["mae"]
        if scale.empty:
            continue
        both = [
            (units[task, predictor, cv, BASELINE, "none", seed], units[task, predictor, cv, features, select, seed])
            for seed in mine.index
        ]
        change, low, high, p_bootstrap = bootstrap.change([task], predictor, features, cv, select)
        frame = both[0][0][0].frame
        rows.append(
            dict(zip(["task", "setting", "metric", "features", *METHOD], names, strict=True))
            | {
                "n": len(frame.y),
                "n_families": len(set(frame.family)),
                "n_seeds": len(mine),
                "mae_scale": scale.mean(),
                "mae_scale_ci": _half_width(scale.to_numpy()),
                "mae": mine.mean(),
                "mae_ci": _half_width(mine.to_numpy()),
                "p_seeds": _paired_t(mine.to_numpy(), scale[mine.index].to_numpy()),
                "rel_change_pooled": change,
                "rel_change_low": low,
                "rel_change_high": high,
                "p_bootstrap": p_bootstrap,
                "p_corrected_t": _corrected_t(both),
            }
        )
    result = pd.DataFrame(rows, columns=[name for name in COLUMNS if not name.endswith("_bh")])
    for name in ("p_seeds", "p_bootstrap", "p_corrected_t"):
        result[f"{name}_bh"] = result.groupby(["metric", "features", *METHOD], sort=False)[name].transform(_adjusted)
    return result[COLUMNS]


def corrected_t(differences: np.ndarray, test_over_train: float) -> float:
    """Two-sided p-value of the corrected resampled t-test.

    Args:
        differences: error differences, one per fold of every repetition.
        test_over_train: held-out rows over rows trained on.
    """
    count = len(differences)
    variance = differences.var(ddof=1) if count > 1 else 0.0
    if variance == 0.0:
        return float("nan")
    t = differences.mean() / np.sqrt((1 / count + test_over_train) * variance)
    return float(2 * stats.t.sf(abs(t), count - 1))


def _corrected_t(both: list[tuple[tuple[Unit, Result], tuple[Unit, Result]]]) -> float:
    unit = both[0][0][0]
    if unit.cv.average != "folds":
        return float("nan")
    differences = [
        mine.mae - scale.mae for (_, a), (_, b) in both for scale, mine in zip(a.folds, b.folds, strict=True)
    ]
    fold = unit.cv.outer(unit.frame, unit.seed)[0]
    return corrected_t(np.array(differences), len(fold.test) / len(fold.train))


def _paired_t(mine: np.ndarray, scale: np.ndarray) -> float:
    if len(mine) < 2 or np.ptp(mine - scale) == 0:
        return float("nan")
    return float(stats.ttest_rel(mine, scale).pvalue)


def _half_width(values: np.ndarray) -> float:
    if len(values) < 2:
        return float("nan")
    return float(stats.sem(values) * stats.t.ppf((1 + LEVEL) / 2, len(values) - 1))


def _adjusted(p: pd.Series) -> pd.Series:
    known = p.dropna()
    adjusted = pd.Series(np.nan, index=p.index)
    if len(known):
        adjusted[known.index] = stats.false_discovery_control(known.to_numpy(), method="bh")
    return adjusted
