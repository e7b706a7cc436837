"""What ``predict.py mode=mix`` prints and writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from njsl.core.run import Run, write_atomic
from njsl.predict.figures import save
from njsl.predict.intervals import LEVELS, attainable
from njsl.predict.law import of_mixes
from njsl.predict.proxies import Proxies
from njsl.predict.simplex import weights
from njsl.predict.whatif import Told, csv

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from njsl.predict.mix import Comparison, Fitted, Objective

OBJECTIVE = "objective"
FOLDER = "data_mix"  # of the run's folder, as conf has it: train.py --config-dir=RUN data_mix=best
SAME = 1e-6  # relative; trees that never split are the mean, but for rounding
GRID = 60  # steps along an edge of the drawn simplex


def told(
    console: Console,
    where: str,
    proxies: Proxies,
    objective: Objective,
    tested: Comparison,
    table: pd.DataFrame,
    absent: Sequence[str],
) -> Told:
    """Print the proxies, the laws, the choice and the mixes.

    Args:
        console: the terminal.
        where: the store was found.
        proxies, objective, tested: what there is.
        table: of ``mix.prediction_rows`` with ``expected_regret``.
        absent: references that are not there, in words.
    """
    out = Told(console)
    way = "higher" if objective.tasks[0].higher_is_better else "lower"
    metrics = ", ".join(dict.fromkeys(task.metric.title for task in objective.tasks))
    out.say(f"store: {where}; {len(proxies.ids)} proxies of {proxies.mixes} mixes of {', '.join(proxies.corpora)}")
    rest = f"; {proxies.others} other models of the store are no such proxies" if proxies.others else ""
    out.say(f"alike in all else: {proxies.params:,} parameters, {proxies.tokens:,.0f} tokens{rest}")
    out.say(f"objective: {objective} ({metrics}, {way} is better)")
    if (seeds := _seeds(proxies, objective)) is not None:
        out.say(seeds)
    out.table(_laws(tested))
    out.say(
        f"law: {tested.chosen}, of the lowest error on left-out mixes, which by that choice is optimistic"
        + (
            "; in the rows of held-out mixes fits and choice know the others alone."
            if tested.held_out
            else "; no mixes were put aside (mix.heldout_frac=0, or too few would remain)."
        )
        + " Brackets: 95 %, bootstrap over mixes."
    )
    out.say(_without_law(proxies, objective, tested))
    levels = attainable(proxies.mixes)
    out.table(_mixes(table, proxies.corpora, levels))
    if absent_levels := [f"{100 * level:.0f} %" for level in LEVELS if level not in levels]:
        out.say(f"{', '.join(absent_levels)}: so few mixes give no such interval an end")
    best = table.iloc[0]
    out.say(
        "Intervals are for one more model like the proxies, from errors on left-out mixes. Expected regret: against "
        f"the best mix there is, over draws of {tested.chosen}; that the law itself may be wrong is not in it."
    )
    for k, name in enumerate(proxies.corpora):
        low, high = proxies.shares[:, k].min(), proxies.shares[:, k].max()
        if not low - 1e-9 <= best[f"share_{name}"] <= high + 1e-9:
            out.say(f"best: {best[f'share_{name}']:.3f} of {name} lies outside the proxies' {low:.3f} to {high:.3f}")
    if absent:
        out.say(f"not there: {'; '.join(absent)}")
    return out


def _without_law(proxies: Proxies, objective: Objective, tested: Comparison) -> str:
    """What is to be had without any law, in words: every mix predicted as the mean of the others."""
    values = of_mixes(proxies.scores[objective.names].to_numpy("float64") @ objective.weights, proxies.mix)
    others = (values.sum() - values) / (len(values) - 1)
    error = float(np.abs(values - others).mean())
    text = f"without a law, by the mean of the other mixes, the MAE on left-out mixes is {error:.4f}"
    if float(_row(tested.table, tested.chosen, "left_out")["mae"]) < error * (1 - SAME):
        return text
    return f"{text}: no law is better, so these proxies do not tell mixes apart"


def _seeds(proxies: Proxies, objective: Objective) -> str | None:
    """What seeds do to the objective, in words; None where nothing is known of it."""
    noise = proxies.seed_deviation(proxies.scores[objective.names].to_numpy("float64") @ objective.weights)
    shared = proxies.shared_seeds
    if noise is None:
        return "every mix was trained with the same seed; what another would add is not known" if shared else None
    text = f"the objective's standard deviation is {noise.whole:.4f}"
    if noise.between is None:
        return f"over seeds of one mix {text} ({noise.freedom} degrees of freedom)"
    return (
        f"over the same {shared} seeds of each mix {text} (seeds: {noise.freedom} degrees of freedom), of which "
        f"{noise.between:.4f} is left in differences between mixes ({noise.between_freedom} degrees of freedom)"
    )


def write(
    run: Run, proxies: Proxies, tested: Comparison, table: pd.DataFrame, tried: np.ndarray, fitted: Fitted
) -> None:
    """The run's files.

    Args:
        run: its folder, claimed.
        proxies, tested, fitted: what there is.
        table: of ``mix.prediction_rows``.
        tried: mixes that were tried [mixes, corpora].
    """
    targets = [*fitted.objective.names, OBJECTIVE]
    shares = [f"share_{name}" for name in proxies.corpora]
    csv(run.output / "laws.csv", tested.table)
    csv(run.output / "mixes.csv", table)
    scores = proxies.scores[fitted.objective.names].to_numpy("float64")
    measured = of_mixes(np.column_stack([scores, scores @ fitted.objective.weights]), proxies.mix)
    rows = pd.DataFrame(of_mixes(proxies.shares, proxies.mix), columns=shares)
    rows.insert(0, "runs", np.bincount(proxies.mix))
    rows.insert(0, "model", [proxies.ids[int(np.argmax(proxies.mix == k))] for k in range(proxies.mixes)])
    for k, target in enumerate(targets):
        rows[target] = measured[:, k]
    for kind, found in (("left_out", tested.left_out), ("held_out", tested.held_out)):
        for law, values in found.items():
            rows[f"{law}_{kind}"] = values[:, -1]
    csv(run.output / "proxies.csv", rows)
    candidates = pd.DataFrame(np.column_stack([tried, fitted.scores(tried)]), columns=[*shares, *targets])
    csv(run.output / "candidates.csv", candidates)
    (run.output / FOLDER).mkdir(exist_ok=True)
    for row in table.to_dict("records"):
        mix = weights(proxies.corpora, np.array([row[name] for name in shares]))
        text = f"# {row['mix']}: predicted {fitted.objective} is {row[OBJECTIVE]:.4f} ({row['plan']}).\nweights:\n"
        text += "".join(f"  {name}: {share:g}\n" for name, share in mix.items())
        write_atomic(run.output / FOLDER / f"{row['mix']}.yaml", text)
    picture = Path(run.output) / "mix.png"
    save(picture, figure(proxies, measured[:, -1], tested, table, fitted))
    run.logger.image(picture.stem, picture)


def figure(proxies: Proxies, measured: np.ndarray, tested: Comparison, table: pd.DataFrame, fitted: Fitted) -> Figure:
    """The predicted objective over the simplex of two or three corpora, and left-out mixes, predicted against measured.

    Args:
        proxies, tested, fitted: what there is.
        measured: objective of the mixes [mixes].
        table: of ``mix.prediction_rows``.
    """
    from matplotlib.figure import Figure

    picture = Figure(figsize=(9.6, 4.4), layout="constrained")
    left, right = picture.subplots(1, 2)
    mixes = of_mixes(proxies.shares, proxies.mix)
    named = table[[f"share_{name}" for name in proxies.corpora]].to_numpy()
    if len(proxies.corpora) == 2:
        _curve(left, proxies, mixes, measured, table, named, fitted)
    elif len(proxies.corpora) == 3:
        _ternary(left, proxies, mixes, measured, table, named, fitted)
    else:
        left.barh(range(len(proxies.corpora)), named[0], color="#4477aa")
        left.set_yticks(range(len(proxies.corpora)), proxies.corpora, fontsize=8)
        left.set_title("shares of the mix predicted best", fontsize=8)
    law = tested.chosen
    unseen = tested.left_out[law][:, -1]
    lows, highs = fitted.conformal[-1].interval(unseen)
    right.vlines(measured, lows[0], highs[0], lw=1, color="#99bbdd", label=f"{100 * fitted.levels[0]:.0f} % interval")
    right.plot(measured, unseen, "o", ms=3.5, color="#4477aa", label="left-out mix")
    ends = [measured.min(), measured.max()]
    right.plot(ends, ends, color="black", lw=0.8)
    row = _row(tested.table, law, "left_out")
    right.set_title(
        f"{law}: n = {row['n_mixes']} mixes, MAE {row['mae']:.4f}\nrank correlation {_band(row)}", fontsize=8
    )
    right.set_xlabel("measured objective", fontsize=8)
    right.set_ylabel("predicted without this mix", fontsize=8)
    right.legend(fontsize=7)
    for axes in (left, right):
        axes.tick_params(labelsize=7)
    picture.suptitle(f"{fitted.objective}: {proxies.params:,} parameters, {proxies.tokens:,.0f} tokens", fontsize=9)
    return picture


def _curve(
    axes: Axes,
    proxies: Proxies,
    mixes: np.ndarray,
    measured: np.ndarray,
    table: pd.DataFrame,
    named: np.ndarray,
    fitted: Fitted,
) -> None:
    share = np.linspace(0, 1, 4 * GRID + 1)
    scores = fitted.scores(np.column_stack([share, 1 - share]))
    lows, highs = fitted.intervals(scores)
    axes.fill_between(
        share,
        lows[0, :, -1],
        highs[0, :, -1],
        color="#4477aa",
        alpha=0.25,
        lw=0,
        label=f"{100 * fitted.levels[0]:.0f} % interval",
    )
    axes.plot(share, scores[:, -1], color="#4477aa", lw=1.4, label=fitted.name)
    axes.plot(mixes[:, 0], measured, "o", ms=3.5, color="#ee6677", label="proxies")
    # One below the other: several may lie at one share.
    for line, k in enumerate(np.argsort(-named[:, 0], kind="stable")):
        at = (named[k, 0], table[OBJECTIVE].iloc[k])
        axes.annotate(table["mix"].iloc[k], at, fontsize=7, textcoords="offset points", xytext=(3, -10 - 8 * line))
    axes.plot(named[0, 0], table[OBJECTIVE].iloc[0], "k*", ms=9)
    axes.set_xlabel(f"share of {proxies.corpora[0]}", fontsize=8)
    axes.set_ylabel("objective", fontsize=8)
    axes.legend(fontsize=7)


def _ternary(
    axes: Axes,
    proxies: Proxies,
    mixes: np.ndarray,
    measured: np.ndarray,
    table: pd.DataFrame,
    named: np.ndarray,
    fitted: Fitted,
) -> None:
    corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(0.75)]])
    steps = np.array([(a, b, GRID - a - b) for a in range(GRID + 1) for b in range(GRID + 1 - a)]) / GRID
    scores = fitted.scores(steps)[:, -1]
    levels = np.linspace(scores.min(), scores.max() + 1e-9, 15)
    x, y = (steps @ corners).T
    drawn = axes.tricontourf(x, y, scores, levels=levels, cmap="viridis", alpha=0.8)
    axes.figure.colorbar(drawn, ax=axes, shrink=0.7).ax.tick_params(labelsize=7)
    x, y = (mixes @ corners).T
    limits = {"vmin": levels[0], "vmax": levels[-1]}
    axes.scatter(x, y, c=measured, cmap="viridis", edgecolors="white", s=22, lw=0.7, **limits)
    for place, name in zip(named @ corners, table["mix"], strict=True):
        axes.annotate(name, place, fontsize=7, textcoords="offset points", xytext=(4, 3))
        axes.plot(*place, "k.", ms=4)
    axes.plot(*(named[0] @ corners), "k*", ms=9)
    for corner, name, shift in zip(corners, proxies.corpora, ((0, -0.05), (0, -0.05), (0, 0.03)), strict=True):
        axes.annotate(name, corner + shift, fontsize=8, ha="center", va="center", annotation_clip=False)
    axes.set_aspect("equal")
    axes.axis("off")
    axes.set_title(f"{fitted.name}; circles: proxies, star: best", fontsize=8, pad=14)


def _row(table: pd.DataFrame, law: str, scored: str) -> pd.Series:
    return table[(table["law"] == law) & (table["scored"] == scored) & (table["target"] == OBJECTIVE)].iloc[0]


def _band(row: pd.Series) -> str:
    ends = f"[{row['rank_correlation_low']:.2f}, {row['rank_correlation_high']:.2f}]"
    return f"{row['rank_correlation']:.3f} {ends}"


def _laws(tested: Comparison) -> Table:
    table = Table(
        title="laws on mixes they have not seen; the objective",
        title_justify="left",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
    )
    for name in ("law", "mixes"):
        table.add_column(name, no_wrap=True)
    for name in ("n", "MAE", "rank correlation [95 %]", "pairs right", "chosen"):
        table.add_column(name, justify="right", no_wrap=True)
    last = ""
    for _, row in tested.table[tested.table["target"] == OBJECTIVE].iterrows():
        if last and row["scored"] != last:
            table.add_section()
        last = row["scored"]
        cells = [row["law"], last.replace("_", "-"), str(row["n_mixes"]), f"{row['mae']:.4f}", _band(row)]
        table.add_row(*cells, f"{100 * row['pairs_right']:.0f} %", "yes" if row["chosen"] else "")
    return table


def _mixes(table: pd.DataFrame, corpora: Sequence[str], given: Sequence[float]) -> Table:
    shown = Table(
        title="predicted objective",
        title_justify="left",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
    )
    shown.add_column("mix", no_wrap=True)
    levels = [f"{100 * level:.0f}" for level in given]
    for name in (*corpora, "predicted", *(f"{level} %" for level in levels), "expected regret"):
        shown.add_column(name, justify="right", no_wrap=True)
    for row in table.to_dict("records"):
        cells = [row["mix"], *(f"{row[f'share_{name}']:.3f}" for name in corpora), f"{row[OBJECTIVE]:.4f}"]
        cells += [f"{row[f'{OBJECTIVE}_low_{x}']:.4f} .. {row[f'{OBJECTIVE}_high_{x}']:.4f}" for x in levels]
        shown.add_row(*cells, f"{row['expected_regret']:.4f}")
    return shown
