"""Is there a share of code beyond which its association with a task's score turns? Per task, given scale.

Three models of the score are compared on the models whose share of code is known. All have ln parameters, ln tokens
and the square of ln compute, which lets scores bend towards the floor; one has nothing else, one a line in percent
code, one a line that bends at a change point. Siblings are alike, so scores have a family part, whose share of the
variance is estimated by restricted maximum likelihood; generalised least squares then fits each model.

A change point is not identified where there is none, so the test of the bend is the largest F over all candidate change
points (Davies 1987, Biometrika 74; Hansen 1996, Econometrica 64), and its reference distribution is made by the wild
cluster bootstrap with the null imposed (Cameron, Gelbach and Miller 2008, Review of Economics and Statistics 90): the
residuals of the null model change their sign family by family, and everything, the family part too, is estimated
again. The interval of the change point holds the candidates that the same bootstrap does not reject (Hansen 1999,
Review of Economics and Statistics 81). All of it is association.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import stats

from njsl.predict.metrics import LEVEL
from njsl.store.metrics import METRICS, hundredths
from njsl.store.views import TaskFrame

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

CODE = "code_pct"
DRAWS = 999
# A candidate change point has on either side at least so many families and models, so many percent away or more: a
# slope that models next to the bend alone would show is none.
SIDE_FAMILIES, SIDE_MODELS, SIDE_REACH = 3, 5, 5.0
LEAST_MODELS, LEAST_FAMILIES = 20, 8  # under 2^8 patterns of signs are too few to judge by
STEP = 1.0  # [percent code] between candidates
SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 0.97)  # of the variance that families make up: the grid it is estimated on
SLOPES = 81  # values of a slope that its interval tries, over SLOPES_REACH standard errors to either side
SLOPES_REACH = 6.0
ONE = np.ones((1, 1))
NAMED = 2  # families that a verdict names; of more, which are all in the table, their number
ROUNDING = 1e-9  # relative; a draw that is the data themselves, signs all alike, counts as equal
TOO_FEW, NONE, LINEAR, BENT = "too few models", "not distinguishable", "linear", "change point"
COLORS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#aa3377", "#66ccee", "#ee8866", "#44bb99", "#332288")
COLUMNS = [
    *("task", "setting", "metric", "n", "n_families", "n_orgs", "candidate_low", "candidate_high", "family_share"),
    *("p_linear", "p_linear_bh", "slope", "slope_low", "slope_high", "level"),
    *("p_hinge", "p_hinge_bh", "change_point", "change_low", "change_high"),
    *("slope_below", "slope_below_low", "slope_below_high", "slope_above", "slope_above_low", "slope_above_high"),
    *("slope_change", "slope_change_low", "slope_change_high", "level_hinge", "rests_on", "verdict"),
]


def change_points(
    frames: Sequence[TaskFrame], draws: int = DRAWS, workers: int | None = 1
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """``change_points.csv``, a row per task, and the points of its figure, a row per task and model.

    Slopes are in hundredths of the score per percentage point of code, at equal parameters and tokens; where less is
    better a positive slope is a worse score. ``..._low`` and ``..._high`` are 95 % intervals; an interval of the change
    point that ends at the first or last candidate is open there, and the slopes about a bend have the union of their
    intervals over the change points within it. ``p_linear`` tests the line against nothing, ``p_hinge`` the bend
    against the line; ``..._bh`` are adjusted over the tasks of one metric by Benjamini and Hochberg, and the verdict
    goes by these: a change point if the bend is significant, else ``linear`` if the line is, else ``not
    distinguishable``.
    ``rests_on`` names every family without which, all others kept, the unadjusted test would not say so. ``level`` and
    ``level_hinge`` are the fitted scores at no code and average scale.

    The second table has ``adjusted``: the score less what the verdict's model says of scale, a fraction.

    Args:
        frames: one per task, with ``code_pct``, ``total_params`` and ``total_tokens_billions`` among the features.
        draws: of the bootstrap; the same seed for every task.
        workers: processes, a task at a time; None is one per core.
    """
    import joblib

    found = [Rows.of(frame) for frame in frames]
    parallel = joblib.Parallel(n_jobs=min(workers or joblib.cpu_count(), max(1, len(found))))
    table = pd.DataFrame(parallel(joblib.delayed(_row)(task, draws) for task in found), columns=COLUMNS)
    table["verdict"] = table["verdict"].astype(object)
    for name in ("p_linear", "p_hinge"):
        table[f"{name}_bh"] = table.groupby("metric", sort=False)[name].transform(_adjusted).astype("float64")
    bent, leaning = (list(table[name] <= 1 - LEVEL) for name in ("p_hinge_bh", "p_linear_bh"))
    judged = [number for number, task in enumerate(found) if task.enough and (bent[number] or leaning[number])]
    named_by_task = parallel(joblib.delayed(_rests_on)(found[number], bent[number], draws) for number in judged)
    resting = dict(zip(judged, named_by_task, strict=True))
    points = []
    for number, (task, bends, leans) in enumerate(zip(found, bent, leaning, strict=True)):
        kind, named = TOO_FEW, resting.get(number, [])
        if task.enough:
            row = table.iloc[number]
            kind = "hinge" if bends else LINEAR if leans else NONE
            table.loc[number, "rests_on"] = ", ".join(named)
            table.loc[number, "verdict"] = (_place(row) if bends else kind) + _resting(named)
        else:
            table.loc[number, "verdict"] = TOO_FEW
        points.append(task.points(table.iloc[number] if kind == "hinge" else None))
    return table, pd.concat(points, ignore_index=True)


def _place(row: pd.Series) -> str:
    """A change point with its interval, in words; an end at the first or last candidate is said to be open."""
    below, above = row["change_low"] <= row["candidate_low"], row["change_high"] >= row["candidate_high"]
    ends = f"[{'≤' if below else ''}{row['change_low']:.0f}, {'≥' if above else ''}{row['change_high']:.0f}]"
    ways = [way for way, is_open in (("downwards", below), ("upwards", above)) if is_open]
    return f"{BENT} at {row['change_point']:.0f} % {ends}" + (f", open {' and '.join(ways)}" if ways else "")


def _resting(families: list[str]) -> str:
    """What a verdict hangs by, in words; empty where it stands without any one family."""
    named = " and on ".join(families) if len(families) <= NAMED else f"each of {len(families)} families"
    return f"; rests on {named}" if families else ""


@dataclass(frozen=True)
class Rows:
    """One task's models with a known share of code.

    Attributes:
        frame: the task's.
        ids, family: of these models [n].
        y, code: their scores as fractions and percent code [n].
        scale: constant, standardised ln parameters and ln tokens, squared ln compute [n, 4], all but the first centred.
        candidates: change points tried [k].
        family_of: number of each model's family [n].
        whiten: for every entry of ``SHARES`` the matrix that makes errors independent [n, n], and ln of the determinant
            of the covariance.
    """

    frame: TaskFrame
    ids: np.ndarray
    family: np.ndarray
    y: np.ndarray
    code: np.ndarray
    scale: np.ndarray
    candidates: np.ndarray
    family_of: np.ndarray
    whiten: list[tuple[np.ndarray, float]] = field(repr=False)

    @classmethod
    def of(cls, frame: TaskFrame, keep: np.ndarray | None = None, candidates: np.ndarray | None = None) -> Rows:
        """The task's models, or those of them at ``keep`` [models]; candidates as given or by the rule."""
        known = frame.features[CODE].notna().to_numpy() & (True if keep is None else keep)
        features, family, y = frame.features[known], frame.family[known], frame.y[known]
        code = features[CODE].to_numpy("float64")
        params, tokens = (
            np.log(features[name].to_numpy("float64")) for name in ("total_params", "total_tokens_billions")
        )
        bent = _standard(_standard(params + tokens) ** 2)
        scale = np.column_stack([np.ones(len(y)), _standard(params), _standard(tokens), bent])
        _, family_of = np.unique(family, return_inverse=True)
        if candidates is None:
            candidates = _candidates(code, family)
        same = (family_of[:, None] == family_of[None, :]).astype(float)
        whiten = []
        for share in SHARES if len(y) else ():
            root = np.linalg.cholesky((1 - share) * np.eye(len(y)) + share * same)
            whiten.append((np.linalg.inv(root), 2 * float(np.log(np.diag(root)).sum())))
        return cls(frame, frame.ids[known], family, y, code, scale, candidates, family_of, whiten)

    @property
    def enough(self) -> bool:
        """Whether there are models to judge by."""
        families = len(set(self.family))
        return len(self.y) >= LEAST_MODELS and families >= LEAST_FAMILIES and len(self.candidates) > 1

    @property
    def linear(self) -> np.ndarray:
        """Scale and percent code [n, 5]."""
        return np.column_stack([self.scale, self.code])

    def bends(self, at: np.ndarray | float) -> np.ndarray:
        """Percent code beyond each change point [n, change points]."""
        return np.maximum(self.code[:, None] - np.atleast_1d(at)[None, :], 0.0)

    def signs(self, draws: int) -> np.ndarray:
        """Signs of the wild bootstrap [families, draws]."""
        return np.random.default_rng(0).choice([-1.0, 1.0], size=(int(self.family_of.max()) + 1, draws))

    def blocks(self, residual: np.ndarray) -> np.ndarray:
        """A residual [n] taken apart by family [n, families]; times ``signs`` it is a draw."""
        return residual[:, None] * (self.family_of[:, None] == np.arange(int(self.family_of.max()) + 1)[None, :])

    def coefficients(self, matrix: np.ndarray, scores: np.ndarray, share: int) -> np.ndarray:
        """Generalised least squares [p] or [p, draws] of scores [n] or [n, draws], at this entry of ``SHARES``."""
        white, _ = self.whiten[share]
        return np.linalg.lstsq(white @ matrix, white @ scores, rcond=None)[0]

    def points(self, row: pd.Series | None) -> pd.DataFrame:
        """Scores less what the model with a change point (``row``), or with a line, says of scale."""
        adjusted = np.full(len(self.y), np.nan)
        if self.enough:
            matrix = self.linear
            if row is not None:
                matrix = np.column_stack([matrix, self.bends(row["change_point"])])
            scale = slice(1, self.scale.shape[1])
            share = Fit(self, matrix, self.code[:, None]).share(self.y)
            adjusted = self.y - matrix[:, scale] @ self.coefficients(matrix, self.y, share)[scale]
        columns = {"model": self.ids, "family": self.family, CODE: self.code, "adjusted": adjusted}
        return pd.DataFrame({**self.frame.task.key._asdict(), **columns})


class Fit:
    """Generalised least squares of many score vectors on one matrix, the family part estimated for each.

    Scores come as ``parts @ weights``, [n, m] and [m, draws]: bootstrap draws differ in one sign per family, so that
    the work is done on m columns and not on all draws.

    Args:
        task: for the covariance.
        matrix: [n, p].
        added: columns that may join it one at a time [n, k].
    """

    def __init__(self, task: Rows, matrix: np.ndarray, added: np.ndarray) -> None:
        self.task, self.matrix, self.added = task, matrix, added
        self._prepared = []
        for white, logdet in task.whiten:
            basis, triangle = np.linalg.qr(white @ matrix)
            rest = white @ added
            rest = rest - basis @ (basis.T @ rest)
            logdet += 2 * float(np.log(np.abs(np.diag(triangle))).sum())
            self._prepared.append((white, basis, rest / np.linalg.norm(rest, axis=0), logdet))

    def f(self, parts: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """F of every added column [k, draws], and the number of the family share chosen [draws].

        The share is the null model's, by restricted maximum likelihood on the grid ``SHARES``.
        """
        n, p = self.matrix.shape
        criteria, ratios = [], []
        for share, (*_, logdet) in enumerate(self._prepared):
            explained, left = self.explained(parts, weights, share)
            criteria.append((n - p) * np.log(left) + logdet)
            ratios.append((n - p - 1) * explained / np.maximum(left - explained, 1e-12 * left))
        chosen = np.argmin(criteria, axis=0)
        return np.take_along_axis(np.stack(ratios), chosen[None, None, :], axis=0)[0], chosen

    def explained(self, parts: np.ndarray, weights: np.ndarray, share: int) -> tuple[np.ndarray, np.ndarray]:
        """Squares that each added column explains [k, draws], of those the matrix leaves over [draws]."""
        white, basis, rest, _ = self._prepared[share]
        turned = white @ parts
        turned = turned - basis @ (basis.T @ turned)
        left = ((np.linalg.qr(turned, mode="r") @ weights) ** 2).sum(axis=0)
        return ((rest.T @ turned) @ weights) ** 2, np.maximum(left, np.finfo(float).tiny)

    def share(self, scores: np.ndarray) -> int:
        """Number of the family share chosen for scores [n]."""
        return int(self.f(scores[:, None], ONE)[1][0])

    def p_value(self, scores: np.ndarray, signs: np.ndarray) -> float:
        """How often the largest F of the added columns is as large by chance, for scores [n].

        Wild cluster bootstrap, null imposed; ``signs`` are [families, draws].
        """
        (ratios,), share = self.f(scores[:, None], ONE)[0].T, self.share(scores)
        residual = scores - self.matrix @ self.task.coefficients(self.matrix, scores, share)
        drawn, _ = self.f(self.task.blocks(residual), signs)
        return float((1 + (drawn.max(axis=0) >= ratios.max() * (1 - ROUNDING)).sum()) / (1 + signs.shape[1]))


def _row(task: Rows, draws: int) -> dict[str, object]:
    row: dict[str, object] = {
        **task.frame.task.key._asdict(),
        "n": len(task.y),
        "n_families": len(set(task.family)),
        "n_orgs": len(set(task.frame.org[np.isin(task.frame.ids, task.ids)])),
        "rests_on": "",
    }
    if not task.enough:
        return row
    signs = task.signs(draws)
    row |= {"candidate_low": task.candidates[0], "candidate_high": task.candidates[-1]}
    return row | line(task, signs) | bend(task, signs)


def line(task: Rows, signs: np.ndarray) -> dict[str, float]:
    """The line against nothing; the slope's interval holds the slopes that the same test does not reject."""
    tested = Fit(task, task.scale, task.code[:, None])
    share = tested.share(task.y)
    coefficients = task.coefficients(task.linear, task.y, share)
    slope = coefficients[-1]
    ratio = tested.f(task.y[:, None], ONE)[0][0, 0]
    error = abs(slope) / np.sqrt(ratio) if ratio > 0 else np.ptp(task.y) / np.ptp(task.code)
    tried = slope + error * SLOPES_REACH * np.linspace(-1, 1, SLOPES)
    kept = [value for value in tried if tested.p_value(task.y - value * task.code, signs) > 1 - LEVEL]
    return {
        "family_share": SHARES[share],
        "p_linear": tested.p_value(task.y, signs),
        "slope": 100 * slope,
        "slope_low": 100 * min(kept),
        "slope_high": 100 * max(kept),
        "level": coefficients[0],
    }


def bend(task: Rows, signs: np.ndarray) -> dict[str, float]:
    """The bend against the line, its place and its slopes."""
    bends = task.bends(task.candidates)
    fit = Fit(task, task.linear, bends)
    share = fit.share(task.y)
    best = int(fit.explained(task.y[:, None], ONE, share)[0].argmax())
    matrix = np.column_stack([task.linear, bends[:, best]])
    coefficients = task.coefficients(matrix, task.y, share)
    found = np.array([coefficients[-2], coefficients[-2] + coefficients[-1], coefficients[-1]])
    kept, low, high = _places(fit, share, signs)
    low, high, places = low[kept].min(axis=0), high[kept].max(axis=0), task.candidates[kept]
    slopes: dict[str, float] = {}
    for number, name in enumerate(("slope_below", "slope_above", "slope_change")):
        slopes[name] = 100 * found[number]
        slopes |= {f"{name}_low": 100 * low[number], f"{name}_high": 100 * high[number]}
    return {
        "p_hinge": fit.p_value(task.y, signs),
        "change_point": task.candidates[best],
        "change_low": places.min(),
        "change_high": places.max(),
        "level_hinge": coefficients[0],
        **slopes,
    }


def _about(fit: Fit, number: int, share: int, signs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores drawn about the fitted bend at a candidate, as parts and weights of ``Fit``; the first are the task's."""
    task, matrix = fit.task, np.column_stack([fit.matrix, fit.added[:, number]])
    fitted = matrix @ task.coefficients(matrix, task.y, share)
    (n, p), families = matrix.shape, len(signs)
    wider = np.sqrt(families / (families - 1) * (n - 1) / (n - p))  # fitted residuals are smaller than the errors
    weights = np.vstack([np.ones(signs.shape[1]), wider * signs])
    return np.column_stack([fitted, task.blocks(task.y - fitted)]), np.hstack([np.ones((families + 1, 1)), weights])


def _places(fit: Fit, share: int, signs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Candidates [k] that the scores do not reject as the place of the bend, and intervals of the slopes given each.

    Returns:
        kept [k], of which the best candidate always is one; low and high [k, 3]: slope below, above, their difference.
    """
    kept, ends = np.zeros(fit.added.shape[1], dtype=bool), np.empty((2, fit.added.shape[1], 3))
    for number in range(len(kept)):
        parts, weights = _about(fit, number, share, signs)
        explained, left = fit.explained(parts, weights, share)
        best = explained.max(axis=0)
        worse = (best - explained[number]) / (left - best)
        kept[number] = (1 + (worse[1:] >= worse[0] * (1 - ROUNDING)).sum()) / len(worse) > 1 - LEVEL
        joined = np.column_stack([fit.matrix, fit.added[:, number]])
        below, change = fit.task.coefficients(joined, parts, share)[-2:] @ weights
        slopes = np.stack([below, below + change, change])
        errors = np.quantile(slopes[:, 1:] - slopes[:, :1], [(1 + LEVEL) / 2, (1 - LEVEL) / 2], axis=1)
        ends[:, number] = slopes[:, 0] - errors
    return kept, *ends


def _rests_on(task: Rows, bends: bool, draws: int) -> list[str]:
    """Families without which the bend, or else the line, is no longer significant."""
    named = []
    for name in sorted(set(task.family)):
        rest = Rows.of(task.frame, task.frame.family != name)
        p = 1.0
        if rest.enough:
            null, added = (rest.linear, rest.bends(rest.candidates)) if bends else (rest.scale, rest.code[:, None])
            p = Fit(rest, null, added).p_value(rest.y, rest.signs(draws))
        if p > 1 - LEVEL:
            named.append(name)
    return named


def _candidates(code: np.ndarray, family: np.ndarray) -> np.ndarray:
    """Whole percents with enough models and families on either side."""
    tried = np.arange(STEP, 100, STEP)

    def enough(side: np.ndarray) -> bool:
        return int(side.sum()) >= SIDE_MODELS and len(set(family[side])) >= SIDE_FAMILIES

    return np.array([at for at in tried if enough(code <= at - SIDE_REACH) and enough(code >= at + SIDE_REACH)])


def _standard(values: np.ndarray) -> np.ndarray:
    """Mean 0 and variance 1; constant values are 0."""
    spread = values.std() if len(values) else 0.0
    return (values - values.mean()) / spread if spread > 0 else np.zeros_like(values)


def _adjusted(p: pd.Series) -> pd.Series:
    known = p.dropna()
    adjusted = pd.Series(np.nan, index=p.index)
    if len(known):
        adjusted[known.index] = stats.false_discovery_control(known.to_numpy(dtype="float64"), method="bh")
    return adjusted


def draw(table: pd.DataFrame, points: pd.DataFrame) -> Figure:
    """Scores at equal scale against percent code, a panel per task: fitted line and bend, the change point's interval.

    Families that come with several shares of code are coloured: what is seen within one is not the family's. Where the
    interval is open its shade goes on, paler, to the end of the panel: there are no candidates there to be told apart.

    Args:
        table, points: of ``change_points``.
    """
    from njsl.predict.figures import _grid

    figure, panels = _grid(table, 3.3)
    varied = points.drop_duplicates(["family", CODE]).groupby("family").size()
    colors = dict(zip(varied.index[varied > 1], COLORS, strict=False))
    handles: dict[str, Artist] = {}
    for row, axes in zip(table.itertuples(), panels, strict=True):
        part = points[points["task"] == row.task]
        for name, models in part.groupby("family"):
            color = colors.get(name, "#bbbbbb")
            dots = axes.scatter(models[CODE], 100 * models["adjusted"], s=9, color=color, zorder=3)
            handles.setdefault(str(name) if name in colors else "one share of code", dots)
        said = row.verdict.replace("; ", "\n")
        less = "" if METRICS[row.metric].higher_is_better else ", less is better"
        axes.set_title(f"{row.task} (n = {row.n}, {row.n_families} families{less})\n{said}", fontsize=8)
        axes.set_xlabel("code in pretraining data [%]", fontsize=8)
        if row.verdict == TOO_FEW:
            continue
        at = np.linspace(part[CODE].min(), part[CODE].max(), 201)
        axes.plot(at, 100 * row.level + row.slope * at, color="black", lw=0.8, ls="--")
        if row.verdict.startswith(BENT):
            bent = 100 * row.level_hinge + row.slope_below * at
            axes.plot(at, bent + row.slope_change * np.maximum(at - row.change_point, 0), color="#cc3311", lw=1.2)
            axes.axvspan(row.change_low, row.change_high, color="#cc3311", alpha=0.15, lw=0)
            if row.change_low <= row.candidate_low:
                axes.axvspan(at[0], row.change_low, color="#cc3311", alpha=0.06, lw=0)
            if row.change_high >= row.candidate_high:
                axes.axvspan(row.change_high, at[-1], color="#cc3311", alpha=0.06, lw=0)
    figure.supylabel(f"score at average scale [{hundredths(table['metric'])}]", fontsize=9)
    ordered = sorted(handles, key=lambda name: (name not in colors, name))
    figure.legend([handles[name] for name in ordered], ordered, loc="outside lower center", ncols=5, fontsize=7)
    figure.suptitle(
        "association of percent code with the score, given parameters and tokens\n"
        "dashed: line; red: bend, with the 95 % interval of the change point, paler where it is open; "
        "wild bootstrap over families",
        fontsize=9,
    )
    return figure
